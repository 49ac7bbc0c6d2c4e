"""Frames to bytes and back: the one format of everything after the handshake. Sans-I/O.

Every connection (client to controller, controller to engine host, host to kernel) carries frames. All
numbers are little-endian:

    offset  size  type  field
         0     4  u32   length    of all that follows the head
         4     1  u8    kind      what this is: `Kind`
         5     1  u8    flags     `LAST`; other bits must be 0 and are reserved
         6     2  u16   code      CALL: number of the operation; RESULT: `Status`, and from the controller
                                  `TRIED` times how often a task has been tried before; NOTICE: `News`; else 0
         8     8  u64   id        which call or command; an answer bears the id of what it answers. PIECE: the stream
        16     2  u16   engine    which engine, or `NO_ENGINE`
        18     2  u16   count     how many buffers the payload has
        20     4  u32   header    length of the header in bytes
        24     …        header    for whoever dispatches: JSON, a label, `RESULT_META` or `OUTPUT_META`
         …  4·n   u32   table     lengths of the buffers; left out when there are fewer than two
         …     …        buffers   the payload, opaque to everyone between the two ends

A frame has `SMALL` bytes at most behind its head. A larger message leaves as a stream of PIECEs: `id` is the number of
the stream, the only buffer is the next bytes of the message, at most `PIECE` of them, the flag LAST is on the last one,
and other frames pass between them. What is in a stream, `stream` says. Where it has arrived it is a `Frame` like any
other.

A hop that forwards a message writes a new head and passes the rest on as it came (`Frame.forward`). A small one is kept
as one `bytes`; of one that came as a stream every buffer lands in a `bytearray` of its own, and is never copied again
in this process.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from aioparallel.errors import DeserializationError, MessageTooLarge, ProtocolError
from aioparallel.kinds import EngineCall, HostCall, KernelCall, Kind, News, Status
from aioparallel.limits import PIECE, SMALL, Limits
from aioparallel.stream import LONG_HEAD, Buffer, cut

__all__ = [
    "HEAD",
    "JOINED",
    "KEY",
    "LAST",
    "NO_ENGINE",
    "OUTPUT_META",
    "PIECE",
    "RESULT_META",
    "SECONDS",
    "SHARED",
    "SMALL",
    "STORED",
    "TRIED",
    "Buffer",
    "Bulk",
    "Composed",
    "EngineCall",
    "Frame",
    "HostCall",
    "KernelCall",
    "Kind",
    "Limits",
    "News",
    "Sendable",
    "Status",
    "encode",
    "encode_shared",
    "size_of",
]

HEAD = struct.Struct("<IBBHQHHI")
#: Header of a RESULT from a kernel: started (wall clock, seconds), running time (seconds), length of stdout;
#: then the bytes of stdout, then those of stderr.
RESULT_META = struct.Struct("<ddI")
#: Code of a COMMAND whose payload the host has already: its header is the id of the STORE (`broadcast`).
STORED = 1
#: Code of a COMMAND whose payload is several messages one after the other: its header says how many buffers the later
#: ones have ("parts"), and what else the kernel has to know ("properties" of its engine), as a JSON object.
JOINED = 2
#: Header of a LIMIT.
SECONDS = struct.Struct("<d")
KEY = struct.Struct("<Q")
#: Header of a NOTICE of output: how much of that stream of the command went before, bytes.
OUTPUT_META = struct.Struct("<Q")
#: Buffers below this leave in one with the head before them.
TOGETHER = 4096
NO_ENGINE = 0xFFFF
#: In the code of a RESULT: one try of the task before the one that is answered.
TRIED = 256
#: Flag of the last RESULT that answers a CALL: with several targets each engine answers for itself.
LAST = 1
#: Flag of a frame whose payload lies in a segment of memory (`memory.Segment`); instead it has where: the segment's
#: descriptor at the sender and its inode, then the length of each buffer, u64.
SHARED = 2
LOAN = struct.Struct("<IQ")


class Bulk:
    """A message too large for a frame, on its way out as a stream of PIECEs. Its length is that of its bytes.

    Args:
        head: The fields of its head.
        body: What follows that.

    Attributes:
        kind, id, engine: As in the head.
        sent: Called when all of it has left, or has been dropped; not when the connection is lost.
    """

    __slots__ = ("_buffers", "_size", "engine", "id", "kind", "sent")

    def __init__(self, head: tuple[int, ...], body: Sequence[Buffer]) -> None:
        _, self.kind, _, _, self.id, self.engine, _, _ = head
        self._buffers = [LONG_HEAD.pack(*head), *body]
        self._size = LONG_HEAD.size + head[0]
        self.sent: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<Bulk {Kind(self.kind).name} id={self.id} engine={self.engine}, {self._size:,} bytes>"

    def __len__(self) -> int:
        return self._size

    def cut(self, number: int, size: int) -> Iterator[list[Buffer]]:
        """Yield its PIECEs, each as pieces to send: a head, with what is small behind it, and views of the buffers.

        Args:
            number: The number of the stream.
            size: The most bytes in a PIECE.
        """
        for views, last in cut(self._buffers, size):
            head: list[Buffer] = [_piece_head(number, size_of(views), last)]
            while len(views) > 1 and len(views[0]) < TOGETHER:
                head.append(views.pop(0))
            yield [b"".join(head), *views]

    @staticmethod
    def dropped(number: int) -> bytes:
        """Return the frame which says that the rest of a stream will not come."""
        return _piece_head(number, 0, last=True)


#: What is sent: pieces of frames, one after the other, and large messages between them.
Sendable: TypeAlias = Buffer | Bulk


class Frame:
    """One frame as it arrived.

    Attributes:
        size: Length of what follows the head, bytes.
        kind, flags, code, id, engine: As in the byte table.
        body: What follows the head, in one piece, or (if it came as a stream) as header and table, then each buffer.
        segment: Of a SHARED frame: what its payload lies in, as held here (`memory.Segment`), once it was opened.
    """

    __slots__ = (
        "__weakref__", "_count", "_header", "body", "code", "engine", "flags", "id", "kind", "segment", "size",
    )  # fmt: skip

    def __init__(
        self,
        size: int,
        kind: int,
        flags: int,
        code: int,
        number: int,
        engine: int,
        count: int,
        header: int,
        body: Sequence[Buffer],
    ) -> None:
        self.size = size
        self.kind = kind
        self.flags = flags
        self.code = code
        self.id = number
        self.engine = engine
        self._count = count
        self._header = header
        self.body = body
        self.segment: Any = None

    def __repr__(self) -> str:
        return f"<Frame {Kind(self.kind).name} id={self.id} engine={self.engine} code={self.code} {self.size} bytes>"

    @classmethod
    def shared(cls, segment: Any, lengths: Sequence[int], header: bytes) -> Self:
        """Return a COMMAND whose payload lies in a segment that is held here."""
        body = b"".join((header, _loan(segment, lengths)))
        frame = cls(len(body), Kind.COMMAND, SHARED, 0, 0, NO_ENGINE, 1, len(header), (body,))
        frame.segment = segment
        return frame

    @classmethod
    def command_of(cls, payload: bytes) -> Self:
        """Return a COMMAND with a payload of one buffer, to be forwarded."""
        return cls(len(payload), Kind.COMMAND, 0, 0, 0, NO_ENGINE, 1, 0, [payload])

    def command(self, number: int, engine: int) -> Frame:
        """Return the same payload as a COMMAND for an engine."""
        flags = self.flags & SHARED
        frame = Frame(self.size, Kind.COMMAND, flags, 0, number, engine, self._count, self._header, self.body)
        frame.segment = self.segment
        return frame

    @property
    def is_large(self) -> bool:
        """Whether it came as a stream, and is forwarded as one."""
        return len(self.body) > 1 or self.size > SMALL

    @property
    def header(self) -> bytes:
        """The header's bytes."""
        return bytes(self.body[0][: self._header]) if self._header else b""

    @property
    def buffers(self) -> list[Buffer]:
        """The payload's buffers: those of a large frame writable and in place, those of a small one views.

        Raises:
            DeserializationError: It is a SHARED frame whose segment was not to be had.
            OSError: There is no memory or no descriptor for it.
        """
        if not self.flags & SHARED:
            return self._buffers()
        if self.segment is None:
            raise DeserializationError("the shared memory that this message was in is gone, or can't be opened here")
        buffers: list[Buffer] = self.segment.buffers(self.loan[2])
        return buffers

    @property
    def loan(self) -> tuple[int, int, tuple[int, ...]]:
        """Of a SHARED frame: the segment's descriptor at the sender, its inode, and the buffers' lengths.

        Raises:
            ProtocolError: It does not say.
        """
        try:
            (where,) = self._buffers()
            number, inode = LOAN.unpack_from(where)
            return number, inode, struct.unpack(f"<{(len(where) - LOAN.size) // 8}Q", where[LOAN.size :])
        except (ValueError, struct.error):
            raise ProtocolError("a SHARED frame that does not say where its payload is") from None

    def _buffers(self) -> list[Buffer]:
        if len(self.body) > 1:
            return [*self.body[1:]]
        whole = memoryview(self.body[0])
        if self._count < 2:
            return [whole[self._header :]] if self._count else []
        start = self._header + 4 * self._count
        buffers: list[Buffer] = []
        for (length,) in struct.iter_unpack("<I", whole[self._header : start]):
            buffers.append(whole[start : start + length])
            start += length
        return buffers

    def brief(self) -> tuple[int, int, Buffer]:
        """Return engine, code and header: what is worth keeping of an answer when its payload has been used."""
        return self.engine, self.code, self.body[0][: self._header]

    def json(self) -> Any:
        """Return the header's JSON value.

        Raises:
            ProtocolError: It is not JSON.
        """
        try:
            return json.loads(self.header)
        except (ValueError, RecursionError):
            raise ProtocolError("a header that is not JSON") from None

    def forward(
        self, kind: int, number: int, *, code: int = 0, flags: int = 0, engine: int = NO_ENGINE, shares: bool = True
    ) -> list[Sendable]:
        """Return the same header and payload under a new head, as pieces to send.

        Args:
            kind: A `Kind`.
            number: The frame's id.
            code: Operation or status.
            flags: `LAST` or 0.
            engine: Which engine.
            shares: Whether the receiver can open our segments; otherwise the payload goes into the frame.
        """
        if self.segment is not None:
            header = self.header
            if not shares:
                return encode(kind, number, code=code, flags=flags, engine=engine, header=header, buffers=self.buffers)
            lengths = self.loan[2]
            return encode_shared(
                kind, number, self.segment, lengths, code=code, flags=flags, engine=engine, header=header
            )
        # One whose segment was not to be had is passed on as it is: whoever wants to unpack it, says so.
        flags |= self.flags & SHARED
        head = (self.size, kind, flags, code, number, engine, self._count, self._header)
        if len(self.body) == 1 and self.size <= SMALL:
            return [HEAD.pack(*head), self.body[0]]
        return [Bulk(head, self.body)]


