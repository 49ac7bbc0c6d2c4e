"""When what was sent leaves: at the end of a turn of the loop, or at once for a lone frame.

Under load many frames come in one read and many reads in one turn: what they cause leaves in one write a
connection. A frame that comes alone is somebody waiting for its answer, and another turn of the loop would cost more
than it gathers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

__all__ = ["Turn"]

logger = logging.getLogger(__name__)

#: One for each loop that is in use; those of closed loops go when the next one is made.
_turns: dict[asyncio.AbstractEventLoop, Turn] = {}


class Turn:
    """What is due at the end of a turn on one loop: mostly to write. Get it with `Turn.of_running_loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call_soon = loop.call_soon
        self._due: list[Callable[[], None]] = []
        self._scheduled = False
        self._held = False

    def __repr__(self) -> str:
        return f"<Turn with {len(self._due)} flushes due>"

    @classmethod
    def of_running_loop(cls) -> Turn:
        """Return the running loop's."""
        loop = asyncio.get_running_loop()
        turn = _turns.get(loop)
        if turn is None:
            # Not left to weak references: a turn refers to its loop.
            for closed in [known for known in _turns if known.is_closed()]:
                del _turns[closed]
            turn = _turns[loop] = cls(loop)
        return turn

    def due(self, flush: Callable[[], None]) -> None:
        """Have `flush` called at the end; what it makes due follows in the same turn."""
        self._due.append(flush)
        if not self._scheduled and not self._held:
            self._scheduled = True
            self._call_soon(self._end)

    def deliver(self, handler: Callable[[list[Any]], None], frames: list[Any]) -> None:
        """Give the frames of one read to who handles them; for a single one the turn ends with it."""
        if len(frames) > 1 or self._held:
            handler(frames)
            return
        self._held = True
        try:
            handler(frames)
        finally:
            self._held = False
            self._flush()

    def _end(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        """Do what is due, and what becomes due by that."""
        while self._due:
            due, self._due = self._due, []
            self._held = True
            for place, flush in enumerate(due):
                try:
                    flush()
                except Exception:
                    logger.exception("what was due at the end of a turn could not be done")
                except BaseException:
                    # Ctrl-C in a program that runs the loop itself: the others' turn is the next one.
                    self._held = False
                    late, self._due = [*due[place + 1 :], *self._due], []
                    for other in late:
                        self.due(other)
                    raise
            self._held = False
