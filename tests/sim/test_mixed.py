"""Every promise about failure, for 500 seeds of mixed work and faults."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aioparallel.testing import explore
from sim.scenario import OPTIONS, mixed

SEEDS, PART = 500, 25


@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_every_promise_is_kept(first: int) -> None:
    explore(mixed, range(first, first + PART), **OPTIONS)


def digests(hash_seed: str, first: int) -> str:
    program = (
        "from sim.scenario import OPTIONS, mixed\nfrom aioparallel.testing import simulate\n"
        f"print([simulate(mixed, seed, **OPTIONS).trace.digest for seed in range({first}, 12)])"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_seed_is_the_same_run_in_every_process() -> None:
    """Whatever strings hash to, wherever objects lie, and whatever ran before."""
    first = digests("0", 0)
    assert first == digests("1", 0)
    assert digests("2", 6)[1:] in first
