"""What the asyncio face gives for a call under way: an awaitable future."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Generator
from contextvars import Context
from typing import Any, Self

from aioparallel.output import Output
from aioparallel.receipt import WAITING, Receipt, TaskReply
from aioparallel.reply import Reply

__all__ = ["Handle", "TaskHandle"]


class Handle(Reply, asyncio.Future[Any]):
    """What a call gives back at once: await it for the value; cancel it to withdraw the work."""

    #: What is given instead of what arrived: a callback has made it, or `flush` has forgotten the result.
    _instead: asyncio.Future[Any] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        if self.unread is not None:
            self._ask()
        return super().__await__() if self._instead is None else self._instead.__await__()

    __iter__ = __await__

    def result(self) -> Any:
        """Return the value of a call that has ended.

        Raises:
            InvalidStateError: It has not: await it.
            CancelledError: It was cancelled.
            BaseException: What the call raised.
        """
        if self.unread is not None and self.done():
            self._ask()
        return super().result() if self._instead is None else self._instead.result()

    def exception(self) -> BaseException | None:
        """Return what a call that has ended raised, or None.

        Raises:
            InvalidStateError: It has not ended: await it.
            CancelledError: It was cancelled.
        """
        if self.unread is not None and self.done():
            self._ask()
        return super().exception() if self._instead is None else self._instead.exception()

    def add_done_callback(self, fn: Callable[[Self], object], *, context: Context | None = None) -> None:
        """Call `fn(handle)` soon after it has ended."""
        self._ask()
        super().add_done_callback(fn, context=context)

    async def output(self) -> AsyncIterator[Output]:
        """Iterate over what the call writes, piece by piece, while it runs, until it has ended.

        Whenever one asks, also after the end, it begins at the beginning. The last piece comes before the value.
        Leaving the loop early leaves the call alone.
        """
        if self._channel is None:
            return
        watch = self._channel.watch(self._number, self)
        place = 0
        while await watch.more(place):
            yield watch.pieces[place]
            place += 1

    def set_result(self, result: Any) -> None:
        """Take the value (for whoever made this)."""
        if self._steps:
            try:
                result = self._through(result)
            except BaseException as error:
                super().set_exception(_bearable(error))
                return
        super().set_result(result)

    def forget(self) -> None:
        """Drop the value, for `InvalidDeferredID` in its place."""
        self.answers = None
        if self.done():
            self._change(None, self._forgotten())
        else:
            super().set_exception(self._forgotten())
            super().exception()  # nobody has to ask

    def _value(self) -> tuple[bool, Any]:
        good = (
            not self.cancelled()
            and super().exception() is None
            and (self._instead is None or self._instead.exception() is None)
        )
        return good, self.result() if good else None

    def _change(self, value: Any, error: BaseException | None) -> None:
        instead = self._instead = self.get_loop().create_future()
        if error is None:
            instead.set_result(value)
        else:
            instead.set_exception(_bearable(error))
            instead.exception()  # nobody has to ask

    def cancel(self, msg: Any | None = None) -> bool:
        """Withdraw the work; it is dropped where it waits, or interrupted where it runs."""
        cancelled = super().cancel(msg)
        if cancelled and self._channel is not None:
            self._channel.withdraw(self._number)
        return cancelled


class TaskHandle(TaskReply, Handle):
    """The handle of a task."""

    async def wait_receipt(self, timeout: float | None = None) -> Receipt:
        """Wait until the work of a cancelled task has ended, and return how.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: It took longer.
            RuntimeError: The task was not cancelled.
            ConnectionLost: Nobody will ever tell.
        """
        coming = self._coming_receipt()
        async with asyncio.timeout(timeout):
            receipt: Receipt = await asyncio.shield(coming)
        return receipt

    def cancel(self, msg: Any | None = None) -> bool:
        """Take the task back: it is dropped where it waits, or ended where it runs, whatever that takes.

        It counts as cancelled at once, and stays so. `wait_receipt` tells when the work has really ended, and how.
        """
        if self.done():
            return False
        # There before the withdrawal, which may bring it at once.
        self._coming = Handle(loop=self.get_loop())
        self._coming.add_done_callback(_heard)
        if self._channel is None:
            self.ended_as(WAITING)
        return super().cancel(msg)


def _heard(handle: Handle) -> None:
    """Nobody has to ask for a receipt, nor for why there is none."""
    with contextlib.suppress(asyncio.CancelledError):
        handle.exception()


def _bearable(error: BaseException) -> BaseException:
    """Return an error that an asyncio future can carry."""
    if isinstance(error, StopIteration):
        made = RuntimeError(f"a callback raised {error!r}")
        made.__cause__ = error
        return made
    return error
