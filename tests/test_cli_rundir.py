"""Locks that say who runs, and that nobody does once their holder has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aioparallel.cli.rundir import (
    CONTROLLER,
    Holder,
    Lock,
    holder,
    last_holder,
    run_directory,
    socket_path,
    wait_free,
)
from aioparallel.errors import ClusterError, ConfigurationError
from aioparallel.source import SYSTEM


def _me(*addresses: str) -> Holder:
    return Holder.this_process(SYSTEM, *addresses)


def test_held_then_free(tmp_path: Path) -> None:
    path = tmp_path / "run" / "mine" / CONTROLLER
    assert holder(path) is None
    assert wait_free(path, 0)
    me = _me("unix:///somewhere/very/long")
    with Lock(path, me) as lock:
        assert holder(path) == me
        assert me.is_here
        assert not wait_free(path, 0)
        with pytest.raises(ClusterError, match=rf"'mine' runs already \(process {os.getpid()} on "):
            Lock(path, _me())
        lock.write(short := _me("unix:///x"))
        assert holder(path) == short
    lock.release()
    assert holder(path) is None
    assert last_holder(path) == short
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_nonces_differ() -> None:
    assert _me().nonce != _me().nonce


def test_shared_by_many(tmp_path: Path) -> None:
    path = tmp_path / "engines.lock"
    with Lock(path, None):
        with Lock(path, None):
            assert not wait_free(path, 0)
        assert not wait_free(path, 0)
        with pytest.raises(ClusterError):
            Lock(path, _me())
    assert wait_free(path, 0)


def test_dead_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / CONTROLLER
    code = (
        "import os; from pathlib import Path; from aioparallel.cli.rundir import *;"
        "from aioparallel.source import SYSTEM;"
        f"lock = Lock(Path({str(path)!r}), Holder.this_process(SYSTEM)); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert last_holder(path) is not None
    assert holder(path) is None
    with Lock(path, _me()):
        pass


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"pid": 1}', b'{"pid": []}', b"\xff", b"[" * 60_000])
def test_text_that_says_nothing(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / CONTROLLER
    with Lock(path, _me()):
        path.write_bytes(text)
        held = holder(path)
        assert held is not None
        assert held.pid == 0
        assert not held.is_here


def test_removed_file_is_not_mistaken_for_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / CONTROLLER
    acquire = Lock._acquire
    removed = []

    def clean_up_first(self: Lock, kind: int) -> None:
        if not removed:
            removed.append(path)
            path.unlink()
        acquire(self, kind)

    monkeypatch.setattr(Lock, "_acquire", clean_up_first)
    with Lock(path, me := _me()):
        assert removed
        assert holder(path) == me


def test_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / CONTROLLER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Lock(tmp_path / CONTROLLER, _me())
    assert holder(tmp_path / CONTROLLER) is None
    assert not (tmp_path / "elsewhere").exists()


def test_places(tmp_path: Path) -> None:
    assert run_directory(tmp_path, "mine") == tmp_path / "run" / "mine"
    for name in ("", "..", "a/b", ".hidden"):
        with pytest.raises(ConfigurationError, match="can't name a cluster"):
            run_directory(tmp_path, name)


def test_socket_path_fits(tmp_path: Path) -> None:
    short = Path("/tmp/x")
    fitting = short / ("y" * (100 - len("/tmp/x//controller.sock")))
    assert len(os.fsencode(fitting / "controller.sock")) == 100
    try:
        assert socket_path(fitting) == fitting / "controller.sock"
    finally:
        fitting.rmdir()
    long = socket_path(tmp_path / ("z" * 100))
    assert long.parent.stat().st_mode & 0o777 == 0o700
    assert len(os.fsencode(long)) <= 100
    long.parent.rmdir()
