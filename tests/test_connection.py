"""A session on a transport: who is let in, what a slow reader costs, what silence means, and how it all ends.

Most of it runs on a loop whose clock jumps: a minute of heartbeats takes no time, and nothing here sleeps.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pieces import flat
from recorder import Recorder
from runners import Run

from aioparallel import connection as connection_module
from aioparallel import dial, transports
from aioparallel.authority import Authority
from aioparallel.capability import Capability
from aioparallel.connection import LINGER, Connection
from aioparallel.decoder import Decoder
from aioparallel.dial import connect
from aioparallel.drain import TAKES
from aioparallel.errors import (
    AccessDenied,
    AddressError,
    ConnectionLost,
    ControllerGone,
    HandshakeError,
    ProtocolError,
)
from aioparallel.handshake import ServerHandshake
from aioparallel.identity import Identity
from aioparallel.private import Secret
from aioparallel.source import SYSTEM
from aioparallel.testing.clock import VirtualLoop
from aioparallel.transports import Gate, Slot
from aioparallel.wire import PIECE, TOGETHER, Frame, Kind, Limits, encode, size_of

LIMITS = Limits(message=2**24, outbox=2**20, beat=2.0, suspect=6.0, dead=10.0, stuck=30.0)


@pytest.fixture
def jumping() -> Iterator[Run]:
    """Run a coroutine where time jumps to the next timer when there is nothing else to do."""
    with asyncio.Runner(loop_factory=VirtualLoop, debug=True) as runner:
        yield runner.run


class Side:
    """One side of a connection, and what it was told."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.lost: list[BaseException | None] = []
        self.drained = 0
        self.silences: list[float] = []
        self.opened = 0
        self.connection: Connection = None  # type: ignore[assignment]
        self.changed = asyncio.Event()

    def adopt(self, made: Connection) -> Connection:
        self.connection = made
        made.on_drained = self._drained
        made.on_silence = self.silences.append
        return made

    def on_open(self, made: Connection) -> None:
        self.opened += 1
        self.changed.set()

    def on_frames(self, frames: list[Frame]) -> None:
        self.frames += frames
        self.changed.set()

    def on_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)
        self.changed.set()

    def _drained(self) -> None:
        self.drained += 1
        self.changed.set()

    @property
    def heard(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.kind != Kind.BEAT]

    async def until(self, condition: Callable[[Side], object]) -> None:
        while not condition(self):
            self.changed.clear()
            await self.changed.wait()


class House:
    """A controller with one capability and no manners: only its door."""

    def __init__(self, address: str, identity: Identity | None = None, limits: Limits = LIMITS) -> None:
        self.transport = transports.get(address)
        self.asked = address
        self.identity = identity
        self.limits = limits
        self.gate = Gate()
        self.authority = Authority("c0ffee")
        self.id, self.key = self.authority.issue("task", SYSTEM)
        self.sides: list[Side] = []
        self.changed = asyncio.Event()

    async def __aenter__(self) -> House:
        self.listener = await self.transport.listen(self.asked, self.arrival, gate=self.gate, identity=self.identity)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.listener.aclose()
        for side in self.sides:
            if side.connection._transport is not None:
                side.connection.abort()
                await side.until(lambda side: side.lost)

    def handshake(self, made: asyncio.BaseTransport) -> ServerHandshake:
        self.transport.vet(made, None)
        return ServerHandshake(
            self.authority.lookup,
            controller_id=self.authority.controller_id,
            interfaces=["task"],
            fingerprint=self.identity.fingerprint if self.identity else b"",
            nonce=SYSTEM.token(32),
            now=time.time(),
            welcome=lambda grant, body: {"session": "s1", "heard": body["role"]},
        )

    def arrival(self, slot: Slot) -> Connection:
        side = Side()

        def opened(made: Connection) -> None:
            slot.leave()
            side.on_open(made)
            # At once, in the same write as WELCOME.
            made.send(encode(Kind.NOTICE, header=b'"hello"'))

        def lost(error: BaseException | None) -> None:
            slot.leave()
            side.on_lost(error)

        self.sides.append(side)
        return side.adopt(
            Connection(
                self.handshake,
                limits=self.limits,
                greeting=lambda handshake: handshake.hello(),
                on_open=opened,
                on_frames=side.on_frames,
                on_lost=lost,
            )
        )

    def capability(self, **changes: Any) -> Capability:
        over_tls = self.identity is not None
        plain: dict[str, Any] = {
            "id": self.id,
            "interface": "task",
            "controller": self.authority.controller_id,
            "cluster": "default",
            "addresses": (self.listener.address,),
            "server_name": self.identity.server_name if self.identity else "",
            "pins": (self.identity.fingerprint.hex(),) if self.identity else (),
            "certificates": (self.identity.certificate_pem,) if self.identity else (),
            "key": self.key,
            "caveats": (),
            "issued": 0.0,
            "serial": 1,
            "note": "over tls" if over_tls else "",
        }
        return Capability(**{**plain, **changes})

    async def dial(self, limits: Limits | None = None, **changes: Any) -> Side:
        side = Side()
        made, side.welcome = await connect(  # type: ignore[attr-defined]
            self.capability(**changes),
            role="client",
            on_frames=side.on_frames,
            on_lost=side.on_lost,
            limits=limits or self.limits,
        )
        side.adopt(made)
        return side


