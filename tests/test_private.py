"""Secrets stay unseen; private files are nobody else's, and whole."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aioparallel.errors import CapabilityError
from aioparallel.private import Secret, private_directory, private_file_read, private_file_write
from aioparallel.source import Source

_counter = itertools.count()
SOURCE = Source(lambda n: next(_counter).to_bytes(n, "big"), lambda: 1_700_000_000.0)
KEY = bytes(range(32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "security"
    path.mkdir(0o700)
    return path


@contextmanager
def umask(value: int) -> Iterator[None]:
    old = os.umask(value)
    try:
        yield
    finally:
        os.umask(old)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secret_shows_itself_nowhere() -> None:
    secret = Secret(KEY)
    for text in (repr(secret), str(secret), f"{secret}", repr([secret]), repr({"key": secret})):
        assert "<secret>" in text
        assert KEY.hex() not in text
        assert repr(KEY) not in text
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert not hasattr(secret, "__dict__")


def test_secret_is_a_value() -> None:
    secret = Secret.from_hex(KEY.hex())
    assert secret == Secret(KEY)
    assert secret != Secret(bytes(32))
    assert secret != KEY
    assert hash(secret) == hash(Secret(KEY))
    assert secret.reveal() == KEY
    assert secret.hex() == KEY.hex()
    assert copy.deepcopy(secret) is secret
    assert copy.copy(secret) is secret


@pytest.mark.parametrize("text", ["", "00" * 31, "00" * 33, "AA" * 32, "zz" * 32, " " + "00" * 32, "00" * 32 + "\n"])
def test_secret_refuses_other_hex_without_repeating_it(text: str) -> None:
    with pytest.raises(CapabilityError) as caught:
        Secret.from_hex(text)
    assert not text.strip() or text not in str(caught.value)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_directories_and_files_are_ours_alone_under_any_umask(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "a" / "b" / "c.cap"
    with umask(mask):
        private_file_write(path, b"data", SOURCE)
    assert [mode(path), mode(path.parent), mode(path.parent.parent)] == [0o600, 0o700, 0o700]
    assert private_file_read(path) == b"data"
    assert [entry.name for entry in path.parent.iterdir()] == ["c.cap"]


def test_existing_directories_stay_as_they_are(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert private_directory(tmp_path) == tmp_path
    assert mode(tmp_path) == 0o755


def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CapabilityError, match="file/below"):
        private_directory(tmp_path / "file" / "below")


def test_at_no_moment_can_others_read_or_anybody_see_half(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "c.cap"
    private_file_write(path, b"old" * 1000, SOURCE)
    seen: set[bytes] = set()

    def look(step: str) -> None:
        assert all(mode(entry) & 0o077 == 0 for entry in folder.iterdir()), step
        seen.add(path.read_bytes())

    def watched(name: str, function: Callable[..., object], *, partial: bool = False) -> None:
        def wrapper(*args: object, **kwargs: object) -> object:
            if partial:  # a write may take only a part of what it is given
                args = (args[0], bytes(memoryview(args[1])[:100]))  # type: ignore[arg-type]
            look(name)
            try:
                return function(*args, **kwargs)
            finally:
                look(name)

        monkeypatch.setattr(os, name, wrapper)

    with umask(0):
        watched("write", os.write, partial=True)
        watched("fsync", os.fsync)
        watched("rename", os.rename)
        watched("fchmod", os.fchmod)
        private_file_write(path, b"new" * 1000, SOURCE)
    assert seen == {b"old" * 1000, b"new" * 1000}


@pytest.mark.parametrize("step", ["write", "fsync", "rename", "fchmod"])
def test_a_failed_write_replaces_nothing_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = folder / "c.cap"
    private_file_write(path, b"old", SOURCE)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(CapabilityError, match=r"cannot write .*c\.cap: No space left"):
            private_file_write(path, b"new", SOURCE)
    assert private_file_read(path) == b"old"
    assert len(list(folder.iterdir())) == 1


def test_a_directory_that_others_can_write_is_refused(folder: Path) -> None:
    for bits in (0o777, 0o720, 0o1777):
        folder.chmod(bits)
        with pytest.raises(CapabilityError, match="chmod 700"):
            private_file_write(folder / "c.cap", b"", SOURCE)
    assert not list(folder.iterdir())


def test_a_directory_of_somebody_else_or_behind_a_link_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(CapabilityError, match="cannot write"):
        private_file_write(tmp_path / "link" / "c.cap", b"", SOURCE)
    ours = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: ours + 1)
    with pytest.raises(CapabilityError, match="another user"):
        private_file_write(folder / "c.cap", b"", SOURCE)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o644, 0o660, 0o610, 0o601])
def test_a_file_open_to_others_is_refused_and_the_way_out_named(folder: Path, bits: int) -> None:
    path = folder / "task.cap"
    private_file_write(path, b"data", SOURCE)
    path.chmod(bits)
    with pytest.raises(CapabilityError, match=rf"task\.cap can be read by others \(mode {bits:04o}\): chmod 600 it"):
        private_file_read(path)


def _symlink(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (_symlink, "symbolic link"),
        (_fifo, "not a regular file"),
        (_directory, "not a regular file"),
        (lambda path: os.link(path, path.with_suffix(".two")), "hard link"),
        (lambda path: os.truncate(path, 2**30), "larger than 65536"),
        (lambda path: os.truncate(path, 65537), "larger than 65536"),
    ],
)
def test_what_stands_in_the_file_s_place_is_refused(folder: Path, attack: Callable[[Path], object], words: str) -> None:
    path = folder / "c.cap"
    private_file_write(path, b"data", SOURCE)
    attack(path)
    with pytest.raises(CapabilityError, match=words) as caught:
        private_file_read(path)
    assert str(path) in str(caught.value)


def test_a_file_of_somebody_else_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "c.cap"
    private_file_write(path, b"data", SOURCE)
    ours = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: ours + 1)
    with pytest.raises(CapabilityError, match="another user"):
        private_file_read(path)


def test_a_file_that_grows_while_it_is_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "c.cap"
    private_file_write(path, b"data", SOURCE)
    monkeypatch.setattr(os, "read", lambda file, size: bytes(size))
    with pytest.raises(CapabilityError, match="larger"):
        private_file_read(path)


def test_a_missing_file_is_just_that(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        private_file_read(folder / "c.cap")


def test_a_file_replaced_while_it_is_open_is_still_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "c.cap"
    private_file_write(path, b"old", SOURCE)
    real = os.open

    def replaced(name: object, *args: object, **kwargs: object) -> int:
        file = real(name, *args, **kwargs)  # type: ignore[arg-type]
        if name == path:
            path.unlink()
        return file

    monkeypatch.setattr(os, "open", replaced)
    assert private_file_read(path) == b"old"
