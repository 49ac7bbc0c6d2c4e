"""Ends of connections that note what they are told, and a place where they arrive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from aioparallel.identity import Identity
from aioparallel.testing.rules import expect, until
from aioparallel.transports import Gate, Listener, Peer, Slot, Transport

__all__ = ["BufferedEnd", "End", "Place", "PlainEnd", "Subject", "giving", "listening", "peer_of"]

#: What is asked of a transport.
METHODS: tuple[str, ...] = (
    "abort",
    "close",
    "get_extra_info",
    "get_write_buffer_size",
    "is_closing",
    "is_reading",
    "pause_reading",
)
METHODS += ("resume_reading", "set_write_buffer_limits", "write", "writelines")


class End(asyncio.BaseProtocol):
    """One end of a connection.

    Args:
        slot: Its place before the gate, on the listening side.
        leaves: What it does to the transport as soon as it is connected: "abort", "close" or nothing.
        vet: Called with the transport then; if that raises ConnectionError it hangs up.

    Attributes:
        received: What has arrived.
        wrong: What it was told and should not have been, in words.
        refusal: What `vet` raised.
        leaves_reading: What it does to the transport when something arrives.
    """

    def __init__(
        self,
        slot: Slot | None = None,
        *,
        leaves: str = "",
        vet: Callable[[asyncio.BaseTransport], object] | None = None,
    ) -> None:
        self.slot = slot
        self.transport: Any = None
        self.received = bytearray()
        self.wrong: list[str] = []
        self.refusal: Exception | None = None
        self.leaves_reading = ""
        self.made = asyncio.Event()
        self.lost = asyncio.Event()
        self.writing = asyncio.Event()
        self.writing.set()
        self._leaves = leaves
        self._vet = vet
        self._arrived = asyncio.Event()

    def __repr__(self) -> str:
        state = "lost" if self.lost.is_set() else "connected" if self.made.is_set() else "not connected"
        return f"<{type(self).__name__} {state}, {len(self.received)} bytes received>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport, vet it, hang up if that is wanted."""
        if self.made.is_set():
            self.wrong.append("connection_made was called twice")
        # Not isinstance: uvloop's are not derived from asyncio's.
        lacking = [name for name in METHODS if not callable(getattr(transport, name, None))]
        if lacking:
            self.wrong.append(f"connection_made was called with {transport!r}, which lacks {', '.join(lacking)}")
        self.transport = transport
        self.made.set()
        if self._vet is not None:
            try:
                self._vet(transport)
            except ConnectionError as error:
                self.refusal = error
                self._leaves = "abort"
        self._leave(self._leaves)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note the end."""
        if not self.made.is_set():
            self.wrong.append("connection_lost was called without connection_made")
        if self.lost.is_set():
            self.wrong.append("connection_lost was called twice")
        if exc is not None and not isinstance(exc, Exception):
            self.wrong.append(f"connection_lost was called with {exc!r}")
        self.prove()
        self.lost.set()

    def take(self, data: bytes | bytearray) -> None:
        """Note what arrived."""
        if not self.made.is_set() or self.lost.is_set():
            self.wrong.append(f"{len(data)} bytes came before connection_made, or after connection_lost")
        self.received += data
        self._arrived.set()
        self._leave(self.leaves_reading)

    def eof_received(self) -> bool:
        """The far end writes no more; then neither does this one."""
        return False

    def pause_writing(self) -> None:
        """Note that the transport has enough."""
        if not self.writing.is_set():
            self.wrong.append("pause_writing was called twice")
        self.writing.clear()

    def resume_writing(self) -> None:
        """Note that the transport takes more."""
        if self.writing.is_set():
            self.wrong.append("resume_writing was called without pause_writing")
        self.writing.set()

    def prove(self) -> None:
        """Leave the gate."""
        if self.slot is not None:
            self.slot.leave()

    def abort(self) -> None:
        """End the connection, if there is one."""
        if self.made.is_set() and not self.lost.is_set():
            self.transport.abort()

    async def wait_for(self, data: bytes) -> None:
        """Wait until so much has arrived, and check that it is this.

        Raises:
            ValueError: Something else has.
        """
        while len(self.received) < len(data) and not self.lost.is_set():
            self._arrived.clear()
            lost, arrived = (asyncio.ensure_future(event.wait()) for event in (self.lost, self._arrived))
            try:
                await asyncio.wait([lost, arrived], return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError as error:
                # For whoever limits the time, and wants to know what it was spent on.
                error.args = (f"of {len(data)} bytes {len(self.received)} have arrived",)
                raise
            finally:
                lost.cancel()
                arrived.cancel()
        if self.received != data:
            same = next((i for i, (a, b) in enumerate(zip(self.received, data, strict=False)) if a != b), None)
            which = "" if same is None else f", other ones from byte {same} on"
            raise ValueError(f"of {len(data)} bytes {len(self.received)} arrived{which}")

    def _leave(self, how: str) -> None:
        if how == "abort":
            self.transport.abort()
        elif how == "close":
            self.transport.close()


class PlainEnd(End, asyncio.Protocol):
    """Is given what arrives."""

    def data_received(self, data: bytes) -> None:
        """Note it."""
        self.take(data)


class BufferedEnd(End, asyncio.BufferedProtocol):
    """Has it read into memory of its own, a little at a time."""

    def __init__(self, slot: Slot | None = None, **options: Any) -> None:
        super().__init__(slot, **options)
        self._buffer = bytearray(1000)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes belong."""
        return memoryview(self._buffer)

    def buffer_updated(self, nbytes: int) -> None:
        """Note what arrived."""
        self.take(self._buffer[:nbytes])


