"""Lines of waiting tasks: whose they are, in which order they stand, and whose turn it is. Sans-I/O.

Tasks with the same needs are in one Book, in which each client has a Line for its tasks of one priority. A waiting task
costs a place in its line: what it has in common with others is in their Kind.

For each priority there is a Round, in which each client has a Turn, in which its lines stand, whatever their book. What
is known there of a client or of a line may be out of date, but then its place is too early, never too late: it is
looked at anew when it is the first. That is why, however many there are, whose turn it is costs the logarithm of that.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Hashable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import islice
from typing import Any, Generic, TypeAlias, TypeVar

from aioparallel.needs import Needs

__all__ = ["Book", "Client", "Kind", "Line", "Round", "Turn"]

T = TypeVar("T", bound=Hashable)

#: A place in a round: what a client had been given when it came there, its number, a number of its own, and a turn or
#: a shelf.
Entry: TypeAlias = tuple[int, int, int, Any]

#: Labels whose kind a line remembers; forgetting costs memory for tasks alike, nothing else.
KINDS = 1024
#: Entries of a heap, before it is looked which of them count for nothing.
ENTRIES = 64
#: Behind all shelves: what they hold is put into turns before these are taken.
TURNS = 2**62


class Client:
    """One client's turns.

    Attributes:
        given: Nanoseconds of running time its tasks have been given; never less than it was.
        credit: Nanoseconds that were counted and not used; they pay for the next tasks.
        number: In the order in which clients came.
        paused: Its tasks let others pass.
        lines: Where its tasks wait.
        turns: Its turns, by priority.
        last: The line to which its latest task went.
        tick: Grows whenever its tasks go to another line than the one before.
        queued: Whether it is among those of whom it is known what they have been given.
    """

    __slots__ = ("credit", "given", "last", "lines", "number", "paused", "queued", "tick", "turns")

    def __init__(self, number: int) -> None:
        self.number = number
        self.given = self.credit = self.tick = 0
        self.paused = self.queued = False
        self.lines: dict[Line[Any], None] = {}
        self.turns: dict[int, Turn] = {}
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
        turn: Whose tasks they are, and of which priority.
        again: Whether they are tasks that were at an engine before, and go before the others.
        serial: Different for each line.
    """

    __slots__ = (
        *("again", "book", "client", "closed", "entry", "key", "kinds", "parked"),
        *("priority", "runs", "serial", "stale", "tasks", "turn", "usual"),
    )

    def __init__(self, book: Book, key: Hashable, turn: Turn, *, again: bool, serial: int) -> None:
        self.book = book
        self.key = key
        self.turn = turn
        self.client = turn.client
        self.priority = turn.round.priority
        self.again = again
        self.serial = serial
        self.tasks: deque[T] = deque()
        #: Removed, and still in `tasks`.
        self.stale: set[T] = set()
        #: Tick and length of each run; that of the last is what is left, and `closed` the sum of the others'.
        self.runs: deque[list[int]] = deque()
        self.closed = 0
        self.kinds: dict[bytes, Kind] = {}
        #: Its place among the lines of its turn, and whether it has one on its shelf; neither if it is empty.
        self.entry: tuple[bool, int, Line[T]] | None = None
        self.parked = False
        #: Whether it is one that a client will want again.
        self.usual = book.needs is None and not self.priority and not again

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


class Shelf:
    """The lines of one priority in one book.

    Attributes:
        book: The book.
        lines, again: By client; those of tasks that were at an engine before are apart.
        parked: Lines that wait for the book to be opened, or have waited for that and not been wanted since.
        offer: Its entry in its round, by the first of these; None if it has none.
    """

    __slots__ = ("again", "book", "lines", "offer", "parked")

    def __init__(self, book: Book) -> None:
        self.book = book
        self.lines: dict[Hashable, Line[Any]] = {}
        self.again: dict[Hashable, Line[Any]] = {}
        #: By what the client had been given when the line was parked: never more than it has now.
        self.parked: list[tuple[int, int, int, Line[Any]]] = []
        self.offer: Entry | None = None

    def park(self, line: Line[Any]) -> None:
        """Put a line aside whose tasks can't go while the book is closed."""
        if line.parked:
            return
        if len(self.parked) > ENTRIES + 2 * (len(self.lines) + len(self.again)):
            for *_, other in self.parked:
                other.parked = bool(other.tasks)
            self.parked = [entry for entry in self.parked if entry[3].parked]
            heapify(self.parked)
        line.parked = True
        heappush(self.parked, (line.client.given, line.client.number, line.serial, line))


