"""What a transport does not take at once: written when it does; whether it is too much, or stuck."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aioparallel.outbox import Outbox
from aioparallel.wire import Buffer, Limits

__all__ = ["TAKES", "Drain"]

#: What is taken from the outbox in one turn of the loop at most, so many times: a fast reader must not keep us busy.
TAKES = 4


class Drain:
    """Writes what waits on a connection, as its transport takes it.

    The transport is given little in advance, so that small frames need not wait for what is large.

    Args:
        limits: The bounds.
        weighed: Called with True when more than `Limits.outbox` waits, and with False when it is half of that again.

    Attributes:
        outbox: What waits.
        paused: Whether the transport has enough for now.
    """

    def __init__(self, limits: Limits, weighed: Callable[[bool], None]) -> None:
        self.outbox = Outbox(limits)
        self.paused = False
        self._limits = limits
        self._weighed = weighed
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._gathers = False
        self._congested = False
        self._writing = self._scheduled = False
        #: What waits elsewhere, bytes.
        self._lent = 0
        #: What is done when nothing waits any more.
        self._emptied: Callable[[], None] | None = None
        self._stuck_since: tuple[float, int] | None = None

    def __repr__(self) -> str:
        return f"<Drain {'paused' if self.paused else 'flowing'}, {self.outbox.size} bytes to write>"

    def begin(self, transport: Any) -> None:
        """Write to this transport."""
        transport.set_write_buffer_limits(high=self._limits.piece)
        # The default joins the pieces: that copies them, which under TLS is less work than a record more.
        joins = type(transport).writelines is asyncio.WriteTransport.writelines
        # asyncio's own, where it gathers (3.12.0 to 3.13.0 at least), does not tell when the transport has enough.
        own = type(self._loop) is asyncio.SelectorEventLoop and transport.get_extra_info("ssl_object") is None
        self._gathers = not own and (not joins or transport.get_extra_info("ssl_object") is not None)
        self._transport = transport

    def go_on(self) -> None:
        """Write what waits for as long as the transport takes it; the rest in the next turn of the loop."""
        if self._transport is None or self._writing:
            return
        outbox = self.outbox
        self._writing = True
        try:
            for _ in range(TAKES):
                if self.paused or not outbox:
                    break
                self._write(outbox.take())
        finally:
            self._writing = False
        if outbox and not self.paused and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._next_turn)
        self.weigh()
        if self._emptied is not None and not outbox:
            self._emptied()

    def weigh(self, lent: int = 0) -> None:
        """Find out whether too much waits for the far end.

        Args:
            lent: So many bytes more (or fewer) wait elsewhere from now on, and count as if they waited here.
        """
        self._lent += lent
        waiting = self.outbox.excess + self._lent
        if self._congested:
            if waiting <= self._limits.outbox // 2:
                self._congested = False
                self._weighed(False)
        elif waiting > self._limits.outbox:
            self._congested = True
            self._weighed(True)

    def pause(self) -> None:
        """The transport has enough for now."""
        self.paused = True

    def resume(self) -> None:
        """The transport takes more."""
        self.paused = False
        self._stuck_since = None
        self.go_on()

    def is_stuck(self, now: float) -> bool:
        """Whether a transport that has enough has got rid of none of it for `Limits.stuck` seconds."""
        if not self.paused or self._transport is None:
            return False
        left = self._transport.get_write_buffer_size()
        if self._stuck_since is None or self._stuck_since[1] != left:
            self._stuck_since = now, left
        return now - self._stuck_since[0] > self._limits.stuck

    def finish(self, emptied: Callable[[], None]) -> None:
        """Call `emptied` as soon as nothing waits any more; now something does."""
        self._emptied = emptied

    def end(self) -> None:
        """Forget everything: none of it will leave."""
        self._transport = None
        self.outbox.clear()
        self._lent = 0

    def _next_turn(self) -> None:
        self._scheduled = False
        self.go_on()

    def _write(self, pieces: list[Buffer]) -> None:
        transport = self._transport  # the first piece may end the connection
        if self._gathers:
            transport.writelines(pieces)
        else:
            for piece in pieces:
                transport.write(piece)
