"""What fails is found, and said in words that help."""

from __future__ import annotations

import asyncio
import gc
import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from aioparallel.engine import EngineHost
from aioparallel.errors import ConfigurationError, SimulationFailed
from aioparallel.testing import Simulation, explore, simulate, work


def double(x: int) -> int:
    return work(0.1, 2 * x)


def test_a_run_tells_what_came_of_it() -> None:
    async def scenario(sim: Simulation) -> int:
        async with sim.task() as tc:
            return await tc.submit(double, sim.random.randint(0, 10**6))

    run = simulate(scenario, 5)
    again = simulate(scenario, 5)
    assert (run.value, run.seconds, str(run.trace)) == (again.value, again.seconds, str(again.trace))
    assert run.trace.digest == again.trace.digest
    assert run.seed == 5
    assert "client 0      calls 1: submit b'double'" in str(run.trace)
    other = simulate(scenario, 6)
    assert (other.value, other.trace.digest) != (run.value, run.trace.digest)


def test_explore_says_which_seed() -> None:
    async def scenario(sim: Simulation) -> None:
        async with sim.task() as tc:
            await tc.submit(double, 1)
        assert sim.random.random() < 0.8

    with pytest.raises(AssertionError) as caught:
        explore(scenario, range(100))
    [note] = caught.value.__notes__
    seed = int(note.split("seed=")[1].rstrip(")"))
    assert note.startswith(f"in the simulation of seed {seed}\n")
    assert "is answered 1: OK" in note
    assert explore(scenario, range(seed)) == seed
    with pytest.raises(AssertionError):
        simulate(scenario, seed)


def test_a_scenario_that_hangs() -> None:
    async def scenario(sim: Simulation) -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(SimulationFailed, match="not ended after 100 s of virtual time"):
        simulate(scenario, limit=100)


def test_its_own_timeout_is_its_own() -> None:
    async def scenario(sim: Simulation) -> None:
        async with asyncio.timeout(1):
            await asyncio.sleep(2)

    with pytest.raises(TimeoutError):
        simulate(scenario)


def forget_a_task(sim: Simulation) -> Any:
    return sim.controller.interfaces["task"].__dict__.setdefault("_forgotten", {}).update({1: "a task"})


def hold_credit(sim: Simulation) -> Any:
    [client] = sim.controller._clients
    client.hold(100)


def log_an_error(sim: Simulation) -> None:
    logging.getLogger("aioparallel.somewhere").error("something is %s", "wrong")


def never_retrieve(sim: Simulation) -> None:
    asyncio.get_running_loop().create_future().set_exception(ValueError("nobody looks"))


def warn(sim: Simulation) -> None:
    warnings.warn("unclosed thing", ResourceWarning, stacklevel=1)


def tick_for_ever(sim: Simulation) -> None:
    asyncio.get_running_loop().call_later(1, tick_for_ever, sim)


def raise_in_a_callback(sim: Simulation) -> None:
    asyncio.get_running_loop().call_soon(lambda: [][1])


def lose_a_result(sim: Simulation) -> None:
    for host in sim.hosts:
        host.host.send = lambda pieces: None  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (forget_a_task, "still: TaskInterface._forgotten of .* has 1: .*a task"),
        (hold_credit, "still: ClientProxy._held is 100"),
        (log_an_error, "aioparallel.somewhere logged: something is wrong"),
        (never_retrieve, "never retrieved: ValueError"),
        (warn, "ResourceWarning: unclosed thing"),
        (tick_for_ever, "timers that never end"),
        (raise_in_a_callback, "IndexError"),
        (lose_a_result, "not ended after"),
    ],
)
def test_what_is_broken_is_found(break_it: Callable[[Simulation], None], words: str) -> None:
    async def scenario(sim: Simulation) -> None:
        async with sim.task() as tc:
            await tc.submit(double, 1)
            break_it(sim)
            await tc.submit(double, 2)

    with pytest.raises(SimulationFailed, match=words) as caught:
        simulate(scenario, 3, limit=1000)
    assert "To see it again: simulate(scenario, seed=3)" in str(caught.value)


def test_the_collector_is_as_before() -> None:
    async def scenario(sim: Simulation) -> bool:
        return gc.isenabled()

    frozen = gc.get_freeze_count()
    assert not simulate(scenario).value
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_none_inside_another() -> None:
    async def scenario(sim: Simulation) -> None:
        simulate(scenario)

    with pytest.raises(ConfigurationError, match="event loop of its own"):
        simulate(scenario)


def test_it_is_the_real_host() -> None:
    async def scenario(sim: Simulation) -> bool:
        return all(type(host.host) is EngineHost for host in sim.hosts)

    assert simulate(scenario).value
