"""What a transport must do, rule by rule: `await check_transport("wss://127.0.0.1:0")`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import select
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from aioparallel import transports
from aioparallel.controller import Controller
from aioparallel.errors import AccessDenied, AddressError, ConfigurationError, PluginError
from aioparallel.identity import Identity
from aioparallel.interfaces.monitor import MonitorClient
from aioparallel.source import SYSTEM
from aioparallel.testing.ends import BufferedEnd, End, Place, PlainEnd, Subject, giving, listening, peer_of
from aioparallel.testing.rules import CheckFailed, expect, follow_all, until
from aioparallel.transports import Gate, Listener, Peer, Transport

__all__ = ["check_transport"]

#: What travels: sizes of writes, and a number of bytes that no buffer on the way holds.
SIZES = (0, 1, 2, 125, 126, 4096, 65535, 65536, 1_000_003)
TOO_MUCH = 2**26
#: Turns of the loop after which a dialling is given up: at every stage of it.
STAGES = (*range(12), 20, 40, 80)


async def check_transport(address: str, transport: Transport | None = None, *, seconds: float = 10.0) -> list[str]:
    """Check that a transport does what `aioparallel.transports.Transport` asks for.

    It listens and dials here, on the running loop, and leaves nothing behind.

    Args:
        address: Where it can listen, such as "tls://127.0.0.1:0"; it must be free.
        transport: The transport; None: the one that is installed for the scheme. Only an installed one is tried with
            a real controller.
        seconds: How long each rule may take.

    Returns:
        The rules that it follows, in words.

    Raises:
        CheckFailed: It breaks one; the text says which, and what was seen.
        ConfigurationError: It needs an identity, and no certificate can be made here: trustme is missing.
    """
    usable = "It is found by its scheme, and is made without arguments."
    try:
        found = transports.get(address) if transport is None else transport
    except (PluginError, AddressError) as error:
        raise CheckFailed(f"transport of {address}", usable, str(error)) from error
    kind = type(found)
    name = f"transport {getattr(found, 'scheme', '?')!r} ({kind.__module__}:{kind.__qualname__})"
    if not isinstance(found, Transport) or not address.startswith(f"{getattr(found, 'scheme', None)}://"):
        raise CheckFailed(name, usable, f"it is no Transport, or {address!r} has another scheme")
    needed = found.needs_identity
    identity, stranger = (Identity.new("c0ffee", SYSTEM.wall()) if needed else None for _ in range(2))
    subject = Subject(found, address, identity, stranger, installed=transport is None)
    rules = [rule for condition, rule in RULES if condition(subject)]
    return [usable, *await follow_all(name, rules, subject, seconds=seconds)]


# The rules


async def listens_where_it_says(subject: Subject) -> None:
    """Its listener's address begins with its scheme, and who dials that arrives."""
    async with listening(subject) as place:
        address = place.listener.address
        expect(isinstance(place.listener, Listener), f"listen returned {place.listener!r}")
        expect(address.startswith(f"{subject.transport.scheme}://"), f"the listener's address is {address!r}")
        try:
            await place.dial()
        except (OSError, ConfigurationError) as error:
            expect(False, f"it listens on {subject.address!r} and says {address!r}; who dials that: {error!r}")
        if subject.identity is not None:
            expect(place.listener.fingerprint == subject.identity.fingerprint, "the listener has another fingerprint")


async def carries_bytes_both_ways(subject: Subject) -> None:
    """Bytes arrive whole and in order, both ways, whatever the sizes of the writes and the kind of protocol."""
    pieces = [bytes([size % 251]) * size for size in SIZES]
    async with listening(subject) as place:
        for make in (PlainEnd, BufferedEnd):
            near, far = await place.dial(make)
            for sender, reader in ((near, far), (far, near)):
                sender.transport.writelines([memoryview(pieces[4]), bytearray(pieces[3]), pieces[2]])
                for piece in pieces:
                    sender.transport.write(piece)
                await reader.wait_for(pieces[4] + pieces[3] + pieces[2] + b"".join(pieces))


