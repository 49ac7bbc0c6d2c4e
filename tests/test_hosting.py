"""What an interface may not do to its controller: refused at the door, or contained, by name; the others go on."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from model import ModelHost, settle

from aioparallel import hosting
from aioparallel.controller import Controller
from aioparallel.errors import ConfigurationError, ConnectionLost, OperationError, PluginError
from aioparallel.events import LoopHeldUp
from aioparallel.interface import ClientProxy, Interface, remote


class Steady(Interface):
    """One that goes on."""

    name = "steady"

    @remote
    def ping(self) -> str:
        """Answer."""
        return "pong"


class Rude(Interface):
    """Does what it should not."""

    name = "rude"

    async def start(self) -> None:
        self.leaked: asyncio.Task[None] | None = None
        self.until: list[None] = []

    @remote
    def keep(self, seconds: float) -> None:
        """Keep the loop."""
        time.sleep(seconds)

    @remote
    async def keep_later(self, seconds: float) -> int:
        """Keep the loop after a while."""
        await asyncio.sleep(0)
        time.sleep(seconds)
        await asyncio.sleep(0)
        return 1

    @remote
    async def keep_between(self, seconds: float) -> AsyncIterator[int]:
        """Keep the loop between two values."""
        yield 1
        time.sleep(seconds)
        yield 2

    @remote
    def leak(self, stubborn: bool) -> None:
        """Leave a task behind."""
        self.leaked = asyncio.create_task(_wait(self.until if stubborn else None), name="leaky")

    @remote
    def run(self) -> None:
        """Have the host keep a task."""
        self.leaked = self.host.create_task(_wait())

    @remote
    def run_and_fail(self) -> None:
        """Have the host keep a task that fails."""
        self.host.create_task(_fail(), name="the failing one")

    def engine_joined(self, engine: Any) -> None:
        raise ZeroDivisionError("engine_joined")

    def client_joined(self, client: ClientProxy) -> None:
        raise ZeroDivisionError("client_joined")

    def client_left(self, client: ClientProxy) -> None:
        raise ZeroDivisionError("client_left")


async def _wait(until: list[None] | None = None) -> None:
    """Wait; once cancelled end, or go on until there is something in a list."""
    while True:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if until is None or until:
                raise


async def _fail() -> None:
    raise KeyError("alone")


@contextlib.asynccontextmanager
async def rude() -> AsyncIterator[tuple[Controller, Any, Any]]:
    async with Controller() as controller:
        await controller.listen("memory://x")
        await controller.add(Rude)
        await controller.add(Steady)
        async with (
            Rude.client(controller.capability("rude")) as client,
            Steady.client(controller.capability("steady")) as steady,
        ):
            yield controller, client, steady
            assert await steady.ping() == "pong"


def test_what_keeps_the_loop_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(hosting, "HELD_UP", 0.02)

    async def main() -> None:
        async with rude() as (controller, client, _):
            seen: list[Any] = []
            controller.monitor.listen(seen.append)
            await client.keep(0.03)
            assert await client.keep_later(0.04) == 1
            assert [n async for n in client.keep_between(0.05)] == [1, 2]
            held = [event for event in seen if isinstance(event, LoopHeldUp) and event.interface == "rude"]
            for operation, seconds in (("keep", 0.03), ("keep_later", 0.04), ("keep_between", 0.05)):
                assert max(event.seconds for event in held if event.operation == operation) >= seconds

    asyncio.run(main())
    assert re.search(
        r"interface 'rude' \(test_hosting:Rude\) held up the controller for \d+\.\d s, in keep_later: what takes",
        caplog.text,
    )


def test_what_it_raises_where_nobody_waits_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with rude() as (controller, client, _):
            host = await ModelHost().dial(controller, 2)
            assert sorted(controller.engines) == [0, 1]
            await client.run_and_fail()
            await settle()
        await host.lost

    asyncio.run(main())
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == [
        "interface 'rude' (test_hosting:Rude) failed at client_joined",
        "interface 'rude' (test_hosting:Rude) failed at engine_joined",
        "interface 'rude' (test_hosting:Rude) failed at engine_joined",
        "rude: the failing one failed",
        "interface 'rude' (test_hosting:Rude) failed at client_left",
    ]


def test_a_task_that_is_left_behind_is_named_and_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with rude() as (controller, client, _):
            interface = controller.interfaces["rude"]
            await client.leak(False)
            await controller.remove("rude")
            assert interface.leaked.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == "interface 'rude' (test_hosting:Rude) left a task behind, which is cancelled: leaky (_wait)"


def test_one_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(hosting, "STOP", 0.01)

    async def main() -> None:
        async with rude() as (controller, client, _):
            await client.leak(True)
            interface = controller.interfaces["rude"]
        assert not interface.leaked.done()
        interface.until.append(None)
        interface.leaked.cancel()
        await asyncio.wait([interface.leaked])

    asyncio.run(main())
    assert (
        "interface 'rude' (test_hosting:Rude) has a task that does not end when cancelled: leaky (_wait)" in caplog.text
    )


def test_tasks_that_the_host_keeps_end_with_the_interface(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with rude() as (controller, client, _):
            await client.run()
            interface = controller.interfaces["rude"]
        assert interface.leaked.cancelled()

    asyncio.run(main())
    assert "left a task" not in caplog.text


class Failing(Interface):
    """Can't start."""

    name = "failing"
    #: How.
    how: BaseException | None = None

    def __init__(self) -> None:
        self.stopped = False
        self.tasks: list[asyncio.Task[Any]] = []

    async def start(self) -> None:
        self.tasks = [self.host.create_task(_wait()), asyncio.create_task(_wait(), name="other")]
        await asyncio.sleep(0)
        if self.how is not None:
            raise self.how
        await asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        self.stopped = True
        raise RuntimeError("stop")


