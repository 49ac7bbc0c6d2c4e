"""Who runs: `run/<cluster>/`, with locks that the system takes away together with their holder.

    cluster.lock      held by the aiocluster process
    controller.lock   held by the controller
    engines.lock      held, shared, by every engine host on this machine
    controller.sock   where the controller listens, unless the path is too long for a Unix socket

A lock file that is not locked is stale, whatever it says. The JSON in it names the holder: process id, a nonce that
no two holders share, the machine, addresses, and since when.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self

from aioparallel.capability import check_name, private_directory
from aioparallel.errors import ClusterError
from aioparallel.source import Source

__all__ = [
    "CLUSTER",
    "CONTROLLER",
    "ENGINES",
    "Holder",
    "Lock",
    "holder",
    "last_holder",
    "run_directory",
    "socket_path",
    "wait_free",
]

CLUSTER = "cluster.lock"
CONTROLLER = "controller.lock"
ENGINES = "engines.lock"
#: A Unix socket's path has at most 103 bytes (108 on Linux).
SOCKET_LONGEST = 100


def run_directory(state: Path, cluster: str) -> Path:
    """Return where sockets and locks of a cluster lie below the state directory.

    Raises:
        ConfigurationError: The name can't be part of a file name.
    """
    return state / "run" / check_name(cluster, "a cluster")


def socket_path(directory: Path) -> Path:
    """Return where a controller listens: in its run directory, or in a fresh 0700 one where that path is too long.

    Raises:
        CapabilityError: The directory can't be made.
        OSError: The fresh one can't be.
    """
    path = private_directory(directory) / "controller.sock"
    if len(os.fsencode(path)) <= SOCKET_LONGEST:
        return path
    return Path(tempfile.mkdtemp(prefix="aioparallel-")) / "controller.sock"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock.

    Attributes:
        pid: The process.
        nonce: No two holders share it, also not two processes that had the same id one after the other.
        host: The machine.
        addresses: Where it listens.
        started: Unix time.
    """

    pid: int
    nonce: str
    host: str
    addresses: tuple[str, ...]
    started: float

    @classmethod
    def this_process(cls, source: Source, *addresses: str) -> Holder:
        """Return the holder that this process is."""
        return cls(os.getpid(), source.token(8).hex(), platform.node(), addresses, source.wall())

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == platform.node()


class Lock:
    """A lock that this process holds until `release`, the end of its `with`, or its own end.

    Args:
        path: The file; missing directories are made.
        holder: Who we are, or None to share it with others.

    Raises:
        ClusterError: Another process holds it.
        CapabilityError: The directory can't be made.
        OSError: The file can't be.
    """

    def __init__(self, path: Path, holder: Holder | None) -> None:
        self.path = path
        self._file = -1
        try:
            # Whoever cleaned up in between may have removed the file that we have locked: then another is needed.
            while self._file < 0 or os.fstat(self._file).st_nlink == 0:
                self.release()
                private_directory(path.parent)
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                self._file = os.open(path, flags, 0o600)
                self._acquire(fcntl.LOCK_EX if holder else fcntl.LOCK_SH)
            if holder:
                self.write(holder)
        except BaseException:
            self.release()
            raise

    def __repr__(self) -> str:
        return f"<Lock {self.path}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def write(self, holder: Holder) -> None:
        """Say who we are.

        Raises:
            OSError: The disk is full.
        """
        data = json.dumps(asdict(holder)).encode()
        os.pwrite(self._file, data, 0)
        os.ftruncate(self._file, len(data))

    def release(self) -> None:
        """Let others have it. Safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _acquire(self, kind: int) -> None:
        # Whoever only looks whether it is held holds it for a moment.
        for attempt in range(20):
            if attempt:
                time.sleep(0.01)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._file, kind | fcntl.LOCK_NB)
                return
        other = _read(self._file)
        who = f"process {other.pid} on {other.host}" if other else "another process"
        name = self.path.parent.name
        raise ClusterError(f"cluster {name!r} runs already ({who}): end it with aiocluster stop")


def holder(path: Path) -> Holder | None:
    """Return who holds the lock at `path`, or None: nobody does, whatever the file says."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(file) or Holder(0, "", "", (), 0.0)
    finally:
        os.close(file)
    return None


def last_holder(path: Path) -> Holder | None:
    """Return who held the lock at `path` last, or None if that is not known."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return _read(file)
    finally:
        os.close(file)


def wait_free(path: Path, timeout: float) -> bool:
    """Wait until nobody holds the lock at `path`; return False if somebody still does after `timeout` seconds."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return True
    end = time.monotonic() + timeout
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
                time.sleep(0.02)
            else:
                return True
    finally:
        os.close(file)


def _read(file: int) -> Holder | None:
    try:
        # A holder that writes anew may leave the end of its longer, older text behind it for a moment.
        plain, _ = json.JSONDecoder().raw_decode(os.pread(file, 65536, 0).decode())
        values = {field.name: plain[field.name] for field in fields(Holder)}
        return Holder(**values | {"addresses": tuple(values["addresses"]), "pid": int(values["pid"])})
    except (ValueError, KeyError, TypeError, RecursionError, OSError):
        return None
