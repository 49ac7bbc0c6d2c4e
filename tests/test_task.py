"""Task's controller part and asyncio face, on model engines."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from model import connect, model_cluster, settle

import aioparallel


def double(x: int) -> int:
    return 2 * x


def test_submit_gives_values_and_errors():
    async def main() -> None:
        async with model_cluster(2) as (controller, _), connect(controller, "task") as tc:
            factor = 3
            assert await asyncio.gather(*(tc.submit(lambda x: x * factor, i) for i in range(50))) == [
                3 * i for i in range(50)
            ]
            with pytest.raises(ZeroDivisionError) as caught:
                await tc.submit(lambda: 1 // 0)
            assert "1 // 0" in caught.value.__notes__[0]
            with pytest.raises(TypeError, match="can't be called"):
                tc.submit("f")

    asyncio.run(main())


def test_tasks_of_unknown_length_go_one_to_each_engine():
    async def main() -> None:
        async with model_cluster(3, eager=False) as (controller, host), connect(controller, "task") as tc:
            tasks = [tc.submit(double, i) for i in range(5)]
            await settle()
            assert sorted(frame.engine for frame in host.waiting) == [0, 1, 2]
            host.eager = True
            while host.waiting:
                host.step()
            assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8]

    asyncio.run(main())


def test_short_tasks_wait_at_their_engine_and_long_ones_do_not():
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller, "task") as tc:
            for seconds, most in ((0.0001, 10), (1.0, 1)):
                host.seconds = seconds
                first = tc.submit(double, 0)
                await settle()
                host.step()
                await first
                tasks = [tc.submit(double, i) for i in range(10)]
                await settle()
                assert len(host.waiting) == most
                host.eager = True
                while host.waiting:
                    host.step()
                await asyncio.gather(*tasks)
                host.eager = False

    asyncio.run(main())


def test_tasks_of_a_lost_host_run_elsewhere():
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, first), connect(controller, "task") as tc:
            task = tc.submit(double, 4)
            await settle()
            assert len(first.waiting) == 1
            from model import ModelHost

            second = await ModelHost().dial(controller, 1)
            first.connection.abort()
            assert await task == 8
            second.connection.abort()
            await second.lost

    asyncio.run(main())


def test_cancelled_tasks_never_run_if_they_waited():
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller, "task") as tc:
            running, waiting, last = (tc.submit(double, i) for i in range(3))
            await settle()
            assert waiting.cancel()
            await settle()
            host.step()
            await settle()
            host.step()
            assert await running == 0
            assert await last == 4
            assert host.waiting == []

    asyncio.run(main())


def test_a_client_that_leaves_takes_its_waiting_tasks_along():
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host):
            async with connect(controller, "task") as tc:
                tasks = [tc.submit(double, i) for i in range(5)]
                await settle()
            for task in tasks:
                with pytest.raises(aioparallel.ConnectionLost, match="this client was closed"):
                    await task
            await settle()
            assert len(host.ended) == 1
            async with connect(controller, "task") as other:
                host.eager = True
                assert await other.submit(double, 1) == 2

    asyncio.run(main())


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_map_gives_every_value_once(ordered: bool, chunksize: int | None):
    async def main() -> None:
        async with model_cluster(3) as (controller, _), connect(controller, "task") as tc:
            values = [
                x async for x in tc.map(pow, range(300), itertools.repeat(2), chunksize=chunksize, ordered=ordered)
            ]
            assert (values if ordered else sorted(values)) == [x * x for x in range(300)]
            assert [x async for x in tc.map(double, [])] == []

    asyncio.run(main())


def test_map_consumes_an_infinite_input_within_a_window_and_stops_with_the_loop():
    async def main() -> None:
        async with model_cluster(2) as (controller, _), connect(controller, "task") as tc:
            taken = 0

            def numbers() -> Any:
                nonlocal taken
                while True:
                    taken += 1
                    yield taken - 1

            values = []
            mapped = tc.map(double, numbers(), chunksize=1)
            async for value in mapped:
                values.append(value)
                if value == 100:
                    break
            await mapped.aclose()
            assert values == list(range(0, 101, 2))
            assert taken < 80

    asyncio.run(main())


def test_map_raises_what_the_function_raises_and_withdraws_the_rest():
    async def main() -> None:
        async with model_cluster(1) as (controller, host), connect(controller, "task") as tc:
            with pytest.raises(ZeroDivisionError):
                async for _ in tc.map(lambda x: 1 // (5 - x), range(1000), chunksize=1):
                    pass
            await settle()
            assert host.waiting == []
            with pytest.raises(ValueError, match="chunksize"):
                tc.map(double, [1], chunksize=0)
            with pytest.raises(TypeError, match="iterable"):
                tc.map(double)

    asyncio.run(main())
