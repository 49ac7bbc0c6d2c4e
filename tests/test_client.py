"""The blocking face, on a real cluster of two engines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy
import pytest

from aioparallel import client
from aioparallel.errors import (
    CompositeError,
    ConnectionLost,
    EngineDied,
    InvalidEngineID,
    NoClusterError,
    OperationError,
    QueueCleared,
    RemoteError,
    SerializationError,
    TaskPoisoned,
)


def test_the_transcript(mec: client.MultiEngineClient):
    assert mec.get_ids() == [0, 1]
    first = mec.execute('print("Hello World")')
    number = first[0].number
    assert repr(first) == (
        "<Results List>\n"
        f'[0] In [{number}]: print("Hello World")\n'
        f"[0] Out[{number}]: Hello World\n"
        "\n"
        f'[1] In [{first[1].number}]: print("Hello World")\n'
        f"[1] Out[{first[1].number}]: Hello World\n"
    )


def test_block_is_an_attribute_and_an_argument(mec: client.MultiEngineClient):
    assert mec.apply(abs, -1) == [1, 1]
    pending = mec.apply(abs, -2, block=False)
    assert isinstance(pending, client.PendingResult)
    assert pending.r == pending.get_result() == pending.result() == [2, 2]
    mec.block = False
    assert mec.apply(abs, -3).r == [3, 3]
    assert mec.apply(abs, -4, block=True) == [4, 4]
    failing = mec.execute("1/0", targets=0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            _ = failing.r
    assert isinstance(failing.exception(), ZeroDivisionError)


def test_dictionary_and_views(mec: client.MultiEngineClient):
    assert len(mec) == 2
    mec["a"] = {"x": 1}
    assert mec["a"] == [{"x": 1}, {"x": 1}]
    mec.execute("b = id")
    assert mec[1]["b"] == 1
    assert mec[::-1]["b"] == [1, 0]
    assert mec[[1]]["b"] == [1]
    assert [result.id for result in mec[1:].execute("b")] == [1]
    assert mec[0].execute("b").value == "0"
    with pytest.raises(InvalidEngineID, match="no engine 7"):
        mec[7]
    with pytest.raises(NameError, match="nothing"):
        mec[0]["nothing"]


def test_pending_results_are_concurrent_futures(mec: client.MultiEngineClient, tc: client.TaskClient):
    pending = [mec.apply(abs, -i, targets=0, block=False) for i in range(20)]
    done, waiting = concurrent.futures.wait(pending, timeout=30)
    assert (len(done), len(waiting)) == (20, 0)
    futures = [tc.submit(abs, -i) for i in range(20)]
    assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == list(range(20))

    async def main() -> Any:
        return await asyncio.wrap_future(tc.submit(abs, -5))

    assert asyncio.run(main()) == 5


def test_waiting_in_a_callback_raises_and_does_not_hang(tc: client.TaskClient):
    seen: concurrent.futures.Future[BaseException] = concurrent.futures.Future()

    def callback(future: Any) -> None:
        try:
            tc.submit(abs, 1).result()
        except RuntimeError as error:
            seen.set_result(error)

    # Long enough to be under way when the callback is added: one that is done calls back right here.
    tc.submit(time.sleep, 0.3).add_done_callback(callback)
    assert "callback can't wait" in str(seen.result(30))


def test_many_threads_share_a_client(tc: client.TaskClient):
    def work(k: int) -> list[int]:
        return [tc.submit(pow, k, 2).result() for _ in range(20)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [[k * k] * 20 for k in range(8)]


def test_output_of_python_c_and_children_comes_with_its_command(mec: client.MultiEngineClient):
    code = """