def house(address: str = "memory://house", identity: Identity | None = None, limits: Limits = LIMITS) -> House:
    return House(address, identity if address.startswith("tls") else None, limits)


def frame(number: int = 1, size: int = 0) -> list[Any]:
    return encode(Kind.CALL, number, buffers=[bytes(size)])


async def ended(*sides: Side) -> None:
    for side in sides:
        await side.until(lambda side: side.lost)
        assert len(side.lost) == 1


# Coming together, on every transport and both loops


def test_handshake_then_frames_both_ways(run: Run, address: str, identity: Identity) -> None:
    async def main() -> None:
        async with house(address, identity) as there:
            near = await there.dial()
            far = there.sides[0]
            assert near.welcome["session"] == "s1"  # type: ignore[attr-defined]
            assert near.welcome["heard"] == "client"  # type: ignore[attr-defined]
            assert near.connection.is_open
            assert len(there.gate) == 0
            large = bytes(range(256)) * 12_000
            near.connection.send(encode(Kind.CALL, 7, header=b"h", buffers=[b"small", large]))
            near.connection.send(frame(8))
            far.connection.send(encode(Kind.RESULT, 9, buffers=[large]))
            await far.until(lambda side: len(side.heard) == 2)
            await near.until(lambda side: len(side.heard) == 2)
            # The small one did not wait for the large one, nor did the large one wait for it.
            assert [(one.id, one.header, [bytes(b) for b in one.buffers]) for one in far.heard] == [
                (8, b"", [b""]),
                (7, b"h", [b"small", large]),
            ]
            assert near.heard[0].json() == "hello"
            assert bytes(near.heard[1].buffers[0]) == large
            near.connection.close()
            near.connection.close()
            await ended(near, far)
            assert (near.lost, far.lost) == ([None], [None])
            assert (near.connection.is_open, far.opened) == (False, 1)

    run(main())


def test_last_words_arrive(run: Run, address: str, identity: Identity) -> None:
    async def main() -> None:
        async with house(address, identity) as there:
            near = await there.dial()
            far = there.sides[0]
            far.connection.send(frame(5, 3 * 2**20))
            far.connection.goodbye(ConnectionLost("the controller has ended"))
            await ended(near, far)
            assert [one.kind for one in near.heard] == [Kind.NOTICE, Kind.CALL, Kind.GOODBYE]
            assert near.heard[-1].json() == {"error": "ConnectionLost", "text": "the controller has ended"}
            assert isinstance(far.lost[0], ConnectionLost)

    run(main())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "f" * 32}, "refused the capability"),
        ({"key": Secret(b"k" * 32)}, "refused the capability"),
        ({"controller": "another"}, "another controller answers there"),
        ({"interface": "monitor"}, "does not host the interface"),
        ({"caveats": ("exp=1",), "key": None}, "has expired"),
    ],
)
def test_who_is_not_let_in(run: Run, address: str, identity: Identity, changes: Any, message: str) -> None:
    async def main() -> None:
        async with house(address, identity) as there:
            fitting = dict(changes)
            if "key" in fitting and fitting["key"] is None:
                fitting = {"caveats": changes["caveats"], "key": there.capability().narrow(*changes["caveats"]).key}
            with pytest.raises(AccessDenied, match=message):
                await there.dial(**fitting)
            far = there.sides[0]
            await ended(far)
            assert far.opened == 0
            assert far.frames == []
            assert isinstance(far.lost[0], HandshakeError) or changes.get("controller")
            assert len(there.gate) == 0

    run(main())


