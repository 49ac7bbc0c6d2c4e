"""The asyncio face's handles, on model engines and on a real one."""

from __future__ import annotations

import asyncio
import gc
import logging
import time

import pytest
from model import connect, model_cluster, settle

import aioparallel
from aioparallel.errors import CompositeError, InvalidDeferredID, QueueCleared


def double(x: int) -> int:
    return 2 * x


def test_a_handle_gives_its_value_or_its_error_again_each_time():
    async def main() -> None:
        async with model_cluster(2) as (controller, _), connect(controller) as mec:
            handle, failing = mec.apply(double, 2), mec.execute("1/0", targets=0)
            with pytest.raises(asyncio.InvalidStateError):
                handle.result()
            for _ in range(2):
                assert await handle == handle.result() == [4, 4]
                with pytest.raises(ZeroDivisionError):
                    await failing
            handle.add_callback(sum)
            handle.add_callback(double)
            assert await handle == 16
            assert await asyncio.gather(handle, mec[1].apply(double, 1)) == [16, 2]
            chained = mec.apply(double, 5)
            chained.add_callback(sorted, reverse=True)
            chained.add_callback(len)
            assert await asyncio.wait_for(chained, 10) == 2

    asyncio.run(main())


def test_flush_forgets_what_nobody_has_asked_for():
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, host), connect(controller) as mec:
            done, read, under_way, awaited, chained = (mec.execute(f"x{i} = {i}") for i in range(5))
            await settle()
            for _ in range(2):
                host.step()
                host.step()
                await settle()
            assert (done.done(), read.done(), under_way.done()) == (True, True, False)
            await read
            waiting = asyncio.gather(awaited)
            chained.add_callback(len)
            await settle()
            await mec.flush()
            for handle in (done, under_way):
                assert handle.done()
                for _ in range(2):
                    with pytest.raises(InvalidDeferredID, match="forgotten"):
                        await handle
                    with pytest.raises(InvalidDeferredID):
                        handle.result()
                assert isinstance(handle.exception(), InvalidDeferredID)
                assert handle.metadata == []
            while host.waiting:
                host.step()
                await settle()
            assert len(await read) == len((await waiting)[0]) == await chained == 2
            # The call was not withdrawn: it ran.
            assert host.cancelled == []
            assert host.spaces[0].names["x2"] == 2
            assert mec.channel._pending == mec.channel._partial == {}
            later = mec.pull("x2")
            await settle()
            host.step()
            host.step()
            assert await later == [2, 2]

    asyncio.run(main())


def test_forgotten_errors_are_not_complained_of(caplog: pytest.LogCaptureFixture):
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller) as mec:
            failing, behind, last = (mec.execute("1/0") for _ in range(3))
            await settle()
            host.step()
            await mec.barrier([failing, behind, last])
            forgotten = mec.execute("1/0")
            mec.flush()
            assert forgotten.done()
            del failing, behind, last, forgotten
            gc.collect()

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert caplog.records == []


def test_barrier_waits_for_all_and_swallows_errors():
    async def main() -> None:
        async with (
            model_cluster(2, eager=False) as (controller, host),
            connect(controller) as mec,
            connect(controller, "task") as tc,
        ):
            good, bad, gone = mec.execute("1", targets=0), mec.execute("1/0", targets=1), mec.execute("2", targets=1)
            withdrawn, task = mec.execute("3", targets=0), tc.submit(double, 4)
            withdrawn.cancel()
            with pytest.raises(TimeoutError, match=r"4 of 5 calls have not ended after 0\.01 s"):
                await mec.barrier([good, bad, gone, withdrawn, task], timeout=0.01)
            barrier = mec.barrier(iter([good, bad, gone, withdrawn, task]), timeout=60)
            while host.waiting:
                assert not barrier.done()
                host.step()
                await settle()
            assert await barrier is None
            assert await mec.barrier(task) is await mec.barrier([]) is None
            assert await task == 8
            with pytest.raises(QueueCleared):
                await gone
            with pytest.raises(TypeError, match="not for 3"):
                mec.barrier([good, 3])
            # It was waited for, not asked for.
            mec.flush()
            with pytest.raises(InvalidDeferredID):
                await bad

    asyncio.run(main())


def test_a_cancelled_barrier_leaves_the_calls_alone():
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller) as mec:
            call = mec.apply(double, 3)
            barrier = mec.barrier(call)
            await settle()
            barrier.cancel()
            await settle()
            host.step()
            assert await call == [6]

    asyncio.run(main())


def test_metadata_of_calls_of_views_of_failures_and_of_tasks():
    async def main() -> None:
        async with (
            model_cluster(3, eager=False) as (controller, host),
            connect(controller) as mec,
            connect(controller, "task") as tc,
        ):
            before = time.time()
            call, failing, bare = mec.execute("id", targets=[2, 0]), mec.execute("1/id", targets="all"), mec[1].keys()
            await settle()
            host.step(stdout=b"out", stderr=b"err")
            while host.waiting:
                host.step()
                await settle()
            await call
            assert [(info.engine, info.stdout, info.stderr) for info in call.metadata] == [
                (2, "out", "err"),
                (0, "", ""),
            ]
            assert all(before <= info.submitted <= time.time() for info in call.metadata)
            assert [(info.started, info.completed, info.attempt) for info in call.metadata] == [(0.0, 0.001, 1)] * 2
            with pytest.raises(CompositeError):
                await failing
            assert [info.engine for info in failing.metadata] == [0, 1, 2]
            assert await bare == []
            assert bare.metadata.engine == 1
            task = tc.submit(double, 1)
            await settle()
            for _ in range(2):
                host.die(host.waiting[0].engine)
                await settle()
            host.step()
            assert await task == 2
            assert task.metadata.attempt == 3
            lost = tc.submit(double, 1)
            await settle()
            for _ in range(3):
                host.die(host.waiting[0].engine)
                await settle()
            with pytest.raises(aioparallel.TaskPoisoned):
                await lost
            assert (lost.metadata.attempt, lost.metadata.started) == (3, None)
            assert (await mec.get_ids(), mec.get_ids().cancel()) == ([0, 1, 2], True)

    asyncio.run(main())


def test_cancellation_reaches_what_waits_and_what_runs_on_a_real_engine():
    async def main() -> None:
        async with aioparallel.Cluster(1) as cluster, cluster.multiengine() as mec, cluster.task() as tc:
            await mec.push({"kept": 7})
            for submit in (lambda: mec.execute("import time; time.sleep(1000)"), lambda: tc.submit(time.sleep, 1000)):
                running = submit()
                waiting = mec.execute("kept = 8")
                while (await mec.queue_status())[0]["pending"] is None:
                    pass
                assert waiting.cancel()
                assert running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
                async with asyncio.timeout(30):
                    assert await mec.pull("kept") == [7]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await mec.execute("while True: pass")
            async with asyncio.timeout(30):
                assert await mec[0].pull("kept") == 7

    asyncio.run(main())
