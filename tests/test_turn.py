"""When what was sent leaves: together at the end of a turn, at once for a lone frame, and whatever the others do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from runners import RUNNERS

from aioparallel import turn as turn_module
from aioparallel.turn import Turn


@RUNNERS
def test_what_is_due_in_one_turn_leaves_at_its_end(run: Any) -> None:
    async def main() -> None:
        turn, done = Turn.of_running_loop(), list[str]()
        assert Turn.of_running_loop() is turn
        turn.due(lambda: done.append("one"))
        turn.due(lambda: done.append("other"))
        assert repr(turn) == "<Turn with 2 flushes due>"
        assert done == []
        await asyncio.sleep(0)
        assert done == ["one", "other"]
        # The next turn is another one.
        turn.due(lambda: done.append("late"))
        assert done == ["one", "other"]
        await asyncio.sleep(0)
        assert done == ["one", "other", "late"]

    run(main())


def test_each_loop_has_its_own() -> None:
    turns = [asyncio.run(_turn()), asyncio.run(_turn())]
    assert turns[0] is not turns[1]


async def _turn() -> Turn:
    return Turn.of_running_loop()


def test_a_lone_frame_is_answered_at_once() -> None:
    async def main() -> None:
        turn, done = Turn.of_running_loop(), list[Any]()

        def handle(frames: list[Any]) -> None:
            done.append(frames)
            turn.due(lambda: done.append("flushed"))

        turn.deliver(handle, ["lone"])
        assert done == [["lone"], "flushed"]
        turn.deliver(handle, ["first", "second"])
        assert done[2:] == [["first", "second"]]
        await asyncio.sleep(0)
        assert done[3:] == ["flushed"]

    asyncio.run(main())


def test_a_frame_delivered_while_one_is_handled_leaves_with_it() -> None:
    async def main() -> None:
        turn, done = Turn.of_running_loop(), list[str]()

        def inner(frames: list[Any]) -> None:
            turn.due(lambda: done.append("inner"))

        def outer(frames: list[Any]) -> None:
            turn.due(lambda: done.append("outer"))
            turn.deliver(inner, ["lone"])
            assert done == []

        turn.deliver(outer, ["lone"])
        assert done == ["outer", "inner"]

    asyncio.run(main())


def test_a_handler_that_raises_is_flushed_for_too() -> None:
    async def main() -> None:
        turn, done = Turn.of_running_loop(), list[str]()

        def fail(frames: list[Any]) -> None:
            turn.due(lambda: done.append("flushed"))
            raise ValueError("no such operation")

        with pytest.raises(ValueError, match="no such operation"):
            turn.deliver(fail, ["lone"])
        assert done == ["flushed"]
        # It is not held any more.
        turn.due(lambda: done.append("later"))
        await asyncio.sleep(0)
        assert done == ["flushed", "later"]

    asyncio.run(main())


def _raise(error: BaseException) -> Callable[[], None]:
    def flush() -> None:
        raise error

    return flush


@pytest.mark.parametrize("lone", [True, False])
def test_a_flush_that_raises_is_logged_and_the_others_leave(lone: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        turn, done = Turn.of_running_loop(), list[str]()

        def handle(frames: list[Any]) -> None:
            turn.due(lambda: done.append("first"))
            turn.due(_raise(OSError("broken")))
            turn.due(lambda: done.append("last"))

        turn.deliver(handle, ["lone"] if lone else ["one", "other"])
        await asyncio.sleep(0)
        assert done == ["first", "last"]

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    [record] = [record for record in caplog.records if record.name == "aioparallel.turn"]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "broken"


def test_ctrl_c_in_a_flush_goes_on_and_the_others_leave_next() -> None:
    async def main() -> None:
        turn, done = Turn.of_running_loop(), list[str]()

        def handle(frames: list[Any]) -> None:
            turn.due(_raise(KeyboardInterrupt()))
            turn.due(lambda: done.append("other"))

        with pytest.raises(KeyboardInterrupt):
            turn.deliver(handle, ["lone"])
        assert done == []
        await asyncio.sleep(0)
        assert done == ["other"]

    asyncio.run(main())


def test_closed_loops_are_forgotten():
    async def main() -> None:
        Turn.of_running_loop()

    for _ in range(5):
        asyncio.run(main())
    assert sum(loop.is_closed() for loop in turn_module._turns) <= 1
