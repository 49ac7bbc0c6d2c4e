"""Work that a cancelled wait does not leave behind."""

from __future__ import annotations

import asyncio

import pytest

from aioparallel.finishing import finished


async def work(done: list[str]) -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    done.append("work")


@pytest.mark.parametrize("cancels", [0, 1, 3])
def test_it_waits_for_the_end_however_often_it_is_cancelled(cancels: int) -> None:
    async def wait(done: list[str]) -> None:
        try:
            await finished(asyncio.ensure_future(work(done)))
        finally:
            done.append("wait")

    async def main() -> None:
        done: list[str] = []
        waiting = asyncio.ensure_future(wait(done))
        for _ in range(cancels):
            await asyncio.sleep(0)
            waiting.cancel()
        await asyncio.wait([waiting])
        assert done == ["work", "wait"]
        assert waiting.cancelled() == bool(cancels)

    asyncio.run(main())


def test_a_time_limit_sees_that_it_was_its_cancel() -> None:
    async def main() -> None:
        done: list[str] = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await finished(asyncio.ensure_future(work(done)))
        assert done == ["work"]

    asyncio.run(main())


def test_it_raises_what_the_work_does_unless_it_is_cancelled() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("bad")

    async def main() -> None:
        with pytest.raises(ValueError, match="bad"):
            await finished(asyncio.ensure_future(fail()))
        waiting = asyncio.ensure_future(finished(asyncio.ensure_future(fail())))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()

    asyncio.run(main())
