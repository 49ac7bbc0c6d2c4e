"""The measuring behind `benchmark`, on a clock of our own."""

from __future__ import annotations

from typing import Any

import pytest

from aioparallel.benchmark import PUSHES, WARM_UP, Benchmark, measure


def conducted(rounds: int, size: int, ids: list[int], durations: dict[str, list[float]]) -> tuple[Benchmark, list[Any]]:
    """Measure calls that take what `durations` says, in turn."""
    calls: list[Any] = []
    now = 0.0
    taking = {kind: iter(each) for kind, each in durations.items()}

    def call(f: Any, *args: Any, targets: Any = "all") -> str:
        calls.append((f, args, targets))
        if targets == "all":
            return "warm up"
        return "call" if f is bool else f"push to {len(targets)}"

    steps = measure(call, lambda: ids, rounds, size, lambda: now)
    try:
        while True:
            kind = next(steps)
            now += next(taking.get(kind, iter([1000.0])))
    except StopIteration as end:
        return end.value, calls


def test_it_measures_calls_to_one_and_data_to_one_and_all() -> None:
    durations = {
        "call": [float(index) for index in range(200, 0, -1)],
        "push to 1": [3.0, 1.0, 2.0],
        "push to 4": [2.0, 4.0, 8.0],
    }
    measured, calls = conducted(200, 50_000_000, [3, 5, 6, 9], durations)
    assert measured == Benchmark(4, 200, 50_000_000, 100.0, 198.0, 50_000_000.0, 100_000_000.0)
    assert calls[:WARM_UP] == [(bool, (), "all")] * WARM_UP
    assert calls[WARM_UP:][:200] == [(bool, (), [3])] * 200
    assert [(f, targets) for f, _, targets in calls[WARM_UP + 200 :]] == [
        *[(len, [3])] * PUSHES,
        *[(len, [3, 5, 6, 9])] * PUSHES,
    ]


def test_it_prints_as_a_table() -> None:
    assert str(Benchmark(4, 200, 10_000_000, 0.0001503, 0.0012, 1.5e9, 2.5e9)).splitlines() == [
        "a call, median of 200                      150 µs",
        "a call, 99th percentile                  1,200 µs",
        "10,000,000 bytes to one engine         1,500 MB/s",
        "10,000,000 bytes to each of 4 engines  2,500 MB/s",
    ]
    assert "bytes to each of 1 engine " in repr(Benchmark(1, 1, 1, 0.0, 0.0, 0.0, 0.0))


@pytest.mark.parametrize("rounds", [1, 2, 99, 100, 101])
def test_any_number_of_rounds_has_its_percentiles(rounds: int) -> None:
    durations = {"call": [1.0] * rounds, "push to 1": [1.0] * 2 * PUSHES}
    measured, _ = conducted(rounds, 1, [0], durations)
    assert (measured.p50, measured.p99, measured.engines) == (1.0, 1.0, 1)
