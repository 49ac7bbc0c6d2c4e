"""How bytes travel: Transport, Listener, and SocketListener, which takes in who comes to a socket.

A transport hands out asyncio transports and invents no stream. One is found by the scheme of an address
(`tls://host:port`, `unix:///path`, `memory://name`) through the entry-point group `aioparallel.transports`, whose names
are the schemes. `aioparallel.testing.check_transport` checks what is said here, rule by rule.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from aioparallel import plugins
from aioparallel.errors import AddressError, PluginError
from aioparallel.gate import Gate, Slot

if TYPE_CHECKING:
    from aioparallel.identity import Identity

__all__ = ["Gate", "Listener", "Peer", "Slot", "SocketListener", "Transport", "get", "lent", "listen"]

logger = logging.getLogger(__name__)

#: Seconds for the TLS handshake, within those of `gate.HANDSHAKE`.
TLS_HANDSHAKE = 3.0
#: Seconds until the next try when nothing can be accepted, and between two complaints about that.
PAUSE = 0.1
COMPLAINTS = 60.0


@dataclass(frozen=True, slots=True)
class Peer:
    """What one who dials knows about the controller it means to reach.

    Attributes:
        server_name: The name in its certificate.
        certificates: The certificates it may show, PEM.
        pins: Their SHA-256, hex.
    """

    server_name: str = ""
    certificates: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()


class Transport(ABC):
    """A way for bytes to travel between a controller and those who dial it.

    It knows nothing of aioparallel's handshake and frames, which are the same over all of them. It is made without
    arguments, by whoever dials or listens, and keeps nothing between two calls.

    What it makes are transports with the methods of `asyncio.Transport`, on the running loop, which do what asyncio's
    own do:

    * `connection_made` is the first thing that a protocol hears, and once; `connection_lost` the last, and once,
      however the connection ends. In between `get_buffer` and `buffer_updated` of an `asyncio.BufferedProtocol`, or
      `data_received` of an `asyncio.Protocol`.
    * Bytes arrive whole and in order, whatever the sizes of the writes. `write` and `writelines` never wait, and take
      bytes, bytearray and memoryview. What they were given stays as it is until it has left.
    * A reader that pauses (`pause_reading`) pauses the writer: beyond `set_write_buffer_limits(high=…)` its protocol
      is told `pause_writing`, and `resume_writing` when it may go on; `get_write_buffer_size` tells how much waits.
    * `close` writes what waits and then ends the connection; `abort` ends it at once. Both ends are told. Either may be
      called from within any of the protocol's methods, `connection_made` too, and more than once.
    * `get_extra_info("socket")` gives one only if what the protocol reads and writes are that socket's own bytes, or if
      `"ssl_object"` gives something too: we may read from the socket ourselves.

    Over a network there must be TLS beneath, with the controller's certificate pinned (`needs_identity`, `Peer`): the
    handshake proves who both are, and hides nothing of what follows.

    Attributes:
        scheme: What its addresses begin with, before `://`; the name of its entry point.
        needs_identity: Whether to listen it needs the controller's key and certificate.
        in_process: Whether both ends are in one process.
    """

    scheme: ClassVar[str]
    needs_identity: ClassVar[bool] = False
    in_process: ClassVar[bool] = False

    @abstractmethod
    async def connect(
        self, address: str, protocol_factory: Callable[[], asyncio.BaseProtocol], *, peer: Peer
    ) -> tuple[asyncio.Transport, Any]:
        """Dial `address`; return the asyncio transport and the protocol.

        It returns when bytes can be written; the protocol has been told `connection_made` by then, and may already have
        hung up. Cancellation leaves nothing open.

        Args:
            address: Where to, as a listener's `address` has it.
            protocol_factory: Makes the protocol; called once at most.
            peer: Who should answer.

        Raises:
            AddressError: The address is not one of this scheme.
            OSError: Nobody answers there, or it isn't who `peer` says. Over TLS that is found out before a byte of
                the protocol's is sent.
        """

    @abstractmethod
    async def listen(
        self,
        address: str,
        protocol_factory: Callable[[Slot], asyncio.BaseProtocol],
        *,
        gate: Gate,
        identity: Identity | None,
    ) -> Listener:
        """Listen on `address`; make a protocol for each arrival, which has its `Slot` in `gate`.

        An arrival enters the gate as soon as there is a connection, before TLS or anything else is agreed on, so that
        those who never say anything are few and go in time: `gate.enter(source, evict)`, where `evict` must end the
        connection. Once there is an asyncio transport its `abort` is set as `slot.evict`. The protocol leaves the slot;
        the transport does so only for an arrival that never got a protocol. `SocketListener` does all that for what is
        accepted from a listening socket.

        Args:
            address: Where. Where a number can be left to the system (a port: 0), the listener tells the real one.
            protocol_factory: Makes the protocol of an arrival, given its slot.
            gate: Where arrivals wait until they have proved themselves.
            identity: The controller's key and certificate; there if `needs_identity`.

        Raises:
            AddressError: The address is not one of this scheme, or can't be bound.
            ConfigurationError: The transport needs an identity and there is none.
        """

    def vet(self, transport: asyncio.BaseTransport, peer: Peer | None) -> bytes:
        """Look at the far end before a byte of ours is sent; called when the connection is made.

        Args:
            transport: What `connect` or `listen` made.
            peer: Who it should be; None on the listening side.

        Returns:
            SHA-256 of the certificate the far end showed, or b"" where there is none.

        Raises:
            ConnectionError: It is somebody else, or speaks something else.
        """
        return b""


class Listener(ABC):
    """A place where a controller listens.

    Attributes:
        address: Where, as one would dial it, with the scheme; the port is the real one. It goes into capability files.
        fingerprint: SHA-256 of the certificate it shows, or b"".
    """

    address: str
    fingerprint: bytes = b""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

    @abstractmethod
    async def aclose(self) -> None:
        """Stop listening, and free the address; connections that were made stay. Safe to call twice."""


class SocketListener(Listener):
    """Accepts from a listening socket by itself, so that what happens before the handshake can be bounded.

    Args:
        listening: The socket, bound and listening.
        address: How one dials it.
        arrived: Called with each accepted socket; returns the source's name, or None to turn it away.
        adopt: Coroutine function that makes the asyncio transport and protocol of an accepted socket.
        gate: Where arrivals wait.
        trusted: Whether one source may take all places of the gate.
    """

    def __init__(
        self,
        listening: socket.socket,
        address: str,
        *,
        arrived: Callable[[socket.socket, Any], str | None],
        adopt: Callable[[socket.socket, Slot], Any],
        gate: Gate,
        trusted: bool = False,
    ) -> None:
        self.address = address
        self._socket = listening
        self._arrived = arrived
        self._adopt = adopt
        self._gate = gate
        self._trusted = trusted
        self._adopting: dict[asyncio.Task[None], socket.socket] = {}
        self._loop = asyncio.get_running_loop()
        self._quiet_until = self._loop.time()
        self._resuming: asyncio.TimerHandle | None = None
        self._listen()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening; connections that were made stay. Safe to call twice."""
        if self._socket.fileno() >= 0:
            if self._resuming is not None:
                self._resuming.cancel()
            self._loop.remove_reader(self._socket)
            self._socket.close()
        for accepted in self._adopting.values():
            _hang_up(accepted)
        await asyncio.gather(*self._adopting, return_exceptions=True)

    def _listen(self) -> None:
        self._resuming = None
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        """Take in one who waits. No coroutine does this: cancelled, it would lose whom it has just accepted."""
        try:
            accepted, name = self._socket.accept()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            # Too few descriptors, or a peer that is gone again.
            if self._loop.time() >= self._quiet_until:
                self._quiet_until = self._loop.time() + COMPLAINTS
                logger.warning("%s: can't accept a connection: %s", self.address, error)
            self._loop.remove_reader(self._socket)
            self._resuming = self._loop.call_later(PAUSE, self._listen)
            return
        accepted.setblocking(False)
        try:
            source = self._arrived(accepted, name)
        except (OSError, LookupError, TypeError):
            # It is gone again, and has no name any more.
            source = None
        if source is None:
            accepted.close()
            return
        task = self._loop.create_task(self._take(accepted, source))
        self._adopting[task] = accepted
        task.add_done_callback(self._taken)

    def _taken(self, task: asyncio.Task[None]) -> None:
        accepted = self._adopting.pop(task)
        if task.cancelled():
            # Perhaps before its first step, where it can't see to that itself.
            accepted.close()

    async def _take(self, accepted: socket.socket, source: str) -> None:
        # Not this task's cancel(): uvloop does not tell a protocol that was made of the end of its connection then.
        slot = self._gate.enter(source, functools.partial(_hang_up, accepted), trusted=self._trusted)
        try:
            with lent(accepted):
                transport, _ = await self._adopt(accepted, slot)
        except BaseException as error:
            slot.leave()
            with contextlib.suppress(OSError):
                accepted.close()
            if not isinstance(error, (OSError, asyncio.CancelledError)):
                logger.debug("%s: %s did not get through: %r", self.address, source, error)
            if isinstance(error, asyncio.CancelledError) or not isinstance(error, Exception):
                raise
        else:
            slot.evict = transport.abort


