"""Which of several free engines takes a task: Policy (abstract), and six of them. Sans-I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

__all__ = [
    "NAMES",
    "Candidate",
    "LeastLoaded",
    "LeastRecentlyUsed",
    "Lifo",
    "PlainRandom",
    "Policy",
    "TwoBin",
    "Weighted",
    "named",
]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that can take one more task, as a policy sees it.

    Attributes:
        id: The engine's id.
        load: Seconds of expected work under way there.
        tasks: How many tasks it has.
        last_used: Grows with every task that is given to or done by any engine: the least was used longest ago.
        resources: What it has of each resource, whether in use or not.
    """

    id: int
    load: float
    tasks: int
    last_used: int
    resources: Mapping[str, float]


class Policy(ABC):
    """Chooses the engine for a task. Which task is next is not its business, except for `lifo`.

    It is offered engines that may run the task and have room for it: the idle ones, if there are any, else those
    whose work will be over in a moment. A policy of one's own says `choose`, and may use `self.randbelow` and `lifo`.

    Args:
        randbelow: Returns a random number from 0 to below the one it is given; a simulator hands in its own.

    Attributes:
        lifo: Whether among a client's tasks of equal priority the latest goes first.
    """

    lifo: ClassVar[bool] = False

    _randbelow: Callable[[int], int] | None = None

    def __init__(self, randbelow: Callable[[int], int] | None = None) -> None:
        self._randbelow = randbelow

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def randbelow(self, limit: int) -> int:
        """Return a random number, at least 0 and less than `limit`.

        Raises:
            TypeError: The policy was made without a source of random numbers.
        """
        if self._randbelow is None:
            name = type(self).__name__
            raise TypeError(f"{name} needs random numbers: make it as {name}(randbelow), such as secrets.randbelow")
        return self._randbelow(limit)

    @abstractmethod
    def choose(self, engines: Sequence[Candidate]) -> Candidate:
        """Return the one that takes the task.

        Args:
            engines: At least one, in the order in which they joined.
        """


class LeastLoaded(Policy):
    """The engine with the least expected work; among equals the one used last, whose caches are still warm."""

    def choose(self, engines: Sequence[Candidate]) -> Candidate:
        """Return the one with the least expected work."""
        return min(engines, key=lambda engine: (engine.load, -engine.last_used))


class Lifo(LeastLoaded):
    """As `LeastLoaded`, and a client's latest task goes first."""

    lifo = True


class LeastRecentlyUsed(Policy):
    """The engine that was used longest ago: round robin, whatever the tasks take."""

    def choose(self, engines: Sequence[Candidate]) -> Candidate:
        """Return the one that was used longest ago."""
        return min(engines, key=lambda engine: engine.last_used)


class PlainRandom(Policy):
    """Any engine, each as likely."""

    def choose(self, engines: Sequence[Candidate]) -> Candidate:
        """Return any."""
        return engines[self.randbelow(len(engines))]


class TwoBin(Policy):
    """Of two at random the one that was used longest ago."""

    def choose(self, engines: Sequence[Candidate]) -> Candidate:
        """Return the less recently used of two."""
        pair = engines[self.randbelow(len(engines))], engines[self.randbelow(len(engines))]
        return min(pair, key=lambda engine: engine.last_used)


class Weighted(Policy):
    """Of two at random, the less loaded the likelier to be drawn, the one with less expected work."""

    def choose(self, engines: Sequence[Candidate]) -> Candidate:
        """Return the less loaded of two that were drawn by the inverse of their load."""
        # In microseconds, the shortest that a task is expected to take: an idle engine weighs the most.
        bounds = list(accumulate(max(1, int(1e12 / (1 + engine.load * 1e6))) for engine in engines))
        pair = self._draw(engines, bounds), self._draw(engines, bounds)
        return min(pair, key=lambda engine: engine.load)

    def _draw(self, engines: Sequence[Candidate], bounds: list[int]) -> Candidate:
        drawn = self.randbelow(bounds[-1])
        return next(engine for engine, bound in zip(engines, bounds, strict=True) if drawn < bound)


#: What people call them.
NAMES: dict[str, type[Policy]] = {
    "least-loaded": LeastLoaded,
    "lru": LeastRecentlyUsed,
    "random": PlainRandom,
    "two-bin": TwoBin,
    "weighted": Weighted,
    "lifo": Lifo,
}


def named(name: str, randbelow: Callable[[int], int] | None = None) -> Policy:
    """Return the policy that people call so.

    Args:
        name: One of `NAMES`.
        randbelow: As for `Policy`.

    Raises:
        ValueError: None of them is called so.
    """
    policy = NAMES.get(name)
    if policy is None:
        raise ValueError(f"there is no scheduler {name!r}: there are {', '.join(NAMES)}")
    return policy(randbelow)
