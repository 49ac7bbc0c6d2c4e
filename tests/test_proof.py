"""The handshake's messages: cut apart, parsed strictly, proven over an unambiguous transcript."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from typing import Any

import pytest

from aioparallel.errors import HandshakeError
from aioparallel.proof import (
    LIMIT,
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

FRAMES = [b'{"a":1}', b"x", b"y" * LIMIT]
STREAM = b"".join(struct.pack(">I", len(frame)) + frame for frame in FRAMES)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 64, 4095, 4096, len(STREAM) + 9])
def test_splitter_cuts_the_same_however_it_arrives(step: int) -> None:
    splitter, frames = Splitter(3), []
    for start in range(0, len(STREAM) + 9, step):
        frames += splitter.feed((STREAM + b"behind it")[start : start + step])
    assert frames == FRAMES
    assert splitter.rest == b"behind it"


def test_splitter_keeps_the_rest_to_itself_until_the_last_frame() -> None:
    splitter = Splitter(2)
    assert splitter.feed(STREAM[:-1]) == FRAMES[:2]
    assert splitter.rest == STREAM[len(STREAM) - 4 - LIMIT : -1]
    assert Splitter().rest == b""
    half = Splitter()
    assert half.feed(memoryview(STREAM)[:5]) == []
    assert half.rest == b""


@pytest.mark.parametrize("length", [0, LIMIT + 1, 2**31, 2**32 - 1])
def test_splitter_refuses_a_length_as_soon_as_it_is_there(length: int) -> None:
    splitter = Splitter()
    prefix = struct.pack(">I", length)
    assert splitter.feed(prefix[:3]) == []
    with pytest.raises(HandshakeError, match=str(length)) as caught:
        splitter.feed(prefix[3:])
    assert caught.value.reply == b""


def test_pack_and_refusal() -> None:
    assert pack({"a": "é"}) == b'\0\0\0\x0e{"a":"\\u00e9"}'
    with pytest.raises(HandshakeError, match="at most 4096"):
        pack({"a": "x" * LIMIT})
    error = refusal("busy", "for our log", v=[1])
    assert str(error) == "for our log"
    assert error.reply[4:] == b'{"ok":false,"error":"busy","v":[1]}'


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"1", b'"x"', b"null", b"{", b"{} {}", b"[" * LIMIT, b'{"a":' * 800, b"9" * LIMIT),
        *(b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b"\xef\xbb\xbf{}"),
        *('{"a":1}'.encode("utf-16"), '{"a":1}'.encode("utf-32"), b"\x80\x04\x95cos\nsystem\n."),
    ],
)
def test_parse_is_strict(data: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parse(data)


AUTH: dict[str, Any] = {"id": "id", "caveats": ["ops=a"], "proof": "0" * 64, "body": "{}", "more": 1}


def test_claim_ignores_unknown_keys() -> None:
    assert Claim.parse(json.dumps(AUTH).encode()) == Claim("id", ("ops=a",), "0" * 64, "{}")


@pytest.mark.parametrize("field", ["id", "caveats", "proof", "body"])
@pytest.mark.parametrize("value", [None, 1, True, 1.5, {"a": 1}, [1], [None], "\ud800", ["\ud800"], "é" * 200, [["a"]]])
def test_claim_refuses_wrong_types(field: str, value: object) -> None:
    if field == "body" and value == "é" * 200:
        return  # that is a text; whether it is JSON is asked when the proof is right
    with pytest.raises(ValueError, match=r"AUTH|surrogates"):
        Claim.parse(json.dumps({**AUTH, field: value}).encode())


def test_claim_refuses_what_is_missing_or_too_much() -> None:
    for field in ("id", "caveats", "proof", "body"):
        with pytest.raises(ValueError, match="AUTH"):
            Claim.parse(json.dumps({name: AUTH[name] for name in AUTH if name != field}).encode())
    too_much = {"id": "x" * 129, "caveats": ["a"] * 9, "proof": "0" * 65}
    for field, value in [*too_much.items(), ("caveats", ["a" * 129]), ("proof", "F" * 64)]:
        with pytest.raises(ValueError, match="AUTH"):
            Claim.parse(json.dumps({**AUTH, field: value}).encode())


def test_transcript_is_the_documented_hash_and_injective() -> None:
    def part(data: bytes) -> bytes:
        return len(data).to_bytes(8, "big") + data

    caveats = part(b"a") + part(b"bc")
    whole = part(b"hello") + part(b"id") + part(caveats) + part(b"body") + part(b"f" * 32)
    assert transcript_of(b"hello", "id", ["a", "bc"], "body", b"f" * 32) == hashlib.sha256(whole).digest()
    moved = [
        transcript_of(b"hello", "id", ["ab", "c"], "body", b"f" * 32),
        transcript_of(b"helloi", "d", ["a", "bc"], "body", b"f" * 32),
        transcript_of(b"hello", "id", ["abc"], "body", b"f" * 32),
        transcript_of(b"hello", "id", ["a", "bcb"], "ody", b"f" * 32),
        transcript_of(b"hello", "id", [], "body", b"f" * 32),
    ]
    assert len({*moved, hashlib.sha256(whole).digest()}) == 6


def test_the_two_proofs_are_labelled() -> None:
    client, server = proofs_of(b"k" * 32, b"t" * 32)
    assert client == hmac.new(b"k" * 32, b"client\0" + b"t" * 32, hashlib.sha256).hexdigest()
    assert server == hmac.new(b"k" * 32, b"server\0" + b"t" * 32, hashlib.sha256).hexdigest()
    assert client != server
    assert is_hex_32(client)


def test_no_certificate_has_a_hash_of_its_own() -> None:
    assert certificate_hash(b"") == hashlib.sha256(b"no certificate").digest()
    assert certificate_hash(b"f" * 32) == b"f" * 32
    with pytest.raises(ValueError, match="32"):
        certificate_hash(b"f" * 31)
