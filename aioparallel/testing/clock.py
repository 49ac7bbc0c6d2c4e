"""An event loop on which time passes only when nothing else is to be done: an hour takes a moment."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Callable, Coroutine, Generator, Mapping
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, NoReturn, TypeVarTuple

from aioparallel.errors import ConfigurationError

__all__ = ["VirtualLoop"]

Ts = TypeVarTuple("Ts")

#: So many turns in a row without time passing are taken for a circle.
TURNS = 100_000


class _Task(asyncio.Task[Any]):
    """A task whose place in a set does not depend on where it lies in memory: asyncio keeps tasks in sets."""

    _place = 0

    def __hash__(self) -> int:
        return self._place


class _Future(asyncio.Future[Any]):
    """The same of a future."""

    _place = 0

    def __hash__(self) -> int:
        return self._place


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, with another clock and without an outside world.

    Time stands still while anything can be done, and then jumps to the next timer. So what happens on it depends on
    nothing but what was scheduled, and takes no longer than its computing. There are no sockets, no threads and no
    processes; what is in this process (futures, tasks, timers, queues, locks) works as ever.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._until: float | None = None
        self._turns = 0
        self._places = itertools.count(1)
        super().__init__(_Nowhere(self._wait))
        self.set_task_factory(self._make_task)

    def __repr__(self) -> str:
        return f"<VirtualLoop at {self._now:.6f} s>"

    def time(self) -> float:
        """Return the virtual time, seconds since the loop was made."""
        return self._now

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        future = _Future(loop=self)
        future._place = next(self._places)
        return future

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As `call_soon`: there is one thread, which needs no waking."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], Any], *args: *Ts) -> NoReturn:
        """Refuse: what threads do can't be repeated.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(f"a simulation has one thread: {func!r} can't run in another; call it directly")

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """What is scheduled for later and has not been cancelled, soonest first."""
        scheduled = vars(self).get("_scheduled", ())
        return sorted((timer for timer in scheduled if not timer.cancelled()), key=lambda timer: timer.when())

    def run_until_idle(self, seconds: float) -> bool:
        """Run until nothing is scheduled any more, or for that long at most; return whether it came to that."""
        self._until = self._now + seconds
        try:
            self.run_forever()
        finally:
            self._until = None
        return not self.timers

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,
    ) -> _Task:
        place = next(self._places)
        options["name"] = options.get("name") or f"task {place}"
        task = _Task(work, loop=loop, **options)
        task._place = place
        return task

    def _wait(self, timeout: float | None) -> None:
        """Let time pass until the next timer.

        Raises:
            RuntimeError: There is none: everybody waits, and for ever. Or time will never pass.
        """
        self._turns = 0 if timeout else self._turns + 1
        if self._turns > TURNS:
            self._turns = 0
            raise RuntimeError(f"{TURNS:,} turns of the loop in which no time has passed: something goes round")
        if self._until is not None and (timeout is None or self._now + timeout > self._until):
            self.stop()
        elif timeout is None:
            raise RuntimeError("nothing is left that could happen, and somebody still waits")
        else:
            self._now += max(0.0, timeout)


class _Nowhere(selectors.BaseSelector):
    """Where a loop looks for what happens outside of it: here nothing ever does."""

    def __init__(self, wait: Callable[[float | None], None]) -> None:
        self._wait = wait
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Take the loop's own socket, with which threads would wake it, and nothing else.

        Raises:
            ConfigurationError: Something of the outside world.
        """
        if self._keys:
            raise ConfigurationError("a simulation has no sockets, pipes or processes: nothing outside can be awaited")
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Let go of it."""
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing has happened."""
        self._wait(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return what is registered."""
        return self._keys