def test_another_certificate_is_told_nothing(run: Run, identity: Identity) -> None:
    stranger = Identity.new("c0ffee", time.time())

    async def main() -> None:
        async with house("tls://127.0.0.1:0", identity) as there:
            with pytest.raises(AccessDenied, match=r"tls://.*: who answers there shows another certificate"):
                await there.dial(certificates=(stranger.certificate_pem,), pins=(stranger.fingerprint.hex(),))
            # Trusted by TLS, but not pinned.
            with pytest.raises(AccessDenied, match="another certificate than the capability names"):
                await there.dial(pins=(stranger.fingerprint.hex(),))
            assert all(not side.opened for side in there.sides)

    run(main())


# Dialling


def test_addresses_are_tried_in_order(jumping: Run, directory: Path) -> None:
    async def main() -> None:
        async with house() as there:
            near = await there.dial(addresses=(f"unix://{directory}/nobody", "memory://nobody", "memory://house"))
            near.connection.close()
            await ended(near)

    jumping(main())


def test_nobody_answers_anywhere(run: Run, directory: Path) -> None:
    async def main() -> None:
        async with house() as there:
            for addresses, message in [
                ((), r"it names no address\); start one with: aiocluster start -n 4"),
                (
                    (f"unix://{directory}/nobody", "memory://nobody"),
                    r"unix://.*/nobody: No such file or directory; memory://nobody: nobody listens on",
                ),
            ]:
                with pytest.raises(ControllerGone, match=message) as caught:
                    await there.dial(addresses=addresses)
                assert "the task capability of cluster 'default'" in str(caught.value)
            with pytest.raises(AddressError, match=r"known: .*memory://"):
                await there.dial(addresses=("smoke://signals",))

    run(main())


def test_controller_that_says_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "HANDSHAKE", 0.1)

    async def main() -> None:
        async with house() as there:
            with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as deaf:
                deaf.bind(f"{place}/s")
                deaf.listen()
                with pytest.raises(ControllerGone, match=rf"unix://{place}/s: TimeoutError"):
                    await there.dial(addresses=(f"unix://{place}/s",))
                deaf.accept()[0].close()

    run(main())


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\2{}", bytes(100), b""])
def test_what_answers_is_no_controller(run: Run, directory: Path, data: bytes) -> None:
    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(data)
            writer.close()

        server = await asyncio.start_unix_server(answer, f"{directory}/s")
        async with house() as there:
            with pytest.raises((AccessDenied, ControllerGone)):
                await there.dial(addresses=(f"unix://{directory}/s",))
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("turns", range(8))
def test_cancelled_dialling_leaves_nothing_open(run: Run, address: str, identity: Identity, turns: int) -> None:
    async def main() -> None:
        async with house(address, identity) as there:
            dialling = asyncio.ensure_future(there.dial())
            for _ in range(turns):
                await asyncio.sleep(0)
            dialling.cancel()
            try:
                near = await dialling
            except asyncio.CancelledError:
                pass
            else:
                near.connection.abort()
                await ended(near)
            for side in there.sides:
                if side.connection._transport is not None:
                    await ended(side)
            while len(there.gate):
                await asyncio.sleep(0)

    run(main())


# Writing


