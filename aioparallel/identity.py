"""The controller's key and certificate (the one module that imports trustme).

The leaf certificate itself is pinned, and its issuer's key is thrown away: an issuer that is trusted would let every
other leaf of it pass as the controller. The name in it is made up from the controller's id, because addresses change
and the pin does not. Contexts are built directly: ssl.create_default_context honours SSLKEYLOGFILE.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from aioparallel.errors import CapabilityError, ConfigurationError
from aioparallel.private import Secret

if TYPE_CHECKING:
    import ssl

__all__ = ["ALPN", "Identity", "client_context", "fingerprint_of", "server_context", "server_name_of"]

ALPN = "aioparallel/1"


def server_name_of(controller_id: str) -> str:
    """Return the name in that controller's certificate; .invalid never resolves."""
    return f"{controller_id}.aioparallel.invalid"


def fingerprint_of(der: bytes) -> bytes:
    """Return the SHA-256 of a certificate."""
    return hashlib.sha256(der).digest()


@dataclass(frozen=True, slots=True)
class Identity:
    """A controller's private key and its certificate.

    Attributes:
        key_pem: The private key, PEM.
        certificate_pem: The leaf certificate, PEM.
        server_name: The name in it.
        fingerprint: SHA-256 of its DER form: what capability files pin.
    """

    key_pem: Secret
    certificate_pem: str
    server_name: str
    fingerprint: bytes

    def __repr__(self) -> str:
        return f"<Identity {self.server_name} {self.fingerprint.hex()[:16]}…>"

    @classmethod
    def new(cls, controller_id: str, wall_now: float, days: float = 3650) -> Identity:
        """Make a key and a certificate that ends `days` after the Unix time `wall_now`.

        Raises:
            ConfigurationError: trustme is not installed.
        """
        try:
            import trustme
        except ImportError:
            raise ConfigurationError("tls:// needs trustme: pip install trustme") from None
        # trustme's own dates reach to the year 3000. The CA object, and the key in it, ends with this function.
        until = datetime.fromtimestamp(wall_now, UTC) + timedelta(days=days)
        leaf = trustme.CA().issue_cert(server_name_of(controller_id), not_after=until)
        certificate = leaf.cert_chain_pems[0].bytes().decode()
        return cls.load(controller_id, Secret(leaf.private_key_pem.bytes()), certificate)

    @classmethod
    def load(cls, controller_id: str, key_pem: Secret, certificate_pem: str) -> Identity:
        """Return the identity that was kept as PEM.

        Raises:
            CapabilityError: The certificate is no PEM.
        """
        fingerprint = fingerprint_of(_der(certificate_pem))
        return cls(key_pem, certificate_pem, server_name_of(controller_id), fingerprint)


def server_context(identity: Identity) -> ssl.SSLContext:
    """Return the context a controller listens with: TLS 1.3 only, no tickets.

    Raises:
        CapabilityError: The key or the certificate can't be used.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.set_alpn_protocols([ALPN])
    # ssl takes a key only from a file: one of mode 0600 that has no name any more once this returns.
    descriptor, name = tempfile.mkstemp()
    try:
        with open(descriptor, "wb") as file:
            file.write(identity.key_pem.reveal() + b"\n" + identity.certificate_pem.encode())
        context.load_cert_chain(name)
    except ssl.SSLError as error:
        raise CapabilityError(f"the controller's key and certificate can't be used: {error.reason}") from None
    finally:
        os.unlink(name)
    return context


def client_context(certificates: Sequence[str]) -> ssl.SSLContext:
    """Return the context that accepts exactly these leaf certificates, TLS 1.3 only.

    OpenSSL goes on when the two ends share no ALPN name, so the caller checks that `ALPN` was selected.

    Raises:
        CapabilityError: There is none, or one is no certificate.
    """
    import ssl

    if not certificates:
        raise CapabilityError("the capability pins no certificate, so it can't be used over tls://")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN])
    # The leaf is the anchor: whoever issued it is not asked.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    for certificate in certificates:
        context.load_verify_locations(cadata=_der(certificate))
    return context


def _der(certificate_pem: str) -> bytes:
    import ssl

    try:
        return ssl.PEM_cert_to_DER_cert(certificate_pem)
    except ValueError:
        raise CapabilityError("a certificate in the capability file is not PEM") from None
