"""Mixed random work and random faults: what every seed runs, and what has to hold whatever happens."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from aioparallel.errors import EngineDied, ParallelError, TaskPoisoned
from aioparallel.testing import Simulation, crash, work

#: How a task ends that too many kernels died of: by chance, in such a storm.
GIVEN_UP = EngineDied, TaskPoisoned

#: How often each task has begun, by token: it is one process.
begun: Counter[str] = Counter()


class Oops(Exception):
    """What tasks raise that are to fail."""


def plain(token: str, seconds: float) -> str:
    begun[token] += 1
    return work(seconds, f"value of {token}")


def failing(token: str, seconds: float) -> None:
    begun[token] += 1
    work(seconds)
    raise Oops(token)


def fatal(token: str, seconds: float, times: int) -> str:
    """Kill the kernel, the first so many times."""
    begun[token] += 1
    work(seconds)
    if begun[token] <= times:
        crash()
    return f"value of {token}"


async def failure(handle: Any) -> ParallelError | Oops | None:
    """Return what a call raised, if it was one of these."""
    try:
        await handle
    except (ParallelError, Oops) as error:
        return error
    return None


class Mixed:
    """One run: some clients, each with tasks of all kinds, and one that addresses engines."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.random = sim.random
        begun.clear()

    async def run(self) -> None:
        r = self.random
        async with self.sim.storm(every=r.choice((0.2, 0.5, 1.0, 2.0))):
            async with asyncio.TaskGroup() as group:
                for number in range(r.randint(1, 3)):
                    group.create_task(self.tasks(f"c{number}", r.randint(4, 12)))
                group.create_task(self.commands())
                if r.random() < 0.3:
                    group.create_task(self.deserter())

    def seconds(self) -> float:
        return self.random.choice((0.0, 0.0, 0.001, 0.02, 0.3, 1.5)) * self.random.random()

    async def tasks(self, name: str, count: int) -> None:
        async with self.sim.task() as tc:
            checks = []
            for number in range(count):
                if self.random.random() < 0.3:
                    await asyncio.sleep(self.seconds())
                checks.append(asyncio.ensure_future(self.one(tc, f"{name}-{number}")))
            if self.random.random() < 0.5:
                checks.append(asyncio.ensure_future(self.mapped(tc, name)))
            for check in checks:
                await check

    async def one(self, tc: Any, token: str) -> None:
        kind, seconds = self.random.random(), self.seconds()
        if kind < 0.15:
            await self.cancelled(tc.submit(plain, token, seconds))
        elif kind < 0.3:
            error = await failure(tc.submit(failing, token, seconds))
            assert isinstance(error, GIVEN_UP) or (type(error), error.args) == (Oops, (token,)), repr(error)
        elif kind < 0.4:
            times = self.random.randint(1, 4)
            try:
                assert await tc.submit(fatal, token, seconds, times) == f"value of {token}"
                assert begun[token] > times, f"{token} was to die {times} times"
            except GIVEN_UP:
                pass
        else:
            try:
                assert await tc.submit(plain, token, seconds) == f"value of {token}"
                assert begun[token], f"{token} never ran"
            except GIVEN_UP:
                pass

    async def cancelled(self, handle: Any) -> None:
        await asyncio.sleep(self.random.choice((0.0, 0.001, 0.05, 1.0)) * self.random.random())
        if handle.cancel():
            try:
                await handle
            except asyncio.CancelledError:
                return
            raise AssertionError(f"{handle!r} was cancelled, and gave a value")
        await failure(handle)

    async def mapped(self, tc: Any, name: str) -> None:
        numbers = range(self.random.randint(1, 20))
        ordered = self.random.random() < 0.7
        values = []
        try:
            async for value in tc.map(lambda n: work(0.01, (name, n)), numbers, ordered=ordered):
                values.append(value)
                if self.random.random() < 0.03:
                    break
        except GIVEN_UP:
            pass
        assert sorted(set(values)) == sorted(values)
        if ordered:
            assert values == [(name, n) for n in numbers][: len(values)]

    async def commands(self) -> None:
        """Address engines directly; of those that are lost, an error has to say so."""
        async with self.sim.multiengine() as mec:
            for number in range(self.random.randint(1, 5)):
                await asyncio.sleep(self.seconds())
                calls = [mec.execute(f"x{number} = {number}"), mec.apply(plain, f"m-{number}", self.seconds())]
                if self.random.random() < 0.2:
                    calls[1].cancel()
                for call in calls:
                    try:
                        await call
                    except asyncio.CancelledError:
                        assert call.cancelled()
                    except (ParallelError, ExceptionGroup):
                        pass  # engines come and go

    async def deserter(self) -> None:
        """A client that is gone without a word while its tasks run."""
        tc = await self.sim.task()
        handles = [tc.submit(plain, f"d-{number}", self.seconds()) for number in range(5)]
        await asyncio.sleep(self.seconds())
        self.sim.cut(tc)
        for handle in handles:
            await failure(handle)
        await tc.aclose()


async def mixed(sim: Simulation) -> None:
    """What every seed runs."""
    await Mixed(sim).run()