async def pauses_the_writer(subject: Subject) -> None:
    """A reader that pauses pauses the writer, soon after its high-water mark, and nothing is lost."""
    async with listening(subject) as place:
        near, far = await place.dial()
        near.transport.set_write_buffer_limits(high=2**16)
        far.transport.pause_reading()
        sent = 0
        while near.writing.is_set():
            near.transport.write(bytes(2**16))
            sent += 2**16
            await asyncio.sleep(0)
            expect(sent < TOO_MUCH, f"{sent >> 20} MiB were written, none was read, and nobody was told to pause")
        expect(near.transport.get_write_buffer_size() > 0, "the writer is paused, and get_write_buffer_size() is 0")
        far.transport.resume_reading()
        await near.writing.wait()
        await far.wait_for(bytes(sent))


async def closes_in_good_order(subject: Subject) -> None:
    """`close` writes what waits, and then both ends are told; to close twice does no harm."""
    data = bytes(range(256)) * 8192
    async with listening(subject) as place:
        for closing in (0, 1):
            ends = await place.dial()
            ends[closing].transport.write(data)
            ends[closing].transport.close()
            ends[closing].transport.close()
            expect(ends[closing].transport.is_closing(), "is_closing() is False after close()")
            await ends[1 - closing].wait_for(data)
            await asyncio.gather(*(end.lost.wait() for end in ends))


async def ends_at_once(subject: Subject) -> None:
    """`abort` ends the connection at once, also while nobody reads, and both ends are told."""
    async with listening(subject) as place:
        for aborting in (0, 1):
            ends = await place.dial()
            ends[1 - aborting].transport.pause_reading()
            ends[aborting].transport.write(bytes(2**20))
            ends[aborting].transport.abort()
            expect(ends[aborting].transport.is_closing(), "is_closing() is False after abort()")
            await ends[aborting].lost.wait()
            ends[1 - aborting].transport.resume_reading()
            await ends[1 - aborting].lost.wait()


async def lets_a_protocol_hang_up(subject: Subject) -> None:
    """A protocol may end the connection in `connection_made`, or as it reads, and is told so; so is the other one."""
    for leaves in ("abort", "close"):
        async with listening(subject) as place:
            near, far = await place.dial()
            near.leaves_reading = leaves
            far.transport.write(b"go")
            await asyncio.gather(near.lost.wait(), far.lost.wait())
        near = PlainEnd(leaves=leaves)
        async with listening(subject) as place:
            await _dial_in_vain(place, near)
            await near.lost.wait()
        async with listening(subject, leaves=leaves) as place:
            near = PlainEnd()
            await _dial_in_vain(place, near)
            await until(functools.partial(_first_is_lost, place))
            if near.made.is_set():
                await near.lost.wait()


async def refuses_when_nobody_listens(subject: Subject) -> None:
    """Where nobody listens (any more) `connect` raises OSError."""
    async with listening(subject) as place:
        address = place.listener.address
    end = PlainEnd()
    try:
        await subject.transport.connect(address, giving(end), peer=subject.peer)
    except OSError:
        expect(not end.made.is_set(), "the protocol was told of a connection")
    else:
        expect(False, "it connected")


async def refuses_what_is_no_address(subject: Subject) -> None:
    """An address of the wrong shape, or one that is taken, is refused: AddressError, which names it."""
    nothing = f"{subject.transport.scheme}://"
    for word, attempt in _attempts(subject, nothing):
        await _expect_address_error(f"{word} {nothing!r}", nothing, attempt)
    async with listening(subject) as place:
        taken = place.listener.address
        [(word, attempt), _] = _attempts(subject, taken)
        await _expect_address_error(f"{word} {taken!r}, where somebody listens", taken, attempt)
        await place.dial()


async def frees_its_address(subject: Subject) -> None:
    """A listener that is closed, even twice, leaves its connections alone, and its address to the next."""
    async with listening(subject) as place:
        near, far = await place.dial()
        near.transport.write(b"here")
        await far.wait_for(b"here")
        await place.listener.aclose()
        await place.listener.aclose()
        near.transport.write(b", still")
        await far.wait_for(b"here, still")
        async with listening(subject, address=place.listener.address) as again:
            expect(again.listener.address == place.listener.address, f"it is {again.listener.address!r} then")
            await again.dial()