class Turn:
    """One client's lines of one priority, in all books.

    Attributes:
        client: The client.
        round: Where it takes its turn.
        count: How many lines there are, with tasks or without.
        lines: Those with tasks, by the order in which these came when that was looked at: never later than it is.
        entered: Whether it is in its round.
    """

    __slots__ = ("client", "count", "entered", "lines", "round")

    def __init__(self, client: Client, place: Round) -> None:
        self.client = client
        self.round = place
        self.count = 0
        self.lines: list[tuple[bool, int, Line[Any]]] = []
        self.entered = False

    def enter(self, line: Line[Any], lifo: bool) -> None:
        """Take in a line that has tasks; one whose book is closed is put on its shelf."""
        if line.book.closed:
            line.book.levels[line.priority].park(line)
            return
        entry = not line.again, -line.runs[-1][0] if lifo else line.runs[0][0], line
        if line.entry is None or entry[1] < line.entry[1]:
            line.entry = entry
            if len(self.lines) > ENTRIES + 2 * self.count:
                self._sweep()
            heappush(self.lines, entry)
        if not self.entered:
            self.round.enter(self)

    def _sweep(self) -> None:
        """Let go of entries that count for nothing."""
        kept = []
        for entry in self.lines:
            line = entry[2]
            if line.entry is entry:
                if line.tasks:
                    kept.append(entry)
                else:
                    line.entry = None
        self.lines = kept
        heapify(kept)

    def first(self, lifo: bool) -> Line[Any] | None:
        """Return the line whose first task is next; None if none can go now."""
        lines = self.lines
        while lines:
            entry = lines[0]
            line = entry[2]
            if line.entry is not entry:
                heappop(lines)
                continue
            if not line.tasks or line.book.closed:
                heappop(lines)
                line.entry = None
                if line.tasks:
                    line.book.levels[line.priority].park(line)
                continue
            if len(lines) == 1:
                return line
            line.trim(lifo)
            tick = -line.runs[-1][0] if lifo else line.runs[0][0]
            if tick == entry[1]:
                return line
            line.entry = not line.again, tick, line
            heapreplace(lines, line.entry)
        return None


class Round:
    """The turns of one priority, and whose it is: that of the client which has been given least.

    A book's shelf is in it too when the book was opened, and is taken for the first client that has a line there: the
    line is put into that client's turn, and the shelf's next one waits. So opening a book costs the same, however many
    lines it has.

    Attributes:
        priority: Higher goes first.
        count: How many turns there are, entered or not.
        entries: By what clients had been given when they were entered: never more than they have now.
    """

    __slots__ = ("_bound", "_serials", "count", "entries", "priority")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.count = 0
        self.entries: list[Entry] = []
        self._serials = 0
        self._bound = ENTRIES

    def enter(self, turn: Turn) -> None:
        """Let a client take its turn."""
        turn.entered = True
        self._serials += 1
        self._push((turn.client.given, turn.client.number, TURNS + self._serials, turn))

    def offer(self, shelf: Shelf) -> None:
        """Let the lines of a shelf be put into turns."""
        if shelf.parked:
            self._serials += 1
            given, number, _, _ = shelf.parked[0]
            shelf.offer = given, number, self._serials, shelf
            self._push(shelf.offer)

    def _push(self, entry: Entry) -> None:
        if len(self.entries) >= self._bound:
            self.entries = [other for other in self.entries if _counts(other)]
            heapify(self.entries)
            self._bound = ENTRIES + 2 * len(self.entries)
        heappush(self.entries, entry)

    def first(self, lifo: bool) -> Line[Any] | None:
        """Return the line whose first task is next; None if none can go now."""
        while self.entries:
            entries = self.entries
            given, number, serial, who = entry = entries[0]
            if serial < TURNS:
                heappop(entries)
                if who.offer is entry:
                    self._take_up(who, lifo)
                continue
            client = who.client
            if client.paused:
                heappop(entries)
                who.entered = False
            elif given < client.given and len(entries) > 1:
                heapreplace(entries, (client.given, number, serial, who))
            else:
                line: Line[Any] | None = who.first(lifo)
                if line is not None:
                    return line
                heappop(entries)
                who.entered = False
        return None

    def _take_up(self, shelf: Shelf, lifo: bool) -> None:
        """Put the first line of a shelf into its client's turn."""
        shelf.offer = None
        if shelf.book.closed:
            return
        _, _, _, line = heappop(shelf.parked)
        line.parked = False
        if line.tasks:
            line.turn.enter(line, lifo)
        self.offer(shelf)


def _counts(entry: Entry) -> bool:
    _, _, serial, who = entry
    return bool(who.lines) if serial >= TURNS else who.offer is entry and not who.book.closed


class Book:
    """All waiting tasks with the same needs.

    Attributes:
        needs: Theirs; None: they may run anywhere.
        levels: Its shelves, by priority.
        order: The priorities, highest first, each as its negative.
        closed: Whether it is known that no engine can take one of them now.
        candidates: The engines that may run them, for the scheduler; and of which `roster` they were.
    """

    __slots__ = ("candidates", "closed", "levels", "needs", "order", "roster")

    def __init__(self, needs: Needs | None) -> None:
        self.needs = needs
        self.levels: dict[int, Shelf] = {}
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

    def level(self, priority: int) -> Shelf:
        """Return the shelf of that priority, a new one if need be."""
        level = self.levels.get(priority)
        if level is None:
            level = self.levels[priority] = Shelf(self)
            insort(self.order, -priority)
        return level

    def drop(self, line: Line[Any]) -> None:
        """Forget an empty line."""
        level = self.levels[line.priority]
        del (level.again if line.again else level.lines)[line.key]
        line.client.lines.pop(line)
        if not level.lines and not level.again:
            level.offer = None
            del self.levels[line.priority]
            self.order.remove(-line.priority)
