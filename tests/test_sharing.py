"""Large messages between real processes of one machine: in memory they share, and nothing of it is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from aioparallel import MultiEngineClient, Reference, TaskClient, client, memory
from aioparallel.errors import EngineDied, MessageTooLarge
from aioparallel.wire import Limits

pytestmark = pytest.mark.skipif(not memory.AVAILABLE, reason="SHARED MEMORY WAS NOT TESTED: this system has no memfd")

LARGE = numpy.arange(2**18, dtype=float)  # 2 MiB


@pytest.fixture(scope="module", params=["unix", "tls"])
def cluster(request: pytest.FixtureRequest) -> Iterator[client.Cluster]:
    listen = {"tls": {"listen": "tls://127.0.0.1:0"}}.get(request.param, {})
    with client.Cluster(n=3, **listen) as started:
        yield started


def _inodes(pid: int) -> set[str]:
    """The segments that a process has mapped or open."""
    mapped = re.findall(r"(\d+) +/memfd:aioparallel \(deleted\)$", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE)
    found = set(mapped)
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            if os.readlink(entry) == "/memfd:aioparallel (deleted)":
                found.add(str(entry.stat().st_ino))
    return found


def _family() -> list[int]:
    """This process and all below it: controller, host, kernels."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    family = [os.getpid()]
    for member in family:
        family += [pid for pid, parent in parents.items() if parent == member]
    return family


def _pids(mec: client.MultiEngineClient) -> list[int]:
    pids: list[int] = mec.apply(os.getpid)
    return pids


def test_all_engines_of_a_machine_have_one_copy(mec: client.MultiEngineClient) -> None:
    mec.push({"a": LARGE})
    held = [_inodes(pid) for pid in _pids(mec)]
    assert held[0]
    assert held[0] == held[1] == held[2]
    assert len(held[0]) == 1
    mec.reset()
    assert [_inodes(pid) for pid in _pids(mec)] == [set()] * 3


def test_arrays_can_be_changed_and_nobody_else_sees_it(mec: client.MultiEngineClient) -> None:
    mec.push({"a": LARGE})
    mec.execute("a[0] = -1", targets=1)
    assert mec.execute("float(a[0])")[1].value == "-1.0"
    assert [result.value for result in mec.execute("float(a[0]), float(a.sum())")] == [
        f"({first}, {LARGE.sum() + (first or 0.0)})" for first in (0.0, -1.0, 0.0)
    ]
    assert LARGE[0] == 0
    back = mec.pull("a")
    back[0][0] = 5
    assert [array[0] for array in mec.pull("a")] == [0, -1, 0]
    assert all((array[1:] == LARGE[1:]).all() for array in back)


def test_readonly_arrays_stay_one_copy(mec: client.MultiEngineClient) -> None:
    mec.push({"a": LARGE, "small": numpy.zeros(3), "n": 1}, readonly=True)
    with pytest.raises(ValueError, match="read-only"):
        mec.execute("a[0] = 1", targets=0)
    with pytest.raises(ValueError, match="read-only"):
        mec.execute("small[0] = 1", targets=0)
    assert mec.pull("n", targets=0) == [1]


@pytest.mark.parametrize(
    "value",
    [
        bytes(10**6),
        bytearray(10**6),
        "ä" * 10**6,
        list(range(300_000)),
        {"a": LARGE, "b": [LARGE[::2], LARGE.reshape(512, 512).T]},
    ],
    ids=["bytes", "bytearray", "str", "list", "arrays"],
)
def test_whatever_is_large_arrives(mec: client.MultiEngineClient, value: Any) -> None:
    returned = mec.apply(lambda x: x, value)
    assert len(returned) == 3
    for back in returned:
        assert type(back) is type(value)
        if isinstance(value, dict):
            assert (back["a"] == LARGE).all()
            assert (back["b"][1] == value["b"][1]).all()
        else:
            assert back == value


def _flat(mec: client.MultiEngineClient, work: Callable[[], Any]) -> None:
    """Check that doing it again and again leaves nothing anywhere."""

    def held() -> list[int]:
        gc.collect()
        mec.apply(lambda: __import__("gc").collect())
        return [len(_inodes(pid)) for pid in _family()]

    for _ in range(3 * memory.KEPT):
        work()
    # Each keeps a few for what comes next, and the controller and the host none at all.
    client_holds, *others = held()
    assert client_holds <= memory.KEPT
    assert sorted(others)[:2] == [0, 0]
    assert max(others) <= memory.KEPT


def test_nothing_is_left_of_what_came_and_went(mec: client.MultiEngineClient) -> None:
    _flat(mec, lambda: mec.apply(lambda x: x, LARGE))


def test_nothing_is_left_of_errors(mec: client.MultiEngineClient) -> None:
    def fail() -> None:
        with pytest.raises(ZeroDivisionError):
            mec.apply(lambda x: 1 / 0, LARGE, targets=1)

    _flat(mec, fail)


