"""The conformance kit of launchers: the built-in passes, and each of many broken ones is found out."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Sequence
from typing import Any

import pytest
import uvloop
from runners import Run

from aioparallel.cluster import Cluster
from aioparallel.errors import ClusterError
from aioparallel.launchers import Job, Launcher
from aioparallel.launchers.local import LocalJob, LocalLauncher
from aioparallel.testing import CheckFailed, check_launcher, launcher_rules
from aioparallel.testing.rules import words

HANGS = "nothing more happened"


class Nice(LocalLauncher):
    """A stranger's launcher: what it starts leaves others the processors."""

    name = "nice"

    async def start(self, command: Sequence[str], count: int = 1, **options: Any) -> list[Job]:
        return await super().start(["nice", "-n", "1", *command], count, **options)


@pytest.mark.parametrize(("run", "launcher"), [(asyncio.run, "local"), (uvloop.run, Nice)])
def test_good_launchers_pass(run: Run, launcher: str | type[Launcher]) -> None:
    async def main() -> None:
        if launcher is Nice:
            # It starts `nice`, which is there whatever it is to start.
            rules = await check_launcher(Nice())
        else:
            rules = await check_launcher(launcher)
        assert len(rules) == 14
        assert all(rule.endswith(".") for rule in rules)

    run(main())


class ExitsAtOnce(LocalLauncher):
    name = "quick"

    async def start(self, command: Sequence[str], count: int = 1, **options: Any) -> list[Job]:
        return await super().start(["true"], count, **options)


class ThroughAShell(LocalLauncher):
    async def start(self, command: Sequence[str], count: int = 1, **options: Any) -> list[Job]:
        line = " ".join([*map(shlex.quote, command[:-1]), f'"{command[-1]}"'])
        return await super().start(["sh", "-c", line], count, **options)


class OneTooFew(LocalLauncher):
    async def start(self, command: Sequence[str], count: int = 1, **options: Any) -> list[Job]:
        return await super().start(command, max(1, count - 1), **options)


class StaysHere(LocalLauncher):
    async def start(self, command: Sequence[str], count: int = 1, **options: Any) -> list[Job]:
        return await super().start(command, count, **options | {"cwd": None})


class KeepsItsEnvironment(LocalLauncher):
    async def start(self, command: Sequence[str], count: int = 1, **options: Any) -> list[Job]:
        return await super().start(command, count, **options | {"env": None})


class With(LocalLauncher):
    """Starts jobs of a class of its own."""

    job: type[LocalJob]

    async def start(self, command: Sequence[str], count: int = 1, *, cwd: Any = None, env: Any = None) -> list[Job]:
        jobs = [self.job(command, cwd=cwd, env=env) for _ in range(count)]
        started.extend(jobs)
        return [*jobs]


class ClosesInput(LocalJob):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._close(self._stdin)


class ReadsOneLine(LocalJob):
    def _take_line(self, data: bytes) -> None:
        super()._take_line(data)
        if self._announced.done():
            self._loop.remove_reader(self._stdout)


class TellsItOnce(LocalJob):
    async def wait_announced(self) -> str:
        return await self._announced


class WrongStatus(LocalJob):
    def _ended(self, exited: asyncio.Future[int]) -> None:
        super()._ended(exited)
        self.exited = asyncio.get_running_loop().create_future()
        self.exited.set_result(0)


class OutputOfOthers(LocalJob):
    @property
    def output(self) -> str:
        return "nothing to complain about"


class StopsNothing(LocalJob):
    async def stop(self, grace: float = 5.0) -> None:
        """Leave it running."""


class StopsOnce(LocalJob):
    async def stop(self, grace: float = 5.0) -> None:
        if self.exited.done():
            raise ProcessLookupError(f"no process {self.pid}")
        await super().stop(grace)


class GoesOnStopping(LocalJob):
    async def stop(self, grace: float = 5.0) -> None:
        await asyncio.shield(asyncio.ensure_future(super().stop(min(grace, 1.0))))


class LeavesDescriptors(LocalJob):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        left.append(os.dup(0))


