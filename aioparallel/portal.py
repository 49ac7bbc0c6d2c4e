"""The blocking face's event loop: driven by whoever waits, and by our thread meanwhile.

A result that comes through another thread costs two more switches than one that the waiting thread fetches
itself, and a switch costs more than all else in a short call. So the thread that waits runs the loop until
its result is there. When no one has waited for `PATIENCE`, our thread takes the loop back, so that what was
submitted leaves, beats are given and callbacks run.

Rules: who holds `_driving` runs the loop, nobody else; our thread lets go when asked; one who can't have the
loop waits for the future in the ordinary way, and whoever has it then hands it to our thread at once.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

from aioparallel.native import SIGINT, get_handler, set_handler

__all__ = ["Portal", "portal"]

T = TypeVar("T")

Future = concurrent.futures.Future

#: Seconds for which the one who waits reads by itself, before it runs the whole loop.
SHORT = 0.02
#: Seconds that the loop's own work (signs of life, callbacks) may wait while threads read by themselves.
OWN = 0.5
#: Seconds without anybody waiting after which our thread takes the loop.
PATIENCE = 0.005


class ReadsByItself(Protocol):
    """A future whose thread can read what it waits for."""

    def done(self) -> bool:
        """Whether it is done."""
        ...

    def read_here(self, seconds: float) -> bool:
        """Read once in this thread, wait at most so long; False if nothing came or it can't be done."""
        ...


