"""Monitor and Admin: looking touches nothing, ending ends what was named."""

from __future__ import annotations

import asyncio

import pytest
from model import model_cluster, settle

import aioparallel
from aioparallel.errors import ConnectionLost, InvalidEngineID


def test_status_says_what_runs_and_what_waits():
    async def main() -> None:
        async with (
            model_cluster(2, eager=False) as (controller, _),
            aioparallel.MultiEngineClient(controller.capability("multiengine")) as mec,
            aioparallel.MonitorClient(controller.capability("monitor")) as monitor,
        ):
            calls = [mec.execute("first()", targets=1), mec.execute("second()", targets=1)]
            await settle()
            status = await monitor.status()
            idle, busy = status["engines"]
            assert (idle["state"], idle["doing"], idle["queued"]) == ("idle", None, 0)
            assert (busy["state"], busy["doing"], busy["queued"], busy["under_way"]) == ("running", "first()", 1, 1)
            assert busy["seconds"] >= 0
            assert status["clients"] == {"monitor": 1, "multiengine": 1}
            for call in calls:
                call.cancel()

    asyncio.run(main())


def test_engines_are_ended_by_name():
    async def main() -> None:
        async with (
            model_cluster(3) as (controller, host),
            aioparallel.AdminClient(controller.capability("admin")) as admin,
        ):
            assert await admin.stop_engines([2, 0]) == [2, 0]
            assert [(call.name, engine) for call, engine in host.asked] == [("STOP", 2), ("STOP", 0)]
            with pytest.raises(InvalidEngineID, match="no engine 9"):
                await admin.stop_engines([9])

    asyncio.run(main())


def test_shutdown_ends_the_controller_for_everybody():
    async def main() -> None:
        async with model_cluster(1) as (controller, _):
            async with (
                aioparallel.AdminClient(controller.capability("admin")) as admin,
                aioparallel.MonitorClient(controller.capability("monitor")) as monitor,
            ):
                await admin.shutdown()
                await controller.wait_closed()
                with pytest.raises(ConnectionLost, match="controller has ended"):
                    await monitor.status()

    asyncio.run(main())
