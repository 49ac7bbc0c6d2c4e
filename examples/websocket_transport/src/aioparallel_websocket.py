"""wss://host:port: a transport for aioparallel over WebSockets, with TLS 1.3 and the controller's certificate pinned.

The `websockets` library speaks HTTP, finds the way through proxies, and puts bytes into WebSocket frames. What is left
to do here is `WebSocket`: the asyncio transport of a protocol above, and the protocol of the TLS transport below.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidProxy
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from aioparallel.errors import AccessDenied, AddressError, ConfigurationError
from aioparallel.identity import Identity, client_context, fingerprint_of, server_context
from aioparallel.transports import Gate, Listener, Peer, Slot, SocketListener, Transport

__all__ = ["WebSocket", "WebSocketTransport"]

#: To whoever looks on, this is what it looks like: the web.
ALPN = "http/1.1"
#: Most bytes in a frame, both ways: so much is kept of one who has proved nothing yet.
PIECE = 2**16
#: Seconds for TLS.
TLS_HANDSHAKE = 3.0
OTHER_CERTIFICATE = (
    "who answers there shows another certificate than the capability names: this is another controller, the capability "
    "file is stale, or a proxy on the way opens TLS connections"
)


class WebSocketTransport(Transport):
    """WebSockets over TLS 1.3."""

    scheme: ClassVar[str] = "wss"
    needs_identity: ClassVar[bool] = True

    async def connect(
        self, address: str, protocol_factory: Callable[[], asyncio.BaseProtocol], *, peer: Peer
    ) -> tuple[asyncio.Transport, Any]:
        """Dial `address`, through the proxy that the environment names if there is one.

        Raises:
            AddressError: The address is not `wss://host:port`, or nothing says which certificate to expect.
            AccessDenied: Who answers shows another certificate.
            OSError: Nobody answers there, or it speaks something else.
        """
        _parts(address)
        if not peer.certificates:
            raise AddressError(f"{address}: the capability names no certificate, so TLS can't tell who answers")
        context = client_context(peer.certificates)
        context.set_alpn_protocols([ALPN])
        try:
            dialled = await connect(
                address,
                ssl=context,
                server_hostname=peer.server_name,
                ssl_handshake_timeout=TLS_HANDSHAKE,
                create_connection=_Dialled,
                compression=None,
                max_size=PIECE,
                open_timeout=None,  # whoever dials has a limit of its own
                ping_interval=None,  # and beats of its own
            )
        except ssl.SSLCertVerificationError as error:
            raise AccessDenied(f"{address}: {OTHER_CERTIFICATE} ({error.verify_message})") from error
        except (InvalidHandshake, InvalidProxy) as error:
            raise ConnectionError(f"no WebSocket at {address}: {error}") from error
        assert isinstance(dialled, _Dialled)
        made = WebSocket(dialled.protocol, protocol_factory)
        made.take_over(dialled)
        return made, made.get_protocol()

    async def listen(
        self,
        address: str,
        protocol_factory: Callable[[Slot], asyncio.BaseProtocol],
        *,
        gate: Gate,
        identity: Identity | None,
    ) -> Listener:
        """Listen on a host's address and port (0: any), and on the path, if there is one.

        Raises:
            AddressError: The address is not `wss://host:port`, or can't be bound.
            ConfigurationError: There is no identity.
        """
        if identity is None:
            raise ConfigurationError(f"{address}: TLS needs an identity")
        context = server_context(identity)
        context.set_alpn_protocols([ALPN])
        host, port, path = _parts(address)
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            listening = socket.create_server(found[0][4][:2], family=found[0][0], backlog=512)
        except OSError as error:
            raise AddressError(f"{address}: {error.strerror or error}") from error
        listening.setblocking(False)

        async def adopt(accepted: socket.socket, slot: Slot) -> Any:
            return await loop.connect_accepted_socket(
                lambda: WebSocket(ServerProtocol(max_size=PIECE), lambda: protocol_factory(slot), slot, path),
                accepted,
                ssl=context,
                ssl_handshake_timeout=TLS_HANDSHAKE,
            )

        shown = f"[{host}]" if ":" in host else host
        listener = SocketListener(
            listening,
            f"wss://{shown}:{listening.getsockname()[1]}{path}",
            arrived=lambda accepted, name: str(name[0]),
            adopt=adopt,
            gate=gate,
        )
        listener.fingerprint = identity.fingerprint
        return listener

    def vet(self, transport: asyncio.BaseTransport, peer: Peer | None) -> bytes:
        """Check the certificate that the far end shows.

        Raises:
            AccessDenied: It is another one than `peer` names.
        """
        if peer is None:
            return b""
        secured = transport.get_extra_info("ssl_object")
        shown = fingerprint_of(secured.getpeercert(True) or b"")
        if not any(hmac.compare_digest(shown.hex().encode(), pin.encode()) for pin in peer.pins):
            raise AccessDenied(OTHER_CERTIFICATE)
        return shown


class WebSocket(asyncio.Transport, asyncio.Protocol):
    """One end of a WebSocket: a transport to the protocol above, and itself the protocol of the TLS transport below.

    Args:
        frames: Bytes to WebSocket frames and back.
        make_protocol: Makes the protocol above; called when the WebSocket is open.
        slot: Its place before the gate, on the listening side; left if there never is a protocol above.
        path: Which path may be asked for, on the listening side; "" for any.
    """

    def __init__(
        self,
        frames: ClientProtocol | ServerProtocol,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        slot: Slot | None = None,
        path: str = "",
    ) -> None:
        super().__init__()
        self._frames = frames
        self._make_protocol = make_protocol
        self._slot = slot
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._below: Any = None
        self._above: Any = None
        self._buffered = False
        #: What has arrived and is not handed over yet; None stands for the end.
        self._inbox: deque[memoryview | None] = deque()
        self._reading = True
        self._closing = self._lost = False

    def __repr__(self) -> str:
        return f"<WebSocket {'closing' if self.is_closing() else 'open' if self._above else 'opening'}>"

    def take_over(self, dialled: _Dialled) -> None:
        """Become the protocol of a connection whose WebSocket was opened by the library."""
        self._below = dialled.transport
        self._below.set_protocol(self)
        self._open()
        self.data_received(dialled.rest)
        if dialled.transport.is_closing() and not self._closing:
            # It ended between the answer and now, and nobody would tell us.
            self._below.abort()
            self._loop.call_soon(self.connection_lost, None)

    # The protocol of the TLS transport below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the request to open a WebSocket: this is the listening side."""
        self._below = transport

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the protocol above; what it has not read is gone."""
        self._closing = True
        self._inbox.clear()
        if self._above is not None and not self._lost:
            self._lost = True
            self._above.connection_lost(exc)
        elif self._slot is not None:
            self._slot.leave()

    def data_received(self, data: bytes) -> None:
        """Take bytes of the WebSocket."""
        if not data or self._frames.state is State.CLOSED:
            return
        self._frames.receive_data(data)
        for event in self._frames.events_received():
            if isinstance(event, Request):
                self._answer(event)
            elif isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.CONT):
                self._inbox.append(memoryview(event.data))
        self._send()
        if self._frames.close_expected():
            self.eof_received()
        else:
            self._deliver()

    def eof_received(self) -> bool:
        """The far end says no more: close, when the protocol above has read what it said."""
        if self._above is None:
            self._below.close()
        else:
            self._inbox.append(None)
            self._deliver()
        return False

    def pause_writing(self) -> None:
        """Tell the protocol above that this is enough."""
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        """Tell the protocol above to go on."""
        if self._above is not None:
            self._above.resume_writing()

    def _answer(self, request: Request) -> None:
        frames = self._frames
        assert isinstance(frames, ServerProtocol)
        response = frames.accept(request)
        if self._path and request.path != self._path:
            response = frames.reject(HTTPStatus.NOT_FOUND, "There is nothing here.\n")
        frames.send_response(response)
        self._send()
        if frames.state is State.OPEN:
            self._open()

    def _open(self) -> None:
        self.set_protocol(self._make_protocol())
        self._above.connection_made(self)

    def _send(self) -> None:
        """Write what the WebSocket has to say; that it will say no more the library tells as b""."""
        for data in filter(None, self._frames.data_to_send()):
            self._below.write(data)

    def _deliver(self) -> None:
        """Hand over what has arrived, unless the protocol above has paused."""
        while self._inbox and self._reading and not self._closing:
            piece = self._inbox.popleft()
            if piece is None:
                self._closing = True
                self._above.eof_received()
                self._below.close()
            else:
                self._hand_over(piece)

    def _hand_over(self, piece: memoryview) -> None:
        if not self._buffered:
            self._above.data_received(bytes(piece))
            return
        while piece and not self._closing:
            target = self._above.get_buffer(len(piece))
            count = min(len(target), len(piece))
            target[:count] = piece[:count]
            piece = piece[count:]
            self._above.buffer_updated(count)

    # The transport of the protocol above

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Say who is above."""
        self._above = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return who is above."""
        above: asyncio.BaseProtocol = self._above
        return above

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection below."""
        return self._below.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, in frames that are not too large."""
        if self._closing or self._frames.state is not State.OPEN:
            return
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PIECE):
            self._frames.send_binary(view[start : start + PIECE])
            self._send()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send bytes that are in several places."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """This end can't be half closed."""
        return False

    def is_closing(self) -> bool:
        """Whether this end closes or is closed."""
        return self._closing or (self._below is not None and bool(self._below.is_closing()))

    def close(self) -> None:
        """Close when what was written has left."""
        if not self._closing:
            self._closing = True
            if self._frames.state is State.OPEN:
                self._frames.send_close(1000)
                self._send()
            self._below.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._below.abort()

    def is_reading(self) -> bool:
        """Whether the protocol above is given what arrives."""
        return self._reading and not self.is_closing()

    def pause_reading(self) -> None:
        """Keep what arrives, and leave the rest where it is."""
        if self._reading and not self.is_closing():
            self._reading = False
            self._below.pause_reading()

    def resume_reading(self) -> None:
        """Hand over what was kept, and read on."""
        if not self._reading and not self.is_closing():
            self._reading = True
            self._below.resume_reading()
            self._loop.call_soon(self._deliver)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set high and low water, bytes."""
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Bytes that wait to be sent."""
        return int(self._below.get_write_buffer_size())


class _Dialled(ClientConnection):
    """The library's connection, until its WebSocket is open: what arrives behind the answer is kept for us.

    The controller speaks first, so its first words may come with the answer.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        """Give the library the answer, and nothing behind it."""
        if self.is_open():
            self.rest += data
            return
        head, end, rest = (self.rest + data).partition(b"\r\n\r\n")
        if not end:
            self.rest += data
            return
        self.rest = b""
        super().data_received(head + end)
        if self.is_open():
            self.rest = rest
        elif rest:
            super().data_received(rest)

    def is_open(self) -> bool:
        """Whether the WebSocket is open."""
        return self.protocol.state is State.OPEN


def _parts(address: str) -> tuple[str, int, str]:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None or parts.scheme != "wss" or parts.query or parts.fragment or parts.username:
        raise AddressError(f"{address!r}: a WebSocket's address is wss://host:port or wss://host:port/path")
    return host, port, parts.path
