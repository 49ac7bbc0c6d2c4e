"""One engine's place at its host: its kernel, its unanswered commands, its successors."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from aioparallel.deaths import Deaths
from aioparallel.errors import EngineDied, OperationError, ParallelError, to_plain
from aioparallel.kernels import Kernel, MakeKernel
from aioparallel.ladder import Ladder
from aioparallel.process import describe_exit
from aioparallel.watching import Watched
from aioparallel.wire import NO_ENGINE, Frame, KernelCall, Kind, News, Sendable, Status, encode

__all__ = ["Answer", "Seat", "SeatHost"]

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

    def forward(self, frame: Frame, kind: int, number: int, *, code: int, engine: int) -> list[Sendable]:
        """Return what passes a frame in shared memory on to the controller, as pieces to send."""
        ...

    def notify(self, event: str, seat: Seat, **about: Any) -> None:
        """Tell the controller what happened to this engine."""
        ...

    def seat_busy(self) -> None:
        """A kernel has work after it had none."""
        ...

    def seat_watched(self) -> None:
        """Somebody wants to be told what a command writes."""
        ...

    def seat_ready(self, seat: Seat) -> None:
        """A kernel is up that has no engine's id yet."""
        ...

    def seat_restarted(self, seat: Seat) -> None:
        """A fresh kernel is up for an engine that the controller knows."""
        ...

    def seat_broken(self, seat: Seat, reason: str, output: str) -> None:
        """The kernels keep dying."""
        ...

    def seat_left(self, seat: Seat) -> None:
        """The engine was told to end, and has."""
        ...


def _until(last: int | None, numbers: Iterable[int]) -> Iterator[int]:
    """Yield numbers up to that one."""
    for number in numbers:
        yield number
        if number == last:
            return


