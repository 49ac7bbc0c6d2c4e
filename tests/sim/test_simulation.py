"""Faults by hand: each does what it says, and the cluster does what it promises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aioparallel.errors import ConfigurationError, ConnectionLost, EngineDied, EngineLost
from aioparallel.limits import Limits
from aioparallel.testing import Simulation, crash, simulate, work


def double(x: int, seconds: float = 0.0) -> int:
    return work(seconds, 2 * x)


def die() -> None:
    crash()


def run(scenario: Any, **options: Any) -> Any:
    return simulate(scenario, seed=1, **options).value


def test_a_cluster_without_a_process() -> None:
    async def scenario(sim: Simulation) -> None:
        assert sim.engines == [0, 1, 2, 3]
        async with sim.task() as tc, sim.multiengine() as mec:
            assert [await handle for handle in [tc.submit(double, x) for x in range(5)]] == [0, 2, 4, 6, 8]
            await mec.push({"a": 3})
            assert await mec.pull("a") == [3, 3, 3, 3]
            assert [value async for value in tc.map(double, range(50))] == list(range(0, 100, 2))

    run(scenario)


def test_an_hour_takes_a_moment() -> None:
    async def scenario(sim: Simulation) -> float:
        began = asyncio.get_running_loop().time()
        async with sim.task() as tc:
            assert await tc.submit(double, 4, 3000.0) == 8
        return asyncio.get_running_loop().time() - began

    assert 3000 < run(scenario) < 3001


def test_large_values_pass() -> None:
    async def scenario(sim: Simulation) -> None:
        async with sim.task() as tc:
            value = await tc.submit(bytes.upper, b"a" * 1_000_000)
            assert value == b"A" * 1_000_000

    run(scenario)


def test_a_kernel_is_killed_and_the_task_runs_again() -> None:
    async def scenario(sim: Simulation) -> None:
        async with sim.task() as tc:
            handle = tc.submit(double, 4, 1.0)
            await asyncio.sleep(0.5)
            [engine] = [kernel.engine for host in sim.hosts for kernel in host.kernels if kernel.running is not None]
            assert sim.kill_kernel(engine)
            assert await handle == 8
            assert handle.metadata.attempt == 2
            assert not sim.kill_kernel(99)

    run(scenario)


def test_a_task_that_kills_is_given_up() -> None:
    async def scenario(sim: Simulation) -> None:
        async with sim.task() as tc:
            with pytest.raises(Exception, match=r"SIGKILL|killed|died"):
                await tc.submit(die)
            assert await tc.submit(double, 1) == 2

    run(scenario)


@pytest.mark.parametrize("fault", ["kill_host", "cut"])
def test_a_host_is_gone_at_once(fault: str) -> None:
    async def scenario(sim: Simulation) -> None:
        async with sim.task() as tc, sim.multiengine() as mec:
            tasks = [tc.submit(double, x, 1.0) for x in range(4)]
            await asyncio.sleep(0.5)
            call = mec[2].apply(double, 1, 5.0)
            await asyncio.sleep(0.01)
            getattr(sim, fault)(sim.hosts[1])
            assert [await task for task in tasks] == [0, 2, 4, 6]
            with pytest.raises(EngineLost):
                await call
            assert sim.engines == [0, 1]
            assert await sim.add_engines(1) == [2]

    run(scenario)


def test_a_black_hole_is_noticed_by_its_silence() -> None:
    async def scenario(sim: Simulation) -> None:
        loop = asyncio.get_running_loop()
        async with sim.task() as tc:
            with sim.black_hole(sim.hosts[0]):
                began = loop.time()
                tasks = [tc.submit(double, x) for x in range(4)]
                assert [await task for task in tasks] == [0, 2, 4, 6]
                assert 8 < loop.time() - began < 13
                assert sim.engines == [2, 3]

    run(scenario)


def test_what_a_short_black_hole_held_up_arrives() -> None:
    async def scenario(sim: Simulation) -> None:
        async with sim.task() as tc:
            with sim.black_hole(sim.hosts[0]):
                tasks = [tc.submit(double, x) for x in range(4)]
                await asyncio.sleep(3)
            assert [await task for task in tasks] == [0, 2, 4, 6]
            assert [task.metadata.attempt for task in tasks] == [1, 1, 1, 1]
            assert len(sim.engines) == 4

    run(scenario)


def test_a_slow_connection() -> None:
    async def scenario(sim: Simulation) -> float:
        async with sim.multiengine() as mec:
            began = asyncio.get_running_loop().time()
            with sim.slowed(mec, 0.5, rate=1e6):
                await mec.push({"a": b"x" * 1_000_000})
            return asyncio.get_running_loop().time() - began

    assert 2 < run(scenario) < 8


def test_a_client_that_does_not_read_keeps_nobody_else() -> None:
    async def scenario(sim: Simulation) -> None:
        async with sim.task() as slow, sim.task() as quick:
            with sim.stopped_reading(slow):
                waiting = [slow.submit(bytes, 100_000) for _ in range(30)]
                await asyncio.sleep(1)
                assert await quick.submit(double, 1) == 2
            assert {len(await handle) for handle in waiting} == {100_000}

    run(scenario, limits=Limits(share=0, outbox=2**18))


def test_a_client_is_gone() -> None:
    async def scenario(sim: Simulation) -> None:
        tc = await sim.task()
        handle = tc.submit(double, 1, 100.0)
        await asyncio.sleep(1)
        sim.cut(tc)
        with pytest.raises(ConnectionLost):
            await handle
        with pytest.raises(ConfigurationError, match="neither a host nor a client"):
            sim.cut("somebody")  # type: ignore[arg-type]

    run(scenario)


def test_an_answer_that_comes_twice_is_dropped() -> None:
    async def scenario(sim: Simulation) -> None:
        async with sim.task() as tc:
            tasks = [tc.submit(double, x, 0.5) for x in range(12)]
            await asyncio.sleep(0.7)
            assert any(sim.repeat_answer(host) for host in sim.hosts)
            assert [await task for task in tasks] == [2 * x for x in range(12)]

    run(scenario)


def test_a_cancelled_task_is_interrupted() -> None:
    async def scenario(sim: Simulation) -> float:
        async with sim.task() as tc:
            handle = tc.submit(double, 4, 1000.0)
            await asyncio.sleep(0.5)
            handle.cancel()
            with pytest.raises(asyncio.CancelledError):
                await handle
        return asyncio.get_running_loop().time()

    assert run(scenario) < 10


def test_a_storm_passes() -> None:
    async def scenario(sim: Simulation) -> int:
        async with sim.task() as tc, sim.storm(every=0.5, kinds=["kernel", "late", "slow"]):
            values = []
            for x in range(20):
                try:
                    values.append(await tc.submit(double, x, 0.3))
                except EngineDied:
                    values.append(2 * x)
            assert values == [2 * x for x in range(20)]
        return len(sim.engines)

    assert run(scenario) >= 4


@pytest.mark.parametrize("options", [{"hosts": -1}, {"engines": 0}, {"latency": -1.0}, {"limits": Limits(share=2**20)}])
def test_what_can_not_be_simulated(options: dict[str, Any]) -> None:
    async def scenario(sim: Simulation) -> None: ...

    with pytest.raises(ConfigurationError):
        run(scenario, **options)


@pytest.mark.parametrize("options", [{"kinds": ["rain"]}, {"every": 0.0}])
def test_no_such_storm(options: dict[str, Any]) -> None:
    async def scenario(sim: Simulation) -> None:
        with pytest.raises(ConfigurationError, match="storm"):
            sim.storm(**options)

    run(scenario)
