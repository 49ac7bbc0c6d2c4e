r"""Prove a capability without sending it. Sans-I/O.

Three frames, before anything else may be said. Each is a u32 length (big endian, 1..4096) and one JSON object:

    controller -> client    HELLO    {"v":[1],"nonce":<64 hex>,"controller":<id>,"now":<unix time>}
    client -> controller    AUTH     {"id":…,"caveats":[…],"proof":<64 hex>,"body":"<JSON text>"}
    controller -> client    WELCOME  {"ok":true,"proof":<64 hex>, and what the controller grants}
                         or DENIED   {"ok":false,"error":<word>}

The transcript is SHA-256 over HELLO as it was sent, the id, the caveats, the body and the SHA-256 of the controller's
certificate, each with its length before it. Both proofs are HMAC-SHA256 of a label and the transcript, under the
capability's key with the caveats folded in; the labels differ, so neither end's proof serves as the other's. Each end
puts a fresh nonce into the transcript, so nothing can be replayed, and the certificate each of them has seen, so
nothing can be relayed.

Until the proof is right the only word is "denied", and an id that does not exist costs the work of one that does.
Unknown keys are ignored and wrong types refused. A machine that has raised, or is done, is not fed again.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Container, Mapping
from typing import Any, Protocol

from aioparallel.capability import Capability, Grant
from aioparallel.errors import AccessDenied, CapabilityError, HandshakeError, VersionMismatch
from aioparallel.private import Secret
from aioparallel.proof import (
    LIMIT,
    PREFIX_SIZE,
    VERSIONS,
    Claim,
    Splitter,
    certificate_hash,
    is_hex_32,
    pack,
    parse,
    proofs_of,
    refusal,
    transcript_of,
)

__all__ = ["LIMIT", "VERSIONS", "ClientHandshake", "Known", "ServerHandshake", "Splitter", "pack", "refusal"]

# What the client makes of the controller's one word.
_SENTENCES = {
    "denied": "the controller refused the capability: it does not know it, or the file is from another time",
    "expired": "the capability has expired",
    "revoked": "the capability has been revoked",
    "caveat": "the controller does not understand a restriction in the capability",
    "interface": "the controller does not host the interface that the capability is for",
    "busy": "the controller is too busy to let anybody in: try again",
}


class Known(Protocol):
    """What a controller knows about a capability that it issued."""

    @property
    def key(self) -> Secret:
        """The key, with no caveat folded in."""

    @property
    def revoked(self) -> bool:
        """Whether it counts no more."""

    def grant(self) -> Grant:
        """Return what it allows, before any caveat."""


class ServerHandshake:
    """The controller's end: send `hello()`, then what `receive` returns, until it is `done` or raises.

    Args:
        lookup: Returns what is known about a capability id, or None.
        controller_id: Who we say we are.
        interfaces: The names of those that are hosted.
        fingerprint: SHA-256 of our certificate, or b"" on a transport without one.
        nonce: 32 bytes that nobody could know before, used for nothing else.
        now: Unix time.
        welcome: Given the grant and the client's body, returns what WELCOME says besides ok and proof, or raises
            what `refusal` makes. It is called once, for a client whose proof is right.
    """

    def __init__(
        self,
        lookup: Callable[[str], Known | None],
        *,
        controller_id: str,
        interfaces: Container[str],
        fingerprint: bytes,
        nonce: bytes,
        now: float,
        welcome: Callable[[Grant, dict[str, Any]], Mapping[str, object]],
    ) -> None:
        if len(nonce) != 32:
            raise ValueError("the nonce has 32 bytes")
        self._lookup = lookup
        self._interfaces = interfaces
        self._fingerprint = certificate_hash(fingerprint)
        self._now = now
        self._welcome = welcome
        self._hello = pack({"v": list(VERSIONS), "nonce": nonce.hex(), "controller": controller_id, "now": now})
        self._splitter = Splitter()
        self._open = True
        self._grant: Grant | None = None
        self._body: dict[str, Any] = {}

    def __repr__(self) -> str:
        state = repr(self._grant) if self._grant else "waiting" if self._open else "refused"
        return f"<ServerHandshake {state}>"

    @property
    def done(self) -> bool:
        """Whether the client has been let in."""
        return self._grant is not None

    @property
    def grant(self) -> Grant:
        """What the client may do.

        Raises:
            HandshakeError: It has not been let in.
        """
        if self._grant is None:
            raise HandshakeError("nobody has been let in")
        return self._grant

    @property
    def body(self) -> dict[str, Any]:
        """What the client said about itself; empty until it has been let in."""
        return self._body

    @property
    def rest(self) -> bytes:
        """The bytes that came with AUTH and belong to the session: none, because a client has to wait for WELCOME."""
        return b""

    def hello(self) -> bytes:
        """Return HELLO, to be sent first."""
        return self._hello

    def receive(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take what arrived and return what to send: nothing yet, or WELCOME.

        Raises:
            HandshakeError: The client is not let in. The text is for our log; `reply` is what to send before closing.
        """
        if not self._open:
            raise HandshakeError("bytes after the end of the handshake")
        try:
            frames = self._splitter.feed(data)
            if not frames:
                return b""
            self._open = False
            # Nobody who has not been let in yet has anything more to say.
            if self._splitter.rest:
                raise refusal("denied", "bytes behind AUTH")
            return self._admit(frames[0])
        except BaseException:
            self._open = False
            raise

    def _admit(self, data: bytes) -> bytes:
        try:
            claim = Claim.parse(data)
        except (ValueError, RecursionError) as error:
            raise refusal("denied", _reason(error)) from None
        known = self._lookup(claim.id)
        # The same work for an id that does not exist. That the dummy key is no secret does not matter: see below.
        key = Secret(bytes(32)) if known is None else known.key
        client, server = claim.proofs(key, self._hello[PREFIX_SIZE:], self._fingerprint)
        right = hmac.compare_digest(client.encode(), claim.proof.encode())
        if known is None:
            raise refusal("denied", "unknown capability")
        if not right:
            raise refusal("denied", f"wrong proof for capability {claim.id}")
        grant, body = self._check(known, claim)
        reply = pack({**self._welcome(grant, body), "ok": True, "proof": server})
        self._grant, self._body = grant, body
        return reply

    def _check(self, known: Known, claim: Claim) -> tuple[Grant, dict[str, Any]]:
        """Return what a client that holds the key may do, or say in words why nothing."""
        if known.revoked:
            raise refusal("revoked", f"capability {claim.id} is revoked")
        try:
            grant = known.grant().restricted(claim.caveats)
        except CapabilityError as error:
            raise refusal("caveat", f"capability {claim.id}: {error}") from None
        if grant.expired(self._now):
            raise refusal("expired", f"capability {claim.id} has expired")
        try:
            body = parse(claim.body.encode())
        except (ValueError, RecursionError) as error:
            raise refusal("denied", f"capability {claim.id}: its body: {_reason(error)}") from None
        version = body.get("version")
        if type(version) is not int or version not in VERSIONS:
            raise refusal("version", f"capability {claim.id}: version {version!r}", v=list(VERSIONS))
        if body.get("interface") != grant.interface or grant.interface not in self._interfaces:
            raise refusal("interface", f"capability {claim.id} is for {grant.interface!r}")
        return grant, body


