"""A client's connection: calls out, answers in.

Calls may be made from any thread; everything else happens on the loop's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import itertools
import json
import platform
import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from aioparallel.arrivals import Arrivals, Notices
from aioparallel.capability import Capability
from aioparallel.connection import Connection
from aioparallel.dial import connect
from aioparallel.errors import (
    ConnectionLost,
    MessageTooLarge,
    OperationError,
    ParallelError,
    PythonVersionWarning,
    from_plain,
)
from aioparallel.memory import Pool, Segment
from aioparallel.order import Line
from aioparallel.output import Watch
from aioparallel.reply import Unread
from aioparallel.source import SYSTEM, Source
from aioparallel.transports import HANDSHAKE
from aioparallel.wire import (
    KEY,
    LAST,
    TRIED,
    Buffer,
    Bulk,
    Frame,
    Kind,
    Limits,
    News,
    Sendable,
    Status,
    encode,
    encode_shared,
    size_of,
)

__all__ = [
    "Channel",
    "Finish",
    "Future",
    "fail",
    "plain_value",
    "serializer",
    "settle",
]

#: Pieces of calls that are sent in one go.
BATCH = 4096

#: Calls under way up to which a waiting thread reads by itself.
FEW = 8

#: Seconds for which memory that a large call was in is kept for the next one.
IDLE = 2.0

#: A payload from this size on, bytes, is copied into shared memory by a thread if the caller is a loop.
STAGED = 2**22

#: Makes a call's value of the RESULT frames that answered it, or raises.
Finish: TypeAlias = Callable[[list[Frame]], Any]
Post: TypeAlias = Callable[[Callable[[], object]], object]
#: A `Handle`, a `PendingResult`, or what stands in for one (`joint`).
Future: TypeAlias = Any


@functools.cache
def serializer() -> Any:
    """Return the module `serialize`, imported when something is first packed or unpacked.

    Both parts of an interface are in one file, and the controller, which loads it too, is unable to pickle.
    """
    from aioparallel import serialize

    return serialize


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


class Channel:
    """One connection of one client.

    Attributes:
        loop: The loop it lives on.
        capability: What it proved.
        engines: The engines as last heard of: id -> Python version.
        steps: How many steps `on_join` has, as last heard of.
        session: Its id at the controller.
    """

    def __init__(self, capability: Capability, limits: Limits, post: Post | None, source: Source) -> None:
        self.loop = asyncio.get_running_loop()
        self._wake = post or self.loop.call_soon_threadsafe
        self.capability = capability
        self.engines: dict[int, str] = {}
        self.steps = 0
        self.session = ""
        self._limits = limits
        # What is no larger leaves as one frame, and needs no look at its header.
        self._largest = min(limits.message, limits.header, limits.small)
        self._codes: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self.wall = source.wall
        self._pending: dict[int, tuple[Future, Finish]] = {}
        self._partial: dict[int, list[Frame]] = {}
        #: What large calls under way lie in.
        self._lent: dict[int, Segment] = {}
        self._pool = Pool(limits.backlog)
        self._trimming = False
        # The asyncio face's loop has other things to do than to copy; the blocking face's caller has not.
        self._stages = post is None
        self._watched: dict[int, Watch] = {}
        #: Who takes log records, by request; who is told of engines that join or have a fresh kernel.
        self.forwardings: dict[int, Callable[[int, dict[str, Any]], object]] = {}
        self.on_engines: list[Callable[[list[int]], object]] = []
        #: What the interface tells us unasked.
        self.notices = Notices()
        self._posted: deque[Sequence[Sendable]] = deque()
        self._posting = False
        # Calls that leave, and those that wait for them; any thread may look, and who changes it holds the lock.
        self._line = Line()
        self._lining = threading.Lock()
        self._connection: Connection | None = None
        self._error: ParallelError | None = None
        self._closed: asyncio.Future[None] = self.loop.create_future()
        self._introduced: asyncio.Future[None] = self.loop.create_future()
        self._drained: asyncio.Future[None] | None = None
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        state = "closed" if self._error else "open"
        return f"<Channel {state} to {self.capability.interface!r}, {len(self._pending)} calls under way>"

    @classmethod
    async def open(
        cls,
        capability: Capability,
        *,
        limits: Limits | None = None,
        source: Source = SYSTEM,
        post: Post | None = None,
    ) -> Channel:
        """Reach the controller and prove the capability.

        Args:
            capability: What to prove.
            limits: The bounds.
            source: Where random bytes come from.
            post: Has the loop call something soon, from any thread; `loop.call_soon_threadsafe` by default.

        Raises:
            ConnectionFailed: As `dial.connect`; or the connection ended before the controller named its engines.
        """
        channel = cls(capability, limits or Limits(), post, source)
        channel._connection, welcome = await connect(
            capability,
            role="client",
            on_frames=channel._receive,
            on_lost=channel._lost,
            limits=channel._limits,
            source=source,
        )
        channel._connection.on_drained = channel._on_drained
        channel._codes = {name: code for code, name in enumerate(welcome.get("ops", []))}
        channel.session = str(welcome.get("session", ""))
        # Who is welcome is told of the engines at once. That is another message, and "all" means nothing before it.
        try:
            async with asyncio.timeout(HANDSHAKE):
                await channel._introduced
        except BaseException as error:
            channel._connection.abort()
            if isinstance(error, TimeoutError):
                raise ConnectionLost(f"the controller named no engines within {HANDSHAKE:.0f} s") from None
            raise
        return channel

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return self._error is None

    @property
    def limits(self) -> Limits:
        """The bounds in force."""
        return self._limits

    @property
    def congested(self) -> bool:
        """Whether the controller takes no more for now."""
        if self._error is not None or self._connection is None:
            return False
        return self._connection.congested or self._line.size > self._limits.outbox

    async def drained(self) -> None:
        """Wait until the controller takes more."""
        while self.congested:
            if self._drained is None or self._drained.done():
                self._drained = self.loop.create_future()
            await asyncio.shield(self._drained)

    def _on_drained(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def call(
        self,
        operation: str,
        future: Future,
        finish: Finish,
        *,
        header: bytes = b"",
        buffers: Sequence[Buffer] = (),
        watch: Watch | None = None,
        targets: str | Sequence[int] | None = None,
    ) -> int:
        """Call an operation; its answer settles `future`. From any thread.

        Args:
            operation: Its name.
            future: What its answer settles.
            finish: Makes the value.
            header: What it carries for the controller.
            buffers: What it carries for engines.
            watch: What is told what it writes; the header asks the controller to tell us.
            targets: Engine ids, or "all": the call does not overtake an earlier one to the same engines that is
                large and still leaving. None: it may overtake any.

        Returns:
            The call's number, for `withdraw`.

        Raises:
            OperationError: The interface has no such operation.
            MessageTooLarge: Nothing was sent.
            ConnectionLost: The connection has ended.
        """
        code = self._codes.get(operation)
        if code is None:
            known = ", ".join(self._codes) or "none"
            raise OperationError(f"{self.capability.interface!r} has no operation {operation!r}; it has {known}")
        number = next(self._numbers)
        if len(buffers) == 1 and len(buffers[0]) + len(header) < self._largest:
            pieces = encode(Kind.CALL, number, code=code, header=header, buffers=buffers)
            large = False
        else:
            pieces = self._encode(number, code, header, buffers)
            large = isinstance(pieces[0], (Bulk, _Staged))
        future.submitted = self.wall()
        self._pending[number] = future, finish
        if watch is not None:
            self._watched[number] = watch
            watch.begin(number)
        if self._error is not None:
            self._pending.pop(number, None)
            self._watched.pop(number, None)
            self._lent.pop(number, None)
            raise self._error
        if large or (targets is not None and self._line.leaving):
            with self._lining:
                if self._line.enter(number, targets, pieces, large=large):
                    self._release(pieces)
        else:
            self._post(pieces)
        return number

    def stream(self, operation: str, *, header: bytes = b"") -> Arrivals:
        """Call an operation that answers with one value after the other; return where they arrive. From any thread.

        The operation waits while many of them have not been taken.

        Raises:
            OperationError: The interface has no such operation.
            MessageTooLarge: Nothing was sent.
            ConnectionLost: The connection has ended.
        """
        arrivals = Arrivals()
        number = self.call(operation, arrivals, plain_value, header=header)
        arrivals.on_taken = functools.partial(self._ask_for_more, number)
        # By the loop: whoever drops a stream, the garbage collector maybe, may hold any lock.
        arrivals.on_gone = functools.partial(self._wake, functools.partial(self.withdraw, number))
        return arrivals

    def _ask_for_more(self, number: int, taken: int) -> None:
        with contextlib.suppress(ConnectionLost):
            self._post(encode(Kind.NOTICE, number, code=News.TAKEN, header=KEY.pack(taken)))

    def _encode(self, number: int, code: int, header: bytes, buffers: Sequence[Buffer]) -> list[Any]:
        """Return a call as what is sent; a large payload stays in shared memory if the controller can open that."""
        limits = self._limits
        if len(header) > limits.header:
            text = f"the plain arguments of a call take {len(header):,} bytes; the limit is {limits.header:,}"
            raise MessageTooLarge(f"{text} (Limits.header)")
        assert self._connection is not None
        if self._connection.shares and limits.share <= (size := size_of(buffers)) <= limits.message:
            if self._stages and size >= STAGED:
                return [_Staged(number, size, functools.partial(self._lend, number, code, header, buffers))]
            return self._lend(number, code, header, buffers)
        return self._encode_whole(number, code, header, buffers)

    def _lend(self, number: int, code: int, header: bytes, buffers: Sequence[Buffer]) -> list[Sendable]:
        """Put a payload into shared memory, if that can be had, and return the call."""
        loan = self._pool.lend(buffers)
        if loan is None:
            return self._encode_whole(number, code, header, buffers)
        self._lent[number] = loan[0]
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
            self._post(pieces)

    def _stage(self, staged: _Staged) -> None:
        """Have another thread copy what would hold up the loop for long."""
        making = self.loop.run_in_executor(None, staged.make)
        making.add_done_callback(functools.partial(self._made, staged.number))

    def _made(self, number: int, making: asyncio.Future[list[Sendable]]) -> None:
        """A call's payload is in shared memory: the call follows, unless it was withdrawn."""
        pending = self._pending.get(number)
        if pending is None or self._error is not None or making.cancelled():
            if (segment := self._lent.pop(number, None)) is not None:
                self._pool.give_up(segment)
        elif (error := making.exception()) is not None:
            self._pending.pop(number, None)
            fail(pending[0], error if isinstance(error, Exception) else ConnectionLost(str(error)))
        else:
            pieces = making.result()
            self._send_posted()
            assert self._connection is not None
            self._connection.send_now(pieces)
            if isinstance(pieces[0], Bulk):
                return
        self._left(number)

    def _left(self, number: int) -> None:
        """A large call is out: those that waited for it follow."""
        with self._lining:
            self._line.left(number, self._release)
        self._on_drained()

    def withdraw(self, number: int | tuple[int, ...]) -> None:
        """Forget a call, or the several that are one (`joint`), and tell the controller; from any thread."""
        for each in number if isinstance(number, tuple) else (number,):
            if self._lent and (segment := self._lent.pop(each, None)) is not None:
                self._pool.give_up(segment)
            if self._pending.pop(each, None) is not None and self._error is None:
                self._partial.pop(each, None)
                if self._watched and (watch := self._watched.pop(each, None)) is not None:
                    self._wake(watch.end)
                self._take_back_call(each)

    def _take_back_call(self, number: int) -> None:
        """Have a call not leave any more, or tell the controller that it is no longer wanted."""
        if self._line.leaving:
            with self._lining:
                if self._line.withdraw(number, self._release):
                    return
            if number in self._line.leaving:
                self._call_soon(functools.partial(self._withdraw, number))
                return
        self._post(encode(Kind.CANCEL, number))

    def _withdraw(self, number: int) -> None:
        """Take back a call that is leaving, on the loop; if it is out by now, tell the controller."""
        self._send_posted()
        assert self._connection is not None
        if not self._connection.withdraw(number):
            self._connection.send_now(encode(Kind.CANCEL, number))

    def watch(self, number: int | tuple[int, ...], future: Any) -> Watch:
        """Return the watch of a call (or of several that are one) whose answer settles, or has settled, `future`.

        To be called on the loop. A call that ran already, or still runs, is watched from its beginning.
        """
        numbers = number if isinstance(number, tuple) else (number,)
        watch: Watch | None = future.written
        if watch is None:
            watch = future.written = self._watched.get(numbers[0]) or Watch(self.loop)
            under_way = [each for each in numbers if each in self._pending]
            if not under_way:
                watch.begin(numbers[0])
                answers = getattr(future, "answers", None)  # there are none if it was withdrawn
                for brief in answers if isinstance(answers, list) else filter(None, [answers]):
                    watch.answered(*brief)
                watch.end()
            for each in under_way:
                for frame in self._partial.get(each, ()):
                    watch.answered(*frame.brief())
                if each not in self._watched:
                    self._ask_for_output(each, watch)
        return watch

    def _ask_for_output(self, number: int, watch: Watch) -> None:
        self._watched[number] = watch
        watch.begin(number)
        if "watch_output" in self._codes:
            header = json.dumps({"call": number}).encode()
            self._post(encode(Kind.CALL, next(self._numbers), code=self._codes["watch_output"], header=header))

    def forget(self, unread: Unread) -> None:
        """Forget results that nobody has asked for; calls under way go on, and their answers are dropped.

        From any thread.
        """
        unread.forgotten = True
        for number, (future, _) in list(self._pending.items()):
            if getattr(future, "unread", None) is unread:
                self._pending.pop(number, None)
                self._partial.pop(number, None)
                future.forget()

    def read_here(self, seconds: float) -> bool:
        """Read what arrives in the calling thread, while nobody runs the loop (`Connection.read_here`).

        Only while few calls are under way: the answers to many come in better by the loop, which lets them gather.
        """
        under_way = len(self._pending)
        if self._connection is None or under_way > FEW:
            return False
        return self._connection.read_here(seconds, alone=under_way == 1)

    async def aclose(self) -> None:
        """Close; calls under way fail with `ConnectionLost`. Safe to call twice."""
        if self._connection is not None:
            self.notices.end(None)
            self._connection.close(ConnectionLost("this client was closed"))
            await asyncio.shield(self._closed)

    def _post(self, pieces: Sequence[Sendable]) -> None:
        """Send from whatever thread this is; many calls in a row wake the loop once."""
        self._posted.append(pieces)
        if not self._posting:
            self._posting = True
            try:
                self._call_soon(self._send_posted)
            except BaseException:
                # Also Ctrl-C: the next call must wake the loop, or nothing would ever be sent again.
                self._posting = False
                raise

    def _call_soon(self, callback: Callable[[], object]) -> None:
        try:
            self._wake(callback)
        except RuntimeError:
            raise ConnectionLost("this client's event loop is closed") from None

    def _send_posted(self) -> None:
        self._posting = False
        assert self._connection is not None
        posted = self._posted
        while posted:
            pieces = list(posted.popleft())
            while posted and len(pieces) < BATCH:
                pieces += posted.popleft()
            self._connection.send_now(pieces)

    def _receive(self, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.kind == Kind.RESULT:
                if self._watched:
                    self._answered(frame)
                if frame.flags & LAST:
                    if self._lent and (segment := self._lent.pop(frame.id, None)) is not None:
                        self._take_back(segment)
                    pending = self._pending.pop(frame.id, None)
                    first = self._partial.pop(frame.id, None) if self._partial else None
                    if pending is not None:
                        settle(*pending, [*first, frame] if first else [frame])
                elif (waiting := self._pending.get(frame.id)) is not None:
                    if (part := getattr(waiting[0], "part", None)) is not None:
                        part(frame)
                    else:
                        self._partial.setdefault(frame.id, []).append(frame)
            elif frame.kind == Kind.NOTICE:
                if frame.code == News.EVENT:
                    self._notice(frame.json())
                else:
                    self._told(frame)
            elif frame.kind == Kind.GOODBYE:
                assert self._connection is not None
                self._connection.close(ConnectionLost(f"the controller ended the connection: {frame.json()['text']}"))

    def _take_back(self, segment: Segment) -> None:
        """A call was answered: what it lay in may be used for the next one, if that comes soon."""
        self._pool.take_back(segment)
        if not self._trimming:
            self._trimming = True
            self.loop.call_later(IDLE, self._trim)

    def _trim(self) -> None:
        self._trimming = self._error is None and self._pool.trim()
        if self._trimming:
            self.loop.call_later(IDLE, self._trim)

    def _answered(self, frame: Frame) -> None:
        """Complete what a watched call has written."""
        watch = self._watched.get(frame.id)
        if watch is not None:
            watch.answered(*frame.brief())
            if frame.flags & LAST:
                del self._watched[frame.id]
                watch.end()

    def _told(self, frame: Frame) -> None:
        """Take news of what user code writes or logs."""
        if frame.code == News.VALUE:
            self.notices.hear(frame.header)
        elif frame.code == News.RECORD:
            news = frame.json()
            take = self.forwardings.get(news.get("request", 0)) if isinstance(news, dict) else None
            if take is not None:
                take(frame.engine, news)
        elif frame.id in self._watched:
            self._watched[frame.id].wrote(frame)

    def _notice(self, notice: dict[str, Any]) -> None:
        if not self._introduced.done():
            self._introduced.set_result(None)
        for number, python in notice.get("joined", ()):
            self.engines[number] = python
            minor = python.rpartition(".")[0]
            if minor and minor != platform.python_version().rpartition(".")[0] and python not in self._warned:
                self._warned.add(python)
                warnings.warn(
                    f"engine {number} runs Python {python}, this client {platform.python_version()}: "
                    "functions that can't be imported there can't be sent to it",
                    PythonVersionWarning,
                    stacklevel=1,
                )
        for number in notice.get("left", ()):
            self.engines.pop(number, None)
        self.steps = notice.get("steps", self.steps)
        for listener in tuple(self.on_engines):
            listener([number for number, _ in notice.get("joined", ())] + notice.get("restarted", []))

    def _lost(self, error: BaseException | None) -> None:
        text = str(error) if error else "the controller closed the connection"
        self._error = error if isinstance(error, ConnectionLost) else ConnectionLost(text)
        while self._pending:
            _, (future, _) = self._pending.popitem()
            fail(future, ConnectionLost(str(self._error)))
        self._partial.clear()
        self._lent.clear()
        self._pool = Pool(0)
        with self._lining:
            self._line.clear()
        while self._watched:
            self._watched.popitem()[1].end()
        self.notices.end(ConnectionLost(str(self._error)))
        self._on_drained()
        if not self._introduced.done():
            self._introduced.set_exception(ConnectionLost(str(self._error)))
        if not self._closed.done():
            self._closed.set_result(None)


def settle(future: Future, finish: Finish, frames: list[Frame]) -> None:
    """Give a future its value or its error; one that was cancelled in between stays so."""
    last = frames[-1]
    # Not the frames themselves: a payload must not live as long as whoever keeps the future.
    if len(frames) == 1:
        future.answers = last.engine, last.code, last.body[0][: last._header]  # `brief`, without a call
    else:
        future.answers = [frame.brief() for frame in frames]
    if last.code >= TRIED:
        last.code %= TRIED
    try:
        value = finish(frames)
    except (asyncio.CancelledError, concurrent.futures.CancelledError):
        future.cancel()
    except Exception as error:
        fail(future, error)
    else:
        try:  # noqa: SIM105  (to enter a context manager takes longer than all this)
            future.set_result(value)
        except (asyncio.InvalidStateError, concurrent.futures.InvalidStateError):
            pass


def fail(future: Future, error: Exception) -> None:
    """Give a future its error, unless it is done."""
    with contextlib.suppress(asyncio.InvalidStateError, concurrent.futures.InvalidStateError):
        future.set_exception(error)


def plain_value(frames: list[Frame]) -> Any:
    """Return the plain value of an answer.

    Raises:
        ParallelError: What the controller said instead.
        asyncio.CancelledError: The call was withdrawn.
    """
    frame = frames[-1]
    if frame.code == Status.OK:
        return frame.json()
    if frame.code == Status.CANCELLED:
        raise asyncio.CancelledError
    raise from_plain(frame.json())