import os, subprocess, sys
print("python")
os.write(1, b"descriptor\\n")
subprocess.run(["echo", "child"], check=True)
print("last", end="")
print("complaint", file=sys.stderr)
"""
    for result in mec.execute(code):
        assert result.stdout == "python\ndescriptor\nchild\nlast"
        assert result.stderr == "complaint\n"
    for i in range(20):
        assert mec.execute(f"print({i})", targets=0)[0].stdout == f"{i}\n"


def test_coroutine_functions_are_awaited_on_the_engine(mec: client.MultiEngineClient, tc: client.TaskClient):
    async def f(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    assert mec.apply(f, 4) == [8, 8]
    assert tc.submit(f, 5).result() == 10


def test_arrays_arrive_writable(mec: client.MultiEngineClient, tc: client.TaskClient):
    array = numpy.arange(1_000_000.0)
    back = tc.submit(lambda a: a.__setitem__(0, 7.0) or a, array).result()
    assert back[0] == 7.0
    back[1] = 8.0
    assert (back[2:] == array[2:]).all()
    mec.push({"a": array})
    for copy in mec["a"]:
        copy += 1


def test_an_error_of_one_and_of_several(mec: client.MultiEngineClient):
    with pytest.raises(ZeroDivisionError) as caught:
        mec.execute("x = 1\n1/0", targets=1)
    assert caught.value.engine_id == 1
    assert "line 2" in caught.value.__notes__[0]
    assert "1/0" in caught.value.__notes__[0]
    with pytest.raises(CompositeError, match=r"\[0:execute\]: ZeroDivisionError"):
        mec.execute("1/0")
    with pytest.raises(RemoteError, match="SystemExit"):
        mec.execute("raise SystemExit(3)", targets=0)
    with pytest.raises(SerializationError, match=r"args\[0\]: cannot pickle '_thread.lock' object"):
        mec.apply(print, threading.Lock())


def test_a_failure_clears_the_queue(mec: client.MultiEngineClient):
    mec.block = False
    first = mec.execute("import time; time.sleep(0.05); 1/0", targets=0)
    behind = [mec.execute("x = 1", targets=0) for _ in range(3)]
    with pytest.raises(ZeroDivisionError):
        first.result()
    for pending in behind:
        with pytest.raises(QueueCleared):
            pending.result()
    assert mec.execute("1", targets=0).r[0].value == "1"


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(1000)"])
def test_interrupt_from_outside_keeps_the_namespace(mec: client.MultiEngineClient, code: str):
    mec.push({"kept": 5})
    running = mec.execute(code, targets=0, block=False)
    while mec.queue_status(targets=0)[0]["pending"] is None:
        pass
    mec.interrupt(targets=0)
    with pytest.raises(RemoteError, match="KeyboardInterrupt"):
        running.result(30)
    assert mec.pull("kept", targets=0) == [5]


def test_cancelling_interrupts_what_runs(tc: client.TaskClient, mec: client.MultiEngineClient):
    future = tc.submit(time.sleep, 1000)
    while not any(status["pending"] for status in mec.queue_status()):
        pass
    assert future.cancel()
    assert future.cancelled()
    assert mec.apply(abs, -1) == [1, 1]


def test_a_killed_kernel_is_told_at_once_and_its_engine_works_again(mec: client.MultiEngineClient):
    pid = mec[0].apply(os.getpid)
    running = mec.execute("print('last words', flush=True); import time; time.sleep(60)", targets=0, block=False)
    while mec.queue_status(targets=0)[0]["pending"] is None:
        pass
    start = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineDied, match="SIGKILL") as caught:
        running.result(30)
    took = time.perf_counter() - start
    assert took < 5, "told by a deadline, not by the death"
    assert caught.value.engine_id == 0
    assert caught.value.reason == "killed by SIGKILL"
    assert mec.execute("1 + 1", targets=0)[0].value == "2"
    assert mec[0].apply(os.getpid) != pid
    with pytest.raises(NameError):
        mec.pull("kept", targets=0)


def test_restart_gives_a_fresh_kernel_under_the_same_id(mec: client.MultiEngineClient):
    mec.push({"a": 1})
    before = mec.apply(os.getpid)
    mec.restart(targets=1)
    after = mec.apply(os.getpid)
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
    assert mec.keys() == [["a"], []]
    assert mec.get_ids() == [0, 1]


def test_a_task_survives_the_death_of_its_kernel_and_poison_is_given_up(tc: client.TaskClient, tmp_path: Path):
    mark = tmp_path / "mark"

    def die_once(path: str) -> str:
        if not os.path.exists(path):
            open(path, "w").close()
            os._exit(7)
        return "survived"

    assert tc.submit(die_once, str(mark)).result(60) == "survived"
    with pytest.raises(TaskPoisoned, match="exit status 9"):
        tc.submit(os._exit, 9).result(60)
    assert tc.submit(abs, -1).result(60) == 1


def test_map_in_order_and_as_they_come(tc: client.TaskClient):
    assert list(tc.map(pow, range(1000), range(1000), chunksize=None)) == [i**i for i in range(1000)]
    assert sorted(tc.map(abs, range(-100, 0), ordered=False)) == list(range(1, 101))
    with pytest.raises(ZeroDivisionError):
        list(tc.map(lambda x: 1 // x, [1, 0]))
    endless = tc.map(abs, iter(int, 1))
    assert [next(endless) for _ in range(10)] == [0] * 10
    endless.close()


def test_a_message_above_the_limit_is_refused_here(cluster: client.Cluster):
    with client.TaskClient(cluster.capability("task"), limits=client.Limits(message=10_000)) as tc:
        with pytest.raises(client.MessageTooLarge, match="above the limit of 10,000 bytes"):
            tc.submit(len, bytes(20_000))
        assert tc.submit(len, bytes(100)).result() == 100


def test_a_result_that_cannot_be_sent_is_an_error_of_that_call_only(tc: client.TaskClient):
    with pytest.raises(SerializationError, match=r"cannot send result: cannot pickle '_thread.lock' object"):
        tc.submit(lambda: threading.Lock()).result()
    assert tc.submit(abs, -1).result() == 1


def test_what_cannot_be_found_is_said_in_words(cluster: client.Cluster, tmp_path: Path):
    with pytest.raises(NoClusterError, match=r"aiocluster start -n 4"):
        client.TaskClient()
    with pytest.raises(client.ConfigurationError, match="for the interface 'task'"):
        client.MultiEngineClient(cluster.capability("task"))
    with pytest.raises(client.ConfigurationError, match="no interface named 'engine'"):
        cluster.client("engine")
    tc = client.TaskClient(cluster.capability("task"))
    tc.close()
    tc.close()
    with pytest.raises(ConnectionLost, match="this client was closed"):
        tc.submit(abs, 1)
    with client.MultiEngineClient(cluster.capability("multiengine")) as mec, pytest.raises(OperationError):
        mec.execute("1", targets=[0, 0])


def test_the_monitor_says_what_an_engine_is_doing(cluster: client.Cluster, mec: client.MultiEngineClient):
    monitor = cluster.client("monitor")
    running = mec.apply(sorted, range(5_000_000, 0, -1), targets=1, block=False)
    while (engine := monitor.status()["engines"][1])["state"] != "running":
        pass
    assert engine["doing"] == "sorted"
    running.cancel()


def test_status_is_there_at_once_while_an_engine_holds_its_gil(cluster: client.Cluster, mec: client.MultiEngineClient):
    monitor = cluster.client("monitor")
    # One call into C that takes seconds: nobody in that process answers meanwhile.
    mec.execute("numbers = [i * 2654435761 % 2**32 for i in range(5_000_000)]", targets=0)
    busy = mec.execute("len(sorted(numbers))", targets=0, block=False)
    while monitor.status()["engines"][0]["state"] != "running":
        pass
    waits = []
    for _ in range(10):
        began = time.monotonic()
        one, other = monitor.status()["engines"]
        waits.append(time.monotonic() - began)
        assert (one["doing"], one["state"]) == ("len(sorted(numbers))", "running")
        assert (other["doing"], other["state"]) == (None, "idle")
    assert not busy.done()
    assert one["seconds"] >= sum(waits) / 2
    assert busy.r[0].value == "5000000"


def test_it_works_where_a_loop_already_runs(cluster: client.Cluster):
    async def main() -> int:
        with client.TaskClient(cluster.capability("task")) as tc:
            value: int = tc.submit(abs, -3).result()
            return value

    assert asyncio.run(main()) == 3


def test_ctrl_c_at_any_moment_leaves_the_client_usable(tc: client.TaskClient):
    calls, interrupts, over = 0, 0, threading.Event()
    armed = threading.Event()
    pauses = random.Random(7)

    def press() -> None:
        while not over.wait(pauses.random() * 0.004):
            if armed.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    try:
        while interrupts < 150:
            try:
                armed.set()
                calls += tc.submit(abs, -1).result()
                armed.clear()
            except KeyboardInterrupt:
                armed.clear()
                interrupts += 1
            try:
                assert tc.submit(abs, -7).result(30) == 7
            except KeyboardInterrupt:
                interrupts += 1  # it had been pressed before we disarmed
    finally:
        over.set()
        presser.join()
    assert calls > 150
    assert tc.submit(abs, -3).result() == 3
