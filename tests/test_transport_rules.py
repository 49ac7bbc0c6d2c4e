"""The conformance kit of transports: the built-ins pass, and each of many broken ones is found out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from runners import RUNNERS, Run

from aioparallel.errors import AccessDenied
from aioparallel.testing import CheckFailed, check_transport, transport_rules
from aioparallel.testing.rules import words
from aioparallel.transports import Gate, Listener, Peer, Slot, Transport, memory
from aioparallel.transports.memory import MemoryTransport
from aioparallel.transports.tls import TlsTransport, _host_and_port

HANGS = "nothing more happened"


@RUNNERS
@pytest.mark.parametrize(("scheme", "number"), [("unix", 15), ("tls", 18), ("memory", 15)])
def test_the_built_ins_pass(run: Run, scheme: str, number: int, directory: Path) -> None:
    address = {"unix": f"unix://{directory}/s", "tls": "tls://127.0.0.1:0", "memory": "memory://kit"}[scheme]

    async def main() -> None:
        rules = await check_transport(address)
        assert len(rules) == number
        assert all(rule.endswith(".") for rule in rules)

    run(main())


class Changed(MemoryTransport):
    """Changes what protocols are told."""

    def near(self, protocol: Any) -> Any:
        return protocol

    def far(self, protocol: Any) -> Any:
        return protocol

    async def connect(self, address: str, protocol_factory: Any, *, peer: Peer) -> tuple[asyncio.Transport, Any]:
        return await super().connect(address, lambda: self.near(protocol_factory()), peer=peer)

    async def listen(self, address: str, protocol_factory: Any, *, gate: Gate, identity: Any) -> Listener:
        return await super().listen(
            address, lambda slot: self.far(protocol_factory(slot)), gate=gate, identity=identity
        )


class SaysAnotherAddress(MemoryTransport):
    async def listen(self, *arguments: Any, **options: Any) -> Listener:
        listener = await super().listen(*arguments, **options)
        listener.address += "-next-door"
        return listener


class SaysAnotherScheme(MemoryTransport):
    async def listen(self, *arguments: Any, **options: Any) -> Listener:
        listener = await super().listen(*arguments, **options)
        listener.address = "tls://127.0.0.1:10105"
        return listener


class NeverSaysTheEnd(Changed):
    def far(self, protocol: Any) -> Any:
        protocol.connection_lost = lambda exc: protocol.prove()
        return protocol


class SaysTheEndTwice(Changed):
    def near(self, protocol: Any) -> Any:
        lost = protocol.connection_lost
        protocol.connection_lost = lambda exc: (lost(exc), lost(exc))
        return protocol


class SaysTheBeginningTwice(Changed):
    def near(self, protocol: Any) -> Any:
        made = protocol.connection_made
        protocol.connection_made = lambda transport: (made(transport), made(transport))
        return protocol


class ReturnsAnotherProtocol(Changed):
    async def connect(self, *arguments: Any, **options: Any) -> tuple[asyncio.Transport, Any]:
        transport, _ = await super().connect(*arguments, **options)
        return transport, asyncio.Protocol()


class PassesTheGateBy(MemoryTransport):
    async def listen(self, address: str, protocol_factory: Any, *, gate: Gate, identity: Any) -> Listener:
        return await super().listen(address, protocol_factory, gate=Gate(), identity=identity)


class CanNotBeSentAway(MemoryTransport):
    async def listen(self, address: str, protocol_factory: Any, *, gate: Gate, identity: Any) -> Listener:
        def arrival(slot: Slot) -> asyncio.BaseProtocol:
            slot.evict = lambda: None
            made: asyncio.BaseProtocol = protocol_factory(slot)
            return made

        return await super().listen(address, arrival, gate=gate, identity=identity)


class FindsNobodyInItsOwnWords(MemoryTransport):
    async def connect(self, *arguments: Any, **options: Any) -> tuple[asyncio.Transport, Any]:
        try:
            return await super().connect(*arguments, **options)
        except ConnectionRefusedError:
            raise LookupError("nobody") from None


class Hangs(MemoryTransport):
    async def connect(self, address: str, *arguments: Any, **options: Any) -> tuple[asyncio.Transport, Any]:
        try:
            return await super().connect(address, *arguments, **options)
        except ConnectionRefusedError:
            await asyncio.get_running_loop().create_future()
            raise


class ForgetsATask(MemoryTransport):
    async def connect(self, *arguments: Any, **options: Any) -> tuple[asyncio.Transport, Any]:
        self.kept = asyncio.create_task(asyncio.sleep(0.2), name="pump")
        return await super().connect(*arguments, **options)


class KeepsItsAddress(MemoryTransport):
    async def listen(self, *arguments: Any, **options: Any) -> Listener:
        listener: Any = await super().listen(*arguments, **options)

        async def aclose() -> None:
            """Stop nothing."""

        listener.aclose = aclose
        made: Listener = listener
        return made


class TakesAnything(MemoryTransport):
    async def listen(self, address: str, *arguments: Any, **options: Any) -> Listener:
        return await super().listen("memory://anything" if address == "memory://" else address, *arguments, **options)


class ShowsAFingerprint(MemoryTransport):
    def vet(self, transport: asyncio.BaseTransport, peer: Peer | None) -> bytes:
        return b"f" * 32


class GivesUpSloppily(MemoryTransport):
    async def connect(self, *arguments: Any, **options: Any) -> tuple[asyncio.Transport, Any]:
        made = await super().connect(*arguments, **options)
        for _ in range(3):
            await asyncio.sleep(0)
        return made


@pytest.mark.parametrize(
    ("kind", "rule", "seen"),
    [
        (
            SaysAnotherAddress,
            "who dials that arrives",
            "it listens on 'memory://kit' and says 'memory://kit-next-door'",
        ),
        (SaysAnotherScheme, "begins with its scheme", "the listener's address is 'tls://127.0.0.1:10105'"),
        (NeverSaysTheEnd, "who dials that arrives", "nothing more happened within 0.5 s (in listening, line"),
        (SaysTheEndTwice, "who dials that arrives", "connection_lost was called twice"),
        (SaysTheBeginningTwice, "who dials that arrives", "connection_made was called twice"),
        (ReturnsAnotherProtocol, "who dials that arrives", "connect returned the protocol <asyncio.protocols.Protocol"),
        (PassesTheGateBy, "has a slot in the gate", "one has arrived, and 0 are in the gate"),
        (CanNotBeSentAway, "has a slot in the gate", "nothing more happened"),
        (FindsNobodyInItsOwnWords, "raises OSError", "LookupError: nobody"),
        (Hangs, "raises OSError", "nothing more happened within 0.5 s (in refuses_when_nobody_listens"),
        (ForgetsATask, "who dials that arrives", "asyncio tasks that go on afterwards: pump (sleep)"),
        (KeepsItsAddress, "its address to the next", "somebody listens there"),
        (TakesAnything, "wrong shape", "listen 'memory://' did not fail"),
        (ShowsAFingerprint, "`vet` gives", "the listener's is b''"),
        (GivesUpSloppily, "is cancelled", "nothing more happened"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_transports_are_found_out(
    kind: type[Transport], rule: str, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_listeners", {})
    failure = _failure(kind(), "memory://kit", rule, hangs=HANGS in seen)
    assert failure.plugin == f"transport 'memory' ({__name__}:{kind.__name__})"
    assert rule in failure.rule
    assert seen in failure.seen


class DropsBytes(memory.MemoryEnd):
    def write(self, data: Any) -> None:
        super().write(data[:4095] if len(data) == 4096 else data)


class TurnsBytesRound(memory.MemoryEnd):
    def writelines(self, list_of_data: Any) -> None:
        super().writelines(list(list_of_data)[::-1])


class NeverPauses(memory.MemoryEnd):
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        super().set_write_buffer_limits(2**40)


class ReadsOn(memory.MemoryEnd):
    def pause_reading(self) -> None:
        """Read on."""


class ForgetsWhatWaits(memory.MemoryEnd):
    def close(self) -> None:
        self._other._inbox.clear()
        super().close()


class ShowsASocket(memory.MemoryEnd):
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        import socket

        if name == "socket" and not hasattr(self, "pair"):
            self.pair = socket.socketpair()
            self.pair[1].send(b"\x82\x03abc")
        return self.pair[0] if name == "socket" else super().get_extra_info(name, default)

    def _lose(self, error: BaseException | None) -> None:
        for each in getattr(self, "pair", ()):
            each.close()
        super()._lose(error)


class IgnoresDefaults(memory.MemoryEnd):
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return super().get_extra_info(name)


@pytest.mark.parametrize(
    ("end", "rule", "seen"),
    [
        (
            DropsBytes,
            "whole and in order",
            "nothing more happened within 0.5 s (of 1135677 bytes 1135676 have arrived, in ",
        ),
        (TurnsBytesRound, "whole and in order", "other ones from byte 0 on"),
        (NeverPauses, "pauses the writer", "64 MiB were written, none was read, and nobody was told to pause"),
        (ReadsOn, "pauses the writer", "none was read"),
        (ForgetsWhatWaits, "writes what waits", "ValueError: of 2097152 bytes 0 arrived"),
        (ShowsASocket, "own bytes", r"b'abc' was written, and on the socket is b'\x82\x03a'"),
        (IgnoresDefaults, "own bytes", "ignores its default"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_ends_are_found_out(
    end: type[memory.MemoryEnd], rule: str, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MemoryEnd", end)
    failure = _failure(MemoryTransport(), "memory://kit", rule, hangs=HANGS in seen)
    assert rule in failure.rule
    assert seen in failure.seen


class TrustsAnybody(TlsTransport):
    """Pins nothing."""

    async def connect(self, address: str, protocol_factory: Any, *, peer: Peer) -> tuple[asyncio.Transport, Any]:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["aioparallel/1"])
        host, port = _host_and_port(address)
        loop = asyncio.get_running_loop()
        return await loop.create_connection(protocol_factory, host, port, ssl=context)

    def vet(self, transport: asyncio.BaseTransport, peer: Peer | None) -> bytes:
        try:
            return super().vet(transport, peer)
        except AccessDenied:
            return b""


class SpeaksPlainly(TlsTransport):
    """Forgets TLS."""

    async def connect(self, address: str, protocol_factory: Any, *, peer: Peer) -> tuple[asyncio.Transport, Any]:
        host, port = _host_and_port(address)
        return await asyncio.get_running_loop().create_connection(protocol_factory, host, port)

    async def listen(self, address: str, protocol_factory: Any, *, gate: Gate, identity: Any) -> Listener:
        listener: Any = await super().listen(address, protocol_factory, gate=gate, identity=identity)
        loop = asyncio.get_running_loop()
        listener._adopt = lambda accepted, slot: loop.connect_accepted_socket(lambda: protocol_factory(slot), accepted)
        return listener

    def vet(self, transport: asyncio.BaseTransport, peer: Peer | None) -> bytes:
        return b"" if peer is None else bytes.fromhex(peer.pins[0])


@pytest.mark.parametrize(
    ("kind", "rule", "seen"),
    [
        (TrustsAnybody, "another certificate", "it connected, and vet found nothing amiss"),
        (SpeaksPlainly, "speaks no TLS", "a protocol was told of a connection"),
    ],
)
def test_insecure_transports_are_found_out(kind: type[Transport], rule: str, seen: str) -> None:
    failure = _failure(kind(), "tls://127.0.0.1:0", rule)
    assert rule in failure.rule
    assert seen in failure.seen


def test_what_is_no_transport() -> None:
    assert "no transport for 'pigeon://roof'" in _failure(None, "pigeon://roof").seen
    assert "has another scheme" in _failure(MemoryTransport(), "tls://127.0.0.1:0").seen
    assert "it is no Transport" in _failure("tls", "tls://127.0.0.1:0").seen


def _failure(transport: Any, address: str, rule: str = "", *, hangs: bool = False) -> CheckFailed:
    """Have the rule that is broken looked at, and no other; not for long if it is broken by what never happens."""

    async def main() -> CheckFailed:
        with pytest.raises(CheckFailed) as caught:
            await check_transport(address, transport, seconds=0.5 if hangs else 20)
        return caught.value

    with pytest.MonkeyPatch.context() as patch:
        rules = [each for each in transport_rules.RULES if rule in words(each[1])]
        patch.setattr(transport_rules, "RULES", rules)
        return asyncio.run(main())
