"""The controller: keeps the engines, hosts the interfaces, and knows who is here."""

from __future__ import annotations

import asyncio
import functools
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aioparallel import queues
from aioparallel.admission import Admission
from aioparallel.authority import ControllerState
from aioparallel.capability import Capability, Grant, capability_path
from aioparallel.connection import Connection
from aioparallel.engines import Engine
from aioparallel.errors import ConfigurationError, ConnectionLost, PluginError, ProtocolError
from aioparallel.events import ClientJoined, ClientLeft, Event, KernelRestarted, Monitor
from aioparallel.finishing import finished
from aioparallel.handshake import ServerHandshake
from aioparallel.hosting import Hosting, described
from aioparallel.interface import ClientProxy, Interface, admitted
from aioparallel.operations import declared
from aioparallel.queues import FifoQueue, Queue
from aioparallel.roster import EngineLink, Roster
from aioparallel.source import SYSTEM, Source
from aioparallel.wire import Limits

__all__ = ["Controller"]

ENGINE = "engine"


class Controller:
    """The one who listens. Use it as `async with Controller() as controller`, or close it with `aclose`.

    It takes no signal, configures no log, opens no socket that it is not asked for, and never unpickles.

    Args:
        state: Identity, capabilities and epoch, kept across restarts; None: in memory only.
        cluster: What the cluster is called.
        limits: The bounds.
        source: Where random bytes and the wall clock come from.
        queue: Where commands wait for their engine: a class of queue, the name of one that is installed ("fifo",
            "priority"), or its place (`module:Class`).

    Attributes:
        limits: The bounds.
        source: Where random bytes and the wall clock come from.
        monitor: Who is told what happened.
        engines: The engines by id, ascending.

    Raises:
        PluginError: There is no such queue, or it can't be used.
    """

    def __init__(
        self,
        state: ControllerState | None = None,
        *,
        cluster: str = "default",
        limits: Limits | None = None,
        source: Source = SYSTEM,
        queue: str | type[Queue] = FifoQueue,
    ) -> None:
        self.limits = limits or Limits()
        self.monitor = Monitor()
        self._state = state or ControllerState.in_memory(source)
        self._cluster = cluster
        self.source = source
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self.monitor.listen(self._happened)
        self._roster = Roster(
            self.monitor,
            queue=queues.get(queue),
            on_join=self._engine_joined,
            on_leave=self._engine_left,
            find_client=lambda session: self._sessions.get(session),
            on_kernel=self._kernel_started,
            on_reserved=self._engine_reserved,
            on_kernel_lost=self._kernel_lost,
            on_properties=self._properties_changed,
        )
        self._hostings: dict[str, Hosting] = {}
        #: Names of interfaces that are on their way.
        self._coming: set[str] = set()
        #: Where capability files are written, and with which addresses.
        self._published: tuple[Path, tuple[str, ...] | None] | None = None
        self._admission: Admission[EngineLink | ClientProxy] = Admission(
            self._state,
            self.limits,
            source,
            self.monitor,
            interfaces=lambda: [ENGINE, *self._hostings],
            welcome=self._welcome,
            admit=self._admit,
            leave=self._leave,
        )
        self._clients: dict[ClientProxy, Connection] = {}
        self._sessions: dict[int, ClientProxy] = {}
        self._links: dict[EngineLink, None] = {}
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Controller of {self._cluster!r}: {len(self.engines)} engines, {len(self._clients)} clients>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # What an interface sees, through its Hosting

    @property
    def engines(self) -> Mapping[int, Engine]:
        """The engines by id, ascending."""
        return self._roster.engines

    @property
    def interfaces(self) -> dict[str, Interface]:
        """The interfaces that are hosted, by name."""
        return {name: hosting.interface for name, hosting in self._hostings.items()}

    def status(self) -> dict[str, Any]:
        """Return what a person would ask, as plain values (`MonitorClient.status` says which)."""
        return {
            "cluster": self._cluster,
            "controller": self._state.controller_id,
            "pid": os.getpid(),
            "epoch": self._state.epoch,
            "seconds": self._loop.time() - self._started,
            "asyncio_tasks": len(asyncio.all_tasks(self._loop)),
            "addresses": self.addresses,
            "interfaces": sorted(self._hostings),
            "clients": Counter(client.grant.interface for client in self._clients),
            "engines": [engine.status() for engine in self.engines.values()],
            "reports": {name: report for name, hosting in self._hostings.items() if (report := hosting.report())},
        }

    def shut_down(self) -> None:
        """Ask for the end, in good order; `wait_closed` returns when it has come."""
        self._loop.call_soon(self._end)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    # What an application does

    @property
    def addresses(self) -> list[str]:
        """Where it listens."""
        return self._admission.addresses

    async def add(self, interface: str | type[Interface] | Interface) -> Interface:
        """Host an interface: a name found by its entry point, a class, or an instance.

        Raises:
            PluginError: It is not an interface, its name is taken, or it can't start; the text names it.
        """
        made = admitted(interface)
        name = made.name
        if name in self._hostings or name in self._coming or name == ENGINE:
            text = described(type(made), name)
            raise PluginError(f"{text} is one too many: {name!r} is here already; it needs a name of its own")
        too_late = PluginError(f"interface {name!r} comes too late: the controller has ended")
        if self._closing:
            raise too_late
        self._coming.add(name)
        try:
            hosting = Hosting(self, made, name)
            await hosting.start()
        finally:
            self._coming.discard(name)
        if self._closing:
            await hosting.stop()
            raise too_late
        self._hostings[name] = hosting
        for engine in self.engines.values():
            hosting.tell_of("engine_joined", engine)
        self._publish(name)
        return made

    async def remove(self, name: str) -> None:
        """Host an interface no more: its clients are told goodbye, it is stopped, its capability file is deleted.

        The capability is kept: if the interface is added again, files that were copied work again.

        Raises:
            ConfigurationError: No interface of that name is hosted.
        """
        self._check_hosted(name)
        hosting = self._hostings.pop(name)
        error = ConnectionLost(f"the interface {name!r} was removed from the controller")
        for client, connection in tuple(self._clients.items()):
            if client.hosting is hosting:
                self._leave(client, error)
                connection.goodbye(error)
        if self._published is not None:
            capability_path(name, cluster=self._cluster, directory=self._published[0]).unlink(missing_ok=True)
        await hosting.stop()

    def publish(self, directory: Path, *, addresses: tuple[str, ...] | None = None) -> None:
        """Write a capability file for each interface, and for engines; from now on for those that are added, too.

        Args:
            directory: The state directory.
            addresses: How others reach us; None: where we listen.

        Raises:
            CapabilityError: A file can't be written.
        """
        self._published = directory, addresses
        # The engines' first, because they wait for theirs.
        for name in (ENGINE, *sorted(self._hostings)):
            self._publish(name)

    def _publish(self, name: str) -> None:
        if self._published is not None:
            directory, addresses = self._published
            capability = self.capability(name, addresses=addresses)
            capability.save(capability_path(name, cluster=self._cluster, directory=directory), self.source)

    async def listen(self, address: str) -> str:
        """Listen on `address` too; return it with the real port.

        Raises:
            AddressError: No transport knows the address, it can't be bound, or the controller has ended.
            ConfigurationError: TLS was asked for and no certificate can be made.
            PluginError: The transport says that it listens where it does not.
        """
        return await self._admission.listen(address)

    def capability(self, interface: str, *, addresses: tuple[str, ...] | None = None) -> Capability:
        """Return the standing capability of a hosted interface, or of "engine".

        Args:
            interface: Which.
            addresses: How its holder reaches us; None: where we listen.

        Raises:
            ConfigurationError: No interface of that name is hosted.
        """
        if interface != ENGINE:
            self._check_hosted(interface)
        return self._state.capability(
            interface, cluster=self._cluster, addresses=tuple(self.addresses) if addresses is None else addresses
        )

    def _check_hosted(self, name: str) -> None:
        if name not in self._hostings:
            hosted = ", ".join([ENGINE, *sorted(self._hostings)])
            raise ConfigurationError(f"no interface {name!r} here; there are {hosted}")

    async def wait_closed(self) -> None:
        """Wait until somebody asks for the end, then close."""
        await asyncio.shield(self._ended)
        await self.aclose()

    async def aclose(self) -> None:
        """Say goodbye to everybody, stop the interfaces, close.

        Safe to call twice: each waits for the end, also one that is cancelled meanwhile.
        """
        if self._closing is None:
            self._admission.end()
            self._closing = self._loop.create_task(self._close(), name=f"end of {self!r}")
        # An interface's own code is waited for in there.
        if not Hosting.runs_in(self):
            await finished(self._closing)

    async def _close(self) -> None:
        self._end()
        await self._admission.stop_listening()
        self._admission.goodbye()
        for hosting in self._hostings.values():
            await hosting.stop()
        await self._admission.wait_empty()
        self._state.close()

    # Who comes and goes

    def _welcome(self, session: str, grant: Grant) -> dict[str, Any]:
        """What a peer whose proof is right is told."""
        hosting = self._hostings.get(grant.interface)
        return {
            "session": session,
            "epoch": self._state.epoch,
            "ops": list(declared(type(hosting.interface))) if hosting else [],
            "limits": {"message": self.limits.message},
            "heartbeat": {"beat": self.limits.beat, "dead": self.limits.dead},
            "expires": grant.expires,
        }

    def _admit(self, connection: Connection, session: str) -> EngineLink | ClientProxy:
        handshake = connection.session.handshake
        assert isinstance(handshake, ServerHandshake)
        grant, python = handshake.grant, str(handshake.body.get("python", ""))
        if grant.interface == ENGINE:
            link = EngineLink(connection, self._roster, python)
            self._links[link] = None
            connection.on_silence = link.silent
            return link
        hosting = self._hostings.get(grant.interface)
        if hosting is None:
            raise ProtocolError(f"the interface {grant.interface!r} was removed meanwhile")
        client = ClientProxy(connection, hosting, grant, session, python)
        # A client may be stopped in a debugger, or hold its GIL for minutes; that it is gone, its socket says.
        connection.mortal = False
        connection.on_drained = functools.partial(self._drained, client)
        self._clients[client] = connection
        self._sessions[int(session, 16)] = client
        self.monitor.publish(ClientJoined(hosting.name, client.session))
        client.tell({"joined": [[e.id, e.python] for e in self.engines.values() if client.allowed(e.id)]})
        hosting.tell("client_joined", client)
        return client

    def _leave(self, owner: EngineLink | ClientProxy, error: BaseException | None) -> None:
        if isinstance(owner, EngineLink):
            self._links.pop(owner, None)
            owner.lost(error)
            return
        if self._clients.pop(owner, None) is None:
            return
        self._sessions.pop(int(owner.session, 16), None)
        owner.leave()
        owner.hosting.tell("client_left", owner)
        reason = str(error) if error else "it closed the connection"
        self.monitor.publish(ClientLeft(owner.hosting.name, owner.session, reason))

    def _drained(self, client: ClientProxy) -> None:
        """A slow client has read: what waited for that may go on."""
        client.hosting.tell("client_drained", client)
        for engine in tuple(self.engines.values()):
            engine.pump()

    def _kernel_started(self, engine: Engine) -> None:
        for hosting in self._hostings.values():
            hosting.tell_of("kernel_started", engine)

    def _engine_reserved(self, engine: Engine, reserved: bool) -> None:
        for hosting in self._hostings.values():
            hosting.tell_of("engine_reserved" if reserved else "engine_released", engine)

    def _kernel_lost(self, engine: Engine) -> None:
        for hosting in self._hostings.values():
            hosting.tell_of("kernel_lost", engine)

    def _properties_changed(self, engine: Engine) -> None:
        for hosting in self._hostings.values():
            hosting.tell_of("properties_changed", engine)

    def _engine_joined(self, engine: Engine) -> None:
        for hosting in self._hostings.values():
            hosting.tell_of("engine_joined", engine)
        self._tell({"joined": [[engine.id, engine.python]]}, engine.id)

    def _engine_left(self, engine: Engine) -> None:
        for hosting in self._hostings.values():
            hosting.tell_of("engine_left", engine)
        self._tell({"left": [engine.id]}, engine.id)

    def _happened(self, event: Event) -> None:
        if isinstance(event, KernelRestarted):
            self._tell({"restarted": [event.engine]}, event.engine)

    def _tell(self, notice: dict[str, Any], engine: int) -> None:
        for client in self._clients:
            if client.allowed(engine):
                client.tell(notice)
