"""How an answer settles the future of its call: with a value, an error, or how its work ended."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any, TypeAlias

from aioparallel.errors import from_plain
from aioparallel.receipt import Receipt, TaskReply, receipt_in
from aioparallel.wire import TRIED, Frame, Status

__all__ = ["Finish", "Future", "Postponed", "fail", "plain_value", "settle", "tell"]

#: Makes a call's value of the RESULT frames that answered it, or raises.
Finish: TypeAlias = Callable[[list[Frame]], Any]
#: A `Handle`, a `PendingResult`, or what stands in for one (`joint`).
Future: TypeAlias = Any


class Postponed(Exception):
    """Raised by a `Finish`: the answer is not the end of the call, whose future is going to be settled by another."""


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
        tell(future, receipt_in(frames))
    except Postponed:
        pass
    except Exception as error:
        if not fail(future, error):
            tell(future, receipt_in(frames))
    else:
        try:
            future.set_result(value)
        except (asyncio.InvalidStateError, concurrent.futures.InvalidStateError):
            tell(future, receipt_in(frames))


def fail(future: Future, error: Exception) -> bool:
    """Give a future its error, unless it is done; say whether it was not."""
    try:
        future.set_exception(error)
    except (asyncio.InvalidStateError, concurrent.futures.InvalidStateError):
        return False
    return True


def tell(future: Future, receipt: Receipt | Exception) -> None:
    """Tell a future that was cancelled how its work ended, if it wants to know: that of a task does."""
    if isinstance(future, TaskReply):
        future.ended_as(receipt)


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
