"""How calls leave a client, where that is more than a write: payloads that a thread copies into shared memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model import model_cluster, settle

import aioparallel
from aioparallel import departures
from aioparallel.errors import ConnectionLost, InvalidDeferredID
from aioparallel.memory import AVAILABLE, Pool
from aioparallel.testing.rules import until

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="this system shares no memory")

LARGE = bytes(2**20)


class Gate:
    """Keeps the thread that copies from going on."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 30)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, lend = Gate(), Pool.lend

    def slow(pool: Pool, buffers: Any) -> Any:
        if sum(map(len, buffers)) >= len(LARGE):
            gate.begun.set()
            assert gate.open.wait(30)
        return lend(pool, buffers)

    monkeypatch.setattr(departures, "STAGED", len(LARGE))
    monkeypatch.setattr(Pool, "lend", slow)
    yield gate
    gate.open.set()


@pytest.fixture
def address(directory: Path) -> str:
    return f"unix://{directory}/s"


async def multiengine(controller: Any) -> Any:
    mec = await aioparallel.MultiEngineClient.connect(controller.capability("multiengine"))
    await until(lambda: mec.channel._connection.shares)
    return mec


def test_a_call_that_is_forgotten_while_it_is_copied_goes_on(gate: Gate, address: str) -> None:
    async def main() -> None:
        async with model_cluster(1, address=address) as (controller, _):
            mec = await multiengine(controller)
            pushed = mec.push({"a": LARGE})
            await gate.wait()
            assert repr(mec.channel._departures).endswith("1 being copied>")
            await mec.flush()
            gate.open.set()
            assert await mec.apply(len, aioparallel.Reference("a")) == [len(LARGE)]
            with pytest.raises(InvalidDeferredID):
                await pushed
            assert mec.channel._pending == {}
            assert not mec.channel._departures.line.leaving
            await mec.aclose()

    asyncio.run(main())


def test_a_call_that_is_withdrawn_while_it_is_copied_never_leaves(gate: Gate, address: str) -> None:
    async def main() -> None:
        async with model_cluster(1, address=address) as (controller, host):
            mec = await multiengine(controller)
            pushed = mec.push({"a": LARGE})
            behind = mec.keys()
            await gate.wait()
            pushed.cancel()
            await settle()
            assert not behind.done()
            gate.open.set()
            assert "a" not in (await behind)[0]
            assert host.cancelled == []
            assert not mec.channel._departures.line.leaving
            assert not mec.channel._departures.lent
            await mec.aclose()

    asyncio.run(main())


def test_what_goes_wrong_while_it_is_copied_is_the_calls_error(gate: Gate, address: str) -> None:
    async def main() -> None:
        async with model_cluster(1, address=address) as (controller, _):
            mec = await multiengine(controller)
            with pytest.MonkeyPatch.context() as patch:

                def broken(pool: Pool, buffers: Any) -> Any:
                    raise ValueError("no")

                patch.setattr(Pool, "lend", broken)
                pushed, behind = mec.push({"a": LARGE}), mec.apply(abs, -1)
                with pytest.raises(ValueError, match="no"):
                    await pushed
                assert await behind == [1]
            await mec.aclose()

    asyncio.run(main())


def test_the_connection_may_end_while_a_call_is_copied(gate: Gate, address: str) -> None:
    async def main() -> None:
        async with model_cluster(1, address=address) as (controller, _):
            mec = await multiengine(controller)
            pushed = mec.push({"a": LARGE})
            await gate.wait()
            await mec.aclose()
            with pytest.raises(ConnectionLost):
                await pushed
            gate.open.set()
            await asyncio.get_running_loop().shutdown_default_executor()
            await settle()
            assert not mec.channel._departures.lent

    asyncio.run(main())
