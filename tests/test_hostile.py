"""Peers with nothing to prove: they reach no handler, are gone in time, and honest clients notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import pickle
import random
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from runners import Run

from aioparallel import events, gate
from aioparallel.capability import Capability
from aioparallel.controller import Controller
from aioparallel.dial import connect
from aioparallel.errors import AccessDenied
from aioparallel.events import Event, PeerRefused
from aioparallel.handshake import pack
from aioparallel.identity import ALPN
from aioparallel.interface import ClientProxy
from aioparallel.interfaces.monitor import MonitorClient
from aioparallel.roster import EngineLink
from aioparallel.testing.rules import until
from aioparallel.wire import HEAD, Kind, encode

#: Seconds that a peer has for its handshake here.
HANDSHAKE = 0.3
#: Seconds that a test may take.
RUN_SECONDS = 60
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(autouse=True)
def short_handshakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "HANDSHAKE", HANDSHAKE)


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Whoever had a frame of theirs looked at."""
    owners: list[object] = []
    for kind in (ClientProxy, EngineLink):

        def spy(self: Any, frames: Any, real: Any = kind.receive) -> None:
            owners.append(self)
            real(self, frames)

        monkeypatch.setattr(kind, "receive", spy)
    return owners


class Door:
    """A controller that listens, and three ways to knock: as a stranger does, and as one who speaks TLS."""

    def __init__(self, controller: Controller, address: str, *, inside_tls: bool) -> None:
        self.controller = controller
        self.address = address
        self.inside_tls = inside_tls
        self.events: list[Event] = []
        controller.monitor.listen(self.events.append)

    async def knock(self) -> Streams:
        if self.address.startswith("unix://"):
            return await asyncio.open_unix_connection(self.address.removeprefix("unix://"))
        host, _, port = self.address.removeprefix("tls://").rpartition(":")
        context = None
        if self.inside_tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols([ALPN])
        return await asyncio.open_connection(host, int(port), ssl=context)

    def capability(self, interface: str = "monitor") -> Capability:
        return self.controller.capability(interface, addresses=(self.address,))


@contextlib.asynccontextmanager
async def door(kind: str, directory: Path) -> AsyncIterator[Door]:
    async with Controller() as controller:
        await controller.add("monitor")
        await controller.add("task")
        address = await controller.listen(f"unix://{directory}/s" if kind == "unix" else "tls://127.0.0.1:0")
        yield Door(controller, address, inside_tls=kind == "tls")


DOORS = pytest.mark.parametrize("kind", ["unix", "tls", "plain text where TLS is spoken"])


async def gone(streams: Streams) -> bytes:
    """Wait until the far end hangs up; return what it said."""
    reader, writer = streams
    heard = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while piece := await reader.read(65536):
            heard += piece
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
        await writer.wait_closed()
    return heard


def frames_in(heard: bytes) -> list[bytes]:
    frames = []
    while heard:
        (length,) = struct.unpack_from(">I", heard)
        frames.append(heard[4 : 4 + length])
        heard = heard[4 + length :]
    return frames


def said_no_more_than_denied(heard: bytes, kind: str) -> None:
    if kind.startswith("plain"):
        # TLS alerts at most.
        assert len(heard) < 100
        return
    frames = frames_in(heard)
    assert len(frames) <= 2
    if frames:
        assert b'"nonce"' in frames[0]
    assert frames[1:] in ([], [b'{"ok":false,"error":"denied"}'])


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (86,)


PICKLE = pickle.dumps(Bomb())
AUTH = pack({"id": "f" * 32, "caveats": [], "proof": "0" * 64, "body": '{"version":1,"interface":"monitor"}'})
CALL = b"".join(encode(Kind.CALL, 1, code=0, header=b"{}"))
NOISE = random.Random(8)

