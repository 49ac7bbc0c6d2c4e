"""What can befall bytes on their way: they are late or lost together, and never out of order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aioparallel.errors import AddressError
from aioparallel.testing.clock import VirtualLoop
from aioparallel.testing.links import Link
from aioparallel.transports import Gate, Peer
from aioparallel.transports.memory import MemoryEnd, MemoryTransport, intercept

ADDRESS = "memory://links"


class Keeper(asyncio.Protocol):
    """Keeps what arrives, and when."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.got: list[tuple[float, bytes]] = []
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.got.append((round(self.loop.time(), 6), data))

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost = True


class Pair:
    """Two ends and what is between them."""

    near: Keeper
    far: Keeper
    link: Link

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.delays: list[float] = []

    def met(self, near: MemoryEnd, far: MemoryEnd) -> None:
        self.link = Link(near, far, lambda: self.delays.pop(0) if self.delays else 0.0, self.tap)

    def tap(self, direction: str, data: memoryview) -> None:
        self.heard.append((direction, bytes(data)))


Story = Callable[[Pair], Coroutine[Any, Any, None]]


def play(story: Story) -> None:
    async def main() -> None:
        pair, gate = Pair(), Gate()

        def arrived(slot: Any) -> Keeper:
            slot.leave()
            pair.far = Keeper()
            return pair.far

        listener = await MemoryTransport().listen(ADDRESS, arrived, gate=gate, identity=None)
        intercept(ADDRESS, pair.met)
        _, pair.near = await MemoryTransport().connect(ADDRESS, Keeper, peer=Peer())
        await story(pair)
        pair.link.cut()
        await asyncio.sleep(0.1)
        assert pair.near.lost
        assert pair.far.lost
        await listener.aclose()

    with asyncio.Runner(loop_factory=VirtualLoop, debug=False) as runner:
        runner.run(main())


def test_what_is_sent_arrives_late_and_in_order() -> None:
    async def story(pair: Pair) -> None:
        pair.delays = [0.5, 0.1, 2.0]
        for data in (b"a", b"b", b"c"):
            pair.near.transport.write(data)
        pair.far.transport.write(b"down")
        await asyncio.sleep(10)
        assert pair.far.got == [(0.5, b"a"), (0.5, b"b"), (2.0, b"c")]
        assert pair.near.got == [(0.0, b"down")]
        # Of what goes up it is told when it arrives.
        assert pair.heard == [("down", b"down"), ("up", b"a"), ("up", b"b"), ("up", b"c")]

    play(story)


def test_what_is_sent_to_an_end_that_is_gone_is_heard_and_lost() -> None:
    async def story(pair: Pair) -> None:
        with pair.link.black_hole():
            pair.near.transport.abort()
            await asyncio.sleep(5)
            assert pair.near.lost
            # Whoever sends it can't know.
            pair.far.transport.write(b"a")
            assert not pair.far.lost
        await asyncio.sleep(1)
        assert pair.far.lost
        assert (pair.heard, pair.near.got) == ([("down", b"a"), ("up", b"")], [])

    play(story)


def test_a_black_hole_holds_everything_up_also_the_end() -> None:
    async def story(pair: Pair) -> None:
        with pair.link.black_hole():
            pair.near.transport.write(b"a")
            pair.far.transport.write(b"b")
            await asyncio.sleep(5)
            pair.near.transport.close()
            await asyncio.sleep(5)
            assert pair.near.lost
            assert not pair.far.lost
            assert pair.link.is_open
            assert (pair.far.got, pair.near.got) == ([], [])
        await asyncio.sleep(1)
        assert pair.far.got == [(10.0, b"a")]
        assert pair.far.lost
        assert not pair.link.is_open

    play(story)


def test_a_slow_link_takes_its_time_and_then_is_as_before() -> None:
    async def story(pair: Pair) -> None:
        with pair.link.slowed(1.0, rate=100.0):
            pair.near.transport.write(b"x" * 200)
            pair.near.transport.write(b"y" * 100)
            await asyncio.sleep(10)
        pair.near.transport.write(b"z")
        await asyncio.sleep(1)
        assert [time for time, _ in pair.far.got] == [3.0, 5.0, 10.0]

    play(story)


def test_who_does_not_read_is_not_written_to_for_ever() -> None:
    async def story(pair: Pair) -> None:
        with pair.link.not_read():
            pair.far.transport.write(b"x" * 1000)
            pair.near.transport.write(b"y")
            await asyncio.sleep(1)
            assert pair.far.got == [(0.0, b"y")]
            assert pair.far.transport.get_write_buffer_size() == 1000
        await asyncio.sleep(1)
        assert pair.near.got == [(1.0, b"x" * 1000)]
        assert pair.far.transport.get_write_buffer_size() == 0

    play(story)


def test_a_cut_loses_what_is_on_its_way() -> None:
    async def story(pair: Pair) -> None:
        pair.delays = [5.0]
        pair.near.transport.write(b"late")
        pair.link.cut()
        await asyncio.sleep(10)
        assert pair.far.got == []
        assert pair.far.lost
        pair.near.transport.write(b"never")

    play(story)


def test_bytes_of_somebody_else() -> None:
    async def story(pair: Pair) -> None:
        pair.link.send_up(b"forged")
        await asyncio.sleep(1)
        assert pair.far.got == [(0.0, b"forged")]
        pair.near.transport.close()
        pair.link.send_up(b"too late")

    play(story)


@pytest.mark.parametrize("address", [ADDRESS, "memory://", "tls://somewhere"])
def test_nobody_to_intercept(address: str) -> None:
    async def main() -> None:
        with pytest.raises(AddressError):
            intercept(address, lambda near, far: None)

    asyncio.run(main())
