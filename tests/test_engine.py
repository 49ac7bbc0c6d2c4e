"""The engine host, with real kernels and a controller that is played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from played import NOWHERE, Played, hosted, printed
from programs import is_there, wait_gone
from runners import RUNNERS

from aioparallel.engine import EngineHost
from aioparallel.errors import ClusterError, ConfigurationError, ConnectionLost, ControllerGone, NoClusterError
from aioparallel.kernels import KernelOptions
from aioparallel.serialize import pack, unpack, unpack_error
from aioparallel.source import SYSTEM
from aioparallel.testing.rules import until
from aioparallel.wire import RESULT_META, HostCall, Kind, Limits, Sendable, Status, encode


@RUNNERS
def test_engines_join_and_answer(run: Any) -> None:
    async def main() -> None:
        async with hosted(3) as (host, played):
            assert host.engine_ids == [10, 11, 12]
            for about in played.joined.values():
                assert set(about) == {"pid", "host", "python", "slot"}
                assert about["python"] == sys.version.split()[0]
                assert is_there(about["pid"])
            assert await asyncio.gather(*(played.value(i, "id * 2") for i in host.engine_ids)) == ["20", "22", "24"]
            frame = await played.execute(11, "print('x'); 1/0")
            assert frame.code == Status.ERROR
            assert frame.header[RESULT_META.size :] == b"x\n"
            assert isinstance(unpack_error(frame.buffers), ZeroDivisionError)
            pids = [about["pid"] for about in played.joined.values()]
        assert played.closed
        assert not any(map(is_there, pids))

    run(main())


def test_answers_come_back_in_batches() -> None:
    async def main() -> None:
        async with hosted() as (_, played):
            sends = 0
            send = played.send

            def counting(pieces: Iterable[Sendable]) -> None:
                nonlocal sends
                sends += 1
                send(pieces)

            played.send = counting  # type: ignore[method-assign]
            await asyncio.gather(*(played.execute(10, "1") for _ in range(1000)))
            assert sends < 700

    asyncio.run(main())


# A kernel that dies


def test_killed_kernel_is_reported_at_once_and_followed() -> None:
    async def main() -> None:
        async with hosted(2) as (host, played):
            pid = played.joined[10]["pid"]
            running = played.execute(10, "import time; print('last words'); time.sleep(60)")
            waiting = [played.execute(10, "1") for _ in range(3)]
            await printed(host, 10, "last words\n")
            since = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            frame = await running
            assert time.monotonic() - since < 5.0  # by the death itself, not by a deadline
            assert frame.code == Status.FAULT
            plain = frame.json()
            assert plain["error"] == "EngineDied"
            assert (plain["running"], plain["engine_id"], plain["reason"]) == (True, 10, "killed by SIGKILL")
            assert plain["output"] == "last words\n"
            assert "namespace is lost" in plain["text"]
            for answer in waiting:
                assert (await answer).json()["running"] is False
            died = await played.notices.get()
            assert died == {
                "event": "kernel_died",
                "engine": 10,
                "pid": pid,
                "reason": "killed by SIGKILL",
                "output": "last words\n",
            }
            assert await played.value(10, "id") == "10"  # waits for the fresh one
            restarted = await played.notices.get()
            assert (restarted["event"], restarted["engine"]) == ("ready", 10)
            assert restarted["pid"] != pid
            assert await played.value(11, "id") == "11"

    asyncio.run(main())


def test_what_was_answered_before_the_end_arrives() -> None:
    async def main() -> None:
        async with hosted() as (_, played):
            big = played.execute(10, "x = bytes(5_000_000); len(x)")
            pulled = played._ask(Kind.COMMAND, engine=10, buffers=pack(("pull", "x")))
            died = played.execute(10, "import os; os._exit(3)")
            assert unpack((await big).buffers)["repr"] == "5000000"
            assert unpack((await pulled).buffers) == bytes(5_000_000)
            assert (await died).json()["reason"] == "exit status 3"

    asyncio.run(main())


def test_what_has_begun_is_known_also_when_its_answer_is_lost(tmp_path: Path) -> None:
    """Answers of many short commands are gathered: a death takes them along, but not the knowledge that they ran."""
    file = tmp_path / "done"

    async def main() -> None:
        async with hosted() as (_, played):
            for turn in range(20):
                file.unlink(missing_ok=True)
                await played.execute(
                    10, f"import os; f = os.open({str(file)!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY)"
                )
                answers = [played.execute(10, "os.write(f, b'x')") for _ in range(30)]
                answers += [played.execute(10, "os._exit(1)") for _ in range(2)]
                answers += [played.execute(10, "os.write(f, b'x')") for _ in range(turn)]
                frames = [await answer for answer in answers]
                faults = [frame.json() for frame in frames if frame.code == Status.FAULT]
                begun = [fault["begun"] for fault in faults]
                assert begun == sorted(begun, reverse=True)
                assert [fault["running"] for fault in faults].count(True) == 1
                assert begun.index(False) - 1 == [fault["running"] for fault in faults].index(True)
                assert begun.count(True) - 1 + len(frames) - len(faults) == file.stat().st_size

    asyncio.run(main())


def test_a_kernel_that_works_now_and_then_is_not_broken() -> None:
    async def main() -> None:
        async with hosted() as (_, played):
            for _ in range(7):
                assert await played.value(10, "id") == "10"
                assert (await played.execute(10, "import os; os._exit(1)")).json()["running"]

    asyncio.run(main())


def test_kernels_that_die_of_commands_are_followed_by_others_however_many() -> None:
    async def main() -> None:
        async with hosted() as (_, played):
            dying = [await played.execute(10, "import os; os._exit(1)") for _ in range(6)]
            assert all(frame.json()["running"] for frame in dying)
            events = [(await played.notices.get())["event"] for _ in range(11)]
            assert events == ["kernel_died", "ready"] * 5 + ["kernel_died"]
            assert await played.value(10, "id") == "10"

    asyncio.run(main())


def test_kernels_that_keep_dying_by_themselves_end_in_words_and_a_restart_helps() -> None:
    async def main() -> None:
        async with hosted() as (host, played):
            for _ in range(5):
                os.kill(host._seats[0].pid, signal.SIGKILL)
                assert (await played.notices.get())["event"] == "kernel_died"
                last = (await played.notices.get())["event"]
            assert last == "kernel_broken"
            refused = (await played.execute(10, "1")).json()
            assert refused["error"] == "EngineDied"
            assert not refused["running"]
            assert "restart" in refused["reason"]
            assert (await played.call(HostCall.RESTART, 10)).json()["pid"]
            assert await played.value(10, "id") == "10"

    asyncio.run(main())


def test_kernels_that_do_not_start_end_the_host_in_words() -> None:
    async def main() -> None:
        options = KernelOptions(env={"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"})
        host = EngineHost(NOWHERE, dial=Played().dial, options=options)
        async with host:
            with pytest.raises(ClusterError, match="the kernel does not start: exit status 1\n"):
                await host.wait_ready()
            with pytest.raises(ClusterError):
                await host.wait_closed()
        missing = EngineHost(NOWHERE, dial=Played().dial, options=KernelOptions(executable="/no/python"))
        with pytest.raises(ClusterError, match="can't be started"):
            await missing.run()

    asyncio.run(main())


# What the controller asks


def test_interrupt_restart_and_stop() -> None:
    async def main() -> None:
        async with hosted(2) as (host, played):
            assert (await played.call(HostCall.INTERRUPT, 10)).json() == {"interrupted": 0}
            spinning = played.execute(10, "print('on')\nwhile True: pass")
            await printed(host, 10, "on\n")
            assert (await played.call(HostCall.INTERRUPT, 10)).json() == {"interrupted": 1}
            assert unpack_error((await spinning).buffers).type_name == "KeyboardInterrupt"  # type: ignore[attr-defined]

            spinning = played.execute(10, "print('on')\nwhile True: pass")
            restarted = await played.call(HostCall.RESTART, 10)
            assert restarted.code == Status.OK
            assert (await spinning).json()["reason"] == "restarted on request"
            assert await played.value(10, f"__import__('os').getpid() == {restarted.json()['pid']}") == "True"
            assert [(await played.notices.get())["event"] for _ in range(2)] == ["kernel_restarting", "ready"]

            spinning = played.execute(10, "while True: pass")
            assert (await played.call(HostCall.STOP, 10)).code == Status.OK
            assert (await spinning).json()["reason"] == "stopped on request"
            assert (await played.notices.get())["event"] == "engine_left"
            assert not is_there(restarted.json()["pid"])
            assert host.engine_ids == [11]
            for refused in (played.execute(10, "1"), played.call(HostCall.RESTART, 10), played.call(HostCall(1), 999)):
                assert "is not at this host" in (await refused).json()["text"]
            assert (await played.call(HostCall.STOP)).code == Status.OK
            await host.wait_closed()

    asyncio.run(main())


def test_cancel_what_runs_what_waits_and_what_has_no_kernel_yet() -> None:
    async def main() -> None:
        async with hosted() as (host, played):
            running = played.execute(10, "import time; print('on'); time.sleep(1000)")
            first = played.number
            waiting = played.execute(10, "1")
            await printed(host, 10, "on\n")
            played.say(encode(Kind.CANCEL, played.number, engine=10))
            played.say(encode(Kind.CANCEL, first, engine=10))
            played.say(encode(Kind.CANCEL, 5, engine=10))
            assert unpack_error((await running).buffers).type_name == "KeyboardInterrupt"  # type: ignore[attr-defined]
            assert (await waiting).code == Status.CANCELLED
            assert (await played.execute(10, "import os; os._exit(1)")).code == Status.FAULT
            played.patient = False
            assert (await played.execute(10, "1")).code == Status.RETURNED
            played.say(encode(Kind.CANCEL, played.number, engine=10))

    asyncio.run(main())


# Flow


def test_a_congested_controller_stops_the_reading() -> None:
    async def main() -> None:
        async with hosted(2) as (_, played):
            played.congested = True
            assert await played.value(10, "1") == "1"  # what is on its way arrives; then nothing
            received = played.received
            more = [played.execute(engine, "1") for engine in (10, 11) for _ in range(20)]
            done, _ = await asyncio.wait(more, timeout=0.2)
            assert not done
            assert played.received == received
            played.congested = False
            played.on_drained()
            await asyncio.gather(*more)

    asyncio.run(main())


def test_a_kernel_that_runs_is_looked_after() -> None:
    async def main() -> None:
        async with hosted(limits=Limits(output=100_000)) as (_, played):
            runaway = played.execute(10, "while True: print('x' * 1_000_000)")
            await asyncio.sleep(0)
            host_side: Any = played
            seat = host_side._on_frames.__self__._seats[0]
            await until(lambda: seat._kernel._page.words[4])
            await played.call(HostCall.INTERRUPT, 10)
            assert b"bytes left out" in (await runaway).header

    asyncio.run(main())


# The connection


def test_losing_the_controller_is_the_end() -> None:
    async def main() -> None:
        async with hosted(2) as (host, played):
            pids = [about["pid"] for about in played.joined.values()]
            played.execute(10, "while True: pass").cancel()
            played.lose(ConnectionResetError("cut"))
            with pytest.raises(ConnectionLost, match="cut"):
                await host.wait_closed()
            assert not any(map(is_there, pids))

    asyncio.run(main())


@pytest.mark.parametrize(("kind", "fails"), [("ConnectionLost", False), ("AccessDenied", True)])
def test_goodbye(kind: str, fails: bool) -> None:
    async def main() -> None:
        async with hosted() as (host, played):
            played.say(encode(Kind.GOODBYE, header=json.dumps({"error": kind, "text": "so long"}).encode()))
            played.lose(None)
            with pytest.raises(Exception, match="so long") if fails else contextlib.nullcontext():
                await host.wait_closed()

    asyncio.run(main())


def test_waiting_for_a_controller_and_giving_up(tmp_path: Path) -> None:
    file = tmp_path / "security" / "default" / "engine.cap"
    told: list[str] = []

    async def main() -> None:
        host = EngineHost(file, connect_timeout=0.3, on_waiting=lambda error: told.append(type(error).__name__))
        asyncio.get_running_loop().call_later(0.1, NOWHERE.save, file, SYSTEM)
        with pytest.raises(ControllerGone):
            await host.run()
        with pytest.raises(ControllerGone):
            await host.wait_ready()
        nobody = EngineHost(tmp_path / "none.cap", connect_timeout=0)
        with pytest.raises(NoClusterError):
            await nobody.run()

    asyncio.run(main())
    assert told == ["NoClusterError", "ControllerGone"]


def test_the_first_attempts_follow_one_another_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        now, pauses = loop.time(), list[float]()
        real = asyncio.sleep

        async def sleep(delay: float) -> None:
            pauses.append(delay)
            await real(0)

        host = EngineHost(NOWHERE, connect_timeout=20.0)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        monkeypatch.setattr(loop, "time", lambda: now + sum(pauses))
        with pytest.raises(ControllerGone):
            await host._dial_controller(lambda frames: None, lambda error: None)
        monkeypatch.undo()
        await host.aclose()
        return pauses

    pauses = asyncio.run(main())
    assert pauses[0] == 0.05
    soon = [pause for place, pause in enumerate(pauses) if sum(pauses[:place]) < 2]
    assert len(soon) > 10
    assert max(soon) == pytest.approx(0.2)
    assert max(pauses) == 1.0
    assert sum(pauses) == pytest.approx(20.0)


def test_a_capability_for_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "task.cap"
    wrong = dataclasses.replace(NOWHERE, interface="task")
    wrong.save(file, SYSTEM)

    async def main() -> None:
        with pytest.raises(ConfigurationError, match=r"task\.cap is for the interface 'task', not 'engine'"):
            await EngineHost(file).run()
        with pytest.raises(ConfigurationError, match="this capability is for the interface 'task', not 'engine'"):
            await EngineHost(wrong).run()

    asyncio.run(main())


def test_a_host_that_still_waits_can_be_closed() -> None:
    async def main() -> None:
        host = EngineHost(dataclasses.replace(NOWHERE), n=2)
        async with host:
            await asyncio.sleep(0)
        await host.wait_closed()
        with pytest.raises(ClusterError, match="closed before"):
            await host.wait_ready()
        await host.aclose()

    asyncio.run(main())


def test_no_engines_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(ConfigurationError, match="at least one engine, not 0"):
            EngineHost(NOWHERE, n=0)

    asyncio.run(main())


def test_nothing_is_left_open() -> None:
    async def main() -> None:
        async with hosted():
            pass
        before = sorted(os.listdir("/proc/self/fd"))
        for _ in range(3):
            async with hosted(2) as (_, played):
                await played.execute(10, "import os; os._exit(1)")
                await played.value(10, "1")
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert not asyncio.all_tasks() - {asyncio.current_task()}

    asyncio.run(main())


HOST = """
import asyncio
from played import hosted, printed

async def main():
    async with hosted(3) as (host, played):
        played.execute(10, "print('on')\\nwhile True: pass")
        played.execute(11, "print('on'); sum(range(10**12))")
        for engine in (10, 11):
            await printed(host, engine, "on")
        print(*[about["pid"] for about in played.joined.values()], flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


def test_killing_the_host_leaves_no_kernel() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE, env=environment) as host:
        assert host.stdout
        pids = [int(pid) for pid in host.stdout.readline().split()]
        assert len(pids) == 3
        host.kill()
    assert wait_gone(pids, 2), "a kernel outlives its host"
