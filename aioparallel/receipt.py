"""Receipts: how the work ended of a task that was taken back, and what a task's future knows of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aioparallel.errors import TaskAborted, TaskTimeout, from_plain
from aioparallel.reply import Reply
from aioparallel.wire import Frame, Status

__all__ = ["FINISHED", "WAITING", "Receipt", "TaskReply", "receipt_in"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """How the work of a task ended that was cancelled or aborted.

    Attributes:
        step: What ended it: "waiting" (it never began), "interrupt", "terminate" or "kill"; "finished", if it had come
            to its end by itself.
        seconds: How long that took, from the first step on.
    """

    step: str
    seconds: float


WAITING = Receipt("waiting", 0.0)
FINISHED = Receipt("finished", 0.0)


def receipt_in(frames: list[Frame]) -> Receipt:
    """Read the last that is heard of a task which was cancelled."""
    last = frames[-1]
    if last.code == Status.CANCELLED:
        return WAITING
    error = from_plain(last.json()) if last.code == Status.FAULT else None
    return Receipt(error.step, error.seconds) if isinstance(error, TaskAborted) else FINISHED


class TaskReply(Reply):
    """What the future of a task has besides: it hears how its work ended after it was cancelled."""

    #: What brings the receipt, once it was cancelled.
    _coming: Any = None

    @property
    def metadata(self) -> Any:
        """What is known about how it ran, when it has ended: a `CallInfo`; None if it did not run to its end.

        Raises:
            RuntimeError: It has not ended.
        """
        # Of several answers the last is the cause of the first: how another task ended, say.
        return None if self.done() and isinstance(getattr(self, "answers", None), list) else super().metadata

    @property
    def receipt(self) -> Receipt | None:
        """How its work ended, if it was cancelled, aborted, or took too long; None if it was not, or not yet."""
        if self._coming is not None:
            good, receipt = self._coming._value() if self._coming.done() else (False, None)
            return receipt if good else None
        future: Any = self
        error = future.exception() if future.done() and not future.cancelled() else None
        return Receipt(error.step, error.seconds) if isinstance(error, TaskAborted | TaskTimeout) else None

    def call_on(self, channel: Any) -> int | None:
        """Return the number by which a channel's controller knows it, if it gives the same value as here."""
        # What its callbacks make of the value, only this program knows.
        same = self._channel is channel and self._steps is None and not self.done()
        return self.number or None if same else None

    def ended_as(self, receipt: Receipt | Exception) -> None:
        """The work has ended, if it was cancelled: so; or nobody will ever tell how, for that reason."""
        coming = self._coming
        if coming is not None and not coming.done():
            if isinstance(receipt, Receipt):
                coming.set_result(receipt)
            else:
                coming.set_exception(receipt)

    def _coming_receipt(self) -> Any:
        """Return what brings the receipt.

        Raises:
            RuntimeError: It was not cancelled.
        """
        if self._coming is None:
            raise RuntimeError("there is no receipt to wait for: this task was not cancelled")
        return self._coming