@pytest.mark.parametrize("error", [RuntimeError("no disk"), SystemExit(3), None])
def test_one_that_can_not_start_leaves_nothing(
    error: BaseException | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hosting, "START", 0.05)

    async def main() -> None:
        async with Controller() as controller:
            failing = Failing()
            failing.how = error
            text = f"{type(error).__name__}: {error}" if error else "it has not after 0 s"
            with pytest.raises(PluginError, match=rf"interface 'failing' \(test_hosting:Failing\) can't start: {text}"):
                await controller.add(failing)
            assert [task.cancelled() for task in failing.tasks] == [True, True]
            assert not failing.stopped
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await controller.add(Steady)
            with pytest.raises(ConfigurationError, match="no interface 'failing' here; there are engine, steady"):
                controller.capability("failing")

    asyncio.run(main())


def test_adding_may_be_cancelled() -> None:
    async def main() -> None:
        async with Controller() as controller:
            failing = Failing()
            adding = asyncio.create_task(controller.add(failing))
            await settle()
            with pytest.raises(
                PluginError,
                match=r"\(test_hosting:Failing\) is one too many: 'failing' is here already; it needs a name",
            ):
                await controller.add(Failing)
            adding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await adding
            assert [task.cancelled() for task in failing.tasks] == [True, True]
            failing.how = RuntimeError("again")
            with pytest.raises(PluginError, match="RuntimeError: again"):
                await controller.add(failing)

    asyncio.run(main())


def test_one_that_can_not_be_made_or_stopped(caplog: pytest.LogCaptureFixture) -> None:
    class Unmade(Interface):
        name = "unmade"

        def __init__(self) -> None:
            raise ValueError("no room")

    class Unstopped(Interface):
        name = "unstopped"

        async def stop(self) -> None:
            raise RuntimeError("stop")

    async def main() -> None:
        async with Controller() as controller:
            with pytest.raises(PluginError, match=r"Unmade can't be made: ValueError: no room"):
                await controller.add(Unmade)
            await controller.add(Unstopped)

    asyncio.run(main())
    assert "Unstopped) failed to stop" in caplog.text


def test_an_interface_is_removed_while_the_controller_runs() -> None:
    async def main() -> None:
        async with rude() as (controller, client, steady):
            later = client.keep_later(0)
            await controller.remove("rude")
            with pytest.raises(ConnectionLost, match="the interface 'rude' was removed from the controller"):
                await later
            with pytest.raises(ConfigurationError, match="no interface 'rude' here; there are engine, steady"):
                await controller.remove("rude")
            assert await steady.ping() == "pong"
            await controller.add(Rude)
            async with Rude.client(controller.capability("rude")) as again:
                assert await again.keep_later(0) == 1

    asyncio.run(main())


def test_the_host_gives_narrowed_capabilities() -> None:
    async def main() -> None:
        async with rude() as (controller, _, _):
            granted = controller._hostings["rude"].grant("ops=run")
            async with Rude.client(granted) as client:
                with pytest.raises(OperationError, match="does not allow 'keep'"):
                    await client.keep(0.0)
                await client.run()

    asyncio.run(main())
