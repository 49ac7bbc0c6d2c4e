"""How calls leave a client: each in its turn, in few writes, large ones through shared memory."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from aioparallel.connection import Connection
from aioparallel.errors import ConnectionLost, MessageTooLarge
from aioparallel.memory import Pool, Segment
from aioparallel.order import Line
from aioparallel.wire import Buffer, Bulk, Kind, Limits, Sendable, encode, encode_shared, size_of

__all__ = ["Departures"]

#: Pieces of calls that are sent in one go.
BATCH = 4096

#: Seconds for which memory that a large call was in is kept for the next one.
IDLE = 2.0

#: A payload from this size on, bytes, is copied into shared memory by a thread if the caller is a loop.
STAGED = 2**22


class _Staged:
    """A large call that takes a while to be made; its length is that of its payload.

    Args:
        number: The call's.
        size: Bytes of the payload.
        make: Makes what is sent, in any thread.
    """

    __slots__ = ("make", "number", "size")

    def __init__(self, number: int, size: int, make: Callable[[], list[Sendable]]) -> None:
        self.number = number
        self.size = size
        self.make = make

    def __len__(self) -> int:
        return self.size


class Departures:
    """What leaves a client, from a call's payload to the connection. Calls may leave from any thread.

    Args:
        loop: The loop that the connection lives on.
        wake: Has the loop call something soon, from any thread.
        limits: The bounds.
        stages: Whether a thread copies what is very large: a loop has other things to do, a thread that blocks has not.
        moved: Called on the loop when what waited is less.
        failed: Called on the loop with the number of a call that could not be made, and why.
        returned: Called with the number of a withdrawn call of which the controller has never heard, and never will.

    Attributes:
        connection: Where to; there before the first call.
        line: Calls that leave, and those that wait for them. Any thread may look, and who changes it holds the lock.
        lent: What large calls under way lie in.
        pool: Where they take that from.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[Callable[[], object]], object],
        limits: Limits,
        *,
        stages: bool,
        moved: Callable[[], object],
        failed: Callable[[int, Exception], object],
        returned: Callable[[int], object],
    ) -> None:
        self.connection: Connection | None = None
        self.line = Line()
        self.lent: dict[int, Segment] = {}
        self.pool = Pool(limits.backlog)
        self._loop = loop
        self._wake = wake
        self._limits = limits
        # What is no larger leaves as one frame, and needs no look at its header.
        self._largest = min(limits.message, limits.header, limits.small)
        self._stages = stages
        self._moved = moved
        self._failed = failed
        self._returned = returned
        self._lining = threading.Lock()
        #: Calls that a thread copies at this moment. Changed on the loop only.
        self._staging: set[int] = set()
        self._trimming: asyncio.TimerHandle | None = None
        self._over = False
        self._posted: deque[Sequence[Sendable]] = deque()
        self._posting = False

    def __repr__(self) -> str:
        return f"<Departures: {self.line!r}, {len(self._staging)} being copied>"

    def make(self, number: int, code: int, header: bytes, buffers: Sequence[Buffer]) -> list[Any]:
        """Return a call as what is sent.

        Raises:
            MessageTooLarge: It is beyond a bound.
        """
        if len(buffers) == 1 and len(buffers[0]) + len(header) < self._largest:
            return encode(Kind.CALL, number, code=code, header=header, buffers=buffers)
        limits = self._limits
        if len(header) > limits.header:
            text = f"the plain arguments of a call take {len(header):,} bytes; the limit is {limits.header:,}"
            raise MessageTooLarge(f"{text} (Limits.header)")
        assert self.connection is not None
        if self.connection.shares and limits.share <= (size := size_of(buffers)) <= limits.message:
            if self._stages and size >= STAGED:
                return [_Staged(number, size, functools.partial(self._lend, number, code, header, buffers))]
            return self._lend(number, code, header, buffers)
        return self._encode_whole(number, code, header, buffers)

    def leave(
        self, number: int, pieces: list[Any], targets: str | Sequence[int] | None, behind: Sequence[int] = ()
    ) -> None:
        """Send what `make` has made when its turn has come (`Channel.call`).

        Raises:
            ConnectionLost: The loop is closed.
        """
        large = isinstance(pieces[0], (Bulk, _Staged))
        if large or (self.line.leaving and (targets is not None or behind)):
            with self._lining:
                if targets is None:
                    targets = self._places(number, behind, large)
                if self.line.enter(number, targets, pieces, large=large):
                    self._release(pieces)
        else:
            self.post(pieces)

    def post(self, pieces: Sequence[Sendable]) -> None:
        """Send from whatever thread this is; many calls in a row wake the loop once.

        Raises:
            ConnectionLost: The loop is closed.
        """
        self._posted.append(pieces)
        if not self._posting:
            self._posting = True
            try:
                self._call_soon(self._send_posted)
            except BaseException:
                # Also Ctrl-C: the next call must wake the loop, or nothing would ever be sent again.
                self._posting = False
                raise

    def unmake(self, number: int) -> None:
        """Let go of what a call lies in that is not sent, or not wanted; from any thread."""
        if self.lent and (segment := self.lent.pop(number, None)) is not None:
            self.pool.give_up(segment)

    def withdraw(self, number: int) -> None:
        """Have a call not leave any more, or tell the controller that it is no longer wanted; from any thread.

        Raises:
            ConnectionLost: The loop is closed.
        """
        if self.line.leaving:
            with self._lining:
                withdrawn = self.line.withdraw(number, self._release)
            if withdrawn:
                self._returned(number)
                return
            if number in self.line.leaving:
                self._call_soon(functools.partial(self._withdraw, number))
                return
        self.post(encode(Kind.CANCEL, number))

    def answered(self, number: int) -> None:
        """A call was answered: what it lay in may be used for the next one, if that comes soon."""
        segment = self.lent.pop(number, None)
        if segment is not None:
            self.pool.take_back(segment)
            if self._trimming is None:
                self._trimming = self._loop.call_later(IDLE, self._trim)

    def close(self) -> None:
        """Nothing leaves any more."""
        self._over = True
        if self._trimming is not None:
            self._trimming.cancel()
        self._staging.clear()
        self.lent.clear()
        self.pool = Pool(0)
        with self._lining:
            self.line.clear()

    def _lend(self, number: int, code: int, header: bytes, buffers: Sequence[Buffer]) -> list[Sendable]:
        """Put a payload into shared memory, if that can be had, and return the call."""
        loan = self.pool.lend(buffers)
        if loan is None:
            return self._encode_whole(number, code, header, buffers)
        self.lent[number] = loan[0]
        return encode_shared(Kind.CALL, number, *loan, code=code, header=header)

    def _encode_whole(self, number: int, code: int, header: bytes, buffers: Sequence[Buffer]) -> list[Sendable]:
        limits = self._limits
        pieces = encode(
            Kind.CALL, number, code=code, header=header, buffers=buffers, limit=limits.message, small=limits.small
        )
        for piece in pieces:
            if isinstance(piece, Bulk):
                piece.sent = functools.partial(self._left, number)
        return pieces

    def _release(self, pieces: list[Any]) -> None:
        """Send a call whose turn has come."""
        if isinstance(pieces[0], _Staged):
            self._wake(functools.partial(self._stage, pieces[0]))
        else:
            self.post(pieces)

    def _places(self, number: int, behind: Sequence[int], large: bool) -> list[int]:
        """Return what a call for no engine in particular has in the line, in place of engines.

        That is a place of its own while it leaves, which those name that are behind it. These also have one in common:
        so none of them overtakes another that waits, and there are few queues.
        """
        places = [-1, *(-1 - each for each in behind if each in self.line.leaving)] if behind else []
        return [*places, -1 - number] if large else places

    def _stage(self, staged: _Staged) -> None:
        """Have another thread copy what would hold up the loop for long."""
        if not self._over:
            self._staging.add(staged.number)
        making = self._loop.run_in_executor(None, staged.make)
        making.add_done_callback(functools.partial(self._made, staged.number))

    def _made(self, number: int, making: asyncio.Future[list[Sendable]]) -> None:
        """A call's payload is in shared memory: the call follows, unless it was withdrawn."""
        wanted = number in self._staging
        self._staging.discard(number)
        if not wanted or making.cancelled():
            self.unmake(number)
        elif (error := making.exception()) is not None:
            self._failed(number, error if isinstance(error, Exception) else ConnectionLost(str(error)))
        else:
            pieces = making.result()
            self._send_posted()
            assert self.connection is not None
            self.connection.send_now(pieces)
            if isinstance(pieces[0], Bulk):
                return
        self._left(number)

    def _left(self, number: int) -> None:
        """A large call is out: those that waited for it follow."""
        with self._lining:
            self.line.left(number, self._release)
        self._moved()

    def _withdraw(self, number: int) -> None:
        """Take back a call that is leaving, on the loop; if it is out by now, tell the controller."""
        self._send_posted()
        assert self.connection is not None
        if number in self._staging:
            self._staging.discard(number)
            self._returned(number)
        elif self.connection.withdraw(number):
            self._returned(number)
        else:
            self.connection.send_now(encode(Kind.CANCEL, number))

    def _trim(self) -> None:
        self._trimming = self._loop.call_later(IDLE, self._trim) if self.pool.trim() else None

    def _call_soon(self, callback: Callable[[], object]) -> None:
        try:
            self._wake(callback)
        except RuntimeError:
            raise ConnectionLost("this client's event loop is closed") from None

    def _send_posted(self) -> None:
        self._posting = False
        assert self.connection is not None
        posted = self._posted
        while posted:
            pieces = list(posted.popleft())
            while posted and len(pieces) < BATCH:
                pieces += posted.popleft()
            self.connection.send_now(pieces)
