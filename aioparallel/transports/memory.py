"""memory://name: a pair of ends inside the process, for embedding and tests."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from aioparallel.errors import AddressError
from aioparallel.transports import Gate, Listener, Peer, Slot, Transport
from aioparallel.wire import Buffer

if TYPE_CHECKING:
    from aioparallel.identity import Identity

__all__ = ["MemoryEnd", "MemoryTransport", "Way", "intercept"]

HIGH = 2**20

#: How bytes get from one end to the other, where that is not at once: called with what is sent (nothing at the end of
#: the connection), and with what lets it arrive. Whoever carries it keeps the order.
Way: TypeAlias = Callable[[memoryview, Callable[[], None]], None]

_NOTHING = memoryview(b"")

#: Who listens in this process: (name, loop) -> listener. A listener removes itself when it closes.
_listeners: dict[tuple[str, asyncio.AbstractEventLoop], _MemoryListener] = {}


class MemoryTransport(Transport):
    """Bytes passed by hand from one protocol to another on the same loop."""

    scheme: ClassVar[str] = "memory"
    in_process: ClassVar[bool] = True

    async def connect(
        self, address: str, protocol_factory: Callable[[], asyncio.BaseProtocol], *, peer: Peer
    ) -> tuple[asyncio.Transport, Any]:
        """Join the listener of that name on this loop.

        Raises:
            AddressError: The address has no name.
            ConnectionRefusedError: Nobody listens under that name on this loop.
        """
        name = _name(address)
        listener = _listeners.get((name, asyncio.get_running_loop()))
        if listener is None:
            raise ConnectionRefusedError(f"nobody listens on {address} in this event loop")
        near, far = MemoryEnd(address), MemoryEnd(address)
        near.join(far)
        if listener.met is not None:
            listener.met(near, far)
        slot = listener.gate.enter("this process", far.abort, trusted=True)
        far.set_protocol(listener.protocol_factory(slot))
        near.set_protocol(protocol_factory())
        far.begin()
        near.begin()
        return near, near.get_protocol()

    async def listen(
        self,
        address: str,
        protocol_factory: Callable[[Slot], asyncio.BaseProtocol],
        *,
        gate: Gate,
        identity: Identity | None,
    ) -> Listener:
        """Listen under a name, on this loop.

        Raises:
            AddressError: The address has no name, or somebody listens under it.
        """
        name = _name(address)
        key = (name, asyncio.get_running_loop())
        if key in _listeners:
            raise AddressError(f"{address}: somebody listens there")
        listener = _listeners[key] = _MemoryListener(address, key, protocol_factory, gate)
        return listener


class _MemoryListener(Listener):
    def __init__(
        self,
        address: str,
        key: tuple[str, asyncio.AbstractEventLoop],
        protocol_factory: Callable[[Slot], asyncio.BaseProtocol],
        gate: Gate,
    ) -> None:
        self.address = address
        self.protocol_factory = protocol_factory
        self.gate = gate
        self.met: Callable[[MemoryEnd, MemoryEnd], None] | None = None
        self._key = key

    async def aclose(self) -> None:
        """Stop listening. Safe to call twice."""
        _listeners.pop(self._key, None)


class MemoryEnd(asyncio.Transport):
    """One end of the pair, an asyncio transport like any other.

    Attributes:
        way: How what is written here gets to the other end; None: at once.
    """

    def __init__(self, address: str) -> None:
        super().__init__({"peername": address})
        self.way: Way | None = None
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[memoryview] = deque()
        self._waiting = 0
        self._high, self._low = HIGH, HIGH // 4
        self._reading = True
        self._delivering = False
        self._writing_paused = False
        self._closing = False
        self._lost = False
        self._eof = False

    def __repr__(self) -> str:
        return f"<memory end {self.get_extra_info('peername')}{' closing' if self._closing else ''}>"

    def join(self, other: MemoryEnd) -> None:
        """Make the two ends one pair."""
        self._other, other._other = other, self

    def begin(self) -> None:
        """Tell the protocol that it is connected."""
        self._protocol.connection_made(self)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Say who reads here."""
        self._protocol: Any = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return who reads here."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        """Whether this end closes or is closed."""
        return self._closing

    def write(self, data: Buffer) -> None:
        """Hand bytes to the other end; what may still change is copied."""
        if self._closing or not data:
            return
        piece = memoryview(data if isinstance(data, bytes) else bytes(data))
        if self._other._lost:
            # Its end is on its way here: as over a network, what is written until that comes leaves, and is lost.
            self._pass(piece, _arrived_nowhere)
            return
        self._other._waiting += len(piece)
        self._pass(piece, functools.partial(self._other._receive, piece))
        if self._other._waiting > self._high and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        """Say that no more will be written."""
        self.close()

    def can_write_eof(self) -> bool:
        """This end can't be half closed."""
        return False

    def get_write_buffer_size(self) -> int:
        """Bytes that the other end has not read."""
        return self._other._waiting

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Low and high water, bytes."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set high and low water, bytes."""
        self._high = HIGH if high is None else high
        self._low = self._high // 4 if low is None else low

    def is_reading(self) -> bool:
        """Whether the protocol is given what arrives."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Keep what arrives."""
        self._reading = False

    def resume_reading(self) -> None:
        """Give the protocol what arrives, and what was kept."""
        self._reading = True
        self._schedule()

    def close(self) -> None:
        """Close when the other end has what was written."""
        if not self._closing:
            self._closing = True
            self._pass(_NOTHING, self._other._end)
            self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """Close at once; what was not read is gone."""
        if not self._lost:
            self._closing = True
            self._pass(_NOTHING, self._other._reset)
            self._loop.call_soon(self._lose, None)

    def _pass(self, piece: memoryview, arrive: Callable[[], None]) -> None:
        """Send something to the other end."""
        if self.way is None:
            arrive()
        else:
            self.way(piece, arrive)

    def _receive(self, piece: memoryview) -> None:
        if not self._lost:
            self._inbox.append(piece)
            self._schedule()

    def _reset(self) -> None:
        self._inbox.clear()
        self._waiting = 0
        self._end()

    def _end(self) -> None:
        self._eof = True
        self._schedule()

    def _schedule(self) -> None:
        if not self._delivering:
            self._delivering = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._delivering = False
        try:
            self._hand_over()
        except Exception as error:
            # As asyncio's own transports do: say so, and end the connection.
            self._loop.call_exception_handler(
                {"message": "a protocol failed", "exception": error, "transport": self, "protocol": self._protocol}
            )
            self.abort()

    def _hand_over(self) -> None:
        while self._inbox and self._reading and not self._closing:
            piece = self._inbox.popleft()
            if self._buffered:
                target = self._protocol.get_buffer(len(piece))
                count = min(len(target), len(piece))
                target[:count] = piece[:count]
                if count < len(piece):
                    self._inbox.appendleft(piece[count:])
                self._waiting -= count
                self._protocol.buffer_updated(count)
            else:
                self._waiting -= len(piece)
                self._protocol.data_received(bytes(piece))
        other = self._other
        if other._writing_paused and self._waiting <= other._low and not other._lost:
            other._writing_paused = False
            other._protocol.resume_writing()
        if self._eof and not self._inbox and not self._closing:
            self._closing = True
            self._protocol.eof_received()
            self._lose(None)

    def _lose(self, error: BaseException | None) -> None:
        if not self._lost:
            self._lost = True
            self._inbox.clear()
            self._protocol.connection_lost(error)


def _arrived_nowhere() -> None:
    pass


def intercept(address: str, met: Callable[[MemoryEnd, MemoryEnd], None]) -> None:
    """Have `met(near, far)` called for each pair of ends that meets under a name on this loop, before they are told.

    It may set their `way`: so bytes are delayed, held up or looked at, and everything else stays as it is.

    Args:
        address: Where somebody listens, on the running loop.
        met: Called with the end of who dials and that of who listens.

    Raises:
        AddressError: The address has no name, or nobody listens there.
    """
    listener = _listeners.get((_name(address), asyncio.get_running_loop()))
    if listener is None:
        raise AddressError(f"nobody listens on {address} in this event loop")
    listener.met = met


def _name(address: str) -> str:
    name = address.removeprefix("memory://")
    if not name or "/" in name:
        raise AddressError(f"{address!r}: a memory address is memory://name")
    return name
