"""What leaves a connection and when: small frames first, large ones in turn, and what belongs together in order."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioparallel.decoder import Decoder
from aioparallel.outbox import Outbox
from aioparallel.stream import STREAMS
from aioparallel.wire import HEAD, LAST, NO_ENGINE, PIECE, Bulk, Frame, Kind, Limits, encode, size_of

LIMITS = Limits(message=2**20, piece=100, outbox=1000)


def message(
    number: int,
    size: int = 0,
    *,
    kind: int = Kind.CALL,
    flags: int = 0,
    engine: int = NO_ENGINE,
    limits: Limits = LIMITS,
) -> list[Any]:
    return encode(kind, number, flags=flags, engine=engine, buffers=[bytes(size)], small=limits.small)


class Played:
    """An outbox, and what arrives from it at the far end."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.outbox = Outbox(limits)
        self.decoder = Decoder(limits)
        self.arrived: list[Frame] = []

    def put(self, *args: Any, **kwargs: Any) -> None:
        self.outbox.put(message(*args, **kwargs))

    def take(self, times: int = 1) -> list[int]:
        """Let so much leave; return the ids of what has arrived by that."""
        frames: list[Frame] = []
        for _ in range(times):
            frames += self.decoder.feed(b"".join(self.outbox.take()))
        self.arrived += frames
        return [frame.id for frame in frames]

    def take_all(self) -> list[int]:
        ids = []
        while self.outbox:
            ids += self.take()
        return ids


def test_small_frames_leave_in_one_piece_and_in_order() -> None:
    outbox = Outbox(LIMITS)
    pieces = [piece for number in range(5) for piece in message(number, number)]
    outbox.put(pieces)
    assert outbox.size == size_of(pieces)
    assert outbox.take() == [b"".join(pieces)]
    assert not outbox
    assert outbox.take() == []


def test_a_small_frame_waits_for_no_more_than_a_piece() -> None:
    played = Played()
    played.put(1, 900)
    assert played.take(3) == []
    played.put(2, 50)
    assert played.take() == [2]
    assert played.take_all() == [1]


def test_large_messages_take_turns() -> None:
    played = Played()
    played.put(1, 400)
    played.put(2, 150)
    played.put(3, 300)
    assert [played.take() for _ in range(11)] == [[], [], [], [], [2], [], [], [], [], [3], [1]]


def test_many_small_frames_do_not_keep_a_large_one_from_leaving() -> None:
    played = Played()
    played.put(1, 250)
    for number in range(2, 12):
        played.put(number, 80)
    order = played.take_all()
    assert order.index(1) < 8
    assert [number for number in order if number != 1] == list(range(2, 12))


def test_what_has_the_same_id_goes_behind() -> None:
    played = Played()
    played.put(5, 300, kind=Kind.RESULT, engine=0)
    played.put(5, 10, kind=Kind.RESULT, engine=1)
    played.put(5, 200, kind=Kind.RESULT, engine=2)
    played.put(6, 200, kind=Kind.RESULT, engine=2)
    played.put(7, 0, kind=Kind.RESULT, engine=2)
    played.put(5, 10, kind=Kind.RESULT, engine=3, flags=LAST)
    played.take_all()
    assert [(one.id, one.engine) for one in played.arrived if one.id == 5] == [(5, 0), (5, 1), (5, 2), (5, 3)]
    assert [one.id for one in played.arrived][:2] == [7, 6]


def test_a_large_message_overtakes_nothing() -> None:
    played = Played()
    played.put(9, 1500)
    for number in range(20):
        played.put(number % 2, 80)
    played.put(1, 120)
    played.put(2, 2000)
    order = played.take_all()
    assert order.index(9) < 20
    assert [number for number in order if number < 9] == [0, 1] * 10 + [1, 2]


def test_a_notice_about_an_engine_goes_behind_what_it_sends() -> None:
    played = Played()
    played.put(1, 300, kind=Kind.RESULT, engine=4)
    played.put(2, 150, kind=Kind.RESULT, engine=4)
    played.put(90, kind=Kind.NOTICE, engine=4)
    played.put(91, kind=Kind.NOTICE, engine=5)
    played.put(92, kind=Kind.NOTICE)
    played.put(93, kind=Kind.BEAT)
    assert played.take_all() == [91, 92, 93, 2, 1, 90]


def test_goodbye_goes_behind_everything() -> None:
    played = Played()
    played.put(1, 300)
    played.put(99, kind=Kind.GOODBYE)
    played.put(2, 2000)
    played.put(3, 0)
    assert played.take_all() == [3, 1, 2, 99]


def test_one_above_the_bound_is_under_way_at_once() -> None:
    played = Played()
    for number in (1, 2, 3):
        played.put(number, 1500)
    played.put(4, 300)
    assert played.take_all() == [4, 1, 2, 3]