class Nod:
    """A handshake that is content with anything."""

    done, rest = True, b""

    def receive(self, data: bytes) -> bytes:
        return b""


def recorded(side: Side, *, limits: Limits = LIMITS, handshake: Any = Nod) -> Recorder:
    """Return the transport of an open connection that belongs to `side`."""
    transport = Recorder()
    made = Connection(
        lambda transport: handshake(),
        limits=limits,
        on_open=side.on_open,
        on_frames=side.on_frames,
        on_lost=side.on_lost,
    )
    side.adopt(made).connection_made(transport)
    receive(side, b"x")
    transport.pieces.clear()
    return transport


def receive(side: Side, data: bytes) -> None:
    target = side.connection.get_buffer(-1)
    target[: len(data)] = data
    side.connection.buffer_updated(len(data))


def test_what_is_sent_in_one_turn_leaves_in_one_piece(jumping: Run) -> None:
    async def main() -> None:
        side = Side()
        transport = recorded(side)
        for number in range(100):
            side.connection.send(frame(number))
        assert transport.pieces == []
        await asyncio.sleep(0)
        assert transport.pieces == [b"".join(b"".join(frame(number)) for number in range(100))]
        side.connection.send(frame(7))
        side.connection.flush()
        assert len(transport.pieces) == 2
        await asyncio.sleep(0)
        assert len(transport.pieces) == 2
        side.connection.connection_lost(None)

    jumping(main())


def test_large_pieces_are_not_copied(jumping: Run) -> None:
    async def main() -> None:
        side = Side()
        transport = recorded(side)
        large, small = bytearray(2 * PIECE + 10), bytes(1000)
        side.connection.send(encode(Kind.CALL, 1, header=b"h", buffers=[small, large, b"tail"]))
        side.connection.send(frame(2))
        side.connection.flush()
        arrived = Decoder(LIMITS).feed(b"".join(transport.pieces))
        assert [(one.id, size_of(one.buffers)) for one in arrived] == [(2, 0), (1, 1000 + len(large) + 4)]
        views = [piece for piece in transport.pieces if isinstance(piece, memoryview) and piece.obj is large]
        assert sum(map(len, views)) > len(large) - TOGETHER
        assert all(len(piece) <= PIECE for piece in transport.pieces)
        side.connection.connection_lost(None)

    jumping(main())


def test_order_of_what_is_small_is_kept_whatever_waits(jumping: Run) -> None:
    async def main() -> None:
        side = Side()
        transport = recorded(side)
        expected = b""
        for number, size in enumerate([10, 60_000, 5, 0, 7, 30_000, 9]):
            if number == 2:
                side.connection.pause_writing()
            if number == 5:
                side.connection.resume_writing()
                side.connection.pause_writing()
            side.connection.send(frame(number, size))
            expected += flat(frame(number, size))
            await asyncio.sleep(0)
        side.connection.resume_writing()
        assert b"".join(transport.pieces) == expected
        side.connection.connection_lost(None)

    jumping(main())


