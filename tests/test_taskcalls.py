"""What can be asked about tasks, on model engines: results, states, reasons, ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from model import ModelHost, model_cluster, play, settle

import aioparallel
from aioparallel import MapTask, Receipt, StringTask
from aioparallel.errors import InvalidTaskID, ResultGone, TaskAborted


def double(x: int) -> int:
    return 2 * x


def boom(*_: Any) -> Any:
    raise ValueError("boom")


def test_a_result_is_there_once_for_whoever_asks() -> None:
    async def main() -> None:
        async with model_cluster(1) as (controller, _):
            capability = controller.capability("task")
            async with aioparallel.TaskClient(capability) as tc, aioparallel.TaskClient(capability) as other:
                number = await tc.run(StringTask("b = 2 * a; print('hi')", pull="b", push={"a": 4}))
                result = await other.get_task_result(number, block=True)
                assert (result.taskid, result.engineid, result["b"], result.ns.b, result.failure) == (0, 0, 8, 8, None)
                assert result.submitted <= result.completed
                assert result.duration == 0.001
                with pytest.raises(ResultGone, match="delivered"):
                    await tc.get_task_result(number)
                with pytest.raises(InvalidTaskID):
                    await tc.get_task_result(4711)

    asyncio.run(main())


def test_none_stands_for_a_result_that_is_not_there() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        number = await tc.run(MapTask(double, (4,)))
        assert await tc.get_task_result(number) is None
        waiting = tc.get_task_result(number, block=True)
        await settle()
        assert not waiting.done()
        host.step()
        assert (await waiting).results == 8

    play(story, "task", 1, eager=False)


def test_failures_are_in_the_result() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        result = await tc.run(MapTask(boom), block=True)
        assert type(result.failure) is ValueError
        assert "boom" in result.failure.__notes__[0]
        with pytest.raises(ValueError, match="boom"):
            _ = result.results
        failing = await tc.run(MapTask(boom))
        child = await tc.options(after=failing).run(MapTask(double, (1,)), block=True)
        assert isinstance(child.failure, aioparallel.DependencyError)
        assert type(child.failure.__cause__) is ValueError
        assert (child.engineid, child.duration) == (None, None)

    play(story, "task", 1)


def test_abort_ends_what_waits_and_what_runs() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        running, waiting, number = tc.submit(double, 1), tc.submit(double, 2), await tc.run(MapTask(double, (3,)))
        await settle()
        assert await tc.abort(number) == Receipt("waiting", 0.0)
        assert await tc.abort(waiting) == Receipt("waiting", 0.0)
        receipt = await tc.abort(running)
        assert receipt.step == "interrupt"
        for task in (running, waiting):
            with pytest.raises(TaskAborted):
                await task
        assert isinstance((await tc.get_task_result(number)).failure, TaskAborted)
        assert await tc.abort(running) == Receipt("finished", 0.0)
        with pytest.raises(InvalidTaskID):
            await tc.abort(4711)
        with pytest.raises(InvalidTaskID, match="ids are numbers from 0 on"):
            tc.abort(-1)
        with pytest.raises(TypeError, match="by its id or by its future, not by 'all'"):
            tc.abort("all")

    play(story, "task", 1, eager=False)


def test_why_says_it_in_a_sentence() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        running, waiting = tc.submit(double, 1), tc.submit(double, 2)
        # The question leaves with the tasks, and comes before anything is decided.
        first, second = tc.why(running), tc.why(waiting)
        assert (await first, await second) == (
            "task 0 (double): engine 0 has it",
            "task 1 (double): every engine is busy",
        )
        child = tc.submit(double, waiting)
        await settle()
        assert await tc.why(running) == "task 0 (double): engine 0 has it"
        assert await tc.why(child) == "task 2 (double): it waits for task 1 (double)"
        assert await tc.why(1) == "task 1 (double): every engine is busy"
        host.step()
        await running
        assert await tc.why(running) == "it has ended"
        waiting.cancel()
        assert await tc.why(waiting) == "it was cancelled"
        await settle()
        with pytest.raises(InvalidTaskID):
            await tc.why(99)

    play(story, "task", 1, eager=False)


def test_tasks_of_another_client_are_that_ones_to_ask() -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, _):
            capability = controller.capability("task")
            async with aioparallel.TaskClient(capability) as tc, aioparallel.TaskClient(capability) as other:
                task = tc.submit(double, 1)
                with pytest.raises(TypeError, match="is of another client: ask that one"):
                    other.why(task)
                task.cancel()

    asyncio.run(main())


def test_barrier_waits_for_ids_and_futures() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        first, failing, number = tc.submit(double, 1), tc.submit(boom), await tc.run(MapTask(double, (3,)))
        await settle()
        some, every, one = tc.barrier([first, number]), tc.barrier(), tc.barrier(number, timeout=10)
        await settle()
        with pytest.raises(TimeoutError):
            await tc.barrier([number], timeout=0.001)
        assert not any(waiting.done() for waiting in (some, every, one))
        while host.waiting:
            host.step()
            await settle()
        assert await some is await every is await one is None
        assert failing.done()
        with pytest.raises(ValueError, match="boom"):
            await failing
        await tc.barrier()
        await tc.barrier([])
        with pytest.raises(InvalidTaskID):
            await tc.barrier([first, 4711])
        with pytest.raises(TypeError, match="barrier waits for tasks, told by their ids or futures, not for 'all'"):
            await tc.barrier("all")

    play(story, "task", 1, eager=False)


def test_every_task_is_counted_once_and_can_be_cleared() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        first, failing = tc.submit(double, 1), tc.submit(boom)
        number = await tc.run(MapTask(double, (3,)))
        await settle()
        assert await tc.queue_status() == {"scheduled": 2, "pending": 1, "succeeded": 0, "failed": 0}
        while host.waiting:
            host.step()
            await settle()
        assert (await first, await asyncio.wait([failing])) is not None
        failing.exception()
        assert await tc.spin() is None
        assert await tc.queue_status() == {"scheduled": 0, "pending": 0, "succeeded": 2, "failed": 1}
        verbose = await tc.queue_status(verbose=True)
        assert (verbose["succeeded"], verbose["failed"]) == ([0, 2], [1])
        assert verbose["held"]["results"] == 1
        assert await tc.clear(number) == 1
        assert await tc.clear() == 2
        assert await tc.queue_status() == {"scheduled": 0, "pending": 0, "succeeded": 0, "failed": 0}
        with pytest.raises(InvalidTaskID):
            await tc.clear([4711])
        with pytest.raises(TypeError, match="a task is told by its id"):
            tc.clear([first])
        for wrong in (first, 1.5, "all"):
            with pytest.raises(TypeError, match="a task is told by its id"):
                tc.clear(wrong)

    play(story, "task", 1, eager=False)


def test_futures_come_in_the_order_of_their_ends() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        tasks = [tc.submit(double, i) for i in range(3)]
        await settle()
        seen = []

        async def look() -> None:
            seen.extend([await task async for task in tc.as_completed([*tasks, tasks[0]])])

        looking = asyncio.ensure_future(look())
        for place in (2, 0, 0):
            await settle()
            host.step(place)
        await looking
        assert sorted(seen) == [0, 2, 4]
        assert seen[0] != min(seen)
        late = tc.submit(double, 4)
        some = tc.as_completed([tasks[0], late], timeout=0.01)
        assert await anext(some) is tasks[0]
        with pytest.raises(TimeoutError, match="1 of 2 calls have not ended after"):
            await anext(some)
        with pytest.raises(TypeError, match="as_completed is for handles"):
            await anext(tc.as_completed([asyncio.get_running_loop().create_future()]))
        late.cancel()
        await late.wait_receipt()

    play(story, "task", 3, eager=False)
