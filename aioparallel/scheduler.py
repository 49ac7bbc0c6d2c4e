"""Which task goes to which engine: events in, decisions out. Sans-I/O.

Rules:

1. Which task is next: see `waiting`. Which engine it goes to: an idle one if there is any, else one with room; which of
   those says the policy. Usually it is the one with the least expected work under way, counted in running time;
   among equals the one that was busy last, whose caches are still warm.
2. An engine is given more than one task at a time only while what it has is expected to be over within
   `AHEAD` seconds: short tasks wait at the engine, so that it never idles between two; behind a long one,
   or one whose length is not known yet, nothing waits.
3. The length of a task is expected to be that of earlier tasks with the same label, the longer the more recent.
4. When an engine is idle and nothing waits for it, what waits at an engine that has answered nothing for `AHEAD`
   seconds is asked back: the task that it runs is longer than was expected.

Time is counted in whole nanoseconds, so that sums are exact; seconds go in and come out.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Generic, TypeVar

from aioparallel.closed import Closed
from aioparallel.lines import Book, Kind, Line
from aioparallel.needs import Needs
from aioparallel.policies import LeastLoaded, Policy
from aioparallel.reasons import why_placed, why_waiting
from aioparallel.room import AHEAD, AHEAD_NS, DEPTH, UNKNOWN_NS, Engine, Lengths, charged, measured
from aioparallel.waiting import Waiting

__all__ = ["AHEAD", "DEPTH", "Scheduler"]

T = TypeVar("T", bound=Hashable)


class Scheduler(Generic[T]):
    """A pure machine that gives waiting tasks to engines.

    It is told what happened, and then asked what to do: `decide`, and after that `recalls`. Tasks and clients are
    any hashable values, engines are ids. `now` is seconds of a clock that never goes back.

    Args:
        policy: Which engine of several takes a task; `LeastLoaded` if None.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self._policy = policy or LeastLoaded()
        #: The heap of loads knows what this policy would choose, for tasks that may run anywhere.
        self._by_load = type(self._policy).choose is LeastLoaded.choose
        self._waiting: Waiting[T] = Waiting(lifo=self._policy.lifo)
        self._placed: dict[T, Engine[T]] = {}
        self._engines: dict[int, Engine[T]] = {}
        #: Engines with room. An entry counts while its stamp is the engine's.
        self._heap: list[tuple[int, int, Engine[T]]] = []
        self._closed = Closed(self._waiting)
        #: Engines that have more than one task.
        self._deep: dict[int, Engine[T]] = {}
        self._lengths = Lengths()
        self._stamps = self._joins = self._roster = 0
        self._wake: float | None = None

    def __repr__(self) -> str:
        return f"<Scheduler {self._policy!r}: {self.waiting} waiting, {self.placed} on {len(self._engines)} engines>"

    @property
    def waiting(self) -> int:
        """How many tasks no engine has yet."""
        return len(self._waiting.where)

    @property
    def undecided(self) -> bool:
        """Whether there may be something to decide: a task that waits, or one that may be asked back."""
        return bool(self._waiting.where or self._deep)

    @property
    def placed(self) -> int:
        """How many tasks are at engines."""
        return len(self._placed)

    @property
    def wake(self) -> float | None:
        """When `recalls` should be asked again though nothing happens; None: no need."""
        return self._wake

    def expected(self, label: bytes) -> float | None:
        """Return the seconds that a task of that label is expected to run, or None if nothing is known."""
        return self._lengths.seconds(label)

    def engine_of(self, task: T) -> int | None:
        """Return the id of the engine that has a task, or None if none has it."""
        engine = self._placed.get(task)
        return None if engine is None else engine.id

    def engine_joined(self, engine: int, resources: Mapping[str, float] | None = None) -> None:
        """An engine is ready for tasks.

        Args:
            engine: Its id.
            resources: What it has that tasks may hold: names and amounts.

        Raises:
            ValueError: An engine with that id is here already.
        """
        if engine in self._engines:
            raise ValueError(f"engine {engine} is here already: it must leave before it joins again")
        self._joins += 1
        joined: Engine[T] = Engine(engine, resources or {}, self._joins)
        self._engines[engine] = joined
        heappush(self._heap, (0, self._joins, joined))
        self._roster_changed()

    def engine_left(self, engine: int) -> list[T]:
        """An engine is gone; return the tasks it had, in the order of placing. They are no longer known here."""
        left = self._engines.pop(engine, None)
        if left is None:
            return []
        self._deep.pop(engine, None)
        left.stamp = 0
        # It may be remembered as a candidate for a while: not so what it had.
        tasks = list(left.tasks)
        left.tasks.clear()
        left.asked.clear()
        left.load = 0
        for task in tasks:
            del self._placed[task]
        self._roster_changed()
        return tasks

    def engine_paused(self, engine: int) -> None:
        """An engine's kernel is gone or broken: it is given no tasks, and keeps those it has until they are done."""
        paused = self._engines.get(engine)
        if paused is not None and not paused.paused:
            paused.paused = True
            paused.stamp = 0
            self._roster_changed()

    def engine_resumed(self, engine: int) -> None:
        """An engine has a fresh kernel: among equals it goes last now."""
        resumed = self._engines.get(engine)
        if resumed is None:
            return
        self._joins += 1
        resumed.paused = False
        resumed.stamp = self._joins
        resumed.candidate = None
        if resumed.has_room():
            heappush(self._heap, (resumed.load, resumed.stamp, resumed))
        self._roster_changed()

    def task_added(
        self,
        task: T,
        *,
        client: Hashable = None,
        label: bytes = b"",
        priority: int = 0,
        needs: Needs | None = None,
        again: bool = False,
    ) -> None:
        """A task wants an engine.

        Args:
            task: It must neither wait nor be at an engine.
            client: Whose it is; clients take turns.
            label: Tasks of one label are expected to take as long.
            priority: Higher goes first, whoever's it is.
            needs: Where it may run; None: anywhere.
            again: Whether it was at an engine before: it goes before this client's others of that priority.

        Raises:
            ValueError: It waits or is placed already.
        """
        if task in self._waiting.where or task in self._placed:
            raise ValueError(f"{task!r} is here already: it must be done or removed before it is added again")
        line = self._waiting.add(task, client, label, priority, needs, again)
        if line.book.closed:
            self._closed.open_for(line)

    def task_done(self, task: T, seconds: float | None = None) -> None:
        """A task is no longer at its engine; `seconds` is its running time if it ran to its end.

        Nothing happens for a task that is at none: it may wait again after its engine left.
        """
        engine = self._placed.pop(task, None)
        if engine is None:
            return
        kind, expectation = engine.tasks.pop(task)
        engine.load -= expectation
        engine.quiet = None
        if len(engine.tasks) == 1:
            del self._deep[engine.id]
        self._touch(engine)
        book = kind.line.book
        if book.needs is not None and book.needs.resources:
            engine.hold(book.needs, -1)
        if self._closed:
            self._closed.room_at(engine)
        length = measured(seconds)
        if length is not None:
            if length != expectation:
                self._waiting.charge(kind.line.client, length - charged(expectation))
            self._lengths.learn(kind.label, length)
        elif task in engine.asked:
            self._waiting.charge(kind.line.client, -charged(expectation))
        if engine.asked:
            engine.asked.discard(task)

    def task_removed(self, task: T) -> bool:
        """Forget a waiting task; False if it does not wait (any more)."""
        kind = self._waiting.remove(task)
        if kind is None:
            return False
        book = kind.line.book
        if book.closed and kind.line.priority not in book.levels:
            self._closed.open(book)
        return True

    def task_changed(self, task: T, needs: Needs | None) -> None:
        """A waiting task's needs are others now; it goes before its client's others of that priority.

        Nothing happens for a task that does not wait.
        """
        kind = self._waiting.where.get(task)
        if kind is not None and kind.line.book.needs != needs:
            line = kind.line
            self.task_removed(task)
            self.task_added(task, client=line.key, label=kind.label, priority=line.priority, needs=needs, again=True)

    def client_paused(self, client: Hashable) -> None:
        """A client does not read: its tasks wait, and let others pass."""
        self._waiting.pause(client)

    def client_resumed(self, client: Hashable) -> None:
        """A client reads again: its tasks take their turns."""
        for line in self._waiting.resume(client):
            self._closed.open_for(line)

    def client_left(self, client: Hashable) -> None:
        """A client is gone: its turns are forgotten. Tasks that wait in its name go on."""
        self._waiting.forget(client)

    def trim(self) -> None:
        """Let go of memory that tasks took which wait no more."""
        self._waiting.trim()

    def decide(self, now: float) -> list[tuple[T, int]]:
        """Return which waiting tasks go to which engine now; they count as placed.

        Raises:
            Exception: What a policy of one's own raises, or ValueError if it chose what it was not offered. No decision
                is lost by that: those made before are returned, and the next call raises.
        """
        decisions: list[tuple[T, int]] = []
        waiting, heap = self._waiting, self._heap
        while waiting.where and heap:
            _, stamp, engine = heap[0]
            if stamp != engine.stamp:
                heappop(heap)
                continue
            line = waiting.first()
            if line is None:
                break
            book = line.book
            if book.needs is not None or not self._by_load:
                try:
                    chosen = self._choose(line)
                except Exception:
                    if decisions:
                        break
                    raise
                if chosen is None:
                    self._closed.close(book, line.priority, self._candidates(book))
                    continue
                engine = chosen
            task, kind = waiting.take(line)
            self._place(task, kind, engine, now)
            decisions.append((task, engine.id))
        return decisions

    def recalls(self, now: float) -> list[tuple[T, int]]:
        """Return which tasks to ask back from which engines, for others are idle; each is asked for once.

        To be asked after `decide`, when no idle engine can take what waits. Whoever gets a task back says
        `task_done`, then `task_added(…, again=True)`.
        """
        self._wake = None
        recalled: list[tuple[T, int]] = []
        idle = self._idle() if self._deep else []
        for engine in self._deep.values() if idle else ():
            later = self._recallable(engine, idle)
            if not later:
                continue
            if engine.quiet is None:
                engine.quiet = now
            elif engine.quiet + AHEAD <= now:
                # Not all at once: it may be about to answer, and has to ask for more then.
                later = later[: (len(later) + 1) // 2]
                recalled += [(task, engine.id) for task in later]
                engine.asked.update(later)
                engine.quiet = now
                self._surprised(engine)
            due = engine.quiet + AHEAD
            self._wake = due if self._wake is None else min(self._wake, due)
        return recalled

    def why(self, task: T) -> str:
        """Return in one clause why a task is not running, or where it is."""
        engine = self._placed.get(task)
        if engine is not None:
            return why_placed(task, engine)
        kind = self._waiting.where.get(task)
        if kind is None:
            return "it neither waits nor is at an engine"
        return why_waiting(task, kind.line, self._waiting, self._engines, self._candidates(kind.line.book))

    def _place(self, task: T, kind: Kind, engine: Engine[T], now: float) -> None:
        line = kind.line
        expectation = self._lengths.expected(kind.label)
        under_way = len(engine.tasks)
        if not under_way:
            engine.quiet = now
        elif under_way == 1:
            self._deep[engine.id] = engine
        engine.tasks[task] = kind, expectation
        engine.load += expectation
        self._placed[task] = engine
        if self._heap[0][2] is engine:
            heappop(self._heap)
        self._touch(engine)
        needs = line.book.needs
        if needs is not None and needs.resources:
            engine.hold(needs, 1)
        self._waiting.charge(line.client, AHEAD_NS if expectation == UNKNOWN_NS else expectation)

    def _touch(self, engine: Engine[T]) -> None:
        """Note that an engine's load changed; entries of the heap with an old stamp count for nothing.

        One without room is not in the heap: it comes back when it has less to do.
        """
        # Ever smaller: among equals the one that was busy last goes first, for its caches are still warm.
        stamp = self._stamps = self._stamps - 1
        engine.stamp = stamp
        load, tasks = engine.load, len(engine.tasks)
        if (tasks and (load > AHEAD_NS or tasks >= DEPTH)) or engine.paused:
            return
        heap = self._heap
        if len(heap) > 64 + 8 * len(self._engines):
            heap[:] = [entry for entry in heap if entry[1] == entry[2].stamp]
            heapify(heap)
        heappush(heap, (load, stamp, engine))

    def _idle(self) -> list[Engine[T]]:
        """Return the engines that have nothing to do; usually it is clear at once that there are none."""
        heap = self._heap
        while heap and heap[0][1] != heap[0][2].stamp:
            heappop(heap)
        if not heap or heap[0][2].tasks:
            return []
        return [engine for engine in self._engines.values() if not engine.tasks and not engine.paused]

    def _candidates(self, book: Book) -> list[Engine[T]]:
        """Return the engines that may run a book's tasks, in the order in which they joined."""
        if book.roster != self._roster:
            named = book.needs.engines if book.needs is not None else None
            if named is None or len(named) > len(self._engines):
                engines = list(self._engines.values())
            else:
                engines = [self._engines[number] for number in named if number in self._engines]
                engines.sort(key=lambda engine: engine.joined)
            engines = [engine for engine in engines if not engine.paused and engine.may_run(book.needs)]
            if book.needs is not None and book.needs.rather_not:
                engines = [engine for engine in engines if engine.id not in book.needs.rather_not] or engines
            book.candidates, book.roster = engines, self._roster
        return book.candidates

    def _choose(self, line: Line[T]) -> Engine[T] | None:
        """Return the engine that takes a line's next task, or None if none of those that may has room.

        It looks at each of them; tasks without needs of their own don't come here under the usual policy.
        """
        needs, priority = line.book.needs, line.priority
        free = [
            engine for engine in self._candidates(line.book) if engine.has_room() and engine.can_hold(needs, priority)
        ]
        free = [engine for engine in free if not engine.tasks] or free
        if not free:
            return None
        if self._by_load:
            return min(free, key=lambda engine: (engine.load, engine.stamp))
        chosen = self._policy.choose([engine.view() for engine in free])
        for engine in free:
            if engine.candidate is chosen:
                return engine
        raise ValueError(f"{self._policy!r} chose {chosen!r}, which is none of the candidates it was offered")

    def _recallable(self, engine: Engine[T], idle: list[Engine[T]]) -> list[T]:
        """Return what an engine has not come to and an idle one may take, the last first."""
        later = [
            task
            for task, (kind, _) in islice(engine.tasks.items(), 1, None)
            if task not in engine.asked and self._may_take(idle, kind.line.book)
        ]
        return later[::-1]

    def _may_take(self, idle: list[Engine[T]], book: Book) -> bool:
        if book.needs is None:
            return True
        candidates = self._candidates(book)
        return any(engine in candidates and engine.spare(book.needs) for engine in idle)

    def _surprised(self, engine: Engine[T]) -> None:
        """What an engine runs is longer than was expected: nothing more is to wait behind it."""
        task, (kind, expectation) = next(iter(engine.tasks.items()))
        if expectation < UNKNOWN_NS:
            engine.tasks[task] = kind, UNKNOWN_NS
            engine.load += UNKNOWN_NS - expectation
            self._waiting.charge(kind.line.client, charged(UNKNOWN_NS) - charged(expectation))
            self._touch(engine)

    def _roster_changed(self) -> None:
        """Engines came, went or paused: who may run what is to be found out anew."""
        self._roster += 1
        self._closed.open_all()
