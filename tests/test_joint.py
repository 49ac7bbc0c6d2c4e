"""Several calls that are one to their caller, on model engines."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from model import ModelHost, model_cluster, settle

from aioparallel.channel import Channel
from aioparallel.controller import Controller
from aioparallel.errors import ConnectionLost, MessageTooLarge, OperationError
from aioparallel.handle import Handle
from aioparallel.joint import call_each
from aioparallel.serialize import pack
from aioparallel.wire import Frame, Limits


def engines(frames: list[Frame]) -> list[int]:
    return [frame.engine for frame in frames]


def pushes(*sizes: int) -> list[tuple[int, bytes, Any]]:
    """One push for each engine, of so many bytes."""
    return [
        (engine, json.dumps({"targets": [engine]}).encode(), pack(("push", {"a": bytes(size)})))
        for engine, size in enumerate(sizes)
    ]


async def opened(controller: Controller, **options: Any) -> tuple[Channel, asyncio.Future[Any]]:
    channel = await Channel.open(controller.capability("multiengine"), **options)
    return channel, Handle(loop=channel.loop)


def sizes(host: ModelHost) -> list[int]:
    return [len(space.names.get("a", b"")) for space in host.spaces.values()]


def test_all_answers_settle_the_one_future() -> None:
    async def main() -> None:
        async with model_cluster(3, eager=False) as (controller, host):
            channel, answer = await opened(controller)
            numbers = call_each(channel, "submit", answer, engines, pushes(1, 2, 3))
            assert numbers == (1, 2, 3)
            await settle()
            host.step(2)
            host.step(0)
            await settle()
            assert not answer.done()
            host.step()
            assert await answer == [2, 0, 1]
            assert sizes(host) == [1, 2, 3]
            assert channel._pending == {}
            await channel.aclose()

    asyncio.run(main())


def test_withdrawing_reaches_each_that_is_not_done() -> None:
    async def main() -> None:
        async with model_cluster(3, eager=False) as (controller, host):
            channel, answer = await opened(controller)
            numbers = call_each(channel, "submit", answer, engines, pushes(1, 2, 3))
            await settle()
            host.step(0)
            await settle()
            channel.withdraw(numbers)
            await settle()
            assert channel._pending == {}
            assert len(host.cancelled) == 2
            assert host.waiting == []
            assert not answer.done()
            assert sizes(host) == [1, 0, 0]
            await channel.aclose()

    asyncio.run(main())


def test_nothing_is_sent_unless_all_can_be() -> None:
    async def main() -> None:
        async with model_cluster(3, eager=False) as (controller, host):
            channel, answer = await opened(controller, limits=Limits(message=10_000))
            with pytest.raises(MessageTooLarge, match="above the limit of 10,000 bytes"):
                call_each(channel, "submit", answer, engines, pushes(10, 10, 20_000))
            with pytest.raises(OperationError, match="no operation 'scatter'"):
                call_each(channel, "scatter", answer, engines, pushes(10, 10, 10))
            await settle()
            assert channel._pending == {}
            assert host.waiting == []
            await channel.aclose()

    asyncio.run(main())


def test_what_is_under_way_is_withdrawn_when_the_rest_cannot_follow() -> None:
    async def main() -> None:
        async with model_cluster(3, eager=False) as (controller, host):
            channel, answer = await opened(controller)
            call, calls = channel.call, 0

            def interrupted(*args: Any, **options: Any) -> int:
                nonlocal calls
                calls += 1
                if calls == 3:
                    raise KeyboardInterrupt
                return call(*args, **options)

            channel.call = interrupted
            with pytest.raises(KeyboardInterrupt):
                call_each(channel, "submit", answer, engines, pushes(1, 2, 3))
            await settle()
            assert channel._pending == {}
            assert len(host.cancelled) == 2
            assert host.waiting == []
            assert not answer.done()
            await channel.aclose()

    asyncio.run(main())


def test_a_lost_connection_fails_it_once() -> None:
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, _):
            channel, answer = await opened(controller)
            call_each(channel, "submit", answer, engines, pushes(1, 2))
            await settle()
            await channel.aclose()
            with pytest.raises(ConnectionLost, match="this client was closed"):
                await answer
            with pytest.raises(ConnectionLost):
                call_each(channel, "submit", channel.loop.create_future(), engines, pushes(1, 2))

    asyncio.run(main())
