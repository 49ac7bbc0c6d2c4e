"""When the scheduler is looked at again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from model import model_cluster
from runners import RUNNERS

import aioparallel
from aioparallel.interfaces.task import TaskInterface
from aioparallel.scheduler import Scheduler


@RUNNERS
def test_a_moment_that_is_over_by_now_is_taken_for_now(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # uvloop's handle of what is due at once can't say when.
    monkeypatch.setattr(Scheduler, "wake", property(lambda scheduler: 0.001))

    async def main() -> None:
        interface = TaskInterface()
        async with model_cluster(2, task=interface) as (controller, _):
            async with aioparallel.TaskClient(controller.capability("task")) as tc:
                for _ in range(2):
                    interface._tasks.placing._place()
                assert await asyncio.gather(*(tc.submit(abs, -i) for i in range(50))) == list(range(50))

    run(main())
