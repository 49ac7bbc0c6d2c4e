"""One engine's place at its host: its kernel, its unanswered commands, its successors."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from aioparallel.errors import EngineDied, OperationError, ParallelError, to_plain
from aioparallel.kernels import Kernel, MakeKernel
from aioparallel.process import describe_exit
from aioparallel.wire import NO_ENGINE, Frame, KernelCall, Kind, Sendable, Status, encode

__all__ = ["Answer", "Deaths", "Seat", "SeatHost"]

logger = logging.getLogger(__name__)


class Answer(Protocol):
    """Told how a restart or a stop went."""

    def __call__(self, value: Any, error: ParallelError | None = None) -> None:
        """Take the outcome."""
        ...


class SeatHost(Protocol):
    """What a seat asks of its host."""

    @property
    def reading_paused(self) -> bool:
        """Whether the controller takes no more for now."""
        ...

    def send(self, pieces: Iterable[Sendable]) -> None:
        """Send frames to the controller."""
        ...

    def notify(self, event: str, seat: Seat, **about: Any) -> None:
        """Tell the controller what happened to this engine."""
        ...

    def seat_busy(self) -> None:
        """A kernel has work after it had none."""
        ...

    def seat_ready(self, seat: Seat) -> None:
        """A kernel is up that has no engine's id yet."""
        ...

    def seat_broken(self, seat: Seat, reason: str, output: str) -> None:
        """The kernels keep dying."""
        ...

    def seat_left(self, seat: Seat) -> None:
        """The engine was told to end, and has."""
        ...


class Deaths:
    """How long to wait before the next kernel: not at all, then longer and longer, and in the end for ever.

    Only kernels that never answered a command count, and only within `window`: one that works and is killed now and
    then is not broken.

    Args:
        first: Seconds to wait after the second death in a row; doubled at each further one.
        longest: Seconds to wait at most.
        many: So many in a row …
        window: … within so many seconds, and the seat is broken.
    """

    def __init__(self, *, first: float = 0.1, longest: float = 30.0, many: int = 5, window: float = 60.0) -> None:
        self._first = first
        self._longest = longest
        self._window = window
        self._times: deque[float] = deque(maxlen=many)
        self._row = 0

    def __repr__(self) -> str:
        return f"<Deaths: {self._row} in a row>"

    def died(self, now: float, *, worked: bool) -> float | None:
        """Take note of a death at `now`; return the seconds to wait, or None if it is broken."""
        if worked:
            self.forget()
        self._times.append(now)
        self._row += 1
        if len(self._times) == self._times.maxlen and now - self._times[0] <= self._window:
            return None
        return 0.0 if self._row == 1 else min(self._longest, self._first * 2.0 ** min(self._row - 2, 30))

    def forget(self) -> None:
        """Begin again."""
        self._times.clear()
        self._row = 0


