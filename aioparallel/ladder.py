"""How what a kernel runs is ended, whatever it does: interrupt, SIGTERM, SIGKILL, and in which time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aioparallel.errors import TaskAborted, TaskError, TaskTimeout
from aioparallel.kernels import Kernel
from aioparallel.wire import Frame, Status

__all__ = ["Ladder"]

#: Seconds between two looks whether a command has begun.
LOOK = 0.01
#: The longest that a timer is set to, seconds: what is longer is as good as no limit.
LONGEST = 1e7

_BY = {
    "interrupt": "an interrupt",
    "terminate": "SIGTERM, which took its engine's kernel along",
    "kill": "SIGKILL, which took its engine's kernel along",
}


@dataclass(slots=True)
class _Climb:
    """A command that is being ended.

    Attributes:
        number: Its id.
        began: When its first step was taken, by the loop's clock.
        limit: The seconds that it was allowed; None: it is ended on request.
        step: The last step that was taken.
    """

    number: int
    began: float
    limit: float | None
    step: str = "interrupt"

    def error(self, now: float, engine: int | None) -> TaskError:
        """Return what its caller is told."""
        seconds = round(now - self.began, 6)  # a clock's last digits tell nobody anything
        by = f"{_BY[self.step]}, in {seconds:.3g} s"
        if self.limit is None:
            return TaskAborted(f"ended on request on engine {engine}, by {by}", step=self.step, seconds=seconds)
        text = f"it ran on engine {engine} for longer than its timeout of {self.limit:g} s, and was ended by {by}"
        return TaskTimeout(text, step=self.step, seconds=seconds, engine_id=engine)


class Ladder:
    """Ends the command that a kernel runs when it has run for longer than it may, or on request.

    The steps: it is interrupted; after `grace` seconds its kernel is sent SIGTERM; after as many again, SIGKILL. An
    interrupt leaves the kernel as it is. From SIGTERM on it begins no other command, and it is followed by a fresh one,
    also if it survives: so no command but the one that is meant is ever hit.

    Args:
        grace: Seconds for an interrupt, and for SIGTERM, to take effect.

    Attributes:
        kernel: Whose commands these are; None while there is none.
        limits: Seconds that commands may run, by id.
        doomed: The command because of which the kernel has been sent SIGTERM, the last that it ever begins; or None.
    """

    def __init__(self, grace: float) -> None:
        self.kernel: Kernel | None = None
        self.limits: dict[int, float] = {}
        self.doomed: int | None = None
        self._grace = grace
        self._loop = asyncio.get_running_loop()
        #: The command that is timed: the one that runs, or is about to.
        self._timed: int | None = None
        #: What is being ended, by id: the last one runs, and those before it are done, their answers on the way.
        self._climbs: dict[int, _Climb] = {}
        # One for both: a kernel runs one command at a time.
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        steps = ", ".join(f"{climb.step} {number}" for number, climb in self._climbs.items())
        return f"<Ladder: {steps or 'idle'}, {len(self.limits)} limits>"

    def __bool__(self) -> bool:
        """Whether anything is to be timed or ended: if not, answers need not be told to this."""
        return bool(self.limits or self._climbs)

    @property
    def is_ending(self) -> bool:
        """Whether a command is being ended, or the kernel because of one."""
        return bool(self._climbs) or self.doomed is not None

    def oldest(self, number: int | None) -> None:
        """Take note of which unanswered command the kernel has had for longest: it runs, or is about to."""
        if number == self._timed or number in self._climbs or self.doomed is not None:
            return
        self._stop()
        if number is not None and number in self.limits:
            self._timed, limit = number, self.limits[number]
            look = min(LOOK, limit)
            self._set(look, lambda: self._look(number, limit, limit - look))

    def _look(self, number: int, limit: float, left: float) -> None:
        """Count from when it has begun: what the kernel is sent may be large, and take its time."""
        if not self._runs(number):
            # Or it is done, and its answer is on the way.
            self._set(LOOK, lambda: self._look(number, limit, limit))
        elif left > 0:
            self._set(left, lambda: self._look(number, limit, 0))
        else:
            self._climb(number, limit)

    def _runs(self, number: int) -> bool:
        return self.kernel is not None and self.kernel.running == number

    def end(self, number: int) -> None:
        """End a command that runs."""
        climb = self._climbs.get(number)
        if climb is not None:
            climb.limit = None
        elif self.doomed is None:
            self._climb(number, None)

    def _climb(self, number: int, limit: float | None) -> None:
        assert self.kernel is not None
        self._stop()
        climb = self._climbs[number] = _Climb(number, self._loop.time(), limit)
        self._set(self._grace, lambda: self._terminate(climb))
        self.kernel.interrupt(number)

    def _terminate(self, climb: _Climb) -> None:
        assert self.kernel is not None
        # If it does not run, it is done, and its answer is on the way.
        if self.kernel.terminate(climb.number):
            climb.step, self.doomed = "terminate", climb.number
            self._set(self._grace, lambda: self._kill(climb))

    def _kill(self, climb: _Climb) -> None:
        assert self.kernel is not None
        climb.step = "kill"
        self.kernel.kill()

    def answered(self, frame: Frame, engine: int | None) -> TaskError | None:
        """Take an answer; return what takes its place, if it is one to being ended. A value stays, however late."""
        climb = self._climbs.get(frame.id)
        error = self.verdict(frame.id, engine)
        if climb is not None and climb.step != "interrupt":
            assert self.kernel is not None
            self.kernel.kill()
        return None if frame.code in (Status.OK, Status.CANCELLED) else error

    def verdict(self, number: int, engine: int | None) -> TaskError | None:
        """Forget a command that is over; return its error, if it was being ended."""
        self.limits.pop(number, None)
        climb = self._climbs.pop(number, None)
        if number == self._timed or (climb is not None and not self._climbs):
            self._stop()
        return None if climb is None else climb.error(self._loop.time(), engine)

    def kernel_ended(self) -> None:
        """The kernel is gone, and all that it had has been answered."""
        self._stop()
        self.kernel = self.doomed = None

    def _set(self, delay: float, step: Callable[[], None]) -> None:
        self._timer = self._loop.call_later(min(delay, LONGEST), step)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timed = None
