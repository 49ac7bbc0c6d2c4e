"""How tasks ended: counts, and results within their bounds, against a model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aioparallel import ledger as module
from aioparallel.errors import ResultGone
from aioparallel.graph import Outcome
from aioparallel.ledger import OVERHEAD, Ledger

OK, FAILED = Outcome(True, 1), Outcome(False, None)


def ended(ledger: Ledger[str], number: int, size: int = 0, outcome: Outcome = OK, now: float = 0.0) -> None:
    ledger.count(number, outcome.ok)
    ledger.keep(number, f"result {number}", size, outcome, now)


def test_a_result_is_kept_until_it_is_delivered():
    ledger: Ledger[str] = Ledger(10**6, 60.0)
    ended(ledger, 0, 100)
    kept = ledger.find(0)
    assert kept is not None
    assert (kept.result, kept.outcome, ledger.size) == ("result 0", OK, 100 + OVERHEAD)
    ledger.delivered(0)
    ledger.delivered(0)
    with pytest.raises(ResultGone, match="the result of task 0 has been delivered"):
        ledger.find(0)
    assert ledger.outcome(0) == OK
    assert ledger.find(1) is None
    assert (ledger.succeeded, ledger.size, len(ledger)) == (1, 0, 0)


def test_the_oldest_go_for_the_newest_and_one_that_is_too_large_at_once():
    ledger: Ledger[str] = Ledger(3 * OVERHEAD, 60.0)
    for number in range(4):
        ended(ledger, number)
    assert [ledger.outcome(number) for number in range(5)] == [OK] * 4 + [None]
    with pytest.raises(ResultGone, match=r"task 0 is gone: there is room for 3,072 bytes of results \(Limits.results"):
        ledger.find(0)
    ended(ledger, 4, 3 * OVERHEAD)
    with pytest.raises(ResultGone):
        ledger.find(4)
    assert len(ledger) == 3
    assert ledger.find(1) is not None


def test_old_results_go():
    ledger: Ledger[str] = Ledger(10**6, 60.0)
    assert ledger.due is None
    ended(ledger, 0, now=0.0)
    ended(ledger, 1, now=30.0)
    assert ledger.due == 60.0
    ledger.expire(60.0)
    assert ledger.due == 90.0
    with pytest.raises(ResultGone, match=r"kept for 60 s \(Limits.result_ttl\)"):
        ledger.find(0)
    ledger.expire(1000.0)
    assert (len(ledger), ledger.size, ledger.due) == (0, 0, None)


def test_what_is_cleared_is_counted_no_more():
    ledger: Ledger[str] = Ledger(10**6, 60.0)
    for number in range(4):
        ended(ledger, number, outcome=FAILED if number % 2 else OK)
    ledger.count(4, True)
    assert ledger.clear([0, 1, 1, 4, 99]) == 2
    assert ledger.clear([0]) == 0
    assert (ledger.succeeded, ledger.failed, ledger.recent(True), ledger.recent(False)) == (2, 1, [2, 4], [3])
    with pytest.raises(ResultGone, match="has been cleared"):
        ledger.find(0)
    assert ledger.clear() == 3
    assert (ledger.succeeded, ledger.failed, ledger.cleared, ledger.size) == (0, 0, 5, 0)
    assert ledger.recent(True) == ledger.recent(False) == []
    assert ledger.clear() == 0


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "REMEMBERED", 10)
    ledger: Ledger[str] = Ledger(10**9, 60.0)
    for number in range(100):
        ended(ledger, number)
        ledger.delivered(number)
    assert ledger.outcome(89) is None
    assert ledger.outcome(90) == OK


@given(st.lists(st.booleans(), max_size=50))
def test_the_last_are_listed(ends: list[bool]):
    ledger: Ledger[str] = Ledger(0, 0.0)
    for number, ok in enumerate(ends):
        ledger.count(number, ok)
    assert ledger.recent(True) == [n for n, ok in enumerate(ends) if ok]
    assert ledger.recent(False) == [n for n, ok in enumerate(ends) if not ok]


class Books(RuleBasedStateMachine):
    """A ledger, and beside it a plain list of all that happened."""

    QUOTA, TTL = 4 * OVERHEAD + 1000, 10.0

    def __init__(self) -> None:
        super().__init__()
        self.ledger: Ledger[str] = Ledger(self.QUOTA, self.TTL)
        self.now = 0.0
        self.number = 0
        self.kept: dict[int, tuple[int, float]] = {}
        self.counted: dict[int, bool] = {}
        self.had: set[int] = set()

    @rule(size=st.integers(0, 6000), ok=st.booleans(), keep=st.booleans())
    def end(self, size: int, ok: bool, keep: bool) -> None:
        self.ledger.count(self.number, ok)
        self.counted[self.number] = ok
        if keep:
            self.had.add(self.number)
            self.ledger.keep(self.number, "result", size, Outcome(ok, 0), self.now)
            if size + OVERHEAD <= self.QUOTA:
                self.kept[self.number] = size + OVERHEAD, self.now + self.TTL
                while sum(size for size, _ in self.kept.values()) > self.QUOTA:
                    del self.kept[min(self.kept)]
        self.number += 1

    @rule(seconds=st.floats(0, 15))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.ledger.expire(self.now)
        self.kept = {number: kept for number, kept in self.kept.items() if kept[1] > self.now}

    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, self.number))
        if number in self.kept:
            assert self.ledger.find(number) is not None
            if data.draw(st.booleans()):
                self.ledger.delivered(number)
                del self.kept[number]
        elif number in self.had:
            with pytest.raises(ResultGone):
                self.ledger.find(number)
        else:
            assert self.ledger.find(number) is None

    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            assert self.ledger.clear() == len(self.counted)
            self.counted.clear()
            self.kept.clear()
        else:
            numbers = data.draw(st.lists(st.integers(0, self.number), max_size=4))
            gone = [number for number in dict.fromkeys(numbers) if number in self.had and number in self.counted]
            assert self.ledger.clear(numbers) == len(gone)
            for number in gone:
                del self.counted[number]
                self.kept.pop(number, None)

    @invariant()
    def it_adds_up(self) -> None:
        ledger = self.ledger
        assert ledger.succeeded + ledger.failed + ledger.cleared == self.number
        assert ledger.succeeded == sum(self.counted.values())
        assert (ledger.size, len(ledger)) == (sum(size for size, _ in self.kept.values()), len(self.kept))
        assert ledger.size <= self.QUOTA
        assert ledger.due == min((until for _, until in self.kept.values()), default=None)


TestBooks = Books.TestCase
