"""Kernels that are played: what they do in virtual time, and what they are outside of it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from aioparallel.errors import OperationError
from aioparallel.testing import Simulation, crash, simulate, work

#: What functions that ran have noted; the engines are in this process.
notes: list[str] = []


def noted(text: str, seconds: float = 0.0) -> str:
    notes.append(text)
    return work(seconds, text)


def fail_after(seconds: float) -> None:
    work(seconds)
    raise LookupError("gone")


def crash_after(seconds: float) -> None:
    work(seconds)
    crash(signal.SIGSEGV)


async def quick(x: int) -> int:
    return work(1.0, x)


async def slow() -> None:
    await asyncio.sleep(1)


@pytest.fixture(autouse=True)
def no_notes() -> None:
    notes.clear()


def run(scenario: Any, **options: Any) -> Any:
    return simulate(scenario, seed=2, hosts=1, engines=1, latency=0.0, **options).value


def test_work_takes_its_time_and_is_done_in_order() -> None:
    async def scenario(sim: Simulation) -> list[float]:
        loop = asyncio.get_running_loop()
        began, ends = loop.time(), []
        async with sim.multiengine() as mec:
            for handle in [mec.apply(noted, str(number), number) for number in (3, 1, 2)]:
                await handle
                ends.append(loop.time() - began)
        return ends

    assert run(scenario) == pytest.approx([3, 4, 6])
    assert notes == ["3", "1", "2"]


def test_what_is_raised_comes_after_the_work() -> None:
    async def scenario(sim: Simulation) -> float:
        loop = asyncio.get_running_loop()
        async with sim.task() as tc:
            began = loop.time()
            with pytest.raises(LookupError, match="gone"):
                await tc.submit(fail_after, 5.0)
            return loop.time() - began

    assert run(scenario) == pytest.approx(5)


def test_metadata_tell_the_virtual_times() -> None:
    async def scenario(sim: Simulation) -> Any:
        async with sim.task() as tc:
            handle = tc.submit(noted, "a", 2.5)
            await handle
            return handle.metadata

    info = run(scenario)
    assert info.completed - info.started == pytest.approx(2.5)
    assert info.started >= info.submitted > 1.6e9


def test_a_crash_comes_when_the_work_is_over() -> None:
    async def scenario(sim: Simulation) -> None:
        async with sim.multiengine() as mec:
            with pytest.raises(Exception, match="SIGSEGV"):
                await mec.apply(crash_after, 3.0)
            await mec.apply(noted, "again")

    run(scenario)
    assert notes == ["again"]


@pytest.mark.parametrize("survives", ["nothing", "interrupt"])
def test_what_an_interrupt_does(survives: str) -> None:
    async def scenario(sim: Simulation) -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        async with sim.multiengine() as mec:
            began = loop.time()
            handle = mec.apply(work, 9.0, "done", survives=survives)
            await asyncio.sleep(4)
            await mec.interrupt()
            try:
                return (await handle)[0], loop.time() - began
            except BaseExceptionGroup as error:
                return str(error.exceptions[0]), loop.time() - began

    text, seconds = run(scenario)
    if survives == "nothing":
        assert "KeyboardInterrupt" in text
        assert seconds == pytest.approx(4)
    else:
        assert (text, seconds) == ("done", pytest.approx(9))


def test_coroutines_that_wait_for_nothing() -> None:
    async def scenario(sim: Simulation) -> None:
        async with sim.task() as tc:
            assert await tc.submit(quick, 3) == 3
            with pytest.raises(OperationError, match="can't wait in a coroutine"):
                await tc.submit(slow)

    run(scenario)


def test_engines_have_names_of_their_own() -> None:
    async def scenario(sim: Simulation) -> None:
        async with sim.multiengine() as mec:
            await mec.scatter("x", [1, 2])
            assert await mec.pull("x") == [[1], [2]]
            await mec.restart()
            assert await mec.keys() == [[], []]

    simulate(scenario, hosts=1, engines=2)


def test_elsewhere_work_is_a_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    assert work(2.5, "value") == "value"
    assert slept == [2.5]
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="seconds from 0 up"):
            work(seconds)


def test_elsewhere_a_crash_is_one() -> None:
    program = "from aioparallel.testing import crash; crash(); print('alive')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


def test_the_package_needs_no_pytest() -> None:
    program = "import sys; sys.modules['pytest'] = None; import aioparallel.testing"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
