"""Tasks that name others: which ones the controller is told of, which are judged here, and what happens in between."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from model import ModelHost, connect, model_cluster, play, settle

import aioparallel
from aioparallel import departures
from aioparallel.errors import (
    ConnectionLost,
    DependencyError,
    ParentsDelivered,
    SerializationError,
    TaskAborted,
)
from aioparallel.testing.rules import until
from aioparallel.wire import Limits

Dependency = aioparallel.Dependency


def double(x: int) -> int:
    return 2 * x


def boom(*_: Any) -> Any:
    raise ValueError("boom")


def add(*values: int) -> int:
    return sum(values)


def told(tc: Any) -> list[str]:
    """Note which operations are called."""
    operations: list[str] = []
    call = tc.channel.call

    def noted(operation: str, *args: Any, **options: Any) -> Any:
        operations.append(operation)
        return call(operation, *args, **options)

    tc.channel.call = noted
    return operations


def run_all(host: ModelHost) -> None:
    host.eager = True
    while host.waiting:
        host.step()


# Arguments


def test_values_go_from_engine_to_engine() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        operations = told(tc)
        first = tc.submit(double, 4)
        nested = tc.submit(lambda d: d["a"][0] + d["b"], {"a": [first], "b": first})
        last = tc.submit(add, first, nested, b := tc.submit(double, 1), b)
        assert await last == 8 + 16 + 2 + 2
        assert operations == ["submit", "submit_with", "submit", "submit_with"]

    play(story, "task")


def test_a_value_is_not_sent_that_is_there() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        sizes = []
        call = tc.channel.call

        def noted(*args: Any, **options: Any) -> Any:
            sizes.append(sum(map(len, options["buffers"])))
            return call(*args, **options)

        tc.channel.call = noted
        first = tc.submit(bytes, 100_000)
        assert await tc.submit(len, first) == 100_000
        assert max(sizes) < 1000

    play(story, "task")


def test_what_has_arrived_goes_along() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        operations = told(tc)
        first = tc.submit(double, 4)
        assert await first == 8
        assert await tc.submit(add, first, 1) == 9
        assert await tc.submit(lambda *, of: of[0], of=[first]) == 8
        assert operations == ["submit"] * 3

    play(story, "task")


def test_a_failed_parent_is_the_cause_wherever_it_is_judged() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        failing = tc.submit(boom)
        there = tc.submit(double, failing)
        grandchild = tc.submit(double, there)
        for child in (there, grandchild):
            with pytest.raises(DependencyError, match="can't run") as caught:
                await child
            assert type(caught.value.__cause__) is ValueError
            assert "boom" in caught.value.__cause__.__notes__[0]
            assert child.metadata is None
        with pytest.raises(DependencyError, match="double can't run: a task whose value it is to be given") as caught:
            await tc.submit(double, failing)
        assert type(caught.value.__cause__) is ValueError

    play(story, "task")


def test_a_cancelled_parent_is_a_failed_one() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        parent = tc.submit(double, 1)
        there = tc.submit(double, parent)
        await settle()
        parent.cancel()
        here = tc.submit(double, parent)
        await settle()
        for child in (here, there):
            with pytest.raises(DependencyError) as caught:
                await child
            assert isinstance(caught.value.__cause__, TaskAborted)

    play(story, "task", eager=False)


def test_results_of_another_client_are_waited_for_here() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        async with connect(host.controller) as mec:
            operations = told(tc)
            pulled = [mec.apply(double, i, targets=i) for i in range(2)]
            child = tc.submit(lambda a, b: [a, b], *pulled)
            grandchild = tc.submit(len, child)
            assert operations == []
            assert await tc.why(child) == "it waits in this program for results that only that knows of"
            await settle()
            run_all(host)
            assert await grandchild == 2
            assert await child == [[0], [2]]
            with pytest.raises(TypeError, match="after takes ids and futures of tasks"):
                tc.options(after=mec.keys()).submit(double, 1)

    play(story, "task", eager=False)


def test_a_future_with_callbacks_gives_what_they_make_of_it() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        first = tc.submit(double, 1)
        first.add_callback(lambda value: value + 100)
        child = tc.submit(double, first)
        await settle()
        run_all(host)
        assert await child == 204

    play(story, "task", eager=False)


def test_what_waits_here_can_be_cancelled_aborted_and_lost() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        mec = await aioparallel.MultiEngineClient.connect(host.controller.capability("multiengine"))
        slow = mec.apply(double, 1)
        cancelled, aborted, lost = (tc.submit(double, slow) for _ in range(3))
        assert tc.channel.under_way(aioparallel.handle.TaskHandle) == [cancelled, aborted, lost]
        assert cancelled.cancel()
        assert await cancelled.wait_receipt() == aioparallel.Receipt("waiting", 0.0)
        assert await tc.abort(aborted) == aioparallel.Receipt("waiting", 0.0)
        with pytest.raises(TaskAborted):
            await aborted
        assert aborted.receipt == aioparallel.Receipt("waiting", 0.0)
        await tc.aclose()
        with pytest.raises(ConnectionLost):
            await lost
        await mec.aclose()
        with pytest.raises(ConnectionLost):
            await slow

    play(story, "task", eager=False)


def test_a_future_can_not_be_sent_where_nobody_waits_for_it() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        first = tc.submit(double, 1)
        task = aioparallel.MapTask(boom, recovery_task=aioparallel.MapTask(double, (first,)))
        with pytest.raises(SerializationError, match="give it to a task"):
            tc.run(task)
        await first

    play(story, "task")


# The controller forgets a call when it has answered


@pytest.mark.parametrize("seed", range(30))
def test_an_answer_that_crosses_is_waited_for_and_the_task_sent_again(seed: int) -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        operations = told(tc)
        first, second = tc.submit(double, 1), tc.submit(double, 2)
        failing = tc.submit(boom)
        await settle()
        run_all(host)
        for _ in range(seed):
            if first.done():
                break
            await asyncio.sleep(0)
        children = [
            tc.submit(add, first, second),
            tc.options(after=first).submit(double, 3),
            tc.options(after=[first], follow=[second]).submit(double, 4),
            tc.options(after=Dependency(failing, success=False, failure=True)).submit(double, 5),
        ]
        doomed = tc.options(after=failing).submit(double, 6)
        assert await asyncio.gather(*children) == [6, 6, 8, 10]
        with pytest.raises(DependencyError):
            await doomed
        assert operations.count("submit") >= 3

    play(story, "task", eager=False)


def test_a_crossing_is_unseen() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        operations = told(tc)
        first = tc.submit(double, 1)
        await settle()
        [connection] = host.controller._clients.values()
        send, kept = connection.send, []
        connection.send = lambda pieces: kept.append(pieces)
        run_all(host)
        await settle()
        # The answer is under way: the controller has forgotten the call, and this client does not know it yet.
        child = tc.submit(double, first)
        grandchild = tc.options(after=child).submit(double, child)
        await settle()
        assert not first.done()
        connection.send = send
        answers = kept[1:]
        for pieces in answers:
            send(pieces)
        await settle()
        assert child.number == 0
        assert tc.channel.under_way(aioparallel.handle.TaskHandle) == [child, grandchild, first]
        send(kept[0])
        assert await child == 4
        assert await grandchild == 8
        assert operations.count("submit_with") + operations.count("submit") >= 5

    play(story, "task", eager=False)


def test_one_that_is_sent_again_can_be_cancelled_before() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        first = tc.submit(double, 1)
        await settle()
        child = tc.submit(double, first)
        proxy = next(iter(host.controller._clients))
        proxy.calls.pop(first.number)
        await settle()
        assert child.number == 0
        assert child.cancel()
        assert await child.wait_receipt() == aioparallel.Receipt("waiting", 0.0)
        first.cancel()
        proxy.fault(first.number, ParentsDelivered("nobody's", calls=[77]))
        await settle()

    play(story, "task", eager=False)


# After and follow, judged here when the parents have ended


@pytest.mark.parametrize(
    ("every", "success", "failure"), [*itertools.product([True, False], [True, False], [True, False])]
)
@pytest.mark.parametrize("which", ["after", "follow"])
@pytest.mark.parametrize("ended", [0, 1, 2])
def test_dependencies_come_to_the_same_here_and_there(
    which: str, every: bool, success: bool, failure: bool, ended: int
) -> None:
    if not (success or failure):
        return

    async def story(tc: Any, host: ModelHost) -> None:
        for good, bad in ((2, 0), (0, 2), (1, 1)):
            # On one engine, so that whoever follows them can.
            work = tc.options(engines=1)
            parents = [*(work.submit(double, i) for i in range(good)), *(work.submit(boom) for _ in range(bad))]
            await settle()
            for _ in range(ended):
                host.step()
                await settle()
            dependency = Dependency(parents, all=every, success=success, failure=failure)
            child = tc.options(**{which: dependency}).submit(double, 5)
            await settle()
            run_all(host)
            counting = success * good + failure * bad
            if counting == 2 or (counting and not every):
                assert await child == 10
                assert which == "after" or child.metadata.engine == 1
            else:
                with pytest.raises(DependencyError) as caught:
                    await child
                assert (caught.value.__cause__ is None) == (failure and not success)
            host.eager = False
            for parent in parents:
                await asyncio.wait([parent])
                parent.exception()

    play(story, "task", eager=False)


def test_whom_one_follows_may_be_gone_or_in_two_places() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        here, there = [tc.options(engines=i).submit(double, i) for i in range(2)]
        await here
        await there
        with pytest.raises(DependencyError, match="it follows tasks that ran on several engines: 0, 1"):
            await tc.options(follow=[here, there]).submit(double, 1)
        child = tc.options(follow=Dependency([here, there], all=False)).submit(double, 1)
        assert await child == 2
        with pytest.raises(DependencyError, match="it follows tasks that ran on engine 0, which it can't run on"):
            await tc.options(follow=here, engines=1).submit(double, 1)
        del tc.channel.engines[0]
        with pytest.raises(DependencyError, match="it follows tasks that ran on engine 0, which it can't run on"):
            await tc.options(follow=here).submit(double, 1)

    play(story, "task")


def test_ids_of_tasks_will_do_as_well() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        number = await tc.run(aioparallel.MapTask(double, (1,)))
        child = tc.options(after=number).submit(double, 2)
        await settle()
        assert len(host.waiting) == 1
        run_all(host)
        assert await child == 4
        with pytest.raises(aioparallel.InvalidTaskID):
            await tc.options(after=4711).submit(double, 2)

    play(story, "task", eager=False)


# Order


def test_a_child_does_not_overtake_its_large_parent(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In pieces, while others pass, and slowly.
    limits = Limits(share=0, outbox=2**16)

    async def main() -> None:
        async with model_cluster(2, address=f"unix://{directory}/s", limits=limits) as (controller, _):
            async with aioparallel.TaskClient(controller.capability("task"), limits=limits) as tc:
                operations = told(tc)
                large = tc.submit(len, bytes(3_000_000))
                child = tc.submit(double, large)
                large_child = tc.submit(lambda n, data: n + len(data), large, bytes(2_000_000))
                grandchild = tc.submit(add, child, large_child)
                passing = tc.submit(double, 1)
                assert tc.channel._departures.line.size > 0
                assert await passing == 2
                assert not large.done()
                assert await grandchild == 6_000_000 + 5_000_000
                assert operations == ["submit", "submit_with", "submit_with", "submit_with", "submit"]
                assert not tc.channel._departures.line.leaving

    asyncio.run(main())


def test_children_of_one_parent_that_is_copied_share_a_queue(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departures, "STAGED", 2**20)

    async def main() -> None:
        async with model_cluster(2, address=f"unix://{directory}/s") as (controller, _):
            async with aioparallel.TaskClient(controller.capability("task")) as tc:
                await until(lambda: tc.channel._connection.shares)
                large = tc.submit(len, bytes(2**21))
                children = [tc.submit(add, large, i) for i in range(300)]
                assert len(tc.channel._departures.line._queues) == 1
                assert await asyncio.gather(*children) == [2**21 + i for i in range(300)]

    asyncio.run(main())
