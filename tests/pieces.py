"""What leaves a connection, as the bytes that arrive."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from aioparallel.limits import PIECE
from aioparallel.wire import Bulk, Sendable


def flat(pieces: Iterable[Sendable], numbers: Iterator[int] | None = None, size: int = PIECE) -> bytes:
    """Return what is sent as bytes; large messages one after the other, numbered from 0 unless told otherwise."""
    numbers = itertools.count() if numbers is None else numbers
    parts: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, Bulk):
            parts += [b"".join(cut) for cut in piece.cut(next(numbers), size)]
        else:
            parts.append(bytes(piece))
    return b"".join(parts)
