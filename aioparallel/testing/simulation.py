"""A cluster in one process and in virtual time: real code but for kernels, and what befalls it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aioparallel import plugins
from aioparallel.cluster import Connecting
from aioparallel.controller import Controller
from aioparallel.engine import EngineHost
from aioparallel.errors import ConfigurationError
from aioparallel.events import ClientJoined, Event
from aioparallel.face import Client
from aioparallel.interface import ClientProxy, Interface
from aioparallel.limits import Limits
from aioparallel.testing.faults import Faults, SimulatedHost
from aioparallel.testing.links import Link
from aioparallel.testing.luck import Luck, Random
from aioparallel.testing.model import ModelKernel, Pipe
from aioparallel.testing.plateau import Plateau
from aioparallel.testing.storm import Storm
from aioparallel.testing.trace import Trace
from aioparallel.testing.witness import Witness
from aioparallel.transports.memory import MemoryEnd, intercept

if TYPE_CHECKING:
    from aioparallel.testing.clock import VirtualLoop

__all__ = ["Simulation"]

ADDRESS = "memory://simulation"
#: Seconds that the start of a kernel takes, at least and at most.
BOOT = 0.05, 0.3
#: Seconds after which what is left of the work is a leak, and between two looks.
QUIET, LOOK = 120.0, 0.1

#: For whom a connection is opened at the moment.
_dialling: contextvars.ContextVar[str] = contextvars.ContextVar("dialling")


class Simulation(Faults):
    """A controller, engine hosts and clients: the real ones, on a `VirtualLoop`, over the memory transport.

    `simulate` and `explore` make one and hand it to a scenario. It has the methods of a `Cluster` that give clients
    and engines, so a program that takes a cluster takes a simulation, too; and it has faults.

    What is promised about failures is checked all the time (`Witness`), and at the end that nothing is left over.

    Args:
        seed: Decides all that is random.
        hosts: How many engine hosts there are at first.
        engines: How many engines each has.
        resources: What each engine has, by name, where nothing else is said.
        latency: How long what is sent takes at most, seconds; each time another part of it.
        limits: The bounds; nothing is ever in shared memory.
        interfaces: What the controller hosts: names, or interfaces.

    Attributes:
        random: Random numbers for the scenario's own choices.
        controller: The real `Controller`.
        hosts: The engine hosts that are there.
        trace: What has happened.
        violations: The promises that were broken, in words.

    Raises:
        ConfigurationError: An argument that can't be used.
    """

    controller: Controller

    def __init__(
        self,
        *,
        seed: int = 0,
        hosts: int = 2,
        engines: int = 2,
        resources: Mapping[str, float] | None = None,
        latency: float = 0.002,
        limits: Limits | None = None,
        interfaces: Sequence[str | Interface] = ("multiengine", "task", "monitor"),
    ) -> None:
        if hosts < 0 or engines < 1 or latency < 0:
            raise ConfigurationError(
                f"{hosts} hosts of {engines} engines, a latency of {latency} s: can't be simulated"
            )
        self.limits = limits or Limits(share=0)
        if self.limits.share:
            raise ConfigurationError("a simulation has no shared memory: its Limits have share=0")
        self.violations: list[str] = []
        self._loop: VirtualLoop = asyncio.get_running_loop()  # type: ignore[assignment]
        trace = Trace(self._loop.time)
        super().__init__(Luck(seed), trace, Witness(self.limits, trace.add, self._accuse))
        self.random: Random = self._luck.stream("scenario")
        self._first = hosts, engines
        self._resources = dict(resources or {})
        self._latency = latency
        self._interfaces = interfaces
        self.pipe = Pipe(self.limits)
        self._boots = self._luck.stream("boots")
        self._proxies: list[ClientProxy] = []
        self._numbers = {kind: itertools.count() for kind in ("host", "client", "pid")}
        self._source = self._luck.source("clients", self._loop.time)
        self._plateau = Plateau()

    def __repr__(self) -> str:
        return f"<Simulation of seed {self._luck.seed} at {self._loop.time():.3f} s, {self.hosts}>"

    # Its beginning and its end

    async def __aenter__(self) -> Self:
        self.controller = Controller(source=self._luck.source("controller", self._loop.time), limits=self.limits)
        self.controller.monitor.listen(self._happened)
        await self.controller.listen(ADDRESS)
        intercept(ADDRESS, self._met)
        for interface in self._interfaces:
            await self.controller.add(interface)
        hosts, engines = self._first
        for _ in range(hosts):
            await self.add_host(engines)
        self._plateau.begin(self._roots())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            await self.settle()
        for _, client in self._clients:
            await client.aclose()
        for host in tuple(self.hosts):
            await host.host.aclose()
        await self.controller.aclose()

    async def settle(self) -> None:
        """Wait until all that was begun is over, and see that nothing is left of it; as at the end of the scenario."""
        end, pause = self._loop.time() + QUIET, LOOK
        await asyncio.sleep(pause)
        while left := self._left_over():
            if self._loop.time() >= end:
                for one in left:
                    self._accuse(f"{QUIET:g} s after all was over there is still: {one}")
                break
            await asyncio.sleep(pause)
            pause *= 2

    def _left_over(self) -> list[str]:
        left = [f"no answer to {call}" for call in self._witness.unanswered()]
        left += [f"no answer to {command}" for command in self._witness.leased()]
        return left or self._plateau.left(self._roots())

    def _roots(self) -> Iterable[object]:
        clients = [client for _, client in self._clients]
        return [self.controller, *(host.host for host in self.hosts), *clients, *self._proxies]

    # What a cluster has

    @property
    def engines(self) -> list[int]:
        """The ids of the engines that the controller has, ascending."""
        return list(self.controller.engines)

    async def add_host(self, engines: int = 1, *, resources: Mapping[str, float] | None = None) -> SimulatedHost:
        """Start one more engine host; return it when its engines have joined.

        Args:
            engines: How many engines it has.
            resources: What each of them has, by name; None: what was said at the beginning.

        Raises:
            ConnectionLost: Something befell it before that.
        """
        name = f"host {next(self._numbers['host'])}"
        kernels: list[ModelKernel] = []

        def make_kernel(on_frames: Any, on_exit: Any) -> ModelKernel:
            kernel = ModelKernel(on_frames, on_exit, self)
            kernels.append(kernel)
            return kernel

        capability = self.controller.capability("engine", addresses=(ADDRESS,))
        source = self._luck.source(name, self._loop.time)
        has = self._resources if resources is None else resources
        real = EngineHost(
            capability, n=engines, source=source, limits=self.limits, make_kernel=make_kernel, resources=has
        )
        host = SimulatedHost(name, real, kernels)
        self.hosts.append(host)
        with self._dials(name):
            await real.start()
        ended = asyncio.ensure_future(real.wait_closed())
        ended.add_done_callback(lambda done: self._host_ended(host, done))
        await real.wait_ready()
        return host

    async def add_engines(self, n: int) -> list[int]:
        """Start `n` more engines, on a host of their own; return their ids when they have joined."""
        return (await self.add_host(n)).engine_ids

    async def wait_for_engines(self, n: int, timeout: float | None = 60.0) -> None:
        """Wait until the controller has at least `n` engines.

        Raises:
            TimeoutError: It does not after `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            while len(self.engines) < n:  # noqa: ASYNC110  (time is not spent here)
                await asyncio.sleep(0.01)

    def client(self, interface: str) -> Connecting:
        """Return a client of an interface, on its way: await it, or use it in `async with`."""
        return Connecting(self._connect(interface))

    def multiengine(self) -> Connecting:
        """Return a MultiEngineClient on its way; see `client`."""
        return self.client("multiengine")

    def task(self) -> Connecting:
        """Return a TaskClient on its way; see `client`."""
        return self.client("task")

    async def _connect(self, interface: str) -> Client:
        kind = plugins.load(plugins.INTERFACES, interface, Interface).client
        name = f"client {next(self._numbers['client'])}"
        with self._dials(name):
            capability = self.controller.capability(interface, addresses=(ADDRESS,))
            client: Client = await kind.connect(capability, source=self._source, limits=self.limits)
        self._clients = [(n, kept) for n, kept in self._clients if kept.channel.is_open]
        self._clients.append((name, client))
        return client

    def storm(self, *, every: float = 1.0, kinds: Sequence[str] | None = None) -> Storm:
        """Return faults at random moments, for an `async with`.

        Args:
            every: Seconds between two, on average.
            kinds: Which: "kernel", "host", "cut", "black hole", "slow", "not reading", "late", "echo"; None: all.

        Raises:
            ConfigurationError: There is no such kind.
        """
        return Storm(self, self._luck.stream("storm"), every=every, kinds=kinds)

    # Inside

    @contextlib.contextmanager
    def _dials(self, name: str) -> Iterator[None]:
        token = _dialling.set(name)
        try:
            yield
        finally:
            _dialling.reset(token)

    def _met(self, near: MemoryEnd, far: MemoryEnd) -> None:
        """Somebody dials: get between the two ends."""
        name = _dialling.get()
        delays = self._luck.stream(f"delays of {name}")
        heard = self._witness.listen(name, lambda: not far.is_closing())

        def tap(direction: str, data: memoryview) -> None:
            self.trace.sent(data)
            # What arrives at an end that is closed, nobody reads.
            if direction == "down" or not far.is_closing():
                heard(direction, data)

        # Most things are quick, some are not: that is what changes their order.
        self._links[name] = Link(near, far, lambda: self._latency * delays.random() ** 4, tap)

    def _host_ended(self, host: SimulatedHost, ended: asyncio.Future[None]) -> None:
        error = None if ended.cancelled() else ended.exception()
        self.trace.add(host.name, "has ended: {0}", error or "in good order")
        self.hosts.remove(host)

    def _happened(self, event: Event) -> None:
        if isinstance(event, ClientJoined):
            # Also when it is gone nothing may be left of what it asked for.
            self._proxies += [proxy for proxy in self.controller._clients if proxy.session == event.session]
        self.trace.add("controller", "{0}", event)

    def _accuse(self, text: str) -> None:
        self.trace.add("VIOLATION", "{0}", text)
        self.violations.append(text)

    # What model kernels ask (Stage)

    def new_pid(self) -> int:
        """Return a number that no other kernel has."""
        return 1000 + next(self._numbers["pid"])

    def boot_time(self) -> float:
        """Return how long the start of a kernel takes, seconds."""
        return self._boots.uniform(*BOOT)

    def wall(self) -> float:
        """Return the wall clock."""
        return self._source.wall()

    def kernel_event(self, kernel: ModelKernel, what: str) -> None:
        """Take note of what happens to a kernel."""
        self.trace.add(f"kernel {kernel.engine}", what)

    def kernel_ended(self, kernel: ModelKernel) -> None:
        """Take note of what a kernel ended in."""
        self._witness.kernel_ended(kernel.running)
