"""Bytes travel, on every transport and both loops; at the door places are few, and who is wrong stays outside."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import socket
import ssl
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from runners import Run

from aioparallel import gate, transports
from aioparallel.errors import AccessDenied, AddressError, ConfigurationError
from aioparallel.identity import ALPN, Identity, client_context, server_context
from aioparallel.testing.ends import BufferedEnd, End, PlainEnd, peer_of
from aioparallel.testing.rules import until
from aioparallel.transports import Gate, Listener, Peer, Slot, SocketListener, Transport, scheme_of, unix
from aioparallel.transports.memory import MemoryTransport
from aioparallel.transports.tls import TlsTransport
from aioparallel.transports.unix import LONGEST, UnixTransport


@pytest.fixture(autouse=True, scope="module")
def leavings() -> Iterator[None]:
    """Have what was left open warn here, and not in another module's tests."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def stranger() -> Identity:
    """Another controller's, under the same name."""
    return Identity.new("c0ffee", time.time())


class Place:
    """Somebody who listens, and the ends that arrived there."""

    def __init__(
        self, address: str, identity: Identity | None, gate: Gate | None = None, end: type[End] = PlainEnd
    ) -> None:
        self.asked = address
        self.transport = transports.get(address)
        self.identity = identity
        self.gate = Gate() if gate is None else gate
        self.end = end
        self.ends: list[End] = []
        self.arrived = asyncio.Event()

    async def __aenter__(self) -> Place:
        def arrival(slot: Slot) -> End:
            self.ends.append(self.end(slot))
            self.arrived.set()
            return self.ends[-1]

        self.listener = await self.transport.listen(self.asked, arrival, gate=self.gate, identity=self.identity)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.listener.aclose()
        for end in self.ends:
            if end.transport is not None:
                end.transport.abort()
                await end.lost.wait()
                assert end.wrong == []

    @property
    def address(self) -> str:
        return self.listener.address

    async def dial(self, end: type[End] = PlainEnd) -> End:
        before = len(self.ends)
        transport, protocol = await self.transport.connect(self.address, end, peer=peer_of(self.identity))
        assert protocol.transport is transport
        while len(self.ends) == before:
            self.arrived.clear()
            await self.arrived.wait()
        await self.ends[-1].made.wait()
        made: End = protocol
        return made


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# What all of them promise


@pytest.mark.parametrize("end", [PlainEnd, BufferedEnd])
def test_bytes_travel_both_ways_and_the_end_is_seen(run: Run, address: str, identity: Identity, end: type[End]) -> None:
    data = bytes(range(256)) * 8192

    async def main() -> None:
        async with Place(address, identity, end=end) as place:
            near = await place.dial(end)
            far = place.ends[0]
            near.transport.write(data)
            far.transport.write(memoryview(data)[:70_000])
            await far.wait_for(data)
            await near.wait_for(data[:70_000])
            near.transport.write(b"last words")
            near.transport.close()
            await far.wait_for(data + b"last words")
            await asyncio.gather(near.lost.wait(), far.lost.wait())

    run(main())


def test_what_is_written_may_change_afterwards(run: Run, address: str, identity: Identity) -> None:
    async def main() -> None:
        async with Place(address, identity) as place:
            near = await place.dial()
            data = bytearray(b"a" * 1000)
            near.transport.write(bytes(data[:500]))
            near.transport.write(data)
            await place.ends[0].wait_for(b"a" * 1500)
            near.transport.abort()
            await near.lost.wait()

    run(main())


def test_reader_that_pauses_pauses_the_writer(run: Run, address: str, identity: Identity) -> None:
    async def main() -> None:
        async with Place(address, identity) as place:
            near = await place.dial()
            far = place.ends[0]
            far.transport.pause_reading()
            near.transport.set_write_buffer_limits(high=2**16)
            sent = 0
            while near.writing.is_set():
                near.transport.write(bytes(2**16))
                sent += 2**16
                await turns(2)
                assert sent < 2**28
            assert near.transport.get_write_buffer_size() > 0
            far.transport.resume_reading()
            await near.writing.wait()
            await far.wait_for(bytes(sent))
            near.transport.abort()
            await asyncio.gather(near.lost.wait(), far.lost.wait())

    run(main())


