"""How fast a cluster answers and takes data: the measuring behind `mec.benchmark()`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

__all__ = ["Benchmark", "measure"]

#: Calls before any is measured, and how often data is sent to each choice of engines.
WARM_UP = 5
PUSHES = 3


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What `benchmark` measured; prints as a table.

    Attributes:
        engines: How many took part.
        rounds: How many calls `p50` and `p99` are of.
        size: How much was sent at a time to each engine, bytes.
        p50: Half of the calls of a function that does nothing, one after the other, took no longer than this, seconds.
        p99: 99 of 100 took no longer.
        push_one: Bytes a second to one engine (the best of three times).
        push_all: Bytes a second to all of them at once, added up.
    """

    engines: int
    rounds: int
    size: int
    p50: float
    p99: float
    push_one: float
    push_all: float

    def __str__(self) -> str:
        engines = f"{self.engines} engines" if self.engines != 1 else "1 engine"
        rows = [
            (f"a call, median of {self.rounds:,}", f"{self.p50 * 1e6:,.0f} µs"),
            ("a call, 99th percentile", f"{self.p99 * 1e6:,.0f} µs"),
            (f"{self.size:,} bytes to one engine", f"{self.push_one / 1e6:,.0f} MB/s"),
            (f"{self.size:,} bytes to each of {engines}", f"{self.push_all / 1e6:,.0f} MB/s"),
        ]
        left, right = (max(map(len, column)) for column in zip(*rows, strict=True))
        return "\n".join(f"{label:<{left}}  {value:>{right}}" for label, value in rows)

    __repr__ = __str__


def measure(
    call: Callable[..., Any], known: Callable[[], list[int]], rounds: int, size: int, now: Callable[[], float]
) -> Generator[Any, None, Benchmark]:
    """Yield calls to be waited for, one at a time; return what they took.

    Data goes along as an argument whose length is asked for: the way of a push, with no name left behind.

    Args:
        call: `apply` to the engines, or to some of them (`targets`), not waiting.
        known: Returns their ids.
        rounds: How many calls of no work to measure.
        size: How much to send to each engine, bytes.
        now: The time, seconds.
    """
    for _ in range(WARM_UP):
        yield call(bool)
    ids = known()
    seconds = []
    for _ in range(rounds):
        began = now()
        yield call(bool, targets=ids[:1])
        seconds.append(now() - began)
    seconds.sort()
    data = bytes(size)
    speeds = []
    for targets in (ids[:1], ids):
        best = 0.0
        for _ in range(PUSHES):
            began = now()
            yield call(len, data, targets=targets)
            best = max(best, size * len(targets) / max(now() - began, 1e-9))
        speeds.append(best)
    return Benchmark(len(ids), rounds, size, _percentile(seconds, 50), _percentile(seconds, 99), *speeds)


def _percentile(ascending: list[float], percent: int) -> float:
    """Return the smallest value that so many of a hundred don't exceed."""
    return ascending[-(-len(ascending) * percent // 100) - 1]