@dataclass(frozen=True, slots=True)
class Composed:
    """What a COMMAND is made of when it is not one message, passed on: header and buffers from several places.

    Attributes:
        code: The COMMAND's code, such as `JOINED`.
        header: Its header.
        buffers: Its payload.
        size: What all of that takes behind a head, bytes.
    """

    code: int
    header: bytes
    buffers: Sequence[Buffer]
    size: int

    @classmethod
    def of(cls, code: int, header: bytes, buffers: Sequence[Buffer], *, limit: int = 2**63 - 1) -> Self:
        """Return it, with its size.

        Raises:
            MessageTooLarge: No message can be so large: it would be above `limit`, or of more than 65535 buffers.
        """
        [*pieces] = encode(Kind.COMMAND, code=code, header=header, buffers=buffers, limit=limit)
        head = LONG_HEAD.size if isinstance(pieces[0], Bulk) else HEAD.size
        return cls(code, header, buffers, size_of(pieces) - head)

    def __repr__(self) -> str:
        return f"<Composed of {len(self.buffers)} buffers, {self.size:,} bytes>"

    @property
    def is_large(self) -> bool:
        """Whether it is sent as a stream."""
        return self.size > SMALL

    def command(self, number: int, engine: int, *, small: int = SMALL) -> list[Sendable]:
        """Return it as a COMMAND for an engine, as pieces to send.

        Args:
            number: The COMMAND's id.
            engine: Which engine.
            small: Largest length of what is sent as one frame, bytes; at most `SMALL`.
        """
        header, buffers = self.header, self.buffers
        return encode(Kind.COMMAND, number, code=self.code, engine=engine, header=header, buffers=buffers, small=small)


