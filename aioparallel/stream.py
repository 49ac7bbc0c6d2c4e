"""A large message in pieces: cut on its way out, put together on its way in. Sans-I/O.

What follows one another in the pieces of a stream is the message, with a head that has room for more than a frame's:

    offset  size  type  field
         0     8  u64   length    of all that follows this head
         8    20  …     kind, flags, code, id, engine, count, header: as in a frame's head (`wire`)
        28     …        header
         …  8·n   u64   table     lengths of the buffers; left out when there are fewer than two
         …     …        buffers   the payload

A sender numbers its streams from 0 on, in the order in which their first pieces leave. Several may be under way at
once, with small frames between their pieces. The last piece has the flag LAST; a last piece of no bytes says that the
sender has dropped the message.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from aioparallel.errors import ProtocolError

__all__ = ["LONG_HEAD", "STREAMS", "Assembly", "Buffer", "Streams", "check_sizes", "cut"]

Buffer: TypeAlias = bytes | bytearray | memoryview

LONG_HEAD = struct.Struct("<QBBHQHHI")
#: Views that a piece is given as at most; more are joined.
VIEWS = 16
#: A buffer from this size on is not filled with zeros first.
BLANK = 2**20
#: Streams that may be under way on one connection.
STREAMS = 64


def cut(buffers: Sequence[Buffer], size: int) -> Iterator[tuple[list[Buffer], bool]]:
    """Yield the bytes of the buffers, `size` at a time, as views of where they are, and whether they are the last."""
    left = sum(map(len, buffers))
    views: list[Buffer] = []
    room = size
    for buffer in buffers:
        view = memoryview(buffer)
        start = 0
        while start < len(view):
            part = view[start : start + room]
            views.append(part)
            start += len(part)
            room -= len(part)
            left -= len(part)
            if not room or not left:
                yield views if len(views) <= VIEWS else [b"".join(views)], not left
                views, room = [], size


def check_sizes(sizes: Sequence[int], length: int, header: int, width: int) -> None:
    """Check the lengths in a message's table, whose entries have `width` bytes.

    Raises:
        ProtocolError: They don't add up.
    """
    if header + width * len(sizes) + sum(sizes) != length:
        raise ProtocolError("the lengths of a message's buffers don't add up to the message's")


class _Blank(io.RawIOBase):
    """Reads nothing into a buffer, and keeps it."""

    buffer: object = None

    def readinto(self, buffer: object) -> int:
        self.buffer = buffer
        return 0


def _blank(size: int) -> bytearray:
    """Return a `bytearray` whose memory the system commits when it is written to.

    `bytearray(size)` writes zeros everywhere, for a second and more if it is large, and commits what may never arrive.
    What a raw stream is asked to read into has the size and no contents yet.
    """
    bytes(size)  # committed as lazily: says in good order if there is no such memory
    raw = _Blank()
    raw.read(size)
    made = raw.buffer
    return made if type(made) is bytearray and len(made) == size else bytearray(size)


class Assembly:
    """One message that arrives in pieces. Each of its buffers lands in memory of its own, and is never copied again.

    Memory is asked for when it is reached and what was announced has been checked; the system commits it as bytes land.

    Args:
        message: Largest message, bytes.
        header: Largest header in it, bytes.

    Attributes:
        head: The fields of the long head; there once it has landed.
        body: Header and table, then each buffer.
    """

    __slots__ = ("_header", "_landed", "_message", "_sizes", "_target", "body", "head")

    def __init__(self, message: int, header: int) -> None:
        self._message = message
        self._header = header
        self._target = memoryview(bytearray(LONG_HEAD.size))
        self._landed = 0
        self._sizes: list[int] = []
        self.head: tuple[int, ...] | None = None
        self.body: list[Buffer] = []

    def __repr__(self) -> str:
        return f"<Assembly of {self.head[0]:,} bytes>" if self.head else "<Assembly, head under way>"

    @property
    def whole(self) -> bool:
        """Whether all of it is there."""
        return self.head is not None and self._landed == len(self._target) and not self._sizes

    def room(self) -> memoryview:
        """Return where the next bytes belong; empty when it is whole."""
        return self._target[self._landed :]

    def landed(self, count: int) -> None:
        """Take note that `count` bytes were put there.

        Raises:
            ProtocolError: They are not the beginning of a message, or of one above the limits.
        """
        self._landed += count
        while self._landed == len(self._target):
            if self.head is None:
                self._begin()
                continue
            if len(self.body) == 1 and self.head[6] > 1 and not self._sizes:
                self._read_table()
            if not self._sizes:
                return
            self._open(self._sizes.pop())

    def take(self, data: memoryview) -> None:
        """Copy bytes from elsewhere into their place.

        Raises:
            ProtocolError: As `landed`, or they go beyond the message.
        """
        while data:
            room = self.room()
            count = min(len(room), len(data))
            if not count:
                raise ProtocolError("a stream goes on beyond its message")
            room[:count] = data[:count]
            data = data[count:]
            self.landed(count)

    def _begin(self) -> None:
        head = LONG_HEAD.unpack(self._target)
        length, kind, flags, _, _, _, count, header = head
        table = 8 * count if count > 1 else 0
        if not 1 <= kind <= 7 or flags > 3:
            raise ProtocolError(f"a message of unknown kind {kind} or flags {flags:#x}")
        if length > self._message:
            raise ProtocolError(f"a message of {length:,} bytes; the limit is {self._message:,}")
        if header > self._header or header + table > length or (count == 0 and header != length):
            raise ProtocolError(f"a message of {length} bytes with a header of {header} and {count} buffers")
        self.head = head
        self._sizes = [length - header] if count == 1 else []
        self._open(header + table)

    def _read_table(self) -> None:
        assert self.head is not None
        length, _, _, _, _, _, count, header = self.head
        sizes = struct.unpack_from(f"<{count}Q", self.body[0], header)
        check_sizes(sizes, length, header, 8)
        self._sizes = list(reversed(sizes))

    def _open(self, size: int) -> None:
        try:
            buffer = bytearray(size) if size < BLANK else _blank(size)
        except MemoryError:
            raise ProtocolError(f"a buffer of {size:,} bytes, for which there is no memory here") from None
        self.body.append(buffer)
        self._target, self._landed = memoryview(buffer), 0


class Streams:
    """The messages that arrive in pieces on one connection.

    Args:
        message: Largest message, bytes.
        header: Largest header in one, bytes.

    Attributes:
        left: Bytes of the piece under way that have not arrived.
        under_way: Those that are not whole yet, by their numbers.
    """

    def __init__(self, message: int, header: int) -> None:
        self.left = 0
        self._message = message
        self._header = header
        self.under_way: dict[int, Assembly] = {}
        self._begun = 0
        self._number = 0
        self._last = False

    def __repr__(self) -> str:
        return f"<Streams: {len(self.under_way)} under way>"

    def begin(self, number: int, size: int, last: bool) -> None:
        """A piece of `size` bytes begins.

        Raises:
            ProtocolError: Its stream has ended, is not the next to begin, or is one too many; or the piece is empty.
        """
        if number == self._begun:
            if len(self.under_way) == STREAMS:
                raise ProtocolError(f"more than {STREAMS} streams at once")
            self._begun += 1
            self.under_way[number] = Assembly(self._message, self._header)
        elif number not in self.under_way:
            raise ProtocolError(f"a piece of stream {number}, which is not under way")
        if size:
            self.left, self._number, self._last = size, number, last
        elif last:
            del self.under_way[number]
        else:
            raise ProtocolError("a piece of no bytes")

    def room(self) -> memoryview:
        """Return where the next bytes of the piece belong."""
        return self.under_way[self._number].room()[: self.left]

    def landed(self, count: int) -> Assembly | None:
        """Take note that `count` bytes of the piece were put there; return the message if it is whole now.

        Raises:
            ProtocolError: They are no message, or the stream ends before it.
        """
        assembly = self.under_way[self._number]
        assembly.landed(count)
        return self._went_on(assembly, count)

    def take(self, data: memoryview) -> Assembly | None:
        """Copy bytes of the piece into place; return the message if it is whole now.

        Raises:
            ProtocolError: As `landed`.
        """
        assembly = self.under_way[self._number]
        assembly.take(data)
        return self._went_on(assembly, len(data))

    def clear(self) -> None:
        """Forget what is under way, and its memory."""
        self.left = 0
        self.under_way.clear()

    def _went_on(self, assembly: Assembly, count: int) -> Assembly | None:
        self.left -= count
        if self.left or not (self._last or assembly.whole):
            return None
        if not assembly.whole:
            raise ProtocolError("a stream that ends before its message")
        if not self._last:
            raise ProtocolError("a stream that goes on beyond its message")
        return self.under_way.pop(self._number)
