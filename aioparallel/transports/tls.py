"""tls://host:port: TCP with TLS 1.3, the controller's own certificate pinned."""

from __future__ import annotations

import asyncio
import hmac
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, ClassVar

from aioparallel.errors import AccessDenied, AddressError, ConfigurationError
from aioparallel.transports import TLS_HANDSHAKE, Gate, Listener, Peer, Slot, SocketListener, Transport

if TYPE_CHECKING:
    from aioparallel.identity import Identity

__all__ = ["TlsTransport"]

ALPN = "aioparallel/1"
#: Bytes that may wait in the system's buffers before they are sent.
UNSENT = 2**18
OTHER_CERTIFICATE = (
    "who answers there shows another certificate than the capability names: "
    "this is another controller, or the capability file is stale"
)


class TlsTransport(Transport):
    """TLS 1.3 over TCP. There is no setting that turns it off."""

    scheme: ClassVar[str] = "tls"
    needs_identity: ClassVar[bool] = True

    async def connect(
        self, address: str, protocol_factory: Callable[[], asyncio.BaseProtocol], *, peer: Peer
    ) -> tuple[asyncio.Transport, Any]:
        """Dial `address`; the certificate must be one of the peer's.

        Raises:
            AddressError: The address is not `tls://host:port`.
            AccessDenied: Who answers shows another certificate.
            OSError: Nobody listens there, or it speaks no TLS.
        """
        import ssl

        from aioparallel.identity import client_context

        host, port = _host_and_port(address)
        if not peer.certificates:
            raise AddressError(f"{address}: the capability names no certificate, so TLS can't tell who answers")
        loop = asyncio.get_running_loop()
        try:
            transport, protocol = await loop.create_connection(
                protocol_factory,
                host,
                port,
                ssl=client_context(peer.certificates),
                server_hostname=peer.server_name,
                ssl_handshake_timeout=TLS_HANDSHAKE,
            )
        except ssl.SSLCertVerificationError as error:
            raise AccessDenied(f"{address}: {OTHER_CERTIFICATE} ({error.verify_message})") from error
        # A protocol that did not like what it saw has hung up already, and says so itself.
        if not transport.is_closing():
            _tune(transport.get_extra_info("socket"))
        return transport, protocol

    async def listen(
        self,
        address: str,
        protocol_factory: Callable[[Slot], asyncio.BaseProtocol],
        *,
        gate: Gate,
        identity: Identity | None,
    ) -> Listener:
        """Listen on a host's address and port; port 0 lets the system choose.

        Raises:
            AddressError: The address is not `tls://host:port`, or can't be bound.
            ConfigurationError: There is no identity.
        """
        from aioparallel.identity import server_context

        if identity is None:
            raise ConfigurationError(f"{address}: TLS needs an identity")
        context = server_context(identity)
        host, port = _host_and_port(address)
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, name = found[0]
            listening = socket.socket(family, kind, protocol)
        except OSError as error:
            raise AddressError(f"{address}: {error.strerror or error}") from error
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(name)
            listening.listen(512)
            listening.setblocking(False)
        except OSError as error:
            listening.close()
            raise AddressError(f"{address}: {error.strerror or error}") from error

        async def adopt(accepted: socket.socket, slot: Slot) -> Any:
            _tune(accepted)
            return await loop.connect_accepted_socket(
                lambda: protocol_factory(slot), accepted, ssl=context, ssl_handshake_timeout=TLS_HANDSHAKE
            )

        shown = f"[{host}]" if ":" in host else host
        listener = SocketListener(
            listening,
            f"tls://{shown}:{listening.getsockname()[1]}",
            arrived=lambda accepted, peername: str(peername[0]),
            adopt=adopt,
            gate=gate,
        )
        listener.fingerprint = identity.fingerprint
        return listener

    def vet(self, transport: asyncio.BaseTransport, peer: Peer | None) -> bytes:
        """Check the protocol agreed on (OpenSSL goes on without) and the certificate shown.

        Raises:
            AccessDenied: The far end shows another certificate than `peer` names.
            ConnectionError: It speaks something else.
        """
        from aioparallel.identity import fingerprint_of

        secured = transport.get_extra_info("ssl_object")
        if secured is None or secured.selected_alpn_protocol() != ALPN:
            raise ConnectionError(f"the far end does not speak {ALPN}")
        if peer is None:
            return b""
        shown = fingerprint_of(secured.getpeercert(True) or b"")
        if not any(hmac.compare_digest(shown.hex().encode(), pin.encode()) for pin in peer.pins):
            raise AccessDenied(OTHER_CERTIFICATE)
        return shown


def _host_and_port(address: str) -> tuple[str, int]:
    host, separator, port = address.removeprefix("tls://").rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise AddressError(f"{address!r}: a TLS address is tls://host:port, with a port from 0 to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _tune(connected: Any) -> None:
    """Send at once, keep little in the system's buffers, and let it notice a link that was cut.

    What lies in a buffer is before every small frame that comes later. On this machine there is no distance that large
    buffers would bridge: they grow to megabytes only because nobody is faster than who decrypts.

    Keepalive alone missed a cut link with unacknowledged data for 14 s; TCP_USER_TIMEOUT covers that.
    """
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
    with suppress(OSError):  # it may be gone again
        if ip_address(connected.getpeername()[0].partition("%")[0]).is_loopback:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNSENT)
