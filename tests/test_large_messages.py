"""Large messages end to end: what is small passes them, what belongs in order keeps it, and what is dropped is gone."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from model import model_cluster, settle
from runners import RUNNERS

import aioparallel
from aioparallel import client
from aioparallel.connection import Connection
from aioparallel.controller import Controller
from aioparallel.errors import ConnectionLost, QueueCleared
from aioparallel.wire import Limits

#: A message of so many bytes is cut into pieces; a connection in this process takes about as much in advance.
PIECE = 1000
LIMITS = Limits(piece=PIECE, dead=60.0)
LARGE = b"x" * 300_000


def far_end(controller: Controller, near: Any) -> Connection:
    """Return the controller's end of a client's connection."""
    [found] = [c for proxy, c in controller._clients.items() if proxy.session == near.channel.session]
    return found


def under_way(connection: Connection) -> int:
    """Return how many large messages are arriving on a connection."""
    assert connection._decoder is not None
    return len(connection._decoder._streams.under_way)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def multiengine(controller: Controller, limits: Limits = LIMITS) -> Any:
    return await aioparallel.MultiEngineClient.connect(controller.capability("multiengine"), limits=limits)


# What is small passes


@RUNNERS
def test_what_is_small_passes_what_is_large_to_the_same_host(run: Any) -> None:
    async def main() -> None:
        async with model_cluster(2, limits=LIMITS) as (controller, host):
            slow, quick = await multiengine(controller), await multiengine(controller)
            pushed = slow.apply(len, LARGE, targets=0)
            await until(lambda: under_way(host.connection))
            assert await quick.apply(abs, -1, targets=1) == [1]
            assert under_way(host.connection)
            assert not pushed.done()
            assert await pushed == [len(LARGE)]
            await slow.aclose()
            await quick.aclose()

    run(main())


@RUNNERS
def test_what_is_small_passes_what_is_large_of_the_same_client(run: Any) -> None:
    async def main() -> None:
        async with model_cluster(2, limits=LIMITS) as (controller, _):
            mec = await multiengine(controller)
            pushed = mec.apply(len, LARGE, targets=0)
            await until(lambda: under_way(far_end(controller, mec)))
            assert await mec.apply(abs, -1, targets=1) == [1]
            assert await mec.get_ids() == [0, 1]
            assert [one["id"] for one in await mec.queue_status()] == [0, 1]
            assert under_way(far_end(controller, mec))
            assert await pushed == [len(LARGE)]
            await mec.aclose()

    run(main())


def test_what_is_small_passes_a_large_answer() -> None:
    async def main() -> None:
        async with model_cluster(2, limits=LIMITS) as (controller, _):
            mec = await multiengine(controller)
            pulled = mec.apply(bytes, len(LARGE), targets=0)
            await until(lambda: under_way(mec.channel._connection))
            assert await mec.apply(abs, -1, targets=1) == [1]
            assert not pulled.done()
            assert [len(value) for value in await pulled] == [len(LARGE)]
            await mec.aclose()

    asyncio.run(main())


def test_the_last_answer_of_a_call_stays_behind_the_large_ones() -> None:
    async def main() -> None:
        async with model_cluster(3, limits=LIMITS) as (controller, _):
            mec = await multiengine(controller)
            await mec.execute("size = [300_000, 0, 200_000][id]")
            values = await mec.execute("bytes(size).hex()")
            assert [len(value.value) for value in values] == [600_002, 2, 400_002]
            await mec.aclose()

    asyncio.run(main())


# Order


def test_a_later_call_to_the_same_engine_does_not_overtake() -> None:
    async def main() -> None:
        async with model_cluster(3, limits=LIMITS) as (controller, host):
            mec = await multiengine(controller)
            await mec.execute("seen = []")
            large = mec.execute(f"seen.append(1) # {'x' * 50_000}", targets=0)
            after = [mec.execute("seen.append(2)", targets=0), mec.execute("seen.append(3)")]
            beside = mec.execute("seen.append(4)", targets=1)
            other = mec.execute("seen.append(5)", targets=2)
            assert repr(mec.channel._departures.line) == "<Line: 1 calls leaving, 4 waiting>"
            await asyncio.gather(large, *after, beside, other)
            assert await mec.pull("seen") == [[1, 2, 3], [3, 4], [3, 5]]
            assert not mec.channel._departures.line.leaving
            assert host.waiting == []
            await mec.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(30))
def test_engines_see_calls_in_order_whatever_their_sizes(seed: int) -> None:
    random = Random(seed)

    async def main() -> None:
        async with model_cluster(3, limits=LIMITS) as (controller, _):
            mec = await multiengine(controller)
            await mec.execute("seen = []")
            expected: list[list[int]] = [[], [], []]
            calls = []
            for number in range(40):
                targets = random.choice([[0], [1], [2], [0, 1], [2, 0], "all"])
                filling = "x" * random.choice([0, 10, 990, 5_000, 30_000])
                calls.append(mec.execute(f"seen.append({number}) # {filling}", targets=targets))
                for engine in range(3) if targets == "all" else targets:
                    expected[engine].append(number)
                if random.random() < 0.2:
                    await settle(random.randrange(20))
            await asyncio.gather(*calls)
            assert await mec.pull("seen") == expected
            await mec.aclose()

    asyncio.run(main())


def test_each_thread_keeps_its_order_on_real_engines(cluster: client.Cluster) -> None:
    with client.MultiEngineClient(cluster.capability("multiengine"), limits=LIMITS) as mec:
        mec.execute("seen = []")

        def work(thread: int) -> None:
            random = Random(thread)
            calls = []
            for number in range(40):
                targets = random.choice([0, 1, "all"])
                filling = "x" * random.choice([0, 10, 5_000, 100_000])
                calls.append(
                    mec.execute(f"seen.append(({thread}, {number})) # {filling}", targets=targets, block=False)
                )
            for call in calls:
                call.result(60)

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        for seen in mec.pull("seen"):
            for thread in range(4):
                numbers = [number for by, number in seen if by == thread]
                assert numbers == sorted(numbers)
        assert not mec._channel._departures.line.leaving


def test_large_values_come_through_real_engines_whole(cluster: client.Cluster) -> None:
    with client.MultiEngineClient(cluster.capability("multiengine"), limits=LIMITS) as mec:
        data = Random(1).randbytes(3_000_000)
        values = [data, bytearray(data), data[: PIECE - 50], data[:70_000]]
        mec["values"] = values
        assert mec["values"] == [values, values]


# What is withdrawn


def test_a_call_that_waits_can_be_withdrawn() -> None:
    async def main() -> None:
        async with model_cluster(2, limits=LIMITS) as (controller, _):
            mec = await multiengine(controller)
            await mec.execute("seen = []")
            large = mec.execute(f"seen.append(1) # {'x' * 50_000}", targets=0)
            waiting = mec.execute("seen.append(2)")
            behind = mec.execute("seen.append(3)", targets=1)
            waiting.cancel()
            await behind
            assert not large.done()
            await large
            assert await mec.pull("seen") == [[1], [3]]
            assert mec.channel._departures.line.size == 0
            await mec.aclose()

    asyncio.run(main())


@RUNNERS
def test_a_call_that_is_leaving_is_dropped_where_it_is(run: Any) -> None:
    async def main() -> None:
        async with model_cluster(1, limits=LIMITS) as (controller, host):
            mec = await multiengine(controller)
            far = far_end(controller, mec)
            data = bytearray(LARGE)
            references = sys.getrefcount(data)
            large = mec.apply(len, data, targets=0)
            next_one = mec.apply(abs, -5, targets=0)
            await until(lambda: under_way(far))
            large.cancel()
            del large
            assert await next_one == [5]
            assert not under_way(far)
            assert host.cancelled == []
            assert not mec.channel._connection._outbox
            assert not mec.channel._departures.line.leaving
            assert mec.channel._pending == {}
            await until(lambda: sys.getrefcount(data) == references)
            await mec.aclose()

    run(main())


def test_a_call_that_has_just_left_is_withdrawn_as_ever() -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False, limits=LIMITS) as (controller, host):
            mec = await multiengine(controller)
            large = mec.apply(len, LARGE, targets=0)
            await until(lambda: host.waiting)
            large.cancel()
            await until(lambda: host.cancelled)
            await until(lambda: controller.engines[0].state == "idle")
            await mec.aclose()

    asyncio.run(main())


def test_a_command_on_its_way_to_its_host_is_dropped_and_the_engine_is_free() -> None:
    async def main() -> None:
        async with model_cluster(1, limits=LIMITS) as (controller, host):
            mec = await multiengine(controller)
            tasks = await aioparallel.TaskClient.connect(controller.capability("task"), limits=LIMITS)
            for submit in (lambda: mec.apply(len, LARGE, targets=0), lambda: tasks.submit(len, LARGE)):
                large = submit()
                await until(lambda: under_way(host.connection))
                large.cancel()
                async with asyncio.timeout(5):
                    assert await mec.apply(abs, -5, targets=0) == [5]
                    assert await tasks.submit(abs, -6) == 6
                assert not under_way(host.connection)
                assert host.cancelled == []
                assert controller.engines[0].state == "idle"
                assert not host.connection._outbox
            await mec.aclose()
            await tasks.aclose()

    asyncio.run(main())


def test_an_answer_that_nobody_wants_any_more_is_dropped() -> None:
    async def main() -> None:
        async with model_cluster(1, limits=LIMITS) as (controller, _):
            mec = await multiengine(controller)
            large = mec.apply(bytes, len(LARGE), targets=0)
            await until(lambda: under_way(mec.channel._connection))
            large.cancel()
            assert await mec.apply(abs, -5, targets=0) == [5]
            await until(lambda: not under_way(mec.channel._connection))
            assert not far_end(controller, mec)._outbox
            await mec.aclose()

    asyncio.run(main())


def test_a_large_command_that_fails_clears_what_came_behind_it() -> None:
    async def main() -> None:
        async with model_cluster(1, limits=LIMITS) as (controller, _):
            mec = await multiengine(controller)
            failing = mec.execute(f"1/0 # {'x' * 50_000}", targets=0)
            after = mec.execute("x = 1", targets=0)
            with pytest.raises(ZeroDivisionError):
                await failing
            with pytest.raises(QueueCleared):
                await after
            await mec.aclose()

    asyncio.run(main())


# The end in the middle


@RUNNERS
@pytest.mark.parametrize("who", ["client", "controller", "host"])
def test_a_connection_lost_in_the_middle_leaves_nothing(run: Any, who: str) -> None:
    async def main() -> None:
        async with model_cluster(2, limits=LIMITS) as (controller, host):
            mec = await multiengine(controller)
            far, near = far_end(controller, mec), mec.channel._connection
            data = bytearray(LARGE)
            references = sys.getrefcount(data)
            calls = [mec.apply(len, data, targets=0), mec.apply(abs, -1, targets=0), mec.push({"a": 1})]
            [link] = controller._links
            ends = (link.connection, host.connection) if who == "host" else (near, far)
            await until(lambda: under_way(ends[1]))
            {"client": near, "controller": far, "host": host.connection}[who].abort()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, Exception) for result in results)
            if who != "host":
                assert all(isinstance(result, ConnectionLost) for result in results)
            del calls, results
            await until(lambda: not any(end._outbox or under_way(end) for end in ends))
            assert mec.channel._pending == {}
            assert not mec.channel._departures.line.leaving
            assert mec.channel._departures.line.size == 0
            await until(lambda: sys.getrefcount(data) == references)
            await until(lambda: who == "host" or controller.engines[0].state == "idle")
            await mec.aclose()

    run(main())


# Messages larger than every bound


@RUNNERS
@pytest.mark.parametrize("interface", ["task", "multiengine"])
def test_messages_above_every_bound_pass(run: Any, interface: str, directory: Path) -> None:
    limits = Limits(outbox=100_000, backlog=100_000, dead=60.0)
    size = 2_000_000

    async def main() -> None:
        async with model_cluster(2, limits=limits, address=f"unix://{directory}/s") as (controller, host):
            capability = controller.capability(interface)
            if interface == "task":
                made: Any = await aioparallel.TaskClient.connect(capability, limits=limits)
                calls = [made.submit(bytearray, bytes([n]) * size) for n in range(6)]
            else:
                made = await aioparallel.MultiEngineClient.connect(capability, limits=limits)
                calls = [made.apply(bytearray, bytes([n]) * size, targets=n % 2) for n in range(6)]
                assert made.channel.congested
            async with asyncio.timeout(20):
                results = await asyncio.gather(*calls)
                await made.channel.drained()
            for number, result in enumerate(results):
                value = result if interface == "task" else result[0]
                assert value == bytes([number]) * size
            [proxy] = controller._clients
            assert proxy._held == 0
            assert not made.channel.congested
            assert not any(c._outbox for c in (made.channel._connection, host.connection))
            await made.aclose()

    run(main())


def test_a_thread_that_does_not_wait_is_held_up_by_what_waits_in_the_line(cluster: client.Cluster) -> None:
    limits = Limits(outbox=1_000_000)
    with client.MultiEngineClient(cluster.capability("multiengine"), limits=limits) as mec:
        most = 0
        calls = []
        for _ in range(20):
            calls.append(mec.apply(len, bytes(3_000_000), targets=0, block=False))
            most = max(most, mec._channel._departures.line.size)
        assert {call.result(60)[0] for call in calls} == {3_000_000}
        assert most < 2 * 3_100_000
        assert mec._channel._departures.line.size == 0


def test_a_handle_may_be_cancelled_from_any_thread(cluster: client.Cluster) -> None:
    with client.MultiEngineClient(cluster.capability("multiengine"), limits=LIMITS) as mec:
        for _ in range(10):
            calls = [mec.apply(len, bytes(2_000_000), targets=n % 2, block=False) for n in range(4)]
            threads = [threading.Thread(target=call.cancel) for call in calls]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert mec.apply(abs, -1) == [1, 1]
            assert all(call.done() for call in calls)
        assert mec._channel._pending == {}
        assert not mec._channel._departures.line.leaving
