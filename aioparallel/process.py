"""Child processes: in sessions of their own, noticed when they end, never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self, TypeAlias

from aioparallel.native import die_with_parent

__all__ = ["Process", "Stream", "describe_exit", "die_with_parent"]

#: A descriptor, a file, `subprocess.DEVNULL`, or None to inherit ours.
Stream: TypeAlias = int | IO[Any] | None


class Process:
    """A child process, leader of its own session and process group.

    When it ends, what is left of its group is killed before it is reaped, so nothing it started stays behind.

    Attributes:
        command: What was started.
        pid: Its process id, and that of its group.
        exited: Done when it has ended; the value is the return code, negative for the signal that killed it.
    """

    def __init__(self, command: Sequence[str], popen: subprocess.Popen[bytes]) -> None:
        self.command = tuple(command)
        self.pid = popen.pid
        self._popen = popen
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self._watched: int | None = None

    def __repr__(self) -> str:
        state = describe_exit(self.exited.result()) if self.exited.done() else "running"
        return f"<Process {self.pid} {state}: {' '.join(self.command)[:80]}>"

    @classmethod
    def spawn(
        cls,
        command: Sequence[str],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        pass_fds: Sequence[int] = (),
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Self:
        """Start a command; needs a running loop.

        Call it from the thread that is to outlive the child: one that calls `die_with_parent` dies with that thread.

        Args:
            command: The program and its arguments.
            stdin: Its standard input; nothing by default.
            stdout: Its standard output; ours by default.
            stderr: Its standard error; ours by default.
            pass_fds: Descriptors it gets under the same numbers; it gets no others.
            cwd: Its working directory; ours by default.
            env: Its whole environment; ours by default.

        Raises:
            OSError: It can't be started.
        """
        popen = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        process = cls(command, popen)
        process._watch()
        return process

    def signal(self, number: int) -> None:
        """Send a signal to the process; nothing happens when it has ended."""
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and all of its group; nothing happens when it has ended."""
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def aclose(self, grace: float = 2.0) -> int:
        """End it: SIGTERM to the group, SIGKILL after `grace` seconds. Safe to call twice.

        Cancellation kills at once and leaves the reaping to the loop.

        Returns:
            The return code.
        """
        try:
            if grace > 0 and not self.exited.done():
                self.signal_group(signal.SIGTERM)
                await asyncio.wait([self.exited], timeout=grace)
        finally:
            self.signal_group(signal.SIGKILL)
        await asyncio.wait([self.exited])
        return self.exited.result()

    def _watch(self) -> None:
        """Have the loop told when it ends: by a pidfd, or by a thread that waits where there are none."""
        try:
            self._watched = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            threading.Thread(target=self._wait_in_thread, name=f"wait for {self.pid}", daemon=True).start()
        else:
            self._loop.add_reader(self._watched, self._ended)

    def _wait_in_thread(self) -> None:
        # WNOWAIT leaves it to be reaped on the loop, after its group; where that is missing it is reaped here.
        if hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._popen.wait()
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._ended)

    def _ended(self) -> None:
        if self._watched is not None:
            self._loop.remove_reader(self._watched)
            os.close(self._watched)
            self._watched = None
        if not self.exited.done():
            # Until it is reaped its pid names this group and no other.
            if self._popen.returncode is None:
                self.signal_group(signal.SIGKILL)
            self.exited.set_result(self._popen.wait())


def describe_exit(returncode: int) -> str:
    """Say how a process ended: "killed by SIGKILL", "exit status 3"."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"
