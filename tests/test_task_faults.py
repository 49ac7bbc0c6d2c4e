"""Tasks on real engines whose kernels die, hang and say no."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from aioparallel.errors import DependencyError, EngineLost, TaskPoisoned, TaskRejectError, TaskTimeout


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_poison_is_quarantined_and_its_neighbours_are_unharmed(tc: Any):
    innocent = [tc.submit(pow, i, 2) for i in range(100)]
    poison = tc.submit(die)
    innocent += [tc.submit(pow, i, 2) for i in range(100)]
    assert [future.result(30) for future in innocent] == [i * i for i in range(100)] * 2
    with pytest.raises(TaskPoisoned) as caught:
        poison.result(30)
    deaths = caught.value.deaths
    assert len(deaths) == 3
    assert {death.engine for death in deaths} == {0, 1}
    assert {death.reason for death in deaths} == {"killed by SIGKILL"}


def test_at_most_once(tc: Any):
    with pytest.raises(EngineLost, match="may run at most once"):
        tc.options(at_most_once=True).submit(die).result(30)


def test_a_timeout_ends_what_runs_and_the_kernel_goes_on(tc: Any):
    with pytest.raises(TaskTimeout) as caught:
        tc.options(timeout=0.05).submit(time.sleep, 60).result(30)
    assert caught.value.step == "interrupt"
    assert tc.submit(abs, -1).result(30) == 1


def test_retries_go_elsewhere(tc: Any):
    failing = tc.options(retries=3).submit(divmod, 1, 0)
    with pytest.raises(ZeroDivisionError):
        failing.result(30)
    assert failing.metadata.attempt == 4


def test_what_is_refused_everywhere_says_so(tc: Any):
    def no() -> None:
        from aioparallel.errors import TaskRejectError

        raise TaskRejectError("not here")

    with pytest.raises(DependencyError, match=r"engines? .* refused it") as caught:
        tc.options(depend_timeout=1.0).submit(no).result(30)
    assert isinstance(caught.value.__cause__, TaskRejectError)


def test_values_go_from_engine_to_engine(tc: Any):
    big = tc.submit(bytes, 3_000_000)
    lengths = [tc.submit(len, big) for _ in range(5)]
    assert [future.result(30) for future in lengths] == [3_000_000] * 5
    chain = tc.submit(abs, -1)
    for _ in range(20):
        chain = tc.submit(pow, 2, chain)
        chain = tc.submit(min, chain, 2)
    assert chain.result(30) == 2
