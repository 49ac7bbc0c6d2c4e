"""Launchers: jobs that announce themselves, end in good order, and leave nothing."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from runners import RUNNERS, Run

from aioparallel import launchers
from aioparallel.errors import PluginError
from aioparallel.launchers import Job
from aioparallel.launchers.local import LocalLauncher

LIVES = "import sys; print('here', flush=True); sys.stdin.read()"


def _python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


async def _start(code: str, **options: Any) -> Job:
    [job] = await LocalLauncher().start(_python(code), **options)
    return job


def _descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@RUNNERS
def test_job_lives_while_its_standard_input_is_open(run: Run) -> None:
    async def main() -> None:
        before = _descriptors()
        jobs = await LocalLauncher().start(_python(LIVES), 2)
        assert [await job.wait_announced() for job in jobs] == ["here", "here"]
        assert len({job.pid for job in jobs}) == 2
        assert not any(job.exited.done() for job in jobs)
        for job in jobs:
            await job.stop()
            await job.stop()
            assert job.exited.result() in (0, -15)
        assert _descriptors() <= before

    run(main())


def test_first_line_is_the_announcement_and_the_rest_is_no_obstacle() -> None:
    async def main() -> None:
        job = await _start("import sys; print('one'); print('x' * 500_000, flush=True); sys.exit(4)")
        assert await job.wait_announced() == "one"
        assert await job.exited == 4
        await job.stop()
        assert job.describe().endswith(f"(process {job.pid}, exit status 4)")

    asyncio.run(main())


def test_job_that_ends_silently_announces_nothing_and_its_errors_are_kept() -> None:
    async def main() -> None:
        job = await _start("import sys; sys.stderr.write('x' * 20_000 + 'the reason'); sys.exit(1)")
        assert await job.wait_announced() == ""
        assert job.output.endswith("the reason")
        assert len(job.output) <= 8192
        await job.stop()

    asyncio.run(main())


def test_waiting_for_an_announcement_can_be_given_up() -> None:
    async def main() -> None:
        job = await _start("import sys; sys.stdin.read()")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(job.wait_announced(), 0.05)
        again = asyncio.ensure_future(job.wait_announced())
        await job.stop()
        assert await again == ""

    asyncio.run(main())


def test_stubborn_job_is_killed() -> None:
    async def main() -> None:
        job = await _start(
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
        )
        await job.wait_announced()
        await job.stop(grace=0.05)
        assert job.exited.result() == -9
        job.kill()

    asyncio.run(main())


def test_place_and_environment(tmp_path: Path) -> None:
    async def main() -> None:
        job = await _start(
            "import os; print(os.getcwd(), os.environ['WHO'], os.getsid(0) == os.getpid())",
            cwd=tmp_path,
            env={"WHO": "me"},
        )
        assert await job.wait_announced() == f"{tmp_path} me True"
        await job.stop()

    asyncio.run(main())


def test_command_that_is_not_there() -> None:
    async def main() -> None:
        before = _descriptors()
        with pytest.raises(FileNotFoundError, match="no-such-program"):
            await LocalLauncher().start(["no-such-program"])
        assert _descriptors() <= before

    asyncio.run(main())


def test_launchers_are_found_by_name() -> None:
    assert isinstance(launchers.get("local"), LocalLauncher)
    with pytest.raises(PluginError, match=r"no launcher named 'moon'; known: .*local"):
        launchers.get("moon")


def test_launchers_are_found_by_object_class_and_place() -> None:
    local = LocalLauncher()
    assert launchers.get(local) is local
    assert isinstance(launchers.get(LocalLauncher), LocalLauncher)
    assert isinstance(launchers.get("aioparallel.launchers.local:LocalLauncher"), LocalLauncher)
    with pytest.raises(
        PluginError, match=r"launcher builtins:dict must be a subclass of aioparallel\.launchers\.Launcher"
    ):
        launchers.get(dict)  # type: ignore[arg-type]
