"""Plain operations that a client has under way in the controller: values, now or later, and streams."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Protocol

from aioparallel.errors import MessageTooLarge, OperationError, ParallelError, to_plain
from aioparallel.hosting import Hosting
from aioparallel.operations import Kind, Operation
from aioparallel.wire import LAST, NO_ENGINE, TRIED, Limits, Sendable, Status, encode
from aioparallel.wire import Kind as FrameKind

__all__ = ["Answering", "fault", "header_of", "plain_answer"]

logger = logging.getLogger(__name__)

#: How many values of a stream, and how many bytes of them, may be on their way to a client that has not taken them;
#: one always may.
WINDOW, WINDOW_BYTES = 64, 2**20


class _Connection(Protocol):
    """Where answers go."""

    @property
    def limits(self) -> Limits: ...

    def send(self, pieces: list[Sendable]) -> None: ...


class Answering:
    """What one client has asked for, by the numbers of its calls.

    Args:
        client: Who asks; operations that want it are told.
        connection: Where answers go.
        hosting: Whose operations they are.
    """

    def __init__(self, client: Any, connection: Any, hosting: Hosting) -> None:
        self._client = client
        self._connection: _Connection = connection
        self._hosting = hosting
        self._under_way: dict[int, asyncio.Future[Any]] = {}
        self._streams: dict[int, _Stream] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def __repr__(self) -> str:
        return f"<Answering {len(self._under_way)} calls of {self._hosting.name!r}>"

    def begin(self, number: int, operation: Operation, method: Callable[..., Any], plain: Any) -> None:
        """Call an operation, and answer when it has ended.

        Raises:
            OperationError: The arguments are not what it takes.
            Exception: What a plain method raises.
        """
        arguments = operation.arguments(plain)
        if operation.wants_client:
            arguments["client"] = self._client
        with self._hosting.running(operation.name):
            value = method(**arguments)
        if operation.kind is Kind.STREAM:
            stream = self._streams[number] = _Stream(self._connection, number, operation, value)
            self._keep(number, self._hosting.run(stream.run(), operation.name), operation, self._streamed)
        elif asyncio.iscoroutine(value):
            self._keep(number, self._hosting.run(value, operation.name), operation, self._answer)
        elif asyncio.isfuture(value):
            self._keep(number, value, operation, self._answer)
        else:
            self._connection.send(plain_answer(number, operation.value(value), self._connection.limits))

    def cancel(self, number: int) -> None:
        """The client wants a call no more."""
        future = self._under_way.get(number)
        if future is not None:
            future.cancel()

    def taken(self, number: int, count: int) -> None:
        """The client has taken so many values of a stream."""
        stream = self._streams.get(number)
        if stream is not None:
            stream.has_room(count)

    def leave(self) -> None:
        """The client is gone."""
        for future in tuple(self._under_way.values()):
            future.cancel()

    def _keep(
        self,
        number: int,
        future: asyncio.Future[Any],
        operation: Operation,
        answer: Callable[[int, Operation, Any], None],
    ) -> None:
        self._under_way[number] = future

        def ended(_: asyncio.Future[Any]) -> None:
            self._under_way.pop(number, None)
            self._streams.pop(number, None)
            if future.cancelled():
                # By the client, which waits no more; or because the interface stops: then it has to be told.
                error: ParallelError = OperationError(f"{operation.name}: it was cancelled in the controller")
                self._connection.send(fault(number, error))
                return
            try:
                answer(number, operation, future.result())
            except Exception as error:
                self.failed(number, operation.name, error)

        future.add_done_callback(ended)

    def _answer(self, number: int, operation: Operation, value: Any) -> None:
        self._connection.send(plain_answer(number, operation.value(value), self._connection.limits))

    def _streamed(self, number: int, operation: Operation, value: Any) -> None:
        self._connection.send(plain_answer(number, None, self._connection.limits))

    def failed(self, number: int, name: str, error: Exception) -> None:
        """Answer a call with what the interface's code raised."""
        if not isinstance(error, ParallelError):
            logger.exception("operation %r of interface %r failed", name, self._hosting.name, exc_info=error)
            error = OperationError(f"{name}: {type(error).__name__}: {error}")
        self._connection.send(fault(number, error))


class _Stream:
    """One async generator, and a client that takes what it yields."""

    def __init__(
        self, connection: _Connection, number: int, operation: Operation, values: AsyncGenerator[Any, None]
    ) -> None:
        self._connection = connection
        self._number = number
        self._operation = operation
        self._values = values
        #: How long each value was that the client has not taken, bytes; and how many it has.
        self._sizes: deque[int] = deque()
        self._size = 0
        self._taken = 0
        self._room: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Send what the generator yields, as far as the client has room; close it at the end, whatever that is."""
        task = asyncio.current_task()
        assert task is not None
        async with aclosing(self._values) as values:
            async for value in values:
                if task.cancelling():
                    break  # the generator took that for something else, and went on
                header = header_of(self._operation.value(value), self._connection.limits)
                self._connection.send(encode(FrameKind.RESULT, self._number, header=header))
                self._sizes.append(len(header))
                self._size += len(header)
                while len(self._sizes) >= WINDOW or self._size >= WINDOW_BYTES:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room

    def has_room(self, taken: int) -> None:
        """Go on: the client has taken so many."""
        while self._taken < taken and self._sizes:
            self._taken += 1
            self._size -= self._sizes.popleft()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


def header_of(value: Any, limits: Limits) -> bytes:
    """Return a plain value as the header of an answer.

    Raises:
        MessageTooLarge: It is above the limit.
    """
    header = json.dumps(value).encode()
    if len(header) > min(limits.header, limits.message):
        raise MessageTooLarge(
            f"a plain answer of {len(header):,} bytes; the limit is {limits.header:,} (Limits.header)"
        )
    return header


def plain_answer(number: int, value: Any, limits: Limits) -> list[Sendable]:
    """Return the answer to a call with a plain value, as pieces to send; one that is too large as that error."""
    try:
        return encode(FrameKind.RESULT, number, code=Status.OK, flags=LAST, header=header_of(value, limits))
    except MessageTooLarge as error:
        return fault(number, error)


def fault(
    number: int, error: ParallelError, *, engine: int = NO_ENGINE, last: bool = True, tried: int = 0
) -> list[Sendable]:
    """Return the answer to a call with one of our own errors, as pieces to send.

    Args:
        number: The call's.
        error: The error.
        engine: Which engine it is about.
        last: Whether it is the last answer.
        tried: How often it had been tried before.
    """
    header = json.dumps(to_plain(error)).encode()
    flags, code = LAST if last else 0, Status.FAULT + TRIED * tried
    return encode(FrameKind.RESULT, number, code=code, flags=flags, engine=engine, header=header)
