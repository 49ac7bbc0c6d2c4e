"""Frames to bytes and back: the one format of everything after the handshake. Sans-I/O.

Every connection (client to controller, controller to engine host, host to kernel) carries frames. All
numbers are little-endian:

    offset  size  type  field
         0     4  u32   length    of all that follows the head
         4     1  u8    kind      what this is: `Kind`
         5     1  u8    flags     `LAST`; other bits must be 0 and are reserved
         6     2  u16   code      CALL: number of the operation; RESULT: `Status`, and from the controller
                                  `TRIED` times how often a task has been tried before; NOTICE: `News`; else 0
         8     8  u64   id        which call or command; an answer bears the id of what it answers
        16     2  u16   engine    which engine, or `NO_ENGINE`
        18     2  u16   count     how many buffers the payload has
        20     4  u32   header    length of the header in bytes
        24     …        header    for whoever dispatches: JSON, a label, `RESULT_META` or `OUTPUT_META`
         …  4·n   u32   table     lengths of the buffers; left out when there are fewer than two
         …     …        buffers   the payload, opaque to everyone between the two ends

A hop that forwards a frame writes a new head and passes the rest on as it came (`Frame.forward`). A frame
up to `SMALL` bytes is kept as one `bytes`; in a larger one every buffer lands in a `bytearray` of its own,
which is never copied again in this process.
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from aioparallel.errors import DeserializationError, MessageTooLarge, ProtocolError

__all__ = [
    "HEAD",
    "LAST",
    "NO_ENGINE",
    "OUTPUT_META",
    "RESULT_META",
    "SHARED",
    "SMALL",
    "TRIED",
    "Buffer",
    "Decoder",
    "EngineCall",
    "Frame",
    "HostCall",
    "KernelCall",
    "Kind",
    "Limits",
    "News",
    "Status",
    "encode",
    "encode_shared",
    "size_of",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

HEAD = struct.Struct("<IBBHQHHI")
#: Header of a RESULT from a kernel: started (wall clock, seconds), running time (seconds), length of stdout;
#: then the bytes of stdout, then those of stderr.
RESULT_META = struct.Struct("<ddI")
#: Header of a NOTICE of output: how much of that stream of the command went before, bytes.
OUTPUT_META = struct.Struct("<Q")
SMALL = 65536
CHUNK = 262144
NO_ENGINE = 0xFFFF
#: In the code of a RESULT: one try of the task before the one that is answered.
TRIED = 256
#: Flag of the last RESULT that answers a CALL: with several targets each engine answers for itself.
LAST = 1
#: Flag of a frame whose payload lies in a segment of memory (`memory.Segment`); instead it has where: the segment's
#: descriptor at the sender and its inode, then the length of each buffer, u64.
SHARED = 2
LOAN = struct.Struct("<IQ")


class Kind(enum.IntEnum):
    """What a frame is."""

    BEAT = 1  # either way: still here
    CALL = 2  # do the operation `code`
    COMMAND = 3  # controller -> host -> kernel: run this payload
    RESULT = 4  # the answer to a CALL or a COMMAND
    CANCEL = 5  # the CALL or COMMAND with this id is no longer wanted
    NOTICE = 6  # something that was not asked for now: `News`; no answer
    GOODBYE = 7  # the sender closes; the header says why, as JSON
    MEMORY = 9  # can you open what I hold? (JSON header, `memory.Handover`)
    TAKEN = 10  # the segment of the RESULT with this id and engine is held here now


_KINDS = frozenset(Kind)
_ABOUT_MEMORY = frozenset((Kind.MEMORY, Kind.TAKEN))


class Status(enum.IntEnum):
    """How a CALL or COMMAND ended."""

    OK = 0  # the payload is the packed value, or the header a JSON value
    ERROR = 1  # user code raised; the payload is the packed error
    FAULT = 2  # one of our own errors, as JSON in the header
    CANCELLED = 3  # it was withdrawn before it ran
    RETURNED = 4  # host -> controller: it was meant for a kernel that is gone, and has not begun


class News(enum.IntEnum):
    """What a NOTICE tells."""

    EVENT = 0  # something happened; the header says what, as JSON
    STDOUT = 1  # what the command `id` has written next: `OUTPUT_META`, and the payload's bytes
    STDERR = 2  # the same of its other stream
    RECORD = 3  # a log record, as JSON, for the client whose session is `id`


class EngineCall(enum.IntEnum):
    """What an engine host may ask of the controller."""

    JOIN = 0  # header {"pid", "host", "python", ...}; answered with {"engine": id}
    READY = 1  # a fresh kernel serves: header {"engine", "pid"}; answered with those and {"first": id of a COMMAND}


class HostCall(enum.IntEnum):
    """What the controller may ask of an engine host, naming the engine (`NO_ENGINE`: all of them)."""

    INTERRUPT = 0  # KeyboardInterrupt in what runs
    RESTART = 1  # a fresh kernel under the same id
    STOP = 2  # end the engine
    WATCH = 3  # tell what the command `id` writes while it runs; not answered
    FORGET = 4  # the client whose session is `id` is gone: no more log records for it; not answered


class KernelCall(enum.IntEnum):
    """What a host may ask of a kernel."""

    SETUP = 0  # header {"engine": id, "path": [...]}
    FORGET = 1  # no more log records for the session `id`; answered when it is so


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound of the wire and of what waits for it, in bytes and seconds.

    Attributes:
        message: Largest frame, bytes.
        header: Largest header in a frame, bytes.
        outbox: Bytes that may wait for a slow reader before its producers are paused.
        backlog: Bytes that one client may have queued before the controller stops reading from it.
        output: Largest stdout, and stderr, of one command, bytes; more is left out in the middle.
        beat: Seconds between signs of life.
        suspect: Seconds of silence after which a peer is called suspect.
        dead: Seconds of silence after which a peer is given up.
        stuck: Seconds that a slow reader may take none of its outbox before it is disconnected.
        share: Payloads from this size on, bytes, stay in memory that processes of one machine share; 0 shares none.
    """

    message: int = 2**30
    header: int = 2**26
    outbox: int = 2**26
    backlog: int = 2**30
    output: int = 2**24
    beat: float = 2.0
    suspect: float = 6.0
    dead: float = 10.0
    stuck: float = 30.0
    share: int = 2**19

    @property
    def room(self) -> int:
        """How much of stdout, and of stderr, a RESULT has room for, bytes: with all else it must fit in a header."""
        return min(self.output, self.header // 2 - 128, self.message // 4)


class Frame:
    """One frame as it arrived.

    Attributes:
        size: Length of what follows the head, bytes.
        kind, flags, code, id, engine: As in the byte table.
        body: What follows the head, in one piece (a small frame) or as header and table, then each buffer.
        segment: Of a SHARED frame: what its payload lies in, as held here (`memory.Segment`), once it was opened.
    """

    __slots__ = ("_count", "_header", "body", "code", "engine", "flags", "id", "kind", "segment", "size")

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
        body: list[Buffer],
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
            return self.body[1:]
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
    ) -> list[Buffer]:
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
        head = HEAD.pack(self.size, kind, flags, code, number, engine, self._count, self._header)
        return [head, *self.body]


