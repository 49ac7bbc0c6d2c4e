"""How `map` of tasks goes over its input: in chunks that adapt to how long they take, within a window."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from aioparallel.progress import Bar, Listener, Progress
from aioparallel.results import name_of, outputs
from aioparallel.submission import value_in
from aioparallel.wire import Frame

__all__ = ["Chunks", "Mapper", "Mapping", "check_chunksize"]

#: Seconds of running time that `map` wants a chunk to take.
CHUNK_SECONDS = 0.05
#: How much larger a chunk may be than the one it learns from.
CHUNK_GROWTH = 16


class Chunks:
    """The input of a `map`, cut into chunks that take about `CHUNK_SECONDS` each. Sans-I/O.

    The first chunks are of one item, since its length is not known; what they took decides the next.

    Args:
        iterables: As for the builtin `map`; consumed no further than what has been asked for.
        chunksize: Items a chunk, or None to adapt.
        engines: How many engines share the work.

    Attributes:
        left: How many items are left; infinity if nobody knows.
    """

    def __init__(self, iterables: tuple[Iterable[Any], ...], chunksize: int | None, engines: int) -> None:
        check_chunksize(chunksize)
        self._rows = zip(*iterables, strict=False)
        self._adaptive = chunksize is None
        self._size = chunksize or 1
        self._engines = max(1, engines)
        try:
            self.left: float = min(len(iterable) for iterable in iterables)  # type: ignore[arg-type]
        except TypeError:
            self.left = math.inf

    def __repr__(self) -> str:
        return f"<Chunks of {self._size}, {self.left} items left>"

    def take(self) -> list[tuple[Any, ...]]:
        """Return the next rows; none are left when it is empty."""
        size = self._size
        if self._adaptive and not math.isinf(self.left):
            # Towards the end chunks shrink, so that all engines finish together.
            size = max(1, min(size, math.ceil(self.left / (3 * self._engines))))
        rows = list(islice(self._rows, size))
        self.left -= len(rows)
        return rows

    def learn(self, size: int, seconds: float) -> None:
        """Take note that a chunk of `size` items took `seconds` on its engine."""
        if self._adaptive and size:
            wanted = CHUNK_SECONDS * size / max(seconds, 1e-9)
            self._size = max(1, min(int(wanted), size * CHUNK_GROWTH, 2**20))


def check_chunksize(chunksize: int | None) -> None:
    """Refuse what can't be a size of chunks.

    Raises:
        ValueError: It is neither None nor a number from 1 on.
    """
    if chunksize is not None and (not isinstance(chunksize, int) or isinstance(chunksize, bool) or chunksize < 1):
        raise ValueError(f"chunksize is a number of items from 1 on, or None, not {chunksize!r}")


class Mapping:
    """One `map` under way: chunks of calls in, values out, so many chunks at once as keep the engines busy.

    Args:
        calls: Who submits tasks.
        f: What is called.
        iterables: Its arguments.
        chunksize: Items a chunk, or None to adapt.
        listener: Told how far it has come.

    Raises:
        TypeError: `f` can't be called; there are no iterables, or one of them is none.
        ValueError: `chunksize` is not a number from 1 on.

    Attributes:
        pending: The futures of chunks whose values have not been taken, in order.
    """

    def __init__(
        self,
        calls: Any,
        f: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        chunksize: int | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._calls = calls
        self._f = f
        self._chunks = Chunks(iterables, chunksize, calls._engine_count())
        self._total = None if math.isinf(self._chunks.left) else int(self._chunks.left)
        self._listener = listener
        self._done = 0
        self.pending: deque[Any] = deque()
        self._sizes: dict[Any, int] = {}
        try:
            self.fill()
        except BaseException:
            self.cancel()
            raise

    def __repr__(self) -> str:
        return f"<Mapping of {name_of(self._f)}: {self._done} done, {sum(self._sizes.values())} under way>"

    def fill(self) -> None:
        """Send chunks until the window is full or the input is at its end."""
        # Engines may come and go meanwhile.
        window = 3 * max(1, self._calls._engine_count()) + 1
        while len(self.pending) < window and (rows := self._chunks.take()):
            columns = tuple(map(list, zip(*rows, strict=True)))
            future = self._calls._task(("map", self._f, columns), _timed, label="map " + name_of(self._f))
            self._sizes[future] = len(rows)
            self.pending.append(future)
        self._tell()

    def settled(self, future: Any, answer: tuple[list[Any], float]) -> list[Any]:
        """A chunk is done: learn from it, send more, return its values."""
        values, seconds = answer
        size = self._sizes.pop(future)
        self._done += size
        self._chunks.learn(size, seconds)
        self.fill()
        return values

    def cancel(self) -> None:
        """Withdraw what is not done; there is no more to tell."""
        for future in self.pending:
            future.cancel()
        self.pending.clear()
        self._sizes.clear()
        listener, self._listener = self._listener, None
        if isinstance(listener, Bar):
            listener.close()

    def _tell(self) -> None:
        if self._listener is not None:
            ready = sum(size for future, size in self._sizes.items() if future.done())
            running = sum(self._sizes.values()) - ready
            self._listener(Progress(self._done + ready, self._total, running))


def _timed(frames: list[Frame]) -> tuple[Any, float]:
    return value_in(frames, "map"), outputs(frames[-1])[1]


@dataclass(frozen=True, slots=True)
class Mapper:
    """A `map` with its options chosen once; made by `TaskClient.mapper`.

    Attributes:
        tasks: Who submits.
        chunksize, ordered, progress: As for `TaskClient.map`.
    """

    tasks: Any
    chunksize: int | None = None
    ordered: bool = True
    progress: Any = None

    def map(self, f: Callable[..., Any], /, *iterables: Iterable[Any]) -> Any:
        """Do what the client's `map` does, with these options.

        Raises:
            TypeError, ValueError: As that.
        """
        return self.tasks.map(f, *iterables, chunksize=self.chunksize, ordered=self.ordered, progress=self.progress)
