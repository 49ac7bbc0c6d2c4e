"""The controller: who is let in, what it says of itself, how it ends, and that it can't unpickle."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from model import ModelHost, model_cluster, settle
from runners import RUNNERS

import aioparallel
from aioparallel.authority import ControllerState
from aioparallel.capability import Capability
from aioparallel.controller import Controller
from aioparallel.errors import (
    AccessDenied,
    AddressError,
    ConfigurationError,
    ConnectionFailed,
    ControllerGone,
    PluginError,
)
from aioparallel.events import ClientJoined, ClientLeft, EngineJoined, EngineLeft, PeerRefused
from aioparallel.interface import Interface
from aioparallel.private import Secret
from aioparallel.queues import Command, PriorityQueue
from aioparallel.source import SYSTEM


@RUNNERS
@pytest.mark.parametrize("scheme", ["memory", "unix", "tls"])
def test_everything_works_over_every_transport_and_loop(run: Any, scheme: str, directory: Path):
    address = {"memory": "memory://x", "unix": f"unix://{directory}/s", "tls": "tls://127.0.0.1:0"}[scheme]

    async def main() -> None:
        async with model_cluster(2, address=address) as (controller, _):
            async with aioparallel.MultiEngineClient(controller.capability("multiengine")) as mec:
                big = bytes(range(256)) * 4096
                assert await mec.apply(len, big) == [len(big)] * 2
                assert (await mec.apply(bytes, big, targets=1))[0] == big
            async with aioparallel.TaskClient(controller.capability("task")) as tc:
                assert sorted(await asyncio.gather(*(tc.submit(abs, -i) for i in range(200)))) == list(range(200))
            async with aioparallel.MonitorClient(controller.capability("monitor")) as monitor:
                status = await monitor.status()
                assert [engine["id"] for engine in status["engines"]] == [0, 1]
                assert status["clients"] == {"monitor": 1}
                assert status["addresses"] == controller.addresses

    run(main())


def test_events_tell_who_comes_and_goes():
    async def main() -> None:
        seen: list[Any] = []
        async with Controller() as controller:
            controller.monitor.listen(seen.append)
            await controller.listen("memory://x")
            await controller.add("task")
            host = await ModelHost().dial(controller, 1)
            async with aioparallel.TaskClient(controller.capability("task")) as tc:
                session = tc.channel.session
            host.connection.abort()
            await host.lost
            await settle()
            wrong = controller.capability("task")
            with pytest.raises(AccessDenied):
                await aioparallel.TaskClient.connect(
                    type(wrong)(**{f: getattr(wrong, f) for f in wrong.__slots__} | {"key": Secret(bytes(32))})
                )
            await settle()
        assert {event.session for event in seen if isinstance(event, ClientJoined | ClientLeft)} == {session}
        kinds = [type(event) for event in seen]
        assert kinds == [EngineJoined, ClientJoined, ClientLeft, EngineLeft, PeerRefused]

    asyncio.run(main())


def test_ids_are_reused_lowest_first():
    async def main() -> None:
        async with model_cluster(3) as (controller, host):
            other = await ModelHost().dial(controller, 2)
            assert sorted(controller.engines) == [0, 1, 2, 3, 4]
            host.connection.abort()
            await host.lost
            await settle()
            assert sorted(controller.engines) == [3, 4]
            assert await other.join() == 0
            assert list(controller.engines) == [0, 3, 4]
            other.connection.abort()
            await other.lost

    asyncio.run(main())


def test_a_capability_opens_its_own_interface_and_no_other():
    async def main() -> None:
        async with model_cluster(1) as (controller, _):
            task = controller.capability("task")
            with pytest.raises(ConfigurationError, match="for the interface 'task', not 'multiengine'"):
                await aioparallel.MultiEngineClient.connect(task)
            fields = {f: getattr(task, f) for f in task.__slots__}
            with pytest.raises(AccessDenied):
                await aioparallel.MultiEngineClient.connect(type(task)(**fields | {"interface": "multiengine"}))
            with pytest.raises(ConfigurationError, match="no interface 'poetry' here; there are engine, admin"):
                controller.capability("poetry")

    asyncio.run(main())


def test_a_controller_that_is_gone_is_said_at_once(directory: Path):
    async def main() -> None:
        async with Controller() as controller:
            await controller.listen(f"unix://{directory}/s")
            await controller.add("task")
            capability = controller.capability("task")
        with pytest.raises(ControllerGone, match=r"no controller answers .* start one with: aiocluster start -n 4"):
            await aioparallel.TaskClient.connect(capability)

    asyncio.run(main())


def test_identity_and_keys_survive_a_restart(tmp_path: Path):
    async def life(epoch: int) -> Any:
        state = ControllerState.open(tmp_path / "controller.json", SYSTEM)
        async with Controller(state) as controller:
            assert controller.status()["epoch"] == epoch
            await controller.listen("tls://127.0.0.1:0")
            await controller.add("monitor")
            capability = controller.capability("monitor")
            async with aioparallel.MonitorClient(capability) as monitor:
                await monitor.status()
            return capability

    first, second = asyncio.run(life(1)), asyncio.run(life(2))
    assert (first.id, first.key.reveal(), first.pins) == (second.id, second.key.reveal(), second.pins)


def test_many_lives_in_one_process_leave_nothing_behind(directory: Path):
    before = len(list(Path("/proc/self/fd").iterdir()))

    async def main() -> None:
        for _ in range(20):
            async with Controller() as one, Controller() as two:
                await one.listen("memory://one")
                await two.listen(f"unix://{directory}/two")
                for controller in (one, two):
                    await controller.add("task")
                    async with aioparallel.TaskClient(controller.capability("task")):
                        pass
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert list(directory.iterdir()) == []


def test_controller_and_interfaces_run_with_pickle_banned():
    code = """
