"""Payloads that both ends of a connection find in shared memory: offered, opened, held until then."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from aioparallel.errors import ProtocolError
from aioparallel.memory import Handover, Segment, span
from aioparallel.wire import SHARED, Frame, Kind, Limits, Sendable, encode

__all__ = ["Lending"]


class Lending:
    """What a connection does about shared memory.

    Args:
        limits: The bounds.
        send: Sends frames, given as pieces.
        send_along: Sends them with whatever is sent next.
        weigh: Told how many bytes more, or fewer, the far end has yet to open.

    Attributes:
        handover: Whether each end can open what the other one holds.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        send: Callable[[Iterable[Sendable]], None],
        send_along: Callable[[Iterable[Sendable]], None],
        weigh: Callable[[int], None],
    ) -> None:
        self.handover = Handover()
        self._limits = limits
        self._send = send
        self._send_along = send_along
        self._weigh = weigh
        self._hurry = True
        #: What lies in segments that the far end has not opened yet, by id and engine, and how much, bytes.
        self._lent: dict[tuple[int, int], tuple[Segment | None, int]] = {}

    def __repr__(self) -> str:
        return f"<Lending {len(self._lent)} results, {self.handover!r}>"

    def offer(self, token: bytes, *, hurry: bool) -> None:
        """Offer the far end to open what is held here.

        Args:
            token: Random bytes.
            hurry: Whether the last word leaves at once, or with whatever is sent next.
        """
        self._hurry = hurry
        if self._limits.share and (offer := self.handover.offer(token)) is not None:
            self._send(encode(Kind.MEMORY, header=json.dumps(offer).encode()))

    def forward(self, frame: Frame, kind: int, number: int, *, code: int, flags: int, engine: int) -> list[Sendable]:
        """Return what passes a frame in shared memory on, as pieces; a RESULT's segment is held until it is opened."""
        shares = self.handover.accepted
        pieces = frame.forward(kind, number, code=code, flags=flags, engine=engine, shares=shares)
        if shares and kind == Kind.RESULT:
            size = sum(frame.loan[2])
            self._lent[number, engine] = frame.segment, size
            self._weigh(size)
        return pieces

    def receive(self, frames: list[Frame]) -> list[Frame]:
        """Do what frames say of shared memory; return the others, with what their payload lies in.

        Raises:
            ProtocolError: A payload is above the limit, or a frame does not say where it is.
        """
        others = []
        for frame in frames:
            if frame.kind == Kind.MEMORY:
                if self._limits.share:
                    self._hear(frame.json())
            elif frame.kind == Kind.TAKEN:
                self._weigh(-self._lent.pop((frame.id, frame.engine), (None, 0))[1])
            else:
                if frame.flags & SHARED:
                    self._open(frame)
                others.append(frame)
        return others

    def end(self) -> None:
        """Hold nothing any more: nobody will open it."""
        self._lent.clear()
        self.handover.end()

    def _hear(self, said: Any) -> None:
        for answer in self.handover.receive(said):
            self._send_along(encode(Kind.MEMORY, header=json.dumps(answer).encode()))
        if self._hurry:
            self._send(())

    def _open(self, frame: Frame) -> None:
        """Hold what a SHARED frame's payload lies in."""
        number, inode, lengths = frame.loan
        if sum(lengths) > self._limits.message:
            raise ProtocolError(f"a message of {sum(lengths):,} bytes; the limit is {self._limits.message:,}")
        with contextlib.suppress(OSError):
            frame.segment = Segment.open(self.handover.peer, number, inode, span(lengths))
        if frame.kind == Kind.RESULT:
            self._send(encode(Kind.TAKEN, frame.id, engine=frame.engine))
