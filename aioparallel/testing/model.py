"""Kernels of a simulation: real namespaces in this very process, whose work takes virtual time."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Literal, Protocol, TypeVar

from aioparallel.decoder import Decoder
from aioparallel.errors import OperationError
from aioparallel.kernels import Kernel
from aioparallel.limits import PIECE, Limits
from aioparallel.namespace import Namespace
from aioparallel.wire import JOINED, RESULT_META, Buffer, Bulk, Frame, KernelCall, Kind, Sendable, Status, encode

__all__ = ["ModelKernel", "Pipe", "Stage", "Survives", "crash", "work"]

T = TypeVar("T")

#: What user code lives through: nothing, an interrupt (it catches KeyboardInterrupt), or SIGTERM as well.
Survives = Literal["nothing", "interrupt", "terminate"]


class _Doing:
    """What user code that runs has said of itself.

    Attributes:
        seconds: How long it takes.
        survives: What it lives through.
        crash: The signal by which its kernel ends then; 0: none.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.survives: Survives = "nothing"
        self.crash = 0


#: That of the command which runs in this process at this moment, if a model kernel runs one.
_doing: _Doing | None = None


def work(seconds: float, value: T = None, *, survives: Survives = "nothing") -> T:  # type: ignore[assignment]
    """Say, in a function that engines run, that it works for so long; return `value`.

    In a simulation the function goes on at once, and its answer comes that much virtual time later: until then an
    interrupt, a signal or the end of its engine can hit it. Anywhere else this sleeps, so a function made for a
    simulation runs on real engines too.

    Args:
        seconds: How long, from 0 up; several calls add up.
        value: What to return.
        survives: What the work does not end from: "nothing", "interrupt" (it catches KeyboardInterrupt and goes on),
            or "terminate" (it ignores SIGTERM as well: only SIGKILL ends it).

    Raises:
        ValueError: `seconds` is below 0.
    """
    if not seconds >= 0:
        raise ValueError(f"work takes a number of seconds from 0 up, not {seconds!r}")
    if _doing is None:
        time.sleep(seconds)
    else:
        _doing.seconds += seconds
        _doing.survives = survives
    return value


def crash(number: int = signal.SIGKILL) -> None:
    """End the kernel that runs this, by a signal, when the work it has said so far is over.

    In a simulation the function goes on, and what it returns is lost. Anywhere else the process ends here.

    Args:
        number: The signal's number.
    """
    if _doing is None:
        os.kill(os.getpid(), number)
    else:
        _doing.crash = number


class Pipe:
    """What frames pass between hosts and kernels: they are encoded and decoded as on a real socket, but at once."""

    def __init__(self, limits: Limits) -> None:
        self._decoder = Decoder(limits)
        self._streams = itertools.count()

    def pass_on(self, pieces: Iterable[Sendable]) -> list[Frame]:
        """Return frames as they arrive."""
        data = bytearray()
        for piece in pieces:
            if isinstance(piece, Bulk):
                for cut in piece.cut(next(self._streams), PIECE):
                    data += b"".join(cut)
            else:
                data += piece
        return self._decoder.feed(data)


class Stage(Protocol):
    """What a model kernel asks of the simulation it is part of."""

    pipe: Pipe

    def new_pid(self) -> int:
        """Return a number that no other kernel has."""
        ...

    def boot_time(self) -> float:
        """Return how long the start of a kernel takes, seconds."""
        ...

    def wall(self) -> float:
        """Return the wall clock."""
        ...

    def kernel_event(self, kernel: ModelKernel, what: str) -> None:
        """Take note of what happens to a kernel."""
        ...

    def kernel_ended(self, kernel: ModelKernel) -> None:
        """Take note of a kernel's end, as long as `running` tells in what."""
        ...


