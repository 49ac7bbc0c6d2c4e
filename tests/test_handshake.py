"""Who holds the key is let in; nobody else is, whatever they send, and no liar is sent a thing."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from aioparallel.authority import Authority
from aioparallel.capability import Capability, Grant, Secret, fold
from aioparallel.errors import AccessDenied, HandshakeError, VersionMismatch
from aioparallel.handshake import ClientHandshake, ServerHandshake, pack, refusal
from aioparallel.proof import Claim, proofs_of, transcript_of
from aioparallel.source import Source

_counter = itertools.count(1)
SOURCE = Source(lambda n: next(_counter).to_bytes(n, "big"), lambda: 1_000_000.0)
NOW = 1_000_000.0
CERTIFICATE = b"\xaa" * 32
OTHER_CERTIFICATE = b"\xbb" * 32


class Place:
    """A controller with one capability, and how to make the two ends of a handshake with it."""

    def __init__(self, controller: str = "c0ffee", fingerprint: bytes = CERTIFICATE) -> None:
        self.authority = Authority(controller)
        self.fingerprint = fingerprint
        id_, key = self.authority.issue("task", SOURCE)
        self.welcomed: list[tuple[Grant, dict[str, Any]]] = []
        self.capability = Capability(
            id=id_,
            interface="task",
            controller=controller,
            cluster="default",
            addresses=(),
            server_name="",
            pins=(fingerprint.hex(),),
            certificates=(),
            key=key,
            caveats=(),
            issued=NOW,
            serial=1,
            note="",
        )

    def welcome(self, grant: Grant, body: dict[str, Any]) -> dict[str, object]:
        self.welcomed.append((grant, body))
        return {"session": "s1", "epoch": 7, "ok": "mine", "proof": "mine"}

    def server(self, **changes: Any) -> ServerHandshake:
        arguments: dict[str, Any] = {
            "controller_id": self.authority.controller_id,
            "interfaces": {"task"},
            "fingerprint": self.fingerprint,
            "nonce": SOURCE.token(32),
            "now": NOW,
            "welcome": self.welcome,
        }
        return ServerHandshake(self.authority.lookup, **{**arguments, **changes})

    def client(
        self, capability: Capability | None = None, *, fingerprint: bytes = CERTIFICATE, **body: object
    ) -> ClientHandshake:
        whole = {"nonce": SOURCE.token(16).hex(), "role": "client", "python": "3.11.7", **body}
        return ClientHandshake(capability or self.capability, fingerprint=fingerprint, body=whole)


@pytest.fixture
def place() -> Place:
    return Place()


def auth_of(client: ClientHandshake, server: ServerHandshake) -> dict[str, Any]:
    """Return AUTH, taken apart."""
    plain: dict[str, Any] = json.loads(client.receive(server.hello())[4:])
    return plain


def refused(place: Place, server: ServerHandshake, data: bytes, word: str | None = "denied") -> HandshakeError:
    """Feed `data`, and see that nobody is let in and only `word` is answered."""
    before = len(place.welcomed)
    with pytest.raises(HandshakeError) as caught:
        server.receive(data)
    assert not server.done
    assert server.body == {}
    assert len(place.welcomed) == before
    reply = caught.value.reply
    if word is None:
        assert reply == b""
    else:
        (length,) = struct.unpack(">I", reply[:4])
        assert length == len(reply) - 4
        plain = json.loads(reply[4:])
        assert (plain["ok"], plain["error"]) == (False, word)
        assert set(plain) <= {"ok", "error", "v"}
    with pytest.raises(HandshakeError):
        server.receive(b"")
    return caught.value


# How it should go


@pytest.mark.parametrize("fingerprint", [CERTIFICATE, b""])
@pytest.mark.parametrize("step", [1, 2, 3, 7, 5000])
def test_holder_of_the_key_is_let_in_however_the_bytes_arrive(fingerprint: bytes, step: int) -> None:
    place = Place(fingerprint=fingerprint)
    server, client = place.server(), place.client(fingerprint=fingerprint)

    def fed(end: ServerHandshake | ClientHandshake, data: bytes) -> bytes:
        return b"".join(end.receive(data[start : start + step]) for start in range(0, len(data), step))

    auth = fed(client, server.hello())
    assert not client.done
    welcome = fed(server, auth)
    assert server.done
    assert fed(client, welcome) == b""
    assert client.done
    assert server.grant == Grant("task", place.capability.id)
    assert {name: server.body[name] for name in ("version", "interface", "role", "python")} == {
        "version": 1,
        "interface": "task",
        "role": "client",
        "python": "3.11.7",
    }
    # What welcome() says can't stand in for what the machine says.
    assert client.welcome["ok"] is True
    assert (client.welcome["session"], client.welcome["epoch"]) == ("s1", 7)
    assert client.rest == server.rest == b""


def test_split_at_every_byte(place: Place) -> None:
    server, client = place.server(), place.client()
    auth = client.receive(server.hello())
    welcome = server.receive(auth)
    client.receive(welcome)
    for cut in range(1, len(auth)):
        server = place.server()
        client = place.client()
        auth = client.receive(server.hello())
        assert server.receive(auth[:cut]) == b""
        assert not server.done
        client.receive(server.receive(auth[cut:]))
        assert client.done


def test_what_follows_welcome_belongs_to_the_session(place: Place) -> None:
    server, client = place.server(), place.client()
    welcome = server.receive(client.receive(server.hello()))
    client.receive(welcome + b"first frame")
    assert client.rest == b"first frame"


def test_hello_says_who_we_are(place: Place) -> None:
    hello = json.loads(place.server(nonce=b"\x01" * 32).hello()[4:])
    assert hello == {"v": [1], "nonce": "01" * 32, "controller": "c0ffee", "now": NOW}


def test_the_key_is_never_sent_or_shown(place: Place) -> None:
    key = place.capability.key.hex()
    server, client = place.server(), place.client()
    auth = client.receive(server.hello())
    sent = server.hello() + auth + server.receive(auth)
    for text in (sent.decode("latin-1"), repr(server), repr(client), repr(place.authority)):
        assert key not in text


def test_machines_say_what_state_they_are_in(place: Place) -> None:
    server, client = place.server(), place.client()
    assert "waiting" in repr(server)
    assert "waiting" in repr(client)
    for unready in (lambda: server.grant, lambda: client.welcome):
        with pytest.raises(HandshakeError):
            unready()
    refused(place, server, pack({}))
    assert "refused" in repr(server)


# Attacks on the controller


def test_wrong_key(place: Place) -> None:
    server = place.server()
    liar = dataclasses.replace(place.capability, key=Secret(b"0" * 32))
    refused(place, server, place.client(liar).receive(server.hello()))


def test_unknown_id_costs_the_same_work_and_gets_the_same_answer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    replies: list[bytes] = []
    work: list[int] = []
    real = Claim.proofs

    def counted(claim: Any, key: Secret, *rest: bytes) -> tuple[str, str]:
        work[-1] += 1
        return real(claim, key, *rest)

    monkeypatch.setattr(Claim, "proofs", counted)
    for change in ({"id": "ff" * 8}, {"key": Secret(b"0" * 32)}, {"id": "ff" * 8, "key": Secret(bytes(32))}):
        work.append(0)
        server = place.server()
        liar = dataclasses.replace(place.capability, **change)
        replies.append(refused(place, server, place.client(liar).receive(server.hello())).reply)
    assert len(set(replies)) == 1
    assert work == [1, 1, 1]


def test_replay(place: Place) -> None:
    first = place.server()
    auth = place.client().receive(first.hello())
    assert first.receive(auth)
    refused(place, place.server(), auth)
    # Nor to another controller that happens to know the same key.
    refused(place, place.server(controller_id="beef"), auth)


def test_relay_to_another_certificate(place: Place) -> None:
    # A client that (by a bug, or pinning both) accepts a relay's certificate proves something about that one.
    pinned = dataclasses.replace(place.capability, pins=(CERTIFICATE.hex(), OTHER_CERTIFICATE.hex()))
    for seen, ours in [(OTHER_CERTIFICATE, CERTIFICATE), (b"", CERTIFICATE), (CERTIFICATE, b"")]:
        server = place.server(fingerprint=ours)
        refused(place, server, place.client(pinned, fingerprint=seen).receive(server.hello()))


def test_every_byte_of_auth_flipped(place: Place) -> None:
    server, client = place.server(nonce=b"\1" * 32), place.client()
    auth = client.receive(server.hello())
    for position, bit in itertools.product(range(len(auth)), (0x01, 0x20, 0x80)):
        server = place.server(nonce=b"\1" * 32)
        changed = bytearray(auth)
        changed[position] ^= bit
        try:
            reply = server.receive(bytes(changed))
        except HandshakeError:
            reply = b""
        assert reply == b"", (position, bit, changed[4:])
        assert not server.done
    assert len(place.welcomed) == 0


def test_every_byte_of_hello_flipped(place: Place) -> None:
    hello = place.server(nonce=b"\1" * 32).hello()
    for position, bit in itertools.product(range(len(hello)), (0x01, 0x20, 0x80)):
        server, client = place.server(nonce=b"\1" * 32), place.client()
        changed = bytearray(hello)
        changed[position] ^= bit
        try:
            auth = client.receive(bytes(changed))
        except (HandshakeError, AccessDenied, VersionMismatch):
            continue
        if auth:
            refused(place, server, auth)
    assert place.welcomed == []


@pytest.mark.parametrize(
    "data",
    [
        *(b"\x80\x04\x95cos\nsystem\n.", b"[" * 4096, b'{"id":' * 600, b"{}", b"null", b"\xff" * 100, b"\0"),
        *(b"GET / HTTP/1.0\r\n\r\n", '{"id":"x"}'.encode("utf-16")),
    ],
)
def test_garbage_in_a_frame(place: Place, data: bytes) -> None:
    error = refused(place, place.server(), struct.pack(">I", len(data)) + data)
    # Nothing of the peer's is in our log.
    assert "HTTP" not in str(error)
    assert len(str(error)) < 80


@pytest.mark.parametrize("length", [0, 4097, 2**31, 2**32 - 1])
def test_bad_length_is_refused_without_an_answer(place: Place, length: int) -> None:
    refused(place, place.server(), struct.pack(">I", length), word=None)


def test_http_and_tls_peers(place: Place) -> None:
    for data in (b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"):
        refused(place, place.server(), data, word=None)


def test_half_a_frame_and_silence_reach_nobody(place: Place) -> None:
    server = place.server()
    for byte in struct.pack(">I", 4000) + b"x" * 3999:
        assert server.receive(bytes([byte])) == b""
    assert not server.done
    assert place.welcomed == []


@pytest.mark.parametrize("field", ["id", "caveats", "proof", "body"])
@pytest.mark.parametrize("value", [None, 7, True, {"a": 1}, [1], "\ud800", "é\ud800", ["\ud800"], "é" * 64, [["a"]]])
def test_fields_of_wrong_types(place: Place, field: str, value: object) -> None:
    server, client = place.server(), place.client()
    auth = auth_of(client, server)
    refused(place, server, pack({**auth, field: value}))


def test_body_is_read_only_after_the_proof(place: Place) -> None:
    server, client = place.server(), place.client()
    refused(place, server, pack({**auth_of(client, server), "body": "[" * 3000}))


@pytest.mark.parametrize("body", ["[" * 3000, "[]", "", "nonsense", '{"version":NaN}'])
def test_body_that_is_none_from_a_holder_of_the_key(place: Place, body: str) -> None:
    server = place.server()
    capability = place.capability
    transcript = transcript_of(server.hello()[4:], capability.id, [], body, CERTIFICATE)
    proof, _ = proofs_of(capability.key.reveal(), transcript)
    refused(place, server, pack({"id": capability.id, "caveats": [], "proof": proof, "body": body}))


@pytest.mark.parametrize("version", [0, 2, True, "1", None, 1.0])
def test_version_is_named(place: Place, version: object) -> None:
    server = place.server()
    capability = place.capability
    body = json.dumps({"version": version, "interface": "task"})
    transcript = transcript_of(server.hello()[4:], capability.id, [], body, CERTIFICATE)
    proof, _ = proofs_of(capability.key.reveal(), transcript)
    auth = pack({"id": capability.id, "caveats": [], "proof": proof, "body": body})
    reply = refused(place, server, auth, "version").reply
    client = place.client()
    client.receive(place.server().hello())
    with pytest.raises(VersionMismatch, match=r"the controller speaks version 1 .* we speak 1"):
        client.receive(reply)


def test_bytes_behind_auth(place: Place) -> None:
    for more in (b"x", struct.pack(">I", 2**31), b"\0" * 4, b"x" * 5000):
        server = place.server()
        refused(place, server, place.client().receive(server.hello()) + more)


def test_bytes_after_the_end(place: Place) -> None:
    server, client = place.server(), place.client()
    client.receive(server.receive(client.receive(server.hello())))
    for end in (server, client):
        with pytest.raises(HandshakeError, match="after the end"):
            end.receive(b"x")
        assert end.done


# Restrictions


def test_narrowed_capability_gets_less(place: Place) -> None:
    server = place.server()
    client = place.client(place.capability.narrow("ops=status", f"exp={NOW + 60:.0f}", "engines=3-4"))
    client.receive(server.receive(client.receive(server.hello())))
    assert client.done
    assert server.grant == Grant("task", place.capability.id, frozenset(["status"]), frozenset([3, 4]), NOW + 60)


@pytest.mark.parametrize(
    "caveats", [(), ("ops=submit",), ("ops=status,submit",), ("ops=status", "ops=submit"), ("exp=1", "ops=status")]
)
def test_a_narrowed_key_without_its_own_caveats(place: Place, caveats: tuple[str, ...]) -> None:
    child = place.capability.narrow("ops=status")
    server = place.server()
    refused(place, server, place.client(dataclasses.replace(child, caveats=caveats)).receive(server.hello()))


def test_caveats_in_another_order(place: Place) -> None:
    child = place.capability.narrow("ops=status", "engines=1")
    server = place.server()
    turned = dataclasses.replace(child, caveats=child.caveats[::-1])
    refused(place, server, place.client(turned).receive(server.hello()))


def test_a_second_caveat_cannot_widen(place: Place) -> None:
    child = place.capability.narrow("ops=status").narrow("ops=status,submit")
    server, client = place.server(), place.client(child)
    client.receive(server.receive(client.receive(server.hello())))
    assert server.grant.ops == frozenset(["status"])


def with_caveat(capability: Capability, caveat: str) -> Capability:
    """Return it narrowed by what `narrow` would refuse."""
    key = Secret(fold(capability.key.reveal(), [caveat]))
    return dataclasses.replace(capability, key=key, caveats=(caveat,))


@pytest.mark.parametrize(
    ("caveat", "word", "sentence"),
    [
        ("exp=1000", "expired", "expired"),
        ("exp=1000000", "expired", "expired"),
        ("exp=nan", "caveat", "restriction"),
        ("moon=full", "caveat", "restriction"),
        ("", "caveat", "restriction"),
    ],
)
def test_void_and_unknown_caveats(place: Place, caveat: str, word: str, sentence: str) -> None:
    server, client = place.server(), place.client(with_caveat(place.capability, caveat))
    reply = refused(place, server, client.receive(server.hello()), word).reply
    with pytest.raises(AccessDenied, match=sentence):
        client.receive(reply)


def test_nothing_but_denied_before_the_proof_is_right(place: Place) -> None:
    place.authority.revoke(place.capability.id)
    for capability in (place.capability, with_caveat(place.capability, "exp=1000")):
        server = place.server(interfaces=())
        liar = dataclasses.replace(capability, key=Secret(b"0" * 32))
        refused(place, server, place.client(liar).receive(server.hello()))


def test_revoked(place: Place) -> None:
    place.authority.revoke(place.capability.id)
    for capability in (place.capability, place.capability.narrow("ops=a")):
        server, client = place.server(), place.client(capability)
        reply = refused(place, server, client.receive(server.hello()), "revoked").reply
        with pytest.raises(AccessDenied, match="revoked"):
            client.receive(reply)


def test_interface_that_is_not_hosted_or_not_the_capability_s(place: Place) -> None:
    server = place.server(interfaces={"monitor"})
    refused(place, server, place.client().receive(server.hello()), "interface")
    server = place.server(interfaces={"task", "admin"})
    other = dataclasses.replace(place.capability, interface="admin")
    refused(place, server, place.client(other).receive(server.hello()), "interface")


def test_welcome_may_refuse_in_a_word(place: Place) -> None:
    def busy(grant: Grant, body: dict[str, Any]) -> Mapping[str, object]:
        raise refusal("busy", "no session left")

    server, client = place.server(welcome=busy), place.client()
    reply = refused(place, server, client.receive(server.hello()), "busy").reply
    with pytest.raises(AccessDenied, match="too busy"):
        client.receive(reply)


def test_welcome_that_is_too_large_lets_nobody_in(place: Place) -> None:
    server = place.server(welcome=lambda grant, body: {"ops": ["x" * 10] * 1000})
    with pytest.raises(HandshakeError, match="at most 4096"):
        server.receive(place.client().receive(server.hello()))
    assert not server.done


# Attacks on the client


def test_wrong_certificate_is_sent_nothing(place: Place) -> None:
    with pytest.raises(AccessDenied, match="another controller"):
        place.client(fingerprint=OTHER_CERTIFICATE)


def test_another_controller_is_sent_nothing(place: Place) -> None:
    client = place.client()
    with pytest.raises(AccessDenied, match="another controller answers"):
        client.receive(Place("beef").server().hello())
    with pytest.raises(HandshakeError):
        client.receive(place.server().hello())


def test_reflection(place: Place) -> None:
    # The liar doesn't know the key, and sends the client's own proof back as its.
    server, client = place.server(), place.client()
    proof = auth_of(client, server)["proof"]
    with pytest.raises(AccessDenied, match="could not prove"):
        client.receive(pack({"ok": True, "proof": proof}))
    assert not client.done


def test_parallel_sessions_do_not_lend_each_other_proofs(place: Place) -> None:
    one, two = place.client(), place.client()
    server_one, server_two = place.server(), place.server()
    auth_one, auth_two = one.receive(server_one.hello()), two.receive(server_two.hello())
    welcome_two = server_two.receive(auth_two)
    refused(place, server_one, auth_two)
    assert auth_one
    with pytest.raises(AccessDenied, match="could not prove"):
        one.receive(welcome_two)


@pytest.mark.parametrize("proof", [None, 5, "", "0" * 64, "é" * 64, "\ud800", ["0" * 64], "0" * 63])
def test_controller_without_the_proof(place: Place, proof: object) -> None:
    client = place.client()
    client.receive(place.server().hello())
    with pytest.raises(AccessDenied, match="prove"):
        client.receive(pack({"ok": True, "proof": proof}))
    assert not client.done
    assert client.rest == b""


def test_welcome_and_hello_at_once(place: Place) -> None:
    client = place.client()
    with pytest.raises(AccessDenied):
        client.receive(place.server().hello() + pack({"ok": True, "proof": "0" * 64}))


def test_every_digit_of_the_server_s_proof(place: Place) -> None:
    for position in range(64):
        server, client = place.server(), place.client()
        welcome = json.loads(server.receive(client.receive(server.hello()))[4:])
        proof = welcome["proof"]
        digit = "0" if proof[position] != "0" else "1"
        with pytest.raises(AccessDenied):
            client.receive(pack({**welcome, "proof": proof[:position] + digit + proof[position + 1 :]}))


@pytest.mark.parametrize("ok", [1, "true", None, [True]])
def test_ok_is_true_or_it_is_denied(place: Place, ok: object) -> None:
    server, client = place.server(), place.client()
    welcome = json.loads(server.receive(client.receive(server.hello()))[4:])
    with pytest.raises(AccessDenied):
        client.receive(pack({**welcome, "ok": ok}))


def hello_with(**changes: object) -> bytes:
    return pack({"v": [1], "nonce": "00" * 32, "controller": "c0ffee", "now": NOW, **changes})


@pytest.mark.parametrize(
    "changes",
    [{"v": 1}, {"v": None}, {"nonce": "00" * 31}, {"nonce": 5}, {"nonce": "É" * 64}, {"controller": ["c0ffee"]}],
)
def test_hello_of_wrong_types(place: Place, changes: dict[str, object]) -> None:
    with pytest.raises(HandshakeError, match="not a controller"):
        place.client().receive(hello_with(**changes))


@pytest.mark.parametrize("versions", [[], [2, 3], [True], ["1"], [1.0], [None]])
def test_hello_of_another_version(place: Place, versions: list[object]) -> None:
    named = ", ".join(str(v) for v in versions if type(v) is int) or r"\?"
    with pytest.raises(VersionMismatch, match=f"speaks version {named} .* we speak 1"):
        place.client().receive(hello_with(v=versions))


@pytest.mark.parametrize(
    "data", [b"\0\0\0\0", b"\x7f\xff\xff\xff", b"HTTP/1.1 400", pack({})[:4] + b"[]", b"\0\0\x10\x01"]
)
def test_what_is_no_controller(place: Place, data: bytes) -> None:
    client = place.client()
    with pytest.raises(HandshakeError):
        client.receive(data)


def test_denied_at_once_and_in_unknown_words(place: Place) -> None:
    for error in ("denied", "gone fishing\x1b[31m", 5, None, ["denied"], {"a": 1}):
        with pytest.raises(AccessDenied, match="refused the capability") as caught:
            place.client().receive(pack({"ok": False, "error": error}))
        assert "fishing" not in str(caught.value)


def test_nonces_are_demanded(place: Place) -> None:
    for nonce in ("", "00" * 15, "zz" * 16, 5):
        with pytest.raises(ValueError, match="nonce"):
            place.client(nonce=nonce)
    with pytest.raises(ValueError, match="nonce"):
        ClientHandshake(place.capability, fingerprint=b"", body={})
    with pytest.raises(ValueError, match="nonce"):
        place.server(nonce=b"short")
    with pytest.raises(ValueError, match="fingerprint"):
        place.server(fingerprint=b"short")


# Anything at all


def test_random_changes_raise_handshake_errors_and_nothing_else(place: Place) -> None:
    dice = random.Random(2)
    for _ in range(1500):
        server, client = place.server(), place.client()
        auth = bytearray(client.receive(server.hello()))
        for _ in range(dice.randint(1, 6)):
            at = dice.randrange(4, len(auth))
            piece = dice.choice([b"", b"\0", b'"', b"[", b"{", b"\\u", b"\xff", dice.randbytes(3), b"9" * 20])
            auth[at : at + dice.randint(0, 3)] = piece
        auth[:4] = struct.pack(">I", len(auth) - 4)
        try:
            server.receive(bytes(auth))
        except HandshakeError:
            continue
        # Let in only with a claim that means the same: white space or an unknown key at most.
        body = json.loads(json.loads(auth[4:])["body"])
        assert (body["nonce"], server.grant.ops) == (client._body["nonce"], None)