def size_of(pieces: Iterable[Buffer]) -> int:
    """Return the length of all pieces together, bytes (views must be of bytes)."""
    return sum(map(len, pieces))


def encode(
    kind: int,
    number: int = 0,
    *,
    code: int = 0,
    flags: int = 0,
    engine: int = NO_ENGINE,
    header: bytes = b"",
    buffers: Sequence[Buffer] = (),
    limit: int = 2**32 - 1,
) -> list[Buffer]:
    """Return a frame as pieces to send one after the other; nothing large is copied.

    Args:
        kind: A `Kind`.
        number: The frame's id.
        code: Operation or status.
        flags: `LAST` or 0.
        engine: Which engine.
        header: The header's bytes.
        buffers: The payload; memory views must be contiguous views of bytes.
        limit: Largest length of what follows the head, bytes.

    Raises:
        MessageTooLarge: The frame is above `limit`, or has more than 65535 buffers.
    """
    count = len(buffers)
    if count == 1:
        piece = buffers[0]
        length = len(header) + len(piece)
        if length <= limit:
            head = HEAD.pack(length, kind, flags, code, number, engine, 1, len(header))
            return [head, header, piece] if header else [head, piece]
    length = len(header) + (4 * count if count > 1 else 0) + size_of(buffers)
    if length > limit or count > 0xFFFF:
        raise MessageTooLarge(
            f"a message of {length:,} bytes in {count:,} buffers is above the limit of {limit:,} bytes and 65,535 "
            "buffers; send it in parts (scatter, or several calls), or raise Limits.message on both sides"
        )
    pieces: list[Buffer] = [HEAD.pack(length, kind, flags, code, number, engine, count, len(header))]
    if header:
        pieces.append(header)
    if count > 1:
        pieces.append(struct.pack(f"<{count}I", *map(len, buffers)))
    pieces += buffers
    return pieces


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
) -> list[Buffer]:
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
    loan = LOAN.pack(segment.number, segment.inode) + struct.pack(f"<{len(lengths)}Q", *lengths)
    return encode(kind, number, code=code, flags=flags | SHARED, engine=engine, header=header, buffers=[loan])


