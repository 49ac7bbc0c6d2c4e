"""How tasks ended: how many, which, and results that wait to be asked for, within bounds. Sans-I/O.

Rules:

1. A result is kept until it is delivered or cleared, is too old, or all together are too large: then the oldest go.
   One that is too large by itself is not kept at all.
2. Of a task whose result is gone it is remembered how it ended, and why there is no result, as long as it is among the
   `REMEMBERED` last.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from aioparallel.errors import ResultGone
from aioparallel.graph import Outcome

__all__ = ["REMEMBERED", "Gone", "Kept", "Ledger"]

R = TypeVar("R")

#: Tasks of which it is remembered how they ended, when their results are gone.
REMEMBERED = 65536
#: What a result takes besides its payload, bytes: many small ones must not go uncounted.
OVERHEAD = 1024
#: The last ids that are listed of those that succeeded, and of those that failed.
LISTED = 1000


class Gone(Enum):
    """Why a result is not kept any more, in words."""

    DELIVERED = "has been delivered"
    CLEARED = "has been cleared"
    OLD = "is gone: it was kept for {ttl:g} s (Limits.result_ttl)"
    LARGE = "is gone: there is room for {quota:,} bytes of results (Limits.results), and newer ones needed it"


@dataclass(frozen=True, slots=True)
class Kept(Generic[R]):
    """A result that is kept.

    Attributes:
        result: The result.
        size: How much it takes in all, bytes.
        outcome: How the task ended.
        until: When it will be too old, loop time.
    """

    result: R
    size: int
    outcome: Outcome
    until: float


class Ledger(Generic[R]):
    """The ends of tasks, each told by its number.

    Args:
        quota: How much results may take, bytes.
        ttl: For how long one is kept, seconds.

    Attributes:
        succeeded: How many have succeeded, apart from what was cleared.
        failed: How many have failed, apart from what was cleared.
        cleared: How many have been cleared.
        size: How much the kept results take, bytes.
    """

    def __init__(self, quota: int, ttl: float) -> None:
        self.succeeded = 0
        self.failed = 0
        self.cleared = 0
        self.size = 0
        self._quota = quota
        self._ttl = ttl
        #: In the order in which they came, which is that in which they will be too old.
        self._kept: OrderedDict[int, Kept[R]] = OrderedDict()
        self._gone: OrderedDict[int, tuple[Outcome, Gone]] = OrderedDict()
        self._recent: tuple[deque[int], deque[int]] = deque(maxlen=LISTED), deque(maxlen=LISTED)

    def __repr__(self) -> str:
        return f"<Ledger: {self.succeeded} succeeded, {self.failed} failed, {self.size:,} bytes of {len(self)} results>"

    def __len__(self) -> int:
        return len(self._kept)

    def count(self, number: int, ok: bool) -> None:
        """A task has ended."""
        if ok:
            self.succeeded += 1
        else:
            self.failed += 1
        self._recent[ok].append(number)

    def keep(self, number: int, result: R, size: int, outcome: Outcome, now: float) -> None:
        """Keep the result of a task that was counted; others may have to go for it."""
        size += OVERHEAD
        if size > self._quota:
            self._remember(number, outcome, Gone.LARGE)
            return
        self._kept[number] = Kept(result, size, outcome, now + self._ttl)
        self.size += size
        while self.size > self._quota:
            self._let_go(next(iter(self._kept)), Gone.LARGE)

    def find(self, number: int) -> Kept[R] | None:
        """Return what is kept of a task; None if nothing was ever known of one with that number, or is any more.

        Raises:
            ResultGone: It has ended, and its result is not kept any more.
        """
        kept = self._kept.get(number)
        if kept is None and number in self._gone:
            why = self._gone[number][1].value.format(ttl=self._ttl, quota=self._quota)
            raise ResultGone(f"the result of task {number} {why}")
        return kept

    def peek(self, number: int) -> Kept[R] | None:
        """Return what is kept of a task, or None."""
        return self._kept.get(number)

    def outcome(self, number: int) -> Outcome | None:
        """Return how a task ended whose result was kept, as far as that is remembered."""
        if number in self._kept:
            return self._kept[number].outcome
        return self._gone[number][0] if number in self._gone else None

    def delivered(self, number: int) -> None:
        """A result has reached who asked for it: it goes."""
        if number in self._kept:
            self._let_go(number, Gone.DELIVERED)

    def clear(self, numbers: Iterable[int] | None = None) -> int:
        """Forget that tasks have ended, and let go of their results; return how many were forgotten.

        Args:
            numbers: Which; what is not known of them is passed over. None: all that have ended.
        """
        if numbers is None:
            cleared = self.succeeded + self.failed
            for number in tuple(self._kept):
                self._let_go(number, Gone.CLEARED)
            for number, (outcome, _) in self._gone.items():
                self._gone[number] = outcome, Gone.CLEARED
            self.succeeded = self.failed = 0
            for recent in self._recent:
                recent.clear()
        else:
            cleared = sum([self._clear(number) for number in dict.fromkeys(numbers)])
        self.cleared += cleared
        return cleared

    def _clear(self, number: int) -> bool:
        outcome = self.outcome(number)
        if outcome is None or (number in self._gone and self._gone[number][1] is Gone.CLEARED):
            return False
        if number in self._kept:
            self._let_go(number, Gone.CLEARED)
        else:
            self._gone[number] = outcome, Gone.CLEARED
        if outcome.ok:
            self.succeeded -= 1
        else:
            self.failed -= 1
        if number in self._recent[outcome.ok]:
            self._recent[outcome.ok].remove(number)
        return True

    def expire(self, now: float) -> None:
        """Let go of what is too old."""
        while self._kept:
            number, kept = next(iter(self._kept.items()))
            if kept.until > now:
                break
            self._let_go(number, Gone.OLD)

    @property
    def due(self) -> float | None:
        """When `expire` should be called next, loop time."""
        return next(iter(self._kept.values())).until if self._kept else None

    def recent(self, ok: bool) -> list[int]:
        """Return the numbers of the last tasks that have succeeded, or failed; the latest last."""
        return list(self._recent[ok])

    def _let_go(self, number: int, why: Gone) -> None:
        kept = self._kept.pop(number)
        self.size -= kept.size
        self._remember(number, kept.outcome, why)

    def _remember(self, number: int, outcome: Outcome, why: Gone) -> None:
        self._gone[number] = outcome, why
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)
