"""A controller and engines as one `async with`.

    async with Cluster(n=4) as cluster:
        tasks = await cluster.task()
        print(await tasks.submit(pow, 2, 10))

The controller is a process of its own, so a busy caller does not stop it. Every process ends with the block, with an
exception, and with the caller, however that ends: each lives only as long as its standard input is held open.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Coroutine, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aioparallel import launchers, plugins
from aioparallel.capability import Capability, capability_path, private_directory
from aioparallel.commandline import CommandLines, environment
from aioparallel.errors import ClusterError, ConfigurationError, PluginError
from aioparallel.face import Client
from aioparallel.interface import Interface, client_of
from aioparallel.launchers import Job, Launcher
from aioparallel.queues import Queue

__all__ = ["Cluster", "ClusterStatistics", "Connecting"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that a process may take to end in good order.
GRACE = 5.0
#: Seconds between two looks at how many engines there are.
LOOK = 0.02


@dataclass(frozen=True, slots=True)
class ClusterStatistics:
    """Figures about a cluster.

    Attributes:
        processes: The controller and the engine hosts that run.
        engines: How many engines were started.
        clients: How many clients it gave away that are still open.
        start: Seconds that its start took.
    """

    processes: int
    engines: int
    clients: int
    start: float


class Connecting:
    """A client on its way: await it, or use it in `async with`. The cluster closes it at the latest."""

    def __init__(self, work: Coroutine[Any, Any, Client]) -> None:
        self._work = work
        self._client: Client | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()

    async def __aenter__(self) -> Any:
        self._client = await self._work
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.aclose()


class Cluster:
    """A controller and engines, started by `async with` and ended by its end.

    Args:
        n: How many engines; None: one for each processor this process may use.
        listen: Where the controller listens, such as "tls://127.0.0.1:0"; None: a Unix socket.
        launcher: What starts the engines: a launcher, its class, the name of one, or the place of its class
            (`module:Class`).
        queue: Where commands wait for their engine: the name of a queue ("fifo", "priority"), the place of its class
            (`module:Class`), or the class itself, if it can be imported.
        name: The cluster's name.
        directory: The state directory; None: a temporary one that nobody else knows. One that is given is the
            caller's, who also sees to it that no other cluster of that name runs there.
        path: Directories from which engines can import; None: from where the caller can (`sys.path`, when they start).
        scheduler: Which engine takes a task: "least-loaded" (the default), "lru", "random", "two-bin", "weighted",
            "lifo", the name of a plug-in, or "module:Class" for a `policies.Policy` of one's own.
        timeout: Seconds that the start may take.
        interfaces: Interfaces besides those that are installed: classes that can be imported, or "module:Class". Names
            of installed ones say that only these are wanted.

    Attributes:
        name: The cluster's name.
        directory: The state directory; there once started.
        engine_ids: The ids of the engines that were started here.

    Raises:
        ConfigurationError: An argument that can't be used.
    """

    directory: Path
    _state = "not started"

    def __init__(
        self,
        n: int | None = None,
        *,
        listen: str | Sequence[str] | None = None,
        launcher: str | Launcher | type[Launcher] = "local",
        queue: str | type[Queue] = "fifo",
        name: str = "default",
        directory: str | Path | None = None,
        path: str | Path | Sequence[str | Path] | None = None,
        scheduler: str | None = None,
        timeout: float = 60.0,
        interfaces: str | type[Interface] | Sequence[str | type[Interface]] = (),
    ) -> None:
        self._command_lines = CommandLines(
            name, listen=listen, interfaces=interfaces, queue=queue, scheduler=scheduler, path=path
        )
        self.name = name
        self.engine_ids: list[int] = []
        self._n = _number(_processors() if n is None else n)
        self._launcher = launchers.get(launcher)
        self._given = None if directory is None else Path(directory)
        self._timeout = timeout
        self._controller: Job | None = None
        self._engines: list[Job] = []
        self._clients: list[Client] = []
        self._took = 0.0

    def __repr__(self) -> str:
        return f"<Cluster {self.name!r} {self._state}, engines {self.engine_ids}>"

    def __del__(self) -> None:
        if self._state == "running":
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=1)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # Starting and ending

    async def start(self) -> None:
        """Start it, and return when every engine is ready. Failure and cancellation leave nothing running.

        Raises:
            ClusterError: It did not start; the text is that of the process which failed.
        """
        if self._state != "not started":
            raise ClusterError(f"{self!r} can be started once")
        self._state = "starting"
        began = asyncio.get_running_loop().time()
        try:
            self.directory = Path(tempfile.mkdtemp(prefix="aioparallel-")) if self._given is None else self._given
            private_directory(self.directory)
            # Both at once: engines wait for the file that their controller writes.
            command = self._command_lines.controller(self.directory, temporary=self._given is None)
            [self._controller] = await launchers.get("local").start(command, env=environment())
            hosts = await self._start_engines(self._n)
            await self._ready(self._controller, *hosts)
        except BaseException:
            await self.aclose()
            raise
        self._took = asyncio.get_running_loop().time() - began
        self._state = "running"

    async def aclose(self) -> None:
        """End every process and close every client; nothing is left. Safe to call twice."""
        self._state = "closed"
        clients, self._clients = self._clients, []
        for client in clients:
            await client.aclose()
        try:
            await asyncio.gather(*(job.stop(GRACE) for job in self._jobs()))
        finally:
            self._engines.clear()
            self._controller = None
            if self._given is None and hasattr(self, "directory"):
                shutil.rmtree(self.directory, ignore_errors=True)

    def kill(self) -> None:
        """End every process at once; `aclose` still has to be called."""
        for job in self._jobs():
            job.kill()

    async def wait_ended(self) -> str:
        """Wait until the controller ends by itself; return how, in words: "" if in good order.

        Raises:
            ClusterError: The cluster does not run.
        """
        if self._controller is None:
            raise ClusterError(f"{self!r} does not run")
        job = self._controller
        returncode = await asyncio.shield(job.exited)
        return "" if returncode == 0 else _end("controller", job)

    # Engines

    async def add_engines(self, n: int) -> list[int]:
        """Start `n` more engines, and return their ids when they are ready.

        Raises:
            ConfigurationError: `n` is not a whole number from 1 up.
            ClusterError: They did not start; what was there before goes on.
        """
        number = _number(n)
        if self._controller is None:
            raise ClusterError(f"{self!r} does not run")
        before = list(self.engine_ids)
        jobs = await self._start_engines(number)
        try:
            await self._ready(*jobs)
        except BaseException:
            for job in jobs:
                self._engines.remove(job)
                await job.stop(GRACE)
            raise
        return sorted(set(self.engine_ids) - set(before))

    async def wait_for_engines(self, n: int, timeout: float | None = 60.0) -> None:
        """Wait until the controller has at least `n` engines, wherever they were started.

        Raises:
            TimeoutError: It does not after `timeout` seconds.
            ConnectionFailed: The controller is gone.
        """
        there = 0
        try:
            async with asyncio.timeout(timeout), self.client("monitor") as monitor:
                # What changes is in another process, so there is no event to wait for.
                while (there := len((await monitor.status())["engines"])) < n:  # noqa: ASYNC110
                    await asyncio.sleep(LOOK)
        except TimeoutError:
            raise TimeoutError(f"{there} of {n} engines were there after {timeout} s") from None

    # Clients

    def capability(self, interface: str) -> Capability:
        """Return the capability of an interface ("engine" is one too).

        Raises:
            ClusterError: The cluster has not been started, or is closed.
            NoClusterError: No such interface is hosted.
        """
        if self._state not in ("starting", "running"):
            raise ClusterError(f"{self!r} does not run")
        return Capability.load(capability_path(interface, cluster=self.name, directory=self.directory))

    def client(self, interface: str | type[Interface]) -> Connecting:
        """Return a client of an interface (its name, or its class), on its way: await it, or use it in `async with`.

        Awaiting raises:
            PluginError: No such interface is installed, or no client can be made for it.
            ClusterError: The cluster does not run.
            ConnectionFailed: The controller is gone.
        """
        return Connecting(self._connect(interface))

    def multiengine(self) -> Connecting:
        """Return a MultiEngineClient on its way; see `client`."""
        return self.client("multiengine")

    def task(self) -> Connecting:
        """Return a TaskClient on its way; see `client`."""
        return self.client("task")

    def statistics(self) -> ClusterStatistics:
        """Return figures about it."""
        return ClusterStatistics(
            processes=sum(not job.exited.done() for job in self._jobs()),
            engines=len(self.engine_ids),
            clients=sum(client.channel.is_open for client in self._clients),
            start=self._took,
        )

    # Inside

    def interface_class(self, interface: str | type) -> type[Interface]:
        """Return the class of an interface, given its name, or "module:Class", or itself.

        Raises:
            PluginError: None of that name is installed, or was given to this cluster.
        """
        if not isinstance(interface, str):
            if isinstance(interface, type) and issubclass(interface, Interface):
                return interface
            raise PluginError(f"{interface!r} is not an interface: expected a subclass of aioparallel.Interface")
        for place in self._command_lines.interfaces:
            if ":" in place:
                given: type[Interface] = plugins.load(plugins.INTERFACES, place, Interface)
                if interface in (place, getattr(given, "name", None)):
                    return given
        found: type[Interface] = plugins.load(plugins.INTERFACES, interface, Interface)
        return found

    async def _connect(self, interface: str | type[Interface]) -> Client:
        kind = client_of(self.interface_class(interface))
        if not (isinstance(kind, type) and issubclass(kind, Client)):
            raise ConfigurationError(f"the interface {interface!r} names no client class")
        client = await kind.connect(self.capability(kind.interface))
        self._clients = [kept for kept in self._clients if kept.channel.is_open]
        self._clients.append(client)
        return client

    def _jobs(self) -> list[Job]:
        return [*self._engines, *([self._controller] if self._controller else [])]

    async def _start_engines(self, n: int) -> list[Job]:
        command = self._command_lines.engines(n, self.directory, wait=self._timeout)
        jobs = await self._launcher.start(command, env=environment())
        if not isinstance(jobs, list) or len(jobs) != 1 or not isinstance(jobs[0], Job):
            raise ClusterError(
                f"{self._launched_by()} was to start one engine host and return a list of one job, not {jobs!r}"
            )
        self._engines += jobs
        return jobs

    async def _ready(self, *jobs: Job) -> None:
        """Wait until all of them have said that they are ready."""
        waiting = [asyncio.ensure_future(self._announced(job)) for job in jobs]
        try:
            async with asyncio.timeout(self._timeout):
                await _all(waiting)
        except TimeoutError:
            late = "; ".join(job.describe() for job, one in zip(jobs, waiting, strict=True) if one.cancelled())
            raise ClusterError(f"not ready after {self._timeout:g} s: {late}") from None

    async def _announced(self, job: Job) -> None:
        role = "controller" if job is self._controller else "engine host"
        line = await job.wait_announced()
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict) or not said.get("ready"):
            if isinstance(said, dict) and "error" in said:
                raise ClusterError(f"the {role} did not start: {said['error']}")
            # It may have been killed, or written a traceback.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(job.exited), GRACE)
            raise ClusterError(_end(role, job) + ("" if job is self._controller else self._blame()))
        for text in said.get("left_out", ()):
            logger.warning("%s", text)
        self.engine_ids = sorted({*self.engine_ids, *said.get("engines", ())})
        if job is not self._controller:
            job.exited.add_done_callback(lambda exited: self._host_ended(job))

    def _blame(self) -> str:
        """Say who started an engine host that ended before it was ready, if that may have been the reason."""
        if self._launcher.name == "local":
            return ""
        return f"; {self._launched_by()} is to keep it running, its standard input open, until the cluster stops it"

    def _launched_by(self) -> str:
        kind = type(self._launcher)
        return f"launcher {getattr(kind, 'name', '?')!r} ({kind.__module__}:{kind.__qualname__})"

    def _host_ended(self, job: Job) -> None:
        if self._state == "running" and job in self._engines and job.exited.result() != 0:
            logger.warning("%s", _end("engine host", job))


async def _all(waiting: Sequence[asyncio.Future[T]]) -> None:
    """Wait for all, or until one has failed; none is left waiting."""
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
        for one in done:
            one.result()
    finally:
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _end(role: str, job: Job) -> str:
    """Say that a process ended, how, and what it wrote last."""
    output = f":\n{job.output}" if job.output else ""
    return f"the {role} ended: {job.describe()}{output}"


def _number(n: object) -> int:
    if type(n) is not int or not 1 <= n < 65535:
        raise ConfigurationError(f"n is how many engines, a whole number from 1 up, not {n!r}")
    return n


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