def test_nothing_is_left_of_what_was_withdrawn(mec: client.MultiEngineClient) -> None:
    def withdraw() -> None:
        pending = [mec.apply(lambda x: x, LARGE, block=False) for _ in range(3)]
        for one in pending:
            one.cancel()
        assert mec.apply(lambda: 1) == [1, 1, 1]

    _flat(mec, withdraw)


def test_the_next_one_is_written_into_the_same_pages(mec: client.MultiEngineClient) -> None:
    for _ in range(5):
        mec.apply(len, LARGE)
    assert 1 <= len(mec._channel._departures.pool) <= 3


def test_a_result_survives_the_kernel_that_gave_it(mec: client.MultiEngineClient) -> None:
    mec.execute("import os, numpy; a = numpy.ones(10**6)", targets=0)
    pulled = mec.pull("a", targets=0, block=False)
    died = mec.execute("os._exit(3)", targets=0, block=False)
    assert (pulled.r[0] == 1).all()
    with pytest.raises(EngineDied):
        died.result()
    assert mec.pull("id", targets=0) == [0]


def test_what_a_client_pushed_survives_the_client(cluster: client.Cluster, mec: client.MultiEngineClient) -> None:
    with client.MultiEngineClient(cluster.capability("multiengine")) as other:
        other.push({"a": LARGE})
    assert [result.value for result in mec.execute("float(a.sum())")] == [str(float(LARGE.sum()))] * 3


def test_a_kernel_killed_with_large_arguments_is_answered_for(mec: client.MultiEngineClient, tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    [pid] = mec.apply(os.getpid, targets=2)
    mec.execute("import os, time", targets=2)
    mec.execute("def mark(x, path): os.mkdir(path); time.sleep(60)", targets=2)
    running = mec.apply(Reference("mark"), LARGE, mark, targets=2, block=False)
    queued = mec.apply(len, LARGE, targets=2, block=False)
    queued.cancel()
    while not Path(mark).exists():
        pass
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineDied):
        running.result()
    assert mec.apply(len, LARGE) == [len(LARGE)] * 3


def test_tasks_and_the_asyncio_face(cluster: client.Cluster) -> None:
    async def main() -> None:
        async with MultiEngineClient(cluster.capability("multiengine")) as mec:
            for back in await mec.apply(lambda x: x + 1, LARGE):
                assert (back == LARGE + 1).all()
        async with TaskClient(cluster.capability("task")) as tasks:
            handles = [tasks.submit(lambda x, n: x * n, LARGE, n) for n in range(8)]
            for n, handle in enumerate(handles):
                assert (await handle == LARGE * n).all()

    asyncio.run(main())


STAGED = numpy.arange(2**20, dtype=float)  # 8 MiB: copied by a thread when the caller is a loop


def test_the_asyncio_face_copies_in_a_thread_and_keeps_the_order(cluster: client.Cluster) -> None:
    async def main() -> None:
        async with MultiEngineClient(cluster.capability("multiengine")) as mec:
            await mec.reset()
            await mec.execute("done = []")
            handles = []
            for n in range(6):
                handles += [
                    mec.push({"a": STAGED * n}, targets=n % 3),
                    mec.execute(f"done.append(({n}, a[1]))", targets=n % 3),
                    mec.execute(f"done.append({n})"),
                ]
            assert not handles[0].done()
            await asyncio.gather(*handles)
            expected: list[list[Any]] = [[], [], []]
            for n in range(6):
                expected[n % 3].append((n, n))
                for done in expected:
                    done.append(n)
            assert await mec.pull("done") == expected

    asyncio.run(main())


def test_what_is_being_copied_can_be_withdrawn(cluster: client.Cluster) -> None:
    async def main() -> None:
        async with MultiEngineClient(cluster.capability("multiengine")) as mec:
            await mec.reset()
            pushes = [mec.push({"a": STAGED}) for _ in range(5)]
            behind = mec.execute("b = 1")
            for push in pushes:
                push.cancel()
            await behind
            assert await mec.apply(lambda: 1) == [1, 1, 1]
            assert not mec.channel._departures.line.leaving
            assert not mec.channel._departures.lent
            # The connection may end in the middle as well.
            mec.push({"a": STAGED})

    asyncio.run(main())


def test_a_bound_is_a_bound_and_zero_shares_nothing(cluster: client.Cluster) -> None:
    capability = cluster.capability("multiengine")
    with client.MultiEngineClient(capability, limits=Limits(message=2**20)) as mec:
        with pytest.raises(MessageTooLarge):
            mec.push({"a": LARGE})
    with client.MultiEngineClient(capability, limits=Limits(share=0)) as mec:
        assert (mec.apply(lambda x: x, LARGE, targets=0)[0] == LARGE).all()
        assert not mec._channel._departures.lent
        assert not len(mec._channel._departures.pool)
