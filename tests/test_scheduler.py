"""Which task goes where: the rules, and what holds after any sequence of events."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioparallel.needs import Needs
from aioparallel.room import LABELS, SHORTEST
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


# Needs


def test_engines_that_are_needed_and_those_that_rejected() -> None:
    tasks = scheduler(3)
    tasks.task_added("a", needs=Needs(engines=frozenset({2})))
    tasks.task_added("b", needs=Needs(engines=frozenset({2, 9})))
    tasks.task_added("c", needs=Needs(not_on=frozenset({0})))
    tasks.task_added("d", needs=Needs(not_on=frozenset({0, 1, 2})))
    assert tasks.decide(0.0) == [("a", 2), ("c", 1)]
    tasks.engine_joined(9)
    assert tasks.decide(0.0) == [("b", 9)]
    tasks.task_done("a", 1.0)
    assert tasks.decide(0.0) == []
    tasks.task_changed("d", Needs(not_on=frozenset({0, 1})))
    assert tasks.decide(0.0) == [("d", 2)]
    tasks.task_changed("d", None)
    assert tasks.engine_of("d") == 2


def test_changed_task_goes_before_its_clients_others() -> None:
    tasks = scheduler()
    add(tasks, "abc")
    tasks.task_changed("c", Needs(engines=frozenset({0})))
    tasks.task_changed("never seen", None)
    for engine in range(3):
        tasks.engine_joined(engine)
    assert tasks.decide(0.0) == [("c", 0), ("a", 1), ("b", 2)]


def test_rather_not_waits_for_a_busy_engine_but_not_for_one_that_is_none() -> None:
    tasks = scheduler(2)
    needs = Needs(rather_not=frozenset({0}))
    tasks.task_added("long", needs=Needs(engines=frozenset({1})))
    tasks.task_added("a", needs=needs)
    assert tasks.decide(0.0) == [("long", 1)]
    tasks.engine_paused(1)
    assert tasks.decide(0.0) == [("a", 0)]
    tasks.task_done("a")
    tasks.engine_resumed(1)
    tasks.task_added("a", needs=needs)
    assert tasks.decide(0.0) == []
    tasks.task_done("long", 1.0)
    assert tasks.decide(0.0) == [("a", 1)]
    tasks.task_added("b", needs=needs)
    tasks.engine_left(1)
    assert tasks.decide(0.0) == [("b", 0)]


def test_resources_are_held_while_a_task_is_at_its_engine() -> None:
    tasks: Scheduler[str] = Scheduler()
    tasks.engine_joined(0, {"gpu": 1})
    tasks.engine_joined(1, {"gpu": 0.3, "mem": 4})
    third = Needs(resources=(("gpu", 0.1),))
    for name in "abcdef":
        tasks.task_added(name, label=SHORT, needs=third)
    assert dict(tasks.decide(0.0)) == {"a": 0, "b": 1}
    for name in "ab":
        tasks.task_done(name, SHORTEST)
    # Three tenths are three times one tenth.
    assert Counter(engine for _, engine in tasks.decide(0.0)) == {0: 2, 1: 2}
    for name in "cdef":
        tasks.task_done(name, SHORTEST)
    for number in range(20):
        tasks.task_added(str(number), label=SHORT, needs=third)
    assert Counter(engine for _, engine in tasks.decide(0.0)) == {0: 10, 1: 3}
    tasks.task_added("free", label=SHORT)
    assert [task for task, _ in tasks.decide(0.0)] == ["free"]


def test_task_that_waits_for_a_resource_lets_others_pass() -> None:
    tasks = scheduler(1)
    tasks.task_added("a", needs=Needs(resources=(("gpu", 1.0),)))
    tasks.task_added("b")
    assert tasks.decide(0.0) == [("b", 0)]
    tasks.engine_joined(1, {"gpu": 1.0})
    assert tasks.decide(0.0) == [("a", 1)]


def test_engine_that_is_paused_gets_nothing_and_keeps_what_it_has() -> None:
    tasks = scheduler(1, short=SHORTEST)
    add(tasks, "ab", SHORT)
    assert len(tasks.decide(0.0)) == 2
    for _ in range(2):
        tasks.engine_paused(0)
    tasks.engine_paused(7)
    add(tasks, "c", SHORT)
    assert tasks.decide(0.0) == []
    tasks.task_done("a")
    assert tasks.decide(0.0) == []
    assert tasks.placed == 1
    tasks.engine_resumed(0)
    assert tasks.decide(0.0) == [("c", 0)]
    assert tasks.engine_left(0) == ["b", "c"]


def test_what_is_added_or_joins_twice_is_refused() -> None:
    tasks = scheduler(1)
    with pytest.raises(ValueError, match="engine 0 is here already"):
        tasks.engine_joined(0)
    add(tasks, "a")
    with pytest.raises(ValueError, match="'a' is here already"):
        add(tasks, "a")
    tasks.decide(0.0)
    with pytest.raises(ValueError, match="'a' is here already"):
        add(tasks, "a")


# Recalls


def stuck(*, behind: int, engines: int = 2) -> Scheduler[str]:
    """Return a scheduler with a task "x" at engine 0, many behind it, and other engines idle."""
    tasks = scheduler(1, short=SHORTEST)
    add(tasks, "x", SHORT)
    for number in range(behind):
        tasks.task_added(str(number), label=SHORT)
    assert len(tasks.decide(0.0)) == behind + 1
    for engine in range(1, engines):
        tasks.engine_joined(engine)
    return tasks


def test_what_waits_behind_a_long_one_is_asked_back_by_halves_the_last_first() -> None:
    tasks = stuck(behind=5)
    assert tasks.recalls(0.0) == []
    assert tasks.wake == AHEAD
    assert tasks.recalls(AHEAD / 2) == []
    assert tasks.recalls(AHEAD) == [("4", 0), ("3", 0), ("2", 0)]
    assert tasks.wake == 2 * AHEAD
    assert tasks.recalls(AHEAD) == []
    assert tasks.recalls(2 * AHEAD) == [("1", 0)]
    assert tasks.recalls(3 * AHEAD) == [("0", 0)]
    assert tasks.recalls(4 * AHEAD) == []
    assert tasks.wake is None
    for name in "43210":
        tasks.task_done(name)
        tasks.task_added(name, label=SHORT, again=True)
    # None of them goes back behind the long one.
    assert {engine for _, engine in tasks.decide(4 * AHEAD)} == {1}
    assert tasks.engine_of("x") == 0


def test_each_placement_is_asked_back_once_and_then_forgotten() -> None:
    tasks = stuck(behind=1)
    for round_ in range(3):
        assert tasks.recalls(3.0 * round_) + tasks.recalls(3.0 * round_ + 1.0) == [("0", 0)]
        assert tasks.recalls(3.0 * round_ + 2.0) == []
        tasks.task_done("0")
        tasks.task_done("x", SHORTEST)
        assert not tasks._engines[0].asked
        # The same two come to the same engine once more.
        tasks.engine_paused(1)
        add(tasks, "x0", SHORT)
        assert tasks.decide(3.0 * round_ + 2.0) == [("x", 0), ("0", 0)]
        tasks.engine_resumed(1)


def test_nothing_is_asked_back_while_no_engine_is_idle_or_the_engine_answers() -> None:
    tasks = stuck(behind=5, engines=1)
    assert (tasks.recalls(1.0), tasks.wake) == ([], None)
    tasks.engine_joined(1)
    tasks.engine_paused(1)
    assert (tasks.recalls(2.0), tasks.wake) == ([], None)
    tasks.engine_resumed(1)
    tasks.task_done("x", SHORTEST)
    assert (tasks.recalls(3.0), tasks.wake) == ([], 3.0 + AHEAD)
    tasks.task_done("0", SHORTEST)
    assert (tasks.recalls(4.0), tasks.wake) == ([], 4.0 + AHEAD)
    assert tasks.recalls(4.0 + AHEAD) == [("4", 0), ("3", 0)]


def test_only_what_an_idle_engine_may_take_is_asked_back() -> None:
    tasks = scheduler(1, short=SHORTEST)
    needs = Needs(engines=frozenset({0}))
    for name in "abcd":
        tasks.task_added(name, label=SHORT, needs=None if name == "c" else needs)
    assert len(tasks.decide(0.0)) == 4
    tasks.engine_joined(1)
    assert tasks.recalls(1.0) == [("c", 0)]
    assert (tasks.recalls(2.0), tasks.wake) == ([], None)


def test_what_was_asked_back_and_did_not_run_is_not_charged() -> None:
    tasks = scheduler(1, short=AHEAD / 4)
    for name in "abc":
        tasks.task_added(name, label=SHORT, client="A")
    tasks.decide(0.0)
    client = tasks._waiting.clients["A"]
    given = client.given
    tasks.engine_joined(1)
    assert tasks.recalls(1.0) == [("c", 0)]
    tasks.task_done("c")
    assert client.credit == AHEAD / 4 * 1e9
    tasks.task_done("b")
    assert client.credit == AHEAD / 4 * 1e9
    # "a" is taken for a long one now.
    assert client.given == given + AHEAD * 3 / 4 * 1e9


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