import sys
for name in ("pickle", "_pickle", "cloudpickle"):
    sys.modules[name] = None
import asyncio
from aioparallel.controller import Controller
async def main():
    async with Controller() as controller:
        await controller.listen("memory://x")
        await controller.listen("tls://127.0.0.1:0")
        for interface in ("multiengine", "task", "monitor", "admin"):
            await controller.add(interface)
            controller.capability(interface)
        print(sorted(controller.status()["interfaces"]))
asyncio.run(main())
assert "aioparallel.serialize" not in sys.modules
"""
    env = os.environ | {"PYTHONASYNCIODEBUG": ""}  # which would tell of a slow machine
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env)
    assert (done.stdout, done.stderr) == ("['admin', 'monitor', 'multiengine', 'task']\n", "")


def test_payloads_go_when_their_call_is_done_not_when_garbage_is_collected():
    def commands() -> int:
        return sum(isinstance(thing, Command) for thing in gc.get_objects())

    async def main() -> None:
        async with (
            model_cluster(2) as (controller, _),
            aioparallel.TaskClient(controller.capability("task")) as tc,
            aioparallel.MultiEngineClient(controller.capability("multiengine")) as mec,
        ):
            before = commands()
            waiting = tc.submit(len, bytes(100_000))
            await waiting
            await mec.apply(len, bytes(100_000))
            with pytest.raises(aioparallel.CompositeError):
                await mec.apply(len, 3)
            mec.apply(len, bytes(100_000)).cancel()
            await settle()
            assert commands() == before

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_addresses_that_nobody_here_can_dial_are_passed_over():
    async def main() -> None:
        async with Controller() as controller:
            address = await controller.listen("memory://here")
            await controller.add("monitor")
            strange = ("pigeon://roof", "tls://nohost")
            able = controller.capability("monitor", addresses=(*strange, address))
            async with aioparallel.MonitorClient(able) as monitor:
                assert (await monitor.status())["addresses"] == [address]
            unable = controller.capability("monitor", addresses=strange)
            with pytest.raises(AddressError, match="is the package that brings pigeon:// installed here"):
                await aioparallel.MonitorClient.connect(unable)
            gone = controller.capability("monitor", addresses=("pigeon://roof", "memory://gone"))
            with pytest.raises(ControllerGone, match=r"no transport for 'pigeon://roof'.*nobody listens"):
                await aioparallel.MonitorClient.connect(gone)

    asyncio.run(main())


@pytest.mark.parametrize("queue", ["fifo", "priority", PriorityQueue, "aioparallel.queues:PriorityQueue"])
def test_queues_are_chosen_by_name_place_and_class(queue: Any):
    async def main() -> None:
        async with Controller(queue=queue) as controller:
            assert not controller.engines
        with pytest.raises(PluginError, match="no queue named 'lifo'"):
            Controller(queue="lifo")

    asyncio.run(main())


def test_capability_files_are_written_for_what_is_added_later(tmp_path: Path) -> None:
    class Later(Interface):
        name = "later"

    async def main() -> None:
        async with Controller(cluster="mine") as controller:
            await controller.listen("memory://files")
            await controller.add("monitor")
            controller.publish(tmp_path)
            files = tmp_path / "security" / "mine"
            assert sorted(file.stem for file in files.glob("*.cap")) == ["engine", "monitor"]
            await controller.add(Later)
            assert sorted(controller.interfaces) == ["later", "monitor"]
            kept = Capability.load(files / "later.cap")
            async with Later.client(kept):
                pass
            assert kept.addresses == ("memory://files",)
            await controller.remove("later")
            assert sorted(file.stem for file in files.glob("*.cap")) == ["engine", "monitor"]
            with pytest.raises(ConnectionFailed):
                await Later.client.connect(kept)
            await controller.add(Later)
            async with Later.client(kept):
                pass

    asyncio.run(main())
