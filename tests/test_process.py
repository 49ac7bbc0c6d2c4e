"""Child processes: noticed when they end, and nothing of them left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from programs import is_there, wait_gone
from runners import RUNNERS

from aioparallel.process import Process, describe_exit


def _open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def _line(descriptor: int) -> str:
    return (await asyncio.to_thread(os.read, descriptor, 1000)).decode().strip()


@RUNNERS
def test_exit_is_noticed_and_nothing_stays(run: Any) -> None:
    async def main() -> None:
        before = _open_descriptors()
        process = Process.spawn([sys.executable, "-c", "import sys; sys.exit(3)"])
        assert await process.exited == 3
        process.signal(signal.SIGKILL)  # nothing to hit: no error
        process.signal_group(signal.SIGKILL)
        assert await process.aclose() == 3
        assert repr(process).startswith(f"<Process {process.pid} exit status 3: ")
        with pytest.raises(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
        assert _open_descriptors() <= before

    run(main())


@pytest.mark.parametrize("missing", [[], ["pidfd_open"], ["pidfd_open", "waitid"]])
def test_signals_on_systems_without_this_and_that(missing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in missing:
        monkeypatch.delattr(os, name)

    async def main() -> None:
        process = Process.spawn(["sleep", "1000"])
        process.signal(signal.SIGKILL)
        assert await process.exited == -signal.SIGKILL

    asyncio.run(main())


def test_aclose_is_polite_first() -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(5)); print('set', flush=True); signal.pause()"
        process = Process.spawn([sys.executable, "-c", code], stdout=writing)
        assert await _line(reading) == "set"
        assert await process.aclose() == 5
        assert await process.aclose() == 5
        os.close(reading)
        os.close(writing)

    asyncio.run(main())


def test_aclose_ends_what_does_not_listen_and_its_children() -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        process = Process.spawn(["sh", "-c", "trap '' TERM; sleep 1000 & echo $!; wait; wait"], stdout=writing)
        child = int(await _line(reading))
        assert is_there(child)
        assert await process.aclose(grace=0.05) == -signal.SIGKILL
        assert wait_gone([child], 5)
        os.close(reading)
        os.close(writing)

    asyncio.run(main())


def test_children_end_with_the_leader() -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        process = Process.spawn(["sh", "-c", "sleep 1000 & echo $!"], stdout=writing)
        child = int(await _line(reading))
        assert await process.exited == 0
        assert wait_gone([child], 5)
        os.close(reading)
        os.close(writing)

    asyncio.run(main())


def test_cancelling_aclose_kills() -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        process = Process.spawn(["sh", "-c", "trap '' TERM; echo set; sleep 1000; sleep 1000"], stdout=writing)
        assert await _line(reading) == "set"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await process.aclose(grace=1000)
        assert await process.exited == -signal.SIGKILL
        os.close(reading)
        os.close(writing)

    asyncio.run(main())


def test_a_command_that_does_not_exist() -> None:
    async def main() -> None:
        before = _open_descriptors()
        with pytest.raises(FileNotFoundError, match="no-such-program"):
            Process.spawn(["no-such-program"])
        assert _open_descriptors() == before

    asyncio.run(main())


def test_only_what_is_passed_is_inherited() -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        process = Process.spawn(["ls", "/proc/self/fd"], stdout=writing, pass_fds=(reading,))
        assert await process.exited == 0
        seen = {int(number) for number in os.read(reading, 1000).split()}
        assert len(seen) == 5  # three, the one passed on, and the directory that `ls` has open
        assert reading in seen
        os.close(reading)
        os.close(writing)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("returncode", "text"),
    [
        (0, "exit status 0"),
        (3, "exit status 3"),
        (-9, "killed by SIGKILL"),
        (-11, "killed by SIGSEGV"),
        (-40, "killed by signal 40"),
    ],
)
def test_describe_exit(returncode: int, text: str) -> None:
    assert describe_exit(returncode) == text


MIDDLE = """
import os, subprocess, sys
code = "import os, sys, time; from aioparallel.process import die_with_parent; die_with_parent(int(sys.argv[1])); "
code += "print(os.getpid(), flush=True); time.sleep(1000)"
child = subprocess.Popen([sys.executable, "-c", code, str({parent})])
child.wait()
"""


def test_die_with_parent_also_when_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MIDDLE.format(parent="os.getpid()")], stdout=subprocess.PIPE
    ) as middle:
        assert middle.stdout
        child = int(middle.stdout.readline())
        middle.kill()
    assert wait_gone([child], 5)


def test_die_with_parent_that_is_gone_already() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MIDDLE.format(parent=1)], stdout=subprocess.PIPE, timeout=20, check=True
    )
    assert done.stdout == b""
