"""Clusters from Python: ready when they say so, private, and gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from plugged import Stack
from programs import PATIENCE, environment, processes, wait_gone
from runners import RUNNERS, Run

from aioparallel import client
from aioparallel.cluster import Cluster
from aioparallel.errors import AddressError, ClusterError, ConfigurationError, NoClusterError, PluginError
from aioparallel.interface import Interface, remote
from aioparallel.launchers import Job
from aioparallel.launchers.local import LocalLauncher


@RUNNERS
def test_work_then_nothing_is_left(run: Run, state_directory: Path) -> None:
    async def main() -> None:
        async with Cluster(2) as cluster:
            assert cluster.engine_ids == [0, 1]
            started = processes(state_directory)
            assert len(started) == 4
            multiengine = await cluster.multiengine()
            assert await multiengine.get_ids() == [0, 1]
            async with cluster.task() as tasks:
                assert await tasks.submit(pow, 2, 10) == 1024
            assert cluster.statistics().processes == 2
            assert cluster.statistics().clients == 1
            assert cluster.statistics().start > 0
            directory = cluster.directory
            assert directory.stat().st_mode & 0o777 == 0o700
        assert not processes(state_directory)
        assert not directory.exists()
        assert not any(state_directory.iterdir())
        assert not multiengine.channel.is_open
        await cluster.aclose()
        with pytest.raises(ClusterError, match="does not run"):
            cluster.capability("task")
        with pytest.raises(ClusterError, match="started once"):
            await cluster.start()

    run(main())


def test_interfaces_that_are_not_installed_are_named_by_their_place(state_directory: Path) -> None:
    async def main() -> None:
        class Local(Interface):
            name = "local"

        with pytest.raises(ConfigurationError, match=r"can't import test_cluster.test_interfaces.*Local: put it in"):
            Cluster(1, interfaces=[Local])
        with pytest.raises(ConfigurationError, match=r"interfaces are subclasses of aioparallel\.Interface, or names"):
            Cluster(1, interfaces=[dict])  # type: ignore[list-item]
        with pytest.raises(ClusterError, match="No module named 'nowhere'"):
            async with Cluster(1, interfaces=["nowhere:Class"]):
                pass
        here = Path(__file__).parent
        async with Cluster(1, interfaces=[Tally], path=[here]) as cluster:
            async with cluster.client("tally") as tally, cluster.client(Tally) as another:
                assert await tally.add(2) == 2
                assert await another.add(3) == 5
            async with cluster.client("monitor") as monitor:
                assert "tally" in (await monitor.status())["interfaces"]
            assert (cluster.directory / "security" / "default" / "tally.cap").exists()
            with pytest.raises(PluginError, match="<class 'dict'> is not an interface"):
                await cluster.client(dict)

    asyncio.run(main())


def test_blocking_clusters_have_them_too() -> None:
    place = "test_cluster:Tally"
    with client.Cluster(1, interfaces=[place, "multiengine"], path=[Path(__file__).parent]) as cluster:
        assert cluster.client("tally").add(2) == cluster.client(place).add(0) == cluster.client(Tally).add(0) == 2
        assert cluster.multiengine().get_ids() == [0]
        with pytest.raises(NoClusterError):
            cluster.client("monitor")
        with pytest.raises(PluginError, match="no interface named 'nothing'"):
            cluster.client("nothing")


class Tally(Interface):
    """Adds up."""

    name = "tally"

    async def start(self) -> None:
        self.total = 0

    @remote
    def add(self, n: int) -> int:
        """Add, and return the total."""
        self.total += n
        return self.total


def test_exception_ends_it(state_directory: Path) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with Cluster(1):
                raise ZeroDivisionError
        assert not processes(state_directory)

    asyncio.run(main())


def test_cancelled_start_leaves_nothing(state_directory: Path) -> None:
    async def main() -> None:
        cluster = Cluster(2)
        starting = asyncio.ensure_future(cluster.start())
        while not processes(state_directory):
            await asyncio.sleep(0)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        assert not processes(state_directory)
        assert not cluster.directory.exists()

    asyncio.run(main())


def test_more_engines_and_what_is_there(state_directory: Path) -> None:
    async def main() -> None:
        async with Cluster(1, path=[Path(__file__).parent]) as cluster:
            assert await cluster.add_engines(2) == [1, 2]
            await cluster.wait_for_engines(3)
            with pytest.raises(TimeoutError, match=r"3 of 4 engines were there after 0.1 s"):
                await cluster.wait_for_engines(4, timeout=0.1)
            with pytest.raises(ConfigurationError, match="a whole number from 1 up, not 0"):
                await cluster.add_engines(0)
            assert cluster.capability("engine").interface == "engine"
            with pytest.raises(NoClusterError):
                cluster.capability("nothing")
            with pytest.raises(PluginError, match="no interface named 'nothing'"):
                await cluster.client("nothing")
            multiengine = await cluster.multiengine()
            await multiengine.execute("from programs import PATIENCE", targets=0)
            assert await multiengine.pull("PATIENCE", targets=0) == [PATIENCE]

    asyncio.run(main())


@pytest.mark.parametrize("face", ["asyncio", "blocking"])
def test_engines_import_what_the_caller_imports(face: str, tmp_path: Path) -> None:
    beside, elsewhere = tmp_path / "beside", tmp_path / "elsewhere"
    for place, name in ((beside, "in_beside"), (elsewhere, "in_elsewhere")):
        place.mkdir()
        (place / f"{name}.py").write_text("def double(x):\n    return 2 * x\n")
    call = "[mec.apply(f, 21)[0] for f in (in_beside.double, in_elsewhere.double)]"
    opening = "with client.Cluster(1) as cluster:\n    mec = cluster.multiengine()\n"
    if face == "asyncio":
        call = call.replace("mec.apply(f, 21)", "(await mec.apply(f, 21))")
        opening = "async with aioparallel.Cluster(1) as cluster:\n    mec = await cluster.multiengine()\n"
    work = f"import in_elsewhere\n{opening}    print({call})\n"
    script = "import sys, asyncio, aioparallel, in_beside\nfrom aioparallel import client\n"
    script += f"sys.path.append({str(elsewhere)!r})\n"
    if face == "asyncio":
        script += "async def main():\n" + textwrap.indent(work, "    ") + "asyncio.run(main())\n"
    else:
        script += work
    (beside / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, beside / "script.py"], env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.stdout, done.stderr) == ("[42, 42]\n", "")


def test_over_tls() -> None:
    async def main() -> None:
        async with Cluster(1, listen="tls://127.0.0.1:0") as cluster:
            [address] = cluster.capability("task").addresses
            assert address.startswith("tls://127.0.0.1:")
            tasks = await cluster.task()
            assert await tasks.submit(len, "four") == 4

    asyncio.run(main())


def test_two_never_meet() -> None:
    async def main() -> None:
        async with Cluster(1) as one, Cluster(1) as other:
            assert one.directory != other.directory
            assert one.capability("task").controller != other.capability("task").controller

    asyncio.run(main())


def test_killed_controller_is_noticed_and_takes_the_rest_with_it(state_directory: Path) -> None:
    async def main() -> None:
        async with Cluster(2) as cluster:
            [controller] = [pid for pid, line in processes(state_directory).items() if "cli.controller" in line]
            others = [pid for pid in processes(state_directory) if pid != controller]
            os.kill(controller, signal.SIGKILL)
            async with asyncio.timeout(2):
                assert "killed by SIGKILL" in await cluster.wait_ended()
            assert await asyncio.to_thread(wait_gone, others, 2)

    asyncio.run(main())


SCRIPT = """
import asyncio
from aioparallel import client
from aioparallel.cluster import Cluster

