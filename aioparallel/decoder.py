"""Bytes in, frames out: each head is checked before anything is allocated for it. Sans-I/O."""

from __future__ import annotations

import struct

from aioparallel.errors import ProtocolError
from aioparallel.limits import PIECE, SMALL, Limits
from aioparallel.stream import Assembly, Buffer, Streams, check_sizes
from aioparallel.wire import HEAD, LAST, SHARED, Frame, Kind

__all__ = ["Decoder"]

#: Bytes that are read at once; from `DIRECT` on they are read into their place, if that is known.
CHUNK = 262144
DIRECT = 16384

_KINDS = frozenset(Kind) - {Kind.PIECE}
_ABOUT_MEMORY = frozenset((Kind.MEMORY, Kind.TAKEN))


class Decoder:
    """Bytes in, frames out.

    Memory for what comes next is handed out (`get_buffer`), so that the buffers of a large message are read
    straight into their place. Rules: a head is checked before anything is allocated for it; after a
    `ProtocolError` the decoder must not be fed again.

    Attributes:
        about_memory: Set when a frame has come that is SHARED or about shared memory; whoever looks resets it.
    """

    def __init__(self, limits: Limits) -> None:
        self.about_memory = False
        self._limits = limits
        # Below this a head with one buffer, a known kind and a header within its length needs no further check.
        self._largest = min(limits.message, limits.header, SMALL)
        self._chunk = bytearray(CHUNK)
        self._view = memoryview(self._chunk)
        self._filled = 0
        self._streams = Streams(limits.message, limits.header)
        # How much was handed out to be read straight into its place.
        self._direct = 0

    def __repr__(self) -> str:
        return f"<Decoder {self._filled} bytes waiting{f', {self._streams!r}' if self._streams.under_way else ''}>"

    def get_buffer(self) -> memoryview:
        """Return where the next bytes belong; never empty."""
        if self._streams.left >= DIRECT:
            room = self._streams.room()
            self._direct = len(room)
            if self._direct >= DIRECT:
                return room
        self._direct = 0
        if self._streams.under_way and not self._filled:
            # The next head, and little of what is behind it: the rest is read straight into its place.
            return self._view[:DIRECT]
        return self._view[self._filled :]

    def get_buffers(self) -> list[memoryview]:
        """Return where the next bytes belong, one after the other, for a read that takes several."""
        first = self.get_buffer()
        return [first, self._view[:DIRECT]] if self._direct else [first]

    def buffer_updated(self, count: int) -> list[Frame]:
        """Take note that `count` bytes were put there; return the messages that are now whole.

        Raises:
            ProtocolError: What arrived is not a frame, or is above the limits.
        """
        frames: list[Frame] = []
        direct = min(count, self._direct)
        if direct:
            self._direct = 0
            self._arrived(self._streams.landed(direct), frames)
            count -= direct
        if count:
            self._filled += count
            self._parse(frames)
        return frames

    def feed(self, data: Buffer) -> list[Frame]:
        """Take bytes from anywhere; return the messages that are now whole.

        Raises:
            ProtocolError: What arrived is not a frame, or is above the limits.
        """
        frames: list[Frame] = []
        rest = memoryview(data)
        while rest:
            target = self.get_buffer()
            count = min(len(target), len(rest))
            target[:count] = rest[:count]
            rest = rest[count:]
            frames += self.buffer_updated(count)
        return frames

    def clear(self) -> None:
        """Let go of messages that will never be whole: no more bytes come."""
        self._streams.clear()
        self._filled = self._direct = 0

    def _parse(self, frames: list[Frame]) -> None:
        """Cut the chunk into frames, and into what belongs to streams."""
        position = self._piece(0, frames) if self._streams.left else 0
        filled, view = self._filled, self._view
        while filled - position >= 24:
            length, kind, flags, code, number, engine, count, header = HEAD.unpack_from(view, position)
            if flags > LAST or length > self._largest or header > length or not 1 <= kind <= 7 or count != 1:
                if kind == Kind.PIECE:
                    self._check_piece(length, flags, count, header)
                    self._streams.begin(number, length, bool(flags))
                    position = self._piece(position + 24, frames)
                    continue
                self._check(length, kind, flags, count, header)
            end = position + 24 + length
            if end > filled:
                break
            body = bytes(view[position + 24 : end])
            if count > 1:
                check_sizes(struct.unpack_from(f"<{count}I", body, header), length, header, 4)
            frames.append(Frame(length, kind, flags, code, number, engine, count, header, (body,)))
            position = end
        rest = filled - position
        if position and rest:
            self._chunk[:rest] = self._chunk[position:filled]
        self._filled = rest

    def _check(self, length: int, kind: int, flags: int, count: int, header: int) -> None:
        if kind not in _KINDS or flags & ~(LAST | SHARED):
            raise ProtocolError(f"a frame of unknown kind {kind} or flags {flags:#x}")
        if flags & SHARED or kind in _ABOUT_MEMORY:
            self.about_memory = True
        largest = min(self._limits.message, SMALL)
        if length > largest:
            raise ProtocolError(f"a frame of {length:,} bytes; the limit is {largest:,}")
        table = 4 * count if count > 1 else 0
        if header > self._limits.header or header + table > length or (count == 0 and header != length):
            raise ProtocolError(f"a frame of {length} bytes with a header of {header} and {count} buffers")

    @staticmethod
    def _check_piece(length: int, flags: int, count: int, header: int) -> None:
        if flags & ~LAST or length > PIECE or count != 1 or header:
            raise ProtocolError(
                f"a piece of {length:,} bytes with flags {flags:#x}, a header of {header} and {count} buffers"
            )

    def _piece(self, start: int, frames: list[Frame]) -> int:
        """Give a stream the bytes of its piece that are in the chunk; return where they end."""
        end = min(start + self._streams.left, self._filled)
        if end > start:
            self._arrived(self._streams.take(self._view[start:end]), frames)
        return end

    def _arrived(self, whole: Assembly | None, frames: list[Frame]) -> None:
        if whole is not None:
            assert whole.head is not None
            self.about_memory = self.about_memory or bool(whole.head[2] & SHARED)
            length, kind, flags, code, number, engine, count, header = whole.head
            frames.append(Frame(length, kind, flags, code, number, engine, count, header, whole.body))