class ModelKernel(Kernel):
    """A kernel that is a namespace in this process. It runs one command at a time, in the order in which they come.

    Args:
        on_frames: Called with what the kernel says.
        on_exit: Called at the end.
        stage: The simulation.

    Attributes:
        engine: Which engine it is, once it knows; -1 before.
    """

    def __init__(
        self, on_frames: Callable[[list[Frame]], None], on_exit: Callable[[int, str], None], stage: Stage
    ) -> None:
        super().__init__(on_frames, on_exit)
        self.engine = -1
        self._stage = stage
        self._loop = asyncio.get_running_loop()
        self._pid = 0
        self._namespace: Namespace | None = None
        self._waiting: deque[Frame] = deque()
        self._running: int | None = None
        self._latest: int | None = None
        #: Whether it begins nothing any more.
        self._doomed = False
        self._doing = _Doing()
        self._interrupted: int | None = None
        self._said: deque[Frame] = deque()
        self._reading = True
        #: What comes next, be it that it is up, that a command begins or that one ends.
        self._next: asyncio.Handle | None = None
        self._over: int | None = None

    def __repr__(self) -> str:
        return f"<ModelKernel {self._pid} of engine {self.engine}, {len(self._waiting)} commands waiting>"

    @property
    def pid(self) -> int:
        """Its number among the kernels of the simulation; 0 before it is started."""
        return self._pid

    @property
    def running(self) -> int | None:
        """The id of the command that it runs right now, or None."""
        return self._running

    @property
    def latest(self) -> int | None:
        """The id of the command that it has begun last, whether it still runs or not; None before the first one."""
        return self._latest

    @property
    def alive(self) -> bool:
        """Whether it has been started and has not ended."""
        return bool(self._pid) and self._over is None

    def start(self) -> None:
        """Start it."""
        self._pid = self._stage.new_pid()
        self._next = self._loop.call_later(self._stage.boot_time(), self._up)

    def _up(self) -> None:
        self._next = None
        self._say(encode(Kind.NOTICE, header=b'{"ready": true, "python": "%b"}' % _python().encode()))
        self._stage.kernel_event(self, "is up")
        self._go_on()

    # What the host asks

    def send(self, pieces: Iterable[Sendable]) -> None:
        """Send it frames; they are there at once."""
        for frame in self._stage.pipe.pass_on(pieces):
            if frame.kind == Kind.COMMAND:
                self._waiting.append(frame)
            elif frame.kind == Kind.CALL and frame.code == KernelCall.SETUP:
                self.engine = frame.json()["engine"]
                self._namespace = Namespace(self.engine, run_coroutine=_run_coroutine)
            elif frame.kind == Kind.CALL and frame.code == KernelCall.FORGET:
                self._say(encode(Kind.RESULT, frame.id))
        self._go_on()

    def withdraw(self, number: int) -> None:
        """Give back a command that has not begun."""
        for frame in self._waiting:
            if frame.id == number:
                self._waiting.remove(frame)
                self._say(encode(Kind.RESULT, number, code=Status.CANCELLED))
                return

    def interrupt(self, number: int) -> None:
        """Raise KeyboardInterrupt in that command, if it runs or when it begins."""
        self._interrupted = number
        if self._running == number and self._doing.survives == "nothing":
            self._stage.kernel_event(self, f"is interrupted in {number}")
            self._ends(*self._failed(KeyboardInterrupt()), self._loop.time() - self._since)

    def terminate(self, number: int) -> bool:
        """Send it SIGTERM if it runs that command, of which it ends unless its user code does not."""
        if self._running != number:
            return False
        self._stage.kernel_event(self, f"is sent SIGTERM in {number}")
        self._doomed = True
        if self._doing.survives != "terminate":
            self.die(signal.SIGTERM)
        return True

    def kill(self) -> None:
        """End it at once; `on_exit` follows."""
        self.die(signal.SIGKILL)

    async def aclose(self, grace: float = 0.5) -> None:
        """End it."""
        self.die(signal.SIGTERM)
        self._exit()

    def pause_reading(self) -> None:
        """Leave what it says where it is, until `resume_reading`."""
        self._reading = False

    def resume_reading(self) -> None:
        """Read on."""
        self._reading = True
        if self._said:
            self._loop.call_soon(self._give_out)

    def check_output(self) -> None:
        """It writes nothing."""

    def read_output(self, number: int, stream: int, start: int) -> bytes:
        """It writes nothing."""
        return b""

    # Its end

    def die(self, number: int) -> None:
        """End by a signal; the host hears of it in the next turn, after all that was said before."""
        if self.alive:
            self._stage.kernel_event(self, f"ends by {signal.Signals(number).name}")
            self._stage.kernel_ended(self)
            self._over = -number
            self._stop()
            self._loop.call_soon(self._exit)

    def vanish(self) -> None:
        """End together with the host: there is nobody who could hear of it, until the host's remains are put away."""
        self._over = 0
        self._stop()
        self._said.clear()

    def _stop(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._waiting.clear()

    def _exit(self) -> None:
        self._reading = True
        self._give_out()
        on_exit, self.on_exit = self.on_exit, _nobody_hears
        if self._over is not None:
            on_exit(self._over, "")
        self._running = None

    # Its work

    def _go_on(self) -> None:
        """Begin with the next command, in the next turn."""
        if self._next is None and self._running is None and self._waiting and self.alive and not self._doomed:
            self._next = self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        global _doing
        self._next = None
        if not self._waiting:
            return
        frame = self._waiting.popleft()
        self._running = self._latest = frame.id
        self._since = self._loop.time()
        self._stage.kernel_event(self, f"begins {frame.id}")
        assert self._namespace is not None
        if self._interrupted == frame.id:
            self._ends(*self._failed(KeyboardInterrupt()), 0.0)
            return
        before, _doing = _doing, _Doing()
        self._doing = _doing
        try:
            code, payload = self._namespace.run(frame.buffers, frame.json() if frame.code == JOINED else None)
        finally:
            _doing = before
        seconds = self._doing.seconds
        if self._doing.crash:
            self._next = self._loop.call_later(seconds, self.die, self._doing.crash)
        else:
            self._next = self._loop.call_later(seconds, self._ends, code, payload, seconds)

    def _ends(self, code: Status, payload: list[Buffer], seconds: float) -> None:
        """Answer the command that runs."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        number, self._running = self._running, None
        assert number is not None
        started = self._stage.wall() - seconds
        self._say(encode(Kind.RESULT, number, code=code, header=RESULT_META.pack(started, seconds, 0), buffers=payload))
        self._stage.kernel_event(self, f"ends {number}")
        self._go_on()

    def _failed(self, error: BaseException) -> tuple[Status, list[Buffer]]:
        assert self._namespace is not None
        return self._namespace.failed(error)

    def _say(self, pieces: Iterable[Sendable]) -> None:
        """Send the host frames, which come as they would over a socket."""
        if not self._said:
            self._loop.call_soon(self._give_out)
        self._said += self._stage.pipe.pass_on(pieces)

    def _give_out(self) -> None:
        if self._said and self._reading:
            said = list(self._said)
            self._said.clear()
            self.on_frames(said)


def _nobody_hears(returncode: int, output: str) -> None:
    pass


def _run_coroutine(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing.

    Raises:
        OperationError: It waits: in a simulation nothing can happen before a function returns.
        BaseException: Whatever it raises.
    """
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    work.close()
    raise OperationError("a simulated engine can't wait in a coroutine: say how long it takes with work(seconds)")


@functools.cache
def _python() -> str:
    import platform

    return platform.python_version()
