"""Receipts: how the work of a task ended that was taken back, on both faces."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import json
import threading
import time
from typing import Any

import pytest
from model import ModelHost, model_cluster, play, settle

import aioparallel
from aioparallel import Receipt, client
from aioparallel.decoder import Decoder
from aioparallel.errors import ConnectionLost, TaskAborted, TaskTimeout, to_plain
from aioparallel.receipt import receipt_in
from aioparallel.wire import LAST, Kind, Limits, Status, encode

ENGINES = 1


def double(x: int) -> int:
    return 2 * x


def test_a_cancelled_task_hears_how_its_work_ended() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        running, waiting = tc.submit(double, 1), tc.submit(double, 2)
        await settle()
        assert running.receipt is None
        assert waiting.cancel()
        assert waiting.cancelled()
        assert waiting.receipt is None
        assert (await waiting.wait_receipt(10)).step == "waiting"
        assert running.cancel()
        assert not running.cancel()
        assert await running.wait_receipt() == running.receipt == Receipt("interrupt", running.receipt.seconds)
        assert running.cancelled()
        assert (running.metadata.engine, running.metadata.completed) == (0, None)
        assert waiting.metadata is None
        with pytest.raises(asyncio.CancelledError):
            await running

    play(story, "task", 1, eager=False)


def test_one_that_resists_is_waited_for() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        host.stubborn = True
        task = tc.submit(double, 1)
        await settle()
        task.cancel()
        with pytest.raises(TimeoutError):
            await task.wait_receipt(0.01)
        waiting = asyncio.ensure_future(task.wait_receipt())
        await settle()
        waiting.cancel()
        await settle()
        host.fault(TaskAborted("ended", step="kill", seconds=4.5))
        assert (await task.wait_receipt()).step == "kill"

    play(story, "task", 1, eager=False)


@pytest.mark.parametrize("turns", range(30))
def test_a_result_that_races_in_leaves_it_cancelled(turns: int) -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        task = tc.submit(double, 1)
        await settle()
        host.step()
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.cancel():
            assert (await task.wait_receipt()) == Receipt("finished", 0.0)
            assert task.cancelled()
        else:
            assert await task == 2
            assert task.receipt is None
            with pytest.raises(RuntimeError, match="this task was not cancelled"):
                await task.wait_receipt()

    play(story, "task", 1, eager=False)


def test_what_is_lost_with_the_connection_is_said_and_not_complained_of() -> None:
    complaints: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with model_cluster(1, eager=False) as (controller, host):
            host.stubborn = True
            async with aioparallel.TaskClient(controller.capability("task")) as tc:
                asked, forgotten = tc.submit(double, 1), tc.submit(double, 2)
                await settle()
                asked.cancel()
                forgotten.cancel()
                host.eager = False
                connection = tc.channel._connection
                connection.abort()
                await tc.channel._closed
                with pytest.raises(ConnectionLost):
                    await asked.wait_receipt()
                assert asked.receipt is None
                del forgotten, asked
                gc.collect()

    asyncio.run(main())
    assert complaints == []


def test_aborted_and_timed_out_tasks_have_one_too() -> None:
    async def story(tc: Any, host: ModelHost) -> None:
        aborted = tc.submit(double, 1)
        await settle()
        receipt = await tc.abort(aborted)
        with pytest.raises(TaskAborted):
            await aborted
        assert aborted.receipt == receipt
        late = tc.options(timeout=1).submit(double, 1)
        await settle()
        host.time_out()
        with pytest.raises(TaskTimeout):
            await late
        assert late.receipt is not None
        assert late.receipt.step == "terminate"

    play(story, "task", 1, eager=False)


def test_what_the_last_answer_says() -> None:
    def frames(**about: Any) -> Any:
        return Decoder(Limits()).feed(b"".join(map(bytes, encode(Kind.RESULT, 1, flags=LAST, **about))))

    fault = json.dumps(to_plain(TaskAborted("", step="kill", seconds=4.0))).encode()
    assert receipt_in(frames(code=Status.FAULT, header=fault)) == Receipt("kill", 4.0)
    other = json.dumps(to_plain(ConnectionLost("no"))).encode()
    assert receipt_in(frames(code=Status.FAULT, header=other)) == Receipt("finished", 0.0)
    assert receipt_in(frames(code=Status.CANCELLED)) == Receipt("waiting", 0.0)
    assert receipt_in(frames(code=Status.OK)) == Receipt("finished", 0.0)


def rest() -> None:
    print("begun", flush=True)
    time.sleep(60)


# The blocking face, on real engines


def test_on_the_blocking_face(tc: client.TaskClient) -> None:
    running = tc.submit(rest)
    begun = threading.Event()
    running.on_output(lambda piece: begun.set())
    assert begun.wait(30)
    waiting = tc.submit(double, 1)
    assert waiting.cancel()
    assert waiting.wait_receipt(30).step == "waiting"
    assert running.cancel()
    assert running.wait_receipt(30).step == "interrupt"
    assert running.receipt == running.wait_receipt()
    with pytest.raises(concurrent.futures.CancelledError):
        running.result()
    done = tc.submit(double, 1)
    assert done.result() == 2
    assert not done.cancel()
    assert done.receipt is None
    with pytest.raises(RuntimeError, match="this task was not cancelled"):
        done.wait_receipt()
    assert tc.channel._pending == {}


def test_cancelling_while_results_come_in_leaves_no_call_behind(tc: client.TaskClient) -> None:
    for _ in range(10):
        tasks = [tc.submit(double, i) for i in range(40)]
        threads = [threading.Thread(target=task.cancel) for task in tasks[::2]]
        for thread in threads:
            thread.start()
        tc.barrier(timeout=60)
        for thread in threads:
            thread.join()
        for i, task in enumerate(tasks):
            if task.cancelled():
                assert task.wait_receipt(30).step in ("waiting", "interrupt", "finished")
            else:
                assert task.result() == 2 * i
        assert tc.channel._pending == {}
