"""The engine host: one connection to the controller, many kernels behind it.

What the controller sends is passed on to the kernel of the engine it names; what the kernels answer goes back, many
answers in one write. A kernel that dies is answered for, reported, and followed by a fresh one under the same id. The
host never reads a payload and runs no user code, so it beats, interrupts and restarts whatever a kernel is doing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from aioparallel.broadcast import Stored
from aioparallel.capability import Capability, find_capability
from aioparallel.dial import connect_patiently
from aioparallel.errors import (
    ClusterError,
    ConfigurationError,
    ConnectionLost,
    OperationError,
    ParallelError,
    from_plain,
    to_plain,
)
from aioparallel.finishing import finished
from aioparallel.inflight import InFlight
from aioparallel.kernels import KernelOptions, MakeKernel, ProcessKernel
from aioparallel.resources import checked_resources
from aioparallel.seat import Answer, Seat
from aioparallel.source import SYSTEM, Source
from aioparallel.wire import (
    LAST,
    NO_ENGINE,
    SECONDS,
    STORED,
    EngineCall,
    Frame,
    HostCall,
    Kind,
    Limits,
    Sendable,
    Status,
    encode,
)

__all__ = ["Dial", "EngineHost", "Upstream"]

logger = logging.getLogger(__name__)

#: Seconds between looks at the kernels' output: while somebody watches, while something runs, and while nothing does.
WATCH_LOOK, BUSY_LOOK, IDLE_LOOK = 0.05, 0.1, 2.0
#: Seconds that the last words to the controller may take.
LINGER = 5.0


class Upstream(Protocol):
    """What the host asks of its connection; `connection.Connection` is one."""

    congested: bool
    on_drained: Callable[[], None]

    def send(self, pieces: Iterable[Sendable]) -> None:
        """Send frames, given as pieces."""
        ...

    def forward(self, frame: Frame, kind: int, number: int, *, code: int, engine: int) -> list[Sendable]:
        """Return what passes a frame on, as pieces to send."""
        ...

    def close(self, error: BaseException | None = None) -> None:
        """Close when what was sent is written; `on_lost` follows, with the error if there is one."""
        ...


OnFrames: TypeAlias = Callable[[list[Frame]], None]
OnLost: TypeAlias = Callable[[BaseException | None], None]
Dial: TypeAlias = Callable[[OnFrames, OnLost], Awaitable[Upstream]]


class EngineHost:
    """Some engines on this machine.

    `async with EngineHost(...) as host` starts it; `run` does that and stays until it ends. Kernels start at once,
    while the controller is being dialled. Nothing outlives the host: its end, orderly or not, is that of its kernels.

    Args:
        capability: What to prove to the controller, or the file it is in. A file is read again at each attempt.
        n: How many engines.
        source: Where random bytes come from.
        limits: The bounds.
        resources: What each of the engines has, by name, such as `{"gpu": 1}`: tasks may ask for a part of it.
        options: How kernels are started.
        path: What goes to the front of every kernel's `sys.path`, before this working directory.
        connect_timeout: Seconds to wait for the controller (its file, and its answer); None waits for ever, 0 tries
            once.
        on_waiting: Called with the reason when the controller can't be reached yet, and again when the reason changes.
        make_kernel: Makes a kernel, given its two callbacks; a `ProcessKernel` by default.
        dial: Opens the connection, given its two callbacks; `dial.connect` by default.
    """

    def __init__(
        self,
        capability: Capability | str | Path,
        *,
        n: int = 1,
        source: Source = SYSTEM,
        limits: Limits | None = None,
        resources: Mapping[str, float] | None = None,
        options: KernelOptions | None = None,
        path: str | Path | Sequence[str | Path] = (),
        connect_timeout: float | None = None,
        on_waiting: Callable[[ParallelError], None] | None = None,
        make_kernel: MakeKernel | None = None,
        dial: Dial | None = None,
    ) -> None:
        if n < 1:
            raise ConfigurationError(f"an engine host needs at least one engine, not {n}")
        self._capability = capability
        self._source = source
        self._limits = limits or Limits()
        self._resources = checked_resources(resources or {})
        self._stored = Stored(self._limits.share)
        self._path = [*map(str, [path] if isinstance(path, str | Path) else path), os.getcwd()]
        self._connect_timeout = connect_timeout
        self._on_waiting = on_waiting
        self._dial = dial or self._dial_controller
        self._loop = asyncio.get_running_loop()
        make = make_kernel or partial(ProcessKernel, options=options or KernelOptions(limits=self._limits))
        grace = self._limits.grace
        self._seats = [Seat(number, make, self._path, self, grace=grace) for number in range(n)]
        self._engines: dict[int, Seat] = {}
        self._upstream: Upstream | None = None
        self._paused = False
        self._goodbye: ParallelError | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._look_delay = IDLE_LOOK
        self._parted: asyncio.Future[None] = self._loop.create_future()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        state = "closed" if self._closed.done() else "connected" if self._upstream else "not connected"
        return f"<EngineHost {state}, {self._seats}>"

    async def __aenter__(self) -> EngineHost:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @property
    def engine_ids(self) -> list[int]:
        """The ids that the controller has given, ascending."""
        return sorted(self._engines)

    async def start(self) -> None:
        """Start the kernels and dial the controller, both at once; `wait_ready` waits for both."""
        for seat in self._seats:
            seat.start()
        self._connecting = self._loop.create_task(self._connect())
        self._look()

    async def run(self) -> None:
        """Start, and stay until the host is closed, told to stop, or has lost its controller.

        Raises:
            ParallelError: As `wait_closed`.
        """
        async with self:
            await self.wait_closed()

    async def wait_ready(self) -> None:
        """Wait until every engine has joined.

        Raises:
            ParallelError: The controller can't be reached or refuses, or the kernels don't start.
        """
        await asyncio.shield(self._ready)

    async def wait_closed(self) -> None:
        """Wait until the host has ended and nothing of it is left.

        Raises:
            ConnectionLost: The controller went away without a word.
            ParallelError: The controller refused, or sent this host away, or the kernels don't start.
        """
        await asyncio.shield(self._closed)

    async def aclose(self) -> None:
        """End the kernels and the connection. Safe to call twice: each waits for that, also one that is cancelled."""
        self._end(None)
        assert self._ending is not None
        await finished(self._ending)

    # The controller's side

    async def _connect(self) -> None:
        try:
            upstream = await self._dial(self._from_controller, self._lost)
        except Exception as error:
            self._end(error)
            return
        upstream.on_drained = self._drained
        self._upstream = upstream
        for seat in self._seats:
            self.seat_ready(seat)

    async def _dial_controller(self, on_frames: OnFrames, on_lost: OnLost) -> Upstream:
        connection, _ = await connect_patiently(
            lambda: find_capability(self._capability, "engine"),
            timeout=self._connect_timeout,
            on_waiting=self._on_waiting,
            role="engine",
            on_frames=on_frames,
            on_lost=on_lost,
            limits=self._limits,
            source=self._source,
        )
        return connection

    def _from_controller(self, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.kind == Kind.COMMAND:
                command = self._stored.command(frame) if frame.code == STORED else frame
                if command is not None:
                    self._command(command)
            elif frame.kind == Kind.CANCEL:
                self._withdraw(frame, InFlight.cancel)
            elif frame.kind == Kind.CALL:
                self._called(frame)
            elif frame.kind == Kind.RESULT:
                self._joined(frame)
            elif frame.kind == Kind.GOODBYE:
                self._goodbye = from_plain(frame.json())

    def _command(self, frame: Frame) -> None:
        seat = self._engines.get(frame.engine)
        if seat is not None:
            seat.inflight.command(frame)
        else:
            self._refuse(frame, f"engine {frame.engine} is not at this host")

    def _withdraw(self, frame: Frame, withdraw: Callable[[InFlight, int], object]) -> None:
        """Have a command withdrawn from its seat, in that way, or from what it waits for."""
        if self._stored.cancel(frame.id):
            self.send(encode(Kind.RESULT, frame.id, code=Status.CANCELLED, engine=frame.engine))
        seat = self._engines.get(frame.engine)
        if seat is not None:
            withdraw(seat.inflight, frame.id)

    def _joined(self, frame: Frame) -> None:
        """Take the answer to a JOIN or a READY, whose id is the seat's number."""
        seat = next((seat for seat in self._seats if seat.number == frame.id), None)
        if frame.code != Status.OK:
            self._end(from_plain(frame.json()))
        if seat is None or frame.code != Status.OK:
            return
        answer = frame.json()
        if seat.engine is not None:
            seat.acknowledge(answer["pid"], answer["first"])
            return
        number = int(answer["engine"])
        self._engines[number] = seat
        seat.become(number)
        if len(self._engines) == len(self._seats) and not self._ready.done():
            self._ready.set_result(None)

    def _called(self, frame: Frame) -> None:
        if frame.code == HostCall.STORE:
            for command in self._stored.keep(frame):
                self._command(command)
            return
        if frame.code == HostCall.DROP:
            self._stored.drop(frame.id)
            return
        if frame.code in (HostCall.END, HostCall.RECALL):
            self._withdraw(frame, InFlight.end if frame.code == HostCall.END else InFlight.recall)
            return
        if frame.code in (HostCall.WATCH, HostCall.FORGET, HostCall.LIMIT):
            # Not answered, and of no importance once the engine is gone.
            seat = self._engines.get(frame.engine)
            if seat is not None:
                self._told(seat.inflight, frame)
            return
        if frame.engine == NO_ENGINE:
            seats = list(self._seats)
        elif frame.engine in self._engines:
            seats = [self._engines[frame.engine]]
        else:
            self._refuse(frame, f"engine {frame.engine} is not at this host")
            return
        if frame.code == HostCall.INTERRUPT:
            self._answer(frame.id, {"interrupted": sum([seat.inflight.interrupt() for seat in seats])})
        elif frame.code in (HostCall.RESTART, HostCall.STOP):
            answer = self._answer_of(frame.id, len(seats))
            for seat in seats:
                if frame.code == HostCall.RESTART:
                    seat.restart(answer)
                else:
                    seat.stop(answer)
        else:
            self._refuse(frame, f"an engine host knows no operation {frame.code}")

    @staticmethod
    def _told(inflight: InFlight, frame: Frame) -> None:
        if frame.code == HostCall.WATCH:
            inflight.watch(frame.id)
        elif frame.code == HostCall.FORGET:
            inflight.forget(frame.id)
        else:
            inflight.limit(frame.id, *SECONDS.unpack(frame.header))

    def _answer_of(self, number: int, left: int) -> Answer:
        """Return what answers the call `number` when it has been called by `left` seats."""
        failed: ParallelError | None = None

        def answer(value: Any, error: ParallelError | None = None) -> None:
            nonlocal left, failed
            left -= 1
            failed = failed or error
            if not left:
                self._answer(number, value, failed)

        return answer

    def _answer(self, number: int, value: Any, error: ParallelError | None = None) -> None:
        plain = value if error is None else to_plain(error)
        code = Status.OK if error is None else Status.FAULT
        self.send(encode(Kind.RESULT, number, code=code, flags=LAST, header=json.dumps(plain).encode()))

    def _refuse(self, frame: Frame, text: str) -> None:
        header = json.dumps(to_plain(OperationError(text))).encode()
        self.send(encode(Kind.RESULT, frame.id, code=Status.FAULT, flags=LAST, engine=frame.engine, header=header))

    def _lost(self, error: BaseException | None) -> None:
        """The connection has ended: so does the host (finding back is another matter)."""
        self._upstream = None
        if not self._parted.done():
            self._parted.set_result(None)
        if isinstance(self._goodbye, ConnectionLost):
            self._end(None)  # the controller has ended, and said so
        else:
            self._end(self._goodbye or ConnectionLost(f"the controller is gone: {error or 'it closed the connection'}"))

    # The kernels' side: what a seat asks of its host

    def send(self, pieces: Iterable[Sendable]) -> None:
        """Send frames to the controller; what a congested one does not take keeps the kernels from being read."""
        upstream = self._upstream
        if upstream is None:
            return
        upstream.send(pieces)
        if upstream.congested and not self._paused:
            self._paused = True
            for seat in self._seats:
                seat.pause_reading()

    def forward(self, frame: Frame, kind: int, number: int, *, code: int, engine: int) -> list[Sendable]:
        """Return what passes a frame in shared memory on to the controller, as pieces to send."""
        upstream = self._upstream
        return [] if upstream is None else upstream.forward(frame, kind, number, code=code, engine=engine)

    def notify(self, event: str, seat: Seat, **about: Any) -> None:
        """Tell the controller what happened to an engine's kernel."""
        if seat.engine is not None:
            header = json.dumps({"event": event, "engine": seat.engine, "pid": seat.pid} | about).encode()
            self.send(encode(Kind.NOTICE, engine=seat.engine, header=header))

    def seat_ready(self, seat: Seat) -> None:
        """A kernel is up: have it join, if it is the first on its seat and the controller is there."""
        if self._upstream is None or not seat.wants_to_join:
            return
        seat.announced = seat.pid
        about = {"pid": seat.pid, "host": socket.gethostname(), "python": seat.python, "slot": seat.number}
        if self._resources:
            about["resources"] = self._resources
        self.send(encode(Kind.CALL, seat.number, code=EngineCall.JOIN, header=json.dumps(about).encode()))

    def seat_restarted(self, seat: Seat) -> None:
        """A fresh kernel is up for an engine that the controller knows: tell it, and wait for its word."""
        about = json.dumps({"engine": seat.engine, "pid": seat.pid}).encode()
        self.send(encode(Kind.CALL, seat.number, code=EngineCall.READY, engine=seat.engine or 0, header=about))

    def seat_broken(self, seat: Seat, reason: str, output: str) -> None:
        """A seat's kernels keep dying; if none ever worked, the host has no reason to be."""
        if seat.engine is None:
            self._end(ClusterError(f"the kernel does not start: {reason}\n{output}".rstrip()))

    def seat_left(self, seat: Seat) -> None:
        """An engine was told to end, and has; with the last one the host ends."""
        if seat.engine is not None and self._engines.pop(seat.engine, None) is not None:
            self.notify("engine_left", seat, reason="it was told to end")
        self._seats.remove(seat)
        if not self._seats:
            self._loop.call_soon(self._end, None)

    @property
    def reading_paused(self) -> bool:
        """Whether the controller takes no more for now."""
        return self._paused

    def _drained(self) -> None:
        self._paused = False
        for seat in self._seats:
            seat.resume_reading()

    def seat_busy(self) -> None:
        """A kernel has work after it had none: look often at what it writes."""
        if self._look_delay > BUSY_LOOK:
            self._look(BUSY_LOOK)

    def seat_watched(self) -> None:
        """Somebody watches what a command writes: look more often."""
        if self._look_delay > WATCH_LOOK:
            self._look(WATCH_LOOK)

    def _look(self, delay: float = IDLE_LOOK) -> None:
        """Bound what the kernels write, and tell of it where somebody watches."""
        if self._ending is not None:
            return
        for seat in self._seats:
            busy = seat.check_output()
            delay = min(delay, WATCH_LOOK if seat.inflight.watched else BUSY_LOOK if busy else IDLE_LOOK)
        if self._looking is not None:
            self._looking.cancel()
        self._look_delay = delay
        self._looking = self._loop.call_later(delay, self._look)

    # The end

    def _end(self, error: BaseException | None) -> None:
        if self._ending is None:
            self._ending = self._loop.create_task(self._finish(error))

    async def _finish(self, error: BaseException | None) -> None:
        if self._looking is not None:
            self._looking.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        await asyncio.gather(*(seat.aclose() for seat in self._seats))
        if self._upstream is not None:
            self._upstream.close()
            await asyncio.wait([self._parted], timeout=LINGER)
        for future in (self._ready, self._closed):
            if future.done():
                continue
            if error is None and future is self._closed:
                future.set_result(None)
            else:
                future.set_exception(error or ClusterError("the engine host was closed before its engines had joined"))
                future.exception()  # whoever asks is told; nobody has to ask
