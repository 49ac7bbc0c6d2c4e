"""A connection of a simulation: how long bytes take, and what can befall them on their way."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator

from aioparallel.transports.memory import MemoryEnd

__all__ = ["Link"]

#: Called with the direction and the bytes, as the controller knows of them: of those that go "up" to it when they
#: arrive, of those that it sends "down" at once; with none at the end.
Tap = Callable[[str, memoryview], None]


class Link:
    """The connection of one who dialled the controller, in both directions. Bytes are never lost alone, as with TCP.

    Args:
        near: The end of who dialled.
        far: The controller's end.
        delay: Returns how long the next bytes take, seconds; they keep their order.
        tap: Called with all that passes.
    """

    def __init__(self, near: MemoryEnd, far: MemoryEnd, delay: Callable[[], float], tap: Tap) -> None:
        self._near, self._far = near, far
        self._up = _Lane("up", near, delay, tap)
        self._down = _Lane("down", far, delay, tap)

    def __repr__(self) -> str:
        return f"<Link {'open' if self.is_open else 'closed'}>"

    @property
    def is_open(self) -> bool:
        """Whether the controller's end is."""
        return not self._far.is_closing()

    def cut(self) -> None:
        """End the connection at both ends, and lose what is on its way."""
        for lane in (self._up, self._down):
            lane.close()
        # What has arrived in this turn is read before.
        asyncio.get_running_loop().call_soon(self._abort)

    def _abort(self) -> None:
        for end in (self._near, self._far):
            end.abort()

    @contextlib.contextmanager
    def black_hole(self) -> Iterator[None]:
        """Let nothing through, and nobody know; at the end of the `with` what was held up arrives."""
        with self._up.held(), self._down.held():
            yield

    @contextlib.contextmanager
    def slowed(self, seconds: float = 0.0, rate: float = 0.0) -> Iterator[None]:
        """Let everything take longer.

        Args:
            seconds: What is sent meanwhile arrives that much later.
            rate: … and at so many bytes a second at most; 0: no bound.
        """
        with self._up.slowed(seconds, rate), self._down.slowed(seconds, rate):
            yield

    @contextlib.contextmanager
    def not_read(self) -> Iterator[None]:
        """Have the end of who dialled read nothing, as a process that is stopped or busy."""
        with self._down.held():
            yield

    def send_up(self, data: bytes) -> None:
        """Send the controller bytes that the far end has not sent."""
        if not self._near.is_closing():
            self._near.write(data)


class _Lane:
    """One direction."""

    def __init__(self, direction: str, end: MemoryEnd, delay: Callable[[], float], tap: Tap) -> None:
        self._loop = asyncio.get_running_loop()
        self._direction = direction
        self._delay = delay
        self._tap = tap
        self._under_way: deque[tuple[float, memoryview, Callable[[], None]]] = deque()
        self._timer: asyncio.Handle | None = None
        self._last = 0.0
        self._holds = 0
        #: What slows it down at the moment: seconds, and bytes a second.
        self._slow: list[tuple[float, float]] = []
        self._closed = False
        end.way = self._carry

    def _carry(self, piece: memoryview, arrive: Callable[[], None]) -> None:
        if self._closed:
            return
        if self._direction == "down":
            self._tap("down", piece)
        due = self._loop.time() + self._delay()
        for seconds, rate in self._slow:
            due = max(due, self._last) + seconds + (len(piece) / rate if rate else 0.0)
        self._last = max(due, self._last)
        self._under_way.append((self._last, piece, arrive))
        if self._timer is None:
            self._go_on()

    def _go_on(self) -> None:
        """Let arrive what is due, each in a turn of the loop of its own, and come back for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._under_way or self._holds:
            return
        due, piece, arrive = self._under_way[0]
        if due > self._loop.time():
            self._timer = self._loop.call_at(due, self._go_on)
            return
        self._under_way.popleft()
        if self._direction == "up":
            self._tap("up", piece)
        self._timer = self._loop.call_soon(self._go_on)
        arrive()

    def close(self) -> None:
        """Let nothing through any more."""
        self._closed = True
        self._under_way.clear()
        self._go_on()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let nothing through for a while."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._go_on()

    @contextlib.contextmanager
    def slowed(self, seconds: float, rate: float) -> Iterator[None]:
        """Let things take longer for a while."""
        slow = seconds, rate
        self._slow.append(slow)
        try:
            yield
        finally:
            self._slow.remove(slow)
