"""Frames survive every cut of the stream; what is no frame is refused before anything is allocated for it."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import flat as sent

from aioparallel.errors import ConfigurationError, MessageTooLarge, ProtocolError
from aioparallel.wire import (
    CHUNK,
    HEAD,
    LAST,
    NO_ENGINE,
    PIECE,
    RESULT_META,
    SHARED,
    SMALL,
    Bulk,
    Decoder,
    Frame,
    Kind,
    Limits,
    encode,
    size_of,
)

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


def head(
    length: int = 0, kind: int = Kind.CALL, flags: int = 0, code: int = 0, count: int = 0, header: int | None = None
) -> bytes:
    return HEAD.pack(length, kind, flags, code, 7, NO_ENGINE, count, length if header is None else header)


def in_steps(data: bytes, step: int) -> Iterator[bytes]:
    return (data[start : start + step] for start in range(0, len(data), step))


def by_reading(decoder: Decoder, data: bytes, step: int) -> list[Frame]:
    """Feed the decoder the way a transport does: into the memory it hands out."""
    frames, rest = [], memoryview(data)
    while rest:
        target = decoder.get_buffer()
        assert len(target) > 0
        count = min(step, len(target), len(rest))
        target[:count] = rest[:count]
        rest = rest[count:]
        frames += decoder.buffer_updated(count)
    return frames


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


# The byte table


def test_head_is_laid_out_as_the_table_says() -> None:
    data = b"".join(encode(Kind.RESULT, 0x0102030405060708, code=0x1112, flags=LAST, engine=0x2122, header=b"hh"))
    assert data == (
        b"\x02\x00\x00\x00\x04\x01\x12\x11\x08\x07\x06\x05\x04\x03\x02\x01\x22\x21\x00\x00\x02\x00\x00\x00hh"
    )
    assert HEAD.size == 24


def test_table_is_left_out_when_there_are_fewer_than_two_buffers() -> None:
    assert size_of(encode(Kind.CALL, header=b"h", buffers=[b"abc"])) == 24 + 1 + 3
    assert b"".join(encode(Kind.CALL, header=b"h", buffers=[b"abc", b"d"]))[24:] == (b"h\x03\0\0\0\x01\0\0\0abcd")


def test_buffers_are_sent_as_they_are() -> None:
    small, large = bytearray(10), bytearray(SMALL + 1)
    assert encode(Kind.CALL, header=b"h", buffers=[b"a", small])[-1] is small
    assert encode(Kind.CALL, buffers=[small])[-1] is small
    [bulk] = encode(Kind.CALL, 7, buffers=[large], engine=3)
    assert isinstance(bulk, Bulk)
    [[head, view]] = bulk.cut(0, PIECE)
    assert isinstance(view, memoryview)
    assert view.obj is large
    assert len(bulk) == len(head) - HEAD.size + len(view) == HEAD.unpack_from(head)[0]
    assert (bulk.kind, bulk.id, bulk.engine) == (Kind.CALL, 7, 3)


def test_a_stream_is_laid_out_as_the_tables_say() -> None:
    [bulk] = encode(Kind.CALL, 7, code=2, header=b"h", buffers=[b"ab", b"", b"c"], engine=3, small=1)
    pieces = [b"".join(piece) for piece in bulk.cut(9, 32)]  # type: ignore[union-attr]
    message = (
        b"\x1c\0\0\0\0\0\0\0\x02\0\x02\0\x07\0\0\0\0\0\0\0\x03\0\x03\0\x01\0\0\0"
        b"h\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0abc"
    )
    assert pieces == [
        b"\x20\0\0\0\x08\0\0\0\x09\0\0\0\0\0\0\0\xff\xff\x01\0\0\0\0\0" + message[:32],
        b"\x18\0\0\0\x08\x01\0\0\x09\0\0\0\0\0\0\0\xff\xff\x01\0\0\0\0\0" + message[32:],
    ]


def test_a_piece_of_many_small_buffers_is_given_in_few_views() -> None:
    [bulk] = encode(Kind.CALL, buffers=[b"xy"] * 60_000)
    assert all(len(piece) <= 20 for piece in bulk.cut(0, PIECE))  # type: ignore[union-attr]


@pytest.mark.parametrize("piece", [0, -1, PIECE + 1])
def test_the_size_of_a_piece_has_bounds(piece: int) -> None:
    with pytest.raises(ConfigurationError, match=r"Limits\.piece is a number of bytes from 1 to 262,144"):
        Limits(piece=piece)


def test_result_meta_is_twenty_bytes() -> None:
    assert RESULT_META.size == 20


# There and back


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("step", [1, 23, 24, 25, 1000, 65_535, 2**30])
def test_frame_arrives_however_it_is_cut(name: str, step: int) -> None:
    shape, tail = SHAPES[name], SHAPES["header and one buffer"]
    data = flat(shape)
    if step == 1 and len(data) > 100_000:
        # Byte by byte where it matters: at the beginning and the end.
        pieces = [*in_steps(data[:200], 1), data[200:-200], *in_steps(data[-200:], 1)]
    else:
        pieces = list(in_steps(data, step))
    decoder = Decoder(LIMITS)
    frames: list[Frame] = []
    for number, piece in enumerate(pieces):
        assert not frames, f"there before piece {number}"
        frames += decoder.feed(piece)
    assert [plain(frame) for frame in frames] == [shape]
    # Nothing stuck: the next frame is read as well, and so is what trails behind.
    assert [plain(frame) for frame in decoder.feed(flat(tail) + flat(tail)[:30])] == [tail]
    assert [plain(frame) for frame in decoder.feed(flat(tail)[30:])] == [tail]


@pytest.mark.parametrize("step", [1, 61, 4096, 2**30])
def test_stream_of_every_shape(step: int) -> None:
    shapes = [shape for shape in SHAPES.values() if step > 1 or len(flat(shape)) < 1000] * 2
    data = flat(*shapes)
    assert [plain(frame) for frame in Decoder(LIMITS).feed(data)] == shapes
    assert [plain(frame) for frame in by_reading(Decoder(LIMITS), data, step)] == shapes


def test_many_small_frames_come_out_of_one_read() -> None:
    data = flat(SHAPES["beat"]) * 1000
    decoder = Decoder(LIMITS)
    decoder.get_buffer()[: len(data)] = data
    assert len(decoder.buffer_updated(len(data))) == 1000


def test_large_buffers_land_in_writable_memory_of_their_own() -> None:
    decoder = Decoder(LIMITS)
    (frame,) = decoder.feed(flat(SHAPES["large of many"]))
    assert all(type(buffer) is bytearray for buffer in frame.buffers)
    before = plain(frame)
    decoder.feed(flat(SHAPES["larger than the chunk"], first=1))
    assert plain(frame) == before


def test_large_buffer_is_read_straight_into_its_place() -> None:
    decoder = Decoder(LIMITS)
    data = flat((Kind.CALL, 0, 0, 1, 5, b"", [b"x" * 500_000]))
    begun = 24 + 28
    decoder.feed(data[:begun])
    target = decoder.get_buffer()
    assert len(target) == PIECE - 28
    target[:] = data[begun : 24 + PIECE]
    assert decoder.buffer_updated(len(target)) == []
    (frame,) = decoder.feed(data[24 + PIECE :])
    assert frame.buffers[0] is target.obj
    assert bytes(frame.buffers[0]) == b"x" * 500_000


@pytest.mark.parametrize("step", [1000, 100_000, 2**30])
def test_a_read_into_several_buffers_goes_on_behind_the_piece(step: int) -> None:
    decoder = Decoder(LIMITS)
    shapes = [SHAPES["larger than the chunk"], SHAPES["one buffer"], SHAPES["large of many"], SHAPES["many buffers"]]
    rest = memoryview(flat(*shapes))
    frames: list[Frame] = []
    while rest:
        count = 0
        for target in decoder.get_buffers():
            size = min(len(target), len(rest), step - count)
            target[:size] = rest[:size]
            rest, count = rest[size:], count + size
        frames += decoder.buffer_updated(count)
    assert [plain(frame) for frame in frames] == shapes


def test_small_frame_is_untouched_by_what_follows() -> None:
    decoder = Decoder(LIMITS)
    (frame,) = decoder.feed(flat(SHAPES["many buffers"]))
    decoder.feed(flat(SHAPES["one buffer"]) * 5)
    assert plain(frame) == SHAPES["many buffers"]


@pytest.mark.parametrize("name", SHAPES)
def test_forwarding_changes_the_head_only(name: str) -> None:
    (frame,) = Decoder(LIMITS).feed(flat(SHAPES[name]))
    pieces = frame.forward(Kind.COMMAND, 99, code=4, flags=LAST, engine=12)
    body = pieces[0]._buffers[1:] if isinstance(pieces[0], Bulk) else pieces[1:]
    assert all(mine is theirs for mine, theirs in zip(body, frame.body, strict=True))
    (again,) = Decoder(LIMITS).feed(sent(pieces))
    assert plain(again) == (Kind.COMMAND, LAST, 4, 99, 12, *SHAPES[name][5:])
    assert again.size == frame.size
    assert size_of(pieces) == frame.size + (28 if frame.is_large else 24)


@pytest.mark.parametrize("name", SHAPES)
def test_messages_below_the_usual_size_may_be_cut_as_well(name: str) -> None:
    shape = SHAPES[name]
    data = sent(encoded(shape, small=0), size=7 if len(flat(shape)) < 1000 else 50_000)
    (frame,) = Decoder(LIMITS).feed(data)
    assert plain(frame) == shape
    (again,) = Decoder(LIMITS).feed(sent(frame.forward(*shape[:1], 1)))
    assert plain(again)[5:] == shape[5:]


def test_reprs() -> None:
    decoder = Decoder(LIMITS)
    assert repr(decoder) == "<Decoder 0 bytes waiting>"
    (frame,) = decoder.feed(flat(SHAPES["header and one buffer"]))
    assert repr(frame) == "<Frame RESULT id=1 engine=65534 code=1 12 bytes>"
    decoder.feed(flat(SHAPES["one byte more"])[:100])
    assert "1 under way" in repr(decoder)


# Headers


def test_json_header() -> None:
    (frame,) = Decoder(LIMITS).feed(b"".join(encode(Kind.NOTICE, header='{"ä": [1, null]}'.encode())))
    assert frame.json() == {"ä": [1, None]}


@pytest.mark.parametrize("header", [b"", b"{", b"\xff\xfe\xfa", b"[" * 100_000, b"nul", b'"\xc3"'])
def test_header_that_is_not_json(header: bytes) -> None:
    (frame,) = Decoder(LIMITS).feed(sent(encode(Kind.NOTICE, header=header)))
    with pytest.raises(ProtocolError, match="not JSON"):
        frame.json()


# Limits when sending


@pytest.mark.parametrize("buffers", [[b"x" * 101], [b"x" * 60, b"x" * 33], [], [b""] * 26])
def test_message_above_the_limit_is_not_sent(buffers: list[bytes]) -> None:
    header = b"h" * (101 if not buffers else 0)
    with pytest.raises(MessageTooLarge, match=r"above the limit of 100 bytes.*raise Limits\.message"):
        encode(Kind.CALL, header=header, buffers=buffers, limit=100)


def test_message_at_the_limit_is_sent() -> None:
    assert size_of(encode(Kind.CALL, header=b"hh", buffers=[b"x" * 98], limit=100)) == 124
    assert size_of(encode(Kind.CALL, buffers=[b"x" * 46, b"x" * 46], limit=100)) == 124


def test_more_buffers_than_fit_in_the_head() -> None:
    (frame,) = Decoder(LIMITS).feed(sent(encode(Kind.CALL, buffers=[b""] * 65_535)))
    assert frame.buffers == [b""] * 65_535
    with pytest.raises(MessageTooLarge, match="65,536 buffers"):
        encode(Kind.CALL, buffers=[b""] * 65_536)


# What is refused


def piece(data: bytes = b"", *, number: int = 0, flags: int = 0, length: int | None = None, count: int = 1) -> bytes:
    return HEAD.pack(len(data) if length is None else length, Kind.PIECE, flags, 0, number, NO_ENGINE, count, 0) + data


def long_head(length: int, kind: int = Kind.CALL, flags: int = 0, count: int = 1, header: int = 0) -> bytes:
    return struct.pack("<QBBHQHHI", length, kind, flags, 0, 7, NO_ENGINE, count, header)


BROKEN: dict[str, tuple[bytes, str]] = {
    "kind 0": (head(kind=0), "unknown kind 0"),
    "kind 11": (head(kind=11), "unknown kind 11"),
    "kind 255": (head(kind=255), "unknown kind 255"),
    "reserved flag": (head(flags=4), "flags 0x4"),
    "every flag": (head(flags=255), "flags 0xff"),
    "above the limit": (head(SMALL + 1, count=1, header=0), "the limit is 65,536"),
    "4 GiB": (head(2**32 - 1, count=1, header=0), "the limit is 65,536"),
    "header longer than the frame": (head(10, count=1, header=11), "header of 11"),
    "header shorter than the frame, no buffers": (head(10, header=9), "0 buffers"),
    "no header, no buffers, yet a length": (head(10, header=0), "0 buffers"),
    "table longer than the frame": (head(10, count=3, header=0), "3 buffers"),
    "lengths below the frame's": (head(10, count=2, header=0) + struct.pack("<2I", 1, 0) + b"xx", "add up"),
    "lengths above the frame's": (head(10, count=2, header=0) + struct.pack("<2I", 2, 1) + b"xx", "add up"),
    "lengths that overflow": (head(10, count=2, header=0) + struct.pack("<2I", 2**32 - 1, 3) + b"xx", "add up"),
}
# The same and more with streams; 5 is the number of none of them.
BROKEN |= {
    f"stream: {name}": (data, message)
    for name, (data, message) in {
        "piece with a reserved flag": (piece(flags=2, length=10), "flags 0x2"),
        "piece above the limit": (piece(length=PIECE + 1), "a piece of 262,145 bytes"),
        "piece without a buffer": (piece(length=10, count=0), "0 buffers"),
        "piece with two buffers": (piece(length=10, count=2), "2 buffers"),
        "piece of no bytes": (piece(), "a piece of no bytes"),
        "not the next number": (piece(b"x", number=5), "stream 5, which is not under way"),
        "number that has ended": (piece(flags=LAST) + piece(b"x"), "stream 0, which is not under way"),
        "dropped before it began, twice": (piece(flags=LAST) * 2, "stream 0, which is not under way"),
        "kind 0": (piece(long_head(10, kind=0)), "unknown kind 0"),
        "a piece in a piece": (piece(long_head(10, kind=Kind.PIECE)), "unknown kind 8"),
        "reserved flag in the message": (piece(long_head(10, flags=4)), "flags 0x4"),
        "message above the limit": (piece(long_head(2**20 + 1)), "the limit is 1,048,576"),
        "message of 16 EiB": (piece(long_head(2**64 - 1)), "the limit is 1,048,576"),
        "header above its limit": (piece(long_head(2**19, header=2**18 + 1)), "header of 262145"),
        "header longer than the message": (piece(long_head(10, header=11)), "header of 11"),
        "header shorter than the message": (piece(long_head(10, header=9, count=0)), "0 buffers"),
        "table longer than the message": (piece(long_head(2**17, count=65_535)), "65535 buffers"),
        "lengths below": (piece(long_head(20, count=2) + struct.pack("<2Q", 1, 2)), "add up"),
        "lengths above": (piece(long_head(20, count=2) + struct.pack("<2Q", 2**64 - 1, 5)), "add up"),
        "last piece too soon": (piece(long_head(10) + b"x" * 9, flags=LAST), "ends before its message"),
        "last piece within the head": (piece(long_head(10)[:20], flags=LAST), "ends before its message"),
        "more than the message": (piece(long_head(10) + b"x" * 11, flags=LAST), "beyond its message"),
        "last piece missing": (piece(long_head(10) + b"x" * 10), "beyond its message"),
        "one stream too many": (b"".join(piece(b"x", number=n) for n in range(65)), "more than 64 streams"),
    }.items()
}


def refused_at_last(decoder: Decoder, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        assert decoder.feed(piece) == []


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("before", ["", "beat", "many buffers"])
def test_what_is_no_frame_is_refused(name: str, before: str) -> None:
    data, message = BROKEN[name]
    for trailing in (b"", b"x" * 100):
        for step in (1, 5, 2**30):
            decoder = Decoder(LIMITS)
            if before:
                assert len(decoder.feed(flat(SHAPES[before]))) == 1
            with pytest.raises(ProtocolError, match=message):
                refused_at_last(decoder, in_steps(data + trailing, step))


def test_refusal_comes_with_the_head_and_before_any_memory() -> None:
    decoder = Decoder(Limits())
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decoder.feed(piece(long_head(2**34 + 1)))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# Whatever comes

frames_of_any_kind = st.builds(
    lambda kind, flags, code, number, engine, header, sizes: (
        kind, flags, code, number, engine, header, [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    ),
    st.sampled_from([kind for kind in Kind if kind < Kind.PIECE]).map(int),
    st.sampled_from([0, LAST]),
    st.integers(0, 0xFFFF),
    st.integers(0, 2**64 - 1),
    st.integers(0, 0xFFFF),
    st.binary(max_size=40) | st.just(b"H" * (SMALL + 3)),
    st.lists(st.sampled_from([0, 0, 1, 5, 4096, SMALL - 1, SMALL, SMALL + 1, CHUNK - 24, CHUNK]), max_size=5),
)  # fmt: skip
cuts = st.lists(st.one_of(st.integers(1, 60), st.integers(1, CHUNK + 100)), min_size=1, max_size=12)
feeds = st.sampled_from([Decoder.feed, lambda decoder, data: by_reading(decoder, data, len(data) or 1)])
Feed = Callable[[Decoder, bytes], list[Frame]]


def in_cuts(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Cut the data at the given sizes, over and over, the small ones at most 500 times."""
    start = 0
    for turn in range(500 * len(sizes)):
        size = sizes[turn % len(sizes)]
        yield data[start : start + size]
        start += size
        if start >= len(data):
            return
    yield data[start:]


