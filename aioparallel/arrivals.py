"""What arrives one after the other: values of a stream, notices; either face iterates over it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from aioparallel.wire import Frame

__all__ = ["Arrivals", "BlockingStream", "Notices", "Stream"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: After so many values the sender is told that there is room for more; sooner if there is none left to take.
TELL = 16
#: Notices that are kept for who does not ask for them; beyond, the oldest go.
KEPT = 1024


class Arrivals:
    """What has arrived and has not been taken. Filled on the loop, taken in any thread.

    To a `Channel` it is what the answers to a call settle: each that is not the last is taken in by `part`.

    Args:
        most: How many are kept; beyond, the oldest go, and are counted in `dropped`. None: all.
        taken: Called with how many have been taken, when their sender should know.
        gone: Called when nobody wants any more.

    Attributes:
        dropped: How many nobody has seen because nobody took them in time.
    """

    submitted = 0.0
    answers: Any = None

    def __init__(
        self,
        *,
        most: int | None = None,
        taken: Callable[[int], object] | None = None,
        gone: Callable[[], object] | None = None,
    ) -> None:
        self.dropped = 0
        self.on_taken = taken
        self.on_gone = gone
        self._items: deque[Any] = deque()
        self._most = most
        self._taken = self._told = 0
        self._ended = False
        self._error: BaseException | None = None
        self._waiters: list[Any] = []
        # One that may be entered again: the garbage collector may drop a stream at any line.
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<Arrivals, {len(self._items)} not taken{', ended' if self._ended else ''}>"

    def put(self, item: Any) -> None:
        """Take one in."""
        with self._lock:
            if self._ended:
                return
            if self._most is not None and len(self._items) >= self._most:
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
        self._wake()

    def part(self, frame: Frame) -> None:
        """Take in a RESULT that is not the last of its call."""
        self.put(frame.header)

    def set_result(self, value: Any) -> None:
        """There will be no more."""
        self._end(None)

    def set_exception(self, error: BaseException) -> None:
        """There will be no more, for this reason."""
        self._end(error)

    def cancel(self) -> None:
        """Drop what has not been taken, and whatever comes: nobody wants it."""
        with self._lock:
            was_ended, self._ended = self._ended, True
            self._items.clear()
            self._error = None
        self._wake()
        if not was_ended and self.on_gone is not None:
            with contextlib.suppress(RuntimeError):  # a loop that is closed: then they are gone already
                self.on_gone()

    def take(self) -> Any:
        """Return the next one.

        Raises:
            IndexError: It has not arrived.
            EOFError: There are no more.
            BaseException: What ended them; once.
        """
        with self._lock:
            if not self._items:
                if not self._ended:
                    raise IndexError
                error, self._error = self._error, None
                raise error or EOFError
            item = self._items.popleft()
            self._taken += 1
            tell = not self._ended and (not self._items or self._taken - self._told >= TELL)
            if tell:
                self._told = self._taken
        if tell and self.on_taken is not None:
            self.on_taken(self._taken)
        return item

    def wait(self, waiter: Any) -> None:
        """Settle `waiter`, a future, when it is worth while to `take` again."""
        with self._lock:
            if not self._items and not self._ended:
                self._waiters.append(waiter)
                return
        _settle(waiter)

    def wait_no_more(self, waiter: Any) -> None:
        """Forget a waiter."""
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            _settle(waiter)


def _settle(waiter: Any) -> None:
    with contextlib.suppress(asyncio.InvalidStateError, concurrent.futures.InvalidStateError):
        waiter.set_result(None)


def _as_it_is(item: Any) -> Any:
    return item


class Stream(Generic[T]):
    """What an operation yields, on the asyncio face: iterate with `async for`.

    Nothing is lost before an error: it is raised when the values before it have been taken. Leave the iteration early
    with `aclose` (or `async with`), or by dropping the stream: the operation is ended. Its far end runs ahead by a
    bounded number of values, and waits then.
    """

    def __init__(self, arrivals: Arrivals, make: Callable[[Any], T] = _as_it_is) -> None:
        self._arrivals = arrivals
        self._make = make

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._arrivals!r}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while True:
            try:
                return self._make(self._arrivals.take())
            except EOFError:
                raise StopAsyncIteration from None
            except IndexError:
                waiter = asyncio.get_running_loop().create_future()
                self._arrivals.wait(waiter)
            try:
                await waiter
            finally:
                self._arrivals.wait_no_more(waiter)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Want no more. Safe to call twice."""
        self._arrivals.cancel()

    def __del__(self) -> None:
        # Not an error: to break out of a loop is how one says that one has had enough.
        self._arrivals.cancel()


