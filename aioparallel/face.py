"""The asyncio face of every interface: `async with`, and awaitable handles."""

from __future__ import annotations

import asyncio
import contextlib
import json
import warnings
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from aioparallel.arrivals import Stream
from aioparallel.capability import Capability, find_capability
from aioparallel.channel import Channel
from aioparallel.errors import ConfigurationError
from aioparallel.handle import Handle
from aioparallel.output import Watch
from aioparallel.reply import Unread
from aioparallel.settling import Finish, plain_value
from aioparallel.source import SYSTEM, Source
from aioparallel.wire import Buffer, Limits

__all__ = ["Client"]


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
        self._unread = Unread()

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

    def notices(self) -> Stream[Any]:
        """Return what the interface tells this client unasked: iterate over it with `async for`.

        It ends when the client is closed, and with `ConnectionLost` when the connection is. The first who asks is told
        what came before, too. Who takes them too slowly misses the oldest: 1,024 are kept.
        """
        return Stream(self.channel.notices.open())

    def on_notice(self, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Call `callback` with each thing the interface tells this client unasked; return what ends that.

        It is called on the loop and must be quick; an exception in it is logged.

        Raises:
            TypeError: `callback` can't be called.
        """
        return self.channel.notices.listen(callback)

    def _stream(self, operation: str, header: bytes, make: Callable[[Any], Any]) -> Stream[Any]:
        return Stream(self.channel.stream(operation, header=header), make)

    def _begin(
        self,
        operation: str,
        finish: Finish,
        *,
        header: bytes = b"",
        buffers: Sequence[Buffer] = (),
        watch: Watch | None = None,
        targets: str | Sequence[int] | None = None,
        behind: Sequence[int] = (),
        future: Handle | None = None,
    ) -> Handle:
        """Call an operation (`Channel.call`); return the handle of its answer, which is `future` if that is given."""
        channel = self.channel
        handle = Handle(loop=channel.loop) if future is None else future
        number = channel.call(
            operation, handle, finish, header=header, buffers=buffers, watch=watch, targets=targets, behind=behind
        )
        handle.sent(channel, number)
        return handle

    def _check_block(self, block: bool | None) -> None:
        """Refuse to block, before anything is sent.

        Raises:
            ConfigurationError: `block` is true.
        """
        if block:
            raise ConfigurationError("block=True is for the blocking face (aioparallel.client); await the handle here")

    def _deliver(self, handle: Any, block: bool | None) -> Any:
        """Hand a call's handle to the caller: here it is awaited, so there is nothing to block."""
        handle.unread = self._unread
        return handle

    def _conduct(self, steps: Generator[Any, Any, Any]) -> asyncio.Task[Any]:
        """Wait for the handles that `steps` yields, one after the other; return a task of what it returns."""

        async def conduct() -> Any:
            with contextlib.closing(steps):
                try:
                    handle = next(steps)
                    while True:
                        handle = steps.send(await handle)
                except StopIteration as end:
                    return end.value

        return self.channel.loop.create_task(conduct())

    def _now(self) -> float:
        return self.channel.loop.time()

    def _forget(self) -> Handle:
        """Forget what nobody has asked for; return a handle that is done."""
        unread, self._unread = self._unread, Unread()
        self.channel.forget(unread)
        return self._given(None, None)

    def _plain_future(self) -> Handle:
        return Handle(loop=self.channel.loop)

    def _given(self, value: Any, block: bool | None) -> Handle:
        """Return a value that is known as if it had been asked for."""
        self._check_block(block)
        handle = self._plain_future()
        handle.set_result(value)
        return handle

    def _wait_for_all(
        self, handles: list[Any], timeout: float | None, asked: Handle | None = None
    ) -> asyncio.Task[None]:
        """Wait for handles, whatever they end with, and for `asked`, whose error is told."""
        for handle in handles:
            if not isinstance(handle, asyncio.Future):
                raise TypeError(f"barrier waits for handles of calls, not for {handle!r}")
        return self.channel.loop.create_task(_all_done(handles, timeout, asked))

    def _operate(
        self, operation: str, block: bool | None = None, finish: Finish = plain_value, **arguments: Any
    ) -> Any:
        """Call an operation of plain values."""
        self._check_block(block)
        return self._deliver(self._begin(operation, finish, header=json.dumps(arguments).encode()), block)


async def _all_done(handles: list[asyncio.Future[Any]], timeout: float | None, asked: Handle | None) -> None:
    """Wait for futures, whatever they end with, and for `asked`.

    Raises:
        TimeoutError: They took longer than `timeout` seconds.
        ParallelError: The error of `asked`.
    """
    try:
        await _ended([*handles, asked] if asked is not None else handles, timeout)
    except BaseException:
        if asked is not None:
            asked.cancel()
        raise
    if asked is not None:
        asked.result()


async def _ended(handles: list[asyncio.Future[Any]], timeout: float | None) -> None:
    # Past a handle's own methods, which would count as asking for its value.
    base: type[asyncio.Future[Any]] = asyncio.Future
    waiting = {handle for handle in handles if not handle.done()}
    ended = asyncio.get_running_loop().create_future()

    def one_ended(handle: asyncio.Future[Any]) -> None:
        waiting.discard(handle)
        if not waiting and not ended.done():
            ended.set_result(None)

    for handle in tuple(waiting):
        base.add_done_callback(handle, one_ended)
    try:
        async with asyncio.timeout(timeout):
            if waiting:
                await ended
    except TimeoutError:
        raise TimeoutError(f"{len(waiting)} of {len(handles)} calls have not ended after {timeout} s") from None
    finally:
        for handle in waiting:
            base.remove_done_callback(handle, one_ended)
    for handle in handles:
        if not handle.cancelled():
            base.exception(handle)  # an error that nobody reads is not complained of
