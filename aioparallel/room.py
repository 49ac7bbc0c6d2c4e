"""An engine as the scheduler sees it: its work, what it holds, and how long tasks take. Sans-I/O."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from aioparallel.lines import Book, Kind
from aioparallel.needs import Needs
from aioparallel.policies import Candidate

__all__ = ["AHEAD", "DEPTH", "LABELS", "LONGEST", "SHORTEST", "UNKNOWN", "Engine", "Lengths", "charged"]

T = TypeVar("T", bound=Hashable)

#: Seconds of expected work that may be under way at an engine when it is given one more task.
AHEAD = 0.004
#: Most tasks under way at one engine.
DEPTH = 256
#: What a task of unknown length is expected to take, seconds.
UNKNOWN = 1.0
#: The least that a task is expected to take, seconds: an engine that has one is never as free as an idle one.
SHORTEST = 1e-6
#: The most, seconds: longer than this is no time that a task could have taken.
LONGEST = 1e9
#: Labels whose length is remembered.
LABELS = 1024

SECOND = 1_000_000_000
AHEAD_NS = round(AHEAD * SECOND)
UNKNOWN_NS = round(UNKNOWN * SECOND)
SHORTEST_NS = round(SHORTEST * SECOND)
#: Resources are counted in whole millionths.
_UNIT = 1_000_000


class Engine(Generic[T]):
    """An engine, and what it has.

    Attributes:
        tasks: In the order in which they were placed, which is that of running: their kind and expectation.
        load: The sum of the expectations.
        joined: Greater the later it joined.
        stamp: Different after each change, and smaller the later; positive for a fresh one.
        total, free: Millionths of each resource: what it has, and what is not in use.
        paused: It is given nothing.
        quiet: Since when it is known to have answered nothing; None: it has since that was looked at.
        asked: Tasks that were asked back.
        candidate: What policies saw of it last, while that is true.
        claims: The closed books for which it is kept, and the priorities of their next tasks.
    """

    __slots__ = (
        "asked",
        "candidate",
        "claims",
        "free",
        "id",
        "joined",
        "load",
        "paused",
        "quiet",
        "stamp",
        "tasks",
        "total",
    )

    def __init__(self, engine: int, resources: Mapping[str, float], stamp: int) -> None:
        self.id = engine
        self.total = {name: _units(amount) for name, amount in resources.items()}
        self.free = dict(self.total)
        self.joined = self.stamp = stamp
        self.load = 0
        self.tasks: dict[T, tuple[Kind, int]] = {}
        self.paused = False
        self.quiet: float | None = None
        self.asked: set[T] = set()
        self.candidate: Candidate | None = None
        self.claims: dict[Book, int] = {}

    def view(self) -> Candidate:
        """Return what a policy may see of it."""
        seen = self.candidate
        if seen is None or seen.last_used != -self.stamp:
            resources = {name: amount / _UNIT for name, amount in self.total.items()}
            seen = self.candidate = Candidate(self.id, self.load / SECOND, len(self.tasks), -self.stamp, resources)
        return seen

    def has_room(self) -> bool:
        """Whether it can be given one more task."""
        return not self.tasks or (self.load <= AHEAD_NS and len(self.tasks) < DEPTH)

    def may_run(self, needs: Needs | None) -> bool:
        """Whether a task with such needs may ever run there, as long as the engine is what it is."""
        if needs is None:
            return True
        if self.id in needs.not_on or (needs.engines is not None and self.id not in needs.engines):
            return False
        return all(self.total.get(name, 0) >= _units(amount) for name, amount in needs.resources)

    def spare(self, needs: Needs | None) -> bool:
        """Whether what a task needs to hold is not in use."""
        return needs is None or all(self.free.get(name, 0) >= _units(amount) for name, amount in needs.resources)

    def can_hold(self, needs: Needs | None, priority: int) -> bool:
        """Whether what a task needs to hold is neither in use nor kept for those who need more of it."""
        if needs is None or not needs.resources:
            return True
        return self.spare(needs) and not (self.claims and self._is_claimed(needs, priority))

    def _is_claimed(self, needs: Needs, priority: int) -> bool:
        wanted = {name for name, _ in needs.resources}
        return any(
            least >= priority and book.needs is not None and any(name in wanted for name, _ in book.needs.resources)
            for book, least in self.claims.items()
        )

    def missing(self, needs: Needs) -> float:
        """Return how far it is from having free what a task needs: the greatest part of any resource that is in use."""
        return max((1 - self.free.get(name, 0) / _units(amount) for name, amount in needs.resources), default=0.0)

    def hold(self, needs: Needs, sign: int) -> None:
        """Take what a task holds (1), or give it back (-1)."""
        for name, amount in needs.resources:
            self.free[name] -= sign * _units(amount)


def _units(amount: float) -> int:
    """Return whole millionths, so that sums are exact."""
    return max(1, round(amount * _UNIT)) if amount else 0


def charged(expectation: int) -> int:
    """Return the nanoseconds that a client is charged for a task when it is placed.

    When it is done that is put right. Credit for what it was charged too much would be spent much later, so a task of
    unknown length counts as a short one until then.
    """
    return AHEAD_NS if expectation == UNKNOWN_NS else expectation


class Lengths:
    """How long tasks of each label are expected to run."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return f"<Lengths of {len(self._known)} labels>"

    def expected(self, label: bytes) -> int:
        """Return nanoseconds."""
        return self._known.get(label, UNKNOWN_NS)

    def seconds(self, label: bytes) -> float | None:
        """Return seconds, or None if nothing is known."""
        known = self._known.get(label)
        return None if known is None else known / SECOND

    def learn(self, label: bytes, length: int) -> None:
        """Remember how long a task of that label took: at once when longer, slowly when shorter."""
        known = self._known.get(label)
        if known is None:
            if len(self._known) >= LABELS:
                del self._known[next(iter(self._known))]
            self._known[label] = length
        else:
            self._known[label] = length if length > known else known + (length - known) // 5


def measured(seconds: float | None) -> int | None:
    """Return a task's running time in nanoseconds, or None if that is not known.

    Kernels measure it, and what they say may be no time at all.
    """
    if seconds is None or not 0.0 <= seconds <= LONGEST:
        return None
    length = int(seconds * SECOND)
    return length if length > SHORTEST_NS else SHORTEST_NS