async def main():
    async with Cluster(2) as cluster:
        multiengine = await cluster.multiengine()
        multiengine.execute("import time\\nwhile True:\\n    time.sleep(1)")
        print(cluster.directory, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_killed_caller_leaves_nothing(state_directory: Path) -> None:
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        directory = Path(caller.stdout.readline().strip())
        pids = list(processes(state_directory))
        assert len(pids) == 5
        caller.kill()
        assert wait_gone(pids, 5)
        assert not directory.exists()


class Wrong(LocalLauncher):
    """Starts something else than engines."""

    name: ClassVar[str] = "wrong"

    def __init__(self, code: str) -> None:
        self.code = code

    async def start(
        self, command: Sequence[str], count: int = 1, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> list[Job]:
        return await super().start([sys.executable, "-c", self.code], count, cwd=cwd, env=env)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ('print(\'{"error": "no room here"}\')', "the engine host did not start: no room here"),
        ("import sys; sys.exit('no such library')", r"exit status 1\):\nno such library"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("input()", r"not ready after 1.5 s: .*input\(\)"),
    ],
)
def test_failed_start_says_why(code: str, words: str, state_directory: Path) -> None:
    async def main() -> None:
        cluster = Cluster(1, launcher=Wrong(code), timeout=1.5)
        with pytest.raises(ClusterError, match=words):
            await cluster.start()
        assert not processes(state_directory)
        assert not cluster.directory.exists()

    asyncio.run(main())


def test_refused_arguments() -> None:
    for n in (0, -1, 1.5, True, "4"):
        with pytest.raises(ConfigurationError, match="a whole number from 1 up"):
            Cluster(n)  # type: ignore[arg-type]
    with pytest.raises(AddressError, match=r"known: memory://, tls://, unix://"):
        Cluster(1, listen="carrier-pigeon://roof")
    with pytest.raises(PluginError, match="no launcher named 'moon'"):
        Cluster(1, launcher="moon")
    with pytest.raises(ConfigurationError, match="can't name a cluster"):
        Cluster(1, name="../up")


def test_ctrl_c_while_it_starts_ends_it_quietly(state_directory: Path) -> None:
    code = """
from aioparallel import client
from aioparallel.launchers.local import LocalLauncher

class Slow(LocalLauncher):
    name = "slow"
    async def start(self, command, count=1, **place):
        jobs = await super().start(["sleep", "1000"], count, **place)
        print("started", flush=True)
        return jobs

client.Cluster(1, launcher=Slow()).start()
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=environment(), **pipes) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "started\n"
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=PATIENCE)
    assert program.returncode == -signal.SIGINT
    assert said.endswith("\nKeyboardInterrupt\n")
    assert "destroyed" not in said
    assert "ignored" not in said
    assert not processes(state_directory)


def test_forgotten_one_warns() -> None:
    async def main() -> None:
        cluster = Cluster(1)
        await cluster.start()
        with pytest.warns(ResourceWarning, match="was never closed"):
            cluster.__del__()
        await cluster.aclose()

    asyncio.run(main())


def test_queue_of_ones_own(tmp_path: Path) -> None:
    """By class: the controller, a process of its own, imports it from where this program can."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    async def order(queue: str | type) -> list[str]:
        async with Cluster(1, queue=queue) as cluster, cluster.multiengine() as mec:
            # While a first one runs, the others wait; a look at them must not change their order.
            running = mec.execute(f"ran = []; open({str(pipe)!r}).read()")
            waiting = [mec.execute(f"ran.append({name!r})") for name in "abc"]
            await mec.queue_status()
            await asyncio.to_thread(pipe.write_text, "go")
            await asyncio.gather(running, *waiting)
            [ran] = await mec.pull("ran")
            return list(ran)

    assert asyncio.run(order(Stack)) == ["c", "b", "a"]
    assert asyncio.run(order("priority")) == ["a", "b", "c"]


def test_queue_that_the_controller_can_not_import() -> None:
    async def main() -> None:
        with pytest.raises(ClusterError, match="the controller did not start: queue 'nowhere:Queue' can't be loaded"):
            async with Cluster(1, queue="nowhere:Queue"):
                pass

    asyncio.run(main())