async def passes_the_gate(subject: Subject) -> None:
    """Every arrival has a slot in the gate until it leaves it, and one that is sent away is gone."""
    gate = Gate(slots=2)
    async with listening(subject, gate=gate) as place:
        near, far = await place.dial()
        expect(far.slot is not None and len(gate) == 1, f"one has arrived, and {len(gate)} are in the gate")
        far.prove()
        others = [await place.dial() for _ in range(3)]
        expect(len(gate) == 2, f"of the gate's 2 slots {len(gate)} are taken")
        await asyncio.gather(others[0][0].lost.wait(), others[0][1].lost.wait())
        gate.close()
        for end in (*others[1], *others[2]):
            await end.lost.wait()
        expect(not near.lost.is_set(), "one that had proved itself was sent away")
        near.transport.write(b"here")
        await far.wait_for(b"here")


async def bounds_who_says_nothing(subject: Subject) -> None:
    """Who connects and speaks no TLS, or nothing, is in the gate, is sent away from there, and reaches no protocol."""
    async with listening(subject) as place:
        for said in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256))):
            await _say(place, said)
            await until(lambda: not len(place.gate))
        expect(not _anybody_met(place), "a protocol was told of a connection")
        await place.dial()


async def tells_who_answers(subject: Subject) -> None:
    """`vet` gives the fingerprint that the listener has, to who dials; b"" to who listens."""
    async with listening(subject) as place:
        near, far = await place.dial()
        seen = subject.transport.vet(near.transport, subject.peer)
        expect(
            seen == place.listener.fingerprint, f"it gives {seen!r}; the listener's is {place.listener.fingerprint!r}"
        )
        listens = subject.transport.vet(far.transport, None)
        expect(listens == b"", f"on the listening side it gives {listens!r}")


async def knows_the_controller(subject: Subject) -> None:
    """Who shows another certificate than the peer names is found out by `connect` or `vet`: OSError."""
    assert subject.stranger is not None
    wrong = peer_of(subject.stranger)
    same_name = Peer(subject.peer.server_name, subject.peer.certificates, wrong.pins)
    nobody = Peer(subject.peer.server_name)
    async with listening(subject) as place:
        for peer in (wrong, same_name, nobody):
            near: End = PlainEnd(vet=functools.partial(_vetted, subject.transport, peer))
            place.dialled.append(near)
            try:
                await subject.transport.connect(place.listener.address, giving(near), peer=peer)
            except (OSError, ConfigurationError):
                pass
            else:
                expect(
                    isinstance(near.refusal, OSError), f"it connected, and vet found nothing amiss: {near.refusal!r}"
                )
            if near.made.is_set():
                await near.lost.wait()


async def needs_its_identity(subject: Subject) -> None:
    """Without an identity it does not listen: ConfigurationError."""
    try:
        listener = await subject.transport.listen(subject.address, PlainEnd, gate=Gate(), identity=None)
    except ConfigurationError:
        return
    await listener.aclose()
    expect(False, "it listens")


