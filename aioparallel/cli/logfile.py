"""A log file per process, small and rotated: `log/<cluster>-<role>-<pid>.log`.

Not `logging.handlers`: that imports pickle, which a controller can't. Each process holds a lock on its file, so
that others can tell which files are still written to, also when the directory is shared between machines.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from aioparallel.capability import private_directory

__all__ = ["Log", "LogFile", "log_directory", "log_to", "logs"]

SIZE = 4 * 2**20
#: Files of ended processes that stay, per cluster.
KEPT = 40
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class LogFile(logging.Handler):
    """Writes records to a file; when that is full it becomes `….log.1`, in the place of the one before.

    Args:
        path: Where; the directory exists.
        size: How many bytes are full.
    """

    def __init__(self, path: Path, *, size: int = SIZE) -> None:
        super().__init__()
        self.path = path
        self._limit = size
        self._file, self._size = _opened(path)

    def __repr__(self) -> str:
        return f"<LogFile {self.path}>"

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record. One that can't be written (the disk is full) is lost: a log must not end its program."""
        try:
            data = (self.format(record) + "\n").encode(errors="backslashreplace")
            if self._size and self._size + len(data) > self._limit:
                self._rotate()
            self._size += os.write(self._file, data)
        except Exception:
            # Reporting it would end up here again.
            return

    def close(self) -> None:
        """Close the file; whoever cleans up may take it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        super().close()

    def _rotate(self) -> None:
        os.replace(self.path, self.path.with_name(self.path.name + ".1"))
        full = self._file
        self._file, self._size = _opened(self.path)
        os.close(full)


def _opened(path: Path) -> tuple[int, int]:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return file, os.fstat(file).st_size


def log_directory(state: Path) -> Path:
    """Return where logs lie below the state directory."""
    return state / "log"


def log_to(state: Path, cluster: str, role: str, *, debug: bool, stderr: bool = False) -> Path:
    """Let everything that this process logs go to its file, and return where that is.

    Args:
        state: The state directory.
        cluster: The cluster's name.
        role: What this process is.
        debug: Whether to log everything.
        stderr: Whether warnings go to standard error too, for a person who watches.

    Raises:
        CapabilityError: The directory can't be made.
        OSError: The file can't be.
    """
    directory = private_directory(log_directory(state))
    for log in [log for log in logs(state, cluster) if not log.alive][:-KEPT]:
        log.remove()
    handler = LogFile(directory / f"{cluster}-{role}-{os.getpid()}.log")
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    if stderr:
        screen = logging.StreamHandler(sys.stderr)
        screen.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        screen.setLevel(logging.DEBUG if debug else logging.WARNING)
        # What ends a program is said by `cli.execute`, once.
        screen.addFilter(lambda record: not hasattr(record, "final"))
        root.addHandler(screen)
    logging.captureWarnings(True)
    return handler.path


@dataclass(frozen=True, slots=True)
class Log:
    """One log file.

    Attributes:
        path: Where it is.
        cluster: The cluster's name.
        role: What the process is or was: "cluster", "controller", "engine".
        pid: Its process id.
        size: Bytes.
        modified: Unix time of the last record.
        alive: Whether the process still has it open.
    """

    path: Path
    cluster: str
    role: str
    pid: int
    size: int
    modified: float
    alive: bool

    def remove(self) -> None:
        """Remove it, and the full one before it."""
        self.path.unlink(missing_ok=True)
        self.path.with_name(self.path.name + ".1").unlink(missing_ok=True)

    def tail(self, lines: int) -> list[str]:
        """Return its last lines.

        Raises:
            OSError: It can't be read.
        """
        with self.path.open("rb") as file:
            file.seek(max(0, self.size - 400 * lines))
            return file.read().decode(errors="replace").splitlines()[-lines:]


def logs(state: Path, cluster: str | None = None) -> list[Log]:
    """Return the log files of a cluster, or of all, the oldest first."""
    found = []
    for path in log_directory(state).glob("*.log"):
        name, _, rest = path.stem.rpartition("-")
        name, _, role = name.rpartition("-")
        if not rest.isdigit() or not name or (cluster is not None and name != cluster):
            continue
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append(Log(path, name, role, int(rest), status.st_size, status.st_mtime, _is_open(path)))
    return sorted(found, key=lambda log: (log.modified, log.path))


def _is_open(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False
