"""Messages of every shape, as plain values, and how they look on the wire."""

from __future__ import annotations

import itertools
from typing import Any

from pieces import flat as sent

from aioparallel.decoder import CHUNK
from aioparallel.wire import LAST, NO_ENGINE, SMALL, Frame, Kind, Limits, encode

LIMITS = Limits(message=2**20, header=2**18)

#: Everything a frame says, in values that can be compared.
Plain = tuple[int, int, int, int, int, bytes, list[bytes]]


def plain(frame: Frame) -> Plain:
    buffers = [bytes(buffer) for buffer in frame.buffers]
    return frame.kind, frame.flags, frame.code, frame.id, frame.engine, frame.header, buffers


def encoded(plain: Plain, small: int = SMALL) -> list[Any]:
    kind, flags, code, number, engine, header, buffers = plain
    return encode(kind, number, code=code, flags=flags, engine=engine, header=header, buffers=buffers, small=small)


def flat(*plains: Plain, first: int = 0) -> bytes:
    """Return messages as bytes; the first of the large ones is stream number `first`."""
    numbers = itertools.count(first)
    return b"".join(sent(encoded(plain), numbers) for plain in plains)


# A few of every shape: no header, no payload, empty buffers at every place, one piece and many, small and large.
SHAPES: dict[str, Plain] = {
    "beat": (Kind.BEAT, 0, 0, 0, NO_ENGINE, b"", []),
    "header only": (Kind.CALL, 0, 3, 2**64 - 1, NO_ENGINE, b'{"a": 1}', []),
    "one buffer": (Kind.COMMAND, 0, 0, 1, 0, b"", [b"payload"]),
    "header and one buffer": (Kind.RESULT, LAST, 1, 1, 65534, b"label", [b"payload"]),
    "one empty buffer": (Kind.CALL, 0, 0xFFFF, 1, 5, b"", [b""]),
    "header and one empty buffer": (Kind.CALL, 0, 0, 1, 5, b"h", [b""]),
    "many buffers": (Kind.CALL, 0, 0, 1, 5, b"h", [b"", b"a", b"", b"bb", b""]),
    "only empty buffers": (Kind.CALL, 0, 0, 1, 5, b"", [b"", b""]),
    "as large as small ones get": (Kind.CALL, 0, 0, 1, 5, b"h", [b"x" * (SMALL - 1)]),
    "one byte more": (Kind.CALL, 0, 0, 1, 5, b"h", [b"x" * SMALL]),
    "large without header": (Kind.CALL, 0, 0, 1, 5, b"", [b"x" * (SMALL + 1)]),
    "large header": (Kind.NOTICE, 0, 0, 1, 5, b"h" * 70_000, []),
    "large header, empty buffer": (Kind.NOTICE, 0, 0, 1, 5, b"h" * 70_000, [b""]),
    "large header, empty buffers": (Kind.NOTICE, 0, 0, 1, 5, b"h" * 70_000, [b"", b""]),
    "large of many": (Kind.CALL, 0, 0, 1, 5, b"hh", [b"", b"a" * 40_000, b"", b"b" * 40_000, b""]),
    "larger than the chunk": (Kind.CALL, 0, 0, 1, 5, b"hh", [b"a" * CHUNK, b"b" * 10, b"c" * CHUNK]),
    "nothing but a table": (Kind.CALL, 0, 0, 1, 5, b"", [b""] * 20_000),
}