@dataclass(frozen=True, slots=True)
class Subject:
    """What the rules are tried on.

    Attributes:
        transport: The transport.
        address: Where it is to listen.
        identity: The controller's key and certificate, if it needs one.
        stranger: Another controller's, of the same name.
        installed: Whether it is found by the address's scheme.
    """

    transport: Transport
    address: str
    identity: Identity | None
    stranger: Identity | None
    installed: bool

    @property
    def peer(self) -> Peer:
        """What one who dials knows."""
        return peer_of(self.identity)


@dataclass(slots=True)
class Place:
    """Somebody who listens, and the ends that arrived there."""

    subject: Subject
    listener: Listener
    gate: Gate
    ends: list[End] = field(default_factory=list)
    dialled: list[End] = field(default_factory=list)

    async def dial(self, make: Callable[[], End] = PlainEnd, peer: Peer | None = None) -> tuple[End, End]:
        """Dial; return the near end and the far end when both are told."""
        near = make()
        self.dialled.append(near)
        before = len(self.ends)
        transport, protocol = await self.subject.transport.connect(
            self.listener.address, giving(near), peer=peer or self.subject.peer
        )
        expect(protocol is near, f"connect returned the protocol {protocol!r}, not the one that was made for it")
        expect(
            near.transport is transport or near.lost.is_set(),
            f"connect returned {transport!r}; the protocol was told {near.transport!r}",
        )
        await until(lambda: len(self.ends) > before and self.ends[-1].made.is_set())
        return near, self.ends[-1]


@contextlib.asynccontextmanager
async def listening(
    subject: Subject, *, address: str = "", gate: Gate | None = None, leaves: str = ""
) -> AsyncIterator[Place]:
    """Listen; at the end see to it that every protocol was told of its connection and of its end, once."""
    gate = Gate() if gate is None else gate

    def arrival(slot: Slot) -> End:
        ends.append(PlainEnd(slot, leaves=leaves))
        return ends[-1]

    ends: list[End] = []
    listener = await subject.transport.listen(address or subject.address, arrival, gate=gate, identity=subject.identity)
    place = Place(subject, listener, gate, ends)
    try:
        yield place
        await listener.aclose()
    except BaseException:
        for end in [*place.ends, *place.dialled]:
            end.abort()
        await listener.aclose()
        raise
    for end in [*place.ends, *place.dialled]:
        if end.made.is_set():
            end.abort()
            await end.lost.wait()
            expect(not end.wrong, "; ".join(end.wrong))
    await until(lambda: not len(gate))


def giving(end: End) -> Callable[[], End]:
    """Return a protocol factory that gives this end."""
    return lambda: end


def peer_of(identity: Identity | None) -> Peer:
    """Return what one who dials that controller knows."""
    if identity is None:
        return Peer()
    return Peer(identity.server_name, (identity.certificate_pem,), (identity.fingerprint.hex(),))
