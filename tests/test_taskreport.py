"""What is told of tasks: ids, results that nobody waited for, counts, lists and reasons."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model import ModelHost, settle
from rawtasks import argument, check, of, run

from aioparallel.capability import Capability
from aioparallel.errors import DependencyError, InvalidEngineID, InvalidTaskID, OperationError, ResultGone, TaskAborted
from aioparallel.testing.clock import VirtualLoop
from aioparallel.wire import Limits


def double(x: Any) -> Any:
    return 2 * x


def fail() -> None:
    raise ValueError("no")


def test_a_result_is_there_for_whoever_asks_and_once():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        number = await raw.run(double, 4)
        assert number == 0
        assert await raw.result(0) == [None]
        waiting = [raw.result(0, block=True) for _ in range(2)]
        await settle()
        host.step()
        for about, value in await asyncio.gather(*waiting):
            assert value == 8
            assert (about["task"], about["engine"]) == (0, 0)
            assert about["submitted"] <= about["completed"]
        assert "result of task 0 has been delivered" in str(await raw.result(0, block=True).last())
        assert type(await raw.result(1).last()) is InvalidTaskID
        assert type(await raw.result(-1).last()) is InvalidTaskID
        bad = await raw.call("get_task_result", b'{"task": "0"}').last()
        assert type(bad) is OperationError

    run(story, 1, eager=False)


def test_a_failure_is_a_result_too():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        first = await raw.run(fail)
        second = await raw.run(double, argument(0), arguments=of(first)["of"])
        third = await raw.run(double, 1, after=of(first, success=False, failure=True))
        about, error = await raw.result(first, block=True)
        assert isinstance(error, ValueError)
        about, dependency, cause = await raw.result(second, block=True)
        assert (about["engine"], type(dependency), type(cause)) == (None, DependencyError, ValueError)
        assert (await raw.result(third, block=True))[1] == 2

    run(story)


def test_values_of_tasks_of_nobody_are_arguments_as_long_as_they_are_kept():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        number = await raw.run(double, 4)
        await raw.ask("barrier", tasks=[number])
        assert await raw.submit(double, argument(0), arguments=of(number)["of"]) == [16]
        assert (await raw.result(number))[1] == 8
        gone = await raw.submit(double, argument(0), arguments=of(number)["of"]).last()
        assert type(gone) is ResultGone
        assert await raw.submit(double, 1, after=of(number)) == [2]
        after_failure = raw.submit(double, 1, after=of(number, success=False, failure=True))
        assert "task 0 was to fail before, and has succeeded" in str(await after_failure.last())
        assert type(await raw.submit(double, 1, after=of(99)).last()) is InvalidTaskID

    run(story)


def test_results_are_freed_by_size():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        numbers = [await raw.run(bytes, 3000) for _ in range(3)]
        await raw.ask("barrier")
        assert "newer ones needed it" in str(await raw.result(numbers[0]).last())
        held = (await raw.ask("queue_status", verbose=True))["held"]
        assert held["results"] == 2
        assert 6000 < held["bytes"] <= 10_000

    run(story, limits=Limits(results=10_000))


def test_results_are_freed_by_time():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        number = await raw.run(double, 1)
        await raw.ask("barrier")
        async with asyncio.timeout(10):
            while len(tasks.ledger):
                await asyncio.sleep(0.01)
        assert "it was kept for 0.05 s" in str(await raw.result(number).last())

    run(story, limits=Limits(result_ttl=0.05), loop=VirtualLoop)


def test_counts_and_lists():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        host.seconds = 1.0
        done, bad = raw.submit(double, 1), raw.submit(fail)
        await settle()
        host.step()
        await done
        await settle()
        host.step()
        await bad
        running, waiting, number = raw.submit(double, 2), raw.submit(double, 3), await raw.run(double, 4)
        child = raw.submit(double, 5, after=of(running))
        assert await raw.ask("queue_status") == {"scheduled": 3, "pending": 1, "succeeded": 1, "failed": 1}
        lists = await raw.ask("queue_status", verbose=True)
        assert lists == {
            "scheduled": [3, number, 5],
            "pending": [2],
            "succeeded": [0],
            "failed": [1],
            "held": {"bytes": 0, "results": 0},
        }
        report = await raw.ask("tasks")
        assert [task["id"] for task in report["running"]] == [2]
        assert [task["id"] for task in report["waiting"]] == [3, 4, 5]
        assert report["running"][0]["engine"] == 0
        assert report["running"][0]["seconds"] >= 0
        assert [(f["id"], f["label"], f["why"]) for f in report["failed"]] == [
            (1, "fail", "its code raised an exception")
        ]
        assert raw.controller.status()["reports"]["task"]["counts"] == report["counts"]
        assert await raw.ask("clear") == 2
        assert await raw.ask("queue_status") == {"scheduled": 3, "pending": 1, "succeeded": 0, "failed": 0}
        host.eager = True
        while host.waiting:
            host.step()
        await asyncio.gather(running, waiting, child)
        await raw.ask("barrier", tasks=[number])
        assert await raw.ask("clear", tasks=[number, number]) == 1
        assert await raw.ask("clear", tasks=[number]) == 0
        with pytest.raises(InvalidTaskID):
            await raw.ask("clear", tasks=[77])
        with pytest.raises(OperationError, match=r"argument tasks is the str 'all'; expected list\[int\] \| None"):
            await raw.ask("barrier", tasks="all")
        await raw.ask("spin")

    run(story, 1, eager=False)


def test_why():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        host.stubborn = True
        running = raw.submit(double, 1)
        others = [raw.submit(double, 1, label="") for _ in range(2)]
        one, two, three = (raw.submit(double, 1, after=of(running, *others[:n])) for n in range(3))
        elsewhere = raw.submit(double, 1, resources={"gpu": 1})
        number = await raw.run(fail, engines=[0])
        await settle()

        async def why(call: Any) -> str:
            return str(await raw.ask("why", **({"task": call} if isinstance(call, int) else {"call": call.number})))

        assert (await why(running)).startswith("task 0 (double): ")
        assert "engine 0" in await why(running)
        assert await why(one) == "task 3 (double): it waits for task 0 (double)"
        assert await why(two) == "task 4 (double): it waits for task 0 (double) and task 1"
        assert await why(three) == "task 5 (double): it waits for task 0 (double) and 2 others"
        assert "gpu" in await why(elsewhere)
        assert await why(7) == await why(number)
        assert await why(3) == await why(one)
        aborted = raw.tc._operate("abort", call=running.number)
        await settle()
        assert "it is being taken back from engine 0" in await why(running)
        raw.cancel(elsewhere)
        assert type(await elsewhere.last()) is TaskAborted
        host.eager = True
        while host.waiting:
            host.step()
        await asyncio.gather(running, *others, one, two, three, aborted)
        await raw.ask("barrier")
        assert await why(number) == f"task {number}: it has failed"
        assert await why(0) == "task 0: it is over"
        assert await why(running) == "it is over"
        with pytest.raises(InvalidTaskID, match="ids so far are 0 to 7"):
            await why(8)

    run(story, 1, eager=False)


def test_a_question_that_is_withdrawn_leaves_nothing():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        number = await raw.run(double, 4)
        question = raw.result(number, block=True)
        barrier = raw.tc._operate("barrier", tasks=[number])
        await settle()
        assert len(tasks._waiters) == 1
        raw.cancel(question)
        barrier.cancel()
        await settle()
        assert tasks._waiters == {}
        host.step()
        assert (await raw.result(number, block=True))[1] == 8
        question.set_result([])

    run(story, 1, eager=False)


def test_a_capability_reaches_the_engines_and_tasks_that_it_is_for():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        from rawtasks import Raw

        import aioparallel

        capability: Capability = raw.controller.capability("task")
        async with aioparallel.TaskClient(capability.narrow("engines=1")) as tc:
            narrow = Raw(tc)
            calls = [narrow.submit(double, i, operation="submit") for i in range(3)]
            calls += [narrow.submit(double, i) for i in range(3)]
            await asyncio.gather(*calls)
            assert {call.engine for call in calls} == {1}
            nowhere = await narrow.submit(double, 1, engines=[0]).last()
            assert type(nowhere) is InvalidEngineID
            assert "this capability does not reach the engines 0" in str(nowhere)
            assert await narrow.submit(double, 1, engines=[0, 1]) == [2]

    run(story, 2)


def test_engines_that_do_not_exist_are_refused_unless_one_does():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        nowhere = await raw.submit(double, 1, engines=[7, 5]).last()
        assert type(nowhere) is InvalidEngineID
        assert str(nowhere) == "there is no engine 5, 7, and this task may run nowhere else; engines: 0, 1"
        assert await raw.submit(double, 1, engines=[1, 7]) == [2]

    run(story, 2)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_task_is_in_one_state_at_every_moment(data: st.DataObject):
    steps = st.sampled_from(
        ["submit", "child", "run", "bad", "cancel", "abort", "step", "step", "fall", "ask", "clear"]
    )

    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        calls: list[Any] = []
        asked: list[Any] = []
        for step in data.draw(st.lists(steps, max_size=25)):
            place = data.draw(st.integers(0, 5))
            if step in ("submit", "bad"):
                f = (fail,) if step == "bad" else (double, 1)
                calls.append(raw.submit(*f, retries=place % 3, priority=place))
            elif step == "run":
                asked.append(asyncio.ensure_future(raw.submit(double, 2, operation="run", retries=1).last()))
            elif step == "child" and calls:
                kind = {"all": place > 2, "failure": place % 2 == 0}
                calls.append(raw.submit(double, 1, after=of(*calls[-place or -1 :], **kind)))
            elif step == "cancel" and calls:
                raw.cancel(calls[place % len(calls)])
            elif step == "abort" and calls:
                asked.append(asyncio.ensure_future(raw.ask("abort", call=calls[place % len(calls)].number)))
            elif step == "step" and host.waiting:
                host.step(place % len(host.waiting))
            elif step == "fall" and not host.down:
                host.fall(place % 2)
                check(tasks)
                await settle(place)
                host.rise(place % 2)
            elif step == "ask":
                asked.append(raw.result(place, block=place > 2))
            elif step == "clear":
                asked.append(raw.tc._operate("clear"))
            for _ in range(place):
                await asyncio.sleep(0)
                check(tasks)
        host.eager = True
        await settle()
        while host.waiting:
            host.step()
            await settle()
        for call in calls:
            assert await asyncio.wait_for(call, 10)
        await asyncio.gather(*asked, return_exceptions=True)
        check(tasks)

    run(story, 2, eager=False)
