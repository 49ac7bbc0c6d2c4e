"""Which task goes to which engine: events in, decisions out. Sans-I/O.

Rules:

1. A task goes to the engine with the least expected work under way, counted in seconds of running time; among
   equals to the one that was busy last, whose caches are still warm.
2. An engine is given more than one task at a time only while what it has is expected to be over within
   `AHEAD` seconds: short tasks wait at the engine, so that it never idles between two; behind a long one,
   or one whose length is not known yet, nothing waits.
3. The length of a task is expected to be that of earlier tasks with the same label, the longer the more recent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import inf
from typing import Generic, TypeVar

__all__ = ["LeastLoaded"]

T = TypeVar("T", bound=Hashable)

#: Seconds of expected work that may be under way at an engine when it is given one more task.
AHEAD = 0.004
#: Most tasks under way at one engine.
DEPTH = 256
#: What a task of unknown length is expected to take, seconds.
UNKNOWN = 1.0
#: The least that a task is expected to take, seconds: an engine that has one is never as free as an idle one.
SHORTEST = 1e-6
#: Labels whose length is remembered.
LABELS = 1024


@dataclass(slots=True)
class _Engine:
    load: float = 0.0
    stamp: int = 0
    tasks: set[object] = field(default_factory=set)


class LeastLoaded(Generic[T]):
    """The default scheduler, a pure machine.

    It is told what happened (`engine_joined`, `engine_left`, `task_added`, `task_done`, `task_removed`) and
    then asked what to do (`decide`). Tasks are any hashable values, engines are ids.
    """

    def __init__(self) -> None:
        self._waiting: deque[T] = deque()
        self._removed: set[T] = set()
        self._labels: dict[T, bytes] = {}
        self._placed: dict[T, tuple[int, float]] = {}
        self._engines: dict[int, _Engine] = {}
        self._heap: list[tuple[float, int, int]] = []
        self._seconds: dict[bytes, float] = {}
        self._stamps = self._joins = 0

    def __repr__(self) -> str:
        return f"<LeastLoaded {self.waiting} waiting, {len(self._placed)} on {len(self._engines)} engines>"

    @property
    def waiting(self) -> int:
        """How many tasks no engine has yet."""
        return len(self._waiting) - len(self._removed)

    @property
    def placed(self) -> int:
        """How many tasks are at engines."""
        return len(self._placed)

    def expected(self, label: bytes) -> float | None:
        """Seconds a task of that label is expected to run, or None if nothing is known."""
        return self._seconds.get(label)

    def engine_joined(self, engine: int) -> None:
        """An engine is ready for tasks."""
        self._joins += 1
        self._engines[engine] = _Engine(stamp=self._joins)
        heappush(self._heap, (0.0, self._joins, engine))

    def engine_restarted(self, engine: int) -> None:
        """An engine's kernel died and is followed by a fresh one: among equals it goes last now."""
        restarted = self._engines.get(engine)
        if restarted is not None:
            self._joins += 1
            restarted.stamp = self._joins
            heappush(self._heap, (restarted.load, restarted.stamp, engine))

    def engine_left(self, engine: int) -> list[T]:
        """An engine is gone; return the tasks it had, which are no longer known here."""
        left = self._engines.pop(engine, None)
        tasks: list[T] = list(left.tasks) if left else []  # type: ignore[arg-type]
        for task in tasks:
            del self._placed[task]
            self._labels.pop(task, None)
        tasks.sort(key=str)
        return tasks

    def task_added(self, task: T, label: bytes = b"") -> None:
        """A task wants an engine."""
        self._labels[task] = label
        if task in self._removed:
            # It has not been dropped from its old place yet, and must not stand in two.
            self._removed.discard(task)
            return
        self._waiting.append(task)

    def task_done(self, task: T, seconds: float | None = None) -> None:
        """A task is no longer at its engine; `seconds` is its running time if it ran to its end.

        Nothing happens for a task that is at none: it may wait again after its engine left.
        """
        placed = self._placed.pop(task, None)
        if placed is None:
            return
        label = self._labels.pop(task, b"")
        engine_id, expectation = placed
        engine = self._engines[engine_id]
        engine.tasks.discard(task)
        engine.load = engine.load - expectation if engine.tasks else 0.0
        self._touch(engine_id, engine)
        # Kernels measure it, and what they say may be no time at all.
        if seconds is not None and 0.0 <= seconds < inf:
            self._learn(label, max(seconds, SHORTEST))

    def task_removed(self, task: T) -> bool:
        """Forget a waiting task; False if it does not wait (any more)."""
        if task in self._placed or task not in self._labels:
            return False
        del self._labels[task]
        self._removed.add(task)
        return True

    def decide(self) -> list[tuple[T, int]]:
        """Return which waiting tasks go to which engine now."""
        decisions: list[tuple[T, int]] = []
        waiting = self._waiting
        if not waiting:
            return decisions
        while waiting:
            task = waiting[0]
            if self._removed and task in self._removed:
                self._removed.discard(task)
                waiting.popleft()
                continue
            engine_id = self._roomiest()
            if engine_id is None:
                break
            waiting.popleft()
            expectation = self._seconds.get(self._labels[task], UNKNOWN)
            engine = self._engines[engine_id]
            engine.load += expectation
            engine.tasks.add(task)
            self._placed[task] = engine_id, expectation
            self._touch(engine_id, engine)
            decisions.append((task, engine_id))
        return decisions

    def _roomiest(self) -> int | None:
        """Return the engine with the least load if it has room for one more."""
        heap = self._heap
        while heap:
            load, stamp, engine_id = heap[0]
            engine = self._engines.get(engine_id)
            if engine is None or engine.stamp != stamp:
                heappop(heap)
                continue
            if not engine.tasks or (load <= AHEAD and len(engine.tasks) < DEPTH):
                return engine_id
            return None
        return None

    def _touch(self, engine_id: int, engine: _Engine) -> None:
        """Note that an engine's load changed; entries of the heap with an old stamp count for nothing."""
        # Ever smaller: among equals the one that was busy last goes first, for its caches are still warm.
        self._stamps -= 1
        engine.stamp = self._stamps
        if len(self._heap) > 64 + 8 * len(self._engines):
            self._heap = [(e.load, e.stamp, i) for i, e in self._engines.items() if e is not engine]
            heapify(self._heap)
        heappush(self._heap, (engine.load, engine.stamp, engine_id))

    def _learn(self, label: bytes, seconds: float) -> None:
        """Remember how long a task of that label took: at once when longer, slowly when shorter."""
        known = self._seconds.get(label)
        if known is None:
            if len(self._seconds) >= LABELS:
                del self._seconds[next(iter(self._seconds))]
            self._seconds[label] = seconds
        else:
            self._seconds[label] = seconds if seconds > known else known + (seconds - known) * 0.2
