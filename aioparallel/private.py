"""Secrets, and files that nobody else may read or have written.

A private file is regular, ours, of mode 0600 and has one name. It is replaced as a whole: a reader sees the old
bytes or the new ones. The attacks it withstands are those of other users of the machine: other processes of the same
user are not kept out.
"""

from __future__ import annotations

import errno
import hmac
import os
import re
import stat
from pathlib import Path
from typing import NoReturn

from aioparallel.errors import CapabilityError
from aioparallel.source import Source

__all__ = ["FILE_LIMIT", "Secret", "private_directory", "private_file_read", "private_file_write"]

FILE_LIMIT = 65536

_HEX_32 = re.compile(r"[0-9a-f]{64}")


class Secret:
    """Bytes that show themselves nowhere by accident: not in a repr, an f-string, a pickle or a comparison's timing."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    @classmethod
    def from_hex(cls, text: str) -> Secret:
        """Return the 32-byte key written as 64 lower-case hexadecimal digits.

        Raises:
            CapabilityError: It is not written that way; the text is not repeated.
        """
        if not _HEX_32.fullmatch(text):
            raise CapabilityError("a key is 64 lower-case hexadecimal digits")
        return cls(bytes.fromhex(text))

    def reveal(self) -> bytes:
        """Return the bytes themselves. Whoever calls this answers for where they go."""
        return self._value

    def hex(self) -> str:
        """Return them as hexadecimal digits, under the same obligation as `reveal`."""
        return self._value.hex()

    def __repr__(self) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled")


def private_directory(path: Path) -> Path:
    """Make `path`, and what is missing above it, with mode 0700; what exists stays as it is.

    Raises:
        CapabilityError: It can't be made; the text names it and the reason.
    """
    missing = []
    at = path.absolute()
    try:
        while not at.exists():
            missing.append(at)
            at = at.parent
        for directory in reversed(missing):
            # One by one: Path.mkdir(parents=True) gives only the last its mode.
            directory.mkdir(0o700, exist_ok=True)
    except OSError as error:
        raise CapabilityError(f"cannot make {path}: {error.strerror}") from None
    return path


def private_file_write(path: Path, data: bytes, source: Source) -> None:
    """Put `data` at `path` as a 0600 file that no reader ever sees half-written, and that survives a power cut.

    Raises:
        CapabilityError: The directory is not ours alone to write, or the system refused; nothing was replaced.
    """
    private_directory(path.parent)
    temporary = f".{path.name}.{source.token(8).hex()}"
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _check_directory(path.parent, os.fstat(directory))
            _write_new(temporary, data, directory)
            try:
                os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                os.unlink(temporary, dir_fd=directory)
                raise
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise CapabilityError(f"cannot write {path}: {error.strerror}") from None


def _check_directory(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise CapabilityError(f"{path} belongs to another user (uid {status.st_uid}): use a directory of your own")
    if status.st_mode & 0o022:
        raise CapabilityError(f"{path} can be written by others (mode {status.st_mode & 0o7777:04o}): chmod 700 it")


def _write_new(name: str, data: bytes, directory: int) -> None:
    # The mode is there from creation: no moment before a chmod. It is set again because a default ACL adds bits.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        os.fchmod(file, 0o600)
        left = memoryview(data)
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
    except BaseException:
        os.unlink(name, dir_fd=directory)
        raise
    finally:
        os.close(file)


def private_file_read(path: Path, *, limit: int = FILE_LIMIT) -> bytes:
    """Return what is in the file at `path`, if nobody else could have read or written it.

    Raises:
        FileNotFoundError: There is none.
        CapabilityError: It is not a regular file, not ours, open to others, linked twice, or above `limit` bytes.
    """
    try:
        # O_NONBLOCK: a FIFO in its place must not hang us.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise CapabilityError(f"cannot read {path}: {reason}") from None
    try:
        # The open file is examined, not its path: between the two there is no moment to swap it.
        _check_file(path, os.fstat(file), limit)
        data = bytearray()
        while chunk := os.read(file, limit + 1 - len(data)):
            data += chunk
    except OSError as error:
        raise CapabilityError(f"cannot read {path}: {error.strerror}") from None
    finally:
        os.close(file)
    if len(data) > limit:
        raise CapabilityError(f"{path} is larger than {limit} bytes")
    return bytes(data)


def _check_file(path: Path, status: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CapabilityError(f"{path} is not a regular file: remove it")
    if status.st_uid != os.geteuid():
        raise CapabilityError(f"{path} belongs to another user (uid {status.st_uid}): use a copy of your own")
    if status.st_mode & 0o077:
        mode = f"mode {status.st_mode & 0o7777:04o}"
        raise CapabilityError(f"{path} can be read by others ({mode}): chmod 600 it")
    # 0 is normal: the file was replaced while we hold it open.
    if status.st_nlink > 1:
        raise CapabilityError(f"{path} has a second name (hard link): copy it to a new file and remove both names")
    if status.st_size > limit:
        raise CapabilityError(f"{path} is larger than {limit} bytes")
