"""PendingResult: a concurrent future with the ways of the lineage, on a real cluster of two engines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import threading
import time
from typing import Any

import pytest

from aioparallel import client
from aioparallel.errors import CompositeError, InvalidDeferredID, QueueCleared


@pytest.fixture
def mec(mec: client.MultiEngineClient) -> client.MultiEngineClient:
    """One that waits for nothing."""
    mec.block = False
    return mec


def wait_until_busy(mec: client.MultiEngineClient, engine: int = 0) -> None:
    while mec.queue_status(targets=engine, block=True)[0]["pending"] is None:
        pass


def test_it_gives_its_value_or_its_error_each_time(mec: client.MultiEngineClient):
    pending, failing = mec.apply(abs, -1), mec[1].execute("1/0")
    for _ in range(2):
        assert pending.r == pending.get_result() == pending.result() == [1, 1]
        for read in (failing.result, failing.get_result, lambda: failing.r):
            with pytest.raises(ZeroDivisionError):
                read()
    slow = mec.execute("import time; time.sleep(0.2)", targets=0)
    assert slow.get_result("not yet", block=False) == "not yet"
    assert slow.get_result("not yet")[0].id == 0
    assert slow.get_result("not yet", block=False)[0].id == 0


def test_callbacks_make_the_value(mec: client.MultiEngineClient):
    pending = mec.apply(abs, -3)
    pending.add_callback(sum)
    pending.add_callback(lambda total, more: total + more, 10)
    assert pending.r == 16
    pending.add_callback(str)
    assert pending.r == "16"
    pending.add_callback(lambda: None)
    with pytest.raises(TypeError):
        _ = pending.r
    failing, seen = mec.execute("1/0"), []
    failing.add_callback(seen.append)
    with pytest.raises(CompositeError):
        _ = failing.r
    assert seen == []


def test_to_wait_in_a_callback_is_refused(mec: client.MultiEngineClient):
    seen: concurrent.futures.Future[list[str]] = concurrent.futures.Future()
    pending = mec.execute("import time; time.sleep(0.2)", targets=0)

    def callback(value: Any) -> Any:
        texts = []
        for wait in (lambda: pending.r, pending.result, pending.get_result, lambda: mec.apply(abs, 1, block=True)):
            try:
                wait()
            except RuntimeError as error:
                texts.append(str(error))
        seen.set_result(texts)
        return value

    pending.add_callback(callback)
    assert pending.r[0].id == 0
    texts = seen.result(30)
    assert len(texts) == 4
    assert all("callback can't wait" in text for text in texts)


def test_timeouts_leave_the_call_alone(mec: client.MultiEngineClient):
    pending = mec.execute("import time; time.sleep(0.3); 5", targets=0)
    for wait in (pending.result, pending.exception):
        with pytest.raises(TimeoutError, match=r"has not ended after .* s; it goes on"):
            wait(timeout=0.01)
    with pytest.raises(TimeoutError, match="1 of 1 calls"):
        mec.barrier(pending, timeout=0.01)
    assert pending.result(timeout=30)[0].value == "5"


def test_what_is_written_for_concurrent_futures_works(mec: client.MultiEngineClient):
    good, bad = mec.apply(abs, -1), mec.execute("1/0", targets=0)
    withdrawn = mec.execute("import time; time.sleep(1000)", targets=1)
    withdrawn.cancel()
    pending = [good, bad, withdrawn]
    done, waiting = concurrent.futures.wait(pending, timeout=30)
    assert (len(done), len(waiting)) == (3, 0)
    assert set(concurrent.futures.as_completed(pending, timeout=30)) == set(pending)
    called: list[Any] = []
    for future in pending:
        future.add_done_callback(called.append)
    assert called == pending
    late = mec.apply(abs, -2)
    late.add_done_callback(lambda future: called.append(future.result()))
    assert concurrent.futures.wait([late], 30).done
    late.r  # noqa: B018  (whoever wakes first)
    while len(called) < 4:
        pass
    assert called[3] == [2, 2]

    async def main() -> Any:
        return await asyncio.wrap_future(mec.apply(abs, -5))

    assert asyncio.run(main()) == [5, 5]


def test_one_that_is_cancelled_wakes_those_who_wait(mec: client.MultiEngineClient):
    pending = mec.execute("import time; time.sleep(1000)", targets=0)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        waits = [
            pool.submit(lambda: concurrent.futures.wait([pending], 30).done),
            pool.submit(pending.exception),
            pool.submit(mec.barrier, pending),
        ]
        wait_until_busy(mec)
        assert pending.cancel()
        assert pending.cancel()
        assert waits[0].result(30) == {pending}
        assert isinstance(waits[1].exception(30), concurrent.futures.CancelledError)
        assert waits[2].result(30) is None


def test_cancellation_reaches_what_waits_and_what_runs(cluster: client.Cluster, mec: client.MultiEngineClient):
    mec.push({"kept": 7}).result()
    with client.TaskClient(cluster.capability("task")) as tc:
        for code in ("while True: pass", "import time; time.sleep(1000)"):
            running = mec.execute(code)
            waiting, task = mec.execute("kept = 8"), [tc.submit(time.sleep, 1000) for _ in range(3)]
            wait_until_busy(mec)
            assert waiting.cancel()
            assert running.cancel()
            assert all(one.cancel() for one in task)
            assert mec.pull("kept").result(30) == [7, 7]


def test_flush_forgets_what_nobody_has_asked_for(mec: client.MultiEngineClient):
    done, read, chained = mec.apply(abs, -1), mec.apply(abs, -2), mec.apply(abs, -3)
    assert read.r == [2, 2]
    mec.barrier([done, read, chained])
    chained.add_callback(sum)
    under_way = mec.execute("import time; time.sleep(0.1); flushed = 1", targets=0)
    withdrawn = mec.apply(abs, -4)
    withdrawn.cancel()
    assert mec.flush() is None
    for pending in (done, under_way):
        for wait in (pending.result, pending.get_result, pending.exception, lambda: pending.r):  # noqa: B023
            if wait == pending.exception:
                assert isinstance(wait(), InvalidDeferredID)
                continue
            with pytest.raises(InvalidDeferredID, match="forgotten"):
                wait()
        assert pending.done()
        assert pending.metadata == []
    with pytest.raises(concurrent.futures.CancelledError):
        withdrawn.result()
    assert (read.r, chained.r) == ([2, 2], 6)
    assert mec.pull("flushed", targets=0).r == [1]
    assert mec[0].apply(abs, -9, block=True) == 9
    assert mec._channel._pending == mec._channel._partial == {}


def test_flush_leaves_those_alone_who_wait_in_other_threads(mec: client.MultiEngineClient):
    stop = threading.Event()

    def flush() -> None:
        while not stop.is_set():
            mec.flush()

    thread = threading.Thread(target=flush)
    thread.start()
    try:
        for i in range(50):
            assert mec.apply(abs, -i, block=True) == [i, i]
            pending = mec.apply(abs, -i)
            with contextlib.suppress(InvalidDeferredID):
                assert pending.r == [i, i]
    finally:
        stop.set()
        thread.join()


def test_barrier_swallows_errors(mec: client.MultiEngineClient):
    failing = mec.execute("import time; time.sleep(0.1); 1/0", targets=0)
    behind, elsewhere = mec.execute("1", targets=0), mec.execute("1", targets=1)
    assert mec.barrier((failing, behind, elsewhere), timeout=60) is None
    assert all(pending.done() for pending in (failing, behind, elsewhere))
    with pytest.raises(QueueCleared):
        _ = behind.r
    assert mec.barrier(failing) is mec.barrier([]) is None
    with pytest.raises(TypeError, match="block=False, not for \\[1, 1\\]"):
        mec.barrier([mec.apply(abs, -1, block=True)])


def test_ctrl_c_ends_the_wait_and_not_the_call(mec: client.MultiEngineClient):
    for wait in (lambda pending: pending.result(), mec.barrier):
        pending = mec.execute("import time; time.sleep(0.5); 5", targets=0)
        wait_until_busy(mec)
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            wait(pending)
        timer.join()
        assert not pending.cancelled()
        assert pending.result(30)[0].value == "5"


def test_metadata(cluster: client.Cluster, mec: client.MultiEngineClient):
    before = time.time()
    pending = mec.execute("import sys, time; print(id); print('oh', file=sys.stderr); time.sleep(0.05)", targets=[1, 0])
    pending.result()
    one, other = pending.metadata
    assert (one.engine, one.stdout, one.stderr, one.attempt) == (1, "1\n", "oh\n", 1)
    assert (other.engine, other.stdout) == (0, "0\n")
    assert before <= one.submitted <= one.started < one.completed <= time.time()
    failing = mec[0].execute("print('so far'); 1/0")
    assert isinstance(failing.exception(), ZeroDivisionError)
    assert (failing.metadata.engine, failing.metadata.stdout) == (0, "so far\n")
    missing = mec.execute("1", targets=7)
    assert missing.exception() is not None
    assert missing.metadata == []
    with client.TaskClient(cluster.capability("task")) as tc:
        task = tc.submit(print, "task")
        task.result()
        assert isinstance(task.metadata, client.CallInfo)
        assert (task.metadata.stdout, task.metadata.attempt) == ("task\n", 1)


def test_metadata_keeps_no_payload_alive(mec: client.MultiEngineClient):
    pending = mec[0].apply(bytes, 10_000_000)
    assert len(pending.r) == 10_000_000
    assert sum(len(part) for part in pending.answers if isinstance(part, bytes | bytearray)) < 1000