class Portal:
    """A private event loop for threads that block."""

    def __init__(self) -> None:
        # asyncio's own: uvloop makes a socket pair each time it begins to run in the main thread.
        self.loop = asyncio.new_event_loop()
        self._driving = threading.Lock()
        self._driver = 0
        self._resident = False
        self._wanted = 0
        self._drives = 0
        self._followers = 0
        self._wake = threading.Event()
        self._posted: deque[Callable[[], object]] = deque()
        self._due = 0.0
        self._crowded = False
        self._closing = False
        self._thread = threading.Thread(target=self._attend, name="aioparallel", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Portal {'closed' if self._closing else 'open'}>"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for its value.

        If the wait is interrupted, the coroutine is cancelled, and its end waited for: so what it had begun is cleaned
        up. Another Ctrl-C ends that, too.

        Raises:
            RuntimeError: This is a callback of the loop, or the portal is closed.
            BaseException: What the coroutine raises.
        """
        try:
            self._check()
        except RuntimeError:
            work.close()
            raise
        ended: Future[None] = Future()
        begun: list[asyncio.Task[T]] = []

        def begin() -> None:
            begun.append(self.loop.create_task(work))
            begun[0].add_done_callback(lambda _: ended.set_result(None))

        def cancel() -> None:
            if begun:
                begun[0].cancel()
            else:
                work.close()
                ended.set_result(None)

        try:
            self.loop.call_soon_threadsafe(begin)
            self.wait([ended])
        except BaseException:
            self.loop.call_soon_threadsafe(cancel)
            self.wait([ended])
            if begun and not begun[0].cancelled():
                begun[0].exception()  # nobody's any more
            raise
        if begun[0].cancelled():
            raise concurrent.futures.CancelledError
        return begun[0].result()

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on the loop, and return when that is done; right here if this is a callback of the loop.

        Raises:
            RuntimeError: The portal is closed.
            BaseException: What the function raises.
        """
        if self._driver == threading.get_ident():
            function()
            return

        async def work() -> None:
            function()

        self.run(work())

    def post(self, callback: Callable[[], object]) -> None:
        """Have the loop call `callback` soon; from any thread.

        If nobody runs the loop at the moment it is not woken: whoever runs it next begins with what was posted, and
        that is the one who waits for the result, or our thread after `PATIENCE`.

        Raises:
            RuntimeError: The portal is closed.
        """
        self._posted.append(callback)
        if self._driving.locked():
            # Somebody else may be reading by itself, and would not notice.
            self._crowded = self._crowded or (not self._resident and self._driver != threading.get_ident())
            self.loop.call_soon_threadsafe(self._do_posted)
        elif self._closing:
            raise RuntimeError("aioparallel's event loop is closed")

    def _do_posted(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._posted.popleft()()

    def wait_for(self, future: ReadsByItself) -> None:
        """Wait until one future is done that can read by itself.

        What makes a short call short: the waiting thread writes what was posted and reads the answer, and of the loop
        only the lock is needed. When the answer takes longer, other threads are about, or the loop's own work is due,
        the loop is run.

        Raises:
            RuntimeError: This is a callback of the loop: waiting here would be for ever.
        """
        with _Interrupts(self.loop) as interrupts:
            free = not self._crowded and asyncio._get_running_loop() is None
            if free and self._driving.acquire(blocking=False):
                try:
                    self._driver = threading.get_ident()
                    self._do_posted()
                    while not (interrupts.seen or future.done() or self._crowded) and self.loop.time() < self._due:
                        if not future.read_here(SHORT):
                            break
                finally:
                    self._release()
        if interrupts.seen:
            raise KeyboardInterrupt
        if not future.done():
            self.wait([future])

    def wait(self, futures: Collection[Any], timeout: float | None = None) -> bool:
        """Wait until one of the futures is done; False when it took longer than `timeout` seconds.

        Raises:
            RuntimeError: This is a callback of the loop: waiting here would be for ever.
        """
        if _any_done(futures):
            return True
        self._check()
        with _Interrupts(self.loop) as interrupts:
            taken = self._take()
            if taken:
                try:
                    self._drive(futures, timeout, interrupts)
                finally:
                    self._release()
        if interrupts.seen:
            raise KeyboardInterrupt
        if not taken:
            with self._following():
                concurrent.futures.wait(futures, timeout, concurrent.futures.FIRST_COMPLETED)
        return _any_done(futures)

    def wait_for_all(self, futures: Collection[Any], timeout: float | None = None) -> None:
        """Wait until all of the futures are done, well or badly.

        Raises:
            TimeoutError: They took longer than `timeout` seconds.
            RuntimeError: This is a callback of the loop: waiting here would be for ever.
        """
        deadline = None if timeout is None else self.loop.time() + timeout
        waiting = deque(futures)
        while waiting:
            if waiting[0].done():
                waiting.popleft()
            elif not self.wait([waiting[0]], None if deadline is None else deadline - self.loop.time()):
                left = sum(not future.done() for future in waiting)
                raise TimeoutError(f"{left} of {len(futures)} calls have not ended after {timeout} s")

    def close(self) -> None:
        """End the thread and close the loop. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        self._wake.set()
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5.0)
        if not self._thread.is_alive() and self._driving.acquire(timeout=1.0):
            self.loop.close()

    def _check(self) -> None:
        if self._closing:
            raise RuntimeError("aioparallel's event loop is closed")
        if self._driver == threading.get_ident():
            raise RuntimeError(
                "a callback can't wait for a result: it runs in the loop that would bring it. Use add_done_callback, "
                "or wait in another thread"
            )

    def _take(self) -> bool:
        """Try to become the one who runs the loop."""
        if asyncio._get_running_loop() is not None:
            # Two loops can't run in one thread: a notebook's, say, and this one.
            return False
        if self._driving.acquire(blocking=False):
            return True
        if not self._resident:
            return False
        self._wanted += 1
        try:
            self.loop.call_soon_threadsafe(self.loop.stop)
            return self._driving.acquire(timeout=0.1)
        finally:
            self._wanted -= 1

    def _release(self) -> None:
        self._drives += 1
        self._driver = 0
        self._driving.release()
        if self._followers:
            self._wake.set()

    @contextlib.contextmanager
    def _following(self) -> Iterator[None]:
        self._followers += 1
        self._wake.set()
        try:
            yield
        finally:
            self._followers -= 1

    def _drive(self, futures: Collection[Any], timeout: float | None, interrupts: _Interrupts) -> None:
        """Run the loop here until one of the futures is done."""
        loop, here = self.loop, threading.get_ident()
        self._driver = here

        def stop(_: object = None) -> None:
            if self._driver == threading.get_ident():
                loop.stop()
            else:
                loop.call_soon_threadsafe(loop.stop)

        deadline = None if timeout is None else loop.time() + timeout
        timer = None if timeout is None else loop.call_later(max(timeout, 0), loop.stop)
        if self._posted:
            # Not from within the loop, which saves it a turn; nothing that is posted asks for a running one.
            self._do_posted()
        for future in futures:
            watch = getattr(future, "watch", None)
            if watch is None:
                future.add_done_callback(stop)
            else:
                watch(stop)
        while not interrupts.seen and not _any_done(futures):
            if deadline is not None and loop.time() >= deadline:
                break
            loop.run_forever()
            self._due = loop.time() + OWN
        if timer is not None:
            timer.cancel()

    def _attend(self) -> None:
        """Run the loop while nobody waits."""
        while not self._closing:
            with self._driving:
                self._driver = threading.get_ident()
                self._resident = True
                while not self._wanted and not self._closing:
                    self.loop.call_soon(self._do_posted)
                    self.loop.run_forever()
                self._due = self.loop.time() + OWN
                self._resident = False
                self._driver = 0
            self._rest()

    def _rest(self) -> None:
        """Wait until nobody has driven for a while, or until somebody can't."""
        drives = -1
        while not self._closing and (drives != self._drives or self._wanted) and not self._followers:
            drives = self._drives
            self._wake.clear()
            self._wake.wait(PATIENCE)
        if not self._followers:
            self._crowded = False


def _any_done(futures: Collection[Any]) -> bool:
    return any(future.done() for future in futures)


class _Interrupts:
    """Lets Ctrl-C stop the loop between two callbacks, not in the middle of one, where it would lose frames or a lock.

    Only where Ctrl-C would raise KeyboardInterrupt anyway: in the main thread, under Python's own handler.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.seen = False
        self._loop = loop
        self._ours = False

    def __enter__(self) -> _Interrupts:
        if threading.get_ident() == threading.main_thread().ident and get_handler(SIGINT) is signal.default_int_handler:
            self._ours = True
            set_handler(SIGINT, self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._ours:
            set_handler(SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: object) -> None:
        self.seen = True
        self._loop.call_soon_threadsafe(self._loop.stop)


_portals: dict[int, Portal] = {}
_making = threading.Lock()


def portal() -> Portal:
    """Return this process's portal; a child made by fork gets its own."""
    here = os.getpid()
    found = _portals.get(here)
    if found is None or found._closing:
        with _making:
            found = _portals.get(here)
            if found is None or found._closing:
                _portals.clear()
                found = _portals[here] = Portal()
                atexit.register(found.close)
    return found
