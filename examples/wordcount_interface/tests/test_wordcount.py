"""The interface, installed, on a cluster of its own: both faces at once, beside MultiEngine and Task."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aioparallel
from aioparallel import client

TEXTS = [path.read_text(encoding="utf-8") for path in sorted(Path(json.__file__).parent.glob("*.py"))] * 4
SERIAL = Counter(re.findall(r"[a-z]+", "\n".join(TEXTS).lower()))


@pytest.fixture(scope="module")
def cluster() -> Iterator[client.Cluster]:
    with client.Cluster(n=4) as cluster:
        yield cluster


def test_it_equals_the_serial_count(cluster: client.Cluster) -> None:
    wordcount = cluster.client("wordcount")
    assert wordcount.count(TEXTS) == SERIAL
    assert wordcount.count([]) == {}
    added: Counter[str] = Counter()
    for counts in wordcount.each(TEXTS):
        added.update(counts)
    assert added == SERIAL
    assert wordcount.most_common(3) == SERIAL.most_common(3)
    with pytest.raises(TypeError, match=r"count: argument texts\[1\] is the int 3; expected str"):
        wordcount.count(["a", 3])


def test_both_faces_at_once_with_the_built_in_interfaces(cluster: client.Cluster) -> None:
    async def several() -> list[Any]:
        async with (
            aioparallel.client_of(_interface())(cluster.capability("wordcount")) as wordcount,
            aioparallel.MultiEngineClient(cluster.capability("multiengine")) as mec,
            aioparallel.TaskClient(cluster.capability("task")) as tc,
        ):
            counting = [wordcount.count(TEXTS) for _ in range(5)]
            squares = [tc.submit(pow, i, 2) for i in range(200)]
            sums = [mec.apply(sum, range(i)) for i in range(50)]
            assert await asyncio.gather(*squares) == [i * i for i in range(200)]
            assert await asyncio.gather(*sums) == [[sum(range(i))] * 4 for i in range(50)]
            return list(await asyncio.gather(*counting))

    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.extend(asyncio.run(several())))
    thread.start()
    wordcount = cluster.client("wordcount")
    results += [wordcount.count(TEXTS) for _ in range(5)]
    thread.join()
    assert results == [SERIAL] * 10


def _interface() -> type[aioparallel.Interface]:
    from wordcount import WordCount

    return WordCount


def test_its_capability_opens_nothing_else(cluster: client.Cluster) -> None:
    mine = cluster.capability("wordcount")
    with pytest.raises(client.ConfigurationError, match="for the interface 'wordcount'"):
        client.TaskClient(mine)
    for other in ("task", "multiengine", "admin", "engine"):
        with pytest.raises(client.AccessDenied):
            _Any(dataclasses.replace(mine, interface=other))
    narrow = mine.narrow("ops=most_common")
    with client.client_of(_interface())(narrow) as c:
        assert len(c.most_common(1)) == 1
        with pytest.raises(client.OperationError, match="this capability does not allow 'count' of 'wordcount'"):
            c.count(TEXTS)


class _Any(client.Client):
    """A client that asks for whatever a capability says."""

    def __init__(self, capability: aioparallel.Capability) -> None:
        type(self).interface = capability.interface
        super().__init__(capability)
