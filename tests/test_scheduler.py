"""Which task goes where: the rules, and what holds after any sequence of events."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aioparallel.room import LABELS, SHORTEST, UNKNOWN
from aioparallel.scheduler import AHEAD, DEPTH, Scheduler

SHORT, LONG = b"short", b"long"


def scheduler(engines: int = 0, **lengths: float) -> Scheduler[str]:
    """Return a scheduler with engines 0, 1, … that has seen one task of each label run for so many seconds."""
    made: Scheduler[str] = Scheduler()
    made.engine_joined(1000)
    for label, seconds in lengths.items():
        made.task_added(label, label=label.encode())
        made.decide(0.0)
        made.task_done(label, seconds)
    made.engine_left(1000)
    for engine in range(engines):
        made.engine_joined(engine)
    return made


def add(scheduler: Scheduler[str], names: str, label: bytes = b"") -> None:
    for name in names:
        scheduler.task_added(name, label=label)


# Fairness


def test_tasks_of_unknown_length_go_one_to_an_engine_and_the_rest_wait() -> None:
    tasks = scheduler(3)
    add(tasks, "abcde")
    assert tasks.decide(0.0) == [("a", 0), ("b", 1), ("c", 2)]
    assert (tasks.waiting, tasks.placed) == (2, 3)
    assert tasks.decide(0.0) == []
    tasks.task_done("b", 1.0)
    assert tasks.decide(0.0) == [("d", 1)]


def test_first_come_first_served() -> None:
    tasks = scheduler(1)
    add(tasks, "abc")
    order = []
    while decided := tasks.decide(0.0):
        order += [task for task, _ in decided]
        tasks.task_done(decided[0][0], 1.0)
    assert order == ["a", "b", "c"]


def test_equal_work_is_spread_equally() -> None:
    tasks = scheduler(4, short=AHEAD / 8)
    for number in range(1000):
        tasks.task_added(str(number), label=SHORT)
    placed: Counter[int] = Counter()
    while decided := tasks.decide(0.0):
        placed.update(engine for _, engine in decided)
        for task, _ in decided:
            tasks.task_done(task, AHEAD / 8)
    assert sum(placed.values()) == 1000
    assert max(placed.values()) - min(placed.values()) <= 9


def test_least_loaded_engine_gets_the_next() -> None:
    tasks = scheduler(2, short=AHEAD / 4, tiny=AHEAD / 40)
    add(tasks, "a", SHORT)
    add(tasks, "bcdefg", b"tiny")
    decided = dict(tasks.decide(0.0))
    assert decided["a"] == 0
    # Six tiny ones are less than one short one.
    assert {decided[name] for name in "bcdefg"} == {1}


# Prefetch


def test_short_tasks_wait_at_the_engine_up_to_the_horizon() -> None:
    tasks = scheduler(1, short=AHEAD / 4)
    for number in range(100):
        tasks.task_added(str(number), label=SHORT)
    # One more while what is there takes at most AHEAD: four make AHEAD, so the fifth goes too.
    assert len(tasks.decide(0.0)) == 5
    assert tasks.waiting == 95


def test_long_tasks_do_not_wait_at_the_engine() -> None:
    tasks = scheduler(2, long=10.0)
    add(tasks, "abcd", LONG)
    assert tasks.decide(0.0) == [("a", 0), ("b", 1)]


def test_nothing_waits_behind_a_long_one() -> None:
    tasks = scheduler(1, long=10.0, short=1e-5)
    add(tasks, "a", LONG)
    add(tasks, "bcd", SHORT)
    assert tasks.decide(0.0) == [("a", 0)]
    tasks.task_done("a", 10.0)
    assert [task for task, _ in tasks.decide(0.0)] == ["b", "c", "d"]


def test_nothing_waits_behind_one_of_unknown_length() -> None:
    tasks = scheduler(1, short=1e-5)
    add(tasks, "a", b"new")
    add(tasks, "bcd", SHORT)
    assert tasks.decide(0.0) == [("a", 0)]


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-5])
def test_long_task_goes_to_the_free_engine_never_behind_another(seconds: float) -> None:
    tasks = scheduler(2, short=seconds, long=10.0)
    add(tasks, "a", SHORT)
    add(tasks, "b", LONG)
    assert tasks.decide(0.0) == [("a", 0), ("b", 1)]
    tasks = scheduler(2, short=seconds, long=10.0)
    # Also when the other engine is the one that was heard of last.
    add(tasks, "a", SHORT)
    assert tasks.decide(0.0) == [("a", 0)]
    add(tasks, "c", SHORT)
    assert tasks.decide(0.0) == [("c", 1)]
    tasks.task_done("c", seconds)
    add(tasks, "b", LONG)
    assert tasks.decide(0.0) == [("b", 1)]


def test_engine_with_many_tasks_of_no_length_leaves_room_for_a_new_engine() -> None:
    tasks = scheduler(1, short=0.0)
    for number in range(DEPTH + 10):
        tasks.task_added(str(number), label=SHORT)
    assert len(tasks.decide(0.0)) == DEPTH
    tasks.engine_joined(1)
    assert {engine for _, engine in tasks.decide(0.0)} == {1}


def test_depth_is_bounded() -> None:
    tasks = scheduler(1, short=SHORTEST)
    for number in range(3 * DEPTH):
        tasks.task_added(str(number), label=SHORT)
    assert len(tasks.decide(0.0)) == DEPTH
    tasks.task_done("0", SHORTEST)
    assert len(tasks.decide(0.0)) == 1


# What is learnt


def test_expectation_rises_at_once_and_falls_slowly() -> None:
    tasks = scheduler(1, short=1.0)
    assert tasks.expected(SHORT) == 1.0
    assert tasks.expected(b"never seen") is None

    def run(seconds: float | None) -> float | None:
        tasks.task_added("t", label=SHORT)
        tasks.decide(0.0)
        tasks.task_done("t", seconds)
        return tasks.expected(SHORT)

    assert run(5.0) == 5.0
    assert run(0.0) == pytest.approx(4.0, abs=1e-3)
    # One that did not run to its end teaches nothing.
    assert run(None) == pytest.approx(4.0, abs=1e-3)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -1.0])
def test_time_that_is_no_time_teaches_nothing(seconds: float) -> None:
    tasks = scheduler(1, short=1.0)
    tasks.task_added("t", label=SHORT)
    tasks.decide(0.0)
    tasks.task_done("t", seconds)
    assert tasks.expected(SHORT) == 1.0
    tasks.task_added("u", label=SHORT)
    assert tasks.decide(0.0) == [("u", 0)]


def test_labels_are_bounded() -> None:
    tasks = scheduler(1)
    for number in range(LABELS + 10):
        tasks.task_added("t", label=b"%d" % number)
        tasks.decide(0.0)
        tasks.task_done("t", 1.0)
    assert tasks.expected(b"0") is None
    assert tasks.expected(b"%d" % (LABELS + 9)) == 1.0
    assert sum(tasks.expected(b"%d" % number) is not None for number in range(LABELS + 10)) == LABELS


# Engines come and go


def test_no_engines_no_decisions() -> None:
    tasks = scheduler()
    add(tasks, "ab")
    assert tasks.decide(0.0) == []
    assert tasks.waiting == 2
    tasks.engine_joined(7)
    assert tasks.decide(0.0) == [("a", 7)]


def test_engine_that_leaves_gives_back_what_it_had() -> None:
    tasks = scheduler(2)
    add(tasks, "abc")
    tasks.decide(0.0)
    assert tasks.engine_left(0) == ["a"]
    assert (tasks.waiting, tasks.placed) == (1, 1)
    assert tasks.decide(0.0) == []
    add(tasks, "a")
    tasks.task_done("b", 1.0)
    assert tasks.decide(0.0) == [("c", 1)]
    assert tasks.engine_left(0) == []
    assert tasks.engine_left(99) == []


def test_late_answer_from_an_engine_that_left_does_not_touch_the_task_that_waits_again() -> None:
    tasks = scheduler(1)
    add(tasks, "a", SHORT)
    tasks.decide(0.0)
    tasks.engine_left(0)
    add(tasks, "a", SHORT)
    tasks.task_done("a", 1.0)
    assert tasks.expected(SHORT) is None
    tasks.engine_joined(1)
    assert tasks.decide(0.0) == [("a", 1)]


def test_engine_that_comes_again_comes_with_nothing() -> None:
    tasks = scheduler(1)
    add(tasks, "ab")
    tasks.decide(0.0)
    tasks.engine_left(0)
    tasks.engine_joined(0)
    assert tasks.decide(0.0) == [("b", 0)]
    assert tasks.placed == 1


# Removal


def test_removed_task_is_not_placed() -> None:
    tasks = scheduler()
    add(tasks, "abc")
    assert tasks.task_removed("b")
    assert not tasks.task_removed("b")
    assert not tasks.task_removed("never seen")
    assert tasks.waiting == 2
    tasks.engine_joined(0)
    tasks.engine_joined(1)
    assert tasks.decide(0.0) == [("a", 0), ("c", 1)]
    assert tasks.waiting == 0


def test_placed_task_is_not_removed() -> None:
    tasks = scheduler(1)
    add(tasks, "a")
    tasks.decide(0.0)
    assert not tasks.task_removed("a")
    assert tasks.placed == 1


def test_task_that_was_removed_may_come_again_once() -> None:
    tasks = scheduler()
    for _ in range(3):
        add(tasks, "a")
        assert tasks.task_removed("a")
    add(tasks, "a")
    assert tasks.waiting == 1
    for engine in range(3):
        tasks.engine_joined(engine)
    assert tasks.decide(0.0) == [("a", 0)]
    assert (tasks.waiting, tasks.placed) == (0, 1)


def test_repr() -> None:
    tasks = scheduler(2)
    add(tasks, "abc")
    tasks.decide(0.0)
    assert repr(tasks) == "<Scheduler <LeastLoaded>: 1 waiting, 2 on 2 engines>"


# Whatever happens


class AnySequence(RuleBasedStateMachine):
    """Random events, checked against a model that knows only where each task must be."""

    @initialize()
    def begin(self) -> None:
        self.tasks: Scheduler[int] = Scheduler()
        self.count = 0
        self.waiting: dict[int, bytes] = {}
        self.placed: dict[int, int] = {}
        self.gone: list[int] = []
        self.engines: set[int] = set()

    @rule(label=st.sampled_from([b"", SHORT, LONG]))
    def new_task(self, label: bytes) -> None:
        self.count += 1
        self.tasks.task_added(self.count, label=label)
        self.waiting[self.count] = label

    @precondition(lambda self: self.gone)
    @rule(data=st.data(), label=st.sampled_from([b"", SHORT, LONG]))
    def task_again(self, data: st.DataObject, label: bytes) -> None:
        task = data.draw(st.sampled_from(self.gone))
        self.gone.remove(task)
        self.tasks.task_added(task, label=label)
        self.waiting[task] = label

    @rule(data=st.data(), engine=st.integers(0, 4))
    def engine_joins_or_leaves(self, data: st.DataObject, engine: int) -> None:
        if engine not in self.engines:
            self.engines.add(engine)
            self.tasks.engine_joined(engine)
            return
        self.engines.discard(engine)
        had = {task for task, place in self.placed.items() if place == engine}
        left = self.tasks.engine_left(engine)
        assert len(left) == len(had)
        assert set(left) == had
        for task in had:
            del self.placed[task]
            self.gone.append(task)

    @precondition(lambda self: self.count)
    @rule(data=st.data(), seconds=st.sampled_from([None, 0.0, 1e-7, AHEAD / 3, AHEAD, 1.0, 1e6, math.nan]))
    def task_done(self, data: st.DataObject, seconds: float | None) -> None:
        # Any task that ever was: also one that waits, is done, or was at an engine that left.
        task = data.draw(st.integers(1, self.count))
        self.tasks.task_done(task, seconds)
        if self.placed.pop(task, None) is not None:
            self.gone.append(task)

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        task = data.draw(st.integers(1, self.count))
        assert self.tasks.task_removed(task) == (task in self.waiting)
        if self.waiting.pop(task, None) is not None:
            self.gone.append(task)

    @rule()
    def decide(self) -> None:
        before = {engine: load(self.tasks, engine) for engine in self.engines}
        idle = self.engines - set(self.placed.values())
        for task, engine in self.tasks.decide(0.0):
            assert task in self.waiting, "placed twice, or never added"
            assert engine in self.engines
            expected = self.tasks.expected(self.waiting.pop(task))
            assert not idle or engine in idle, "behind another while an engine is free"
            assert engine in idle or before[engine] <= AHEAD, "behind a long one"
            idle.discard(engine)
            self.placed[task] = engine
            before[engine] += UNKNOWN if expected is None else expected
        if self.waiting:
            assert not idle, "a task waits while an engine is free"

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "tasks"):
            return
        assert self.tasks.waiting == len(self.waiting)
        assert self.tasks.placed == len(self.placed)

    @invariant()
    def loads_do_not_drift(self) -> None:
        if not hasattr(self, "tasks"):
            return
        for engine in self.engines:
            under_way: dict[Any, Any] = self.tasks._engines[engine].tasks
            assert set(under_way) == {task for task, place in self.placed.items() if place == engine}
            assert self.tasks._engines[engine].load == sum(length for _, length in under_way.values())
            if not under_way:
                assert load(self.tasks, engine) == 0.0


def load(tasks: Scheduler[int], engine: int) -> float:
    return tasks._engines[engine].load / 1e9


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.lists(st.floats(0, 0.02), min_size=1, max_size=200))
def test_everything_added_runs_exactly_once(engines: int, lengths: list[float]) -> None:
    tasks: Scheduler[int] = Scheduler()
    for engine in range(engines):
        tasks.engine_joined(engine)
    for number, seconds in enumerate(lengths):
        tasks.task_added(number, label=b"%d" % (seconds * 1000))
    ran: list[int] = []
    while decided := tasks.decide(0.0):
        for task, _ in decided:
            ran.append(task)
            tasks.task_done(task, lengths[task])
    assert sorted(ran) == list(range(len(lengths)))
    assert (tasks.waiting, tasks.placed) == (0, 0)
    # The heap of loads is kept in bounds.
    assert len(tasks._heap) <= 65 + 8 * engines


def test_among_equals_the_one_that_was_busy_last_goes_first_and_a_fresh_kernel_last() -> None:
    scheduler: Scheduler[str] = Scheduler()
    for engine in range(3):
        scheduler.engine_joined(engine)
    chosen = []
    for task in ("a", "b", "c"):
        scheduler.task_added(task)
        [(_, engine)] = scheduler.decide(0.0)
        chosen.append(engine)
        scheduler.task_done(task, 0.001)
    assert chosen == [0, 0, 0]
    scheduler.engine_resumed(0)
    for task, expected in (("d", 1), ("e", 2), ("f", 0)):
        scheduler.task_added(task, label=b"unknown")
        assert scheduler.decide(0.0) == [(task, expected)]
    scheduler.engine_resumed(7)
    assert scheduler.placed == 3
