"""One end of one connection, no socket in sight: handshake, frames, signs of life. Sans-I/O.

    bytes in  -> get_buffer / buffer_updated -> frames
    bytes out <- take_output

States: handshake -> open -> (the connection ends). Rules: no frame before the handshake is done; what the
peer sends counts as a sign of life, whatever it is; after an error the session must not be fed again.
"""

from __future__ import annotations

import enum
from typing import Protocol

from aioparallel.decoder import Decoder
from aioparallel.wire import Buffer, Frame, Kind, Limits, Sendable, encode

__all__ = ["Handshake", "Liveness", "Session"]


class Handshake(Protocol):
    """What a session asks of either side's handshake."""

    @property
    def done(self) -> bool:
        """Whether the two have come together."""
        ...

    @property
    def rest(self) -> bytes:
        """Bytes that came behind the handshake and belong to the session."""
        ...

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the peer, return bytes for it.

        Raises:
            HandshakeError, ConnectionFailed: The two will not come together.
        """
        ...


class Liveness(enum.Enum):
    """What a peer's silence means."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"


class Session:
    """One end of one connection.

    Attributes:
        handshake: How the two came together, or will.
        limits: The bounds in force.
    """

    def __init__(self, handshake: Handshake, limits: Limits, *, now: float) -> None:
        self.handshake = handshake
        self.limits = limits
        self._decoder: Decoder | None = None
        self._scratch = bytearray(8192)
        self._output: list[Buffer] = []
        self._heard = self._ticked = now
        self._sent = self._beating = False

    def __repr__(self) -> str:
        return f"<Session {'open' if self.is_open else 'in its handshake'}>"

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done."""
        return self._decoder is not None

    @property
    def decoder(self) -> Decoder | None:
        """What takes the bytes once the handshake is done; who feeds it calls `heard` as well."""
        return self._decoder

    def heard(self, now: float) -> None:
        """Take note that something arrived."""
        self._heard = now

    def get_buffer(self) -> memoryview:
        """Return where the next bytes belong; never empty."""
        if self._decoder is None:
            return memoryview(self._scratch)
        return self._decoder.get_buffer()

    def buffer_updated(self, count: int, now: float) -> list[Frame]:
        """Take note that `count` bytes arrived at `now`; return the frames that are now whole.

        Raises:
            ProtocolError: The peer broke the rules.
            ConnectionFailed: The peer's handshake says no.
        """
        self._heard = now
        if self._decoder is not None:
            return self._decoder.buffer_updated(count)
        reply = self.handshake.receive(bytes(self._scratch[:count]))
        if reply:
            self._output.append(reply)
        if not self.handshake.done:
            return []
        self._decoder = Decoder(self.limits)
        self._scratch = bytearray()
        return self._decoder.feed(self.handshake.rest)

    def take_output(self) -> list[Buffer]:
        """Return the handshake's bytes that are to be sent, and forget them."""
        output, self._output = self._output, []
        return output

    def note_sent(self) -> None:
        """Take note that something was sent, so that no beat is needed for a while."""
        # The first thing after a tick that returned a beat is that beat, and does not make the next one needless.
        self._sent, self._beating = not self._beating, False

    def tick(self, now: float) -> tuple[Liveness, list[Sendable]]:
        """Judge the peer's silence; call it every `Limits.beat` seconds.

        A tick that comes late says that *we* were held up, so it excuses as much of the peer's silence.

        Returns:
            What the silence means, and a beat to send if nothing else was sent since the last tick.
        """
        late = now - self._ticked - self.limits.beat
        if late > self.limits.beat:
            self._heard = min(now, self._heard + late)
        self._ticked = now
        beat = [] if self._sent or not self.is_open else encode(Kind.BEAT)
        self._sent, self._beating = False, bool(beat)
        silent = self.silence(now)
        if silent >= self.limits.dead:
            return Liveness.DEAD, beat
        return (Liveness.SUSPECT if silent >= self.limits.suspect else Liveness.ALIVE), beat

    def silence(self, now: float) -> float:
        """Seconds since the peer was last heard."""
        return now - self._heard
