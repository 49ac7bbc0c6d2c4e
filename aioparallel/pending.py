"""What the blocking face gives for a call under way: a Future with the ways of the lineage."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from aioparallel.mapping import Mapping
from aioparallel.output import Listener
from aioparallel.portal import Portal
from aioparallel.receipt import WAITING, Receipt, TaskReply
from aioparallel.reply import Reply

__all__ = ["PendingResult", "PendingTask", "Values"]

_PENDING, _CANCELLED, _FINISHED = "PENDING", "CANCELLED", "FINISHED"
#: Held for the few instructions in which a result finds out whether anybody uses its condition.
_settling = threading.Lock()


class PendingResult(Reply, concurrent.futures.Future[Any]):
    """A result that is on its way: a `concurrent.futures.Future`, and what the lineage had besides.

    It keeps its value or its error and gives it again each time.
    """

    # Slots, because one is made for every call: a dict of so many takes longer. `submitted` and `answers` are not there
    # before the call is made and answered.
    __slots__ = (
        "_channel",
        "_done_callbacks",
        "_exception",
        "_made",
        "_number",
        "_portal",
        "_result",
        "_state",
        "_waiters",
        "_watcher",
        "answers",
        "submitted",
        "unread",
    )

    # A condition takes longer to make than all the rest of a call, and nobody needs it who waits through the portal:
    # it is made when first asked for, by `wait`, `as_completed` or `add_done_callback`.

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self.unread = None
        self._state = _PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self._made: threading.Condition | None = None
        self._watcher: Callable[[], object] | None = None
        self._channel = None
        self._number = 0

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        with _settling:
            if self._made is None:
                self._made = threading.Condition()
            return self._made

    def on_output(self, listener: Listener) -> None:
        """Call `listener` with each piece of what the call writes (an `Output`), while it runs.

        Whenever one asks, also after the end, it is told from the beginning, of the last piece before the value is
        there. Like `add_done_callback`'s functions it is called in the thread that takes in what arrives; an exception
        in it is logged, and harms nobody.

        Raises:
            TypeError: `listener` can't be called.
        """
        if not callable(listener):
            raise TypeError(f"{listener!r} can't be called")
        channel = self._channel
        if channel is not None:
            self._portal.call(lambda: channel.watch(self._number, self).listen(listener))

    @property
    def r(self) -> Any:
        """The value; waits for it.

        Raises:
            BaseException: What the call raised, each time.
            InvalidDeferredID: It was flushed.
            RuntimeError: This is a callback, which can't wait.
        """
        return self.result()

    def get_result(self, default: Any = None, block: bool = True) -> Any:
        """Return the value; without `block`, `default` if it is not there yet.

        Raises:
            BaseException: What the call raised.
        """
        if not block and not self.done():
            return default
        return self.result()

    def result(self, timeout: float | None = None) -> Any:
        """Return the value; waits for it, at most `timeout` seconds.

        Raises:
            TimeoutError: It took longer.
            CancelledError: It was cancelled.
            BaseException: What the call raised.
        """
        if self._state == _FINISHED and self._made is None and self.unread is None and self._exception is None:
            return self._result  # most are there by now: the short way
        error = self.exception(timeout)
        if error is None:
            return self._result
        try:
            raise error
        finally:
            # The traceback refers to this frame, which must not refer to the error.
            del error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, or None; waits for it, at most `timeout` seconds.

        Raises:
            TimeoutError: It took longer.
            CancelledError: It was cancelled.
        """
        if self.unread is not None:
            self._ask()
        if self._made is not None:
            self._check_not_in_callback()
        if self._state == _PENDING:
            if timeout is None:
                self._portal.wait_for(self)
            elif not self._portal.wait([self], timeout):
                raise TimeoutError(f"the call has not ended after {timeout} s; it goes on")
        if self._state != _FINISHED:
            raise concurrent.futures.CancelledError
        return self._exception

    def done(self) -> bool:
        """Whether it has its value or its error, or was cancelled."""
        return self._state != _PENDING

    def cancel(self) -> bool:
        """Withdraw the work: it is dropped where it waits, or interrupted where it runs."""
        if not super().cancel():
            return False
        if self._state == _CANCELLED:
            # There is no executor that would: `wait` and `as_completed` count no other state as an end.
            self.set_running_or_notify_cancel()
        self._tell()
        self._follow()
        channel, self._channel = self._channel, None
        if channel is not None:
            with contextlib.suppress(ConnectionError):
                channel.withdraw(self._number)
        return True

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        """Call `fn(pending)` when it has ended: at once if it has, else in the thread that takes the answer in."""
        self._ask()
        super().add_done_callback(fn)

    def set_result(self, result: Any) -> None:
        """Take the value (for whoever made this)."""
        if not self._finish(result, None):
            self._finish_with_steps(result)
        self._tell()

    def set_exception(self, exception: BaseException | None) -> None:
        """Take the error (for whoever made this)."""
        if not self._finish(None, exception):
            super().set_exception(exception)
            self._follow()
        self._tell()

    def forget(self) -> None:
        """Drop the value, for `InvalidDeferredID` in its place."""
        self.answers = None
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.set_exception(self._forgotten())
        if self._state == _FINISHED:
            self._change(None, self._forgotten())

    def watch(self, watcher: Callable[[], object]) -> None:
        """Call `watcher` when it is done, in the thread that makes it so; there is one watcher at most."""
        self._watcher = watcher
        if self._state != _PENDING:
            watcher()

    def read_here(self, seconds: float) -> bool:
        """Read what arrives for it in the calling thread, while nobody runs the loop."""
        channel = self._channel
        return channel is not None and channel.read_here(seconds)

    def _expect_steps(self) -> None:
        _ = self._condition  # made: `_finish` leaves those that have one to the longer way

    def _finish_with_steps(self, result: Any) -> None:
        if self._steps and not self.done():
            try:
                result = self._through(result)
            except BaseException as error:
                super().set_exception(error)
                return
        super().set_result(result)
        self._follow()

    def _value(self) -> tuple[bool, Any]:
        return self._state == _FINISHED and self._exception is None, self._result

    def _change(self, value: Any, error: BaseException | None) -> None:
        self._exception = error
        self._result = value

    def _finish(self, result: Any, exception: BaseException | None) -> bool:
        """Settle it if nobody uses the condition; say whether that is so."""
        with _settling:
            if self._made is not None:
                return False
            if self._state != _PENDING:
                # Without a repr, which would ask for the condition, and hence for this lock.
                raise concurrent.futures.InvalidStateError(f"this result is {self._state} already")
            self._result = result
            self._exception = exception
            self._state = _FINISHED
            return True

    def _tell(self) -> None:
        watcher = self._watcher
        if watcher is not None:
            watcher()


