"""Log files: one a process, bounded, found again, and removed only when nobody writes to them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aioparallel.cli import logfile
from aioparallel.cli.logfile import LogFile, log_directory, log_to, logs


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """Give the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers, root.level = handlers, level
    logging.captureWarnings(False)


def _record(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, "", 0, text, None, None)


def test_everything_logged_is_found(root: logging.Logger, tmp_path: Path) -> None:
    path = log_to(tmp_path, "my-cluster", "engine", debug=False)
    assert path.name == f"my-cluster-engine-{os.getpid()}.log"
    assert path.stat().st_mode & 0o777 == 0o600
    logging.getLogger("some.where").info("hello %s", "there")
    logging.getLogger("some.where").debug("not this")
    [log] = logs(tmp_path, "my-cluster")
    assert (log.cluster, log.role, log.pid, log.alive) == ("my-cluster", "engine", os.getpid(), True)
    assert log.tail(5)[-1].endswith("INFO some.where: hello there")
    assert logs(tmp_path, "cluster") == []


def test_debug_logs_everything(root: logging.Logger, tmp_path: Path) -> None:
    path = log_to(tmp_path, "c", "engine", debug=True)
    logging.getLogger("some.where").debug("this too")
    assert "this too" in path.read_text()


def test_what_ends_a_program_is_not_shown_twice(
    root: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(tmp_path, "c", "engine", debug=False, stderr=True)
    logging.getLogger("x").warning("look")
    logging.getLogger("x").error("the end", extra={"final": True})
    assert capsys.readouterr().err == "WARNING look\n"


def test_full_file_is_followed_by_a_fresh_one(tmp_path: Path) -> None:
    handler = LogFile(tmp_path / "a.log", size=100)
    for number in range(10):
        handler.emit(_record(f"{number:040}"))
    handler.close()
    handler.close()
    assert (tmp_path / "a.log").read_text().split() == [f"{number:040}" for number in (8, 9)]
    assert (tmp_path / "a.log.1").read_text().split() == [f"{number:040}" for number in (6, 7)]
    assert len(list(tmp_path.iterdir())) == 2


def test_record_that_can_not_be_written_is_lost_quietly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = LogFile(tmp_path / "a.log")
    handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "%d", ("not a number",), None))
    handler.emit(_record("lone surrogate \udcff"))
    handler.close()
    handler.emit(_record("too late"))
    assert (tmp_path / "a.log").read_text() == "lone surrogate \\udcff\n"
    assert capsys.readouterr().err == ""


def test_old_ones_make_room(root: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "KEPT", 2)
    directory = log_directory(tmp_path)
    directory.mkdir()
    for number in range(5):
        (directory / f"c-engine-{number}.log").touch()
        os.utime(directory / f"c-engine-{number}.log", (number, number))
    (directory / "other-engine-1.log").touch()
    (directory / "notes.log").touch()
    log_to(tmp_path, "c", "controller", debug=False)
    assert [log.pid for log in logs(tmp_path, "c") if not log.alive] == [3, 4]
    assert (directory / "other-engine-1.log").exists()
    assert (directory / "notes.log").exists()


def test_ended_process_is_told_from_one_that_runs(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from aioparallel.cli.logfile import log_to;"
        f"log_to(Path({str(tmp_path)!r}), 'c', 'engine', debug=False); print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        [log] = logs(tmp_path)
        assert log.alive
        process.kill()
    [log] = logs(tmp_path)
    assert not log.alive
    log.remove()
    assert logs(tmp_path) == []


def test_no_pickle_on_the_way() -> None:
    code = "import aioparallel.cli.logfile, sys; sys.exit('pickle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
