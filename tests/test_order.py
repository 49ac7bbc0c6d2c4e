"""No call overtakes an earlier one to the same engines while that leaves; everything else does."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioparallel.order import Line
from aioparallel.wire import Kind, encode

ALL = "all"


def call(number: int, *, large: bool = False) -> list[Any]:
    return encode(Kind.CALL, number, buffers=[bytes(10)], small=0 if large else 100)


class Played:
    """A line, and what it let leave."""

    def __init__(self) -> None:
        self.line = Line()
        self.gone: list[int] = []
        self._pieces: dict[int, int] = {}

    def enter(self, number: int, targets: Any, *, large: bool = False) -> None:
        pieces = call(number, large=large)
        self._pieces[id(pieces)] = number
        if self.line.enter(number, targets, pieces, large=large):
            self.gone.append(number)
        else:
            self._kept = pieces, getattr(self, "_kept", None)  # no other gets its id

    def release(self, pieces: list[Any]) -> None:
        self.gone.append(self._pieces[id(pieces)])

    def left(self, number: int) -> None:
        self.line.left(number, self.release)

    def withdraw(self, number: int) -> bool:
        return self.line.withdraw(number, self.release)


def test_the_same_engine_waits_and_others_do_not() -> None:
    played = Played()
    played.enter(1, [0], large=True)
    played.enter(2, [0])
    played.enter(3, [1])
    played.enter(4, [0, 1])
    played.enter(5, [1])
    played.enter(6, [2])
    played.enter(7, ALL)
    played.enter(8, [3])
    played.enter(9, None)
    assert played.gone == [1, 3, 6, 9]
    played.left(1)
    assert played.gone == [1, 3, 6, 9, 2, 4, 5, 7, 8]
    assert not played.line.leaving
    assert played.line.size == 0
    assert repr(played.line) == "<Line: 0 calls leaving, 0 waiting>"


def test_large_ones_leave_one_after_the_other() -> None:
    played = Played()
    for number in range(4):
        played.enter(number, ALL if number == 2 else [number % 2], large=True)
    assert played.gone == [0, 1]
    played.left(0)
    assert played.gone == [0, 1]
    played.left(1)
    assert played.gone == [0, 1, 2]
    played.left(2)
    played.left(3)
    played.left(3)
    assert played.gone == [0, 1, 2, 3]
    assert not played.line.leaving


def test_large_calls_that_are_not_in_order_hold_up_nobody() -> None:
    played = Played()
    played.enter(1, None, large=True)
    played.enter(2, ALL)
    played.enter(3, [])
    assert played.gone == [1, 2, 3]
    assert list(played.line.leaving) == [1]


def test_what_waits_can_be_withdrawn() -> None:
    played = Played()
    played.enter(1, [0], large=True)
    played.enter(2, ALL)
    played.enter(3, [1])
    played.enter(4, [0])
    assert not played.withdraw(1)
    assert played.withdraw(4)
    assert not played.withdraw(4)
    assert played.gone == [1]
    assert played.withdraw(2)
    assert played.gone == [1, 3]
    played.left(1)
    assert played.gone == [1, 3]
    assert played.line.size == 0


def test_nobody_sees_an_empty_line_before_what_waited_has_left() -> None:
    line = Line()
    line.enter(1, [0], call(1, large=True), large=True)
    line.enter(2, [0], call(2), large=False)
    line.left(1, lambda pieces: pytest.fail("too late") if not line.leaving else None)
    assert not line.leaving


def test_clear_forgets_everything() -> None:
    played = Played()
    played.enter(1, [0], large=True)
    played.enter(2, [0])
    played.line.clear()
    played.left(1)
    assert not played.withdraw(2)
    assert (played.gone, played.line.size) == ([1], 0)


targets = st.one_of(st.just(ALL), st.none(), st.lists(st.integers(0, 3), unique=True, min_size=1, max_size=3))


def meet(some: Any, others: Any) -> bool:
    if some is None or others is None:
        return False
    return some == ALL or others == ALL or bool(set(some) & set(others))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(targets, st.booleans()), max_size=25), st.integers(0, 2**32).map(Random))
def test_order_is_kept_and_everything_leaves(calls: list[tuple[Any, bool]], random: Random) -> None:
    played, entered, withdrawn = Played(), [], set()
    out: set[int] = set()

    def check() -> None:
        for place, number in enumerate(entered):
            engines = calls[number][0]
            before = [e for e in entered[:place] if e not in withdrawn and meet(calls[e][0], engines)]
            free = all(e in (out if calls[e][1] else played.gone) for e in before)
            if number not in withdrawn:
                assert (number in played.gone) == (free or engines is None)

    while len(entered) < len(calls) or set(played.line.leaving):
        leaving = list(played.line.leaving)
        if len(entered) < len(calls) and (random.random() < 0.6 or not leaving):
            number = len(entered)
            entered.append(number)
            played.enter(number, calls[number][0], large=calls[number][1])
        elif random.random() < 0.3:
            number = random.choice(entered)
            if played.withdraw(number):
                withdrawn.add(number)
        else:
            number = random.choice(leaving)
            out.add(number)
            played.left(number)
        check()
    assert set(played.gone) | withdrawn == set(range(len(calls)))
    assert sorted(played.gone) == sorted(set(played.gone))
    assert played.line.size == 0
