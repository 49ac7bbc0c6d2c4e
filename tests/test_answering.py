"""Plain operations under way: values now and later, streams and their room, cancelling, and who is gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from model import settle

from aioparallel.answering import WINDOW
from aioparallel.controller import Controller
from aioparallel.errors import ConnectionLost, OperationError
from aioparallel.interface import ClientProxy, Interface, remote
from aioparallel.limits import Limits


class Numbers(Interface):
    """Counts in several ways."""

    name = "numbers"

    async def start(self) -> None:
        self.yielded = 0
        self.ended: list[str] = []
        self.shared: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.clients: list[ClientProxy] = []

    def client_joined(self, client: ClientProxy) -> None:
        self.clients.append(client)

    @remote
    def later(self) -> asyncio.Future[int]:
        """A future; cancelled with the call."""
        return self.shared

    @remote
    def shielded(self) -> asyncio.Future[int]:
        """A future that others wait for, too."""
        return asyncio.shield(self.shared)

    @remote
    async def up_to(self, n: int) -> AsyncIterator[int]:
        """One after the other."""
        try:
            for i in range(n):
                self.yielded += 1
                yield i
        finally:
            self.ended.append("up_to")

    @remote
    async def pairs(self) -> AsyncIterator[tuple[int, str]]:
        """Tuples."""
        for i in range(3):
            await asyncio.sleep(0)
            yield i, str(i)

    @remote
    async def failing(self, after: int) -> AsyncIterator[int]:
        """Fails after so many."""
        for i in range(after):
            yield i
        raise KeyError("oops")

    @remote
    async def lying(self) -> AsyncIterator[int]:
        """Does not yield what it says."""
        yield 1
        yield "two"  # type: ignore[misc]

    @remote
    async def large(self, n: int) -> AsyncIterator[str]:
        """Long values."""
        for _ in range(n):
            self.yielded += 1
            yield "x" * 500_000

    @remote
    async def stubborn(self) -> AsyncIterator[int]:
        """Goes on when cancelled."""
        n = 0
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()
            n += 1
            yield n

    @remote
    async def for_ever(self, client: ClientProxy) -> None:
        """Waits."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.ended.append("for_ever")

    @remote
    def lie(self) -> int:
        """Does not return what it says."""
        return "three"  # type: ignore[return-value]


@asynccontextmanager
async def numbers(limits: Limits | None = None) -> AsyncIterator[tuple[Numbers, Any]]:
    async with Controller(limits=limits) as controller:
        await controller.listen("memory://x")
        interface = await controller.add(Numbers)
        async with Numbers.client(controller.capability("numbers"), limits=limits) as client:
            yield interface, client  # type: ignore[misc]


def test_a_stream_gives_every_value_in_order() -> None:
    async def main() -> None:
        async with numbers() as (interface, client):
            assert [n async for n in client.up_to(1000)] == list(range(1000))
            assert [n async for n in client.up_to(0)] == []
            assert [pair async for pair in client.pairs()] == [(0, "0"), (1, "1"), (2, "2")]
            assert interface.ended == ["up_to", "up_to"]
            both = client.up_to(200), client.up_to(200)
            for i in range(200):
                assert [await anext(stream) for stream in both] == [i, i]

    asyncio.run(main())


def test_a_slow_client_pauses_the_generator() -> None:
    async def main() -> None:
        async with numbers() as (interface, client):
            stream = client.up_to(10_000)
            await settle()
            assert interface.yielded == WINDOW
            taken = [await anext(stream) for _ in range(40)]
            await settle()
            assert WINDOW < interface.yielded <= WINDOW + 40
            assert taken == list(range(40))
            assert len([n async for n in stream]) == 9_960
            assert interface.yielded == 10_000

    asyncio.run(main())


def test_long_values_pause_it_sooner() -> None:
    async def main() -> None:
        async with numbers() as (interface, client):
            stream = client.large(20)
            await settle(100)
            assert interface.yielded == 3
            assert [len(text) async for text in stream] == [500_000] * 20

    asyncio.run(main())


