"""How log records leave a kernel: from any thread, which never waits, by one that may have to."""

from __future__ import annotations

import _thread
from collections import deque
from collections.abc import Callable
from typing import Any

from aioparallel.wire import SMALL, Kind, News, encode

__all__ = ["Outlet"]

#: Most records that wait; when there are more the oldest go, since the newest tell how many are missing.
RECORDS = 500


class Outlet:
    """Records on their way out.

    User code may be interrupted at any line, also of ours: so `send` takes no lock, which would stay taken.

    Args:
        flush: Has what waits written; called in a thread of ours, which may wait for the socket.
        start: Starts a thread.
        largest: Most bytes of a record; those with more are left out.

    Attributes:
        waiting: The frames that have not left.
    """

    def __init__(self, flush: Callable[[], None], start: Callable[[Callable[[], None]], None], *, largest: int) -> None:
        self.waiting: deque[bytes] = deque(maxlen=RECORDS)
        self._flush = flush
        self._start = start
        self._largest = min(largest, SMALL)
        # Let go of when something waits; the thread takes it.
        self._bell = _thread.allocate_lock()
        self._bell.acquire()
        self._is_open = False
        #: The number of the thread that attends, or of the next.
        self._turn = 0

    def __repr__(self) -> str:
        return f"<Outlet {'open' if self._is_open else 'shut'}, {len(self.waiting)} records waiting>"

    def open(self) -> None:
        """Have what is sent leave by itself."""
        if not self._is_open:
            self._turn += 1
            number = self._turn
            self._start(lambda: self._attend(number))
            self._is_open = True

    def send(self, session: int, header: bytes) -> None:
        """Send a record to the client of a session, soon."""
        if len(header) <= self._largest:
            frame: Any = encode(Kind.NOTICE, session, code=News.RECORD, header=header)
            self.waiting.append(b"".join(frame))
            self._ring()

    def shut(self) -> None:
        """Have the thread end; what waits leaves with the next answer."""
        self._is_open = False
        self._turn += 1
        self._ring()

    def take(self) -> list[bytes]:
        """Take out what waits; one thread at a time."""
        return [self.waiting.popleft() for _ in range(len(self.waiting))]

    def abandon(self) -> None:
        """Drop what waits and all that will be sent: this is a child that user code has forked."""
        self.waiting = deque(maxlen=0)

    def _ring(self) -> None:
        # It may ring already.
        try:
            self._bell.release()
        except RuntimeError:
            return

    def _attend(self, number: int) -> None:
        while number == self._turn:
            self._bell.acquire()
            self._flush()
        # It may have rung for the next one.
        self._ring()