def test_abort_is_seen_at_the_other_end(run: Run, address: str, identity: Identity) -> None:
    async def main() -> None:
        async with Place(address, identity) as place:
            near = await place.dial()
            place.ends[0].transport.abort()
            await asyncio.gather(near.lost.wait(), place.ends[0].lost.wait())

    run(main())


def test_nobody_listens(run: Run, address: str, identity: Identity) -> None:
    async def main() -> None:
        async with Place(address, identity) as place:
            gone = place.address
        with pytest.raises(OSError):  # noqa: PT011
            await place.transport.connect(gone, PlainEnd, peer=peer_of(identity))

    run(main())


def test_closing_the_listener_leaves_connections_and_frees_the_address(
    run: Run, address: str, identity: Identity
) -> None:
    async def main() -> None:
        async with Place(address, identity) as place:
            near = await place.dial()
            near.transport.write(b"here")
            await place.ends[0].wait_for(b"here")
            await place.listener.aclose()
            await place.listener.aclose()
            near.transport.write(b", still")
            await place.ends[0].wait_for(b"here, still")
            async with Place(place.address, identity) as again:
                assert again.address == place.address
            near.transport.abort()
            await near.lost.wait()

    run(main())


def test_address_that_is_taken(run: Run, address: str, identity: Identity) -> None:
    async def main() -> None:
        async with Place(address, identity) as place:
            with pytest.raises(AddressError):
                async with Place(place.address, identity):
                    pass
            near = await place.dial()
            near.transport.abort()
            await near.lost.wait()

    run(main())


def test_listener_says_where_it_is(run: Run, address: str, identity: Identity) -> None:
    async def main() -> None:
        async with Place(address, identity) as place:
            assert place.address in repr(place.listener)
            assert place.address.startswith(address.removesuffix("0"))
            assert not place.address.endswith(":0")
            assert place.listener.fingerprint == (identity.fingerprint if address.startswith("tls") else b"")

    run(main())


def test_vet_returns_the_fingerprint_where_there_is_one(run: Run, address: str, identity: Identity) -> None:
    async def main() -> None:
        async with Place(address, identity) as place:
            near = await place.dial()
            expected = identity.fingerprint if address.startswith("tls") else b""
            assert place.transport.vet(near.transport, peer_of(identity)) == expected
            assert place.transport.vet(place.ends[0].transport, None) == b""
            near.transport.abort()
            await near.lost.wait()

    run(main())


# The gate


