"""A web service that computes pi, on engines of its own.

    python embedded_app.py [-n 4] [--port 8080]

`POST /jobs` begins a job, `GET /jobs/1/events` tells how it goes on, as server-sent events, `DELETE /jobs/1` cancels
it. Controller and clients live in the service's own event loop; only the kernels, which compute, are other processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import darts
from aiohttp import web

import aioparallel

#: How many jobs are remembered, and how much one may be.
KEPT, CHUNKS, DARTS = 100, 10_000, 10**9

PAGE = """<!doctype html>
<title>Pi by darts</title>
<h1>Pi by darts</h1>
<button id="throw">Throw</button> <button id="cancel" disabled>Cancel</button>
<p><progress id="bar" value="0"></progress> <output id="told"></output>
<script>
const [start, cancel, bar, told] = ["throw", "cancel", "bar", "told"].map(id => document.getElementById(id));
start.onclick = async () => {
  const answer = await fetch("/jobs", {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({darts: 20000000, chunks: 200}),
  });
  const job = answer.headers.get("Location");
  const events = new EventSource(job + "/events");
  cancel.disabled = !(start.disabled = true);
  cancel.onclick = () => fetch(job, {method: "DELETE"});
  events.onmessage = event => {
    const report = JSON.parse(event.data);
    [bar.max, bar.value] = [report.chunks, report.done];
    told.value = `${report.state}: ${report.pi ?? "?"} ${report.error}`;
    if (report.state != "running") { events.close(); start.disabled = !(cancel.disabled = true); }
  };
};
</script>
"""


class Job:
    """Darts, thrown in chunks on whichever engine is free.

    Args:
        tasks: Who has them thrown.
        count: How many in all.
        chunks: In how many tasks.
    """

    def __init__(self, tasks: aioparallel.TaskClient, count: int, chunks: int) -> None:
        self._chunks = chunks
        self._each = count // chunks
        self._done = self._hits = 0
        self._state, self._error = "running", ""
        self._changed = asyncio.Event()
        self._work = asyncio.create_task(self._throw(tasks))

    def report(self) -> dict[str, Any]:
        """Return how it goes, as plain values."""
        thrown = self._done * self._each
        pi = 4 * self._hits / thrown if thrown else None
        return {"state": self._state, "done": self._done, "chunks": self._chunks, "pi": pi, "error": self._error}

    async def reports(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield how it goes, each time that this changes, until it has ended; who is slow misses what is old."""
        while True:
            changed, running = self._changed, self._state == "running"
            yield self.report()
            if not running:
                return
            await changed.wait()

    async def cancel(self) -> None:
        """Withdraw what is not done; nothing happens if it has ended."""
        if self._state == "running":
            self._end("cancelled")
        self._work.cancel()
        await asyncio.wait([self._work])

    async def _throw(self, tasks: aioparallel.TaskClient) -> None:
        values = tasks.map(darts.hits, range(self._chunks), [self._each] * self._chunks, chunksize=1, ordered=False)
        try:
            async for hits in values:
                self._done += 1
                self._hits += hits
                self._tell()
        except Exception as error:
            self._end("failed", str(error))
        else:
            self._end("done")

    def _end(self, state: str, error: str = "") -> None:
        self._state, self._error = state, error
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


ENGINES: web.AppKey[int] = web.AppKey("engines", int)
TASKS: web.AppKey[aioparallel.TaskClient] = web.AppKey("tasks", aioparallel.TaskClient)
JOBS: web.AppKey[dict[int, Job]] = web.AppKey("jobs", dict)
NUMBERS: web.AppKey[itertools.count[int]] = web.AppKey("numbers", itertools.count)


async def computing(app: web.Application) -> AsyncIterator[None]:
    """Have a controller, engines and a client for as long as the application runs."""
    async with aioparallel.Controller(cluster="embedded-app") as controller:
        await controller.listen(f"memory://app-{id(app)}")
        await controller.add("task")
        capability = controller.capability("engine")
        async with (
            aioparallel.EngineHost(capability, n=app[ENGINES], path=[Path(darts.__file__).parent]) as engines,
            aioparallel.TaskClient(controller.capability("task")) as tasks,
        ):
            await engines.wait_ready()
            app[TASKS] = tasks
            yield


async def end_jobs(app: web.Application) -> None:
    """Cancel all jobs: then the streams of events end, for which the server waits."""
    for job in app[JOBS].values():
        await job.cancel()


async def page(request: web.Request) -> web.Response:
    """Return the page."""
    return web.Response(text=PAGE, content_type="text/html")


async def begin(request: web.Request) -> web.Response:
    """Begin a job."""
    if request.content_type != "application/json":
        # A form on a stranger's page can send other types here, but not this one.
        raise web.HTTPUnsupportedMediaType(text="send application/json")
    try:
        asked = await request.json()
        count, chunks = asked["darts"], asked.get("chunks", 100)
        fits = type(count) is int and type(chunks) is int and 1 <= chunks <= CHUNKS and chunks <= count <= DARTS
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise web.HTTPBadRequest(
            text=f'send {{"darts": n, "chunks": m}}, with m from 1 to {CHUNKS} and n from m to {DARTS}'
        )
    jobs, numbers = request.app[JOBS], request.app[NUMBERS]
    while len(jobs) >= KEPT:
        await jobs.pop(min(jobs)).cancel()
    number = next(numbers)
    job = jobs[number] = Job(request.app[TASKS], count, chunks)
    return web.json_response(job.report(), status=201, headers={"Location": f"/jobs/{number}"})


async def show(request: web.Request) -> web.Response:
    """Return how a job goes."""
    return web.json_response(_job(request).report())


async def events(request: web.Request) -> web.StreamResponse:
    """Tell how a job goes, until it has ended or nobody listens."""
    job = _job(request)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        async with contextlib.aclosing(job.reports()) as reports:
            async for report in reports:
                await response.write(f"data: {json.dumps(report)}\n\n".encode())
    return response


async def cancel(request: web.Request) -> web.Response:
    """Cancel a job; it can be looked at afterwards."""
    job = _job(request)
    await job.cancel()
    return web.json_response(job.report())


def _job(request: web.Request) -> Job:
    job = request.app[JOBS].get(int(request.match_info["number"]))
    if job is None:
        raise web.HTTPNotFound(text="there is no such job")
    return job


def application(engines: int = 2) -> web.Application:
    """Return the service, to be run by `aiohttp.web`."""
    app = web.Application()
    app[ENGINES], app[JOBS], app[NUMBERS] = engines, {}, itertools.count(1)
    app.cleanup_ctx.append(computing)
    app.on_shutdown.append(end_jobs)
    app.router.add_get("/", page)
    app.router.add_post("/jobs", begin)
    app.router.add_get(r"/jobs/{number:\d{1,9}}", show)
    app.router.add_get(r"/jobs/{number:\d{1,9}}/events", events)
    app.router.add_delete(r"/jobs/{number:\d{1,9}}", cancel)
    return app


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=2, help="how many engines")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    web.run_app(application(options.n), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
