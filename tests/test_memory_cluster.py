"""A cluster in the test's own event loop: its clients, made and written, and what it refuses."""

from __future__ import annotations

import asyncio

import pytest
from plugged import Counter

from aioparallel.errors import ClusterError, ConfigurationError
from aioparallel.testing import MemoryCluster


def test_clients_are_made_of_an_interfaces_annotations() -> None:
    async def main() -> None:
        async with MemoryCluster(0, interfaces=Counter) as cluster:
            async with cluster.client("counter") as by_name, cluster.client(Counter) as by_class:
                assert await by_name.add(1) == 1
                assert await by_class.add(2) == 3

    asyncio.run(main())


def test_interfaces_that_are_added_later_have_clients_too() -> None:
    async def main() -> None:
        async with MemoryCluster(0, interfaces=[]) as cluster:
            with pytest.raises(ConfigurationError, match="no interface 'counter' here; there are engine"):
                await cluster.client(Counter)
            await cluster.controller.add(Counter)
            counter = await cluster.client(Counter)
            assert await counter.add(1) == 1
            with pytest.raises(ConfigurationError, match="the interface 'engine' names no client class"):
                await cluster.client("engine")

    asyncio.run(main())


def test_it_is_not_used_before_it_is_started() -> None:
    async def main() -> None:
        with pytest.raises(ClusterError, match="has not been started"):
            await MemoryCluster(0).client("monitor")

    asyncio.run(main())