def test_silent_peer_is_sent_away_in_time(
    run: Run, address: str, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HANDSHAKE", 0.15)

    async def main() -> None:
        async with Place(address, identity) as place:
            began = asyncio.get_running_loop().time()
            near = await place.dial()
            assert len(place.gate) == 1
            await near.lost.wait()
            assert asyncio.get_running_loop().time() - began >= 0.1
            await place.ends[0].lost.wait()
            assert len(place.gate) == 0
            assert place.gate  # one with nobody before it is a gate all the same

    run(main())


def test_who_has_proved_itself_stays(
    run: Run, address: str, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HANDSHAKE", 0.1)

    async def main() -> None:
        async with Place(address, identity) as place:
            proved, silent = await place.dial(), await place.dial()
            assert place.ends[0].slot is not None
            place.ends[0].slot.leave()
            place.ends[0].slot.leave()
            await silent.lost.wait()
            assert not proved.lost.is_set()
            proved.transport.write(b"x")
            await place.ends[0].wait_for(b"x")
            proved.transport.abort()
            await proved.lost.wait()

    run(main())


def test_full_house_sends_the_oldest_away(run: Run, address: str, identity: Identity) -> None:
    async def main() -> None:
        async with Place(address, identity, Gate(slots=3, per_source=100)) as place:
            dialled = [await place.dial() for _ in range(5)]
            await asyncio.gather(*(end.lost.wait() for end in dialled[:2]))
            assert [end.lost.is_set() for end in dialled] == [True, True, False, False, False]
            assert len(place.gate) == 3
            assert repr(place.gate) == "<Gate 3 of 3 slots taken, 2 evicted>"
            for end in dialled[2:]:
                end.transport.abort()
                await end.lost.wait()

    run(main())


def test_closing_the_gate_sends_everybody_away_who_waits(run: Run, address: str, identity: Identity) -> None:
    async def main() -> None:
        async with Place(address, identity) as place:
            dialled = [await place.dial() for _ in range(3)]
            place.gate.close()
            await asyncio.gather(*(end.lost.wait() for end in dialled))
            assert len(place.gate) == 0

    run(main())


# Addresses


@pytest.mark.parametrize("address", ["", "nothing", "://x", "/a/path", "localhost:99", "unix:/a/path"])
def test_text_that_is_no_address(address: str) -> None:
    with pytest.raises(AddressError, match=r"is not an address: it begins with one of .*memory://, tls://, unix://"):
        transports.get(address)
    with pytest.raises(AddressError):
        scheme_of(address)


def test_unknown_scheme_says_which_are_known() -> None:
    with pytest.raises(
        AddressError, match=r"no transport for 'tcp://localhost:1'; known: .*memory://, tls://, unix://"
    ):
        transports.get("tcp://localhost:1")


@pytest.mark.parametrize(
    ("address", "kind"),
    [("unix:///x", UnixTransport), ("tls://h:1", TlsTransport), ("memory://x", MemoryTransport)],
)
def test_transports_are_found_by_scheme(address: str, kind: type[Transport]) -> None:
    found = transports.get(address)
    assert type(found) is kind
    assert found.scheme == scheme_of(address)


@pytest.mark.parametrize(
    "address",
    [
        "unix://relative/path", "unix://", "unix:///" + "x" * LONGEST,
        "tls://", "tls://host", "tls://host:", "tls://:99", "tls://host:x", "tls://host:-1", "tls://host:65536",
        "tls://host:٣", "tls://host:1/2", "memory://", "memory://a/b",
    ],
)  # fmt: skip
def test_address_of_the_wrong_shape(run: Run, address: str, identity: Identity) -> None:
    transport = transports.get(address)

    async def main() -> None:
        with pytest.raises(AddressError, match=address[:20]):
            await transport.listen(address, PlainEnd, gate=Gate(), identity=identity)
        with pytest.raises(AddressError, match=address[:20]):
            await transport.connect(address, PlainEnd, peer=peer_of(identity))

    run(main())


# The accept loop


class Sabotaged(socket.socket):
    """A listening socket that can't accept for a while, the way it is at the descriptor limit."""

    failures = 0
    number = errno.EMFILE

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            self.failures -= 1
            raise OSError(self.number, os.strerror(self.number))
        return super().accept()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN])
def test_accepting_goes_on_after_a_failure_and_complains_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(transports, "PAUSE", 0.001)

    async def main() -> None:
        listening = Sabotaged()
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        listening.failures, listening.number = 20, number
        adopted = asyncio.Event()

        async def adopt(accepted: socket.socket, slot: Slot) -> Any:
            adopted.set()
            return await asyncio.get_running_loop().connect_accepted_socket(lambda: PlainEnd(slot), accepted)

        async with SocketListener(listening, "tcp://x", arrived=lambda accepted, name: "x", adopt=adopt, gate=Gate()):
            with socket.create_connection(listening.getsockname()):
                await asyncio.wait_for(adopted.wait(), 5)
                await turns()
        await turns()

    with caplog.at_level(logging.WARNING, "aioparallel"):
        asyncio.run(main(), debug=True)
    assert [record.getMessage() for record in caplog.records if record.name == "aioparallel.transports"] == [
        f"tcp://x: can't accept a connection: [Errno {number}] {os.strerror(number)}"
    ]


