"""The handshake's messages, and what is proven about them. Sans-I/O.

`handshake` says how the two ends use them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aioparallel.capability import CAVEAT_LENGTH, CAVEATS_MAX, fold
from aioparallel.errors import HandshakeError
from aioparallel.private import Secret

__all__ = [
    "LIMIT",
    "PREFIX_SIZE",
    "VERSIONS",
    "Claim",
    "Splitter",
    "certificate_hash",
    "is_hex_32",
    "pack",
    "parse",
    "proofs_of",
    "refusal",
    "transcript_of",
]

LIMIT = 4096
VERSIONS = (1,)

NO_CERTIFICATE = hashlib.sha256(b"no certificate").digest()
ID_LENGTH = 128

PREFIX_SIZE = 4

_PREFIX = struct.Struct(">I")
_LENGTH = struct.Struct(">Q")
_HEX_32 = re.compile(r"[0-9a-f]{64}")


def pack(message: Mapping[str, object]) -> bytes:
    """Return `message` as a frame.

    Raises:
        HandshakeError: It is above the limit.
    """
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > LIMIT:
        raise HandshakeError(f"a handshake message has at most {LIMIT} bytes, not {len(data)}")
    return _PREFIX.pack(len(data)) + data


def refusal(word: str, text: str, **data: object) -> HandshakeError:
    """Return the error that tells the peer `word` (and `data`), and our own log `text`."""
    return HandshakeError(text, pack({"ok": False, "error": word, **data}))


class Splitter:
    """Cuts a stream into so many frames; what follows them is in `rest`.

    It never holds more than one frame and what came with it, and looks at a length before anything is kept for it.
    """

    __slots__ = ("_buffer", "_wanted")

    def __init__(self, wanted: int = 1) -> None:
        self._wanted = wanted
        self._buffer = bytearray()

    @property
    def rest(self) -> bytes:
        """The bytes after the last frame that was wanted; none before that is there."""
        return b"" if self._wanted else bytes(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take what arrived and return the frames that it completes, without their lengths.

        Raises:
            HandshakeError: A length of 0 or above the limit.
        """
        self._buffer += data
        frames = []
        while self._wanted and len(self._buffer) >= PREFIX_SIZE:
            (length,) = _PREFIX.unpack_from(self._buffer)
            if not 0 < length <= LIMIT:
                raise HandshakeError(f"a handshake message of {length} bytes (1 to {LIMIT} are allowed)")
            end = PREFIX_SIZE + length
            if len(self._buffer) < end:
                break
            frames.append(bytes(self._buffer[PREFIX_SIZE:end]))
            del self._buffer[:end]
            self._wanted -= 1
        return frames


@dataclass(frozen=True, slots=True)
class Claim:
    """AUTH, its types checked and nothing of it believed."""

    id: str
    caveats: tuple[str, ...]
    proof: str
    body: str

    @classmethod
    def parse(cls, data: bytes) -> Claim:
        """Return the claim in `data`.

        Raises:
            ValueError: It is not one.
        """
        plain = parse(data)
        match plain:
            case {"id": str(id_), "caveats": [*caveats], "proof": str(proof), "body": str(body)}:
                pass
            case _:
                raise ValueError("not an AUTH message")
        if len(id_) > ID_LENGTH or len(caveats) > CAVEATS_MAX or not is_hex_32(proof):
            raise ValueError("not an AUTH message: a field is too long, or the proof is none")
        if not all(isinstance(caveat, str) and len(caveat) <= CAVEAT_LENGTH for caveat in caveats):
            raise ValueError("not an AUTH message: a caveat is no text, or too long")
        # A lone surrogate can stand in JSON and not in UTF-8: fail here, not in the middle of the proof.
        "".join([id_, *caveats, body]).encode()
        return cls(id_, tuple(caveats), proof, body)

    def proofs(self, key: Secret, hello: bytes, fingerprint: bytes) -> tuple[str, str]:
        """Return the client's and the server's proof that belong to this claim, under the key it was issued with."""
        transcript = transcript_of(hello, self.id, self.caveats, self.body, fingerprint)
        return proofs_of(fold(key.reveal(), self.caveats), transcript)


def parse(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`, which must be UTF-8.

    Raises:
        ValueError: It is something else.
        RecursionError: It is nested too deeply.
    """
    # json.loads would guess UTF-16 and UTF-32 from bytes, and take NaN for a number.
    plain = json.loads(data.decode(), parse_constant=_no_constant)
    if type(plain) is not dict:
        raise ValueError("not a JSON object")
    return plain


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def certificate_hash(fingerprint: bytes) -> bytes:
    """Return what stands for the certificate in the transcript: its fingerprint, or that there is none (b"").

    Raises:
        ValueError: It is neither.
    """
    if len(fingerprint) not in (0, 32):
        raise ValueError("a fingerprint has 32 bytes")
    return fingerprint or NO_CERTIFICATE


def _joined(parts: Iterable[bytes]) -> bytes:
    """Return `parts`, each with its length before it: no two lists give the same bytes."""
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def transcript_of(hello: bytes, id_: str, caveats: Iterable[str], body: str, fingerprint: bytes) -> bytes:
    """Return the SHA-256 that both proofs are about.

    Raises:
        UnicodeEncodeError: A text holds a lone surrogate.
    """
    folded = _joined(caveat.encode() for caveat in caveats)
    return hashlib.sha256(_joined([hello, id_.encode(), folded, body.encode(), fingerprint])).digest()


def proofs_of(key: bytes, transcript: bytes) -> tuple[str, str]:
    """Return the client's proof and the server's."""
    client = hmac.digest(key, b"client\0" + transcript, "sha256").hex()
    return client, hmac.digest(key, b"server\0" + transcript, "sha256").hex()


def is_hex_32(text: str) -> bool:
    """Tell whether `text` is 32 bytes in lower-case hexadecimal digits."""
    return _HEX_32.fullmatch(text) is not None