ATTACKS: dict[str, bytes] = {
    "nothing": b"",
    "a pickle": PICKLE,
    "a pickle in a frame of the handshake": struct.pack(">I", len(PICKLE)) + PICKLE,
    "a pickle in a frame of ours": b"".join(encode(Kind.CALL, 1, buffers=[PICKLE])),
    "2 GiB, big-endian": struct.pack(">I", 2**31) + bytes(1000),
    "2 GiB, little-endian": struct.pack("<I", 2**31) + bytes(1000),
    "2 GiB in a head of ours": HEAD.pack(2**31, Kind.CALL, 0, 0, 1, 0, 1, 0) + bytes(1000),
    "4 GiB less one": b"\xff" * 1000,
    "length 0": bytes(1000),
    "length 4097": struct.pack(">I", 4097) + b"{" * 5000,
    "half a frame": AUTH[: len(AUTH) // 2],
    "all but one byte of a frame": AUTH[:-1],
    "half a length": b"\0\0",
    "garbage": NOISE.randbytes(3000),
    "a lot of garbage": NOISE.randbytes(300_000),
    "deep JSON": struct.pack(">I", 4000) + b"[" * 4000,
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a call before the handshake": CALL,
    "AUTH of nobody": AUTH,
    "AUTH of nobody, and a call": AUTH + CALL,
    "AUTH with strange types": pack({"id": 1, "caveats": "x", "proof": None, "body": []}),
    "AUTH without a thing": pack({}),
}


@DOORS
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacker_reaches_nothing_and_is_gone_in_time(
    run: Run, directory: Path, entered: list[object], caplog: pytest.LogCaptureFixture, kind: str, attack: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with door(kind, directory) as there:
            began = loop.time()
            streams = await there.knock()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                streams[1].write(ATTACKS[attack])
                await streams[1].drain()
            heard = await gone(streams)
            assert loop.time() - began < HANDSHAKE + 5.0
            said_no_more_than_denied(heard, kind)
            assert entered == []
            assert [event for event in there.events if not isinstance(event, PeerRefused)] == []
            # The next one is served.
            async with MonitorClient(there.capability()) as client:
                assert (await client.status())["clients"] == {"monitor": 1}

    with caplog.at_level(logging.INFO, "aioparallel"):
        run(main())
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("aioparallel")]
    assert len([line for line in lines if not line.startswith("listening on")]) <= 1
    assert not any(record.levelno > logging.INFO for record in caplog.records if record.name != "asyncio")


@DOORS
def test_dripping_bytes_do_not_buy_time(run: Run, directory: Path, entered: list[object], kind: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with door(kind, directory) as there:
            began = loop.time()
            streams = await there.knock()
            hanging_up = asyncio.ensure_future(gone(streams))
            for byte in struct.pack(">I", 4096) + b" " * 4096:
                if hanging_up.done():
                    break
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    streams[1].write(bytes([byte]))
                await asyncio.wait([hanging_up], timeout=0.01)
            said_no_more_than_denied(await hanging_up, kind)
            assert loop.time() - began < HANDSHAKE + 5.0
            assert entered == []

    run(main())


@DOORS
def test_honest_client_works_among_all_of_them(run: Run, directory: Path, entered: list[object], kind: str) -> None:
    async def attack(there: Door, data: bytes) -> None:
        streams = await there.knock()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            streams[1].write(data)
            await streams[1].drain()
        said_no_more_than_denied(await gone(streams), kind)

    async def main() -> None:
        async with door(kind, directory) as there, MonitorClient(there.capability()) as early:
            attacks = [asyncio.ensure_future(attack(there, data)) for data in ATTACKS.values()]
            answers = 0
            while (await asyncio.wait(attacks, timeout=0.01))[1]:
                assert (await early.status())["cluster"] == "default"
                answers += 1
            async with MonitorClient(there.capability()) as late:
                assert (await late.status())["clients"] == {"monitor": 2}
            await asyncio.gather(*attacks)
            # Nobody had to wait until the attackers' time was up.
            assert answers > 3
            # Two clients were heard, and nobody else.
            assert len({id(owner) for owner in entered}) == 2

    run(main())


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("kind", ["unix", "plain text where TLS is spoken"])
def test_200_silent_sockets(
    run: Run, directory: Path, entered: list[object], caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    async def main() -> None:
        async with door(kind, directory) as there:
            async with MonitorClient(there.capability()) as client:
                await client.status()
            gc.collect()
            before = resident()
            silent = [await there.knock() for _ in range(200)]
            assert len(there.controller._admission.gate) <= 64
            async with MonitorClient(there.capability()) as client:
                await client.status()
            assert resident() - before < 2**26  # 256 KiB for each under TLS, and what is not collected yet
            await asyncio.gather(*map(gone, silent))
            assert len(there.controller._admission.gate) == 0
            async with MonitorClient(there.capability()) as client:
                await client.status()
            assert len({id(owner) for owner in entered}) == 3

    with caplog.at_level(logging.INFO):
        run(main())
    # Python's own debug mode complains of slow callbacks on a slow machine; that is not about the sockets.
    assert len([record for record in caplog.records if "Executing" not in record.getMessage()]) < 20


@pytest.mark.parametrize("kind", ["unix", "tls"])
def test_a_flood_of_garbage_is_no_flood_of_words(
    run: Run,
    directory: Path,
    entered: list[object],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(gate, "HANDSHAKE", 30.0)  # nobody is to be late, only wrong
    # However slow this machine is: what is told when the time is over, the tests of Refusals say.
    monkeypatch.setattr(events, "QUIET", 120.0)
    floods = {"unix": (300, [ATTACKS["garbage"], ATTACKS["length 4097"], AUTH]), "tls": (60, [AUTH])}
    many, attacks = floods[kind]

    async def main() -> list[Event]:
        async with door(kind, directory) as there:
            for start in range(0, many, 15):
                wave = [await there.knock() for _ in range(15)]
                for number, (_, writer) in enumerate(wave):
                    # A length of its own for each of them is a reason of its own for none.
                    data = attacks[number % len(attacks)]
                    writer.write(data if data is AUTH else struct.pack(">I", 2**31 + start + number) + data)
                await asyncio.gather(*map(gone, wave))
                while len(
                    there.controller._admission.gate
                ):  # those who have yet to leave would be evicted for the next
                    await asyncio.sleep(0)
            async with MonitorClient(there.capability()) as client:
                await client.status()
            assert len({id(owner) for owner in entered}) == 1
        return there.events

    with caplog.at_level(logging.INFO, "aioparallel"):
        told: list[Event] = run(main())
    refused = [event for event in told if isinstance(event, PeerRefused)]
    assert sum(event.more + 1 for event in refused) == many
    assert len(refused) <= 2 * len(attacks)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("aioparallel")]
    assert len(lines) < 50
    assert any(f", and {refused[-1].more} others like it" in line for line in lines)


@pytest.mark.parametrize("kind", ["unix", "plain text where TLS is spoken"])
def test_nothing_is_kept_of_those_who_were_not_let_in(run: Run, directory: Path, kind: str) -> None:
    async def main() -> None:
        async with door(kind, directory) as there:
            for data in (b"", b"garbage", b"\xff" * 100):
                streams = await there.knock()
                streams[1].write(data)
                await gone(streams)
            await until(lambda: not len(there.controller._admission.gate))
            await asyncio.sleep(0)
            assert there.controller._admission.connections == {}
        # Leaving means closing, and that does not wait for anybody.

    run(main())


@pytest.mark.parametrize("kind", ["unix", "tls", "plain text where TLS is spoken"])
def test_controller_closes_while_strangers_are_at_the_door(run: Run, directory: Path, kind: str) -> None:
    async def main() -> None:
        async with door(kind, directory) as there:
            streams = [await there.knock() for _ in range(5)]
            # Some are still on their way in, some wait for their time to be over.
        await asyncio.gather(*map(gone, streams))

    run(main())


def test_refusals_are_told_to_the_monitor_and_not_to_the_peer(run: Run, directory: Path) -> None:
    async def main() -> None:
        async with door("unix", directory) as there:
            streams = await there.knock()
            streams[1].write(AUTH)
            said_no_more_than_denied(await gone(streams), "unix")
            (event,) = there.events
            assert isinstance(event, PeerRefused)
            assert "unknown capability" in event.reason
            assert event.source == f"uid {os.getuid()}"

    run(main())


def test_capability_of_one_interface_opens_no_other(run: Run, directory: Path, entered: list[object]) -> None:
    async def main() -> None:
        async with door("unix", directory) as there:
            for interface in ("task", "engine", "admin"):
                forged = dataclasses.replace(there.capability(), interface=interface)
                with pytest.raises(AccessDenied):
                    await connect(forged, role="client", on_frames=lambda frames: None, on_lost=lambda error: None)
            assert entered == []

    run(main())
