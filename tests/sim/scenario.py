"""Mixed random work and random faults: what every seed runs, and what has to hold whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from aioparallel import Dependency, MapTask
from aioparallel.errors import (
    ConnectionLost,
    DependencyError,
    EngineDied,
    EngineLost,
    InvalidEngineID,
    ParallelError,
    TaskAborted,
    TaskPoisoned,
    TaskTimeout,
)
from aioparallel.testing import Simulation, work
from sim.jobs import Oops, begun, child, choosy, failing, fatal, forget, has_kind, later, plain, value_of

#: How a task may end that nothing is wrong with: in such a storm so many of its kernels may die, one after the other.
BAD_LUCK = TaskPoisoned, InvalidEngineID
#: How work may end that is taken back.
LADDER = "interrupt", "terminate", "kill"
STEPS = {"waiting", "finished", *LADDER}


async def outcome(handle: Any) -> Any:
    """Return what a call gave, or what it raised."""
    try:
        return await handle
    except (ParallelError, Oops) as error:
        return error


def check(condition: bool, token: str, found: Any) -> None:
    assert condition, f"{token} has come to {found!r}"


class Tasks:
    """The tasks of one client, of all kinds."""

    def __init__(self, sim: Simulation, tc: Any, name: str) -> None:
        self.sim = sim
        self.tc = tc
        self.name = name
        self.random = sim.random
        #: Tasks that others can depend on: their tokens and futures.
        self.parents: list[tuple[str, Any]] = []

    def seconds(self) -> float:
        return self.random.choice((0.0, 0.0, 0.001, 0.02, 0.3, 1.5)) * self.random.random()

    def options(self) -> Any:
        """Return the client with random terms that decide nothing about how a task ends."""
        r = self.random
        chances: dict[str, Callable[[], Any]] = {
            "priority": lambda: r.randint(-2, 2),
            "resources": lambda: {"gpu": r.choice((0.5, 1))},
            "label": lambda: "a label",
            "timeout": lambda: 1000.0,
        }
        chosen = {name: make() for name, make in chances.items() if r.random() < 0.15}
        return self.tc.options(**chosen) if chosen else self.tc

    async def run(self, count: int) -> None:
        kinds = [*KINDS]
        checks = []
        for number in range(count):
            if self.random.random() < 0.3:
                await asyncio.sleep(self.seconds())
            kind = self.random.choices(kinds, KINDS.values())[0]
            checks.append(asyncio.ensure_future(kind(self, f"{self.name}-{number}")))
        for each in checks:
            await each

    async def good(self, token: str) -> None:
        """One that nothing is wrong with; others may depend on it."""
        handle = self.options().submit(plain, token, self.seconds())
        self.parents.append((token, handle))
        found = await outcome(handle)
        check(found == value_of(token) or isinstance(found, BAD_LUCK), token, found)
        check(not isinstance(found, str) or begun[token] > 0, token, "a value, and never ran")

    async def failing(self, token: str) -> None:
        retries, times = self.random.randint(0, 3), self.random.choice((1, 2, 10**9))
        handle = self.tc.options(retries=retries).submit(failing, token, self.seconds(), times)
        self.parents.append((token, handle))
        found = await outcome(handle)
        if isinstance(found, Oops):
            check(begun[token] > retries, token, f"{found!r} after {begun[token]} tries of {retries + 1}")
        else:
            check(found == value_of(token) or isinstance(found, BAD_LUCK), token, found)
            check(begun[token] > times or not isinstance(found, str), token, f"a value at try {begun[token]}")

    async def fatal(self, token: str) -> None:
        times = self.random.randint(1, 4)
        found = await outcome(self.options().submit(fatal, token, self.seconds(), times))
        if isinstance(found, str):
            check(begun[token] > times, token, f"{found!r} after {begun[token]} tries")
        else:
            check(isinstance(found, BAD_LUCK) and len(found.deaths) >= 3, token, found)

    async def once(self, token: str) -> None:
        options = self.tc.options(at_most_once=True)
        if self.random.random() < 0.5:
            handle = options.submit(plain, token, self.seconds())
        else:
            handle = options.submit(fatal, token, self.seconds(), 1)
        found = await outcome(handle)
        check(found == value_of(token) or isinstance(found, EngineLost), token, found)
        check(begun[token] <= 1, token, f"{begun[token]} runs, of one")

    async def limited(self, token: str) -> None:
        """One that takes longer than it may, or just not."""
        timeout, survives = self.random.choice((0.1, 1.0)), self.random.choice(("nothing", "interrupt", "terminate"))
        seconds = timeout * self.random.choice((0.5, 100.0))
        found = await outcome(self.tc.options(timeout=timeout).submit(plain, token, seconds, survives))
        if seconds < timeout:
            check(found == value_of(token) or isinstance(found, BAD_LUCK), token, found)
        elif not isinstance(found, BAD_LUCK):
            # Or less, if its kernel is killed meanwhile.
            steps = {"nothing": 1, "interrupt": 2, "terminate": 3}[survives]
            check(isinstance(found, TaskTimeout) and found.step in LADDER[:steps], token, found)

    async def cancelled(self, token: str) -> None:
        survives = self.random.choice(("nothing", "nothing", "interrupt", "terminate"))
        handle = self.options().submit(plain, token, 20 * self.seconds(), survives)
        self.parents.append((token, handle))
        await asyncio.sleep(self.seconds())
        if not handle.cancel():
            found = await outcome(handle)
            check(found == value_of(token) or isinstance(found, BAD_LUCK), token, found)
            return
        receipt = await handle.wait_receipt()
        check(receipt.step in STEPS and receipt.seconds >= 0, token, receipt)
        check(handle.cancelled(), token, handle)

    async def aborted(self, token: str) -> None:
        handle = self.options().submit(plain, token, self.seconds())
        await asyncio.sleep(self.seconds())
        receipt = await self.tc.abort(handle)
        check(receipt.step in STEPS, token, receipt)
        found = await outcome(handle)
        if isinstance(found, TaskAborted):
            check(found.step == receipt.step, token, (found, receipt))
        else:
            check(found == value_of(token) or isinstance(found, BAD_LUCK), token, found)

    async def refusing(self, token: str) -> None:
        times = self.random.randint(0, 3)
        found = await outcome(self.tc.options(depend_timeout=5.0).submit(choosy, token, self.seconds(), times))
        check(found == value_of(token) or isinstance(found, (BAD_LUCK, DependencyError)), token, found)

    async def dependent(self, token: str) -> None:
        """One that only some engines take."""
        kind = self.random.choice(("a", "b"))
        options = self.tc.options(depend=(has_kind, kind), depend_timeout=3.0)
        found = await outcome(options.submit(plain, token, self.seconds()))
        check(found == value_of(token) or isinstance(found, (BAD_LUCK, DependencyError)), token, found)

    async def given(self, token: str) -> None:
        """One that is given the values of others."""
        parents = self.random.sample(self.parents, min(len(self.parents), self.random.randint(1, 3)))
        found = await outcome(self.options().submit(child, token, self.seconds(), *(handle for _, handle in parents)))
        if isinstance(found, str):
            values = ", ".join(value_of(parent) for parent, _ in parents)
            check(found == f"{token} of {values}", token, found)
        else:
            check(isinstance(found, (BAD_LUCK, DependencyError)), token, found)
            wrong = [handle.cancelled() or handle.exception() is not None for _, handle in parents if handle.done()]
            check(isinstance(found, BAD_LUCK) or any(wrong), token, f"{found!r}, though no parent failed")

    async def after(self, token: str) -> None:
        parents = self.random.sample(self.parents, min(len(self.parents), self.random.randint(1, 3)))
        follow = self.random.random() < 0.2
        every = self.random.random() < 0.6
        condition = Dependency([handle for _, handle in parents], all=every)
        options = self.tc.options(follow=condition) if follow else self.tc.options(after=condition)
        tokens = [parent for parent, _ in parents] if every and not follow else []
        found = await outcome(options.submit(later, token, self.seconds(), tokens))
        check(found == value_of(token) or isinstance(found, (BAD_LUCK, DependencyError)), token, found)

    async def unattended(self, token: str) -> None:
        number = await self.tc.run(MapTask(plain, (token, self.seconds())))
        if self.random.random() < 0.5:
            await self.tc.barrier(number)
        result = await self.tc.get_task_result(number, block=True)
        if result.failure is None:
            check(result.results == value_of(token), token, result)
        else:
            check(isinstance(result.failure, BAD_LUCK), token, result.failure)

    async def mapped(self, token: str) -> None:
        numbers = range(self.random.randint(1, 20))
        ordered = self.random.random() < 0.7
        values = []
        with contextlib.suppress(BAD_LUCK):
            async for value in self.tc.map(lambda n: work(0.01, (token, n)), numbers, ordered=ordered):
                values.append(value)
                if self.random.random() < 0.03:
                    break
        check(len(set(values)) == len(values), token, values)
        if ordered:
            check(values == [(token, n) for n in numbers][: len(values)], token, values)

    async def on_its_way(self, token: str) -> None:
        """Take back what is on its way to a kernel that dies just then."""
        if not self.sim.engines:
            return
        engine = self.random.choice(self.sim.engines)
        self.sim.kill_kernel(engine)
        handles = [self.tc.options(engines=[engine]).submit(plain, f"{token}.{n}", 0.1) for n in range(2)]
        await asyncio.sleep(0.006 * self.random.random())
        for number, handle in enumerate(handles):
            if handle.cancel():
                receipt = await handle.wait_receipt()
                check(receipt.step in STEPS, token, receipt)
            else:
                found = await outcome(handle)
                check(found == value_of(f"{token}.{number}") or isinstance(found, BAD_LUCK), token, found)

    async def behind(self, token: str) -> None:
        """One with a timeout behind one that takes longer than was expected: there its time has not begun."""
        if not self.sim.engines:
            return
        terms = {"engines": [self.random.choice(self.sim.engines)], "label": token}
        options = self.tc.options(**terms)
        handles = [options.submit(plain, f"{token}.0", 0.0)]
        await asyncio.wait(handles, timeout=30.0)
        handles.append(options.submit(plain, f"{token}.1", 1.0))
        handles.append(self.tc.options(timeout=0.5, **terms).submit(plain, f"{token}.2", 0.1))
        await asyncio.wait(handles, timeout=60.0)
        for number, handle in enumerate(handles):
            # That engine may be gone, or another's long work be before it.
            if not handle.cancel():
                found = await outcome(handle)
                check(found == value_of(f"{token}.{number}") or isinstance(found, BAD_LUCK), token, found)

    async def asked_about(self, token: str) -> None:
        """Look at what is going on."""
        status = await self.tc.queue_status()
        check(set(status) >= {"scheduled", "pending", "succeeded", "failed"}, token, status)
        check(all(count >= 0 for count in status.values()), token, status)
        if self.parents:
            assert isinstance(await self.tc.why(self.parents[-1][1]), str)
        await self.tc.spin()


#: Kinds of tasks, and how many of each among a hundred.
KINDS: dict[Callable[[Tasks, str], Coroutine[Any, Any, None]], int] = {
    Tasks.good: 28,
    Tasks.failing: 8,
    Tasks.fatal: 6,
    Tasks.once: 6,
    Tasks.limited: 6,
    Tasks.cancelled: 8,
    Tasks.aborted: 4,
    Tasks.refusing: 5,
    Tasks.dependent: 3,
    Tasks.given: 8,
    Tasks.after: 8,
    Tasks.unattended: 4,
    Tasks.mapped: 3,
    Tasks.on_its_way: 4,
    Tasks.behind: 3,
    Tasks.asked_about: 3,
}


async def commands(sim: Simulation) -> None:
    """Address engines directly; of those that are lost, an error has to say so."""
    r = sim.random
    async with sim.multiengine() as mec:
        for number in range(r.randint(1, 4)):
            await asyncio.sleep(r.random())
            calls = [
                mec.execute(f"x{number} = {number}"),
                mec.apply(plain, f"m-{number}", 0.3 * r.random()),
                mec.set_properties({"kind": r.choice("ab")}),
            ]
            if r.random() < 0.2:
                calls[1].cancel()
            # That a call was cancelled is not to be taken for the end of this.
            found = await asyncio.gather(*map(outcome, calls), return_exceptions=True)
            # Engines come and go.
            fine = ParallelError, ExceptionGroup, asyncio.CancelledError
            check(
                not [each for each in found if isinstance(each, BaseException) and not isinstance(each, fine)],
                "m",
                found,
            )


async def deserter(sim: Simulation) -> None:
    """A client that is gone without a word while its tasks run."""
    tc = await sim.task()
    handles = [tc.submit(plain, f"d-{number}", 2 * sim.random.random()) for number in range(5)]
    await asyncio.sleep(sim.random.random())
    sim.cut(tc)
    for handle in handles:
        found = await outcome(handle)
        check(isinstance(found, (str, ConnectionLost, EngineDied, BAD_LUCK)), "d", found)
    await tc.aclose()


async def client(sim: Simulation, name: str) -> None:
    async with sim.task() as tc:
        await Tasks(sim, tc, name).run(sim.random.randint(4, 14))


async def mixed(sim: Simulation) -> None:
    """What every seed runs."""
    forget()
    r = sim.random
    async with sim.storm(every=r.choice((0.2, 0.5, 1.0, 2.0))), asyncio.TaskGroup() as group:
        for number in range(r.randint(1, 3)):
            group.create_task(client(sim, f"c{number}"))
        group.create_task(commands(sim))
        if r.random() < 0.3:
            group.create_task(deserter(sim))


#: How it is run: every engine has something that a task can ask for.
OPTIONS: dict[str, Any] = {"resources": {"gpu": 1}}