@pytest.mark.parametrize("error", [OSError("gone"), IndexError("no name"), TypeError("None")])
def test_arrival_that_is_gone_before_it_is_looked_at(run: Run, error: Exception) -> None:
    async def main() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        looked = []
        adopted = asyncio.Event()

        def arrived(accepted: socket.socket, name: Any) -> str:
            looked.append(name)
            if len(looked) == 1:
                raise error
            return "x"

        async def adopt(accepted: socket.socket, slot: Slot) -> Any:
            adopted.set()
            raise ConnectionResetError

        async with SocketListener(listening, "tcp://x", arrived=arrived, adopt=adopt, gate=Gate()):
            with socket.create_connection(listening.getsockname()) as first:
                first.setblocking(False)
                while not looked:
                    await asyncio.sleep(0)
                with socket.create_connection(listening.getsockname()):
                    await adopted.wait()
                assert await asyncio.get_running_loop().sock_recv(first, 1) == b""

    run(main())


def test_closing_between_accept_and_adoption_leaves_nothing_open(run: Run) -> None:
    async def main() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        accepted_ones, closing = list[socket.socket](), list[asyncio.Task[None]]()

        def arrived(accepted: socket.socket, name: Any) -> str:
            accepted_ones.append(accepted)
            closing.append(asyncio.get_running_loop().create_task(listener.aclose()))
            return "x"

        async def adopt(accepted: socket.socket, slot: Slot) -> Any:
            loop = asyncio.get_running_loop()
            return await loop.connect_accepted_socket(lambda: PlainEnd(slot), accepted)

        gate = Gate()
        listener = SocketListener(listening, "tcp://x", arrived=arrived, adopt=adopt, gate=gate)
        with socket.create_connection(listening.getsockname()):
            while not closing:
                await asyncio.sleep(0)
            await closing[0]
            while accepted_ones[0].fileno() != -1:
                await asyncio.sleep(0)
        assert len(gate) == 0

    run(main())


# unix://


def test_socket_lies_in_a_directory_of_its_own(run: Run, directory: Path) -> None:
    async def main() -> None:
        path = directory / "deeper" / "s"
        async with Place(f"unix://{path}", None) as place:
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert path.is_socket()
            assert place.address == f"unix://{path}"
        assert not path.exists()

    run(main())


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o720, 0o750, 0o755, 0o777])
def test_directory_that_is_open_to_others_is_refused(run: Run, directory: Path, mode: int) -> None:
    async def main() -> None:
        directory.chmod(mode)
        with pytest.raises(AddressError, match=rf"must be yours alone: chmod 700 {directory}"):
            async with Place(f"unix://{directory}/s", None):
                pass
        assert list(directory.iterdir()) == []

    run(main())