class Seat:
    """One engine's place.

    A kernel goes through: started -> up (it has said so) -> working (the controller knows of it, commands pass). When
    it dies, what it had not answered is answered for, and a fresh one is started. Commands that the controller sent
    before it knew of the fresh one are returned: it may want others to go first.

    Args:
        number: Which seat of the host this is.
        make: Makes a kernel.
        path: What goes to the front of its `sys.path`.
        host: Who is told.
        grace: Seconds for a command that is to end, after an interrupt, and again after SIGTERM.

    Attributes:
        number: Which seat of the host this is.
        engine: The id given by the controller, or None before it has joined.
        announced: The pid that the controller knows; 0 before it has been asked for an id.
        python: The version its kernels run.
        state: "starting", "up", "working", "broken" or "closed".
    """

    def __init__(self, number: int, make: MakeKernel, path: Sequence[str], host: SeatHost, *, grace: float) -> None:
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
        #: The commands that the kernel has, and what holds their payload if that lies in shared memory.
        self._unanswered: dict[int, Any] = {}
        #: Those of them that will not begin: the controller has their answer.
        self._withdrawn: set[int] = set()
        self._ladder = Ladder(grace)
        #: The first command that may be meant for this kernel.
        self._first = 0
        self._watched = Watched()
        #: Sessions that are gone: the kernel has been told, and may not have read it.
        self._forgotten: set[int] = set()
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
        self._kernel = self._ladder.kernel = kernel
        self.pid = kernel.pid
        if self._host.reading_paused:
            kernel.pause_reading()

    def become(self, engine: int) -> None:
        """Take the id that the controller gave."""
        self.engine = engine
        if self.state == "up" and self.pid == self.announced:
            self._set_up()
            self._serve(0)
            return
        # The kernel that asked for the id has died meanwhile.
        self._host.notify("kernel_restarting", self)
        if self.state == "up":
            self._report()

    def _up(self, ready: dict[str, Any]) -> None:
        self.state, self.python = "up", str(ready.get("python", ""))
        if self.engine is None:
            self._host.seat_ready(self)
        else:
            self._report()

    def _set_up(self) -> None:
        """Tell the kernel which engine it is."""
        assert self._kernel is not None
        header = json.dumps({"engine": self.engine, "path": self._path}).encode()
        self._kernel.send(encode(Kind.CALL, code=KernelCall.SETUP, header=header))

    def _report(self) -> None:
        """Tell the controller of a fresh kernel."""
        self._set_up()
        self.announced = self.pid
        self._host.seat_restarted(self)

    def acknowledge(self, pid: int, first: int) -> None:
        """The controller knows of the fresh kernel `pid`: commands from `first` on are meant for it."""
        if self.state == "up" and pid == self.pid:
            self._serve(first)

    def _serve(self, first: int) -> None:
        self.state, self._first = "working", first
        self._answer_restarts(None)

    def _ended(self, returncode: int, output: str) -> None:
        """The kernel has ended, and everything it sent has been passed on."""
        assert self._kernel is not None
        running, latest = self._kernel.running, self._kernel.latest
        began = running in self._unanswered
        while self._tell_output():
            pass
        self._kernel = None
        self._forgotten.clear()
        if self._ladder.is_ending and not self._reason:
            self._restarting, self._reason = True, "restarted to end what it ran"
        reason = self._reason or describe_exit(returncode)
        self._reason = ""
        # Before the answers, so that the controller sends nothing more on their account.
        if self.state != "closed":
            event = "kernel_restarting" if self._restarting else "kernel_died"
            self._host.notify(event, self, reason=reason, output=output)
        self._answer_for(running, latest, reason, output)
        if self.state == "closed":
            self._left()
            return
        logger.warning("engine %s: kernel %d %s", self.engine, self.pid, reason)
        if self._restarting:
            self._deaths.forget()
            self.start()
        else:
            self._dead(reason, output, began=began)

    def _answer_for(self, running: int | None, latest: int | None, reason: str, output: str) -> None:
        """Answer what the kernel can answer no more."""
        if self._ladder.doomed is not None:
            running, latest = None, self._ladder.doomed
        # They run in this order, so those before the latest are done, and their answers were on the way.
        begun = set(_until(latest, self._unanswered)) if latest in self._unanswered else set()
        for number in self._unanswered:
            error = self._ladder.verdict(number, self.engine)
            if error is not None:
                self._refuse(number, error)
            elif number not in self._withdrawn:
                self._fault(number, reason, output, running=number == running, begun=number in begun)
        self._unanswered.clear()
        self._withdrawn.clear()
        self._ladder.kernel_ended()

    def _dead(self, reason: str, output: str, *, began: bool = False) -> None:
        """Start the next one, soon or never."""
        delay = self._deaths.died(self._loop.time(), worked=self._worked, began=began)
        if delay is None:
            self._break(reason, output)
            return
        self.state = "starting"
        self._timer = self._loop.call_later(delay, self.start)

    def _break(self, reason: str, output: str) -> None:
        self.state = "broken"
        self._why_broken = reason
        self._host.notify("kernel_broken", self, reason=reason, output=output)
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
        """Pass a command on, or return it if there is no kernel that it can be meant for."""
        number = frame.id
        if self.state == "working" and number >= self._first:
            kernel = self._kernel
            assert kernel is not None
            if not self._unanswered:
                self._host.seat_busy()
            self._unanswered[number] = frame.segment
            if frame.segment is None:
                kernel.send(frame.forward(Kind.COMMAND, number, code=frame.code))
            else:
                kernel.send(frame.forward(Kind.COMMAND, number, code=frame.code, shares=kernel.shares))
            if self._ladder:
                self._ladder.oldest(next(iter(self._unanswered)))
            return
        self._ladder.verdict(number, self.engine)
        if self.state == "broken":
            self._fault(frame.id, f"its kernels keep dying, {self._why_broken}; restart it to try again", "")
        elif self.state != "closed":
            self._host.send(encode(Kind.RESULT, number, code=Status.RETURNED, engine=frame.engine))

    def limit(self, number: int, seconds: float) -> None:
        """A command that is about to come may run for so long."""
        self._ladder.limits[number] = seconds

    def cancel(self, number: int) -> None:
        """Withdraw a command; one that runs is interrupted."""
        if number not in self._unanswered:
            self._ladder.verdict(number, self.engine)  # it will never come
        elif self.recall(number) and self._kernel is not None:
            self._kernel.interrupt(number)

    def end(self, number: int) -> None:
        """Withdraw a command; one that runs is ended, whatever that takes."""
        if self.recall(number):
            self._ladder.end(number)

    def recall(self, number: int) -> bool:
        """Withdraw a command unless it has begun; return whether it runs.

        One that will not begin is answered for at once: a kernel that runs something long would not, until that ends.
        """
        kernel = self._kernel
        if kernel is None or number not in self._unanswered or number in self._withdrawn:
            return False
        kernel.withdraw(number)
        latest = kernel.latest
        # They run in this order. The latest may be about to begin, and be withdrawn in time: then the kernel says so.
        if latest not in self._unanswered or number not in _until(latest, self._unanswered):
            self._withdrawn.add(number)
            self._ladder.verdict(number, self.engine)
            self._watched.end(number)
            engine = NO_ENGINE if self.engine is None else self.engine
            self._host.send(encode(Kind.RESULT, number, code=Status.CANCELLED, engine=engine))
            # It may be `running` from now on, for as long as it takes the kernel to see that it is not to begin it.
            return False
        return kernel.running == number

    def watch(self, number: int) -> None:
        """Tell what a command writes, from its beginning on, while it runs."""
        if number in self._unanswered:
            self._watched.begin(number)
            self._tell_output()
            self._host.seat_watched()

    def forget(self, session: int) -> None:
        """A client is gone: no log records for it any more."""
        if self._kernel is not None and session not in self._forgotten:
            self._forgotten.add(session)
            self._kernel.send(encode(Kind.CALL, session, code=KernelCall.FORGET))

    def interrupt(self) -> bool:
        """Raise KeyboardInterrupt in what runs; return whether anything did."""
        if self._kernel is None or not self._unanswered:
            return False
        running = self._kernel.running
        if running not in self._unanswered or running in self._withdrawn:
            # It has not come to the oldest yet, or its answer is on the way, or it sees that it is not to begin it.
            running = next((number for number in self._unanswered if number not in self._withdrawn), None)
        if running is None:
            return False
        self._kernel.interrupt(running)
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
        self._host.notify("kernel_restarting", self)
        self.start()

    def stop(self, answer: Answer) -> None:
        """End the engine; `answer` is called when it has ended."""
        self._stops.append(answer)
        if self.state == "closed":
            return
        self.state, self._reason = "closed", "stopped on request"
        if self._timer is not None:
            self._timer.cancel()
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
        ladder = self._ladder if self._ladder else None
        for frame in frames:
            if frame.kind == Kind.RESULT:
                if self._withdrawn and frame.id in self._withdrawn:
                    self._withdrawn.discard(frame.id)
                    del self._unanswered[frame.id]
                elif frame.id in self._unanswered:
                    del self._unanswered[frame.id]
                    error = ladder.answered(frame, self.engine) if ladder is not None else None
                    if error is not None:
                        pieces += self._refusal(frame.id, error)
                    else:
                        forward = frame.forward if frame.segment is None else partial(self._host.forward, frame)
                        pieces += forward(Kind.RESULT, frame.id, code=frame.code, engine=engine)
                    if self._watched:
                        self._watched.end(frame.id)
                else:
                    self._forgotten.discard(frame.id)
            elif frame.kind == Kind.NOTICE and frame.code == News.RECORD:
                if frame.id not in self._forgotten:
                    pieces += frame.forward(Kind.NOTICE, frame.id, code=frame.code, engine=engine)
            elif frame.kind == Kind.NOTICE and self.state == "starting":
                self._up(frame.json())
        if ladder is not None:
            ladder.oldest(next(iter(self._unanswered), None))
        if pieces:
            self._worked = True
            self._host.send(pieces)

    def _fault(self, number: int, reason: str, output: str, *, running: bool = False, begun: bool = False) -> None:
        when = "while it ran this" if running else "with the result of this" if begun else "before it ran this"
        text = f"engine {self.engine} died {when} ({reason}); what was in its namespace is lost"
        error = EngineDied(text, engine_id=self.engine, reason=reason, output=output, running=running, begun=begun)
        self._refuse(number, error)

    def _refuse(self, number: int, error: ParallelError) -> None:
        self._watched.end(number)
        self._host.send(self._refusal(number, error))

    def _refusal(self, number: int, error: ParallelError) -> list[Sendable]:
        """Return one of our errors as the answer to a command."""
        engine = NO_ENGINE if self.engine is None else self.engine
        return encode(
            Kind.RESULT, number, code=Status.FAULT, engine=engine, header=json.dumps(to_plain(error)).encode()
        )

    def pause_reading(self) -> None:
        """Leave what the kernel says where it is."""
        if self._kernel is not None:
            self._kernel.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._kernel is not None:
            self._kernel.resume_reading()

    def check_output(self) -> bool:
        """Bound what the kernel writes, and tell of it if that is wanted; return whether it has work."""
        if self._kernel is not None:
            self._kernel.check_output()
        if self._watched:
            self._tell_output()
        return bool(self._unanswered)

    @property
    def watched(self) -> bool:
        """Whether somebody wants to know what a command here writes."""
        return bool(self._watched)

    def _tell_output(self) -> bool:
        """Tell what the watched command that runs has written since the last time; return whether that was anything."""
        # A controller that takes no more for now is not waited for: it is all in the result.
        if self._kernel is None or self.engine is None or not self._watched or self._host.reading_paused:
            return False
        pieces = self._watched.look(self._kernel, self.engine)
        if pieces:
            self._host.send(pieces)
        return bool(pieces)
