"""Messages in pieces arrive whole, however they are cut and mixed; what is none is refused before it costs memory."""

from __future__ import annotations

import itertools
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioparallel.decoder import Decoder
from aioparallel.errors import ProtocolError
from aioparallel.stream import STREAMS, Assembly, Streams, cut
from aioparallel.wire import HEAD, PIECE, Bulk, Frame, Kind, Limits, encode, size_of

LIMITS = Limits(message=2**20, header=2**16)


def bulk(number: int, *sizes: int, header: bytes = b"") -> Bulk:
    [made] = encode(Kind.CALL, number, header=header, buffers=[bytes([number]) * size for size in sizes], small=-1)
    assert isinstance(made, Bulk)
    return made


def value(frame: Frame) -> tuple[int, bytes, list[bytes]]:
    return frame.id, frame.header, [bytes(buffer) for buffer in frame.buffers]


def resident() -> int:
    """Return how much memory this process really has, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Cutting


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=8).filter(any), st.integers(1, 40))
def test_cut_gives_all_bytes_in_order_and_says_which_are_the_last(buffers: list[bytes], size: int) -> None:
    pieces = [(b"".join(views), last) for views, last in cut(buffers, size)]
    assert b"".join(data for data, _ in pieces) == b"".join(buffers)
    assert all(len(data) == size for data, _ in pieces[:-1])
    assert 0 < len(pieces[-1][0]) <= size
    assert [last for _, last in pieces] == [False] * (len(pieces) - 1) + [True]


def test_a_message_above_4_gib_is_cut_without_being_touched() -> None:
    data = memoryview(bytes(5 * 2**30))
    before = resident()
    [made] = encode(Kind.CALL, 1, buffers=[data, b"tail"])
    assert isinstance(made, Bulk)
    sizes = [HEAD.unpack_from(piece[0])[0] for piece in made.cut(0, PIECE)]
    assert sum(sizes) == len(made) == 28 + 16 + len(data) + 4
    assert resident() - before < 2**26


# Putting together


@pytest.mark.parametrize("step", [1, 7, 2**30])
def test_streams_and_small_frames_in_one_another(step: int) -> None:
    first, second = bulk(1, 40, 0, 3, header=b"one").cut(0, 16), bulk(2, 25).cut(1, 16)
    small = [b"".join(encode(Kind.NOTICE, number)) for number in range(3)]  # type: ignore[arg-type]
    parts: list[Any] = [next(first), [small[0]], next(second), next(first), *second, [small[1]], *first, [small[2]]]
    data = b"".join(itertools.chain(*parts))
    decoder = Decoder(LIMITS)
    frames = [frame for start in range(0, len(data), step) for frame in decoder.feed(data[start : start + step])]
    assert [(Kind(frame.kind).name, frame.id) for frame in frames] == [
        ("NOTICE", 0), ("CALL", 2), ("NOTICE", 1), ("CALL", 1), ("NOTICE", 2),
    ]  # fmt: skip
    assert value(frames[3]) == (1, b"one", [b"\1" * 40, b"", b"\1\1\1"])
    assert decoder.feed(data[:5]) == []


def test_a_dropped_stream_leaves_nothing() -> None:
    decoder = Decoder(LIMITS)
    pieces = bulk(1, 100_000).cut(0, 30_000)
    decoder.feed(b"".join(next(pieces)))
    decoder.feed(b"".join(next(pieces)))
    assert "1 under way" in repr(decoder)
    assert decoder.feed(Bulk.dropped(0)) == []
    assert "under way" not in repr(decoder)
    with pytest.raises(ProtocolError, match="stream 0, which is not under way"):
        decoder.feed(b"".join(next(pieces)))


def test_clear_lets_go_of_what_is_under_way() -> None:
    decoder = Decoder(LIMITS)
    decoder.feed(b"".join(next(bulk(1, 100_000).cut(0, 30_000))))
    decoder.clear()
    assert "under way" not in repr(decoder)


def test_as_many_streams_as_there_may_be() -> None:
    decoder = Decoder(LIMITS)
    cuts = [bulk(number, 50).cut(number, 30) for number in range(STREAMS)]
    for pieces in cuts:
        decoder.feed(b"".join(next(pieces)))
    frames = [frame for pieces in reversed(cuts) for piece in pieces for frame in decoder.feed(b"".join(piece))]
    assert [frame.id for frame in frames] == list(reversed(range(STREAMS)))


def messages() -> st.SearchStrategy[list[list[int]]]:
    size = st.sampled_from([0, 1, 5, 300, 20_000])
    return st.lists(st.lists(size, min_size=1, max_size=4), min_size=1, max_size=6)


@settings(max_examples=80, deadline=None)
@given(messages(), st.integers(1, 500), st.integers(1, 3000), st.integers(0, 2**32).map(Random))
def test_any_mixture_arrives(sizes: list[list[int]], piece: int, step: int, random: Random) -> None:
    """Streams take turns as chance has it, some are dropped, small frames come between them."""
    under_way: dict[int, Iterator[Any]] = {}
    waiting = list(enumerate(sizes))
    data, expected, streams = [], [], 0
    while waiting or under_way:
        choice = random.random()
        if waiting and (choice < 0.2 or not under_way):
            number, lengths = waiting.pop(0)
            pieces = bulk(number, *lengths).cut(streams, max(piece, sum(lengths) // 50))
            under_way[number], streams = itertools.chain([next(pieces)], pieces), streams + 1
            data += next(under_way[number])
        elif choice < 0.3:
            data += encode(Kind.NOTICE, 99)
            expected.append((99, b"", []))
        elif choice < 0.32:
            number = random.choice(list(under_way))
            if last := list(under_way.pop(number)):
                # Of what is dropped the last piece, at least, has not left.
                data.append(Bulk.dropped(HEAD.unpack_from(last[0][0])[4]))
            else:
                expected.append((number, b"", [bytes([number]) * size for size in sizes[number]]))
        else:
            number = random.choice(list(under_way))
            try:
                data += next(under_way[number])
            except StopIteration:
                del under_way[number]
                expected.append((number, b"", [bytes([number]) * size for size in sizes[number]]))
    flat = b"".join(data)
    decoder = Decoder(LIMITS)
    frames = [frame for start in range(0, len(flat), step) for frame in decoder.feed(flat[start : start + step])]
    # A stream that chance did not come back to is noted late.
    assert sorted(map(value, frames)) == sorted(expected)
    assert repr(decoder) == "<Decoder 0 bytes waiting>"


@settings(max_examples=150, deadline=None)
@given(messages(), st.integers(20, 500), st.integers(0, 2**32).map(Random), st.integers(0, 3))
def test_pieces_out_of_order_raise_nothing_but_protocol_error(
    sizes: list[list[int]], piece: int, random: Random, mistakes: int
) -> None:
    pieces = []
    for number, lengths in enumerate(sizes):
        pieces += [b"".join(each) for each in bulk(number, *lengths).cut(number, max(piece, sum(lengths) // 20))]
    for _ in range(mistakes):
        what, place = random.randrange(3), random.randrange(len(pieces))
        if what == 0:
            pieces.insert(random.randrange(len(pieces)), pieces[place])
        elif what == 1:
            pieces[place] = Bulk.dropped(random.randrange(len(sizes) + 1))
        else:
            random.shuffle(pieces)
    decoder = Decoder(LIMITS)
    tracemalloc.start()
    try:
        for data in pieces:
            for frame in decoder.feed(data):
                assert len(frame.header) + size_of(frame.buffers) <= frame.size <= LIMITS.message
    except ProtocolError:
        assert mistakes
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**20


# Memory


def test_memory_is_not_committed_before_its_bytes_arrive() -> None:
    before = resident()
    decoder = Decoder(Limits())
    [made] = encode(Kind.CALL, 1, buffers=[memoryview(bytes(2**30))])
    decoder.feed(b"".join(next(made.cut(0, PIECE))))  # type: ignore[union-attr]
    assert resident() - before < 2**26


def test_a_message_above_4_gib_arrives() -> None:
    size = 5 * 2**30
    decoder = Decoder(Limits())
    [made] = encode(Kind.CALL, 1, header=b"h", buffers=[memoryview(bytes(size)), b"tail"])
    frames = []
    before = resident()
    for head, *views in made.cut(0, PIECE):  # type: ignore[union-attr]
        frames += decoder.feed(head)
        for view in views:
            if len(view) < 2**17:
                frames += decoder.feed(view)
                continue
            # As if it had been read there: to write 5 GiB takes a while.
            rest = len(view)
            while rest:
                count = min(len(decoder.get_buffer()), rest)
                frames += decoder.buffer_updated(count)
                rest -= count
    assert resident() - before < 2**28
    [frame] = frames
    assert (frame.header, [len(buffer) for buffer in frame.buffers]) == (b"h", [size, 4])
    assert frame.size == 1 + 16 + size + 4


def test_memory_that_is_not_there_is_said_in_words() -> None:
    streams = Streams(2**62, 0)
    streams.begin(0, 28, False)
    head = memoryview(HEAD.pack(0, Kind.CALL, 0, 0, 1, 0, 1, 0))
    with pytest.raises(
        ProtocolError, match=r"a buffer of 4,611,686,018,427,387,904 bytes, for which there is no memory"
    ):
        streams.take(memoryview((2**62).to_bytes(8, "little") + head[4:]))


def test_reprs() -> None:
    assembly = Assembly(1000, 100)
    assert repr(assembly) == "<Assembly, head under way>"
    data = b"".join(next(bulk(1, 900).cut(0, 500)))[HEAD.size :]
    assembly.take(memoryview(data))
    assert repr(assembly) == "<Assembly of 900 bytes>"
    assert repr(Streams(1, 1)) == "<Streams: 0 under way>"