def test_directory_of_another_user_is_refused(run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(AddressError, match="must be yours alone"):
            async with Place(f"unix://{directory}/s", None):
                pass

    run(main())


def test_directory_that_cannot_be_made(run: Run, directory: Path) -> None:
    async def main() -> None:
        (directory / "file").touch()
        with pytest.raises(AddressError, match=r"Not a directory|File exists"):
            async with Place(f"unix://{directory}/file/s", None):
                pass

    run(main())


def test_longest_path_there_is(run: Run, directory: Path) -> None:
    async def main() -> None:
        path = f"{directory}/" + "x" * (LONGEST - len(str(directory)) - 1)
        async with Place(f"unix://{path}", None) as place:
            near = await place.dial()
            near.transport.abort()
            await near.lost.wait()
        with pytest.raises(AddressError, match=f"longer than the {LONGEST} bytes"):
            async with Place(f"unix://{path}x", None):
                pass
        with pytest.raises(AddressError, match="longer than"):
            # Counted in bytes, not in characters.
            await UnixTransport().connect("unix:///" + "ä" * (LONGEST // 2 + 1), PlainEnd, peer=Peer())

    run(main())


def test_stale_socket_file_is_replaced(run: Run, directory: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(f"{directory}/s")
        async with Place(f"unix://{directory}/s", None) as place:
            near = await place.dial()
            near.transport.abort()
            await near.lost.wait()

    run(main())


def test_socket_that_somebody_listens_on_is_left_alone(run: Run, directory: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(f"{directory}/s")
            other.listen(0)
            with contextlib.ExitStack() as stack:
                # Also when its queue is full.
                for _ in range(3):
                    with pytest.raises(AddressError, match="somebody listens there"):
                        async with Place(f"unix://{directory}/s", None):
                            pass
                    waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                    waiting.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        waiting.connect(f"{directory}/s")
            assert (directory / "s").is_socket()

    run(main())


def test_file_in_the_way_is_left_alone(run: Run, directory: Path) -> None:
    async def main() -> None:
        (directory / "s").write_text("mine")
        with pytest.raises(AddressError, match="the file is in the way"):
            async with Place(f"unix://{directory}/s", None):
                pass
        assert (directory / "s").read_text() == "mine"

    run(main())


def test_file_that_somebody_removed_is_no_trouble_at_the_end(run: Run, directory: Path) -> None:
    async def main() -> None:
        async with Place(f"unix://{directory}/s", None):
            (directory / "s").unlink()

    run(main())


@pytest.mark.parametrize("uid", [1, 65534, 2**31])
def test_arrival_of_another_user_is_turned_away(
    run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    async def main() -> None:
        async with Place(f"unix://{directory}/s", None) as place:
            monkeypatch.setattr(unix, "_uid_of_peer", lambda connected: uid)
            reader, writer = await asyncio.open_unix_connection(f"{directory}/s")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            assert place.ends == []
            assert len(place.gate) == 0

    run(main())


def test_socket_of_another_user_is_not_spoken_to(run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Place(f"unix://{directory}/s", None) as place:
            monkeypatch.setattr(unix, "_uid_of_peer", lambda connected: os.geteuid() + 1)
            with pytest.raises(PermissionError, match=f"served by user {os.geteuid() + 1}, not by you"):
                await UnixTransport().connect(place.address, lambda: pytest.fail("connected"), peer=Peer())

    run(main())


@pytest.mark.parametrize("uid", [0, None])
def test_root_and_systems_that_do_not_say_are_let_pass(
    run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch, uid: int | None
) -> None:
    async def main() -> None:
        monkeypatch.setattr(unix, "_uid_of_peer", lambda connected: uid)
        async with Place(f"unix://{directory}/s", None) as place:
            near = await place.dial()
            near.transport.abort()
            await near.lost.wait()

    run(main())


def test_uid_of_peer_is_the_kernels_word() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert unix._uid_of_peer(left) == os.geteuid()


# tls://


def test_tls_needs_an_identity_to_listen_and_certificates_to_dial(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ConfigurationError, match="needs an identity"):
            await TlsTransport().listen("tls://127.0.0.1:0", PlainEnd, gate=Gate(), identity=None)
        with pytest.raises(AddressError, match="names no certificate"):
            await TlsTransport().connect("tls://127.0.0.1:1", PlainEnd, peer=Peer())

    run(main())


def test_host_that_cannot_be_listened_on(run: Run, identity: Identity) -> None:
    async def main() -> None:
        for host in ("192.0.2.1", "no-such-host.invalid"):
            with pytest.raises(AddressError, match=f"tls://{host}:0: "):
                await TlsTransport().listen(f"tls://{host}:0", PlainEnd, gate=Gate(), identity=identity)

    run(main())


def test_ipv6_address_is_shown_as_one_dials_it(run: Run, identity: Identity) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("SKIPPED: this machine has no IPv6 loopback")

    async def main() -> None:
        async with Place("tls://[::1]:0", identity) as place:
            assert place.address.startswith("tls://[::1]:")
            near = await place.dial()
            near.transport.abort()
            await near.lost.wait()

    run(main())


def test_connection_is_tls_1_3_and_sends_at_once(run: Run, identity: Identity) -> None:
    async def main() -> None:
        async with Place("tls://127.0.0.1:0", identity) as place:
            near = await place.dial()
            for end in (near, place.ends[0]):
                secured = end.transport.get_extra_info("ssl_object")
                assert secured.version() == "TLSv1.3"
                assert secured.selected_alpn_protocol() == ALPN
                tuned = end.transport.get_extra_info("socket")
                assert tuned.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert tuned.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            near.transport.abort()
            await near.lost.wait()

    run(main())


def test_another_certificate_ends_the_tls_handshake(run: Run, identity: Identity, stranger: Identity) -> None:
    async def main() -> None:
        async with Place("tls://127.0.0.1:0", identity) as place:
            with pytest.raises(
                AccessDenied, match=r"^tls://127.* shows another certificate than the capability names: "
            ):
                await TlsTransport().connect(place.address, PlainEnd, peer=peer_of(stranger))

    run(main())


def test_certificate_that_is_trusted_but_not_pinned(run: Run, identity: Identity, stranger: Identity) -> None:
    async def main() -> None:
        async with Place("tls://127.0.0.1:0", identity) as place:
            near = await place.dial()
            both = (identity.certificate_pem, stranger.certificate_pem)
            only_stranger = Peer(identity.server_name, both, (stranger.fingerprint.hex(),))
            with pytest.raises(AccessDenied, match="another certificate than the capability names"):
                place.transport.vet(near.transport, only_stranger)
            with pytest.raises(ConnectionError):
                place.transport.vet(near.transport, Peer(identity.server_name, both, ()))
            next_one_too = Peer(identity.server_name, both, (stranger.fingerprint.hex(), identity.fingerprint.hex()))
            assert place.transport.vet(near.transport, next_one_too) == identity.fingerprint
            near.transport.abort()
            await near.lost.wait()

    run(main())


def test_another_name_in_the_certificate(run: Run, identity: Identity) -> None:
    async def main() -> None:
        async with Place("tls://127.0.0.1:0", identity) as place:
            wrong = Peer("other.aioparallel.invalid", (identity.certificate_pem,), (identity.fingerprint.hex(),))
            with pytest.raises(AccessDenied, match=r"another certificate .*Hostname mismatch"):
                await TlsTransport().connect(place.address, PlainEnd, peer=wrong)

    run(main())


class Vetting(PlainEnd):
    """Looks at the far end as a connection does, and goes if it is the wrong one."""

    def __init__(self, slot: Slot | None = None, peer: Peer | None = None) -> None:
        super().__init__(slot)
        self.peer = peer
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        try:
            TlsTransport().vet(transport, self.peer)
        except ConnectionError as error:
            self.error = error
            self.transport.abort()


@contextlib.asynccontextmanager
async def tls_server(context: ssl.SSLContext) -> AsyncIterator[str]:
    """Somebody who speaks TLS, but not as we do."""
    ends: list[End] = []

    def made() -> End:
        ends.append(PlainEnd())
        return ends[-1]

    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0, ssl=context)
    try:
        yield f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for end in ends:
            if end.transport is not None:
                end.transport.abort()
                await end.lost.wait()


def test_server_that_agrees_on_no_protocol_is_not_spoken_to(run: Run, identity: Identity) -> None:
    # The same certificate, without our protocol: OpenSSL goes on, we don't.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.NamedTemporaryFile() as file:
        file.write(identity.key_pem.reveal() + b"\n" + identity.certificate_pem.encode())
        file.flush()
        context.load_cert_chain(file.name)

    async def main() -> None:
        ends: list[Vetting] = []

        def made() -> Vetting:
            ends.append(Vetting(peer=peer_of(identity)))
            return ends[-1]

        async with tls_server(context) as address:
            with contextlib.suppress(OSError):
                await TlsTransport().connect(address, made, peer=peer_of(identity))
            await ends[0].lost.wait()
            assert str(ends[0].error) == "the far end does not speak aioparallel/1"

    run(main())


def test_client_that_agrees_on_no_protocol_is_not_spoken_to(run: Run, identity: Identity) -> None:
    async def main() -> None:
        async with Place("tls://127.0.0.1:0", identity, end=Vetting) as place:
            context = client_context([identity.certificate_pem])
            context.set_alpn_protocols(["http/1.1"])
            port = int(place.address.rpartition(":")[2])
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname=identity.server_name
            )
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            (end,) = place.ends
            assert isinstance(end, Vetting)
            assert str(end.error) == "the far end does not speak aioparallel/1"
            await end.lost.wait()
            assert len(place.gate) == 0

    run(main())


def test_tls_1_2_is_refused_by_both_ends(run: Run, identity: Identity) -> None:
    async def main() -> None:
        async with Place("tls://127.0.0.1:0", identity) as place:
            old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            old.set_alpn_protocols([ALPN])
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("127.0.0.1", int(place.address.rpartition(":")[2]), ssl=old)
            assert all(end.transport is None for end in place.ends)
        old_server = server_context(identity)
        old_server.minimum_version = ssl.TLSVersion.TLSv1_2
        old_server.maximum_version = ssl.TLSVersion.TLSv1_2
        async with tls_server(old_server) as address:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await TlsTransport().connect(address, PlainEnd, peer=peer_of(identity))

    run(main())


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x80\x04\x95", bytes(5000), b"\x16\x03\x01\xff\xff" * 9])
def test_plain_text_reaches_no_protocol(
    run: Run, identity: Identity, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    async def main() -> None:
        async with Place("tls://127.0.0.1:0", identity) as place:
            port = int(place.address.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            assert all(end.transport is None for end in place.ends)
            await until(lambda: not len(place.gate))

    with caplog.at_level(logging.INFO):
        run(main())
    assert [record for record in caplog.records if record.name != "asyncio"] == []


@pytest.mark.parametrize("limit", ["HANDSHAKE", "TLS_HANDSHAKE"])
def test_peer_that_never_begins_tls_is_sent_away(
    run: Run, identity: Identity, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(gate, "HANDSHAKE", 0.1 if limit == "HANDSHAKE" else 6.0)
    monkeypatch.setattr("aioparallel.transports.tls.TLS_HANDSHAKE", 0.1 if limit == "TLS_HANDSHAKE" else 3.0)

    async def main() -> None:
        async with Place("tls://127.0.0.1:0", identity) as place:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(place.address.rpartition(":")[2]))
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            await until(lambda: not len(place.gate))
            assert all(end.transport is None for end in place.ends)

    run(main())


def test_cancelled_dialling_leaves_nothing_open(run: Run, identity: Identity) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            deaf.setblocking(False)
            dialling = asyncio.ensure_future(
                TlsTransport().connect(f"tls://127.0.0.1:{deaf.getsockname()[1]}", PlainEnd, peer=peer_of(identity))
            )
            loop = asyncio.get_running_loop()
            accepted, _ = await loop.sock_accept(deaf)
            with accepted:
                assert await loop.sock_recv(accepted, 1) == b"\x16"
                dialling.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await dialling
                with contextlib.suppress(ConnectionError):
                    while await loop.sock_recv(accepted, 4096):
                        pass

    run(main())


# memory://


def test_names_are_known_on_their_own_loop_only(run: Run) -> None:
    async def elsewhere(address: str) -> None:
        with pytest.raises(ConnectionRefusedError, match="in this event loop"):
            await MemoryTransport().connect(address, PlainEnd, peer=Peer())

    async def main() -> None:
        async with Place("memory://here", None) as place:
            await asyncio.to_thread(asyncio.run, elsewhere(place.address))

    run(main())


def test_protocol_that_raises_ends_its_connection(run: Run, address: str, identity: Identity) -> None:
    class Failing(PlainEnd):
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("a bug")

    async def main() -> None:
        said: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context))
        async with Place(address, identity, end=Failing) as place:
            near = await place.dial()
            near.transport.write(b"x")
            await asyncio.gather(near.lost.wait(), place.ends[0].lost.wait())
        assert [str(context["exception"]) for context in said] == ["a bug"]

    run(main())


def test_memory_end_says_who_it_is(run: Run) -> None:
    async def main() -> None:
        async with Place("memory://here", None) as place:
            near = await place.dial()
            assert near.transport.get_extra_info("peername") == "memory://here"
            assert repr(near.transport) == "<memory end memory://here>"
            assert not near.transport.can_write_eof()
            near.transport.set_write_buffer_limits(high=100)
            assert near.transport.get_write_buffer_limits() == (25, 100)
            near.transport.write_eof()
            assert repr(near.transport) == "<memory end memory://here closing>"
            near.transport.write(b"into the void")
            await place.ends[0].lost.wait()
            assert place.ends[0].received == b""

    run(main())


def test_listener_is_an_abstract_class() -> None:
    assert Listener.__abstractmethods__ == {"aclose"}
    assert Transport.__abstractmethods__ == {"connect", "listen"}
