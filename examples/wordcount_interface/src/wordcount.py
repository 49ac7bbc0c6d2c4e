"""Count the words of many texts on all engines; the controller adds up."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from itertools import cycle

from aioparallel import EngineCall, Interface, NoEnginesRegistered, remote


def count(text: str) -> dict[str, int]:
    """Count the words of one text; this runs on an engine."""
    return Counter(re.findall(r"[a-z]+", text.lower()))


class WordCount(Interface):
    """Counts the words of texts on all engines, and remembers them all."""

    name = "wordcount"

    async def start(self) -> None:
        """Begin; what is kept here lives in the controller, for all clients."""
        self.seen: Counter[str] = Counter()

    @remote
    async def count(self, texts: list[str]) -> dict[str, int]:
        """Return how often each word occurs in the texts."""
        counts: Counter[str] = Counter()
        for each in await asyncio.gather(*self._jobs(texts)):
            counts.update(each)
        self.seen.update(counts)
        return counts

    @remote
    async def each(self, texts: list[str]) -> AsyncIterator[dict[str, int]]:
        """Yield the counts of one text after the other."""
        for job in self._jobs(texts):
            yield await job

    @remote
    def most_common(self, n: int = 10) -> list[tuple[str, int]]:
        """Return the words that `count` has seen most often so far, for whichever client."""
        return self.seen.most_common(n)

    def _jobs(self, texts: list[str]) -> list[EngineCall]:
        if not self.host.engines:
            raise NoEnginesRegistered
        engines = cycle(self.host.engines.values())
        return [engine.call("wordcount:count", text) for engine, text in zip(engines, texts, strict=False)]
