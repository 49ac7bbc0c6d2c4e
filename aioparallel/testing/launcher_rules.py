"""What a launcher must do, rule by rule: `await check_launcher("local")`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aioparallel import launchers
from aioparallel.cluster import Cluster
from aioparallel.errors import ParallelError, PluginError
from aioparallel.launchers import Job, Launcher
from aioparallel.testing.rules import CheckFailed, expect, follow_all, until

__all__ = ["check_launcher"]

#: Seconds after which a job that should be stubborn is killed.
GRACE = 0.2

# Programs that are started. Each tells in one line of JSON what it sees, which is also its announcement.
LIVES = "import sys; print('here', flush=True); sys.stdin.read()"
LOOKS = (
    "import json, os, select, sys\n"
    "closed = bool(select.select([sys.stdin], [], [], 0.1)[0])\n"
    "print(json.dumps({'cwd': os.getcwd(), 'word': os.environ.get('WORD'), 'arguments': sys.argv[1:],\n"
    "                  'closed': closed, 'pid': os.getpid()}), flush=True)\n"
    "sys.stdin.read()"
)
TALKS = "import sys; print('one', flush=True); print('x' * 500_000, flush=True); sys.exit(4)"
ENDS = "import os, signal, sys; sys.stderr.write('the reason'); sys.stderr.flush(); {}"
STUBBORN = (
    "import signal, time\n"
    "for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)\n"
    "print('here', flush=True)\nwhile True: time.sleep(1)"
)
PARENT = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-S', '-c', {!r}], stdout=subprocess.PIPE)\n"
    "child.stdout.readline()\n"
    "print(child.pid, flush=True)\nsys.stdin.read()"
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What the rules are tried on.

    Attributes:
        launcher: The launcher.
        python: A Python where it starts things.
        name: How it is asked for.
    """

    launcher: Launcher
    python: tuple[str, ...]
    name: str

    @contextlib.asynccontextmanager
    async def started(self, code: str, count: int = 1, *arguments: str, **options: Any) -> AsyncIterator[list[Job]]:
        """Start a program; at the end stop the jobs, whatever has become of them."""
        jobs = await self.launcher.start([*self.python, "-c", code, *arguments], count, **options)
        try:
            expect(
                isinstance(jobs, list) and all(isinstance(job, Job) for job in jobs) and len(jobs) == count,
                f"start of {count} returned {jobs!r}",
            )
            yield jobs
        finally:
            for job in jobs:
                await job.stop()


async def check_launcher(
    launcher: str | Launcher | type[Launcher], *, python: Sequence[str] = (sys.executable, "-S"), seconds: float = 30.0
) -> list[str]:
    """Check that a launcher does what `aioparallel.launchers.Launcher` asks for.

    It starts small Python programs, and at the end a cluster of one engine.

    Args:
        launcher: The launcher, its class, its place (`module:Class`), or the name under which it is installed.
        python: The command of a Python where it starts things.
        seconds: How long each rule may take.

    Returns:
        The rules that it follows, in words.

    Raises:
        CheckFailed: It breaks one; the text says which, and what was seen.
    """
    usable = "It is derived from aioparallel.launchers.Launcher, lacks no method, and is made without arguments."
    name = f"launcher {getattr(launcher, 'name', launcher)!r}"
    try:
        made = launchers.get(launcher)
    except PluginError as error:
        raise CheckFailed(name, usable, str(error)) from error
    kind = type(made)
    name = f"launcher {getattr(made, 'name', '?')!r} ({kind.__module__}:{kind.__qualname__})"
    if not isinstance(getattr(made, "name", None), str):
        raise CheckFailed(name, usable, "it has no name")
    subject = Subject(made, tuple(python), made.name)
    return [usable, *await follow_all(name, RULES, subject, seconds=seconds)]


async def starts_so_many(subject: Subject) -> None:
    """It starts a command as often as it is asked to, with its arguments, and returns as many jobs."""
    argument = "a b 'c' \"d\" $HOME * \\"
    for count in (1, 3):
        async with subject.started(LOOKS, count, argument) as jobs:
            seen = [await _told(job) for job in jobs]
            expect(all(one["arguments"] == [argument] for one in seen), f"the argument {argument!r} arrived as {seen}")
            expect(len({one["pid"] for one in seen}) == count, f"{count} were asked for: {seen}")
            for job, one in zip(jobs, seen, strict=True):
                expect(job.pid in (None, one["pid"]), f"a job's pid is {job.pid}, and its program says {one['pid']}")


async def hands_on_its_place(subject: Subject) -> None:
    """`cwd` is the working directory of what it starts, and `env` its environment."""
    env = {**_environment(), "WORD": "two words"}
    async with subject.started(LOOKS, cwd=Path("/"), env=env) as [job]:
        seen = await _told(job)
        expect(seen["cwd"] == "/", f"cwd='/', and it runs in {seen['cwd']!r}")
        expect(seen["word"] == "two words", f"WORD='two words', and it has {seen['word']!r}")


async def holds_standard_input_open(subject: Subject) -> None:
    """Standard input stays open until the job is stopped."""
    async with subject.started(LOOKS) as [job]:
        expect(not (await _told(job))["closed"], "the program's standard input was closed when it began")
        expect(not job.exited.done(), f"it ended: {job.describe()}")


async def reads_the_announcement(subject: Subject) -> None:
    """The first line of standard output is the announcement; what follows is thrown away, and no obstacle."""
    async with subject.started(TALKS) as [job]:
        line = await job.wait_announced()
        expect(line == "one", f"the program printed 'one', and wait_announced returned {line!r}")
        expect(await asyncio.shield(job.exited) == 4, f"its status is 4, and exited says {job.exited.result()}")
        expect(await job.wait_announced() == "one", "asked again, wait_announced returned something else")


