"""Back-pressure from end to end: who does not read, or sends too much, is held up, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model import model_cluster
from runners import RUNNERS

import aioparallel
from aioparallel.connection import Connection
from aioparallel.controller import Controller
from aioparallel.interface import ClientProxy
from aioparallel.wire import Limits

MIB = 2**20
#: Small, so that little is needed to reach them; a client that does not read hears nothing for a while either.
LIMITS = Limits(outbox=4 * MIB, backlog=4 * MIB, dead=60.0)
#: How much of results may be under way when an outbox is full: a few at each engine, in the host's own outbox, and
#: on the way from there.
UNDER_WAY = 20 * MIB
MANY = 200
CLIENTS: dict[str, Any] = {"task": aioparallel.TaskClient, "multiengine": aioparallel.MultiEngineClient}


def proxy_of(controller: Controller, client: Any) -> tuple[ClientProxy, Connection]:
    """Return the controller's end of a client; there is one of each interface."""
    [found] = [
        (proxy, connection)
        for proxy, connection in controller._clients.items()
        if proxy.grant.interface == client.interface
    ]
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def standstill(value: Callable[[], object]) -> None:
    """Wait until something has not changed for a while."""
    last, same = value(), 0
    async with asyncio.timeout(10):
        while same < 50:
            await asyncio.sleep(0.001)
            now = value()
            same, last = same + 1 if now == last else 0, now


@pytest.fixture
def address(directory: Path) -> str:
    return f"unix://{directory}/s"


@RUNNERS
@pytest.mark.parametrize("interface", CLIENTS)
def test_a_client_that_does_not_read_is_waited_for(run: Any, interface: str, address: str) -> None:
    async def main() -> None:
        async with model_cluster(2, limits=LIMITS, address=address) as (controller, _):
            lazy = await CLIENTS[interface].connect(controller.capability(interface), limits=LIMITS)
            _, connection = proxy_of(controller, lazy)
            most = 0

            def outbox() -> int:
                nonlocal most
                most = max(most, connection._outbox.size)
                return connection._outbox.size

            lazy.channel._connection.pause_reading()
            if interface == "task":
                results = [lazy.submit(bytes, MIB) for _ in range(MANY)]
            else:
                results = [lazy.apply(bytes, MIB, targets=number % 2) for number in range(MANY)]
            await until(lambda: outbox() > LIMITS.outbox)
            await standstill(outbox)
            assert connection.congested
            assert not any(result.done() for result in results)
            # Who looks is told at once, and what of.
            async with aioparallel.MonitorClient(controller.capability("monitor")) as monitor, asyncio.timeout(2):
                status = await monitor.status()
                assert status["clients"] == {interface: 1, "monitor": 1}
            lazy.channel._connection.resume_reading()
            reading = asyncio.ensure_future(asyncio.gather(*results))
            while not reading.done():
                outbox()
                await asyncio.sleep(0.001)
            values = [value if interface == "task" else value[0] for value in await reading]
            assert [len(value) for value in values] == [MIB] * MANY
            assert most <= LIMITS.outbox + UNDER_WAY
            assert not connection.congested
            await until(lambda: connection._outbox.size == 0)
            await lazy.aclose()

    run(main())


@RUNNERS
@pytest.mark.parametrize("interface", CLIENTS)
def test_a_client_that_sends_too_much_is_not_read_from(run: Any, interface: str, address: str) -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False, limits=LIMITS, address=address) as (controller, host):
            eager = await CLIENTS[interface].connect(controller.capability(interface), limits=LIMITS)
            proxy, _ = proxy_of(controller, eager)
            most = 0

            def held() -> int:
                nonlocal most
                most = max(most, proxy._held)
                return proxy._held

            data = bytes(MIB)
            results = [
                eager.submit(len, data) if interface == "task" else eager.apply(len, data, targets=0) for _ in range(40)
            ]
            await until(lambda: proxy._paused)
            await standstill(held)
            assert held() > LIMITS.backlog
            assert eager.channel.congested
            # Somebody else is heard all the same.
            async with aioparallel.MonitorClient(controller.capability("monitor")) as monitor, asyncio.timeout(2):
                assert (await monitor.status())["engines"][0]["state"] == "running"
            host.eager = True
            while host.waiting:
                host.step()
            reading = asyncio.ensure_future(asyncio.gather(*results))
            while not reading.done():
                held()
                await asyncio.sleep(0)
            assert [value if interface == "task" else value[0] for value in await reading] == [MIB] * 40
            # What is under way from the client's outbox comes on top.
            assert most <= LIMITS.backlog + LIMITS.outbox + MIB
            assert proxy._held == 0
            assert not proxy._paused
            async with asyncio.timeout(5):
                await eager.channel.drained()
            await eager.aclose()

    run(main())