class Decoder:
    """Bytes in, frames out.

    Memory for what comes next is handed out (`get_buffer`), so that the buffers of a large frame are read
    straight into their place. Rules: a head is checked before anything is allocated for it; after a
    `ProtocolError` the decoder must not be fed again.

    Attributes:
        about_memory: Set when a frame has come that is SHARED or about shared memory; whoever looks resets it.
    """

    def __init__(self, limits: Limits) -> None:
        self.about_memory = False
        self._limits = limits
        # Below this a head with one buffer, a known kind and a header within its length needs no further check.
        self._largest = min(limits.message, limits.header)
        self._chunk = bytearray(CHUNK)
        self._view = memoryview(self._chunk)
        self._filled = 0
        # A large frame under way: its head, its pieces, and how much of the last piece is there.
        self._head: tuple[int, ...] | None = None
        self._pieces: list[Buffer] = []
        self._sizes: list[int] = []
        self._landed = 0

    def __repr__(self) -> str:
        return f"<Decoder {self._filled} bytes waiting{', large frame under way' if self._head else ''}>"

    def get_buffer(self) -> memoryview:
        """Return where the next bytes belong; never empty."""
        if self._head is not None:
            return memoryview(self._pieces[-1])[self._landed :]
        return self._view[self._filled :]

    def buffer_updated(self, count: int) -> list[Frame]:
        """Take note that `count` bytes were put there; return the frames that are now whole.

        Raises:
            ProtocolError: What arrived is not a frame, or is above the limits.
        """
        frames: list[Frame] = []
        if self._head is not None:
            self._landed += count
            self._advance(frames)
        else:
            self._filled += count
            self._parse(frames)
        return frames

    def feed(self, data: Buffer) -> list[Frame]:
        """Take bytes from anywhere; return the frames that are now whole.

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

    def _parse(self, frames: list[Frame]) -> None:
        """Cut the chunk into small frames; begin a large one when its head is seen."""
        position, filled, view = 0, self._filled, self._view
        while filled - position >= 24:
            head = HEAD.unpack_from(view, position)
            length, kind, flags, code, number, engine, count, header = head
            if flags > LAST or length > self._largest or header > length or not 1 <= kind <= 7 or count != 1:
                self._check(length, kind, flags, count, header)
            if length > SMALL:
                position += 24
                taken = self._begin(head, position)
                position += taken
                self._advance(frames)
                if self._head is not None:
                    break
                continue
            end = position + 24 + length
            if end > filled:
                break
            body = bytes(view[position + 24 : end])
            if count > 1:
                self._check_table(struct.unpack_from(f"<{count}I", body, header), length, header)
            frames.append(Frame(length, kind, flags, code, number, engine, count, header, [body]))
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
        if length > self._limits.message:
            raise ProtocolError(f"a frame of {length:,} bytes; the limit is {self._limits.message:,}")
        table = 4 * count if count > 1 else 0
        if header > self._limits.header or header + table > length or (count == 0 and header != length):
            raise ProtocolError(f"a frame of {length} bytes with a header of {header} and {count} buffers")

    @staticmethod
    def _check_table(sizes: Sequence[int], length: int, header: int) -> None:
        if header + 4 * len(sizes) + sum(sizes) != length:
            raise ProtocolError("the lengths of a frame's buffers don't add up to the frame's")

    def _begin(self, head: tuple[int, ...], position: int) -> int:
        """Begin a large frame; return how many bytes of the chunk it took."""
        length, _, _, _, _, _, count, header = head
        self._head = head
        self._pieces, self._landed = [], 0
        self._sizes = [header + (4 * count if count > 1 else 0)]
        if count == 1:
            self._sizes.append(length - header)
        taken = 0
        self._open_piece()
        while self._head is not None:
            target = memoryview(self._pieces[-1])[self._landed :]
            count_here = min(len(target), self._filled - position - taken)
            start = position + taken
            target[:count_here] = self._view[start : start + count_here]
            taken += count_here
            self._landed += count_here
            if self._landed < len(self._pieces[-1]) or not self._next_piece():
                break
        return taken

    def _open_piece(self) -> None:
        self._pieces.append(bytearray(self._sizes[len(self._pieces)]))
        self._landed = 0

    def _next_piece(self) -> bool:
        """The last piece is whole: open the next one that has room; False when there is none."""
        assert self._head is not None
        length, _, _, _, _, _, count, header = self._head
        while self._landed == len(self._pieces[-1]):
            if len(self._pieces) == 1 and count > 1:
                sizes = struct.unpack_from(f"<{count}I", self._pieces[0], header)
                self._check_table(sizes, length, header)
                self._sizes += sizes
            if len(self._pieces) == len(self._sizes):
                return False
            self._open_piece()
        return True

    def _advance(self, frames: list[Frame]) -> None:
        """Finish the large frame if all of it is there."""
        if self._head is None or self._landed < len(self._pieces[-1]) or self._next_piece():
            return
        length, kind, flags, code, number, engine, count, header = self._head
        frames.append(Frame(length, kind, flags, code, number, engine, count, header, self._pieces))
        self._head, self._pieces = None, []
