"""How `map` of tasks goes over its input: in chunks that adapt to how long they take, within a window."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from aioparallel.results import name_of, outputs, value_of
from aioparallel.wire import Frame

__all__ = ["Chunks", "Mapping"]

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
    """

    def __init__(self, iterables: tuple[Iterable[Any], ...], chunksize: int | None, engines: int) -> None:
        if chunksize is not None and (not isinstance(chunksize, int) or chunksize < 1):
            raise ValueError(f"chunksize is a number of items from 1 on, or None, not {chunksize!r}")
        self._rows = zip(*iterables, strict=False)
        self._adaptive = chunksize is None
        self._size = chunksize or 1
        self._engines = max(1, engines)
        try:
            self._left: float = min(len(iterable) for iterable in iterables)  # type: ignore[arg-type]
        except TypeError:
            self._left = math.inf

    def __repr__(self) -> str:
        return f"<Chunks of {self._size}, {self._left} items left>"

    def take(self) -> list[tuple[Any, ...]]:
        """Return the next rows; none are left when it is empty."""
        size = self._size
        if self._adaptive and not math.isinf(self._left):
            # Towards the end chunks shrink, so that all engines finish together.
            size = max(1, min(size, math.ceil(self._left / (3 * self._engines))))
        rows = list(islice(self._rows, size))
        self._left -= len(rows)
        return rows

    def learn(self, size: int, seconds: float) -> None:
        """Take note that a chunk of `size` items took `seconds` on its engine."""
        if self._adaptive and size:
            wanted = CHUNK_SECONDS * size / max(seconds, 1e-9)
            self._size = max(1, min(int(wanted), size * CHUNK_GROWTH, 2**20))


class Mapping:
    """One `map` under way: chunks of calls in, values out, at most `window` chunks at once."""

    def __init__(
        self, calls: Any, f: Callable[..., Any], iterables: tuple[Iterable[Any], ...], chunksize: int | None
    ) -> None:
        if not callable(f):
            raise TypeError(f"{f!r} can't be called")
        if not iterables:
            raise TypeError("map needs at least one iterable")
        engines = calls._engine_count()
        self._calls = calls
        self._f = f
        self._chunks = Chunks(iterables, chunksize, engines)
        self._window = 3 * max(1, engines) + 1
        self.pending: deque[Any] = deque()
        self._sizes: dict[Any, int] = {}
        try:
            self.fill()
        except BaseException:
            self.cancel()
            raise

    def fill(self) -> None:
        """Send chunks until the window is full or the input is at its end."""
        while len(self.pending) < self._window and (rows := self._chunks.take()):
            columns = tuple(map(list, zip(*rows, strict=True)))
            handle = self._calls._task(("map", self._f, columns), _timed, label="map " + name_of(self._f))
            self._sizes[handle] = len(rows)
            self.pending.append(handle)

    def settled(self, handle: Any, answer: tuple[list[Any], float]) -> list[Any]:
        """A chunk is done: learn from it, send more, return its values."""
        values, seconds = answer
        self._chunks.learn(self._sizes.pop(handle), seconds)
        self.fill()
        return values

    def cancel(self) -> None:
        """Withdraw what is not done."""
        for handle in self.pending:
            handle.cancel()
        self.pending.clear()


def _timed(frames: list[Frame]) -> tuple[Any, float]:
    return value_of(frames[-1], "map"), outputs(frames[-1])[1]
