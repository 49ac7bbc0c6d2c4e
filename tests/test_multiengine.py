"""MultiEngine's controller part and asyncio face, on model engines."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
from typing import Any

import pytest
from model import connect, model_cluster, settle

import aioparallel
from aioparallel.errors import (
    CompositeError,
    ConfigurationError,
    ConnectionLost,
    EngineDied,
    EngineLost,
    InvalidEngineID,
    NoEnginesRegistered,
    OperationError,
    QueueCleared,
    SerializationError,
    TaskRejectError,
)


def double(x: int) -> int:
    return 2 * x


def reject() -> None:
    raise TaskRejectError("not here")


def test_results_come_in_the_order_of_the_targets_also_for_one():
    async def main() -> None:
        async with model_cluster(3) as (controller, _), connect(controller) as mec:
            assert await mec.get_ids() == [0, 1, 2]
            assert len(mec) == 3
            await mec.push({"a": 1})
            assert await mec.execute("b = id * 10") is not None
            assert await mec.pull("b") == [0, 10, 20]
            assert await mec.pull("b", targets=[2, 0]) == [20, 0]
            assert await mec.pull("b", targets=1) == [10]
            assert await mec.pull(["a", "b"], targets=[1, 2]) == [[1, 10], [1, 20]]
            assert await mec.apply(double, 4) == [8, 8, 8]
            assert await mec.keys(targets=0) == [["a", "b"]]

    asyncio.run(main())


def test_views_address_their_engines_and_one_engine_gives_bare_values():
    async def main() -> None:
        async with model_cluster(4) as (controller, _), connect(controller) as mec:
            await mec.execute("me = id")
            assert await mec[2].pull("me") == 2
            assert await mec[-1].pull("me") == 3
            assert await mec[::2].pull("me") == [0, 2]
            assert await mec[[3, 1]].pull("me") == [3, 1]
            assert await mec[1:]["me"] == [1, 2, 3]
            assert await mec[1:][::2]["me"] == [1, 3]
            assert len(mec[1:]) == 3
            assert await mec[1:].get_ids() == [1, 2, 3]
            assert await mec[[3, 1]].get_ids() == [1, 3]
            assert await mec[2].get_ids() == [2]
            assert await mec[2].pull("me", targets=[0, 1]) == [0, 1]
            mec["x"] = 7
            assert await mec["x"] == [7] * 4
            with pytest.raises(InvalidEngineID, match=r"no engine 9; engines: 0, 1, 2, 3"):
                mec[9]
            assert (await mec[1].queue_status()) == {"id": 1, "pending": None, "queue": []}
            with pytest.raises(TypeError, match="get_ids"):
                iter(mec)
            with pytest.raises(ValueError, match="not True"):
                mec[True]

    asyncio.run(main())


def test_one_target_raises_the_original_several_a_group():
    async def main() -> None:
        async with model_cluster(3) as (controller, _), connect(controller) as mec:
            with pytest.raises(ZeroDivisionError) as caught:
                await mec.execute("1/0", targets=1)
            assert caught.value.engine_id == 1
            assert "1/0" in caught.value.__notes__[0]
            with pytest.raises(CompositeError) as group:
                await mec.execute("1/id")
            assert [error.engine_id for error in group.value.exceptions] == [0]
            assert "[0:execute]: ZeroDivisionError: division by zero" in str(group.value)
            caught_inside = []
            try:
                await mec.execute("1/0")
            except* ZeroDivisionError as errors:
                caught_inside = [error.engine_id for error in errors.exceptions]
            assert caught_inside == [0, 1, 2]
            with pytest.raises(NameError, match="nothing"):
                await mec.pull("nothing", targets=0)

    asyncio.run(main())


@pytest.mark.parametrize("targets", ["some", 1.5, [0, "1"], {"a": 1}, True, [True], None.__class__])
def test_targets_of_a_wrong_type_are_a_value_error(targets: Any):
    async def main() -> None:
        async with model_cluster(1) as (controller, _), connect(controller) as mec:
            with pytest.raises(ValueError, match="targets are an engine id"):
                mec.keys(targets=targets)

    asyncio.run(main())


WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda mec: mec.push([("a", 1)]), TypeError, "a dict of values by name, not list"),
    (lambda mec: mec.push(5), TypeError, "a dict of values by name, not int"),
    (lambda mec: mec.on_join.push(5), TypeError, "a dict of values by name, not int"),
    (lambda mec: mec.push_function(abs), TypeError, "a dict of values by name, not builtin"),
    (lambda mec: mec.pull(5), TypeError, "each a str, not 5"),
    (lambda mec: mec.pull(["a", 5]), TypeError, "each a str, not 5"),
    (lambda mec: mec.zip_pull(None), TypeError, "each a str, not None"),
    (lambda mec: mec.pull_function({1}), TypeError, "each a str, not 1"),
    (lambda mec: mec.raw_map(abs, 5), TypeError, "raw_map takes a list of sequences, one for each argument, not int"),
    (lambda mec: mec.barrier(5), TypeError, "barrier waits for handles of calls, not for 5"),
    (lambda mec: mec[True], ValueError, "targets are an engine id, 'all', or a sequence of ids, not True"),
    (lambda mec: mec.__setitem__(slice(2), 5), TypeError, r"is not a name .* mec\[0\]\['a'\] = 1"),
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG)
def test_a_wrong_argument_is_named_and_nothing_is_sent(call: Any, kind: type[Exception], text: str):
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller) as mec:
            with pytest.raises(kind, match=text):
                call(mec)
            await settle()
            assert not host.waiting

    asyncio.run(main())


def test_an_empty_list_of_targets_is_told_from_a_cluster_without_engines():
    async def main() -> None:
        async with model_cluster(2) as (controller, _), connect(controller) as mec:
            for call in (mec[2:].keys(), mec.restart(targets=[]), mec.scatter("a", "b", targets=[])):
                with pytest.raises(NoEnginesRegistered, match="targets are an empty list"):
                    await call

    asyncio.run(main())


def test_what_is_ours_among_the_commands_clears_nothing_when_it_fails():
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller) as mec:
            ours = mec._submit("end_forwarding", (), None, kept=True)
            user = mec.execute("1")
            await settle()
            host.step()
            with pytest.raises(CompositeError, match="TypeError"):
                await ours
            await settle()
            host.step()
            assert [result.value for result in await user] == ["1"]

    asyncio.run(main())


def test_targets_that_are_not_there():
    async def main() -> None:
        async with model_cluster(2) as (controller, host), connect(controller) as mec:
            with pytest.raises(InvalidEngineID, match="no engine 5; engines: 0, 1") as caught:
                await mec.execute("1", targets=5)
            assert not hasattr(caught.value, "engine_id")  # no engine has raised it
            with pytest.raises(InvalidEngineID):
                await mec.execute("1", targets=[0, 7])
            with pytest.raises(OperationError, match="twice"):
                await mec.execute("1", targets=[0, 0])
            for call in (mec[7:].execute("1"), mec.queue_status(targets=[]), mec.map(abs, [1], targets=())):
                with pytest.raises(NoEnginesRegistered, match=r"an empty list, which names no engine; engines: 0, 1$"):
                    await call
            assert host.waiting == []
        async with model_cluster(0) as (controller, _), connect(controller) as mec:
            for call in (mec.execute("1"), mec.keys(), mec.queue_status(), mec.clear_queue(), mec.interrupt()):
                with pytest.raises(NoEnginesRegistered, match="aiocluster logs"):
                    await call
            assert await mec.get_ids() == []

    asyncio.run(main())


def test_all_engines_raise_a_group_also_where_that_is_one():
    async def main() -> None:
        async with model_cluster(1) as (controller, _), connect(controller) as mec:
            for call in (mec.pull("no"), mec.gather("no"), mec.map("no", [1]), mec.apply(double)):
                with pytest.raises(CompositeError, match="1 of 1 engines raised"):
                    await call
            for target in (0, [0]):
                with pytest.raises(NameError):
                    await mec.map("no", [1], targets=target)

    asyncio.run(main())


def test_a_failure_clears_what_waits_there_at_that_moment_and_nothing_else():
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, host), connect(controller) as mec:
            bad = mec.execute("1/0", targets=0)
            behind = [mec.execute("x = 1", targets=0), mec.execute("x = 2", targets=0)]
            elsewhere = mec.execute("y = 1", targets=1)
            await settle()
            assert len(host.waiting) == 2  # one an engine: MultiEngine never sends ahead
            host.step(0)
            with pytest.raises(ZeroDivisionError):
                await bad
            for call in behind:
                with pytest.raises(QueueCleared, match="engine 0"):
                    await call
            afterwards = mec.execute("z = 1", targets=0)
            await settle()
            host.step(0)
            host.step(0)
            await elsewhere
            await afterwards

    asyncio.run(main())


def test_a_task_is_not_cleared_by_a_failing_command_of_multiengine():
    async def main() -> None:
        async with (
            model_cluster(1, eager=False) as (controller, host),
            connect(controller) as mec,
            connect(controller, "task") as tc,
        ):
            bad = mec.execute("1/0")
            await settle()
            task = tc.submit(double, 21)
            await settle()
            host.step()
            with pytest.raises(CompositeError):
                await bad
            await settle()
            host.step()
            assert await task == 42

    asyncio.run(main())


def test_queue_status_and_clear_queue():
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller) as mec:
            running = mec.execute("first = 1")
            waiting = [mec.execute(f"x = {i}") for i in range(3)]
            await settle()
            [status] = await mec.queue_status()
            assert status == {"id": 0, "pending": "first = 1", "queue": ["x = 0", "x = 1", "x = 2"]}
            assert "pending: first = 1" in repr(await mec.queue_status())
            assert await mec.clear_queue() == [3]
            for call in waiting:
                with pytest.raises(CompositeError) as group:
                    await call
                assert isinstance(group.value.exceptions[0], QueueCleared)
            host.step()
            await running

    asyncio.run(main())


def test_cancelling_the_handle_withdraws_what_waits_and_asks_the_host_about_what_runs():
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller) as mec:
            running, waiting, last = (mec.execute(f"x = {i}", targets=0) for i in range(3))
            await settle()
            assert waiting.cancel()
            running.cancel()
            await settle()
            assert len(host.cancelled) == 1
            host.step()  # what came after: the cancelled ones are gone
            assert (await last)[0].input == "x = 2"
            assert running.cancelled()
            assert waiting.cancelled()
            async with asyncio.timeout(1):
                pass
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await mec.execute("never")

    asyncio.run(main())


def test_a_dead_kernel_fails_the_call_and_what_waited():
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller) as mec:
            running, waiting = mec.execute("1", targets=0), mec.execute("2", targets=0)
            await settle()
            host.die(0)
            with pytest.raises(EngineDied, match="SIGKILL") as death:
                await running
            assert death.value.engine_id == 0
            with pytest.raises(QueueCleared):
                await waiting

    asyncio.run(main())


def test_a_lost_host_fails_its_engines_calls_and_frees_their_ids():
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, host), connect(controller) as mec:
            calls = [mec.execute("1", targets=i) for i in (0, 0, 1)]
            await settle()
            host.connection.abort()
            for call in calls:
                with pytest.raises(EngineLost, match="is gone"):
                    await call
            assert await mec.get_ids() == []
            assert len(mec) == 0

    asyncio.run(main())


def test_an_unpicklable_argument_is_named_and_nothing_is_sent():
    async def main() -> None:
        async with model_cluster(1) as (controller, host), connect(controller) as mec:
            with pytest.raises(SerializationError, match=r"args\[1\]\['lock'\]"):
                mec.apply(double, 1, {"lock": threading.Lock()})
            with pytest.raises(SerializationError, match="lock"):
                mec.push({"lock": threading.Lock()})
            with pytest.raises(TypeError, match="can't be called"):
                mec.apply(3)
            with pytest.raises(ValueError, match="not a name"):
                mec.push({"not a name": 1})
            with pytest.raises(TypeError, match="code is a str"):
                mec.execute(3)
            assert mec.channel._pending == {}
            assert host.waiting == []

    asyncio.run(main())


def test_a_call_that_would_block_is_refused_before_anything_is_sent():
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, host), connect(controller) as mec:
            waiting = mec.keys()
            behind = mec.keys()
            for mine in (mec, mec[0], mec[:1], mec.on_join):
                with pytest.raises(ConfigurationError, match="block=True is for the blocking face"):
                    mine.push({"x": 1}, block=True)
            for call in (mec.reset, mec.clear_queue, mec.kill, mec.forward_logging, mec.get_ids):
                with pytest.raises(ConfigurationError, match="block=True is for the blocking face"):
                    call(block=True)
            for mapped in (mec.parallel(block=True)(double), functools.partial(mec.map, double, block=True)):
                with pytest.raises(ConfigurationError, match="block=True is for the blocking face"):
                    mapped([1])
            await settle()
            assert len(host.waiting) == 2
            assert host.asked == []
            for _ in range(4):
                host.step()
                await settle()
            assert (await waiting, await behind) == ([[], []], [[], []])
            assert mec.channel._pending == {}
            assert mec.channel.forwardings == {}

    asyncio.run(main())


def test_host_calls_reach_the_host_of_each_engine():
    async def main() -> None:
        async with model_cluster(2) as (controller, host), connect(controller) as mec:
            await mec.interrupt(targets=1)
            await mec.restart()
            await mec.kill(targets=0)
            assert [(call.name, engine) for call, engine in host.asked] == [
                ("INTERRUPT", 1),
                ("RESTART", 0),
                ("RESTART", 1),
                ("STOP", 0),
            ]

    asyncio.run(main())


def test_a_rejection_is_an_error_like_others():
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, host), connect(controller) as mec:
            calling = mec.apply(reject)
            behind = mec.apply(double, 1, targets=0)
            await settle()
            host.step()
            host.step()
            with pytest.raises(CompositeError, match=r"\[1:apply\]: TaskRejectError: not here"):
                await calling
            with pytest.raises(QueueCleared):
                await behind
            single = mec[0].execute("from aioparallel import TaskRejectError; raise TaskRejectError('nor here')")
            await settle()
            host.step()
            with pytest.raises(TaskRejectError, match="nor here") as caught:
                await single
            assert caught.value.engine_id == 0
            assert single.metadata.completed is not None

    asyncio.run(main())


def test_kill_of_the_controller_ends_it_in_good_order():
    async def main() -> None:
        async with model_cluster(1) as (controller, _):
            async with connect(controller) as mec:
                await mec.kill(controller=True)
                await controller.wait_closed()
                with pytest.raises(ConnectionLost, match="controller has ended"):
                    await mec.get_ids()

    asyncio.run(main())


def test_a_reset_that_is_refused_is_told_once():
    async def main() -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        async with model_cluster(1) as (controller, _), connect(controller) as mec:
            with pytest.raises(InvalidEngineID):
                await mec.reset(targets=7)
            await settle()
            gc.collect()
            assert complaints == []

    asyncio.run(main())


def test_a_narrowed_capability_reaches_only_its_engines_and_operations():
    async def main() -> None:
        async with model_cluster(3) as (controller, _):
            capability = controller.capability("multiengine").narrow("engines=1-2", "ops=get_ids,submit")
            async with aioparallel.MultiEngineClient(capability) as mec:
                assert await mec.get_ids() == [1, 2]
                assert len(mec) == 2
                assert await mec.apply(double, 1) == [2, 2]
                with pytest.raises(InvalidEngineID, match="does not reach engine 0"):
                    await mec.execute("1", targets=0)
                with pytest.raises(OperationError, match="does not allow 'clear_queue'"):
                    await mec.clear_queue()

    asyncio.run(main())


def test_engines_that_come_and_go_are_known_at_once():
    async def main() -> None:
        async with model_cluster(1) as (controller, host), connect(controller) as mec:
            await mec.get_ids()
            assert await host.join() == 1
            await settle()
            assert len(mec) == 2
            assert await mec[1].apply(double, 3) == 6

    asyncio.run(main())