def test_a_value_that_is_too_large_ends_the_stream() -> None:
    async def main() -> None:
        async with numbers(Limits(header=100_000)) as (_, client):
            with pytest.raises(ValueError, match="a plain answer of 500,002 bytes; the limit is 100,000"):
                await anext(client.large(1))

    asyncio.run(main())


def test_an_error_in_the_middle_comes_after_the_values_before_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with numbers() as (_, client):
            stream = client.failing(5)
            await settle()
            assert [await anext(stream) for _ in range(5)] == [0, 1, 2, 3, 4]
            with pytest.raises(OperationError, match="failing: KeyError: 'oops'"):
                await anext(stream)
            assert [n async for n in stream] == []
            stream = client.lying()
            assert await anext(stream) == 1
            with pytest.raises(OperationError, match="lying: what it yielded is the str 'two'; expected int"):
                await anext(stream)
            with pytest.raises(OperationError, match="lie: what it returned is the str 'three'; expected int"):
                await client.lie()

    asyncio.run(main())
    assert "operation 'failing' of interface 'numbers' failed" in caplog.text


@pytest.mark.parametrize("way", ["aclose", "with", "drop", "cancel"])
def test_who_has_had_enough_ends_the_generator(way: str) -> None:
    async def main() -> None:
        async with numbers() as (interface, client):
            stream = client.up_to(10_000)
            if way == "with":
                async with stream:
                    assert await anext(stream) == 0
            elif way == "cancel":

                async def read() -> None:
                    async with client.up_to(10) as short:
                        async for _ in short:
                            pass
                    async with stream:
                        await asyncio.get_running_loop().create_future()

                reading = asyncio.create_task(read())
                await settle()
                reading.cancel()
            elif way == "aclose":
                async for n in stream:
                    if n == 5:
                        break
                await stream.aclose()
                await stream.aclose()
                assert [n async for n in stream] == []
            else:
                del stream
            await settle()
            assert interface.ended[-1] == "up_to"
            assert interface.yielded < 200
            assert len(interface.clients[0]._answering) == 0
            assert interface.clients[0]._answering._streams == {}

    asyncio.run(main())


def test_a_generator_that_goes_on_when_cancelled_is_closed() -> None:
    async def main() -> None:
        async with numbers() as (interface, client):
            stream = client.stubborn()
            await settle()
            await stream.aclose()
            await settle()
            assert len(interface.clients[0]._answering) == 0

    asyncio.run(main())


def test_a_client_that_is_gone_ends_what_it_asked_for() -> None:
    async def main() -> None:
        async with numbers() as (interface, client):
            stream, waiting = client.up_to(10_000), client.for_ever()
            assert await anext(stream) == 0
            client.channel._connection.abort()
            with pytest.raises(ConnectionLost):
                await waiting
            with pytest.raises(ConnectionLost):
                async for _ in stream:
                    pass
            await settle()
            assert sorted(interface.ended) == ["for_ever", "up_to"]

    asyncio.run(main())


def test_futures_are_waited_for_and_cancelled() -> None:
    async def main() -> None:
        async with numbers() as (interface, client):
            first, second = client.shielded(), client.shielded()
            await settle()
            first.cancel()
            await settle()
            assert not interface.shared.cancelled()
            interface.shared.set_result(7)
            assert await second == 7
            assert await client.later() == 7
            interface.shared = asyncio.get_running_loop().create_future()
            third = client.later()
            await settle()
            third.cancel()
            await settle()
            assert interface.shared.cancelled()
            with pytest.raises(OperationError, match="later: it was cancelled in the controller"):
                await client.later()

    asyncio.run(main())


def test_who_may_call_what_is_asked_in_one_place() -> None:
    async def main() -> None:
        async with Controller() as controller:
            await controller.listen("memory://x")
            await controller.add(Numbers)
            narrow = controller.capability("numbers").narrow("ops=pairs")
            async with Numbers.client(narrow) as client:
                assert len([pair async for pair in client.pairs()]) == 3
                with pytest.raises(OperationError, match="does not allow 'up_to' of 'numbers'"):
                    await anext(client.up_to(1))
                with pytest.raises(OperationError, match="does not allow 'lie' of 'numbers'"):
                    await client.lie()

    asyncio.run(main())
