"""Faults of real processes: kernels and hosts are killed while tasks run, and no task is lost or answered twice."""

from __future__ import annotations

import functools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aioparallel import client
from aioparallel.errors import EngineLost, TaskPoisoned

#: Seconds within which what must happen at once does, on a loaded machine.
SOON = 30.0


def square(i: int) -> tuple[int, int]:
    """Take a moment; say where."""
    total = sum(range(2000))
    assert total
    return i * i, os.getpid()


def poison() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_until(condition: Any, seconds: float = SOON) -> None:
    """Look again and again: what is waited for happens in other processes, which tell nobody."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.002)


def kernels(monitor: client.MonitorClient) -> list[int]:
    """Return the pids of the kernels that work."""
    return [engine["pid"] for engine in monitor.status()["engines"] if engine["state"] in ("idle", "running")]


def deaths(monitor: client.MonitorClient) -> int:
    return sum(engine["deaths"] for engine in monitor.status()["engines"])


def is_there(pid: int) -> bool:
    """Return whether a process runs (one that nobody has waited for yet does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def cluster() -> Iterator[client.Cluster]:
    with client.Cluster(2) as made:
        yield made


def test_thirty_kernels_are_killed_and_no_task_is_lost_or_answered_twice(cluster: client.Cluster) -> None:
    dice = random.Random(30)
    answered: Counter[int] = Counter()
    worked: set[int] = set()
    killed: list[int] = []

    def took(i: int, future: Any) -> None:
        answered[i] += 1
        worked.add(future.result()[1])

    with cluster.task() as tc, cluster.client("monitor") as monitor:
        futures: list[Any] = []

        def submit(n: int) -> None:
            for i in range(len(futures), len(futures) + n):
                futures.append(tc.submit(square, i))
                futures[i].add_done_callback(functools.partial(took, i))

        def worthy() -> list[int]:
            # One that is killed again and again before it has done anything is called broken, and rightly so.
            return [pid for pid in kernels(monitor) if pid in worked and pid not in killed]

        while len(killed) < 30:
            submit(66)
            wait_until(worthy)
            killed.append(dice.choice(worthy()))
            assert b"aioparallel.kernel" in Path(f"/proc/{killed[-1]}/cmdline").read_bytes()
            os.kill(killed[-1], signal.SIGKILL)
        submit(20)
        values = [future.result(SOON) for future in futures]
        assert [value for value, _ in values] == [i * i for i in range(2000)]
        assert answered == Counter(range(2000))
        wait_until(lambda: deaths(monitor) == 30)


def test_five_poison_tasks_are_told_from_a_thousand() -> None:
    with client.Cluster(4) as cluster, cluster.task() as tc:
        places = [100, 300, 500, 700, 900]
        futures = [tc.submit(poison) if i in places else tc.submit(square, i) for i in range(1000)]
        failed = {}
        for i, future in enumerate(futures):
            error = future.exception(SOON)
            if error is not None:
                failed[i] = error
        assert list(failed) == places
        for error in failed.values():
            assert isinstance(error, TaskPoisoned)
            assert len(error.deaths) == 3
            assert len({death.engine for death in error.deaths}) >= 2
            assert {death.reason for death in error.deaths} == {"killed by SIGKILL"}
        with cluster.client("monitor") as monitor:
            assert deaths(monitor) <= 15
        status = tc.queue_status()
        assert (status["succeeded"], status["failed"]) == (995, 5)


def test_poison_first_does_not_keep_the_innocent_waiting(cluster: client.Cluster) -> None:
    with cluster.task() as tc:
        poisoned = [tc.submit(poison) for _ in range(4)]
        innocent = [tc.submit(square, i) for i in range(20)]
        assert [future.result(SOON)[0] for future in innocent] == [i * i for i in range(20)]
        for future in poisoned:
            assert isinstance(future.exception(SOON), TaskPoisoned)


def hold_the_lock(directory: str) -> int:
    """Write down who runs this, and where; the first one never gives the GIL away again."""
    place = Path(directory)
    first = not any(place.iterdir())
    (place / str(os.getpid())).touch()
    if first:
        # One call into C that takes for ever: no signal handler runs, and no other thread.
        pow(3, 10**9, 2 ** (10**7) + 1)
    return os.getpid()


@pytest.mark.parametrize("careful", [False, True])
def test_a_host_dies_while_its_kernel_holds_the_lock(cluster: client.Cluster, tmp_path: Path, careful: bool) -> None:
    with cluster.task() as tc, cluster.client("monitor") as monitor:
        future = tc.options(at_most_once=careful).submit(hold_the_lock, str(tmp_path))
        wait_until(lambda: len(list(tmp_path.iterdir())) == 1)
        (stuck,) = (int(entry.name) for entry in tmp_path.iterdir())
        own = kernels(monitor)
        cluster.add_engines(1)
        host = int(Path(f"/proc/{stuck}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(host, signal.SIGKILL)
        # Its kernels die with it, whatever they are doing.
        wait_until(lambda: not any(map(is_there, own)))
        if careful:
            with pytest.raises(EngineLost):
                future.result(SOON)
        else:
            assert future.result(SOON) not in own
            assert tc.submit(square, 3).result(SOON)[0] == 9
