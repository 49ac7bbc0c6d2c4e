"""Our programs as a person runs them, and what is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

#: Longer than anything here takes on a busy machine.
PATIENCE = 30.0


def environment() -> dict[str, str]:
    """Return a user's environment: asyncio's debug mode is for our own loops."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}


def command(*arguments: str, program: str = "aiocluster") -> list[str]:
    module = {"aiocluster": "aioparallel"}.get(program, f"aioparallel.cli.{program.removeprefix('aio')}")
    return [sys.executable, "-P", "-m", module, *arguments]


def run(*arguments: str, program: str = "aiocluster", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    options = {"env": environment(), "timeout": PATIENCE, "capture_output": True, "text": True} | options
    return subprocess.run(command(*arguments, program=program), check=False, **options)


def answer(*arguments: str) -> Any:
    """Run a command with --json and return what it says."""
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextlib.contextmanager
def running(
    *arguments: str, program: str = "aiocluster", until: str, cwd: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a program; begin when it has printed a line with `until` in it; kill it at the end if it still runs."""
    with subprocess.Popen(
        command(*arguments, program=program),
        env=environment(),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if until in line:
                    break
            else:
                raise AssertionError("".join(lines))
            yield process
        finally:
            process.kill()


def processes(state: Path) -> dict[int, str]:
    """Return the processes, and their commands, that look for their state there: they inherit AIOPARALLEL_DIR."""
    mark = f"AIOPARALLEL_DIR={state}".encode()
    found = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def wait_gone(pids: Sequence[int], timeout: float) -> bool:
    """Wait until none of these processes runs any more."""
    end = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        for pid in pids:
            try:
                watched = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, watched)
            if not select.select([watched], [], [], max(0.0, end - time.monotonic()))[0]:
                return False
    return True


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    return not wait_gone([pid], 0)


def end(process: subprocess.Popen[str], number: int = signal.SIGINT) -> int:
    """Send a signal and return the exit status."""
    process.send_signal(number)
    return process.wait(PATIENCE)
