"""What waits to be written on a connection, and in which order it leaves. Sans-I/O.

Small frames go before large messages, which take turns, a piece at a time. Rules:

* a large message begins when the small frames that were here before it have left: it overtakes nothing;
* what has the id of a large message that is still here goes behind it, so that the last RESULT of a call stays last;
  so do a NOTICE about an engine behind what that engine sends, and a GOODBYE behind everything;
* large messages of `Limits.outbox` bytes together are under way at once, and one that is larger by itself: memory is
  taken for them at the far end, and to finish one is worth more there than to begin another;
* a message that nobody wants any more is dropped where it is, and the far end is told if it has begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TypeAlias

from aioparallel.limits import Limits
from aioparallel.stream import STREAMS
from aioparallel.wire import HEAD, NO_ENGINE, Buffer, Bulk, Kind, Sendable, size_of

__all__ = ["Outbox"]

#: A small frame as its pieces, or a large message.
Message: TypeAlias = "list[Buffer] | Bulk"


class _Stream:
    """A large message, waiting or under way."""

    __slots__ = ("after", "bulk", "left", "number", "pieces")

    def __init__(self, bulk: Bulk, after: int) -> None:
        self.bulk = bulk
        self.after = after
        self.left = len(bulk)
        #: Its number, and its pieces that have not left, from when the first one leaves.
        self.number = -1
        self.pieces: Iterator[list[Buffer]] = iter(())


class Outbox:
    """What waits to be written on one connection.

    Args:
        limits: The bounds; of these `piece` and `outbox` matter here.

    Attributes:
        size: How much waits, bytes.
    """

    def __init__(self, limits: Limits) -> None:
        self.size = 0
        self._piece = limits.piece
        self._bound = limits.outbox
        # Small frames, joined; and how many of these have been here, and have left.
        self._small: deque[bytes] = deque()
        self._small_put = self._small_taken = 0
        self._under_way: deque[_Stream] = deque()
        self._numbers = 0
        # Those that have not begun: up to the bound, whose bytes under way are counted, and above it, one at a time.
        self._large: deque[_Stream] = deque()
        self._large_under_way = 0
        self._huge: deque[_Stream] = deque()
        self._huge_under_way: _Stream | None = None
        #: For the id of each large message what has to go behind it.
        self._behind: dict[int, list[Message]] = {}
        #: Notices about engines, and goodbyes.
        self._late: list[Message] = []

    def __bool__(self) -> bool:
        return self.size > 0

    def __repr__(self) -> str:
        return f"<Outbox, {self.size} bytes, {len(self._under_way)} large messages under way>"

    @property
    def excess(self) -> int:
        """How much waits, bytes, apart from the one message above the bound that is under way: one always passes."""
        huge = self._huge_under_way
        return self.size - (huge.left if huge is not None else 0)

    def put(self, pieces: list[Sendable]) -> None:
        """Add messages, given as pieces."""
        if not self._behind:
            try:
                joined = b"".join(pieces)  # type: ignore[arg-type]
            except TypeError:
                pass  # a large message is among them
            else:
                self._put_small(joined)
                self.size += len(joined)
                return
        self.size += size_of(pieces)
        for message in _messages(pieces):
            self._place(message)
        self._begin()

    def take(self) -> list[Buffer]:
        """Return what leaves next, as pieces: small frames, about a piece of them, and then a PIECE."""
        taken: list[Buffer] = []
        room = self._piece
        while self._small and room > 0:
            frames = self._small.popleft()
            taken.append(frames)
            room -= len(frames)
            self.size -= len(frames)
            self._small_taken += 1
        self._begin()
        if self._under_way:
            stream = self._under_way.popleft()
            if stream.number < 0:
                stream.number, self._numbers = self._numbers, self._numbers + 1
                stream.pieces = stream.bulk.cut(stream.number, self._piece)
            head, *views = next(stream.pieces)
            length = len(head) + size_of(views) - HEAD.size
            taken = [b"".join((*taken, head)) if taken else head, *views]
            stream.left -= length
            self.size -= length
            if stream.left:
                self._under_way.append(stream)
            else:
                self._ended(stream)
        return taken

    def drop(self, number: int) -> bool:
        """Drop the large message with that id, and what is behind it; return whether not all of it had left."""
        if number not in self._behind:
            return False
        behind, self._behind[number] = self._behind[number], []
        for message in behind:
            self._forget(message)
        for stream in self._under_way:
            if stream.bulk.id == number:
                self._under_way.remove(stream)
                self.size -= stream.left
                if stream.number >= 0:
                    self._put_small(Bulk.dropped(stream.number))
                    self.size += HEAD.size
                self._ended(stream)
                return True
        for waiting in (self._large, self._huge):
            for stream in waiting:
                if stream.bulk.id == number:
                    waiting.remove(stream)
                    self.size -= stream.left
                    self._left(stream.bulk)
                    return True
        return False

    def clear(self) -> None:
        """Forget everything: none of it will leave."""
        self.size = 0
        for kept in (self._small, self._under_way, self._large, self._huge, self._behind, self._late):
            kept.clear()
        self._huge_under_way, self._large_under_way = None, 0

    def _place(self, message: Message) -> None:
        """Put a message where it belongs; its size has been counted."""
        if isinstance(message, Bulk):
            kind, number, engine = message.kind, message.id, message.engine
        else:
            _, kind, _, _, number, engine, _, _ = HEAD.unpack_from(message[0])
        if number in self._behind:
            self._behind[number].append(message)
        elif self._is_late(kind, engine):
            self._late.append(message)
        elif isinstance(message, Bulk):
            self._behind[number] = []
            stream = _Stream(message, self._small_put)
            (self._large if stream.left <= self._bound else self._huge).append(stream)
        else:
            self._put_small(b"".join(message))

    def _put_small(self, frames: bytes) -> None:
        self._small.append(frames)
        self._small_put += 1

    def _is_late(self, kind: int, engine: int) -> bool:
        if kind == Kind.GOODBYE:
            return bool(self._behind)
        about_an_engine = kind == Kind.NOTICE and engine != NO_ENGINE
        return about_an_engine and any(bulk.engine == engine for bulk in self._bulks())

    def _bulks(self) -> Iterator[Bulk]:
        return (stream.bulk for stream in chain(self._under_way, self._large, self._huge))

    def _begin(self) -> None:
        """Have as many large messages under way as may be."""
        while self._large and len(self._under_way) < STREAMS - 1:
            first = self._large[0]
            if first.after > self._small_taken or self._large_under_way + first.left > self._bound:
                break
            self._large_under_way += first.left
            self._under_way.append(self._large.popleft())
        if self._huge and self._huge_under_way is None and self._huge[0].after <= self._small_taken:
            self._huge_under_way = self._huge.popleft()
            self._under_way.append(self._huge_under_way)

    def _ended(self, stream: _Stream) -> None:
        if stream is self._huge_under_way:
            self._huge_under_way = None
        else:
            self._large_under_way -= len(stream.bulk)
        self._left(stream.bulk)

    def _left(self, bulk: Bulk) -> None:
        """A large message is here no more: what was behind it goes on."""
        behind = self._behind.pop(bulk.id)
        late, self._late = self._late, []
        for message in chain(behind, late):
            self._place(message)
        self._begin()
        if bulk.sent is not None:
            bulk.sent()

    def _forget(self, message: Message) -> None:
        self.size -= len(message) if isinstance(message, Bulk) else size_of(message)


def _messages(pieces: Iterable[Sendable]) -> Iterator[Message]:
    """Take apart what `encode` and `Frame.forward` give: a frame begins with its head, which is a piece by itself."""
    frame: list[Buffer] = []
    left = 0
    for piece in pieces:
        if isinstance(piece, Bulk):
            yield piece
            continue
        if not frame:
            if not piece:
                continue  # an empty buffer at the end of the last frame
            left = HEAD.size + HEAD.unpack_from(piece)[0]
        frame.append(piece)
        left -= len(piece)
        if left <= 0:
            yield frame
            frame = []
