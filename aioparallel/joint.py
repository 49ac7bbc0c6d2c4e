"""Several calls that are one to their caller: a payload for each engine, one handle for all answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aioparallel.channel import Channel
from aioparallel.output import Watch
from aioparallel.reply import Unread
from aioparallel.settling import Finish, Future, fail, settle
from aioparallel.wire import Buffer, Frame, Kind, encode

__all__ = ["call_each"]


class _Joint:
    """Stands in for the caller's future in each of the calls, and settles it with the last answer."""

    def __init__(self, future: Any, finish: Finish, calls: int) -> None:
        self._future = future
        self._finish = finish
        self._frames: list[Frame] = []
        self._remaining = calls
        self._forgotten = False
        #: What a call notes of itself and its answer is the caller's future's business.
        self.submitted = 0.0
        self.answers: Any = None

    def __repr__(self) -> str:
        return f"<{self._remaining} answers to come for {self._future!r}>"

    @property
    def unread(self) -> Unread | None:
        """Shared by results that nobody has asked for."""
        unread: Unread | None = self._future.unread
        return unread

    def forget(self) -> None:
        """Drop the value."""
        if not self._forgotten:
            self._forgotten = True
            self._future.forget()

    def set_result(self, frames: list[Frame], /) -> None:
        """Take what answered one of the calls, whatever it says."""
        self._frames += frames
        self._remaining -= 1
        if not self._remaining:
            if (watch := self._future.written) is not None:
                # Whoever began to watch late has not seen what some had answered before.
                for frame in self._frames:
                    watch.answered(*frame.brief())
            settle(self._future, self._finish, self._frames)

    def set_exception(self, error: Exception, /) -> None:
        """Pass on that the connection is lost."""
        fail(self._future, error)

    def cancel(self) -> None:
        """Pass on that the work was withdrawn."""
        self._future.cancel()


def call_each(
    channel: Channel,
    operation: str,
    future: Future,
    finish: Finish,
    calls: Sequence[tuple[int, bytes, Sequence[Buffer]]],
    watch: Watch | None = None,
) -> tuple[int, ...]:
    """Call an operation once for each of `calls`; the answers to all of them settle `future`. From any thread.

    Args:
        channel: The connection.
        operation: The operation.
        future: What to settle.
        finish: Makes the value of the RESULT frames that answered, those of all calls.
        calls: Engine, header and buffers of each.
        watch: Who watches what they write.

    Returns:
        The calls' numbers, for `Channel.withdraw`.

    Raises:
        OperationError: The interface has no such operation.
        MessageTooLarge: Nothing was sent, of none of them.
        ConnectionLost: The connection has ended.
    """
    for _, header, buffers in calls:
        encode(Kind.CALL, header=header, buffers=buffers, limit=channel.limits.message)
    future.submitted = channel.wall()
    joint = _Joint(future, finish, len(calls))
    numbers: list[int] = []
    try:
        for engine, header, buffers in calls:
            number = channel.call(
                operation, joint, _as_they_came, header=header, buffers=buffers, watch=watch, targets=[engine]
            )
            numbers.append(number)
    except BaseException:
        # Also Ctrl-C: nobody would be left to withdraw those that are under way.
        channel.withdraw(tuple(numbers))
        raise
    return tuple(numbers)


def _as_they_came(frames: list[Frame]) -> Any:
    return frames