class SaysAnotherPid(LocalJob):
    @property
    def pid(self) -> int:
        return super().pid + 1


left: list[int] = []
started: list[LocalJob] = []


@pytest.mark.parametrize(
    ("launcher", "rule", "seen"),
    [
        (ExitsAtOnce, "as often as it is asked", "of a line of JSON, wait_announced returned ''; true (process "),
        (ThroughAShell, "as often as it is asked", "the argument |Syntax error"),
        (OneTooFew, "as often as it is asked", "start of 3 returned [<LocalJob "),
        (StaysHere, "working directory", "cwd='/', and it runs in "),
        (KeepsItsEnvironment, "working directory", "WORD='two words', and it has None"),
        (ClosesInput, "stays open", "standard input was closed"),
        (ReadsOneLine, "no obstacle", "nothing more happened within"),
        (TellsItOnce, "can be given up", "CancelledError, though nobody cancelled"),
        (WrongStatus, "`exited` gives", "exited gives 0"),
        (OutputOfOthers, "`exited` gives", "output is 'nothing to complain about'"),
        (StopsNothing, "`stop` ends", "stop has returned, and exited is not done"),
        (StopsOnce, "`stop` ends", "ProcessLookupError: no process"),
        (SaysAnotherPid, "as often as it is asked", "a job's pid is "),
        (GoesOnStopping, "that is cancelled", "nothing more happened|asyncio tasks that go on"),
        (LeavesDescriptors, "no descriptor open", "nothing more happened"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_launchers_are_found_out(launcher: type[LocalLauncher] | type[LocalJob], rule: str, seen: str) -> None:
    async def main() -> CheckFailed:
        try:
            with pytest.raises(CheckFailed) as caught:
                await check_launcher(made, seconds=0.5 if HANGS in seen else 20)
            return caught.value
        finally:
            for job in started:
                await LocalJob.stop(job, 0)
            started.clear()

    made: Any = launcher
    if issubclass(launcher, LocalJob):
        made = type(f"With{launcher.__name__}", (With,), {"job": launcher, "name": "other", "__module__": __name__})
    try:
        with pytest.MonkeyPatch.context() as patch:
            # The rule that is broken, and no other: some are broken by what never happens.
            chosen = [each for each in launcher_rules.RULES if any(part in words(each) for part in rule.split("|"))]
            patch.setattr(launcher_rules, "RULES", chosen)
            failure = asyncio.run(main())
    finally:
        while left:
            os.close(left.pop())
    assert f"({__name__}:{made.__name__})" in failure.plugin
    assert any(part in failure.rule for part in rule.split("|")), failure.rule
    assert any(part in failure.seen for part in seen.split("|")), failure.seen


def test_what_is_no_launcher() -> None:
    async def main() -> None:
        for launcher, seen in [
            ("moon", "no launcher named 'moon'"),
            (dict, "must be a subclass"),
            (Launcher, "lacks start"),
        ]:
            with pytest.raises(CheckFailed, match="lacks no method") as caught:
                await check_launcher(launcher)  # type: ignore[arg-type]
            assert seen in caught.value.seen

    asyncio.run(main())


def test_cluster_says_whose_engines_ended_at_once() -> None:
    async def main() -> None:
        with pytest.raises(ClusterError) as caught:
            async with Cluster(1, launcher=ExitsAtOnce()):
                pass
        text = str(caught.value)
        assert text.startswith("the engine host ended: true (process ")
        assert "exit status 0" in text
        assert f"launcher 'quick' ({__name__}:ExitsAtOnce) is to keep it running" in text

    asyncio.run(main())


class StartsNothing(LocalLauncher):
    name = "idle"

    async def start(self, command: Sequence[str], count: int = 1, **options: Any) -> list[Job]:
        return []


def test_cluster_says_whose_engines_were_never_started() -> None:
    async def main() -> None:
        with pytest.raises(ClusterError, match=r"launcher 'idle' \(.*:StartsNothing\) was to start one engine host"):
            async with Cluster(1, launcher=StartsNothing):
                pass

    asyncio.run(main())
