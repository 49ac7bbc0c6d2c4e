"""What settles the future of a call, on futures of both faces, with no controller in sight."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
from typing import Any

import pytest

from aioparallel.errors import ConnectionLost, InvalidEngineID, TaskAborted, to_plain
from aioparallel.handle import Handle, TaskHandle
from aioparallel.receipt import WAITING, Receipt
from aioparallel.settling import Postponed, fail, plain_value, settle, tell
from aioparallel.wire import LAST, NO_ENGINE, TRIED, Frame, Kind, Status


def answer(value: Any = None, *, code: int = Status.OK, engine: int = NO_ENGINE, flags: int = LAST) -> Frame:
    body = json.dumps(value).encode()
    return Frame(len(body), Kind.RESULT, flags, code, 1, engine, 0, len(body), [body])


def futures() -> list[Any]:
    """Return one of each face."""
    return [Handle(), concurrent.futures.Future()]


class Connected:
    """Stands in for the channel of a task that is taken back."""

    def withdraw(self, number: int) -> None:
        pass


def test_an_answer_is_the_value() -> None:
    async def main() -> None:
        for future in futures():
            settle(future, plain_value, [answer([1, 2], engine=3)])
            assert future.result() == [1, 2]
            assert future.answers == (3, Status.OK, b"[1, 2]")

    asyncio.run(main())


def test_of_several_answers_each_is_noted_and_no_payload_kept() -> None:
    async def main() -> None:
        for future in futures():
            frames = [answer("a", engine=0, flags=0), answer("b", engine=1)]
            settle(future, lambda frames: [frame.json() for frame in frames], frames)
            assert future.result() == ["a", "b"]
            assert future.answers == [(0, Status.OK, b'"a"'), (1, Status.OK, b'"b"')]

    asyncio.run(main())


def test_how_often_it_was_tried_is_noted_and_no_part_of_the_status() -> None:
    async def main() -> None:
        future = Handle()
        settle(future, plain_value, [answer(5, code=2 * TRIED + Status.OK, engine=0)])
        assert await future == 5
        assert future.answers == (0, 2 * TRIED + Status.OK, b"5")

    asyncio.run(main())


def test_what_the_controller_refused_is_raised_as_itself() -> None:
    async def main() -> None:
        for future in futures():
            settle(future, plain_value, [answer(to_plain(InvalidEngineID("there is no engine 9")), code=Status.FAULT)])
            with pytest.raises(InvalidEngineID, match="no engine 9"):
                future.result()

    asyncio.run(main())


def test_a_withdrawn_call_is_cancelled() -> None:
    async def main() -> None:
        for future in futures():
            settle(future, plain_value, [answer(code=Status.CANCELLED)])
            assert future.cancelled()

    asyncio.run(main())


def test_what_finishing_raises_is_the_error_and_who_postpones_settles_later() -> None:
    def finish(frames: list[Frame]) -> Any:
        raise Postponed if frames[0].json() else ZeroDivisionError

    async def main() -> None:
        for future in futures():
            settle(future, finish, [answer(True)])
            assert not future.done()
            settle(future, finish, [answer(False)])
            with pytest.raises(ZeroDivisionError):
                future.result()

    asyncio.run(main())


def test_one_that_was_cancelled_in_between_stays_so() -> None:
    async def main() -> None:
        for future in futures():
            future.cancel()
            settle(future, plain_value, [answer(1)])
            settle(future, plain_value, [answer(to_plain(InvalidEngineID("none")), code=Status.FAULT)])
            assert future.cancelled()
            assert not fail(future, ConnectionLost("gone"))

    asyncio.run(main())


def test_failing_says_whether_it_was_the_first_to_tell() -> None:
    async def main() -> None:
        for future in futures():
            assert fail(future, ConnectionLost("gone"))
            assert not fail(future, ConnectionLost("again"))
            assert str(future.exception()) == "gone"

    asyncio.run(main())


def test_the_future_of_a_cancelled_task_hears_how_that_ended() -> None:
    async def main() -> None:
        aborted = answer(to_plain(TaskAborted("ended", step="kill", seconds=4.0)), code=Status.FAULT)
        for last, receipt in [
            (answer(1), Receipt("finished", 0.0)),
            (answer(code=Status.CANCELLED), WAITING),
            (aborted, Receipt("kill", 4.0)),
        ]:
            task = TaskHandle()
            task.sent(Connected(), 1)
            assert task.cancel()
            settle(task, plain_value, [last])
            assert task.receipt == receipt
            # Nobody else is told, and no one twice.
            tell(task, WAITING)
            assert task.receipt == receipt
        tell(concurrent.futures.Future(), WAITING)

    asyncio.run(main())