def test_those_under_way_have_the_bound_together() -> None:
    played = Played()
    for number in range(1, 8):
        played.put(number, 400)
    assert "2 large messages under way" in repr(played.outbox)
    assert played.take_all() == [1, 2, 3, 4, 5, 6, 7]


def test_no_more_streams_than_the_far_end_takes() -> None:
    limits = Limits(piece=10)
    played = Played(limits)
    for number in range(200):
        played.put(number, 100, limits=limits)
    played.put(200, 2**20, limits=limits)
    assert sorted(played.take_all()) == list(range(201))


def test_excess_is_what_waits_beside_the_one_that_always_passes() -> None:
    played = Played()
    played.put(1, 5000)
    assert played.outbox.size == 5028
    assert played.outbox.excess == 0
    played.put(2, 500)
    played.put(3, 5000)
    assert played.outbox.excess == 528 + 5028
    played.take_all()
    assert played.outbox.excess == played.outbox.size == 0


# Dropping


def test_what_has_not_begun_leaves_no_trace() -> None:
    played = Played()
    played.put(1, 5000)
    played.put(2, 5000)
    assert played.outbox.drop(2)
    assert played.outbox.drop(1)
    assert not played.outbox.drop(1)
    assert not played.outbox
    played.put(3, 300)
    assert played.take_all() == [3]


def test_what_has_begun_is_said_to_be_dropped() -> None:
    played = Played()
    played.put(1, 5000)
    played.take(3)
    assert played.outbox.drop(1)
    assert played.outbox.size == HEAD.size
    assert played.take_all() == []
    assert repr(played.decoder) == "<Decoder 0 bytes waiting>"
    played.put(2, 300)
    assert played.take_all() == [2]


def test_what_is_behind_a_dropped_message_is_dropped_with_it() -> None:
    played = Played()
    played.put(1, 300)
    played.put(1, 300)
    played.put(1, 0, kind=Kind.CANCEL)
    played.put(9, kind=Kind.GOODBYE)
    assert played.outbox.drop(1)
    assert played.take_all() == [9]
    assert played.outbox.size == 0


def test_a_message_is_told_of_once_when_it_is_gone() -> None:
    played, gone = Played(), []
    for number in (1, 2):
        [bulk] = message(number, 300)
        assert isinstance(bulk, Bulk)
        bulk.sent = lambda number=number: gone.append(number)  # type: ignore[misc]
        played.outbox.put([bulk])
    played.take()
    played.outbox.drop(2)
    assert gone == [2]
    played.take_all()
    assert gone == [2, 1]


def test_clear_forgets_everything() -> None:
    played = Played()
    for number in (1, 1, 2, 3):
        played.put(number, 5000 if number == 3 else 300)
    played.put(9, kind=Kind.GOODBYE)
    played.take()
    played.outbox.clear()
    assert not played.outbox
    assert played.outbox.take() == []
    assert repr(played.outbox) == "<Outbox, 0 bytes, 0 large messages under way>"


@pytest.mark.parametrize("empty_last", [False, True])
def test_frames_are_told_apart(empty_last: bool) -> None:
    outbox = Outbox(LIMITS)
    frame = encode(Kind.CALL, 1, header=b"h", buffers=[b"a", b"" if empty_last else b"b"])
    outbox.put([*message(9, 300), *frame, *encode(Kind.BEAT), *frame])
    decoder = Decoder(LIMITS)
    arrived = []
    while outbox:
        arrived += decoder.feed(b"".join(outbox.take()))
    assert [one.id for one in arrived] == [1, 0, 1, 9]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32).map(Random), st.integers(1, 150))
def test_whatever_is_sent_arrives_once_and_what_has_an_id_in_order(random: Random, steps: int) -> None:
    played = Played(Limits(message=2**20, piece=random.choice([1, 30, PIECE]), outbox=random.choice([1, 300, 10_000])))
    sent: dict[int, list[int]] = {}
    dropped: set[int] = set()
    for step in range(steps):
        choice = random.random()
        if choice < 0.5:
            number, size = random.randrange(1, 8), random.choice([0, 10, 29, 31, 200, 500, 900])
            if number not in dropped:
                sent.setdefault(number, []).append(step)
                pieces = encode(Kind.RESULT, number, code=step, buffers=[bytes(size)], small=random.choice([20, 1000]))
                played.outbox.put(pieces)
        elif choice < 0.55:
            number = random.randrange(1, 8)
            if played.outbox.drop(number):
                dropped.add(number)
        else:
            played.take()
        assert len(played.decoder._streams.under_way) < STREAMS
        assert (played.outbox.size == 0) == (not played.outbox)
        assert played.outbox.excess <= played.outbox.size
    played.take_all()
    for number, codes in sent.items():
        arrived = [frame.code for frame in played.arrived if frame.id == number]
        if number in dropped:
            assert arrived == [code for code in codes if code in arrived]
        else:
            assert arrived == codes
    assert repr(played.outbox) == "<Outbox, 0 bytes, 0 large messages under way>"
    assert repr(played.decoder) == "<Decoder 0 bytes waiting>"