class ClientHandshake:
    """The client's end: feed `receive` and send what it returns, until it is `done` or raises.

    Args:
        capability: What to prove. Its key is used and never sent.
        fingerprint: SHA-256 of the certificate that the controller has shown, or b"" on a transport without one.
        body: What to say about ourselves: role, python, …, and `nonce`, 32 or more fresh hexadecimal digits. Version
            and interface are put in here.

    Raises:
        AccessDenied: The certificate is not one of those that the capability pins. Nothing has been sent.
        ValueError: The body has no nonce.
    """

    def __init__(self, capability: Capability, *, fingerprint: bytes, body: Mapping[str, object]) -> None:
        nonce = body.get("nonce")
        if not isinstance(nonce, str) or not re.fullmatch(r"[0-9a-f]{32,128}", nonce):
            raise ValueError("the body has a nonce of 32 to 128 hexadecimal digits")
        if fingerprint and fingerprint.hex() not in capability.pins:
            raise AccessDenied("the certificate is not the one in the capability file: this is another controller")
        self._capability = capability
        self._fingerprint = certificate_hash(fingerprint)
        self._body = {**body, "interface": capability.interface}
        self._splitter = Splitter(2)
        self._open = True
        self._expected = ""
        self._welcome: dict[str, Any] | None = None

    def __repr__(self) -> str:
        state = "done" if self.done else "waiting" if self._open else "refused"
        return f"<ClientHandshake {state}: {self._capability!r}>"

    @property
    def done(self) -> bool:
        """Whether the controller has let us in and proven itself."""
        return self._welcome is not None

    @property
    def welcome(self) -> dict[str, Any]:
        """What the controller said in WELCOME.

        Raises:
            HandshakeError: It has said nothing yet.
        """
        if self._welcome is None:
            raise HandshakeError("the handshake is not done")
        return self._welcome

    @property
    def rest(self) -> bytes:
        """The bytes that came with WELCOME and belong to the session."""
        return self._splitter.rest

    def receive(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take what arrived and return what to send: AUTH once, else nothing.

        Raises:
            AccessDenied: The controller refused us, is another one, or could not prove that it knows the capability.
            VersionMismatch: It speaks no version of ours.
            HandshakeError: What answers there is not a controller.
        """
        if not self._open:
            raise HandshakeError("bytes after the end of the handshake")
        try:
            reply = b""
            for frame in self._splitter.feed(data):
                reply += self._finish(frame) if self._expected else self._answer(frame)
            return reply
        except BaseException:
            self._open = False
            raise

    def _answer(self, hello: bytes) -> bytes:
        """Return AUTH for `hello`, if that is the controller we know."""
        message = _message(hello)
        if message.get("ok") is False:
            raise _denied(message)
        match message:
            case {"v": [*versions], "nonce": str(nonce), "controller": str(controller)} if is_hex_32(nonce):
                pass
            case _:
                raise HandshakeError("what answers there is not a controller: its first message is no HELLO")
        capability = self._capability
        if controller != capability.controller:
            raise AccessDenied("another controller answers there: the capability file is stale")
        version = max((v for v in versions if type(v) is int and v in VERSIONS), default=None)
        if version is None:
            raise _version_mismatch(versions)
        body = json.dumps({**self._body, "version": version}, separators=(",", ":"))
        transcript = transcript_of(hello, capability.id, capability.caveats, body, self._fingerprint)
        # The key in the file has its caveats folded in already.
        proof, self._expected = proofs_of(capability.key.reveal(), transcript)
        return pack({"id": capability.id, "caveats": capability.caveats, "proof": proof, "body": body})

    def _finish(self, frame: bytes) -> bytes:
        """Take WELCOME, if it comes from one who holds the key too."""
        message = _message(frame)
        if message.get("ok") is not True:
            raise _denied(message)
        proof = message.get("proof")
        if not isinstance(proof, str) or not is_hex_32(proof):
            raise AccessDenied("the controller did not prove that it knows the capability")
        if not hmac.compare_digest(proof.encode(), self._expected.encode()):
            raise AccessDenied("the controller could not prove that it knows the capability")
        self._open = False
        self._welcome = message
        return b""


def _message(data: bytes) -> dict[str, Any]:
    try:
        return parse(data)
    except (ValueError, RecursionError):
        raise HandshakeError("what answers there is not a controller: it does not send JSON") from None


def _denied(message: Mapping[str, Any]) -> AccessDenied | VersionMismatch:
    word = message.get("error")
    if word == "version":
        return _version_mismatch(message.get("v"))
    # Only words that we know are repeated: the peer has proven nothing.
    return AccessDenied(_SENTENCES.get(word if isinstance(word, str) else "", _SENTENCES["denied"]))


def _version_mismatch(theirs: object) -> VersionMismatch:
    named = [str(v) for v in theirs[:8] if type(v) is int] if isinstance(theirs, list) else []
    ours = ", ".join(map(str, VERSIONS))
    return VersionMismatch(f"the controller speaks version {', '.join(named) or '?'} of the protocol, we speak {ours}")


def _reason(error: Exception) -> str:
    # Never the peer's own bytes: they would be in our log.
    return "nested too deeply" if isinstance(error, RecursionError) else type(error).__name__
