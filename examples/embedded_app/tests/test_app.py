"""The service, from outside: over HTTP, and what is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from embedded_app import TASKS, application


@contextlib.asynccontextmanager
async def served(engines: int = 2) -> AsyncIterator[TestClient]:
    async with asyncio.timeout(60), TestClient(TestServer(application(engines))) as http:
        yield http


async def reports(response: ClientResponse) -> AsyncGenerator[dict[str, Any], None]:
    assert response.content_type == "text/event-stream"
    async for line in response.content:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))
        else:
            assert line == b"\n"


def play(story: Callable[[TestClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with served() as http:
            await story(http)

    asyncio.run(main())


def test_a_job_is_watched_to_its_end() -> None:
    async def story(http: TestClient) -> None:
        assert "EventSource" in await (await http.get("/")).text()
        begun = await http.post("/jobs", json={"darts": 200_000, "chunks": 20})
        assert (begun.status, begun.headers["Location"]) == (201, "/jobs/1")
        seen = [report async for report in reports(await http.get("/jobs/1/events"))]
        assert [report["done"] for report in seen] == sorted(report["done"] for report in seen)
        assert {report["state"] for report in seen[:-1]} == {"running"}
        assert seen[-1] == await (await http.get("/jobs/1")).json()
        assert (seen[-1]["state"], seen[-1]["done"], seen[-1]["error"]) == ("done", 20, "")
        assert abs(seen[-1]["pi"] - math.pi) < 0.05
        # Who comes late is told the end.
        assert [report async for report in reports(await http.get("/jobs/1/events"))] == seen[-1:]

    play(story)


def test_a_job_is_cancelled_while_somebody_watches() -> None:
    async def story(http: TestClient) -> None:
        await http.post("/jobs", json={"darts": 10**9, "chunks": 10_000})
        states = []
        async for report in reports(await http.get("/jobs/1/events")):
            states.append(report["state"])
            if report["done"] and report["state"] == "running":
                cancelled = await (await http.delete("/jobs/1")).json()
                assert cancelled["state"] == "cancelled"
        assert states[-1] == "cancelled"
        assert (await http.delete("/jobs/1")).status == 200
        # The engines are free for the next.
        await http.post("/jobs", json={"darts": 1000, "chunks": 2})
        seen = [report async for report in reports(await http.get("/jobs/2/events"))]
        assert seen[-1]["state"] == "done"

    play(story)


@pytest.mark.parametrize(
    "asked", ["", "[]", "{}", '{"darts": "many"}', '{"darts": 10, "chunks": 20}', '{"darts": 10, "chunks": 0}']
)
def test_what_makes_no_sense_is_refused(asked: str) -> None:
    async def story(http: TestClient) -> None:
        answer = await http.post("/jobs", data=asked, headers={"Content-Type": "application/json"})
        assert (answer.status, await answer.text()) == (
            400,
            'send {"darts": n, "chunks": m}, with m from 1 to 10000 and n from m to 1000000000',
        )
        assert (await http.post("/jobs", data=asked)).status == 415
        for path in ("/jobs/1", "/jobs/1/events"):
            assert (await http.get(path)).status == 404

    play(story)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_it_ends_while_jobs_run_and_browsers_watch_and_nothing_is_left(run: Any) -> None:
    async def life(closed: bool) -> None:
        async with served(1) as http:
            await http.post("/jobs", json={"darts": 10**9, "chunks": 1000})
            async with contextlib.aclosing(reports(await http.get("/jobs/1/events"))) as watching:
                assert (await anext(watching))["state"] == "running"
                if closed:
                    return
            await http.get("/jobs/1/events")

    async def main() -> None:
        await life(True)
        before = belongings()
        for closed in (True, False) * 2:
            await life(closed)
        await asyncio.sleep(0)
        assert belongings() == before
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_two_in_one_program() -> None:
    async def main() -> None:
        async with served(1) as one, served(1) as other:
            for http in (one, other):
                await http.post("/jobs", json={"darts": 1000, "chunks": 2})
                seen = [report async for report in reports(await http.get("/jobs/1/events"))]
                assert seen[-1]["state"] == "done"

    asyncio.run(main())


def test_a_kernel_does_not_load_the_service() -> None:
    async def main() -> None:
        async with served(1) as http:
            await http.post("/jobs", json={"darts": 1000, "chunks": 2})
            async for _ in reports(await http.get("/jobs/1/events")):
                pass
            loaded = await http.app[TASKS].submit(lambda: set(__import__("sys").modules))
            assert "darts" in loaded
            assert not {"aiohttp", "asyncio", "embedded_app"} & loaded

    asyncio.run(main())


def belongings() -> tuple[int, int, int]:
    """Count threads, descriptors and child processes."""
    children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    return threading.active_count(), len(os.listdir("/proc/self/fd")), sum(map(len, children))