async def gives_up_cleanly(subject: Subject) -> None:
    """A dialling that is cancelled, at whatever moment, leaves nothing open at either end."""
    async with listening(subject) as place:
        for turns in STAGES:
            near = PlainEnd()
            place.dialled.append(near)
            dialling = asyncio.ensure_future(
                subject.transport.connect(place.listener.address, giving(near), peer=subject.peer)
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            dialling.cancel()
            await asyncio.wait([dialling])
            if not dialling.cancelled() and dialling.exception() is None:
                near.abort()
            if near.made.is_set():
                await near.lost.wait()
        # Those that arrived have done so before this one.
        last, _ = await place.dial()
        last.transport.write(b"here")
        await until(lambda: any(end.received == b"here" for end in place.ends))
        for far in place.ends:
            if far.made.is_set() and not far.received:
                await far.lost.wait()
        await until(lambda: len(place.gate) == 1)


async def shows_its_socket_if_it_is_plain(subject: Subject) -> None:
    """It gives away its socket only where that carries the protocol's own bytes, or under TLS."""
    async with listening(subject) as place:
        for end, other in [(pair := await place.dial()), pair[::-1]]:
            expect(end.transport.get_extra_info("no such thing", 7) == 7, "get_extra_info ignores its default")
            shown = end.transport.get_extra_info("socket")
            if shown is None or end.transport.get_extra_info("ssl_object") is not None:
                continue
            end.transport.pause_reading()
            other.transport.write(b"abc")
            await until(functools.partial(_readable, shown.fileno()))
            with socket.socket(fileno=os.dup(shown.fileno())) as same:
                seen = same.recv(3, socket.MSG_PEEK)
            expect(seen == b"abc", f"b'abc' was written, and on the socket is {seen!r}")
            end.transport.resume_reading()
            await end.wait_for(b"abc")


async def serves_a_controller(subject: Subject) -> None:
    """A controller can be reached over it with its capability, and with no other."""
    async with Controller() as controller, Controller() as other:
        address = await controller.listen(subject.address)
        for each in (controller, other):
            await each.add("monitor")
        async with MonitorClient(controller.capability("monitor")) as monitor:
            status = await monitor.status()
            expect(status["addresses"] == [address], f"its status names {status['addresses']}")
        good, wrong = controller.capability("monitor"), other.capability("monitor")
        try:
            await MonitorClient.connect(replace(good, id=wrong.id, key=wrong.key))
        except AccessDenied:
            return
        expect(False, "it let somebody in with the capability of another controller")


async def _dial_in_vain(place: Place, near: End) -> None:
    """Dial where one of the two hangs up at once: that may be seen already."""
    place.dialled.append(near)
    with contextlib.suppress(OSError):
        await place.subject.transport.connect(place.listener.address, giving(near), peer=place.subject.peer)


async def _say(place: Place, said: bytes) -> None:
    """Connect past the transport, say something or nothing, and wait to be sent away."""
    parts = urlsplit(place.listener.address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    reading = asyncio.ensure_future(_read_to_end(reader))
    try:
        writer.write(said)
        if not said:
            await until(lambda: len(place.gate) == 1)
            place.gate.close()
        await until(lambda: reading.done() or _anybody_met(place))
        expect(reading.done(), "a protocol was told of a connection")
    finally:
        reading.cancel()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _anybody_met(place: Place) -> bool:
    return any(end.made.is_set() for end in place.ends)


async def _read_to_end(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(65536):
            pass


def _always(subject: Subject) -> bool:
    return True


def _is_secured(subject: Subject) -> bool:
    return subject.identity is not None


def _is_network(subject: Subject) -> bool:
    with contextlib.suppress(ValueError):
        return _is_secured(subject) and urlsplit(subject.address).port is not None
    return False


def _is_installed(subject: Subject) -> bool:
    return subject.installed


RULES = (
    (_always, listens_where_it_says),
    (_always, carries_bytes_both_ways),
    (_always, pauses_the_writer),
    (_always, closes_in_good_order),
    (_always, ends_at_once),
    (_always, lets_a_protocol_hang_up),
    (_always, refuses_when_nobody_listens),
    (_always, refuses_what_is_no_address),
    (_always, frees_its_address),
    (_always, passes_the_gate),
    (_is_network, bounds_who_says_nothing),
    (_always, tells_who_answers),
    (_is_secured, knows_the_controller),
    (_is_secured, needs_its_identity),
    (_always, gives_up_cleanly),
    (_always, shows_its_socket_if_it_is_plain),
    (_is_installed, serves_a_controller),
)


def _attempts(subject: Subject, address: str) -> list[tuple[str, Callable[[], Any]]]:
    transport = subject.transport
    return [
        ("listen", lambda: transport.listen(address, PlainEnd, gate=Gate(), identity=subject.identity)),
        ("connect", lambda: transport.connect(address, PlainEnd, peer=subject.peer)),
    ]


async def _expect_address_error(what: str, address: str, attempt: Callable[[], Any]) -> None:
    try:
        made = await attempt()
    except AddressError as error:
        expect(address in str(error), f"{what} says {str(error)!r}, which does not name it")
        return
    except Exception as error:
        expect(False, f"{what} raised {error!r}")
    if isinstance(made, Listener):
        await made.aclose()
    else:
        made[0].abort()
    expect(False, f"{what} did not fail")


def _first_is_lost(place: Place) -> bool:
    return bool(place.ends) and place.ends[0].lost.is_set()


def _vetted(transport: Transport, peer: Peer, made: asyncio.BaseTransport) -> bytes:
    return transport.vet(made, peer)


def _readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])
