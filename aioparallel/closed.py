"""Tasks that no engine can take now, and the engines that are kept for them meanwhile. Sans-I/O.

Rules:

1. A book that no engine can take a task of is closed: it is passed over until an engine of those that may has less to
   do, or engines come or go.
2. If it is closed for want of resources that are in use, it claims the engine that is nearest to having enough of them:
   as long as the book is closed, that engine is given no task that holds some of them too, unless of a higher priority.
   So who needs much of a resource is not passed for ever by those who need little of it.
3. Who has a higher priority may be let in where others of the book are not: so it is opened for them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from aioparallel.lines import Book, Line
from aioparallel.room import Engine
from aioparallel.waiting import Waiting

__all__ = ["Closed"]

T = TypeVar("T", bound=Hashable)


class Closed(Generic[T]):
    """The closed books.

    Args:
        waiting: All books.
    """

    def __init__(self, waiting: Waiting[T]) -> None:
        self._waiting = waiting
        #: By the engines that may open them, or by None: any.
        self._books: dict[int | None, dict[Book, None]] = {}
        #: The priority at which each was closed.
        self._priorities: dict[Book, int] = {}
        #: What is claimed.
        self._claims: dict[Book, Engine[T]] = {}

    def __repr__(self) -> str:
        return f"<Closed: {len(self._priorities)} books, {len(self._claims)} claims>"

    def __bool__(self) -> bool:
        return bool(self._books)

    def books(self) -> list[Book]:
        """Return the closed books."""
        return list(self._priorities)

    def close(self, book: Book, priority: int, candidates: Sequence[Engine[T]]) -> None:
        """No engine can take a book's tasks now: pass it over until one may.

        Args:
            book: The book.
            priority: That of its next task.
            candidates: The engines that may ever run it, and are not paused.
        """
        self._waiting.close(book)
        self._priorities[book] = priority
        for key in _keys(book):
            self._books.setdefault(key, {})[book] = None
        needs = book.needs
        short = [engine for engine in candidates if not engine.spare(needs)] if needs is not None else []
        if needs is not None and short:
            # Who claims it next, when this one is opened, sees what is missing get ever less: so that ends.
            nearest = min(short, key=lambda engine: (len(engine.claims), engine.missing(needs), engine.load))
            nearest.claims[book] = priority
            self._claims[book] = nearest

    def open(self, book: Book) -> None:
        """Look at a book again."""
        claimed = self._take_out(book)
        if claimed is not None:
            self.room_at(claimed)

    def open_for(self, line: Line[T]) -> None:
        """A line has tasks that may go: open its book if they have a higher priority than was looked at before."""
        priority = self._priorities.get(line.book)
        if priority is not None and line.priority > priority:
            self.open(line.book)

    def open_all(self) -> None:
        """Look at all of them again."""
        for book in self.books():
            self._take_out(book)

    def room_at(self, engine: Engine[T]) -> None:
        """An engine has less to do, or is not kept for a book any more: open the books whose tasks it may run."""
        engines = [engine]
        while engines:
            engine = engines.pop()
            if engine.paused or not engine.has_room():
                continue
            for key in (engine.id, None):
                for book in list(self._books.get(key, ())):
                    if engine.may_run(book.needs):
                        claimed = self._take_out(book)
                        if claimed is not None and claimed is not engine:
                            engines.append(claimed)

    def _take_out(self, book: Book) -> Engine[T] | None:
        """Open a book; return the engine that was kept for it, which others may want now."""
        for key in _keys(book):
            books = self._books[key]
            del books[book]
            if not books:
                del self._books[key]
        del self._priorities[book]
        claimed = self._claims.pop(book, None)
        if claimed is not None:
            del claimed.claims[book]
        self._waiting.reopen(book)
        return claimed


def _keys(book: Book) -> list[int | None]:
    """Return the ids of the engines that may open a closed book, or None for any."""
    if book.needs is None or book.needs.engines is None:
        return [None]
    return [*sorted(book.needs.engines)] or [None]
