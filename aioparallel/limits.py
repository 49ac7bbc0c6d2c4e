"""Every bound of the wire and of what waits for it."""

from __future__ import annotations

from dataclasses import dataclass

from aioparallel.errors import ConfigurationError

__all__ = ["PIECE", "SMALL", "Limits"]

#: Largest message that is sent as one frame, bytes.
SMALL = 65536
#: Largest piece of a message that is sent in pieces, bytes.
PIECE = 262144


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds, in bytes and seconds.

    Attributes:
        message: Largest message, bytes.
        header: Largest header in a message, bytes.
        piece: Bytes of a large message that leave at once; between two pieces others pass. From 1 to `PIECE`.
        outbox: Bytes that may wait for a slow reader before its producers are paused.
        backlog: Bytes that one client may have queued before the controller stops reading from it.
        output: Largest stdout, and stderr, of one command, bytes; more is left out in the middle.
        beat: Seconds between signs of life.
        suspect: Seconds of silence after which a peer is called suspect.
        dead: Seconds of silence after which a peer is given up.
        stuck: Seconds that a slow reader may take none of its outbox before it is disconnected.
        share: Payloads from this size on, bytes, stay in memory that processes of one machine share; 0 shares none.
        results: Bytes of results that the controller keeps until somebody asks for them; beyond, the oldest go.
        result_ttl: Seconds for which it keeps one.
        grace: Seconds that work which is to end is left after an interrupt, and again after SIGTERM.
    """

    message: int = 2**34
    header: int = 2**26
    piece: int = PIECE
    outbox: int = 2**26
    backlog: int = 2**30
    output: int = 2**24
    beat: float = 2.0
    suspect: float = 6.0
    dead: float = 10.0
    stuck: float = 30.0
    share: int = 2**19
    results: int = 2**28
    result_ttl: float = 3600.0
    grace: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.piece <= PIECE:
            raise ConfigurationError(f"Limits.piece is a number of bytes from 1 to {PIECE:,}, not {self.piece!r}")

    @property
    def room(self) -> int:
        """How much of stdout, and of stderr, a RESULT has room for, bytes: with all else it must fit in a header."""
        return min(self.output, self.header // 2 - 128, self.message // 4)

    @property
    def small(self) -> int:
        """Largest message that is sent as one frame, bytes."""
        return min(SMALL, self.piece)
