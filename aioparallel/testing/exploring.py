"""Run a scenario with one seed, or with many until one fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aioparallel.errors import ConfigurationError, SimulationFailed
from aioparallel.testing.clock import VirtualLoop
from aioparallel.testing.simulation import Simulation
from aioparallel.testing.trace import Trace

__all__ = ["Run", "Scenario", "explore", "simulate"]

Scenario = Callable[[Simulation], Awaitable[Any]]

#: Seconds of virtual time in which timers that nobody cancelled must have come to nothing.
DRAIN = 7200.0
#: Events of the trace that a report shows.
TAIL = 60


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one run.

    Attributes:
        seed: Its seed.
        value: What the scenario returned.
        seconds: How much virtual time it took.
        trace: What happened.
    """

    seed: int
    value: Any
    seconds: float
    trace: Trace


def simulate(scenario: Scenario, seed: int = 0, *, limit: float = 3600.0, **options: Any) -> Run:
    """Run a scenario in a simulation of its own; the same seed gives the same run.

    Args:
        scenario: An async function; it is given the `Simulation`.
        seed: Decides all that is random.
        limit: Seconds of virtual time after which it hangs.
        **options: What else `Simulation` takes.

    Raises:
        ConfigurationError: An event loop runs here: a simulation has its own.
        SimulationFailed: A promise was broken, something is left over, or the scenario hangs. The text says what, and
            how it came to that.
        BaseException: Whatever the scenario raises, with a note of the seed and the last events.
    """
    if asyncio._get_running_loop() is not None:
        raise ConfigurationError(
            "simulate() runs an event loop of its own: call it where none runs, not in a coroutine"
        )
    made: list[Simulation] = []
    with _collected(), _complaints() as complaints, asyncio.Runner(loop_factory=VirtualLoop, debug=False) as runner:
        loop: Any = runner.get_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(_describe(context)))
        try:
            value = runner.run(_run(scenario, seed, limit, options, made))
        except SimulationFailed:
            raise
        except BaseException as error:
            if made:
                error.add_note(_report(seed, made[0], []))
            raise
        seconds = loop.time()
        if not loop.run_until_idle(DRAIN):
            names = sorted({repr(timer) for timer in loop.timers})
            complaints.append(f"timers that never end after all was closed: {', '.join(names)}")
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        complaints += [f"a task that never ends after all was closed: {task.get_name()}" for task in left]
        gc.collect()
    [simulation] = made
    broken = [*simulation.violations, *complaints]
    if broken:
        raise SimulationFailed(_report(seed, simulation, broken))
    return Run(seed, value, seconds, simulation.trace)


async def _run(scenario: Scenario, seed: int, limit: float, options: dict[str, Any], made: list[Simulation]) -> Any:
    simulation = Simulation(seed=seed, **options)
    made.append(simulation)
    try:
        async with asyncio.timeout(limit) as deadline:
            async with simulation:
                return await scenario(simulation)
    except TimeoutError:
        if not deadline.expired():
            raise
        simulation.violations.append(f"the scenario has not ended after {limit:g} s of virtual time")
        return None


def explore(scenario: Scenario, seeds: Iterable[int] = range(100), **options: Any) -> int:
    """Run a scenario with one seed after the other, until one fails; return how many were run.

    Args:
        scenario: An async function; it is given the `Simulation`.
        seeds: The seeds.
        **options: As for `simulate`.

    Raises:
        SimulationFailed: As `simulate`, for the first seed that fails.
        BaseException: Whatever the scenario raises with that seed; a note says which it was.
    """
    count = 0
    with _collected():
        for seed in seeds:
            simulate(scenario, seed, **options)
            count += 1
    return count


def _report(seed: int, simulation: Simulation, broken: list[str]) -> str:
    lines = [f"the simulation of seed {seed} failed"] if broken else [f"in the simulation of seed {seed}"]
    lines += [f"  - {text}" for text in dict.fromkeys(broken)]
    lines += ["", simulation.trace.tail(TAIL), "", f"To see it again: simulate(scenario, seed={seed})"]
    return "\n".join(lines)


def _describe(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"{context.get('message')}: {error!r}" if error else str(context.get("message"))


_collecting = True


@contextlib.contextmanager
def _collected() -> Iterator[None]:
    """Keep the garbage collector from coming at a moment that no seed decides."""
    global _collecting
    if not _collecting:
        yield
        return
    enabled, _collecting = gc.isenabled(), False
    gc.disable()
    gc.collect()
    # What was there before is not looked at again and again.
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        _collecting = True
        if enabled:
            gc.enable()


class _Listener(logging.Handler):
    def __init__(self, complaints: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        self._complaints.append(f"{record.name} logged: {record.getMessage()}")


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what is logged as an error, and warnings of what was not closed, awaited or retrieved."""
    complaints: list[str] = []
    listener = _Listener(complaints)
    loggers = [logging.getLogger(name) for name in ("aioparallel", "asyncio")]
    for logger in loggers:
        logger.addHandler(listener)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield complaints
            complaints += [f"{warning.category.__name__}: {warning.message}" for warning in caught]
    finally:
        for logger in loggers:
            logger.removeHandler(listener)
