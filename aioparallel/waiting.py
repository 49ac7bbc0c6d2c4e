"""The tasks that no engine has yet, and whose turn it is. Sans-I/O.

Rules:

1. Tasks with the same needs stand in one Book. An engine is looked for once for all of them: while none is to be had
   the book is closed, and costs nothing however many wait in it.
2. The highest priority goes first, whoever's it is. Among clients with tasks of one priority it is the turn of the one
   whose tasks have been given the least running time. Who had nothing waiting is owed nothing for that time.
3. One client's tasks of one priority keep the order in which they came, also when they stand in several books: a line
   is made of runs, each with the moment (tick) since when the client's tasks came to this line and to no other.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, TypeVar

from aioparallel.lines import Book, Client, Kind, Line, Round, Turn
from aioparallel.needs import Needs

__all__ = ["Waiting"]

T = TypeVar("T", bound=Hashable)

#: Clients that are remembered, before those with nothing waiting are forgotten.
CLIENTS = 256
#: Removed tasks that a line may hold before it is looked whether they are the greater part of it.
STALE = 16


class Waiting(Generic[T]):
    """Waiting tasks, and which is next.

    Args:
        lifo: Whether the latest of a client's equal tasks is next.

    Attributes:
        where: The kind of each waiting task.
        books: By needs, without the one for anywhere.
        anywhere: The book of tasks that may run anywhere; it is never closed.
        open: The books that are not closed.
    """

    def __init__(self, *, lifo: bool = False) -> None:
        self.lifo = lifo
        self.where: dict[T, Kind] = {}
        self.anywhere = Book(None)
        self.books: dict[Needs, Book] = {}
        self.open: dict[Book, None] = {self.anywhere: None}
        self.clients: dict[Hashable, Client] = {}
        self._rounds: dict[int, Round] = {}
        #: The rounds, that of the highest priority first, each as the negative of that.
        self._order: list[int] = []
        #: Everyone who waits, and maybe some who don't any more, by what they had been given when it was looked at.
        self._queued: list[tuple[int, int, Client]] = []
        #: The most that anyone has been given.
        self._most = 0
        self._numbers = self._serials = 0
        self._sweep = CLIENTS

    def __len__(self) -> int:
        return len(self.where)

    def __repr__(self) -> str:
        return f"<Waiting of {len(self)} of {len(self.clients)} clients>"

    def add(
        self, task: T, client: Hashable, label: bytes, priority: int, needs: Needs | None, again: bool = False
    ) -> Line[T]:
        """Put a task at the end of its line; return that."""
        book = self.anywhere if needs is None else self._book(needs)
        level = book.levels.get(priority)
        known = None if level is None else (level.again if again else level.lines).get(client)
        line: Line[T] = self._line(book, client, priority, again) if known is None else known
        if line.stale and task in line.stale:
            # It must not stand in two places.
            line.compact()
        if not line.tasks and not (len(self._queued) == 1 and line.client.queued and line.client.given == self._most):
            # But for one client whose tasks come one by one: nobody has been given more.
            self._begin(line.client)
        if line.client.last is not line:
            line.begin_run()
            if self.lifo and line.entry is not None:
                line.turn.enter(line, True)
        kind = line.kinds.get(label)
        self.where[task] = line.kind(label) if kind is None else kind
        line.tasks.append(task)
        if (line.entry is None or not line.turn.entered) and not line.parked:
            line.turn.enter(line, self.lifo)
        return line

    def remove(self, task: T) -> Kind | None:
        """Forget a task; return its kind, or None if it does not wait."""
        kind = self.where.pop(task, None)
        if kind is None:
            return None
        line = kind.line
        line.stale.add(task)
        stale, tasks = len(line.stale), len(line.tasks)
        if stale == tasks or stale > STALE + tasks // 2:
            line.compact()
        if not line.tasks and not line.usual:
            self._end(line)
        return kind

    def first(self) -> Line[T] | None:
        """Return the line whose first task is next, among books that are open; None if nothing can go now."""
        if len(self._order) == 1:
            # The usual case first: one line is all there is.
            entries = self._rounds[self._order[0]].entries
            if len(entries) == 1 and type(turn := entries[0][3]) is Turn and len(turn.lines) == 1:
                line: Line[T] | None = turn.lines[0][2]
                if line is not None and line.tasks and not (line.book.closed or line.client.paused):
                    return line
        for priority in self._order:
            line = self._rounds[priority].first(self.lifo)
            if line is not None:
                return line
        return None

    def take(self, line: Line[T]) -> tuple[T, Kind]:
        """Take the next task out of a line that has one."""
        # The usual case first: nothing was removed, and no order with other lines is to be kept.
        if not (line.stale or self.lifo or len(line.runs) > 1):
            task = line.tasks.popleft()
        else:
            line.trim(self.lifo)
            task = line.pop_last() if self.lifo else line.pop_first()
        if len(line.tasks) == len(line.stale):
            if line.stale:
                line.compact()
            if not line.usual:
                self._end(line)
        return task, self.where.pop(task)

    def close(self, book: Book) -> None:
        """Pass a book over until it is opened again."""
        book.closed = True
        del self.open[book]

    def reopen(self, book: Book) -> None:
        """Look at a book again."""
        if book.closed:
            book.closed = False
            if book.levels:
                self.open[book] = None
            for priority, shelf in book.levels.items():
                self._rounds[-priority].offer(shelf)

    def charge(self, client: Client, nanoseconds: int) -> None:
        """Count running time that a client is given; what is less than nothing becomes its credit."""
        if nanoseconds <= 0:
            client.credit -= nanoseconds
            return
        if client.credit:
            # Never for nothing: turns would not change, and others with as little would wait.
            paid = client.credit if client.credit < nanoseconds else nanoseconds - 1
            client.credit -= paid
            nanoseconds -= paid
        given = client.given = client.given + nanoseconds
        if given > self._most:
            self._most = given

    def pause(self, key: Hashable) -> None:
        """Let others pass a client's tasks."""
        self._client(key).paused = True

    def resume(self, key: Hashable) -> list[Line[T]]:
        """A client's tasks take their turns again, as a newcomer's; return their lines."""
        client = self.clients.get(key)
        if client is None or not client.paused:
            return []
        client.paused = False
        self._join(client)
        for turn in client.turns.values():
            if turn.lines and not turn.entered:
                turn.round.enter(turn)
        return [line for line in client.lines if line.tasks]

    def trim(self) -> None:
        """Let go of memory that tasks took which wait no more: a dict keeps its table when it is emptied."""
        self.where = dict(self.where)

    def forget(self, key: Hashable) -> None:
        """A client is gone: no turns are kept for it, but tasks that still wait keep theirs."""
        self.resume(key)
        client = self.clients.get(key)
        if client is not None and not client.waits:
            self._drop({key: client})

    def _book(self, needs: Needs) -> Book:
        book = self.books.get(needs)
        if book is None:
            book = self.books[needs] = Book(needs)
            self.open[book] = None
        return book

    def _line(self, book: Book, key: Hashable, priority: int, again: bool) -> Line[T]:
        client = self._client(key)
        turn = client.turns.get(priority)
        if turn is None:
            turn = client.turns[priority] = self._turn(client, priority)
        turn.count += 1
        self._serials += 1
        line: Line[T] = Line(book, key, turn, again=again, serial=self._serials)
        level = book.level(priority)
        (level.again if again else level.lines)[key] = line
        client.lines[line] = None
        return line

    def _turn(self, client: Client, priority: int) -> Turn:
        found = self._rounds.get(-priority)
        if found is None:
            found = self._rounds[-priority] = Round(priority)
            insort(self._order, -priority)
        found.count += 1
        return Turn(client, found)

    def _forget(self, line: Line[T]) -> None:
        """Let go of an empty line, and of what is there for it alone."""
        line.book.drop(line)
        # What knows it in turn would keep it until the garbage collector comes.
        line.kinds.clear()
        line.entry = None
        turn = line.turn
        turn.count -= 1
        if not turn.count:
            del turn.client.turns[line.priority]
            turn.round.count -= 1
            if not turn.round.count:
                del self._rounds[-line.priority]
                self._order.remove(-line.priority)

    def _client(self, key: Hashable) -> Client:
        client = self.clients.get(key)
        if client is None:
            if len(self.clients) >= self._sweep:
                clients = self.clients.items()
                self._drop({name: idle for name, idle in clients if not idle.waits and not idle.paused})
                self._sweep = CLIENTS + 2 * len(self.clients)
            self._numbers += 1
            client = self.clients[key] = Client(self._numbers)
        return client

    def _drop(self, clients: Mapping[Hashable, Client]) -> None:
        """Forget clients that have nothing waiting."""
        for key, client in clients.items():
            for line in list(client.lines):
                self._forget(line)
            del self.clients[key]
        gone = {client.number for client in clients.values() if client.queued}
        if gone:
            self._queued = [entry for entry in self._queued if entry[1] not in gone]
            heapify(self._queued)

    def _begin(self, client: Client) -> None:
        """An empty line of a client is about to get a task."""
        if not client.waits:
            self._join(client)

    def _join(self, client: Client) -> None:
        """A client has nothing waiting and is about to: what it did not use in the meantime is not owed to it.

        It begins with the least that anyone who waits has been given; if nobody waits, the past is forgotten.
        """
        least = self._least_of_others(client)
        client.given = max(client.given, self._most if least is None else least)
        if not client.queued:
            client.queued = True
            heappush(self._queued, (client.given, client.number, client))

    def _least_of_others(self, client: Client) -> int | None:
        """Return the least that anyone has been given who waits and reads, but for one client; None if nobody does."""
        queued = self._queued
        while queued:
            given, number, other = queued[0]
            if other is client or other.paused or not other.waits:
                heappop(queued)
                other.queued = False
            elif given < other.given:
                heapreplace(queued, (other.given, number, other))
            else:
                return given
        return None

    def _end(self, line: Line[T]) -> None:
        """A line has got empty, and is not the usual one of a client, which will be wanted again."""
        book = line.book
        self._forget(line)
        if not book.levels and book.needs is not None:
            del self.books[book.needs]
            self.open.pop(book, None)