@contextlib.contextmanager
def lent(connected: socket.socket) -> Iterator[None]:
    """While a loop makes a transport of a socket, which is the transport's afterwards.

    If the protocol ends the connection at once, uvloop closes the descriptor without telling the socket. That would
    close it again when it is collected, and by then it may be somebody else's.
    """
    descriptor = connected.fileno()
    mine = os.fstat(descriptor)
    yield
    if connected.fileno() == descriptor:
        try:
            same = os.path.samestat(mine, os.fstat(descriptor))
        except OSError:
            same = False
        if not same:
            connected.detach()


def _hang_up(accepted: socket.socket) -> None:
    """End a connection whose transport is not known yet: whoever reads from it sees its end."""
    with contextlib.suppress(OSError):
        accepted.shutdown(socket.SHUT_RDWR)


def scheme_of(address: str) -> str:
    """Return what stands before `://`.

    Raises:
        AddressError: Nothing does.
    """
    scheme, separator, _ = address.partition("://")
    if not separator or not scheme:
        known = ", ".join(f"{name}://" for name in plugins.names(plugins.TRANSPORTS))
        raise AddressError(f"{address!r} is not an address: it begins with one of {known}")
    return scheme


def get(address: str) -> Transport:
    """Return the transport for `address`, by its scheme.

    Raises:
        AddressError: No transport of that scheme is installed; the text says which are.
        PluginError: It is installed and can't be used.
    """
    scheme = scheme_of(address)
    schemes = plugins.names(plugins.TRANSPORTS)
    if scheme not in schemes:
        known = ", ".join(f"{name}://" for name in schemes)
        raise AddressError(
            f"no transport for {address!r}; known: {known}; is the package that brings {scheme}:// installed here?"
        )
    made: Transport = plugins.make(plugins.TRANSPORTS, scheme, Transport)
    if made.scheme != scheme:
        raise PluginError(
            f"{_name_of(made, scheme)} has the scheme {made.scheme!r}: it must be {scheme!r}, as its name is"
        )
    return made


async def listen(
    transport: Transport,
    address: str,
    protocol_factory: Callable[[Slot], asyncio.BaseProtocol],
    *,
    gate: Gate,
    identity: Identity | None,
) -> Listener:
    """Have a transport listen, and look at what it says.

    Raises:
        PluginError: It gives no listener, or one that says an address which is none of its own.
        ConfigurationError: As `Transport.listen`.
    """
    listener = await transport.listen(address, protocol_factory, gate=gate, identity=identity)
    who = _name_of(transport, transport.scheme)
    if not isinstance(listener, Listener):
        raise PluginError(f"{who} returned {listener!r} for {address}: it must be a {Listener.__module__}.Listener")
    if not str(getattr(listener, "address", "")).startswith(f"{transport.scheme}://"):
        await listener.aclose()
        raise PluginError(
            f"{who}, asked to listen on {address}, says that it does on {getattr(listener, 'address', None)!r}: "
            f"its listener's address must begin with {transport.scheme}://"
        )
    return listener


def _name_of(transport: Transport, scheme: str) -> str:
    kind = type(transport)
    return plugins.describe(plugins.TRANSPORTS, scheme, f"{kind.__module__}:{kind.__qualname__}")
