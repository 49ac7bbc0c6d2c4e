"""on_join: what engines do first that join late or restart, on model engines and on real ones."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest
from model import ModelHost, connect, model_cluster, settle

import aioparallel
from aioparallel import client, replay
from aioparallel.calls import MultiEngineCalls
from aioparallel.cli.status import engine_table
from aioparallel.errors import CompositeError, ConfigurationError, EngineDied, OperationError, QueueCleared
from aioparallel.events import Event, SetUpFailed
from aioparallel.handle import Handle
from aioparallel.serialize import pack, unpack
from aioparallel.wire import Frame, Status


def told(frame: Frame) -> str:
    """Say what a command is about."""
    words = unpack(frame.buffers)
    return str(words[2] if words[0] == "set_up" else words[1])


async def run_all(host: ModelHost) -> list[str]:
    """Run what waits at the host and what follows it; return what it was about, in order."""
    done = []
    await settle()
    while host.waiting:
        done.append(told(host.waiting[0]))
        host.step()
        await settle()
    return done


def test_steps_are_done_now_and_by_those_who_join_and_restart_in_order():
    async def main() -> None:
        async with model_cluster(2) as (controller, host), connect(controller) as mec:
            results = await mec.on_join.execute("import math; x = 1")
            assert [result.id for result in results] == [0, 1]
            assert await mec.on_join.push({"y": 2}) == [None, None]
            assert await mec.on_join.apply(abs, -3) == [3, 3]
            await mec.on_join.execute("z = x + y")
            assert await mec.on_join.list() == ["import math; x = 1", "push y", "abs", "z = x + y"]
            assert len(mec.on_join) == 4
            assert await host.join() == 2
            await settle()
            assert await mec.pull(["x", "y", "z"]) == [[1, 2, 3]] * 3
            host.fall(0)
            host.rise(0)
            await settle()
            assert host.spaces[0].names["z"] == 3
            assert await mec.pull("z") == [3, 3, 3]
            assert await mec.on_join.clear() == 4
            assert (len(mec.on_join), await mec.on_join.list()) == (0, [])
            host.fall(0)
            host.rise(0)
            with pytest.raises(NameError):
                await mec.pull("z", targets=0)

    asyncio.run(main())


def test_there_need_be_no_engines_yet_and_clients_come_and_go():
    async def main() -> None:
        async with model_cluster(0) as (controller, host):
            async with connect(controller) as mec:
                assert await mec.on_join.push({"a": 1}) == []
                assert repr(await mec.on_join.execute("b = a + 1")) == "<Results List>\n\n"
                assert mec.on_join.push({"c": 1}).cancel() is True
                await mec.get_ids()
                assert len(mec.on_join) == 3  # it was kept before it was cancelled
            async with connect(controller) as other:
                await other.get_ids()
                assert len(other.on_join) == 3
                await host.join()
                assert await other.pull("b") == [2]
                assert await other.on_join.clear() == 3

    asyncio.run(main())


def test_nobody_comes_before_them():
    async def main() -> None:
        async with (
            model_cluster(1, eager=False) as (controller, host),
            connect(controller) as mec,
            connect(controller, "task") as tc,
        ):
            steps = [mec.on_join.execute(f"step {i}" if i == 9 else f"s{i} = {i}") for i in range(2)]
            assert await run_all(host) == ["s0 = 0", "s1 = 1"]
            await asyncio.gather(*steps)
            # An engine that joins, while tasks wait for one.
            tasks = [tc.submit(eval, f"'task {i}'") for i in range(4)]
            commands = [mec.execute(f"c{i} = 1", targets=0) for i in range(2)]
            await settle()
            await host.join()
            await settle()
            late = [told(frame) for frame in host.waiting if frame.engine == 1]
            assert late == ["s0 = 0"]
            everything = await run_all(host)
            assert everything.index("s1 = 1") < max(i for i, name in enumerate(everything) if "eval" in name)
            await asyncio.gather(*tasks, *commands)
            # A kernel that dies, with work waiting for it, and more that comes meanwhile.
            tasks = [tc.submit(eval, "1") for _ in range(8)]
            running, waiting = mec.execute("r = 1", targets=0), mec.execute("w = 1", targets=1)
            await settle()
            for engine in (0, 1):
                host.fall(engine)
            tasks += [tc.submit(eval, "2") for _ in range(4)]
            await settle()
            for engine in (0, 1):
                host.rise(engine)
            during = mec.execute("d = s0 + s1")
            await settle()
            assert [(frame.engine, told(frame)) for frame in host.waiting] == [(0, "s0 = 0"), (1, "s0 = 0")]
            assert (await run_all(host))[:4] == ["s0 = 0", "s0 = 0", "s1 = 1", "s1 = 1"]
            await asyncio.gather(during, *tasks)
            await mec.barrier([running, waiting])

    asyncio.run(main())


def test_one_that_fails_at_first_is_raised_and_not_kept():
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, host), connect(controller) as mec:
            bad, good = mec.on_join.execute("1/id"), mec.on_join.push({"a": 1})
            await run_all(host)
            with pytest.raises(CompositeError, match=r"\[0:execute\]: ZeroDivisionError"):
                await bad
            with pytest.raises(CompositeError) as caught:
                await good
            assert isinstance(caught.value.exceptions[0], QueueCleared)
            assert await mec.on_join.list() == []
            # So is one that is withdrawn, and one whose kernel dies.
            for end in (Handle.cancel, lambda _: host.fall(0), lambda _: host.connection.abort()):
                withdrawn = mec.on_join.execute("b = 1")
                await settle()
                assert await mec.on_join.list() == ["b = 1"]
                end(withdrawn)
                await settle()
                assert (await mec.on_join.list(), len(mec.on_join)) == ([], 0)
                host.rise(0)
                await run_all(host)
                await mec.barrier(withdrawn, timeout=30)

    asyncio.run(main())


def test_a_restart_before_the_first_time_does_it_once():
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller) as mec:
            kept = mec.on_join.execute("kept = 1")
            await run_all(host)
            await kept
            blocking, waiting = mec.execute("blocking"), mec.on_join.execute("n = 1")
            await settle()
            host.tell("kernel_restarting", 0)
            host.down.add(0)
            [frame] = host.waiting
            host.waiting.clear()
            host._stale(frame)  # it had not begun, say
            host.rise(0)
            assert await run_all(host) == ["kept = 1", "blocking"]
            await mec.barrier([blocking, waiting])
            assert await mec.on_join.list() == ["kept = 1"]

    asyncio.run(main())


def test_a_replay_that_fails_leaves_the_engine_usable_and_is_told(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
):
    async def main() -> None:
        async with model_cluster(2) as (controller, host), connect(controller) as mec:
            events: list[Event] = []
            controller.monitor.listen(events.append)
            await mec.on_join.execute("1 / (id < 2)")
            await mec.on_join.push({"a": 1})
            await host.join()
            assert await mec.pull("a") == [1, 1, 1]
            assert [event for event in events if isinstance(event, SetUpFailed)] == [
                SetUpFailed(2, "1 / (id < 2)", "it raised an error")  # a model has no stderr
            ]
            assert "engine 2: on_join step '1 / (id < 2)' failed" in caplog.text
            engines = controller.status()["engines"]
            assert [engine["trouble"] for engine in engines[:2]] == [None, None]
            engine_table(engines)
            assert "engine 2: on_join step '1 / (id < 2)' failed: it raised an error" in capsys.readouterr().out
            await mec.on_join.clear()
            host.fall(2)
            host.rise(2)
            await settle()
            assert controller.status()["engines"][2]["trouble"] is None

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())


def test_death_during_a_replay_begins_again_and_a_deadly_step_is_left_out():
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller) as mec:
            events: list[Event] = []
            controller.monitor.listen(events.append)
            steps = [mec.on_join.execute(f"s{i} = {i}") for i in range(3)]
            await run_all(host)
            await asyncio.gather(*steps)
            waiting = mec.pull(["s0", "s2"], targets=0)
            await settle()
            host.fall(0)
            with pytest.raises(EngineDied):
                await waiting
            waiting = mec.pull(["s0", "s2"], targets=0)
            for _ in range(replay.STRIKES):
                host.rise(0)
                await settle()
                host.step()
                await settle()
                assert told(host.waiting[0]) == "s1 = 1"
                host.fall(0)
                await settle()
            host.rise(0)
            assert await run_all(host) == ["s0 = 0", "s2 = 2", "['s0', 's2']"]
            assert await waiting == [[0, 2]]
            failed = [event.text for event in events if isinstance(event, SetUpFailed)]
            assert failed == ["the kernel died: killed by SIGKILL"] * 2 + [
                "left out here: the kernel died in it again and again"
            ]
            assert "s1 = 1" in controller.status()["engines"][0]["trouble"]
            # Another engine may well do it, also one that takes over the id.
            host.tell("engine_left", 0)
            await host.join()
            assert await run_all(host) == ["s0 = 0", "s1 = 1", "s2 = 2"]

    asyncio.run(main())


def test_a_host_that_is_lost_during_a_replay():
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller) as mec:
            step = mec.on_join.push({"a": 1})
            await run_all(host)
            await step
            await host.join()
            await settle()
            assert len(host.waiting) == 1
            host.connection.abort()
            await settle()
            assert (await mec.get_ids(), await mec.on_join.list()) == ([], ["push a"])

    asyncio.run(main())


def test_they_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(replay, "MOST_STEPS", 2)
    monkeypatch.setattr(replay, "MOST_BYTES", 1000)

    async def main() -> None:
        async with model_cluster(1) as (controller, _), connect(controller) as mec:
            await mec.on_join.execute("x = 1")
            with pytest.raises(OperationError, match=r"1,000 bytes together; it has 1 of .* from a file"):
                await mec.on_join.push({"a": bytes(1000)})
            await mec.on_join.execute("y = 1")
            with pytest.raises(OperationError, match="at most 2 steps"):
                await mec.on_join.execute("z = 1")
            assert len(mec.on_join) == 2

    asyncio.run(main())


def test_two_clients_and_what_a_narrowed_one_reaches():
    async def main() -> None:
        async with model_cluster(2) as (controller, host), connect(controller) as mec:
            narrow = controller.capability("multiengine").narrow("engines=1")
            async with aioparallel.MultiEngineClient(narrow) as few:
                await mec.on_join.push({"a": 1})
                await few.on_join.push({"b": 2})
                await mec.on_join.execute("c = a")
                assert (await few.on_join.list(), len(few.on_join)) == (["push a", "push b", "c = a"], 3)
                for engine in (0, 1):
                    host.fall(engine)
                    host.rise(engine)
                await settle()
                assert await mec.keys() == [["a", "c"], ["a", "b", "c"]]
                assert await few.on_join.clear() == 1
                assert await mec.on_join.clear() == 2

    asyncio.run(main())


def test_what_it_refuses():
    async def main() -> None:
        async with model_cluster(1) as (controller, host), connect(controller) as mec:
            await mec.get_ids()
            with pytest.raises(ConfigurationError, match="client's own, not a view's"):
                _ = mec[0].on_join
            with pytest.raises(OperationError, match="takes no targets"):
                await mec.on_join._all.push({"a": 1}, targets=[0])
            with pytest.raises(ValueError, match="not a name"):
                mec.on_join.push({"not a name": 1})
            with pytest.raises(TypeError):
                mec.on_join.apply(3)
            with pytest.raises(TypeError):
                mec.on_join.execute("1", targets=0)
            assert await mec.on_join.list() == []
            assert bool(mec.on_join)
            assert repr(mec.on_join).startswith("<OnJoin of")
            assert host.spaces[0].run(pack(("set_up", "nothing")))[0] == Status.ERROR

    asyncio.run(main())


def test_a_real_kernel_that_is_killed_or_restarted_or_comes_late_is_set_up(tmp_path: Path):
    file = tmp_path / "setup.py"
    file.write_text("from_file = 5\n")
    with client.Cluster(2) as cluster, cluster.multiengine() as mec, cluster.task() as tc:
        mec.on_join.push({"kept": [1, 2]})
        mec.on_join.execute("import os; print('hello'); 1 / (id < 2)")
        mec.on_join.apply(exec, "import sys; sys.modules['__main__'].applied = 3")
        names = ["kept", "applied"]
        if hasattr(MultiEngineCalls, "run"):
            mec.on_join.run(str(file))
            names.append("from_file")
        before = mec.pull(names)
        assert len(mec.on_join) == len(mec.on_join.list()) == len(names) + 1
        for end in (signal.SIGKILL, None):
            pid = mec[0].apply(os.getpid)
            if end is None:
                mec.restart(targets=0)
            else:
                os.kill(pid, end)
            tasks = [tc.submit(eval, "kept", {"kept": 0}) for _ in range(20)]
            mec.barrier(tasks, timeout=60)
            try:
                assert mec[0].pull(names) == before[0]
            except EngineDied:  # it came before the death was known
                assert mec[0].pull(names) == before[0]
            assert mec[0].apply(os.getpid) != pid
        [late] = cluster.add_engines(1)
        assert mec[late].pull(names) == before[0]
        [trouble] = [engine["trouble"] for engine in cluster.client("monitor").status()["engines"] if engine["trouble"]]
        assert trouble.endswith("failed: ZeroDivisionError: division by zero")
        mec.on_join.clear()
        mec.restart(targets=0)
        assert mec[0].keys() == []
