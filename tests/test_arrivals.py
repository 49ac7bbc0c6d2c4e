"""What arrives one after the other: taken in order, told of in time, ended once, dropped by who has had enough."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest

from aioparallel.arrivals import KEPT, TELL, Arrivals, BlockingStream, Notices, Stream


def test_they_are_taken_in_order_and_their_sender_is_told() -> None:
    told: list[int] = []
    arrivals = Arrivals(taken=told.append)
    for i in range(100):
        arrivals.put(i)
    assert [arrivals.take() for _ in range(50)] == list(range(50))
    assert told == [TELL, 2 * TELL, 3 * TELL]
    assert [arrivals.take() for _ in range(50)] == list(range(50, 100))
    # Nothing is left: the sender may be waiting for just that.
    assert told[-1] == 100
    with pytest.raises(IndexError):
        arrivals.take()


def test_the_end_comes_after_what_came_before_it() -> None:
    arrivals = Arrivals()
    arrivals.put(1)
    arrivals.set_exception(KeyError("oops"))
    arrivals.put(2)
    arrivals.set_result(None)
    assert arrivals.take() == 1
    with pytest.raises(KeyError):
        arrivals.take()
    with pytest.raises(EOFError):
        arrivals.take()


def test_the_oldest_go_where_only_so_many_are_kept() -> None:
    arrivals = Arrivals(most=2)
    for i in range(5):
        arrivals.put(i)
    assert (arrivals.take(), arrivals.take(), arrivals.dropped) == (3, 4, 3)


def test_several_may_wait_and_none_is_forgotten() -> None:
    async def main() -> None:
        arrivals = Arrivals()
        first, second = (asyncio.create_task(_next(Stream(arrivals))) for _ in range(2))
        third = asyncio.create_task(_next(Stream(arrivals)))
        await asyncio.sleep(0)
        third.cancel()
        await asyncio.wait([third])
        assert len(arrivals._waiters) == 2
        arrivals.put(1)
        arrivals.put(2)
        assert sorted(await asyncio.gather(first, second)) == [1, 2]
        assert arrivals._waiters == []

    asyncio.run(main())


async def _next(stream: Stream[Any]) -> Any:
    value = await anext(stream)
    # Kept until the end: to drop a stream is to want no more of it.
    await asyncio.sleep(0)
    return value


def test_dropping_a_stream_says_so_once() -> None:
    for make in (Stream, lambda arrivals: BlockingStream(arrivals, None)):  # type: ignore[arg-type]
        gone: list[str] = []
        arrivals = Arrivals(gone=lambda: gone.append("gone"))  # noqa: B023
        stream = make(arrivals)
        arrivals.put(1)
        del stream
        gc.collect()
        arrivals.cancel()
        assert gone == ["gone"]
        with pytest.raises(EOFError):
            arrivals.take()
        ended = Arrivals(gone=lambda: gone.append("again"))  # noqa: B023
        ended.set_result(None)
        ended.cancel()
        assert gone == ["gone"]


def test_notices_that_nobody_takes_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices()
    for i in range(2 * KEPT):
        notices.hear(str(i).encode())
    opened = notices.open()
    assert opened.take() == KEPT
    for i in range(2 * KEPT):
        notices.hear(str(i).encode())
    assert opened.dropped == 2 * KEPT - 1
    assert opened.take() == KEPT
    with caplog.at_level(logging.WARNING):
        opened.cancel()
    assert f"{2 * KEPT - 1} notices were dropped" in caplog.text
    assert notices._open == []


def test_a_listener_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    notices, seen = Notices(), list[int]()

    def fail(value: int) -> None:
        raise ZeroDivisionError

    notices.listen(fail)
    notices.listen(seen.append)
    notices.hear(b"1")
    assert seen == [1]
    assert "a listener failed at a notice" in caplog.text