class _Waits(Protocol):
    """The blocking face's portal."""

    def wait(self, futures: Any, timeout: float | None = None) -> bool: ...


class BlockingStream(Generic[T]):
    """What an operation yields, on the blocking face: iterate with `for`.

    Nothing is lost before an error: it is raised when the values before it have been taken. Leave the iteration early
    with `close` (or `with`), or by dropping the stream: the operation is ended. Its far end runs ahead by a bounded
    number of values, and waits then.

    Attributes:
        timeout: Seconds that the next value may take; None: as long as it takes.
    """

    def __init__(
        self, arrivals: Arrivals, portal: _Waits, make: Callable[[Any], T] = _as_it_is, timeout: float | None = None
    ) -> None:
        self.timeout = timeout
        self._arrivals = arrivals
        self._portal = portal
        self._make = make

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._arrivals!r}>"

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        while True:
            try:
                return self._make(self._arrivals.take())
            except EOFError:
                raise StopIteration from None
            except IndexError:
                waiter: concurrent.futures.Future[None] = concurrent.futures.Future()
                self._arrivals.wait(waiter)
            try:
                came = self._portal.wait([waiter], self.timeout)
            finally:
                self._arrivals.wait_no_more(waiter)
            if not came:
                raise TimeoutError(f"nothing has come for {self.timeout} s; it may be waited for again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Want no more. Safe to call twice."""
        self._arrivals.cancel()

    def __del__(self) -> None:
        self._arrivals.cancel()


class Notices:
    """What an interface tells a client unasked, and who listens.

    The first who asks is also told what came before, of that the last `KEPT`.
    """

    def __init__(self) -> None:
        self._early: deque[Any] | None = deque(maxlen=KEPT)
        self._listeners: list[Callable[[Any], object]] = []
        self._open: list[Arrivals] = []
        self._ended: tuple[BaseException | None] | None = None

    def __repr__(self) -> str:
        return f"<Notices for {len(self._listeners) + len(self._open)}>"

    def hear(self, header: bytes) -> None:
        """Take a notice, as it arrived."""
        value = json.loads(header)
        if self._early is not None:
            self._early.append(value)
            return
        for arrivals in tuple(self._open):
            arrivals.put(value)
        for listener in tuple(self._listeners):
            _tell(listener, value)

    def listen(self, listener: Callable[[Any], object]) -> Callable[[], None]:
        """Call `listener` with each notice; return what ends that. To be called on the loop.

        Raises:
            TypeError: `listener` can't be called.
        """
        if not callable(listener):
            raise TypeError(f"{listener!r} can't be called")
        self._listeners.append(listener)
        for value in self._take_early():
            _tell(listener, value)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def open(self) -> Arrivals:
        """Return what the notices arrive in from now on. To be called on the loop."""
        arrivals = Arrivals(most=KEPT)
        arrivals.on_gone = lambda: self._shut(arrivals)
        for value in self._take_early():
            arrivals.put(value)
        if self._ended is not None:
            arrivals._end(*self._ended)
        else:
            self._open.append(arrivals)
        return arrivals

    def end(self, error: BaseException | None) -> None:
        """There will be no more; `error` says why, unless it was meant."""
        if self._ended is None:
            self._ended = (error,)
            opened, self._open = self._open, []
            for arrivals in opened:
                arrivals._end(error)

    def _take_early(self) -> list[Any]:
        early, self._early = self._early, None
        return list(early or ())

    def _shut(self, arrivals: Arrivals) -> None:
        if arrivals.dropped:
            logger.warning("%d notices were dropped: nobody had taken them in time", arrivals.dropped)
        with contextlib.suppress(ValueError):  # it may have ended in between, in another thread
            self._open.remove(arrivals)


def _tell(listener: Callable[[Any], object], value: Any) -> None:
    try:
        listener(value)
    except Exception:
        logger.exception("a listener failed at a notice")
