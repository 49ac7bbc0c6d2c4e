"""Writing what waits: as much as the transport takes, not for too long at a time, and when it is too much."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pieces import flat
from recorder import Recorder

from aioparallel.drain import TAKES, Drain
from aioparallel.wire import PIECE, Kind, Limits, encode, size_of


def frame(number: int = 1, size: int = 0) -> list[Any]:
    return encode(Kind.CALL, number, buffers=[bytes(size)])


class Told:
    """A drain, its transport, and what it has told."""

    def __init__(self, limits: Limits | None = None, transport: Recorder | None = None) -> None:
        self.weighed: list[bool] = []
        self.drain = Drain(limits or Limits(), self.weighed.append)
        self.transport = transport or Recorder()
        self.drain.begin(self.transport)

    def put(self, pieces: list[Any]) -> None:
        self.drain.outbox.put(pieces)
        self.drain.go_on()

    @property
    def written(self) -> bytes:
        return b"".join(self.transport.pieces)


def on_a_loop(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test within a loop, without a turn of it."""

    async def within(*args: Any) -> None:
        test(*args)

    def run() -> None:
        asyncio.run(within())

    run.__name__ = test.__name__
    return run


@on_a_loop
def test_what_a_paused_transport_does_not_take_waits_for_it() -> None:
    told = Told()
    told.drain.pause()
    told.put(frame(1, 10))
    told.put(frame(2, 20))
    assert told.transport.pieces == []
    assert repr(told.drain) == f"<Drain paused, {told.drain.outbox.size} bytes to write>"
    told.drain.resume()
    assert told.written == flat([*frame(1, 10), *frame(2, 20)])
    assert repr(told.drain) == "<Drain flowing, 0 bytes to write>"


def test_one_turn_writes_so_much_and_the_next_goes_on() -> None:
    async def main() -> None:
        told = Told()
        told.put(frame(1, 20 * PIECE))
        begun = len(told.written)
        assert PIECE < begun <= (TAKES + 1) * PIECE
        await asyncio.sleep(0)
        assert begun < len(told.written) <= 2 * begun + PIECE
        while told.drain.outbox:
            await asyncio.sleep(0)
        assert told.weighed == []

    asyncio.run(main())


@on_a_loop
def test_outbox_is_congested_above_its_limit_and_drained_at_half() -> None:
    told = Told(Limits(outbox=10_000))
    told.drain.pause()
    sent = 0
    while not told.weighed:
        told.put(frame(1, 1000))
        sent += 1024
        assert sent < 20_000
    # One frame above the limit, and no more: the producer sees it in time.
    assert 10_000 < told.drain.outbox.size <= 10_000 + 1024
    assert told.transport.pieces == []
    assert told.weighed == [True]
    told.drain.resume()
    assert told.weighed == [True, False]
    assert told.drain.outbox.size == 0
    assert size_of(told.transport.pieces) == sent


def test_drained_waits_for_half_of_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Recorder):
        def write(self, data: Any) -> None:
            super().write(data)
            told.drain.pause()

    async def main() -> None:
        nonlocal told
        told = Told(Limits(outbox=4 * 50_024), Slow())
        told.drain.pause()
        for _ in range(6):
            told.put(frame(1, 50_000))
        monkeypatch.setattr(told.drain.outbox, "_piece", 1)
        seen = []
        while told.drain.outbox.size:
            told.drain.resume()
            seen.append((told.drain.outbox.size // 50_024, told.weighed[-1], told.weighed.count(False)))
        assert seen == [(5, True, 0), (4, True, 0), (3, True, 0), (2, False, 1), (1, False, 1), (0, False, 1)]

    told: Told = None  # type: ignore[assignment]
    asyncio.run(main())


@on_a_loop
def test_what_waits_elsewhere_weighs_as_well() -> None:
    told = Told(Limits(outbox=10_000))
    told.drain.pause()
    told.drain.weigh(9_000)
    assert told.weighed == []
    told.put(frame(1, 1_500))
    assert told.weighed == [True]
    told.drain.weigh(-3_000)
    told.drain.weigh(-2_000)
    assert told.weighed == [True]
    told.drain.weigh(-2_000)
    assert told.weighed == [True, False]


@on_a_loop
def test_a_transport_is_stuck_that_is_paused_and_gets_rid_of_nothing() -> None:
    told = Told(Limits(stuck=30.0))
    told.transport.waiting = 5
    assert not told.drain.is_stuck(0.0)
    told.drain.pause()
    assert not any(told.drain.is_stuck(now) for now in (100.0, 120.0, 130.0))
    told.transport.waiting = 4
    assert not any(told.drain.is_stuck(now) for now in (135.0, 165.0))
    assert told.drain.is_stuck(165.1)
    # Once it has taken some, it is waited for anew.
    told.drain.resume()
    told.drain.pause()
    assert not told.drain.is_stuck(200.0)
    told.drain.end()
    assert not told.drain.is_stuck(500.0)


@on_a_loop
def test_who_closes_is_told_when_nothing_waits_any_more() -> None:
    told, emptied = Told(), []
    told.drain.pause()
    told.put(frame(1))
    told.drain.finish(lambda: emptied.append(told.written))
    told.drain.go_on()
    assert emptied == []
    told.drain.resume()
    assert emptied == [flat(frame(1))]


def test_after_the_end_nothing_is_written_and_nobody_told() -> None:
    class Ending(Recorder):
        def write(self, data: Any) -> None:
            super().write(data)
            told.drain.end()

    async def main() -> None:
        nonlocal told
        told = Told(Limits(outbox=1000), Ending())
        told.put(frame(1, 20 * PIECE))
        assert size_of(told.transport.pieces) <= 2 * PIECE
        told.put(frame(2, 1000))
        told.drain.resume()
        await asyncio.sleep(0)
        assert size_of(told.transport.pieces) <= 2 * PIECE
        assert told.weighed == []

    told: Told = None  # type: ignore[assignment]
    asyncio.run(main())