async def waits_once_more(subject: Subject) -> None:
    """Waiting for the announcement can be given up and begun again; "" tells of an end without one."""
    async with subject.started("import sys; sys.stdin.read()") as [job]:
        waiting = asyncio.ensure_future(job.wait_announced())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        again = asyncio.ensure_future(job.wait_announced())
        try:
            await job.stop(GRACE)
            expect(await again == "", f"the program printed nothing, and wait_announced returned {again.result()!r}")
        finally:
            again.cancel()


async def tells_how_it_ended(subject: Subject) -> None:
    """`exited` gives the status, or the negative signal; `output` what it wrote to standard error, or ""."""
    ends = {"sys.exit(7)": 7, "sys.exit(0)": 0, "os.kill(os.getpid(), signal.SIGKILL)": -9}
    for code, status in ends.items():
        async with subject.started(ENDS.format(code)) as [job]:
            line = await job.wait_announced()
            expect(line == "", f"the program printed nothing, and wait_announced returned {line!r}")
            found = await asyncio.shield(job.exited)
            expect(found == status, f"{code}: exited gives {found}")
            expect(isinstance(job.describe(), str) and job.describe(), f"describe returned {job.describe()!r}")
            expect(
                job.output in ("", "the reason"),
                f"it wrote 'the reason', and output is {job.output!r}",
            )


async def stops_in_good_order(subject: Subject) -> None:
    """`stop` ends a job that goes by itself, and returns when it has ended; a second time it does nothing."""
    async with subject.started(LIVES, 2) as jobs:
        for job in jobs:
            expect(await job.wait_announced() == "here", "wait_announced returned something else than was printed")
        expect(not any(job.exited.done() for job in jobs), "they ended by themselves")
        await asyncio.gather(*(job.stop() for job in jobs))
        for job in jobs:
            expect(job.exited.done(), f"stop has returned, and exited is not done: {job.describe()}")
            await job.stop()
            job.kill()


async def ends_the_stubborn(subject: Subject) -> None:
    """What does not go within the grace is killed by `stop`, and by `kill` at once."""
    async with subject.started(STUBBORN, 2) as jobs:
        for job in jobs:
            await job.wait_announced()
        jobs[0].kill()
        await asyncio.shield(jobs[0].exited)
        await jobs[1].stop(GRACE)
        expect(jobs[1].exited.done(), "stop has returned, and exited is not done")
        for job in jobs:
            expect(job.exited.result() != 0, f"it was killed, and exited gives {job.exited.result()}")


async def leaves_nothing_of_a_job(subject: Subject) -> None:
    """When `stop` has returned nothing of a job is left, and what it had started goes too."""
    async with subject.started(PARENT.format(STUBBORN)) as [job]:
        child = int(await job.wait_announced())
        local = job.pid is not None
        await job.stop(GRACE)
        if local:
            expect(not _runs(job.pid), f"process {job.pid} still runs")
            # One that was killed takes a moment to go.
            await until(lambda: not _runs(child))


async def ends_a_job_that_is_given_up(subject: Subject) -> None:
    """A `stop` that is cancelled ends the job at once."""
    async with subject.started(STUBBORN) as [job]:
        await job.wait_announced()
        stopping = asyncio.ensure_future(job.stop(3600))
        await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.wait([stopping])
        await asyncio.shield(job.exited)


async def refuses_what_can_not_be_started(subject: Subject) -> None:
    """A program that is not there is an OSError which names it; or, where that shows only later, a job that fails."""
    name = "no-such-program-of-aioparallel"
    try:
        jobs = await subject.launcher.start([name], 2)
    except OSError as error:
        expect(name in str(error), f"the error does not name it: {error}")
        return
    for job in jobs:
        status = await asyncio.shield(job.exited)
        await job.stop()
        expect(status != 0, f"it ended with status {status}")


async def gives_back_what_it_took(subject: Subject) -> None:
    """Jobs that were stopped leave no descriptor open here."""
    async with subject.started(LIVES) as [job]:
        await job.wait_announced()
    before = _descriptors()
    async with subject.started(LIVES, 3) as jobs:
        for job in jobs:
            await job.wait_announced()
    await until(lambda: _descriptors() <= before)


async def starts_engines(subject: Subject) -> None:
    """A cluster starts its engines with it, and they compute."""
    try:
        async with Cluster(1, launcher=subject.launcher) as cluster, cluster.multiengine() as engines:
            result = await engines.apply(pow, 2, 10)
            expect(result == [1024], f"2 to the power of 10 is {result}")
    except ParallelError as error:
        expect(False, f"{type(error).__name__}: {error}")


RULES = (
    starts_so_many,
    hands_on_its_place,
    holds_standard_input_open,
    reads_the_announcement,
    waits_once_more,
    tells_how_it_ended,
    stops_in_good_order,
    ends_the_stubborn,
    leaves_nothing_of_a_job,
    ends_a_job_that_is_given_up,
    refuses_what_can_not_be_started,
    gives_back_what_it_took,
    starts_engines,
)


async def _told(job: Job) -> dict[str, Any]:
    line = await job.wait_announced()
    try:
        told: dict[str, Any] = json.loads(line)
    except ValueError:
        expect(False, f"of a line of JSON, wait_announced returned {line!r}; {job.describe()}: {job.output}")
        raise
    return told


def _runs(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return False
    # It may have ended and not been reaped, which is for whoever started it.
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    return True


def _descriptors() -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/fd"))
    return 0


def _environment() -> Mapping[str, str]:
    return dict(os.environ)
