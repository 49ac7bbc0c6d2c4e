"""Start commands on this machine, as children of this process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from aioparallel.launchers import Job, Launcher
from aioparallel.process import Process, describe_exit

__all__ = ["LocalJob", "LocalLauncher"]

LINE = 65536
TAIL = 8192


class LocalLauncher(Launcher):
    """Child processes, each in a session of its own, so that a terminal's Ctrl-C reaches only who started them."""

    name: ClassVar[str] = "local"

    async def start(
        self,
        command: Sequence[str],
        count: int = 1,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> list[Job]:
        """Start `command` `count` times.

        Raises:
            OSError: It can't be started; none is left running.
        """
        jobs: list[Job] = []
        try:
            jobs.extend(LocalJob(command, cwd=cwd, env=env) for _ in range(count))
        except OSError:
            for job in jobs:
                job.kill()
                await job.stop()
            raise
        return jobs


class LocalJob(Job):
    """One child process.

    Args:
        command: The program and its arguments.
        cwd: The working directory.
        env: The environment.

    Raises:
        OSError: It can't be started.
    """

    def __init__(self, command: Sequence[str], *, cwd: Path | None, env: Mapping[str, str] | None) -> None:
        self._command = list(command)
        self._loop = asyncio.get_running_loop()
        self._announced: asyncio.Future[str] = self._loop.create_future()
        self._line = bytearray()
        self._tail = bytearray()
        self._open: set[int] = set()
        theirs_in, self._stdin = self._pipe()
        self._stdout, theirs_out = self._pipe()
        self._stderr, theirs_err = self._pipe()
        try:
            self._process = Process.spawn(
                self._command, stdin=theirs_in, stdout=theirs_out, stderr=theirs_err, cwd=cwd, env=env
            )
        except BaseException:
            self._close(*self._open)
            raise
        self._close(theirs_in, theirs_out, theirs_err)
        self._returncode: int | None = None
        self.exited = self._process.exited
        self.exited.add_done_callback(self._ended)
        for file, take in ((self._stdout, self._take_line), (self._stderr, self._take_tail)):
            os.set_blocking(file, False)
            self._loop.add_reader(file, self._read, file, take)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def output(self) -> str:
        """The last of what it wrote to standard error."""
        return self._tail.decode(errors="replace").strip()

    def describe(self) -> str:
        """Return the command, the process id, and how it ended if it has."""
        end = "" if self._returncode is None else f", {describe_exit(self._returncode)}"
        return f"{' '.join(self._command)} (process {self.pid}{end})"

    async def wait_announced(self) -> str:
        """Wait for the first line of standard output and return it; "" if the process ended without one."""
        return await asyncio.shield(self._announced)

    async def stop(self, grace: float = 5.0) -> None:
        """Close its standard input, send SIGTERM, and after `grace` seconds SIGKILL. Safe to call twice."""
        self._close(self._stdin)
        try:
            await self._process.aclose(grace)
        finally:
            self._close(self._stdout, self._stderr)
            if not self._announced.done():
                self._announced.set_result("")

    def kill(self) -> None:
        """Send SIGKILL to it and its process group."""
        self._process.signal_group(9)

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._open.update(ends)
        return ends

    def _close(self, *files: int) -> None:
        for file in files:
            if file in self._open:
                self._open.remove(file)
                self._loop.remove_reader(file)
                os.close(file)

    def _read(self, file: int, take: Callable[[bytes], None]) -> None:
        try:
            data = os.read(file, LINE)
        except BlockingIOError:
            return
        if data:
            take(data)
        else:
            self._close(file)

    def _take_line(self, data: bytes) -> None:
        if self._announced.done():
            return
        self._line += data
        line, newline, _ = self._line.partition(b"\n")
        if newline or len(self._line) > LINE:
            self._announced.set_result(line.decode(errors="replace"))

    def _take_tail(self, data: bytes) -> None:
        self._tail += data
        del self._tail[:-TAIL]

    def _ended(self, exited: asyncio.Future[int]) -> None:
        if exited.cancelled():
            return
        self._returncode = exited.result()
        # What it wrote last may not have been read yet.
        for file, take in ((self._stdout, self._take_line), (self._stderr, self._take_tail)):
            while file in self._open and (data := _rest(file)):
                take(data)
            self._close(file)
        if not self._announced.done():
            self._announced.set_result(self._line.decode(errors="replace"))


def _rest(file: int) -> bytes:
    try:
        return os.read(file, LINE)
    except BlockingIOError:
        return b""
