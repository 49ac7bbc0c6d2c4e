"""Virtual time: what waits for it gets it, in order, and at no cost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from aioparallel.errors import ConfigurationError
from aioparallel.testing.clock import VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    loop.set_debug(False)
    yield loop
    loop.close()


def test_time_passes_when_everybody_waits(loop: VirtualLoop) -> None:
    async def main() -> list[tuple[str, float]]:
        seen: list[tuple[str, float]] = []

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append((name, loop.time()))

        await asyncio.gather(sleeper("day", 86400.0), sleeper("hour", 3600.0), sleeper("week", 604800.0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1e6):
                await loop.create_future()
        return seen

    assert loop.run_until_complete(main()) == [("hour", 3600.0), ("day", 86400.0), ("week", 604800.0)]
    assert loop.time() == 604800.0 + 1e6


def test_nobody_waits_for_ever(loop: VirtualLoop) -> None:
    async def main() -> None:
        await loop.create_future()

    task = loop.create_task(main())
    with pytest.raises(RuntimeError, match="nothing is left that could happen"):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_nobody_goes_round_for_ever(loop: VirtualLoop) -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    task = loop.create_task(main())
    with pytest.raises(RuntimeError, match="no time has passed"):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_it_runs_until_it_is_idle(loop: VirtualLoop) -> None:
    fired: list[str] = []
    loop.call_later(5, fired.append, "late")
    loop.call_later(100, fired.append, "too late")
    loop.call_later(7, fired.append, "cancelled").cancel()
    assert not loop.run_until_idle(50)
    assert fired == ["late"]
    assert [timer.when() for timer in loop.timers] == [100]
    assert loop.run_until_idle(1000)
    assert fired == ["late", "too late"]
    assert loop.time() == 100


def test_there_is_no_outside_world(loop: VirtualLoop) -> None:
    async def main() -> None:
        with pytest.raises(ConfigurationError, match="one thread"):
            await loop.run_in_executor(None, print)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            with pytest.raises(ConfigurationError, match="no sockets"):
                await loop.sock_recv(ours, 1)
        loop.call_soon_threadsafe(print)

    loop.run_until_complete(main())


def test_sets_of_tasks_have_an_order() -> None:
    def order() -> list[int]:
        loop = VirtualLoop()
        try:
            tasks = [loop.create_task(asyncio.sleep(0), name=str(number)) for number in range(50)]
            loop.run_until_complete(asyncio.wait(tasks))
            futures = [loop.create_future() for _ in range(50)]
            return [tasks.index(task) for task in set(tasks)] + [futures.index(future) for future in set(futures)]
        finally:
            loop.close()

    first = order()
    garbage = [object() for _ in range(1000)]
    assert order() == first
    del garbage
