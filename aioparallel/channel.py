"""A client's connection: calls out, answers in; and Client, the asyncio face of every interface.

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
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeAlias

from aioparallel.capability import Capability, capability_path, environment_capability
from aioparallel.connection import Connection
from aioparallel.dial import connect
from aioparallel.errors import (
    ConfigurationError,
    ConnectionLost,
    MessageTooLarge,
    OperationError,
    ParallelError,
    PythonVersionWarning,
    from_plain,
)
from aioparallel.order import Line
from aioparallel.source import SYSTEM, Source
from aioparallel.wire import LAST, Buffer, Bulk, Frame, Kind, Limits, Sendable, Status, encode

__all__ = ["Channel", "Client", "Finish", "Handle", "find_capability", "plain_value", "serializer"]

#: Pieces of calls that are sent in one go.
BATCH = 4096

#: Calls under way up to which a waiting thread reads by itself.
FEW = 8

#: Makes a call's value of the RESULT frames that answered it, or raises.
Finish: TypeAlias = Callable[[list[Frame]], Any]
Post: TypeAlias = Callable[[Callable[[], object]], object]
Future: TypeAlias = "asyncio.Future[Any] | concurrent.futures.Future[Any]"


@functools.cache
def serializer() -> Any:
    """Return the module `serialize`, imported when something is first packed or unpacked.

    Both parts of an interface are in one file, and the controller, which loads it too, is unable to pickle.
    """
    from aioparallel import serialize

    return serialize


def find_capability(
    capability: Capability | str | Path | None,
    interface: str,
    *,
    cluster: str = "default",
    directory: Path | None = None,
) -> Capability:
    """Return the capability a client was given, or the one of the cluster of that name.

    Args:
        capability: One; the path of a file; or None to look where AIOPARALLEL_CAP says, then in the state directory.
        interface: What it must be for.
        cluster: Whose, when none is given.
        directory: The state directory, when it is not the usual one.

    Raises:
        NoClusterError: There is no such file.
        CapabilityError: The file can't be trusted or read.
        ConfigurationError: It is for another interface.
    """
    if capability is None:
        capability = environment_capability(interface) or capability_path(
            interface, cluster=cluster, directory=directory
        )
    found = capability if isinstance(capability, Capability) else Capability.load(Path(capability))
    if found.interface != interface:
        where = "this capability" if isinstance(capability, Capability) else str(capability)
        raise ConfigurationError(f"{where} is for the interface {found.interface!r}, not {interface!r}")
    return found


class Handle(asyncio.Future[Any]):
    """What a call gives back at once: await it for the value; cancel it to withdraw the work."""

    withdraw: Callable[[], None] | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        """Withdraw the work; it is dropped where it waits, or interrupted where it runs."""
        cancelled = super().cancel(msg)
        if cancelled and self.withdraw is not None:
            self.withdraw()
        return cancelled


class Channel:
    """One connection of one client.

    Attributes:
        loop: The loop it lives on.
        capability: What it proved.
        engines: The engines as last heard of: id -> Python version.
        session: Its id at the controller.
    """

    def __init__(self, capability: Capability, limits: Limits, post: Post | None) -> None:
        self.loop = asyncio.get_running_loop()
        self._wake = post or self.loop.call_soon_threadsafe
        self.capability = capability
        self.engines: dict[int, str] = {}
        self.session = ""
        self._limits = limits
        # What is no larger leaves as one frame, and needs no look at its header.
        self._largest = min(limits.message, limits.header, limits.small)
        self._codes: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self._pending: dict[int, tuple[Future, Finish]] = {}
        self._partial: dict[int, list[Frame]] = {}
        self._posted: deque[Sequence[Sendable]] = deque()
        self._posting = False
        # Calls that leave, and those that wait for them; any thread may look, and who changes it holds the lock.
        self._line = Line()
        self._lining = threading.Lock()
        self._connection: Connection | None = None
        self._error: ParallelError | None = None
        self._closed: asyncio.Future[None] = self.loop.create_future()
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
            ConnectionFailed: As `dial.connect`.
        """
        channel = cls(capability, limits or Limits(), post)
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
        return channel

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return self._error is None

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
        targets: str | Sequence[int] | None = None,
    ) -> int:
        """Call an operation; its answer settles `future`. From any thread.

        Args:
            operation: Its name.
            future: What the answer settles.
            finish: Makes the value of the answer.
            header: The call's header.
            buffers: The call's payload.
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
        large = False
        try:
            pieces = encode(Kind.CALL, number, code=code, header=header, buffers=buffers, limit=self._largest)
        except MessageTooLarge:
            large = True
        if large:
            pieces = self._encode_large(number, code, header, buffers)
        self._pending[number] = future, finish
        if self._error is not None:
            self._pending.pop(number, None)
            raise self._error
        if large or (targets is not None and self._line.leaving):
            with self._lining:
                if self._line.enter(number, targets, pieces):
                    self._post(pieces)
        else:
            self._post(pieces)
        return number

    def _encode_large(self, number: int, code: int, header: bytes, buffers: Sequence[Buffer]) -> list[Sendable]:
        limits = self._limits
        if len(header) > limits.header:
            text = f"the plain arguments of a call take {len(header):,} bytes; the limit is {limits.header:,}"
            raise MessageTooLarge(f"{text} (Limits.header)")
        pieces = encode(
            Kind.CALL, number, code=code, header=header, buffers=buffers, limit=limits.message, small=limits.small
        )
        for piece in pieces:
            if isinstance(piece, Bulk):
                piece.sent = functools.partial(self._left, number)
        return pieces

    def _left(self, number: int) -> None:
        """A large call is out: those that waited for it follow."""
        with self._lining:
            self._line.left(number, self._post)
        self._on_drained()

    def withdraw(self, number: int) -> None:
        """Forget a call and tell the controller; from any thread."""
        if self._pending.pop(number, None) is None or self._error is not None:
            return
        self._partial.pop(number, None)
        if self._line.leaving:
            with self._lining:
                if self._line.withdraw(number, self._post):
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
                if frame.flags & LAST:
                    pending = self._pending.pop(frame.id, None)
                    if pending is not None:
                        first = self._partial.pop(frame.id, None) if self._partial else None
                        _settle(*pending, [*first, frame] if first else [frame])
                elif frame.id in self._pending:
                    self._partial.setdefault(frame.id, []).append(frame)
            elif frame.kind == Kind.NOTICE:
                self._notice(frame.json())
            elif frame.kind == Kind.GOODBYE:
                assert self._connection is not None
                self._connection.close(ConnectionLost(f"the controller ended the connection: {frame.json()['text']}"))

    def _notice(self, notice: dict[str, Any]) -> None:
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

    def _lost(self, error: BaseException | None) -> None:
        text = str(error) if error else "the controller closed the connection"
        self._error = error if isinstance(error, ConnectionLost) else ConnectionLost(text)
        while self._pending:
            _, (future, _) = self._pending.popitem()
            _fail(future, ConnectionLost(str(self._error)))
        self._partial.clear()
        with self._lining:
            self._line.clear()
        self._on_drained()
        if not self._closed.done():
            self._closed.set_result(None)


def _settle(future: Future, finish: Finish, frames: list[Frame]) -> None:
    """Give a future its value or its error; one that was cancelled in between stays so."""
    try:
        value = finish(frames)
    except (asyncio.CancelledError, concurrent.futures.CancelledError):
        future.cancel()
    except Exception as error:
        _fail(future, error)
    else:
        with contextlib.suppress(asyncio.InvalidStateError, concurrent.futures.InvalidStateError):
            future.set_result(value)


def _fail(future: Future, error: Exception) -> None:
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


class Client:
    """The asyncio face of an interface: `async with`, or `await Client.connect(...)`.

    Args:
        capability: What to prove: a capability, the path of its file, or None for the default cluster's.
        cluster: Which cluster, when no capability is given.
        limits: The bounds of the connection.
        source: Where random bytes come from.

    Attributes:
        interface: The name of the interface.
        channel: The connection; there once connected.
    """

    interface: ClassVar[str]
    channel: Channel

    def __init__(
        self,
        capability: Capability | str | Path | None = None,
        *,
        cluster: str = "default",
        limits: Limits | None = None,
        source: Source = SYSTEM,
    ) -> None:
        self._capability = capability
        self._cluster = cluster
        self._limits = limits
        self._source = source

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'channel', 'not connected')!r}>"

    @classmethod
    async def connect(cls, capability: Capability | str | Path | None = None, **options: Any) -> Self:
        """Return a connected client; close it with `aclose`.

        Raises:
            NoClusterError: There is no capability file; the text says which was looked for.
            ConnectionFailed: The controller is gone, or refuses.
        """
        return await cls(capability, **options).__aenter__()

    async def __aenter__(self) -> Self:
        capability = find_capability(self._capability, self.interface, cluster=self._cluster)
        self.channel = await Channel.open(capability, limits=self._limits, source=self._source)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        channel: Channel | None = getattr(self, "channel", None)
        if channel is not None and channel.is_open and not channel.loop.is_closed():
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=1)

    async def aclose(self) -> None:
        """Close the connection; calls under way fail with `ConnectionLost`. Safe to call twice."""
        await self.channel.aclose()

    def _begin(
        self,
        operation: str,
        finish: Finish,
        *,
        header: bytes = b"",
        buffers: Sequence[Buffer] = (),
        targets: str | Sequence[int] | None = None,
    ) -> Handle:
        """Call an operation; return the handle of its answer."""
        channel = self.channel
        handle = Handle(loop=channel.loop)
        number = channel.call(operation, handle, finish, header=header, buffers=buffers, targets=targets)
        handle.withdraw = lambda: channel.withdraw(number)
        return handle

    def _deliver(self, handle: Any, block: bool | None) -> Any:
        """Hand a call's handle to the caller: here it is awaited, so there is nothing to block."""
        if block:
            raise ConfigurationError("block=True is for the blocking face (aioparallel.client); await the handle here")
        return handle

    def _operate(
        self, operation: str, block: bool | None = None, finish: Finish = plain_value, **arguments: Any
    ) -> Any:
        """Call an operation of plain values."""
        return self._deliver(self._begin(operation, finish, header=json.dumps(arguments).encode()), block)
