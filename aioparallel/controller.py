"""Listens, checks, keeps the engines, hosts the interfaces."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections import Counter
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, Self

from aioparallel import plugins, transports
from aioparallel.authority import ControllerState
from aioparallel.capability import Capability, Grant
from aioparallel.connection import Connection
from aioparallel.engines import Engine
from aioparallel.errors import ConfigurationError, ConnectionLost, HandshakeError, PluginError, ProtocolError
from aioparallel.events import ClientJoined, ClientLeft, Event, KernelRestarted, Monitor, PeerRefused, Refusals
from aioparallel.handshake import ServerHandshake
from aioparallel.interface import ClientProxy, Interface, operations
from aioparallel.queues import FifoQueue, Queue
from aioparallel.roster import EngineLink, Roster
from aioparallel.session import Handshake
from aioparallel.source import SYSTEM, Source
from aioparallel.transports import Gate, Listener, Slot
from aioparallel.wire import Frame, Limits

__all__ = ["Controller"]

logger = logging.getLogger(__name__)

ENGINE = "engine"


class Controller:
    """The one who listens. Use it as `async with Controller() as controller`, or close it with `aclose`.

    It takes no signal, configures no log, opens no socket that it is not asked for, and never unpickles.

    Args:
        state: Identity, capabilities and epoch, kept across restarts; None: in memory only.
        cluster: What the cluster is called.
        limits: The bounds.
        source: Where random bytes and the wall clock come from.
        queue: Makes the queue of an engine.

    Attributes:
        limits: The bounds.
        source: Where random bytes and the wall clock come from.
        monitor: Who is told what happened.
        engines: The engines by id, ascending.
    """

    def __init__(
        self,
        state: ControllerState | None = None,
        *,
        cluster: str = "default",
        limits: Limits | None = None,
        source: Source = SYSTEM,
        queue: type[Queue] = FifoQueue,
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
            queue=queue,
            on_join=self._engine_joined,
            on_leave=self._engine_left,
            find_client=lambda session: self._sessions.get(session),
            on_kernel=self._kernel_started,
            on_kernel_lost=self._kernel_lost,
            on_properties=self._properties_changed,
        )
        self._interfaces: dict[str, Interface] = {}
        self._clients: dict[ClientProxy, Connection] = {}
        self._sessions: dict[int, ClientProxy] = {}
        # Not sets: the order in which everybody is told of the end is that in which they came.
        self._links: dict[EngineLink, None] = {}
        self._connections: dict[Connection, None] = {}
        self._gate = Gate()
        self._listeners: list[Listener] = []
        self._refusals = Refusals()
        self._telling: asyncio.TimerHandle | None = None
        self._telling_at = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._closing = False

    def __repr__(self) -> str:
        return f"<Controller of {self._cluster!r}: {len(self.engines)} engines, {len(self._clients)} clients>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # What an interface sees (Host)

    @property
    def engines(self) -> Mapping[int, Engine]:
        """The engines by id, ascending."""
        return self._roster.engines

    def create_task(self, work: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        """Run `work`; the task is kept, its failure is logged, and it is cancelled when the controller closes."""
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

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
            "interfaces": sorted(self._interfaces),
            "clients": Counter(client.grant.interface for client in self._clients),
            "engines": [engine.status() for engine in self.engines.values()],
            "reports": {name: report for name, interface in self._interfaces.items() if (report := interface.report())},
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
        return [listener.address for listener in self._listeners]

    async def add(self, interface: str | type[Interface] | Interface) -> Interface:
        """Host an interface: a name found by its entry point, a class, or an instance.

        Raises:
            PluginError: It is not an interface, its name is taken, or it can't start; the text names it.
        """
        if isinstance(interface, str):
            interface = plugins.load(plugins.INTERFACES, interface, Interface)
        made = interface() if isinstance(interface, type) else interface
        name = getattr(made, "name", None)
        if not isinstance(made, Interface) or not isinstance(name, str) or not name.isidentifier():
            raise PluginError(f"{made!r} is not an interface with a name (an identifier)")
        if name in self._interfaces or name == ENGINE:
            raise PluginError(f"an interface named {name!r} is here already")
        made.host = self
        try:
            await made.start()
        except Exception as error:
            raise PluginError(f"interface {name!r} can't start: {type(error).__name__}: {error}") from error
        self._interfaces[name] = made
        for engine in self.engines.values():
            made.engine_joined(engine)
        return made

    async def listen(self, address: str) -> str:
        """Listen on `address` too; return it with the real port.

        Raises:
            AddressError: No transport knows the address, or it can't be bound.
            ConfigurationError: TLS was asked for and no certificate can be made.
        """
        transport = transports.get(address)
        identity = self._state.identity() if transport.needs_identity else None
        listener = await transport.listen(
            address,
            lambda slot: self._arrival(transport, slot, identity.fingerprint if identity else b""),
            gate=self._gate,
            identity=identity,
        )
        self._listeners.append(listener)
        logger.info("listening on %s", listener.address)
        return listener.address

    def capability(self, interface: str, *, addresses: tuple[str, ...] | None = None) -> Capability:
        """Return the standing capability of a hosted interface, or of "engine".

        Args:
            interface: Which.
            addresses: How its holder reaches us; None: where we listen.

        Raises:
            ConfigurationError: No interface of that name is hosted.
        """
        if interface != ENGINE and interface not in self._interfaces:
            hosted = ", ".join([ENGINE, *sorted(self._interfaces)])
            raise ConfigurationError(f"no interface {interface!r} here; there are {hosted}")
        return self._state.capability(
            interface, cluster=self._cluster, addresses=tuple(self.addresses) if addresses is None else addresses
        )

    async def wait_closed(self) -> None:
        """Wait until somebody asks for the end, then close."""
        await asyncio.shield(self._ended)
        await self.aclose()

    async def aclose(self) -> None:
        """Say goodbye to everybody, stop the interfaces, close. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        self._end()
        for listener in self._listeners:
            await listener.aclose()
        self._gate.close()
        for connection in tuple(self._connections):
            connection.goodbye(ConnectionLost("the controller has ended"))
        for interface in self._interfaces.values():
            try:
                await interface.stop()
            except Exception:
                logger.exception("interface %r failed to stop", interface.name)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Every connection closes within its own deadline.
        while self._connections:
            await self._one_less()
        if self._telling is not None:
            self._telling.cancel()
        for refusal in self._refusals.flush():
            self._tell_refused(refusal)
        self._state.close()

    async def _one_less(self) -> None:
        self._left: asyncio.Future[None] = self._loop.create_future()
        await self._left

    # Who comes and goes

    def _arrival(self, transport: transports.Transport, slot: Slot, fingerprint: bytes) -> Connection:
        """Make the protocol of a connection that somebody opened."""
        owner: list[EngineLink | ClientProxy] = []
        session = self.source.token(8).hex()

        def make_handshake(made: asyncio.BaseTransport) -> Handshake:
            # Not before: a peer that never gets through TLS is never said to be lost either.
            self._connections[connection] = None
            transport.vet(made, None)
            return ServerHandshake(
                self._state.authority.lookup,
                controller_id=self._state.controller_id,
                interfaces=[ENGINE, *self._interfaces],
                fingerprint=fingerprint,
                nonce=self.source.token(32),
                now=self.source.wall(),
                welcome=lambda grant, body: self._welcome(session, grant),
            )

        def opened(connection: Connection) -> None:
            slot.leave()
            owner.append(self._admit(connection, session))
            connection.on_frames = owner[0].receive

        def lost(error: BaseException | None) -> None:
            slot.leave()
            self._connections.pop(connection, None)
            if owner:
                self._leave(owner[0], error)
            elif isinstance(error, HandshakeError):
                self._refused(slot.source, str(error))
            if not self._connections and hasattr(self, "_left") and not self._left.done():
                self._left.set_result(None)

        connection = Connection(
            make_handshake,
            greeting=lambda handshake: handshake.hello(),
            limits=self.limits,
            on_open=opened,
            on_frames=_nobody,
            on_lost=lost,
        )
        return connection

    def _refused(self, source: str, reason: str) -> None:
        """Tell of somebody who was not let in; of many only how many they are."""
        refusal = self._refusals.add(source, reason, self._loop.time())
        if refusal is not None:
            self._tell_refused(refusal)
        self._tell_refusals_later()

    def _tell_refusals_later(self) -> None:
        due = self._refusals.due
        if due is None or self._closing or (self._telling is not None and self._telling_at <= due):
            return
        if self._telling is not None:
            self._telling.cancel()
        # Noted, for not every loop's handle says when it is due.
        self._telling, self._telling_at = self._loop.call_at(due, self._tell_refusals), due

    def _tell_refusals(self) -> None:
        self._telling = None
        for refusal in self._refusals.tell(self._loop.time()):
            self._tell_refused(refusal)
        self._tell_refusals_later()

    def _tell_refused(self, refusal: PeerRefused) -> None:
        others = f", and {refusal.more} others like it" if refusal.more else ""
        logger.info("%s was refused: %s%s", refusal.source, refusal.reason, others)
        self.monitor.publish(refusal)

    def _welcome(self, session: str, grant: Grant) -> dict[str, Any]:
        """What a peer whose proof is right is told."""
        interface = self._interfaces.get(grant.interface)
        return {
            "session": session,
            "epoch": self._state.epoch,
            "ops": list(operations(type(interface))) if interface else [],
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
        interface = self._interfaces[grant.interface]
        client = ClientProxy(connection, interface, grant, session, python)
        # A client may be stopped in a debugger, or hold its GIL for minutes; that it is gone, its socket says.
        connection.mortal = False
        connection.on_drained = functools.partial(self._drained, client)
        self._clients[client] = connection
        self._sessions[int(session, 16)] = client
        self.monitor.publish(ClientJoined(interface.name, client.session))
        client.notify({"joined": [[e.id, e.python] for e in self.engines.values() if client.allowed(e.id)]})
        interface.client_joined(client)
        return client

    def _leave(self, owner: EngineLink | ClientProxy, error: BaseException | None) -> None:
        if isinstance(owner, EngineLink):
            self._links.pop(owner, None)
            owner.lost(error)
            return
        self._clients.pop(owner, None)
        self._sessions.pop(int(owner.session, 16), None)
        owner.leave()
        interface = self._interfaces[owner.grant.interface]
        interface.client_left(owner)
        reason = str(error) if error else "it closed the connection"
        self.monitor.publish(ClientLeft(interface.name, owner.session, reason))

    def _drained(self, client: ClientProxy) -> None:
        """A slow client has read: what waited for that may go on."""
        self._interfaces[client.grant.interface].client_drained(client)
        for engine in tuple(self.engines.values()):
            engine.pump()

    def _kernel_started(self, engine: Engine) -> None:
        for interface in self._interfaces.values():
            interface.kernel_started(engine)

    def _kernel_lost(self, engine: Engine) -> None:
        for interface in self._interfaces.values():
            interface.kernel_lost(engine)

    def _properties_changed(self, engine: Engine) -> None:
        for interface in self._interfaces.values():
            interface.properties_changed(engine)

    def _engine_joined(self, engine: Engine) -> None:
        for interface in self._interfaces.values():
            interface.engine_joined(engine)
        self._tell({"joined": [[engine.id, engine.python]]}, engine.id)

    def _engine_left(self, engine: Engine) -> None:
        for interface in self._interfaces.values():
            interface.engine_left(engine)
        self._tell({"left": [engine.id]}, engine.id)

    def _happened(self, event: Event) -> None:
        if isinstance(event, KernelRestarted):
            self._tell({"restarted": [event.engine]}, event.engine)

    def _tell(self, notice: dict[str, Any], engine: int) -> None:
        for client in self._clients:
            if client.allowed(engine):
                client.notify(notice)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s failed", task.get_name(), exc_info=task.exception())


def _nobody(frames: list[Frame]) -> None:
    raise ProtocolError("frames before the handshake was done")
