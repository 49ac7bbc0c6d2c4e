"""The host's side of its kernels: the contract of a Kernel, and the real one, a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from aioparallel.errors import ProtocolError
from aioparallel.frames import FrameSocket
from aioparallel.memory import AVAILABLE, Segment, span
from aioparallel.process import Process
from aioparallel.shared import CANCELS, DONE, INTERRUPT, MET, NONE, RUNNING, TAKEN, OutputFile, Page
from aioparallel.wire import OUTPUT_META, SMALL, Frame, Kind, Limits, Sendable, encode

__all__ = ["Kernel", "KernelOptions", "MakeKernel", "ProcessKernel"]

#: Bytes of a dead kernel's last output that are reported.
LAST_OUTPUT = 4000
#: Most bytes that one look at what a command writes gives: a small frame.
LOOK = SMALL - OUTPUT_META.size
#: Seconds for what a dead kernel has sent to be read, as long as there is more of it.
DRAIN = 0.2
#: Seconds after which an interrupt that was not met is sent again, doubled each time, and how often.
INSIST, INSIST_TIMES = 0.05, 6
#: Not the id of a command.
NOTHING = 0
#: Seconds for a kernel that has closed its socket to end.
LEAVE = 1.0

_PACKAGE_ROOT = str(Path(__file__).resolve().parent.parent)
# The package may be no further away than our own sys.path; it goes last, so that it hides nothing. The collector would
# only walk over modules that stay: it sleeps until they are there, which is a tenth of the start.
_BOOT = (
    "import gc, sys; gc.disable(); root = sys.argv.pop(1); root in sys.path or sys.path.append(root); "
    "import aioparallel.kernel as kernel; gc.freeze(); gc.enable(); kernel.main()"
)


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """How kernels are started.

    Attributes:
        limits: The bounds.
        cwd: Their working directory; the host's by default.
        env: Their environment; the host's by default.
        executable: Their Python; the host's by default.
    """

    limits: Limits = field(default_factory=Limits)
    cwd: str | Path | None = None
    env: Mapping[str, str] | None = None
    executable: str = sys.executable


class Kernel(ABC):
    """One process, or the model of one, that runs user code for an engine.

    It is started once. `on_frames` is called with the frames of one read; `on_exit` once, when it has ended and all
    that it sent has been given out, with its return code (negative: the signal) and the last of what it wrote. Until
    `on_exit` returns, `running` still tells what ran.

    Args:
        on_frames: Called with what the kernel says.
        on_exit: Called at the end, if `start` succeeded.
    """

    def __init__(self, on_frames: Callable[[list[Frame]], None], on_exit: Callable[[int, str], None]) -> None:
        self.on_frames = on_frames
        self.on_exit = on_exit

    @property
    @abstractmethod
    def pid(self) -> int:
        """Its process id, or 0 before it is started."""

    @property
    @abstractmethod
    def running(self) -> int | None:
        """The id of the command that it runs right now, or None."""

    @property
    @abstractmethod
    def latest(self) -> int | None:
        """The id of the command that it has begun last, whether it still runs or not; None before the first one."""

    @property
    def shares(self) -> bool:
        """Whether it can open segments of ours."""
        return False

    @abstractmethod
    def start(self) -> None:
        """Start it; it says `{"ready": true}` in a NOTICE when it is up.

        Raises:
            OSError: It can't be started.
        """

    @abstractmethod
    def send(self, pieces: Iterable[Sendable]) -> None:
        """Send frames, given as pieces; never waits."""

    @abstractmethod
    def withdraw(self, number: int) -> None:
        """Withdraw a command that was sent: it is answered as cancelled in its turn, unless it has begun.

        If it is not the `latest` afterwards, nor one before that, it will not begin.
        """

    @abstractmethod
    def interrupt(self, number: int) -> None:
        """Raise KeyboardInterrupt in that command, if it runs or when it begins."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Leave what it says where it is, until `resume_reading`."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Read on."""

    @abstractmethod
    def check_output(self) -> None:
        """Bound what it writes; to be called now and then while it runs something."""

    @abstractmethod
    def read_output(self, number: int, stream: int, start: int) -> bytes:
        """Return what a command has written so far, from byte `start` on; nothing if it does not run.

        All that is given out is the beginning of what its RESULT will carry; so of one that writes more than a RESULT
        has room for (`Limits.room`), only the half that is kept of the beginning.

        Args:
            number: Its id.
            stream: 0 for stdout, 1 for stderr.
            start: How much is known already, bytes.
        """

    @abstractmethod
    def terminate(self, number: int) -> bool:
        """Send SIGTERM to it and its children if it runs that command; it begins no other one then, ever.

        Returns:
            Whether it did run it. If not, nothing has happened.
        """

    @abstractmethod
    def kill(self) -> None:
        """End it and its children at once; `on_exit` follows."""

    @abstractmethod
    async def aclose(self, grace: float = 0.5) -> None:
        """End it and its children, within `grace` seconds politely. `on_exit` has been called when this returns."""


#: Makes a kernel, given `on_frames` and `on_exit`.
MakeKernel: TypeAlias = Callable[[Callable[[list[Frame]], None], Callable[[int, str], None]], Kernel]


class ProcessKernel(Kernel):
    """The real one: `aioparallel.kernel` in a process and session of its own.

    Args:
        on_frames: Called with what the kernel says.
        on_exit: Called at the end.
        options: How it is started.
    """

    def __init__(
        self,
        on_frames: Callable[[list[Frame]], None],
        on_exit: Callable[[int, str], None],
        *,
        options: KernelOptions | None = None,
    ) -> None:
        super().__init__(on_frames, on_exit)
        self._options = options or KernelOptions()
        self._loop = asyncio.get_running_loop()
        self._process: Process | None = None
        self._socket: FrameSocket | None = None
        self._page: Page | None = None
        self._outputs: list[OutputFile] = []
        self._drained = False
        self._leaving: asyncio.TimerHandle | None = None
        self._shares: bool | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        return f"<ProcessKernel {self._process!r}>"

    @property
    def pid(self) -> int:
        """Its process id, or 0 before it is started."""
        return 0 if self._process is None else self._process.pid

    @property
    def running(self) -> int | None:
        """The id of the command that it runs right now, or None."""
        number = NONE if self._page is None else self._page.words[RUNNING]
        return number if number < DONE else None

    @property
    def latest(self) -> int | None:
        """The id of the command that it has begun last, whether it still runs or not; None before the first one."""
        number = NONE if self._page is None else self._page.words[RUNNING]
        return None if number == NONE else number & ~DONE

    @property
    def shares(self) -> bool:
        """Whether it can open segments of ours: as well as we can see its files."""
        if self._shares is None:
            self._shares = False
            if AVAILABLE and self._options.limits.share and self._process is not None:
                with contextlib.suppress(OSError, IndexError):
                    theirs = os.stat(f"/proc/{self._process.pid}/fd/1")
                    self._shares = os.path.samestat(theirs, os.fstat(self._outputs[0].number))
        return self._shares

    def start(self) -> None:
        """Start it, from the thread that is to outlive it.

        Raises:
            OSError: There is no memory, no descriptor, or no process to be had.
        """
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            with theirs:
                self._page = Page.make()
                undo.callback(self._let_go)
                for stream in (0, 1):
                    self._outputs.append(OutputFile.make(self._page, stream))
                self._process = Process.spawn(
                    self._command(theirs.fileno(), self._page.number),
                    stdout=self._outputs[0].number,
                    stderr=self._outputs[1].number,
                    pass_fds=(theirs.fileno(), self._page.number),
                    cwd=self._options.cwd,
                    env=self._options.env,
                )
            undo.pop_all()
        self._process.exited.add_done_callback(self._exited)
        self._socket = FrameSocket(ours, self._options.limits, self._frames, self._socket_ended, self._open)

    def _command(self, wire: int, page: int) -> list[str]:
        limits = self._options.limits
        options = {
            "fd": wire,
            "shared": page,
            "parent": os.getpid(),
            "message": limits.message,
            "header": limits.header,
            "piece": limits.piece,
            "output": limits.output,
            "outbox": limits.outbox,
            "share": limits.share,
        }
        # -u: C's stdio is unbuffered too; -P: no `''` on sys.path, so nothing in this directory hides a module of ours
        # or Python's while it starts; faulthandler: a crash leaves its traceback in the last output.
        command = [self._options.executable, "-u", "-P", "-X", "faulthandler", "-c", _BOOT, _PACKAGE_ROOT]
        for name, value in options.items():
            command += (f"--{name}", str(value))
        return command

    def send(self, pieces: Iterable[Sendable]) -> None:
        """Send frames, given as pieces; never waits."""
        if self._socket is not None:
            self._socket.send(pieces)

    def withdraw(self, number: int) -> None:
        """Withdraw a command that was sent: it is answered as cancelled, unless it has begun."""
        if self._page is not None:
            self.send(encode(Kind.CANCEL, number))
            # One that begins while we look is `running`: the word that says so is set before this one is looked at.
            self._page.words[CANCELS] += 1

    def interrupt(self, number: int) -> None:
        """Raise KeyboardInterrupt in that command, if it runs or when it begins."""
        if self._page is not None and self._process is not None:
            self._page.words[INTERRUPT] = number
            self._page.words[MET] = NONE
            self._process.signal_group(signal.SIGINT)
            self._loop.call_later(INSIST, self._insist, number, INSIST_TIMES)

    def _insist(self, number: int, times: int) -> None:
        """Send an interrupt again that was not met.

        Python only notes a signal, and looks at its notes between two steps: one that comes on the last step before a
        call that sleeps does not wake it.
        """
        words = None if self._page is None else self._page.words
        if words is None or words[INTERRUPT] != number or words[MET] == number or self.running != number:
            return
        assert self._process is not None
        self._process.signal(signal.SIGINT)
        if times > 1:
            delay = INSIST * 2 ** (INSIST_TIMES - times + 1)
            self._loop.call_later(delay, self._insist, number, times - 1)

    def pause_reading(self) -> None:
        """Leave what it says where it is, until `resume_reading`."""
        # What a dead one has left is bounded, and is to be answered.
        if self._socket is not None and self._process is not None and not self._process.exited.done():
            self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._socket is not None:
            self._socket.resume_reading()

    def check_output(self) -> None:
        """Cut out the middle of what it writes if that runs away."""
        for output in self._outputs:
            output.trim(self._options.limits.output // 2)

    def read_output(self, number: int, stream: int, start: int) -> bytes:
        """Return what a command has written so far, from byte `start` on; nothing if it does not run."""
        if self.running != number:
            return b""
        limit = min(LOOK, self._options.limits.room // 2 - start)
        data = self._outputs[stream].read(start, limit) if limit > 0 else b""
        # It says that it does not run before it takes what is there: so what was read while it ran is its own.
        return data if self.running == number else b""

    def terminate(self, number: int) -> bool:
        """Send SIGTERM to it and its children if it runs that command; it begins no other one then, ever."""
        if self._page is None or self._process is None:
            return False
        # It waits for a CANCEL before it begins anything: for one that does not come, or withdraws nothing.
        self._page.words[CANCELS] += 1
        if self.running != number:
            self.send(encode(Kind.CANCEL, NOTHING))
            return False
        self._process.signal_group(signal.SIGTERM)
        return True

    def kill(self) -> None:
        """End it and its children at once; `on_exit` follows."""
        if self._process is not None:
            self._process.signal_group(signal.SIGKILL)

    async def aclose(self, grace: float = 0.5) -> None:
        """End it and its children, within `grace` seconds politely. `on_exit` has been called when this returns."""
        if self._process is None:
            return
        await self._process.aclose(grace)
        self._over_now()
        await asyncio.wait([self._over])

    def _open(self, frame: Frame) -> None:
        """Hold what a result in shared memory lies in, and say so."""
        number, inode, lengths = frame.loan
        assert self._process is not None
        with contextlib.suppress(OSError):
            frame.segment = Segment.open(self._process.pid, number, inode, span(lengths))
        if self._page is not None:
            self._page.words[TAKEN] += 1

    def _frames(self, frames: list[Frame]) -> None:
        if not self._over.done():
            self.on_frames(frames)

    def _socket_ended(self, error: BaseException | None) -> None:
        """All that it sent has been read; wait for its end, or bring it about."""
        self._drained = True
        assert self._process is not None
        if self._process.exited.done():
            self._over_now()
        elif isinstance(error, ProtocolError):
            self.kill()
        else:
            self._leaving = self._loop.call_later(LEAVE, self.kill)

    def _exited(self, exited: asyncio.Future[int]) -> None:
        """It has ended; read what it sent before."""
        if self._drained:
            self._over_now()
        elif self._socket is not None:
            self._socket.resume_reading()
            self._loop.call_later(DRAIN, self._drain, self._socket.reads)

    def _drain(self, reads: int) -> None:
        # A child that the user's code forked may hold the socket open for ever: stop when nothing more comes.
        if self._drained or self._socket is None:
            return
        if self._socket.reads != reads:
            self._loop.call_later(DRAIN, self._drain, self._socket.reads)
        else:
            self._over_now()

    def _over_now(self) -> None:
        if self._over.done():
            return
        self._over.set_result(None)
        if self._leaving is not None:
            self._leaving.cancel()  # the loop would keep all of this until then
        assert self._process is not None
        try:
            self.on_exit(self._process.exited.result(), self._last_output())
        finally:
            if self._socket is not None:
                self._socket.close()
                # They know each other: what it reads into would wait for the garbage collector.
                self._socket = None
            self._let_go()

    def _last_output(self) -> str:
        stdout, stderr = [output.tail(LAST_OUTPUT) for output in self._outputs]
        # Half each, and what one leaves of its half is the other's.
        stdout = stdout[-max(LAST_OUTPUT // 2, LAST_OUTPUT - len(stderr)) :]
        stderr = stderr[-max(LAST_OUTPUT // 2, LAST_OUTPUT - len(stdout)) :]
        return (stdout + stderr).decode("utf-8", "replace")

    def _let_go(self) -> None:
        for output in self._outputs:
            output.close()
        if self._page is not None:
            self._page.close()
        self._outputs, self._page = [], None