@settings(max_examples=80, deadline=None)
@given(st.lists(frames_of_any_kind, max_size=6), cuts, feeds)
def test_any_frames_with_any_cuts(frames: list[Plain], sizes: list[int], feed: Feed) -> None:
    limits = Limits(message=4 * 2**20)
    decoder = Decoder(limits)
    arrived = []
    for data in in_cuts(flat(*frames), sizes):
        arrived += feed(decoder, data)
    assert [plain(frame) for frame in arrived] == frames


def heads_of_any_kind() -> st.SearchStrategy[bytes]:
    """Heads that are nearly right: the interesting garbage."""
    length = st.one_of(st.integers(0, 100), st.integers(SMALL - 2, SMALL + 300), st.integers(0, 2**32 - 1))
    number = st.one_of(st.integers(0, 2), st.integers(0, 2**64 - 1))
    small = st.one_of(st.integers(0, 5), st.integers(0, 0xFFFF))
    values: list[st.SearchStrategy[Any]] = [
        length, st.integers(0, 9), st.integers(0, 2), small, number, small, small, length,
    ]  # fmt: skip
    return st.tuples(*values).map(lambda fields: HEAD.pack(*fields))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=80), heads_of_any_kind()), max_size=8), cuts, feeds)
def test_garbage_raises_nothing_but_protocol_error(pieces: list[bytes], sizes: list[int], feed: Feed) -> None:
    limits = Limits(message=SMALL + 200, header=50)
    decoder = Decoder(limits)
    tracemalloc.start()
    try:
        for piece in in_cuts(b"".join(pieces), sizes):
            for frame in feed(decoder, piece):
                assert frame.size <= limits.message
                assert len(frame.header) <= limits.header
                repr(frame)
                if frame.flags & SHARED:
                    assert sum(map(len, frame.body)) == frame.size
                else:
                    assert len(frame.header) + size_of(frame.buffers) <= frame.size
    except ProtocolError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # One frame under way, its table of lengths, and what a few small ones leave behind.
    assert peak < 10 * limits.message


@settings(max_examples=150, deadline=None)
@given(frames_of_any_kind, st.integers(0, 23), st.integers(0, 255), cuts)
def test_one_damaged_byte_of_the_head(frame: Plain, place: int, value: int, sizes: list[int]) -> None:
    data = bytearray(flat(frame))
    data[place] = value
    decoder = Decoder(Limits(message=2**21, header=2**17))
    try:
        for piece in in_cuts(bytes(data), sizes):
            decoder.feed(piece)
    except ProtocolError:
        return
    assert len(decoder.get_buffer()) > 0