class PendingTask(TaskReply, PendingResult):
    """The future of a task."""

    def wait_receipt(self, timeout: float | None = None) -> Receipt:
        """Wait until the work of a cancelled task has ended, and return how.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: It took longer.
            RuntimeError: The task was not cancelled; or this is a callback, which can't wait.
            ConnectionLost: Nobody will ever tell.
        """
        receipt: Receipt = self._coming_receipt().result(timeout)
        return receipt

    def cancel(self) -> bool:
        """Take the task back: it is dropped where it waits, or ended where it runs, whatever that takes.

        It counts as cancelled at once, and stays so. `wait_receipt` tells when the work has really ended, and how.
        """
        if self._coming is None:
            # There before the withdrawal, which may bring it at once.
            self._coming = PendingResult(self._portal)
        sent = self._number != 0
        if not super().cancel():
            self._coming = None
            return False
        if not sent:
            self.ended_as(WAITING)
        return True


class Values:
    """The values of a `map`, an iterator. Its end, or that of whoever has it, withdraws what is not done."""

    def __init__(self, portal: Portal, mapping: Mapping, ordered: bool) -> None:
        self._portal = portal
        self._mapping = mapping
        self._ordered = ordered
        self._ready: deque[Any] = deque()

    def __repr__(self) -> str:
        return f"<Values of {self._mapping!r}>"

    def __iter__(self) -> Values:
        return self

    def __next__(self) -> Any:
        waiting = self._mapping.pending
        try:
            while not self._ready and waiting:
                pending = waiting[0]
                if not self._ordered:
                    self._portal.wait(waiting)
                    pending = next(one for one in waiting if one.done())
                answer = pending.result()
                waiting.remove(pending)
                self._ready.extend(self._mapping.settled(pending, answer))
        except BaseException:
            self.close()
            raise
        if self._ready:
            return self._ready.popleft()
        self.close()
        raise StopIteration

    def __del__(self) -> None:
        if self._mapping.pending:
            # Not here: who knows in the middle of what this is.
            with contextlib.suppress(RuntimeError):
                self._portal.post(self._mapping.cancel)

    def close(self) -> None:
        """Withdraw what is not done. Safe to call twice."""
        self._ready.clear()
        self._mapping.cancel()
