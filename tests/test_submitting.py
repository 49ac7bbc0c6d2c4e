"""The ways to give tasks away, on both faces: submit, map, run, and what options make of them."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from model import model_cluster, settle

import aioparallel
from aioparallel import client
from aioparallel.errors import (
    ConfigurationError,
    ConnectionLost,
    DependencyError,
    EngineLost,
    TaskTimeout,
)
from aioparallel.progress import Progress


def double(x: int) -> int:
    return 2 * x


def boom(*_: Any) -> Any:
    raise ValueError("boom")


# The blocking face, on real engines


@pytest.fixture
def tc(tc: client.TaskClient) -> Iterator[client.TaskClient]:
    """One that nothing waits in after each test."""
    yield tc
    assert tc.channel.waiting == tc.channel._pending == {}


def test_futures_as_arguments(tc: client.TaskClient) -> None:
    first = tc.submit(double, 4)
    second = tc.submit(lambda values: sum(values), [first, first, tc.submit(double, 1)])
    assert second.result() == 18
    assert tc.submit(double, second).r == 36
    failing = tc.submit(boom)
    for child in (tc.submit(double, failing), tc.submit(double, failing)):
        with pytest.raises(DependencyError) as caught:
            child.result()
        assert type(caught.value.__cause__) is ValueError


def test_a_chain_and_a_diamond(tc: client.TaskClient) -> None:
    link = tc.submit(double, 1)
    for _ in range(30):
        link = tc.submit(lambda x: x + 1, link)
    sides = [tc.submit(lambda x, i=i: x + i, link) for i in range(50)]
    assert tc.submit(lambda *values: sum(values), *sides).result() == 50 * 32 + sum(range(50))


def test_results_of_other_clients_as_arguments(cluster: client.Cluster, tc: client.TaskClient) -> None:
    with client.MultiEngineClient(cluster.capability("multiengine")) as mec:
        slow = mec.apply(time.sleep, 0.2, block=False)
        child = tc.submit(len, slow)
        assert "waits in this program" in tc.why(child)
        assert child.result(30) == 2
        lost = mec.apply(time.sleep, 60, targets=0, block=False)
        orphan = tc.submit(len, lost)
    with pytest.raises(DependencyError) as caught:
        orphan.result(30)
    assert isinstance(caught.value.__cause__, ConnectionLost)


def test_waiting_tasks_end_with_their_client(cluster: client.Cluster) -> None:
    with client.MultiEngineClient(cluster.capability("multiengine")) as mec:
        slow = mec.apply(time.sleep, 60, block=False)
        with client.TaskClient(cluster.capability("task")) as tc:
            child = tc.submit(len, slow)
        with pytest.raises(ConnectionLost):
            child.result(30)
        slow.cancel()


def test_options_reach_the_task(tc: client.TaskClient) -> None:
    tasks = [tc.options(engines=1, label="there", priority=2, retries=1).submit(double, i) for i in range(5)]
    assert [task.result() for task in tasks] == [0, 2, 4, 6, 8]
    assert {task.metadata.engine for task in tasks} == {1}
    with pytest.raises(TaskTimeout) as caught:
        tc.options(timeout=0.1).submit(time.sleep, 60).result(30)
    assert caught.value.step == "interrupt"
    failing = tc.options(retries=2).submit(boom)
    assert type(failing.exception()) is ValueError
    assert failing.metadata.attempt == 3
    with pytest.raises(DependencyError, match="refused"):
        tc.options(depend=(lambda properties, name: name in properties, "gpu"), depend_timeout=0.1).submit(
            double, 1
        ).result(30)
    assert repr(tc.options(retries=2)).startswith("<TaskOptions(retries=2,")
    chosen = tc.options(engines=0)
    assert list(chosen.map(double, range(5))) == [0, 2, 4, 6, 8]
    assert chosen.run(client.MapTask(double, (1,)), block=True).engineid == 0
    with pytest.raises(TypeError, match="retires"):
        tc.options(retires=1)  # type: ignore[call-arg]


def test_depend_asks_the_engines_properties(cluster: client.Cluster, tc: client.TaskClient) -> None:
    with client.MultiEngineClient(cluster.capability("multiengine")) as mec:
        mec.set_properties({"gpu": 2}, targets=1)
        chosen = tc.options(depend=lambda properties: properties.get("gpu", 0) > 1)
        tasks = [chosen.submit(double, i) for i in range(6)]
        assert [task.result(30) for task in tasks] == [0, 2, 4, 6, 8, 10]
        assert {task.metadata.engine for task in tasks} == {1}
        depends = client.MapTask(double, (1,), depend=lambda properties: properties.get("gpu", 0) > 1)
        assert tc.run(depends, block=True).engineid == 1
        mec.clear_properties()


def test_at_most_once(tc: client.TaskClient) -> None:
    import os

    assert isinstance(tc.options(at_most_once=True).submit(os._exit, 3).exception(60), EngineLost)


def test_task_objects(tc: client.TaskClient) -> None:
    number = tc.run(client.StringTask("c = a + b\nprint('sum')", pull=("c", "a"), push={"a": 1, "b": 2}))
    assert isinstance(number, int)
    result = tc.get_task_result(number, block=True)
    assert (result["c"], result.ns.a, result.stdout, result.taskid) == (3, 1, "sum\n", number)
    recovered = client.MapTask(boom, retries=1, recovery_task=client.MapTask(boom, recovery_task=client.StringTask("")))
    assert tc.run(recovered, block=True).results == {}
    twice = tc.run(client.MapTask(double, (tc.submit(double, 2),)), block=True)
    assert twice.results == 8
    assert type(tc.run(client.MapTask(boom), block=True).failure) is ValueError
    with pytest.raises(TypeError, match="run takes a StringTask, a MapTask or another Task"):
        tc.run(double)  # type: ignore[arg-type]
    task = client.StringTask("1")
    task.retries = -1
    with pytest.raises(ValueError, match="retries"):
        tc.run(task)


class Half(client.Task):
    """Pushes, and reads it again."""

    def __init__(self, value: int) -> None:
        super().__init__(clear_after=True)
        self.value = value

    def run_on(self, engine: Any) -> Any:
        engine.push({"v": self.value})
        return engine.pull("v") // 2


def test_a_task_class_of_ones_own(tc: client.TaskClient) -> None:
    assert tc.run(Half(42), block=True).results == 21


def test_map_mapper_and_parallel(tc: client.TaskClient) -> None:
    assert list(tc.map(pow, range(100), itertools.repeat(2))) == [x * x for x in range(100)]
    assert sorted(tc.map(double, range(100), ordered=False, chunksize=3)) == [2 * x for x in range(100)]
    assert list(tc.mapper(chunksize=5, retries=1).map(double, range(12))) == [2 * x for x in range(12)]

    @tc.parallel(chunksize=2)
    def square(x: int) -> int:
        """Square."""
        return x * x

    assert square(range(5)) == [0, 1, 4, 9, 16]
    assert square.__doc__ == "Square."
    with pytest.raises(TypeError, match=r"parallel is used with parentheses.*@tc\.parallel\("):
        tc.parallel(double)
    for wrong in (tc.mapper, lambda **options: tc.map(double, [1], **options)):
        with pytest.raises(TypeError, match="ordered is True or False, not 'no'"):
            wrong(ordered="no")
    with pytest.raises(TypeError, match="can't be called"):
        tc.parallel()(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="colour"):
        tc.mapper(colour="red")
    with pytest.raises(ValueError, match="chunksize"):
        tc.mapper(chunksize=True)
    with pytest.raises(TypeError, match="map needs at least one iterable"):
        tc.map(double)
    with pytest.raises(TypeError, match="can't be called"):
        tc.map(3, [1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="iterable"):
        tc.map(double, 3)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        list(tc.map(lambda x: 1 // x, [1, 0], chunksize=1))
    tc.barrier()


def test_map_takes_results_on_their_way(tc: client.TaskClient) -> None:
    firsts = [tc.submit(double, i) for i in range(10)]
    assert list(tc.map(double, firsts)) == [4 * i for i in range(10)]


def test_leaving_a_map_early_withdraws_the_rest(tc: client.TaskClient) -> None:
    for value in tc.map(double, itertools.count(), chunksize=1):
        if value == 20:
            break
    tc.barrier(timeout=30)
    mapped = tc.map(time.sleep, itertools.repeat(60))
    mapped.close()
    deadline = time.monotonic() + 30
    while tc.channel._pending and time.monotonic() < deadline:
        tc.spin()


def test_progress_is_told(tc: client.TaskClient) -> None:
    events: list[Progress] = []
    assert list(tc.map(double, range(20), chunksize=2, progress=events.append)) == [2 * x for x in range(20)]
    assert events[0].total == 20
    assert events[-1] == Progress(20, 20, 0)
    assert [event.done for event in events] == sorted(event.done for event in events)
    events.clear()
    assert list(tc.map(double, iter(range(3)), progress=events.append)) == [0, 2, 4]
    assert events[-1] == Progress(3, None, 0)
    with pytest.raises(TypeError, match="progress is a function"):
        tc.map(double, [1], progress="bar")


def test_a_bar_for_whoever_asks(
    tc: client.TaskClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tqdm")
    monkeypatch.setattr("aioparallel.progress.Bar.DELAY", 0)
    assert list(tc.map(double, range(3), progress=True)) == [0, 2, 4]
    assert "double" in capsys.readouterr().err
    assert list(tc.map(double, range(3))) == [0, 2, 4]
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'aioparallel\[progress\]'"):
        tc.map(double, range(3), progress=True)


def test_futures_in_the_order_of_their_ends(tc: client.TaskClient) -> None:
    tasks = [tc.submit(time.sleep, seconds) for seconds in (0.6, 0.05)]
    assert list(tc.as_completed(tasks)) == tasks[::-1]
    assert list(tc.as_completed([*tasks, *tasks])) == tasks
    many = [tc.submit(double, i) for i in range(500)]
    assert sorted(task.result() for task in tc.as_completed(many, timeout=60)) == [2 * i for i in range(500)]
    slow = tc.submit(time.sleep, 60)
    with pytest.raises(TimeoutError, match="1 of 1 calls have not ended"):
        list(tc.as_completed([slow], timeout=0.01))
    slow.cancel()
    assert list(tc.as_completed([slow])) == [slow]
    slow.wait_receipt(30)
    with pytest.raises(TypeError, match="as_completed is for results on their way"):
        list(tc.as_completed([3]))


def test_asking_about_tasks(tc: client.TaskClient) -> None:
    done = tc.submit(double, 1)
    done.result()
    assert tc.why(done) == "it has ended"
    assert tc.abort(done).step == "finished"
    assert tc.why(done, block=False).r == "it has ended"
    slow = tc.submit(time.sleep, 60)
    assert tc.abort(slow, block=False).r.step in ("waiting", "interrupt")
    number = tc.run(client.MapTask(time.sleep, (60,)))
    with pytest.raises(TimeoutError):
        tc.barrier([number], timeout=0.01)
    assert tc.get_task_result(number) is None
    tc.abort(number)
    assert isinstance(tc.get_task_result(number, block=True).failure, client.TaskAborted)
    assert set(tc.queue_status()) == {"scheduled", "pending", "succeeded", "failed"}
    assert tc.clear() > 0
    tc.spin()


# The asyncio face, where it is another


def test_a_block_is_awaited_on_the_asyncio_face() -> None:
    async def main() -> None:
        async with model_cluster(2) as (controller, _):
            async with aioparallel.TaskClient(controller.capability("task")) as tc:
                number = await tc.run(aioparallel.MapTask(double, (1,)))
                assert number == 0
                assert (await tc.run(aioparallel.MapTask(double, (2,)), block=True)).results == 4
                square = tc.parallel(chunksize=1)(lambda x: x * x)
                assert await square(range(4)) == [0, 1, 4, 9]
                assert [x async for x in tc.options(priority=1).map(double, range(3))] == [0, 2, 4]
                with pytest.raises(ConfigurationError, match="block=True is for the blocking face"):
                    tc.abort(number, block=True)

    asyncio.run(main())


@pytest.mark.parametrize("turns", range(30))
def test_a_map_that_is_left_leaves_nothing(turns: int) -> None:
    async def main() -> None:
        async with model_cluster(2) as (controller, host):
            async with aioparallel.TaskClient(controller.capability("task")) as tc:
                values = tc.map(double, itertools.count(), chunksize=1)
                for _ in range(turns):
                    await anext(values)
                host.eager = False
                await values.aclose()
                await settle()
                assert tc.channel._pending == {}
                assert host.waiting == []

    asyncio.run(main())
