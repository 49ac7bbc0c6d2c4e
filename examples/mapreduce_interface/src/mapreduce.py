"""Map and reduce on engines, with a shuffle by key between them; the controller says who does what."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from aioparallel import (
    EngineDied,
    EngineLost,
    EngineProxy,
    Interface,
    NoEnginesRegistered,
    Preempted,
    QueueCleared,
    remote,
)

#: How often a job may be begun: its engine may die, or be taken from it.
ATTEMPTS = 3


class MapReduce(Interface):
    """Calls a mapper with each input, and a reducer with each key and all its values."""

    name = "mapreduce"

    async def start(self) -> None:
        """Begin."""
        self._done = self._running = 0

    def report(self) -> dict[str, Any]:
        """Return how much is and was done, for `status`."""
        return {"running": self._running, "done": self._done}

    @remote
    async def mapreduce(self, mapper: str, reducer: str, inputs: list[str]) -> dict[str, Any]:
        """Return what the reducer makes of each key's values.

        Both are named by their import path, "module:function", and imported on the engines. Jobs may run twice, if
        an engine dies in between.

        Args:
            mapper: Called with one input; returns, or yields, pairs of a key, a string, and a plain value.
            reducer: Called with a key and the list of its values, in the order of the inputs; returns a plain value.
            inputs: What the mapper is called with: texts, or where they are.
        """
        self._running += 1
        try:
            # A key has to be in the same part wherever it comes from, so how many there are is settled once.
            parts = max(1, len(self.host.engines))
            mapped = await self._spread("map_one", [(mapper, source, parts) for source in inputs])
            shuffled = [(reducer, [parts_of_one[part] for parts_of_one in mapped]) for part in range(parts)]
            reduced = await self._spread("reduce_part", shuffled if inputs else [])
        finally:
            self._running -= 1
        self._done += 1
        return {key: value for part in reduced for key, value in part.items()}

    async def _spread(self, function: str, jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Have jobs done on all engines, each of which takes the next when it has done one; return their values."""
        results: list[Any] = [None] * len(jobs)
        waiting = deque((place, ATTEMPTS) for place in range(len(jobs)))

        async def serve(engine: EngineProxy) -> None:
            while waiting:
                place, attempts = waiting.popleft()
                try:
                    results[place] = await engine.call(f"mapreduce_jobs:{function}", *jobs[place])
                except (EngineDied, Preempted, QueueCleared) as error:
                    if attempts == 1:
                        raise
                    waiting.append((place, attempts - 1))
                    if isinstance(error, EngineLost):
                        return

        # More than once only if an engine ends when the others have nothing left to do: they do what it had.
        while waiting:
            if not self.host.engines:
                raise NoEnginesRegistered
            try:
                async with asyncio.TaskGroup() as group:
                    for engine in self.host.engines.values():
                        group.create_task(serve(engine), name=f"{function} on engine {engine.id}")
            except ExceptionGroup as errors:
                # The first is why the others were withdrawn.
                raise errors.exceptions[0] from None
        return results
