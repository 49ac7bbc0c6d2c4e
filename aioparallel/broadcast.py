"""A large payload for several engines of a host elsewhere: it travels there once, and is stored once.

The controller sends the payload first, as `HostCall.STORE`, and then for each engine, when its turn has come, a small
COMMAND that names it (`code` is `STORED`, the header the id of the STORE). A small COMMAND may overtake the payload: it
waits at the host. When the controller needs the payload for no engine any more, it says so (`HostCall.DROP`).

Where controller and host see the same memory there is nothing to do: the frames only say where the payload lies.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from aioparallel.memory import AVAILABLE, Segment, span
from aioparallel.wire import KEY, STORED, Frame, HostCall, Kind, Sendable, encode, size_of

if TYPE_CHECKING:
    from aioparallel.connection import Connection

__all__ = ["Outgoing", "Stored"]


class Outgoing:
    """The controller's end: what one host has been sent to keep.

    Args:
        connection: The way to the host.
        numbers: Where ids come from.
    """

    def __init__(self, connection: Connection, numbers: Iterator[int]) -> None:
        self._connection = connection
        self._numbers = numbers
        #: Under which id the host has the payload of a frame, by that frame's identity.
        self._keys: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Outgoing: {len(self._keys)} payloads at the host>"

    def __len__(self) -> int:
        return len(self._keys)

    def is_for(self, frame: Frame) -> bool:
        """Whether a payload would travel to the host again and again, and is worth keeping there."""
        return not self._connection.shares if frame.segment is not None else frame.is_large

    def command(self, frame: Frame, number: int, engine: int) -> list[Sendable]:
        """Return the COMMAND for one engine, and before the first one what it names, as pieces to send."""
        identity, pieces = id(frame), []
        key = self._keys.get(identity)
        if key is None:
            key = self._keys[identity] = next(self._numbers)
            pieces = self._connection.forward(frame, Kind.CALL, key, code=HostCall.STORE)
            # The frame lives as long as an engine is yet to be sent its command, or to answer it.
            weakref.finalize(frame, self._drop, identity, key).atexit = False
        return [*pieces, *encode(Kind.COMMAND, number, code=STORED, engine=engine, header=KEY.pack(key))]

    def _drop(self, identity: int, key: int) -> None:
        self._keys.pop(identity, None)
        self._connection.send(encode(Kind.CALL, key, code=HostCall.DROP))


class Stored:
    """The host's end: payloads that several of its engines are going to be sent.

    Args:
        share: Payloads from this size on, bytes, are put where all kernels can see them; 0: none.
    """

    def __init__(self, share: int) -> None:
        self._share = share if AVAILABLE else 0
        self._payloads: dict[int, Frame] = {}
        #: Commands that came before what they name: by its id, then by their own.
        self._waiting: dict[int, dict[int, Frame]] = {}

    def __repr__(self) -> str:
        return f"<Stored: {len(self._payloads)} payloads>"

    def __len__(self) -> int:
        return len(self._payloads)

    def keep(self, frame: Frame) -> list[Frame]:
        """Keep a payload; return the commands that have waited for it."""
        key = frame.id
        if frame.segment is None and self._share and size_of(frame.body) >= self._share:
            with suppress(OSError):
                frame = self._in_memory(frame)
        self._payloads[key] = frame
        waited = self._waiting.pop(key, {})
        return [frame.command(number, waiting.engine) for number, waiting in waited.items()]

    def drop(self, key: int) -> None:
        """Keep a payload no longer."""
        self._payloads.pop(key, None)
        self._waiting.pop(key, None)

    def command(self, frame: Frame) -> Frame | None:
        """Return a command with the payload that it names; None if that is still on its way."""
        (key,) = KEY.unpack(frame.header)
        payload = self._payloads.get(key)
        if payload is None:
            self._waiting.setdefault(key, {})[frame.id] = frame
            return None
        return payload.command(frame.id, frame.engine)

    def cancel(self, number: int) -> bool:
        """Forget a command that waits for what it names; return whether it did."""
        return any(waiting.pop(number, None) is not None for waiting in self._waiting.values())

    @staticmethod
    def _in_memory(frame: Frame) -> Frame:
        buffers = frame.buffers
        lengths = [len(buffer) for buffer in buffers]
        segment = Segment.make(span(lengths))
        segment.write(buffers)
        return Frame.shared(segment, lengths, frame.header)