class Seat:
    """One engine's place.

    A kernel goes through: started -> up (it has said so) -> set up (it knows its engine's id, commands pass). What
    arrives before that waits here. When it dies, what it had not answered is answered for, and a fresh one is started.

    Attributes:
        number: Which seat of the host this is.
        engine: The id given by the controller, or None before it has joined.
        announced: The pid that the controller knows; 0 before it has been asked for an id.
        python: The version its kernels run.
        state: "starting", "up", "working", "broken" or "closed".
    """

    def __init__(self, number: int, make: MakeKernel, path: Sequence[str], host: SeatHost) -> None:
        self.number = number
        self.engine: int | None = None
        self.announced = 0
        self.python = ""
        self.pid = 0
        self.state = "starting"
        self._make = make
        self._path = list(path)
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._kernel: Kernel | None = None
        self._deaths = Deaths()
        self._reason = ""
        self._worked = False
        self._why_broken = ""
        self._unanswered: dict[int, None] = {}
        self._waiting: dict[int, list[Sendable]] = {}
        self._restarts: list[Answer] = []
        self._stops: list[Answer] = []
        self._restarting = False
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        name = "new" if self.engine is None else f"engine {self.engine}"
        return f"<Seat {self.number}: {name}, {self.state}, {len(self._unanswered)} unanswered>"

    @property
    def wants_to_join(self) -> bool:
        """Whether a kernel is up and the controller has not been asked for an id."""
        return self.state == "up" and self.engine is None and not self.announced

    # The kernel's life

    def start(self) -> None:
        """Start a kernel."""
        self._timer = None
        self.state, self._worked, self._restarting = "starting", False, False
        kernel = self._make(self._from_kernel, self._ended)
        try:
            kernel.start()
        except OSError as error:
            self._dead(f"it can't be started: {error.strerror or error}", "")
            return
        self._kernel = kernel
        self.pid = kernel.pid
        if self._host.reading_paused:
            kernel.pause_reading()

    def become(self, engine: int) -> None:
        """Take the id that the controller gave."""
        self.engine = engine
        if self.state == "up":
            self._set_up()

    def _up(self, ready: dict[str, Any]) -> None:
        self.state, self.python = "up", str(ready.get("python", ""))
        if self.engine is None:
            self._host.seat_ready(self)
        else:
            self._set_up()

    def _set_up(self) -> None:
        """Tell the kernel which engine it is, and pass on what has waited."""
        assert self._kernel is not None
        self.state = "working"
        header = json.dumps({"engine": self.engine, "path": self._path}).encode()
        self._kernel.send(encode(Kind.CALL, code=KernelCall.SETUP, header=header))
        if self.pid != self.announced:
            self.announced = self.pid
            self._host.notify("kernel_restarted", self)
        waiting, self._waiting = self._waiting, {}
        for number, pieces in waiting.items():
            self._unanswered[number] = None
            self._kernel.send(pieces)
        self._answer_restarts(None)

    def _ended(self, returncode: int, output: str) -> None:
        """The kernel has ended, and everything it sent has been passed on."""
        assert self._kernel is not None
        running = self._kernel.running
        self._kernel = None
        reason = self._reason or describe_exit(returncode)
        self._reason = ""
        for number in self._unanswered:
            self._fault(number, reason, output, running=number == running)
        self._unanswered.clear()
        if self.state == "closed":
            self._left()
            return
        logger.warning("engine %s: kernel %d %s", self.engine, self.pid, reason)
        if self._restarting:
            self._deaths.forget()
            self.start()
        else:
            self._host.notify("kernel_died", self, reason=reason, output=output)
            self._dead(reason, output)

    def _dead(self, reason: str, output: str) -> None:
        """Start the next one, soon or never."""
        delay = self._deaths.died(self._loop.time(), worked=self._worked)
        if delay is None:
            self._break(reason, output)
            return
        self.state = "starting"
        self._timer = self._loop.call_later(delay, self.start)

    def _break(self, reason: str, output: str) -> None:
        self.state = "broken"
        self._why_broken = reason
        self._host.notify("kernel_broken", self, reason=reason, output=output)
        waiting, self._waiting = self._waiting, {}
        for number in waiting:
            self._fault(number, reason, output, running=False)
        self._answer_restarts(OperationError(f"engine {self.engine} is broken: its kernels keep dying, {reason}"))
        self._host.seat_broken(self, reason, output)

    def _answer_restarts(self, error: ParallelError | None) -> None:
        restarts, self._restarts = self._restarts, []
        for answer in restarts:
            answer({"pid": self.pid}, error)

    async def aclose(self) -> None:
        """End the kernel and start no other."""
        self.state = "closed"
        if self._timer is not None:
            self._timer.cancel()
        if self._kernel is not None:
            await self._kernel.aclose()

    # What the controller asks

    def command(self, frame: Frame) -> None:
        """Pass a command on, or keep it until there is a kernel."""
        number = frame.id
        pieces = frame.forward(Kind.COMMAND, number)
        if self.state == "working":
            assert self._kernel is not None
            if not self._unanswered:
                self._host.seat_busy()
            self._unanswered[number] = None
            self._kernel.send(pieces)
        elif self.state == "broken":
            self._fault(
                number, f"its kernels keep dying, {self._why_broken}; restart it to try again", "", running=False
            )
        else:
            self._waiting[number] = pieces

    def cancel(self, number: int) -> None:
        """Withdraw a command; one that runs is interrupted."""
        if self._waiting.pop(number, None) is not None:
            engine = NO_ENGINE if self.engine is None else self.engine
            self._host.send(encode(Kind.RESULT, number, code=Status.CANCELLED, engine=engine))
        elif number in self._unanswered and self._kernel is not None:
            self._kernel.cancel(number)

    def interrupt(self) -> bool:
        """Raise KeyboardInterrupt in what runs; return whether anything did."""
        if self._kernel is None or not self._unanswered:
            return False
        running = self._kernel.running
        # What the kernel says, unless it has not come to the oldest yet, or its answer is on the way.
        self._kernel.interrupt(running if running in self._unanswered else next(iter(self._unanswered)))
        return True

    def restart(self, answer: Answer) -> None:
        """Have a fresh kernel; `answer` is called when it is there."""
        self._restarts.append(answer)
        if self._kernel is not None:
            if not self._restarting:
                self._restarting, self._reason = True, "restarted on request"
                self._kernel.kill()
            return
        if self._timer is not None:
            self._timer.cancel()
        self._deaths.forget()
        self.start()

    def stop(self, answer: Answer) -> None:
        """End the engine; `answer` is called when it has ended."""
        self._stops.append(answer)
        if self.state == "closed":
            return
        self.state, self._reason = "closed", "stopped on request"
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, {}
        for number in waiting:
            self._fault(number, self._reason, "", running=False)
        self._answer_restarts(OperationError(f"engine {self.engine} was stopped"))
        if self._kernel is not None:
            self._kernel.kill()
        else:
            self._left()

    def _left(self) -> None:
        stops, self._stops = self._stops, []
        if stops:
            self._host.seat_left(self)
        for answer in stops:
            answer(None)

    # What the kernel says

    def _from_kernel(self, frames: list[Frame]) -> None:
        pieces: list[Sendable] = []
        engine = NO_ENGINE if self.engine is None else self.engine
        for frame in frames:
            if frame.kind == Kind.RESULT:
                if frame.id in self._unanswered:
                    del self._unanswered[frame.id]
                    pieces += frame.forward(Kind.RESULT, frame.id, code=frame.code, engine=engine)
            elif frame.kind == Kind.NOTICE and self.state == "starting":
                self._up(frame.json())
        if pieces:
            self._worked = True
            self._host.send(pieces)

    def _fault(self, number: int, reason: str, output: str, *, running: bool) -> None:
        when = "while it ran this" if running else "before it ran this"
        text = f"engine {self.engine} died {when} ({reason}); what was in its namespace is lost"
        error = EngineDied(text, engine_id=self.engine, reason=reason, output=output, running=running)
        engine = NO_ENGINE if self.engine is None else self.engine
        header = json.dumps(to_plain(error)).encode()
        self._host.send(encode(Kind.RESULT, number, code=Status.FAULT, engine=engine, header=header))

    def pause_reading(self) -> None:
        """Leave what the kernel says where it is."""
        if self._kernel is not None:
            self._kernel.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._kernel is not None:
            self._kernel.resume_reading()

    def check_output(self) -> bool:
        """Bound what the kernel writes; return whether it has work."""
        if self._kernel is not None:
            self._kernel.check_output()
        return bool(self._unanswered)
