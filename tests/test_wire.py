"""Frames survive every cut of the stream; what is no frame is refused before anything is allocated for it."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioparallel.errors import MessageTooLarge, ProtocolError
from aioparallel.wire import (
    CHUNK,
    HEAD,
    LAST,
    NO_ENGINE,
    RESULT_META,
    SHARED,
    SMALL,
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


def flat(plain: Plain) -> bytes:
    kind, flags, code, number, engine, header, buffers = plain
    return b"".join(encode(kind, number, code=code, flags=flags, engine=engine, header=header, buffers=buffers))


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


def test_large_buffers_are_sent_as_they_are() -> None:
    large = bytearray(10)
    pieces = encode(Kind.CALL, header=b"h", buffers=[b"a", large])
    assert pieces[-1] is large
    assert encode(Kind.CALL, buffers=[large])[-1] is large


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
    data = b"".join(map(flat, shapes))
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
    decoder.feed(flat(SHAPES["larger than the chunk"]))
    assert plain(frame) == before


def test_large_buffer_is_read_straight_into_its_place() -> None:
    decoder = Decoder(LIMITS)
    data = flat((Kind.CALL, 0, 0, 1, 5, b"", [b"x" * 500_000]))
    decoder.feed(data[:24])
    target = decoder.get_buffer()
    assert len(target) == 500_000
    target[:] = data[24:]
    (frame,) = decoder.buffer_updated(500_000)
    assert frame.buffers[0] is target.obj


def test_small_frame_is_untouched_by_what_follows() -> None:
    decoder = Decoder(LIMITS)
    (frame,) = decoder.feed(flat(SHAPES["many buffers"]))
    decoder.feed(flat(SHAPES["one buffer"]) * 5)
    assert plain(frame) == SHAPES["many buffers"]


@pytest.mark.parametrize("name", SHAPES)
def test_forwarding_changes_the_head_only(name: str) -> None:
    (frame,) = Decoder(LIMITS).feed(flat(SHAPES[name]))
    pieces = frame.forward(Kind.COMMAND, 99, code=4, flags=LAST, engine=12)
    assert all(mine is theirs for mine, theirs in zip(pieces[1:], frame.body, strict=True))
    (again,) = Decoder(LIMITS).feed(b"".join(pieces))
    assert plain(again) == (Kind.COMMAND, LAST, 4, 99, 12, *SHAPES[name][5:])
    assert again.size == frame.size == len(flat(SHAPES[name])) - 24


def test_reprs() -> None:
    decoder = Decoder(LIMITS)
    assert repr(decoder) == "<Decoder 0 bytes waiting>"
    (frame,) = decoder.feed(flat(SHAPES["header and one buffer"]))
    assert repr(frame) == "<Frame RESULT id=1 engine=65534 code=1 12 bytes>"
    decoder.feed(flat(SHAPES["one byte more"])[:100])
    assert "large frame under way" in repr(decoder)


# Headers


def test_json_header() -> None:
    (frame,) = Decoder(LIMITS).feed(b"".join(encode(Kind.NOTICE, header='{"ä": [1, null]}'.encode())))
    assert frame.json() == {"ä": [1, None]}


@pytest.mark.parametrize("header", [b"", b"{", b"\xff\xfe\xfa", b"[" * 100_000, b"nul", b'"\xc3"'])
def test_header_that_is_not_json(header: bytes) -> None:
    (frame,) = Decoder(LIMITS).feed(b"".join(encode(Kind.NOTICE, header=header)))
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
    (frame,) = Decoder(LIMITS).feed(b"".join(encode(Kind.CALL, buffers=[b""] * 65_535)))
    assert frame.buffers == [b""] * 65_535
    with pytest.raises(MessageTooLarge, match="65,536 buffers"):
        encode(Kind.CALL, buffers=[b""] * 65_536)


# What is refused

BROKEN: dict[str, tuple[bytes, str]] = {
    "kind 0": (head(kind=0), "unknown kind 0"),
    "kind 8": (head(kind=8), "unknown kind 8"),
    "kind 255": (head(kind=255), "unknown kind 255"),
    "reserved flag": (head(flags=4), "flags 0x4"),
    "every flag": (head(flags=255), "flags 0xff"),
    "above the limit": (head(2**20 + 1, count=1, header=0), "the limit is 1,048,576"),
    "4 GiB": (head(2**32 - 1, count=1, header=0), "the limit is 1,048,576"),
    "header above its limit": (head(2**18 + 1), "header of 262145"),
    "header longer than the frame": (head(10, count=1, header=11), "header of 11"),
    "header shorter than the frame, no buffers": (head(10, header=9), "0 buffers"),
    "no header, no buffers, yet a length": (head(10, header=0), "0 buffers"),
    "table longer than the frame": (head(10, count=3, header=0), "3 buffers"),
    "table longer than a large frame": (head(2**17, count=65_535, header=0), "65535 buffers"),
    "lengths below the frame's": (head(10, count=2, header=0) + struct.pack("<2I", 1, 0) + b"xx", "add up"),
    "lengths above the frame's": (head(10, count=2, header=0) + struct.pack("<2I", 2, 1) + b"xx", "add up"),
    "lengths that overflow": (head(10, count=2, header=0) + struct.pack("<2I", 2**32 - 1, 3) + b"xx", "add up"),
    "lengths below a large frame's": (head(2**17, count=2, header=0) + struct.pack("<2I", 5, 5), "add up"),
    "lengths above a large frame's": (head(2**17, count=2, header=0) + struct.pack("<2I", 2**32 - 1, 5), "add up"),
}


def refused_at_last(decoder: Decoder, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        assert decoder.feed(piece) == []


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("before", ["", "beat", "many buffers", "larger than the chunk"])
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
            decoder.feed(head(2**31, count=1, header=0))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# Whatever comes

frames_of_any_kind = st.builds(
    lambda kind, flags, code, number, engine, header, sizes: (
        kind, flags, code, number, engine, header, [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    ),
    st.sampled_from(list(Kind)).map(int),
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
    for piece in in_cuts(b"".join(map(flat, frames)), sizes):
        arrived += feed(decoder, piece)
    assert [plain(frame) for frame in arrived] == frames


def heads_of_any_kind() -> st.SearchStrategy[bytes]:
    """Heads that are nearly right: the interesting garbage."""
    length = st.one_of(st.integers(0, 100), st.integers(SMALL - 2, SMALL + 300), st.integers(0, 2**32 - 1))
    small = st.one_of(st.integers(0, 5), st.integers(0, 0xFFFF))
    values: list[st.SearchStrategy[Any]] = [
        length, st.integers(0, 9), st.integers(0, 2), small, st.integers(0, 2**64 - 1), small, small, length,
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