def test_withdrawn_work_counts_no_more(address: str) -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False, limits=LIMITS, address=address) as (controller, _):
            client = await aioparallel.TaskClient.connect(controller.capability("task"), limits=LIMITS)
            proxy, _ = proxy_of(controller, client)
            results = [client.submit(len, bytes(MIB)) for _ in range(3)]
            await until(lambda: proxy._held > 3 * MIB)
            assert not proxy._paused
            for result in results:
                result.cancel()
            await until(lambda: proxy._held == 0)
            await client.aclose()

    asyncio.run(main())


@RUNNERS
@pytest.mark.parametrize("lazy_one", CLIENTS)
@pytest.mark.parametrize("busy_one", CLIENTS)
def test_the_others_go_on_beside_a_client_that_does_not_read(
    run: Any, lazy_one: str, busy_one: str, address: str
) -> None:
    def ask(client: Any, f: Callable[..., Any], *args: Any) -> Any:
        return client.submit(f, *args) if hasattr(client, "submit") else client.apply(f, *args, targets=0)

    async def main() -> None:
        async with model_cluster(1, limits=LIMITS, address=address) as (controller, _):
            # One engine, which is all the more in demand.
            lazy = await CLIENTS[lazy_one].connect(controller.capability(lazy_one), limits=LIMITS)
            _, connection = proxy_of(controller, lazy)
            lazy.channel._connection.pause_reading()
            results = [ask(lazy, bytes, MIB) for _ in range(40)]
            await until(lambda: connection.congested)
            busy = await CLIENTS[busy_one].connect(controller.capability(busy_one), limits=LIMITS)
            async with asyncio.timeout(5):
                for number in range(20):
                    value = await ask(busy, abs, -number)
                    assert value in (number, [number])
            # What it asks for now waits with the rest, and can be withdrawn from there.
            results.append(ask(lazy, bytes, MIB))
            unwanted = ask(lazy, bytes, MIB)
            async with asyncio.timeout(5):
                assert await ask(busy, abs, -7) in (7, [7])
            assert connection.congested
            unwanted.cancel()
            lazy.channel._connection.resume_reading()
            async with asyncio.timeout(10):
                values = [value[0] if isinstance(value, list) else value for value in await asyncio.gather(*results)]
            assert [len(value) for value in values] == [MIB] * 41
            assert controller.engines[0].queued == 0
            await until(lambda: controller.engines[0].state == "idle")
            await lazy.aclose()
            await busy.aclose()

    run(main())


@pytest.mark.parametrize("interface", CLIENTS)
def test_a_client_that_never_reads_leaves_nothing_behind(interface: str, address: str) -> None:
    async def main() -> None:
        async with model_cluster(1, limits=LIMITS, address=address) as (controller, _):
            lazy = await CLIENTS[interface].connect(controller.capability(interface), limits=LIMITS)
            _, connection = proxy_of(controller, lazy)
            lazy.channel._connection.pause_reading()
            results = [
                lazy.submit(bytes, MIB) if interface == "task" else lazy.apply(bytes, MIB, targets=0) for _ in range(40)
            ]
            await until(lambda: connection.congested)
            connection.abort()
            await lazy.aclose()
            for result in results:
                assert isinstance(result.exception(), aioparallel.ConnectionLost)
            await until(lambda: not controller._clients)
            [engine] = controller.engines.values()
            await until(lambda: engine.state == "idle")
            assert engine.queued == 0
            assert engine._queue.held == {}
            assert controller.interfaces["task"]._tasks.placing._paused == {}  # type: ignore[attr-defined]

    asyncio.run(main())
