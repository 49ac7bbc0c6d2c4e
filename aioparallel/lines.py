"""Lines of waiting tasks: what they need, whose they are, in which order they stand. Sans-I/O.

Tasks with the same needs are in one Book, in which each client has a Line for its tasks of one priority. A waiting task
costs a place in its line: what it has in common with others is in their Kind.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from itertools import islice
from math import isfinite
from typing import Any, Generic, TypeVar

__all__ = ["Book", "Client", "Kind", "Line", "Needs"]

T = TypeVar("T", bound=Hashable)

#: Labels whose kind a line remembers; forgetting costs memory for tasks alike, nothing else.
KINDS = 1024


@dataclass(frozen=True, slots=True)
class Needs:
    """Where a task may run.

    Attributes:
        engines: Only there; None: anywhere.
        resources: What it holds while it is at an engine: names and amounts, kept in the order of the names.
        not_on: Never there: they rejected it.
        rather_not: Only if no other engine may take it: it failed or ended a kernel there.

    Raises:
        ValueError: An amount is not a number above 0, or a resource is named twice.
    """

    engines: frozenset[int] | None = None
    resources: tuple[tuple[str, float], ...] = ()
    not_on: frozenset[int] = frozenset()
    rather_not: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Put the resources in order."""
        for name, amount in self.resources:
            if not (isfinite(amount) and amount > 0):
                raise ValueError(f"resource {name!r}: a task needs a number above 0 of it, not {amount!r}")
        if len(dict(self.resources)) < len(self.resources):
            raise ValueError(f"a resource is named twice in {self.resources!r}")
        object.__setattr__(self, "resources", tuple(sorted(self.resources)))


class Client:
    """One client's turns.

    Attributes:
        given: Nanoseconds of running time its tasks have been given; never less than it was.
        credit: Nanoseconds that were counted and not used; they pay for the next tasks.
        number: In the order in which clients came.
        paused: Its tasks let others pass.
        lines: Where its tasks wait.
        last: The line to which its latest task went.
        tick: Grows whenever its tasks go to another line than the one before.
    """

    __slots__ = ("credit", "given", "last", "lines", "number", "paused", "tick")

    def __init__(self, number: int) -> None:
        self.number = number
        self.given = self.credit = self.tick = 0
        self.paused = False
        self.lines: dict[Line[Any], None] = {}
        self.last: Line[Any] | None = None

    def __repr__(self) -> str:
        return f"<Client {self.number}, given {self.given / 1e9:.6f} s{', paused' if self.paused else ''}>"

    @property
    def waits(self) -> bool:
        """Whether it has waiting tasks."""
        return any(line.tasks for line in self.lines)


class Kind:
    """What tasks of one line and one label have in common; a plain value, made again when it was forgotten."""

    __slots__ = ("label", "line")

    def __init__(self, line: Line[Any], label: bytes) -> None:
        self.line = line
        self.label = label


class Line(Generic[T]):
    """One client's tasks of one priority and the same needs, in the order they came.

    Args:
        book: Where it is.
        key: What the client is called in the book.
        client: Whose tasks they are.
        priority: Theirs.
        again: Whether they are tasks that were at an engine before, and go before the others.
        serial: Different for each line.
    """

    __slots__ = (
        *("again", "book", "client", "closed", "entered", "key", "kinds"),
        *("priority", "runs", "serial", "stale", "tasks", "usual"),
    )

    def __init__(self, book: Book, key: Hashable, client: Client, *, priority: int, again: bool, serial: int) -> None:
        self.book = book
        self.key = key
        self.client = client
        self.priority = priority
        self.again = again
        self.serial = serial
        self.tasks: deque[T] = deque()
        #: Removed, and still in `tasks`.
        self.stale: set[T] = set()
        #: Tick and length of each run; that of the last is what is left, and `closed` the sum of the others'.
        self.runs: deque[list[int]] = deque()
        self.closed = 0
        self.kinds: dict[bytes, Kind] = {}
        #: Whether it is among its level's turns.
        self.entered = False
        #: Whether it is one that a client will want again.
        self.usual = book.needs is None and not priority and not again

    def __repr__(self) -> str:
        return f"<Line of {len(self)} of {self.client!r}, priority {self.priority}>"

    def __len__(self) -> int:
        return len(self.tasks) - len(self.stale)

    def __bool__(self) -> bool:
        return True

    def kind(self, label: bytes) -> Kind:
        """Return what tasks of this line and that label have in common."""
        found = self.kinds.get(label)
        if found is None:
            if len(self.kinds) >= KINDS:
                self.kinds.clear()
            found = self.kinds[label] = Kind(self, label)
        return found

    def begin_run(self) -> None:
        """Note that the client's tasks came to another line before, and come to this one from now on."""
        client = self.client
        client.tick += 1
        client.last = self
        if not self.tasks:
            self.runs.clear()
            self.closed = 0
        elif self.runs:
            self.runs[-1][1] = len(self.tasks) - self.closed
            self.closed = len(self.tasks)
        self.runs.append([client.tick, 0])

    def pop_first(self) -> T:
        """Take out what came first, removed or not."""
        if len(self.runs) > 1:
            self.closed -= 1
            first = self.runs[0]
            first[1] -= 1
            if not first[1]:
                self.runs.popleft()
        return self.tasks.popleft()

    def pop_last(self) -> T:
        """Take out what came last, removed or not."""
        task = self.tasks.pop()
        if len(self.runs) > 1 and len(self.tasks) == self.closed:
            self.runs.pop()
            self.closed -= self.runs[-1][1]
            # What comes next is later than the run that is the last one now.
            self.client.last = None
        return task

    def trim(self, lifo: bool) -> None:
        """Let go of removed ones that would be next."""
        while self.stale and self.tasks[-lifo] in self.stale:
            self.stale.discard(self.pop_last() if lifo else self.pop_first())

    def compact(self) -> None:
        """Let go of the removed ones."""
        everything = iter(self.tasks)
        last = [self.runs.pop()[0], len(self.tasks) - self.closed]
        kept: deque[T] = deque()
        runs: deque[list[int]] = deque()
        for tick, length in (*self.runs, last):
            before = len(kept)
            kept.extend(task for task in islice(everything, length) if task not in self.stale)
            if len(kept) > before:
                runs.append([tick, len(kept) - before])
        self.tasks, self.runs = kept, runs
        self.closed = len(kept) - runs[-1][1] if runs else 0
        self.stale.clear()
        self.client.last = None


