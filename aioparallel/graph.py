"""Which task waits for which others, and what their ends make of it. Sans-I/O.

Rules:

1. A child waits until each of its conditions is met. Whether one is, the ends of the parents it names decide: it
   accepts success, failure or both, of all of them or of any.
2. A condition that can't be met any more makes the child impossible at once, whatever the others say.
3. A condition to `follow` says where the child may run besides: on the engine where all its parents ran, or on one of
   those where any of the accepted ones did. A parent that never ran says nothing about that.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Condition", "Graph", "Impossible", "Outcome", "Ready"]

T = TypeVar("T", bound=Hashable)


class Outcome(NamedTuple):
    """How a task ended.

    Attributes:
        ok: Whether it succeeded.
        engine: Where it ran last; None if it never did.
    """

    ok: bool
    engine: int | None


@dataclass(frozen=True, slots=True)
class Condition(Generic[T]):
    """What has to be so before a child may begin.

    Attributes:
        parents: Whose ends decide it.
        all: Whether each of them must end in an accepted way, or one is enough.
        success: Whether success is accepted.
        failure: Whether failure is accepted.
        follow: Whether the child runs where they did.
    """

    parents: tuple[T, ...]
    all: bool = True
    success: bool = True
    failure: bool = False
    follow: bool = False

    def accepts(self, outcome: Outcome) -> bool:
        """Whether an end is one of those it asks for."""
        return self.success if outcome.ok else self.failure


@dataclass(frozen=True, slots=True)
class Ready:
    """A child may begin.

    Attributes:
        engines: On one of these, because it follows its parents; None: wherever it likes.
    """

    engines: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Impossible(Generic[T]):
    """A child will never begin.

    Attributes:
        parent: Whose end decided that.
        engines: Where its parents ran, if it was to follow all of them and that was not one place.
    """

    parent: T
    engines: tuple[int, ...] = ()


@dataclass(slots=True)
class _Wait(Generic[T]):
    """A condition whose parents have not all ended."""

    condition: Condition[T]
    left: int
    met: bool = False
    engines: set[int] = field(default_factory=set)

    def take(self, parent: T, outcome: Outcome) -> Impossible[T] | None:
        """A parent has ended: see whether that decides it."""
        condition = self.condition
        self.left -= 1
        if condition.accepts(outcome):
            if outcome.engine is not None:
                self.engines.add(outcome.engine)
            if condition.follow and condition.all and len(self.engines) > 1:
                return Impossible(parent, tuple(sorted(self.engines)))
            self.met = self.met or not condition.all or not self.left
        elif condition.all or not (self.left or self.met):
            return Impossible(parent)
        return None


@dataclass(slots=True)
class _Child(Generic[T]):
    """Who waits."""

    waits: list[_Wait[T]]
    parents: list[T]

    def verdict(self) -> Ready | None:
        """What its conditions come to, all that is known taken into account."""
        if not all(wait.met for wait in self.waits):
            return None
        engines: frozenset[int] | None = None
        for wait in self.waits:
            if wait.condition.follow and wait.engines:
                engines = frozenset(wait.engines) if engines is None else engines & wait.engines
        return Ready(engines)


class Graph(Generic[T]):
    """Who waits for whom, as far as that is not decided. Tasks are any hashable values.

    It keeps nothing of those that have ended, and nobody waits in it without a parent that has not.
    """

    def __init__(self) -> None:
        self._children: dict[T, dict[T, list[_Wait[T]]]] = {}
        self._waiting: dict[T, _Child[T]] = {}

    def __repr__(self) -> str:
        return f"<Graph: {len(self._waiting)} wait for {len(self._children)}>"

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, child: object) -> bool:
        return child in self._waiting

    def __iter__(self) -> Iterator[T]:
        return iter(self._waiting)

    def add(
        self, child: T, conditions: Sequence[Condition[T]], ended: Mapping[T, Outcome]
    ) -> Ready | Impossible[T] | None:
        """Take in a task with what it waits for.

        Args:
            child: The task.
            conditions: What has to be so.
            ended: How those of its parents ended that have.

        Returns:
            What is decided already; None: it waits, and a call of `ended` will tell.
        """
        waits = [_Wait(condition, len(dict.fromkeys(condition.parents))) for condition in conditions]
        for wait in waits:
            wait.met = not wait.left
        entry = _Child(waits, [])
        missing: dict[T, list[_Wait[T]]] = {}
        for wait in waits:
            for parent in dict.fromkeys(wait.condition.parents):
                if parent not in ended:
                    missing.setdefault(parent, []).append(wait)
                elif (impossible := wait.take(parent, ended[parent])) is not None:
                    return impossible
        if (ready := entry.verdict()) is not None:
            return ready
        self._waiting[child] = entry
        for parent, undecided in missing.items():
            entry.parents.append(parent)
            self._children.setdefault(parent, {})[child] = undecided
        return None

    def ended(self, parent: T, outcome: Outcome) -> list[tuple[T, Ready | Impossible[T]]]:
        """A task has ended: return those for whom that decides, in the order in which they came."""
        decided: list[tuple[T, Ready | Impossible[T]]] = []
        for child, waits in self._children.pop(parent, {}).items():
            verdict: Ready | Impossible[T] | None = None
            for wait in waits:
                verdict = wait.take(parent, outcome) or verdict
            verdict = verdict or self._waiting[child].verdict()
            if verdict is not None:
                self.remove(child)
                decided.append((child, verdict))
        return decided

    def remove(self, child: T) -> bool:
        """Forget that a task waits; False if it does not."""
        entry = self._waiting.pop(child, None)
        if entry is None:
            return False
        for parent in entry.parents:
            siblings = self._children.get(parent)
            if siblings is not None and siblings.pop(child, None) is not None and not siblings:
                del self._children[parent]
        return True

    def waits_for(self, child: T) -> list[T]:
        """Return those of a task's parents that have not ended; none for one that does not wait."""
        entry = self._waiting.get(child)
        return [parent for parent in entry.parents if parent in self._children] if entry else []