def test_a_fast_reader_does_not_keep_us_busy(jumping: Run) -> None:
    async def main() -> None:
        side = Side()
        transport = recorded(side)
        side.connection.send(frame(1, 20 * PIECE))
        side.connection.flush()
        begun = size_of(transport.pieces)
        assert begun <= (TAKES + 1) * PIECE
        # What is sent meanwhile leaves in the next turn, and a connection that closes writes the rest.
        side.connection.send(frame(2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [one.id for one in Decoder(LIMITS).feed(b"".join(transport.pieces))] == [2]
        side.connection.close()
        while not transport.ends:
            await asyncio.sleep(0)
        assert [one.id for one in Decoder(LIMITS).feed(b"".join(transport.pieces))] == [2, 1]
        side.connection.connection_lost(None)

    jumping(main())


def test_one_large_message_is_no_congestion_and_two_are(jumping: Run) -> None:
    async def main() -> None:
        side = Side()
        recorded(side)
        one = side.connection
        one.pause_writing()
        one.send(frame(1, 2 * LIMITS.outbox))
        one.flush()
        assert not one.congested
        one.send(frame(2, 2 * LIMITS.outbox))
        one.flush()
        assert one.congested
        assert one.withdraw(2)
        assert (one.congested, side.drained) == (False, 1)
        one.connection_lost(None)

    jumping(main())


def test_a_message_that_is_taken_back_is_never_seen(jumping: Run) -> None:
    async def main() -> None:
        side = Side()
        transport = recorded(side)
        one = side.connection
        one.send(frame(1, 20 * PIECE))
        one.send(frame(3, 3 * PIECE))
        assert one.withdraw(3)
        assert not one.withdraw(3)
        assert not one.withdraw(2)
        assert one.withdraw(1)
        one.send(frame(4, PIECE))
        one.close()
        while not transport.ends:
            await asyncio.sleep(0)
        decoder = Decoder(LIMITS)
        assert [frame.id for frame in decoder.feed(b"".join(transport.pieces))] == [4]
        assert repr(decoder) == "<Decoder 0 bytes waiting>"
        one.connection_lost(None)
        assert not one.withdraw(4)

    jumping(main())


def test_a_lost_connection_keeps_nothing_of_what_was_under_way(jumping: Run) -> None:
    async def main() -> None:
        async with house(limits=dataclasses.replace(LIMITS, piece=1000)) as there:
            near = await there.dial()
            far = there.sides[0]
            near.connection.send(frame(1, 10 * PIECE))
            near.connection.send(frame(2, 10 * PIECE))
            while "under way" not in repr(far.connection.session.decoder):
                await asyncio.sleep(0)
            near.connection.abort()
            await ended(near, far)
            assert not near.connection._outbox
            assert repr(far.connection.session.decoder) == "<Decoder 0 bytes waiting>"

    jumping(main())


def test_slow_reader_pauses_the_producer_and_gets_everything(run: Run, address: str, identity: Identity) -> None:
    limits = dataclasses.replace(LIMITS, outbox=2**18)
    count = 400

    async def main() -> None:
        async with house(address, identity, limits) as there:
            near = await there.dial()
            far = there.sides[0]
            near.connection.pause_reading()
            sent, largest = 0, 0
            while sent < count:
                if far.connection.congested:
                    before = far.drained
                    near.connection.resume_reading()
                    await far.until(lambda side: side.drained > before)  # noqa: B023
                    near.connection.pause_reading()
                    continue
                far.connection.send(frame(sent, 30_000))
                sent += 1
                if sent % 5 == 0:
                    await asyncio.sleep(0)
                largest = max(largest, far.connection._outbox.size)
            near.connection.resume_reading()
            await near.until(lambda side: len(side.heard) == count + 1)
            assert [one.id for one in near.heard[1:]] == list(range(count))
            assert far.drained > 0
            assert largest <= limits.outbox + 6 * 31_000
            near.connection.close()
            await ended(near, far)

    run(main())


@pytest.mark.parametrize("scheme", ["unix", "tls"])
def test_reader_that_is_stuck_is_disconnected(run: Run, scheme: str, directory: Path, identity: Identity) -> None:
    limits = dataclasses.replace(LIMITS, beat=0.02, dead=9.0, suspect=9.0, stuck=0.15)

    async def main() -> None:
        where = f"unix://{directory}/s" if scheme == "unix" else "tls://127.0.0.1:0"
        async with house(where, identity, limits) as there:
            near = await there.dial(LIMITS)
            far = there.sides[0]
            # Its own beats go on: it is alive, and does not read.
            near.connection.pause_reading()
            far.connection.send(frame(1, 30 * 2**20))
            await ended(far)
            assert isinstance(far.lost[0], ConnectionLost)
            assert "read nothing for" in str(far.lost[0])
            near.connection.resume_reading()
            await ended(near)

    run(main())


def test_reader_that_is_slow_but_reads_is_not_stuck(jumping: Run) -> None:
    async def main() -> None:
        side = Side()
        transport = recorded(side)
        side.connection.mortal = False
        side.connection.pause_writing()
        for transport.waiting in range(100_000, 99_950, -1):
            await asyncio.sleep(25.0)
            assert transport.ends == []
        await asyncio.sleep(40.0)
        assert transport.ends[0] == "aborted"
        side.connection.connection_lost(None)
        assert str(side.lost[0]) == "the far end read nothing for 30 s"

    jumping(main())


# Signs of life, on a clock that jumps


def test_idle_connection_beats_both_ways_and_stays(jumping: Run) -> None:
    async def main() -> None:
        async with house() as there:
            near = await there.dial()
            far = there.sides[0]
            await asyncio.sleep(600.5)
            for side in (near, far):
                beats = [one for one in side.frames if one.kind == Kind.BEAT]
                assert 299 <= len(beats) <= 301
                assert (side.lost, side.silences) == ([], [])
            near.connection.close()
            await ended(near, far)

    jumping(main())


def test_silent_peer_is_suspect_then_dead(jumping: Run) -> None:
    async def main() -> None:
        async with house() as there:
            near = await there.dial()
            far = there.sides[0]
            await asyncio.sleep(20.0)
            assert near.connection._timer is not None
            near.connection._timer.cancel()
            began = asyncio.get_running_loop().time()
            await ended(far)
            assert 8.0 <= asyncio.get_running_loop().time() - began <= 12.0
            assert [round(silence) for silence in far.silences] in ([6, 8], [7, 9])
            assert isinstance(far.lost[0], ConnectionLost)
            assert "nothing was heard for" in str(far.lost[0])
            await ended(near)

    jumping(main())


def test_client_is_not_given_up_for_silence(jumping: Run) -> None:
    async def main() -> None:
        async with house() as there:
            near = await there.dial()
            far = there.sides[0]
            far.connection.mortal = False
            assert near.connection._timer is not None
            near.connection._timer.cancel()
            await asyncio.sleep(3600)
            assert far.lost == []
            near.connection.close()
            await ended(near, far)

    jumping(main())


def test_loop_that_was_held_up_blames_nobody(jumping: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        async with house() as there:
            near = await there.dial()
            await asyncio.sleep(5.0)
            loop._now += 300.0
            await asyncio.sleep(60.0)
            assert (near.lost, there.sides[0].lost) == ([], [])
            near.connection.close()
            await ended(near)

    jumping(main())


# How it ends


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("garbage", [b"\xff" * 24, b"\x80\x04\x95" + bytes(30), bytes(24)])
def test_peer_that_breaks_the_rules_is_cut(run: Run, address: str, identity: Identity, garbage: bytes) -> None:
    async def main() -> None:
        async with house(address, identity) as there:
            near = await there.dial()
            far = there.sides[0]
            near.connection.send([*frame(1), garbage])
            await ended(near, far)
            assert isinstance(far.lost[0], ProtocolError)
            # Frames of a read that broke the rules are not looked at.
            assert len(far.heard) <= 1

    run(main())


def test_handler_that_finds_a_rule_broken_cuts_the_peer(jumping: Run) -> None:
    async def main() -> None:
        async with house() as there:
            near = await there.dial()
            far = there.sides[0]

            def refuse(frames: list[Frame]) -> None:
                raise ProtocolError("not in this house")

            far.connection.on_frames = refuse
            near.connection.send(frame(1))
            await ended(near, far)
            assert str(far.lost[0]) == "not in this house"

    jumping(main())


class Refusing(Nod):
    done = False

    def __init__(self, error: Exception) -> None:
        self.error = error

    def receive(self, data: bytes) -> bytes:
        raise self.error


@pytest.mark.parametrize(
    ("error", "written", "ends"),
    [
        (HandshakeError("no", b"denied"), [b"denied"], ["closed"]),
        (HandshakeError("no"), [], ["aborted"]),
        (AccessDenied("no"), [], ["aborted"]),
        (RuntimeError("a bug"), [], ["aborted"]),
    ],
)
def test_handshake_that_fails(
    jumping: Run, caplog: pytest.LogCaptureFixture, error: Exception, written: list[bytes], ends: list[str]
) -> None:
    async def main() -> None:
        side = Side()
        transport = recorded(side, handshake=lambda: Refusing(error))
        assert side.opened == 0
        side.connection.send(frame(1))
        await turns()
        assert transport.ends == ends
        await asyncio.sleep(1.0)
        # A peer that does not go after its refusal is cut.
        assert transport.ends[-1] == "aborted"
        side.connection.connection_lost(None)
        side.connection.connection_lost(None)
        assert side.lost == [error]

    written_before: list[bytes] = []
    real = Recorder.write

    def write(self: Recorder, data: Any) -> None:
        written_before.append(bytes(data))
        real(self, data)

    Recorder.write = write  # type: ignore[method-assign]
    try:
        with caplog.at_level(logging.ERROR):
            jumping(main())
    finally:
        Recorder.write = real  # type: ignore[method-assign]
    assert written_before == written
    assert len(caplog.records) == isinstance(error, RuntimeError)


@pytest.mark.parametrize("error", [ConnectionError("somebody else"), AccessDenied("pin"), RuntimeError("a bug")])
def test_far_end_that_is_not_vetted_is_told_nothing(jumping: Run, error: Exception) -> None:
    async def main() -> None:
        side, transport = Side(), Recorder()

        def refuse(made: asyncio.BaseTransport) -> Any:
            raise error

        one = side.adopt(
            Connection(refuse, limits=LIMITS, on_open=side.on_open, on_frames=side.on_frames, on_lost=side.on_lost)
        )
        one.connection_made(transport)
        receive(side, b"what it says is not looked at")
        one.send(frame(1))
        await turns()
        assert (transport.pieces, transport.ends) == ([], ["aborted"])
        one.connection_lost(None)
        assert (side.lost, side.opened) == ([error], 0)
        assert not one.is_open

    jumping(main())


def test_nothing_is_sent_after_the_end(jumping: Run) -> None:
    async def main() -> None:
        side = Side()
        transport = recorded(side)
        side.connection.send(frame(1))
        side.connection.close()
        side.connection.send(frame(2))
        side.connection.goodbye(ConnectionLost("too late"))
        await turns()
        assert b"".join(transport.pieces) == b"".join(frame(1))
        assert transport.ends == ["closed"]
        side.connection.connection_lost(None)
        side.connection.flush()
        side.connection.pause_reading()
        side.connection.resume_reading()
        assert side.lost == [None]

    jumping(main())


@pytest.mark.parametrize("waiting", [0, 3 * PIECE])
def test_peer_that_never_reads_does_not_keep_a_closing_connection(jumping: Run, waiting: int) -> None:
    async def main() -> None:
        side = Side()
        transport = recorded(side)
        if waiting:
            side.connection.pause_writing()
            side.connection.send(frame(1, waiting))
        side.connection.close(ConnectionLost("enough"))
        assert transport.ends == ([] if waiting else ["closed"])
        await asyncio.sleep(LINGER + 0.1)
        assert transport.ends[-1] == "aborted"
        side.connection.connection_lost(None)
        assert str(side.lost[0]) == "enough"

    jumping(main())


def test_what_waits_is_written_before_the_end(jumping: Run) -> None:
    async def main() -> None:
        side = Side()
        transport = recorded(side)
        side.connection.pause_writing()
        side.connection.send(frame(1, 3 * PIECE))
        side.connection.close()
        assert transport.ends == []
        side.connection.resume_writing()
        assert b"".join(transport.pieces) == flat(frame(1, 3 * PIECE))
        assert transport.ends == ["closed"]
        side.connection.connection_lost(None)

    jumping(main())


def test_goodbye_before_the_handshake_is_done_says_nothing(jumping: Run) -> None:
    class Waiting(Nod):
        done = False

    async def main() -> None:
        side = Side()
        transport = recorded(side, handshake=Waiting)
        side.connection.goodbye(ConnectionLost("the controller has ended"))
        assert (transport.pieces, transport.ends) == ([], ["closed"])
        side.connection.connection_lost(None)
        assert side.opened == 0

    jumping(main())


def test_goodbye_is_json(jumping: Run) -> None:
    async def main() -> None:
        side = Side()
        transport = recorded(side)
        side.connection.goodbye(ConnectionLost("so long"))
        assert json.loads(b"".join(transport.pieces)[24:]) == {"error": "ConnectionLost", "text": "so long"}
        side.connection.connection_lost(None)

    jumping(main())


def test_lost_is_told_once_with_the_first_reason(jumping: Run) -> None:
    async def main() -> None:
        side = Side()
        recorded(side)
        side.connection.abort(ConnectionLost("first"))
        side.connection.abort(ConnectionLost("second"))
        side.connection.connection_lost(ConnectionResetError())
        side.connection.connection_lost(None)
        assert [str(error) for error in side.lost] == ["first"]

    jumping(main())


def test_reprs(jumping: Run) -> None:
    async def main() -> None:
        side = Side()
        recorded(side)
        assert repr(side.connection) == "<Connection <Session open>, 0 bytes to write>"
        side.connection.close()
        assert repr(side.connection) == "<Connection closing, 0 bytes to write>"
        side.connection.connection_lost(None)
        assert repr(side.connection) == "<Connection lost, 0 bytes to write>"

    jumping(main())


async def _pair_over(scheme: str, tmp_path: Path) -> tuple[Connection, Connection, list[Frame]]:
    """Connect two ends over a real transport on asyncio's own loop."""
    address = f"unix://{tmp_path}/s" if scheme == "unix" else "memory://pair"
    made: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
    seen: list[Frame] = []

    def end(on_frames: Any) -> Connection:
        return Connection(
            lambda transport: Nod(),
            limits=Limits(),
            greeting=lambda _: b"!",
            on_open=lambda connection: None,
            on_frames=on_frames,
            on_lost=lambda error: None,
        )

    def accept(slot: Any) -> Connection:
        slot.leave()
        made.set_result(end(seen.extend))
        return made.result()

    transport = transports.get(address)
    listener = await transport.listen(address, accept, gate=Gate(), identity=None)
    near = end(seen.extend)
    await transport.connect(address, lambda: near, peer=transports.Peer())
    far = await made
    while not (near.is_open and far.is_open):
        await asyncio.sleep(0)
    await turns(10)  # the listener hands the connection over
    await listener.aclose()
    return near, far, seen


@pytest.mark.parametrize("alone", [True, False])
def test_a_thread_that_waits_reads_from_a_plain_socket_by_itself(directory: Path, alone: bool):
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        near, far, seen = runner.run(_pair_over("unix", directory))
        assert not near.read_here(0.0, alone=alone)
        for number in range(3):
            far.send_now(encode(Kind.NOTICE, number))
            assert near.read_here(10.0, alone=alone)
        assert [frame.id for frame in seen] == [0, 1, 2]
        far.abort()
        runner.run(asyncio.sleep(0))
        # The end is the loop's to notice.
        assert not near.read_here(0.0, alone=alone)
        near.abort()
        runner.run(turns(10))


def test_looking_in_vain_becomes_seldom(directory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection_module, "SPIN", 0.0)
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        near, far, _ = runner.run(_pair_over("unix", directory))
        looks: list[int] = []
        poll = near._poll

        class Counting:
            def poll(self, timeout: float) -> Any:
                looks.append(int(timeout == 0))
                return poll.poll(timeout)

        near._poll = Counting()  # type: ignore[assignment]
        for _ in range(100):
            near.read_here(0.0005, alone=True)
        assert 0 < sum(looks) < 60
        far.abort()
        near.abort()
        runner.run(turns(10))


def test_a_transport_without_a_socket_leaves_reading_to_the_loop(tmp_path: Path):
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        near, far, seen = runner.run(_pair_over("memory", tmp_path))
        far.send_now(encode(Kind.NOTICE, 1))
        assert not near.read_here(0.0, alone=True)
        runner.run(turns())
        assert [frame.id for frame in seen] == [1]
        far.abort()
        near.abort()
        runner.run(turns(10))
