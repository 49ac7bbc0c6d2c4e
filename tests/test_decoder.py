"""Frames survive every cut of the stream; what is no frame is refused before anything is allocated for it."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import LIMITS, SHAPES, Plain, flat, plain

from aioparallel.decoder import CHUNK, Decoder
from aioparallel.errors import ProtocolError
from aioparallel.wire import HEAD, LAST, NO_ENGINE, PIECE, SHARED, SMALL, Frame, Kind, Limits, size_of


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