class Level:
    """The lines of one priority in one book, and whose turn it is."""

    __slots__ = ("again", "lines", "turns")

    def __init__(self) -> None:
        self.lines: dict[Hashable, Line[Any]] = {}
        self.again: dict[Hashable, Line[Any]] = {}
        #: By what the client has been given when the line was entered: never more than it has now.
        self.turns: list[tuple[int, int, bool, int, Line[Any]]] = []

    def enter(self, line: Line[Any]) -> None:
        """Let a line with tasks take its turn."""
        if not line.entered:
            line.entered = True
            heappush(self.turns, _turn(line))

    def first(self) -> Line[Any] | None:
        """Return the line whose turn it is, or None if all are empty or paused."""
        turns = self.turns
        while turns:
            given, _, _, _, line = turns[0]
            if not line.tasks or line.client.paused:
                heappop(turns)
                line.entered = False
            elif given < line.client.given and len(turns) > 1:
                heapreplace(turns, _turn(line))
            else:
                return line
        return None


def _turn(line: Line[Any]) -> tuple[int, int, bool, int, Line[Any]]:
    return line.client.given, line.client.number, not line.again, line.serial, line


class Book:
    """All waiting tasks with the same needs.

    Attributes:
        needs: Theirs; None: they may run anywhere.
        levels: By priority.
        order: The priorities, highest first, each as its negative.
        closed: Whether it is known that no engine can take one of them now.
        candidates: The engines that may run them, for the scheduler; and of which `roster` they were.
    """

    __slots__ = ("candidates", "closed", "levels", "needs", "order", "roster")

    def __init__(self, needs: Needs | None) -> None:
        self.needs = needs
        self.levels: dict[int, Level] = {}
        self.order: list[int] = []
        self.closed = False
        self.candidates: list[Any] = []
        self.roster = -1

    def __repr__(self) -> str:
        return f"<Book of {sum(map(len, self.lines()))} tasks, {self.needs or 'anywhere'}>"

    def lines(self) -> list[Line[Any]]:
        """Return its lines, those of the highest priority first."""
        levels = [self.levels[-priority] for priority in self.order]
        return [line for level in levels for lines in (level.again, level.lines) for line in lines.values()]

    def first(self) -> Line[Any] | None:
        """Return the line whose turn it is, or None if nothing waits but for clients that are paused."""
        for priority in self.order:
            line = self.levels[-priority].first()
            if line is not None:
                return line
        return None

    def level(self, priority: int) -> Level:
        """Return the level of that priority, a new one if need be."""
        level = self.levels.get(priority)
        if level is None:
            level = self.levels[priority] = Level()
            insort(self.order, -priority)
        return level

    def drop(self, line: Line[Any]) -> None:
        """Forget an empty line."""
        level = self.levels[line.priority]
        del (level.again if line.again else level.lines)[line.key]
        line.client.lines.pop(line)
        if not level.lines and not level.again:
            del self.levels[line.priority]
            self.order.remove(-line.priority)
