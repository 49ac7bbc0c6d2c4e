"""A whole cluster for a test, in its own event loop: no port, no file, no program but the kernels."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from aioparallel import plugins
from aioparallel.capability import Capability
from aioparallel.cluster import Connecting
from aioparallel.controller import Controller
from aioparallel.engine import EngineHost
from aioparallel.errors import ClusterError, ConfigurationError
from aioparallel.face import Client
from aioparallel.interface import Interface, client_of
from aioparallel.kernels import MakeKernel
from aioparallel.queues import Queue
from aioparallel.wire import Limits

__all__ = ["MemoryCluster"]

_numbers = itertools.count(1)


class MemoryCluster:
    """A controller, engine hosts and clients in the running loop; use it in `async with`.

    They are the real ones, joined by `memory://`. The kernels are processes, unless `make_kernel` makes something else;
    all end with the block.

    Args:
        n: How many engines.
        interfaces: What the controller hosts: names, classes or objects; None: all that are installed.
        queue: Where commands wait for their engine.
        limits: The bounds.
        make_kernel: Makes a kernel (`aioparallel.kernels.Kernel`), given its two callbacks; None: a process.

    Attributes:
        controller: The controller; there once started.
    """

    controller: Controller

    def __init__(
        self,
        n: int = 2,
        *,
        interfaces: str | type[Interface] | Interface | Sequence[str | type[Interface] | Interface] | None = None,
        queue: str | type[Queue] = "fifo",
        limits: Limits | None = None,
        make_kernel: MakeKernel | None = None,
    ) -> None:
        self._n = n
        if interfaces is None:
            interfaces = plugins.names(plugins.INTERFACES)
        self._interfaces = [interfaces] if isinstance(interfaces, str | type | Interface) else list(interfaces)
        self._queue = queue
        self._limits = limits
        self._make_kernel = make_kernel
        self._stack = contextlib.AsyncExitStack()
        self._hosts: list[EngineHost] = []

    def __repr__(self) -> str:
        return f"<MemoryCluster of engines {self.engine_ids}>"

    async def __aenter__(self) -> Self:
        try:
            self.controller = await self._stack.enter_async_context(
                Controller(cluster="memory", limits=self._limits, queue=self._queue)
            )
            for interface in self._interfaces:
                await self.controller.add(interface)
            await self.controller.listen(f"memory://memory-cluster-{next(_numbers)}")
            if self._n:
                await self.add_engines(self._n)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the clients, end the engines and the controller. Safe to call twice."""
        await self._stack.aclose()

    @property
    def engine_ids(self) -> list[int]:
        """The ids of its engines, ascending."""
        return sorted(number for host in self._hosts for number in host.engine_ids)

    async def add_engines(self, n: int) -> list[int]:
        """Start `n` more engines, in a host of their own, and return their ids when they are ready.

        Raises:
            ParallelError: They did not start.
        """
        host = EngineHost(self.capability("engine"), n=n, limits=self._limits, make_kernel=self._make_kernel)
        await self._stack.enter_async_context(host)
        await host.wait_ready()
        self._hosts.append(host)
        return host.engine_ids

    def capability(self, interface: str) -> Capability:
        """Return the capability of an interface ("engine" is one too).

        Raises:
            ClusterError: The cluster has not been started.
            ConfigurationError: No such interface is hosted.
        """
        if not hasattr(self, "controller"):
            raise ClusterError("the cluster has not been started: use it in `async with`")
        return self.controller.capability(interface)

    def client(self, interface: str | type[Interface]) -> Connecting:
        """Return a client of a hosted interface on its way: await it, or use it in `async with`. The cluster closes it.

        Args:
            interface: Its name, or its class.

        Awaiting raises:
            ConfigurationError: No such interface is hosted, or it has no client.
            PluginError: No client can be made of its annotations.
        """
        return Connecting(self._connect(interface))

    def multiengine(self) -> Connecting:
        """Return a MultiEngineClient on its way; see `client`."""
        return self.client("multiengine")

    def task(self) -> Connecting:
        """Return a TaskClient on its way; see `client`."""
        return self.client("task")

    async def enter(self, client: Client) -> Any:
        """Connect a client that was made by hand; the cluster closes it.

        Raises:
            ConnectionFailed: The controller refuses.
        """
        return await self._stack.enter_async_context(client)

    async def _connect(self, interface: str | type[Interface]) -> Any:
        name = interface if isinstance(interface, str) else interface.name
        capability = self.capability(name)
        hosted = self.controller.interfaces.get(name)
        kind = None if hosted is None else client_of(type(hosted))
        if not (isinstance(kind, type) and issubclass(kind, Client)):
            raise ConfigurationError(f"the interface {interface!r} names no client class")
        return await self.enter(kind(capability, limits=self._limits))
