"""A client's connection: calls out, answers in.

Calls may be made from any thread; everything else happens on the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from aioparallel.arrivals import Arrivals, Notices
from aioparallel.capability import Capability
from aioparallel.connection import Connection
from aioparallel.departures import Departures
from aioparallel.dial import PYTHON, connect
from aioparallel.errors import ConnectionLost, OperationError, ParallelError, PythonVersionWarning
from aioparallel.gate import HANDSHAKE
from aioparallel.output import Watch
from aioparallel.receipt import WAITING, TaskReply
from aioparallel.reply import Unread
from aioparallel.settling import Finish, Future, fail, plain_value, settle, tell
from aioparallel.source import SYSTEM, Source
from aioparallel.wire import KEY, LAST, Buffer, Frame, Kind, Limits, News, encode

__all__ = ["Channel", "serializer"]

#: Calls under way up to which a waiting thread reads by itself.
FEW = 8

Post: TypeAlias = Callable[[Callable[[], object]], object]


@functools.cache
def serializer() -> Any:
    """Return the module `serialize`, imported when something is first packed or unpacked.

    Both parts of an interface are in one file, and the controller, which loads it too, is unable to pickle.
    """
    from aioparallel import serialize

    return serialize


class Channel:
    """One connection of one client.

    Attributes:
        loop: The loop it lives on.
        capability: What it proved.
        engines: The engines as last heard of: id -> Python version.
        waiting: Futures of calls that wait here for others before they are made.
        steps: How many steps `on_join` has, as last heard of.
        session: Its id at the controller.
    """

    def __init__(self, capability: Capability, limits: Limits, post: Post | None, source: Source) -> None:
        self.loop = asyncio.get_running_loop()
        self.capability = capability
        self.engines: dict[int, str] = {}
        self.steps = 0
        self.session = ""
        self._limits = limits
        self._codes: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self.wall = source.wall
        self._pending: dict[int, tuple[Future, Finish]] = {}
        self._partial: dict[int, list[Frame]] = {}
        self.waiting: dict[Future, None] = {}
        self._wake = post or self.loop.call_soon_threadsafe
        self._departures = Departures(
            self.loop,
            self._wake,
            limits,
            stages=post is None,
            moved=self._on_drained,
            failed=self._not_made,
            returned=self._returned,
        )
        self._watched: dict[int, Watch] = {}
        #: Who takes log records, by request; who is told of engines that join or have a fresh kernel.
        self.forwardings: dict[int, Callable[[int, dict[str, Any]], object]] = {}
        self.on_engines: list[Callable[[list[int]], object]] = []
        #: What the interface tells us unasked.
        self.notices = Notices()
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
        channel._departures.connection = channel._connection
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
        return self._connection.congested or self._departures.line.size > self._limits.outbox

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
        behind: Sequence[int] = (),
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
            behind: Numbers of calls that it does not overtake, if it is for no engines in particular.

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
        departures = self._departures
        pieces = departures.make(number, code, header, buffers)
        future.submitted = self.wall()
        self._pending[number] = future, finish
        if watch is not None:
            self._watched[number] = watch
            watch.begin(number)
        if self._error is not None:
            self._pending.pop(number, None)
            self._watched.pop(number, None)
            departures.unmake(number)
            raise self._error
        departures.leave(number, pieces, targets, behind)
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
            self._departures.post(encode(Kind.NOTICE, number, code=News.TAKEN, header=KEY.pack(taken)))

    def withdraw(self, number: int | tuple[int, ...]) -> None:
        """Forget a call, or the several that are one (`joint`), and tell the controller; from any thread."""
        for each in number if isinstance(number, tuple) else (number,):
            self._departures.unmake(each)
            pending = self._pending.get(each)
            if pending is None or self._error is not None:
                continue
            if not isinstance(pending[0], TaskReply):
                # Of a task the last is heard in any case; its future, which is cancelled, takes note of how it ended.
                self._partial.pop(each, None)
                if self._pending.pop(each, None) is None:
                    continue
            if self._watched and (watch := self._watched.pop(each, None)) is not None:
                self._wake(watch.end)
            self._departures.withdraw(each)

    def _returned(self, number: int) -> None:
        """A call was withdrawn before the controller heard of it."""
        pending = self._pending.pop(number, None)
        if pending is not None:
            tell(pending[0], WAITING)

    def _not_made(self, number: int, error: Exception) -> None:
        """A large call could not be made."""
        pending = self._pending.pop(number, None)
        if pending is not None:
            fail(pending[0], error)

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
            self._departures.post(
                encode(Kind.CALL, next(self._numbers), code=self._codes["watch_output"], header=header)
            )

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

    def under_way(self, kind: type) -> list[Any]:
        """Return the futures of a kind that have not ended, in the order in which they were made or sent."""
        futures = [*list(self.waiting), *(future for future, _ in list(self._pending.values()))]
        return [future for future in futures if isinstance(future, kind) and not future.done()]  # type: ignore[attr-defined]

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

    def _receive(self, frames: list[Frame]) -> None:
        lent = self._departures.lent
        for frame in frames:
            if frame.kind == Kind.RESULT:
                if self._watched:
                    self._answered(frame)
                if frame.flags & LAST:
                    if lent:
                        self._departures.answered(frame.id)
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
            if minor and minor != PYTHON.rpartition(".")[0] and python not in self._warned:
                self._warned.add(python)
                warnings.warn(
                    f"engine {number} runs Python {python}, this client {PYTHON}: "
                    "functions that can't be imported there can't be sent to it",
                    PythonVersionWarning,
                    stacklevel=1,
                )
        for number in notice.get("left", ()):
            self.engines.pop(number, None)
        self.steps = notice.get("steps", self.steps)
        for listener in tuple(self.on_engines):
            listener([number for number, _ in notice.get("joined", ())] + notice.get("restarted", []))

    def _lost(self, reason: BaseException | None) -> None:
        text = str(reason) if reason else "the controller closed the connection"
        self._error = reason if isinstance(reason, ConnectionLost) else ConnectionLost(text)
        while self._pending:
            _, (future, _) = self._pending.popitem()
            error = ConnectionLost(str(self._error))
            if not fail(future, error):
                tell(future, error)
        while self.waiting:
            fail(self.waiting.popitem()[0], ConnectionLost(str(self._error)))
        self._partial.clear()
        self._departures.close()
        while self._watched:
            self._watched.popitem()[1].end()
        self.notices.end(ConnectionLost(str(self._error)))
        self._on_drained()
        if not self._introduced.done():
            self._introduced.set_exception(ConnectionLost(str(self._error)))
        if not self._closed.done():
            self._closed.set_result(None)
