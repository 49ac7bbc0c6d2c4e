"""tools/soak: nothing grows in a short run, and what grows is said."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOAK = Path(__file__).resolve().parent.parent / "tools" / "soak"


def test_nothing_grows() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
    command = [sys.executable, str(SOAK), "--calls", "4000", "--rounds", "4", "--warm-up", "3000", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=environment)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    seen = json.loads(done.stdout)
    assert list(seen["looks"]) == ["client", "controller", "host", "kernel 0", "kernel 1"]
    assert {len(looks) for looks in seen["looks"].values()} == {5}
    assert seen["grown"] == {}


def test_mixed_work_with_kills_is_done_and_leaves_nothing() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
    # What so short a run is worth is what it does, and that no table of tasks or descriptors is left.
    command = [sys.executable, str(SOAK), "--minutes", "0.02", "--rounds", "2", "--slack", "20000", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kernels killed" in done.stderr
    seen = json.loads(done.stdout)
    assert list(seen["looks"]) == ["client", "controller", "host"]
    assert [look["asyncio tasks"] for look in seen["looks"]["controller"]] == [1, 1, 1]
    assert seen["grown"] == {}


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    return runpy.run_path(str(SOAK), run_name="soak")


def look(kilobytes: int, fds: int = 7, threads: int = 1) -> dict[str, int]:
    return {"kB": kilobytes, "fds": fds, "threads": threads}


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        ([look(1000), look(1010), look(1020)], ""),
        ([look(1000), look(1400), look(1800)], "800 kB"),
        ([look(1000), look(9000), look(8000), look(7900), look(7800)], ""),  # once, and no more
        ([look(9000), look(1000)], ""),
        ([look(1000), look(1000, fds=9)], "2 fds"),
        ([look(1000), look(1000, threads=2)], "1 threads"),
        ([look(1000) | {"asyncio tasks": 1}, look(1000) | {"asyncio tasks": 4}], "3 asyncio tasks"),
    ],
)
def test_what_counts_as_grown(program: dict[str, Any], looks: list[dict[str, int]], said: str) -> None:
    assert program["grown"](looks, 500) == said


def test_measure_is_of_the_process(program: dict[str, Any]) -> None:
    seen = program["measure"](os.getpid())
    assert seen["kB"] > 1000
    assert seen["fds"] >= 3
    assert seen["threads"] >= 1
    assert program["parent"](os.getpid()) == os.getppid()