def size_of(pieces: Iterable[Sendable]) -> int:
    """Return the length of all pieces together, bytes (views must be of bytes)."""
    return sum(map(len, pieces))


def _piece_head(number: int, size: int, last: bool) -> bytes:
    return HEAD.pack(size, Kind.PIECE, LAST if last else 0, 0, number, NO_ENGINE, 1, 0)


def encode(
    kind: int,
    number: int = 0,
    *,
    code: int = 0,
    flags: int = 0,
    engine: int = NO_ENGINE,
    header: bytes = b"",
    buffers: Sequence[Buffer] = (),
    limit: int = 2**63 - 1,
    small: int = SMALL,
) -> list[Sendable]:
    """Return a message as pieces to send one after the other, or as a `Bulk`; nothing large is copied.

    Args:
        kind: A `Kind`.
        number: The message's id.
        code: Operation or status.
        flags: `LAST` or 0.
        engine: Which engine.
        header: The header's bytes.
        buffers: The payload; memory views must be contiguous views of bytes.
        limit: Largest length of what follows the head, bytes.
        small: Largest length of what is sent as one frame, bytes; at most `SMALL`.

    Raises:
        MessageTooLarge: The message is above `limit`, or has more than 65535 buffers.
    """
    count = len(buffers)
    if count == 1:
        piece = buffers[0]
        length = len(header) + len(piece)
        if length <= small and length <= limit:
            head = HEAD.pack(length, kind, flags, code, number, engine, 1, len(header))
            return [head, header, piece] if header else [head, piece]
    length = len(header) + size_of(buffers)
    table = "I" if length + 4 * count <= small else "Q"
    packed = struct.pack(f"<{count}{table}", *map(len, buffers)) if count > 1 else b""
    length += len(packed)
    if length > limit or count > 0xFFFF:
        raise MessageTooLarge(
            f"a message of {length:,} bytes in {count:,} buffers is above the limit of {limit:,} bytes and 65,535 "
            "buffers; send it in parts (scatter, or several calls), or raise Limits.message on both sides"
        )
    fields = (length, kind, flags, code, number, engine, count, len(header))
    if length > small:
        return [Bulk(fields, [header, packed, *buffers])]
    return [HEAD.pack(*fields), *([header] if header else ()), *([packed] if packed else ()), *buffers]


def encode_shared(
    kind: int,
    number: int,
    segment: Any,
    lengths: Sequence[int],
    *,
    code: int = 0,
    flags: int = 0,
    engine: int = NO_ENGINE,
    header: bytes = b"",
) -> list[Sendable]:
    """Return a frame whose payload lies in a segment, as pieces to send.

    Args:
        kind: A `Kind`.
        number: The frame's id.
        segment: Where the payload is (`memory.Segment`); to be held until the receiver holds it.
        lengths: The length of each of its buffers, bytes.
        code: Operation or status.
        flags: `LAST` or 0.
        engine: Which engine.
        header: The header's bytes.
    """
    loan = _loan(segment, lengths)
    return encode(kind, number, code=code, flags=flags | SHARED, engine=engine, header=header, buffers=[loan])


def _loan(segment: Any, lengths: Sequence[int]) -> bytes:
    return LOAN.pack(segment.number, segment.inode) + struct.pack(f"<{len(lengths)}Q", *lengths)
