"""Who is let into a controller: where it listens, and what each has to prove before it is heard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from aioparallel import transports
from aioparallel.authority import ControllerState
from aioparallel.capability import Grant
from aioparallel.connection import Connection
from aioparallel.errors import AddressError, ConnectionLost, HandshakeError, ProtocolError
from aioparallel.events import Monitor, PeerRefused, Refusals
from aioparallel.gate import Gate, Slot
from aioparallel.handshake import ServerHandshake
from aioparallel.limits import Limits
from aioparallel.session import Handshake
from aioparallel.source import Source
from aioparallel.transports import Listener, Transport
from aioparallel.wire import Frame

__all__ = ["Admission", "Owner"]

logger = logging.getLogger(__name__)


class Owner(Protocol):
    """Whose a connection is, once its far end has proved itself."""

    def receive(self, frames: list[Frame]) -> None:
        """Take what has arrived."""
        ...


T = TypeVar("T", bound=Owner)


class Admission(Generic[T]):
    """The way of a connection from the socket to its owner; and back, when it is lost.

    Args:
        state: Who the controller is, and which capabilities it knows.
        limits: The bounds.
        source: Where random bytes and the wall clock come from.
        monitor: Who is told of those who were refused.
        interfaces: Returns what may be asked for, by name.
        welcome: Returns what a peer whose proof is right is told, given its session and its grant.
        admit: Returns whose a connection is from now on, given it and its session; may raise `ProtocolError`.
        leave: Told that an owner's connection is lost, and by which error.

    Attributes:
        gate: Where those are who have not proved themselves.
        connections: All that are open, in the order in which they came.
    """

    def __init__(
        self,
        state: ControllerState,
        limits: Limits,
        source: Source,
        monitor: Monitor,
        *,
        interfaces: Callable[[], list[str]],
        welcome: Callable[[str, Grant], dict[str, Any]],
        admit: Callable[[Connection, str], T],
        leave: Callable[[T, BaseException | None], None],
    ) -> None:
        self.gate = Gate()
        # Not a set: the order in which everybody is told of the end is that in which they came.
        self.connections: dict[Connection, None] = {}
        self._state = state
        self._limits = limits
        self._source = source
        self._monitor = monitor
        self._interfaces = interfaces
        self._welcome = welcome
        self._admit = admit
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._listeners: list[Listener] = []
        self._refusals = Refusals()
        self._telling: asyncio.TimerHandle | None = None
        self._telling_at = 0.0
        self._ending = False
        self._left: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Admission on {self.addresses}, {len(self.connections)} connections, {len(self.gate)} unproven>"

    @property
    def addresses(self) -> list[str]:
        """Where the controller listens."""
        return [listener.address for listener in self._listeners]

    async def listen(self, address: str) -> str:
        """Listen on `address` too; return it with the real port.

        Raises:
            AddressError: No transport knows the address, it can't be bound, or the controller has ended.
            ConfigurationError: TLS was asked for and no certificate can be made.
            PluginError: The transport says that it listens where it does not.
        """
        transport = transports.get(address)
        identity = self._state.identity() if transport.needs_identity else None
        listener = await transports.listen(
            transport,
            address,
            lambda slot: self._arrival(transport, slot, identity.fingerprint if identity else b""),
            gate=self.gate,
            identity=identity,
        )
        if self._ending:
            await listener.aclose()
            raise AddressError(f"{address}: the controller has ended")
        self._listeners.append(listener)
        logger.info("listening on %s", listener.address)
        return listener.address

    # The end, step by step

    def end(self) -> None:
        """Take note that the controller ends: who listens from now on is too late."""
        self._ending = True

    async def stop_listening(self) -> None:
        """Let nobody in any more; connections that were made stay."""
        for listener in self._listeners:
            await listener.aclose()
        self.gate.close()

    def goodbye(self) -> None:
        """Tell everybody of the end, and close."""
        for connection in tuple(self.connections):
            connection.goodbye(ConnectionLost("the controller has ended"))

    async def wait_empty(self) -> None:
        """Wait until nobody is here any more, and tell who was refused and has not been told of."""
        # Every connection closes within its own deadline.
        while self.connections:
            self._left = self._loop.create_future()
            await self._left
        if self._telling is not None:
            self._telling.cancel()
        for refusal in self._refusals.flush():
            self._tell(refusal)

    # A connection's way

    def _arrival(self, transport: Transport, slot: Slot, fingerprint: bytes) -> Connection:
        """Make the protocol of a connection that somebody opened."""
        owner: list[T] = []
        session = self._source.token(8).hex()

        def make_handshake(made: asyncio.BaseTransport) -> Handshake:
            # Not before: a peer that never gets through TLS is never said to be lost either.
            self.connections[connection] = None
            transport.vet(made, None)
            return ServerHandshake(
                self._state.authority.lookup,
                controller_id=self._state.controller_id,
                interfaces=self._interfaces(),
                fingerprint=fingerprint,
                nonce=self._source.token(32),
                now=self._source.wall(),
                welcome=lambda grant, body: self._welcome(session, grant),
            )

        def opened(connection: Connection) -> None:
            slot.leave()
            owner.append(self._admit(connection, session))
            connection.on_frames = owner[0].receive

        def lost(error: BaseException | None) -> None:
            slot.leave()
            self.connections.pop(connection, None)
            if owner:
                self._leave(owner[0], error)
            elif isinstance(error, HandshakeError):
                self._refused(slot.source, str(error))
            if not self.connections and self._left is not None and not self._left.done():
                self._left.set_result(None)

        connection = Connection(
            make_handshake,
            greeting=lambda handshake: handshake.hello(),
            limits=self._limits,
            on_open=opened,
            on_frames=_nobody,
            on_lost=lost,
        )
        return connection

    # Those who are refused

    def _refused(self, source: str, reason: str) -> None:
        """Tell of somebody who was not let in; of many only how many they are."""
        refusal = self._refusals.add(source, reason, self._loop.time())
        if refusal is not None:
            self._tell(refusal)
        self._tell_later()

    def _tell_later(self) -> None:
        due = self._refusals.due
        if due is None or self._ending or (self._telling is not None and self._telling_at <= due):
            return
        if self._telling is not None:
            self._telling.cancel()
        # Noted, for not every loop's handle says when it is due.
        self._telling, self._telling_at = self._loop.call_at(due, self._tell_due), due

    def _tell_due(self) -> None:
        self._telling = None
        for refusal in self._refusals.tell(self._loop.time()):
            self._tell(refusal)
        self._tell_later()

    def _tell(self, refusal: PeerRefused) -> None:
        others = f", and {refusal.more} others like it" if refusal.more else ""
        logger.info("%s was refused: %s%s", refusal.source, refusal.reason, others)
        self._monitor.publish(refusal)


def _nobody(frames: list[Frame]) -> None:
    raise ProtocolError("frames before the handshake was done")
