"""The commands that an engine's kernel has: passed on, withdrawn, ended, each answered once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

from aioparallel.errors import EngineDied, ParallelError, to_plain
from aioparallel.kernels import Kernel
from aioparallel.ladder import Ladder
from aioparallel.watching import Watched
from aioparallel.wire import NO_ENGINE, Frame, KernelCall, Kind, News, Sendable, Status, encode

__all__ = ["InFlight", "InFlightHost"]


class InFlightHost(Protocol):
    """What the commands of a seat ask of their host."""

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

    def seat_busy(self) -> None:
        """A kernel has work after it had none."""
        ...

    def seat_watched(self) -> None:
        """Somebody wants to be told what a command writes."""
        ...


def _until(last: int | None, numbers: Iterable[int]) -> Iterator[int]:
    """Yield numbers up to that one."""
    for number in numbers:
        yield number
        if number == last:
            return


class InFlight:
    """The commands of one engine that are not answered yet, each of which is answered once.

    What the kernel's life is, its seat knows; here there is a kernel or none, and commands are meant for it or not.

    Args:
        host: Where answers go.
        grace: Seconds for a command that is to end, after an interrupt, and again after SIGTERM.
        on_notice: Called with what the kernel says besides answers and log records.
        on_unserved: Called with a command that no kernel is there for.

    Attributes:
        engine: The id given by the controller, or None before it has joined.
        worked: Whether there was an answer since this was last set to False.
    """

    def __init__(
        self,
        host: InFlightHost,
        *,
        grace: float,
        on_notice: Callable[[Frame], None],
        on_unserved: Callable[[Frame], None],
    ) -> None:
        self.engine: int | None = None
        self.worked = False
        self._host = host
        self._on_notice = on_notice
        self._on_unserved = on_unserved
        self._kernel: Kernel | None = None
        #: The first command that may be meant for this kernel; None while none is.
        self._first: int | None = None
        #: The commands that the kernel has, and what holds their payload if that lies in shared memory.
        self._unanswered: dict[int, Any] = {}
        #: Those of them that will not begin: the controller has their answer.
        self._withdrawn: set[int] = set()
        self._ladder = Ladder(grace)
        self._watched = Watched()
        #: Sessions that are gone: the kernel has been told, and may not have read it.
        self._forgotten: set[int] = set()

    def __repr__(self) -> str:
        return f"<InFlight {len(self._unanswered)} commands, {len(self._withdrawn)} of them withdrawn>"

    def __len__(self) -> int:
        return len(self._unanswered)

    def __contains__(self, number: object) -> bool:
        return number in self._unanswered

    @property
    def watched(self) -> bool:
        """Whether somebody wants to know what a command here writes."""
        return bool(self._watched)

    @property
    def is_ending(self) -> bool:
        """Whether the kernel is being ended because of a command."""
        return self._ladder.is_ending

    # What becomes of the kernel

    def begin(self, kernel: Kernel) -> None:
        """There is a fresh kernel; no commands are meant for it before `serve`."""
        self._kernel = self._ladder.kernel = kernel

    def serve(self, first: int | None) -> None:
        """Pass commands on to the kernel from that one on; with None no more of them."""
        self._first = first

    def kernel_gone(self) -> None:
        """The kernel has ended, and everything it sent has come: tell what else was written. `fail` is to follow."""
        while self.tell_output():
            pass
        self._kernel = self._first = None
        self._forgotten.clear()

    def fail(self, running: int | None, latest: int | None, reason: str, output: str) -> None:
        """Answer what the kernel can answer no more.

        Args:
            running: What ran when it ended.
            latest: What had begun last.
            reason: How it ended.
            output: The last of what it wrote.
        """
        if self._ladder.doomed is not None:
            running, latest = None, self._ladder.doomed
        # They run in this order, so those before the latest are done, and their answers were on the way.
        begun = set(_until(latest, self._unanswered)) if latest in self._unanswered else set()
        for number in self._unanswered:
            error = self._ladder.verdict(number, self.engine)
            if error is not None:
                self._refuse(number, error)
            elif number not in self._withdrawn:
                self.fault(number, reason, output, running=number == running, begun=number in begun)
        self._unanswered.clear()
        self._withdrawn.clear()
        self._ladder.kernel_ended()

    # What the controller asks

    def command(self, frame: Frame) -> None:
        """Pass a command on, if there is a kernel that it can be meant for."""
        number = frame.id
        if self._first is not None and number >= self._first:
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
        self._on_unserved(frame)

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

    def watch(self, number: int) -> None:
        """Tell what a command writes, from its beginning on, while it runs."""
        if number in self._unanswered:
            self._watched.begin(number)
            self.tell_output()
            self._host.seat_watched()

    def forget(self, session: int) -> None:
        """A client is gone: no log records for it any more."""
        if self._kernel is not None and session not in self._forgotten:
            self._forgotten.add(session)
            self._kernel.send(encode(Kind.CALL, session, code=KernelCall.FORGET))

    # What the kernel says

    def receive(self, frames: list[Frame]) -> None:
        """Take what the kernel says, and pass answers and log records on."""
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
            elif frame.kind == Kind.NOTICE:
                self._on_notice(frame)
        if ladder is not None:
            ladder.oldest(next(iter(self._unanswered), None))
        if pieces:
            self.worked = True
            self._host.send(pieces)

    def tell_output(self) -> bool:
        """Tell what the watched command that runs has written since the last time; return whether that was anything."""
        # A controller that takes no more for now is not waited for: it is all in the result.
        if self._kernel is None or self.engine is None or not self._watched or self._host.reading_paused:
            return False
        pieces = self._watched.look(self._kernel, self.engine)
        if pieces:
            self._host.send(pieces)
        return bool(pieces)

    def fault(self, number: int, reason: str, output: str, *, running: bool = False, begun: bool = False) -> None:
        """Answer a command with `EngineDied`."""
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
        header = json.dumps(to_plain(error)).encode()
        return encode(Kind.RESULT, number, code=Status.FAULT, engine=engine, header=header)
