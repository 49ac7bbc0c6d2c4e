"""Faults at random moments, of random kinds, upon whomever they hit: all of it decided by the seed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from aioparallel.errors import ConfigurationError, ParallelError
from aioparallel.testing.luck import Random

__all__ = ["FAULTS", "Exposed", "Storm"]

P = TypeVar("P")

#: By which signals kernels end.
SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT)
#: Seconds that a fault lasts which does not happen in a moment, at least and at most; a third of them last long enough
#: for the silence to be taken for an end.
BRIEF, LONG = (0.0, 3.0), (8.0, 20.0)


class Exposed(Protocol):
    """What a storm can do to a simulation."""

    @property
    def hosts(self) -> Sequence[Any]:
        """The hosts that are there."""
        ...

    @property
    def engines(self) -> Sequence[int]:
        """The ids of the engines that are there."""
        ...

    def kill_kernel(self, engine: int, signal: int = ...) -> bool:
        """End a kernel."""
        ...

    def kill_host(self, host: Any) -> None:
        """End a host."""
        ...

    def cut(self, party: Any) -> None:
        """End a connection."""
        ...

    def black_hole(self, party: Any) -> AbstractContextManager[None]:
        """Let nothing through."""
        ...

    def slowed(self, party: Any, seconds: float = 0.0, *, rate: float = 0.0) -> AbstractContextManager[None]:
        """Let everything take longer."""
        ...

    def stopped_reading(self, party: Any) -> AbstractContextManager[None]:
        """Have somebody read nothing."""
        ...

    def repeat_answer(self, host: Any) -> bool:
        """Have an answer come twice."""
        ...

    def add_host(self, engines: int = 1) -> Awaitable[Any]:
        """Start a host."""
        ...


class Storm:
    """Faults for as long as its `async with` lasts; then all that can be is as it was before.

    There are always as many hosts as at the beginning, or soon again.

    Args:
        simulation: Upon whom it comes.
        random: Decides.
        every: Seconds between two faults, on average.
        kinds: Which faults; a kind that is named twice comes twice as often.

    Raises:
        ConfigurationError: There is no such kind of fault.
    """

    def __init__(self, simulation: Exposed, random: Random, *, every: float, kinds: Sequence[str] | None) -> None:
        unknown = [kind for kind in kinds or () if kind not in FAULTS]
        if unknown or not every > 0:
            raise ConfigurationError(
                f"a storm of {unknown or 'faults'} every {every!r} s: there are {', '.join(FAULTS)}, above 0 s apart"
            )
        self._simulation = simulation
        self._random = random
        self._every = every
        self._kinds = list(kinds or FAULTS)
        self._least = len(simulation.hosts)
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"<Storm of {', '.join(self._kinds)}, every {self._every:g} s>"

    async def __aenter__(self) -> Self:
        self._begin(self._blow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _blow(self) -> None:
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._every))
            for _ in range(self._least - len(self._simulation.hosts)):
                await self._join(self._random.randint(1, 2))
            FAULTS[self._random.choice(self._kinds)](self)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(asyncio.ensure_future(work))

    def _one_of(self, some: Sequence[P]) -> P | None:
        return self._random.choice(some) if some else None

    def _lasting(self, fault: Callable[[Any], AbstractContextManager[None]]) -> None:
        """Have something befall a host for a while."""
        host = self._one_of(self._simulation.hosts)
        if host is not None:
            span = LONG if self._random.random() < 1 / 3 else BRIEF
            self._begin(_last(fault(host), self._random.uniform(*span)))

    def _kernel(self) -> None:
        engine = self._one_of(self._simulation.engines)
        if engine is not None:
            self._simulation.kill_kernel(engine, self._random.choice(SIGNALS))

    def _host(self) -> None:
        host = self._one_of(self._simulation.hosts)
        if host is not None:
            self._simulation.kill_host(host)

    def _cut(self) -> None:
        host = self._one_of(self._simulation.hosts)
        if host is not None:
            self._simulation.cut(host)

    def _black_hole(self) -> None:
        self._lasting(self._simulation.black_hole)

    def _slow(self) -> None:
        seconds, rate = self._random.uniform(0.0, 1.0), self._random.uniform(1e3, 1e5)
        self._lasting(lambda host: self._simulation.slowed(host, seconds, rate=rate))

    def _not_reading(self) -> None:
        self._lasting(self._simulation.stopped_reading)

    def _late(self) -> None:
        if len(self._simulation.hosts) < self._least + 2:
            self._begin(self._join(1))

    async def _join(self, engines: int) -> None:
        with contextlib.suppress(ParallelError):  # something may befall it while it starts
            await self._simulation.add_host(engines)

    def _echo(self) -> None:
        host = self._one_of(self._simulation.hosts)
        if host is not None:
            self._simulation.repeat_answer(host)


async def _last(fault: AbstractContextManager[None], seconds: float) -> None:
    with fault:
        await asyncio.sleep(seconds)


#: What can happen, by name.
FAULTS: dict[str, Callable[[Storm], None]] = {
    "kernel": Storm._kernel,
    "host": Storm._host,
    "cut": Storm._cut,
    "black hole": Storm._black_hole,
    "slow": Storm._slow,
    "not reading": Storm._not_reading,
    "late": Storm._late,
    "echo": Storm._echo,
}
