"""Who waits for whom: every condition, chains, diamonds, and against a model that looks at everything each time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioparallel.graph import Condition, Graph, Impossible, Outcome, Ready

GOOD, BAD = True, False
#: For each kind of condition: after which ends (in order) it is met, and after which it can't be any more.
TABLE = [
    # all, success, failure, ends that meet it, ends that make it impossible
    (True, True, False, [GOOD, GOOD], [BAD]),
    (True, False, True, [BAD, BAD], [GOOD]),
    (True, True, True, [GOOD, BAD], None),
    (False, True, False, [GOOD], [BAD, BAD]),
    (False, False, True, [BAD], [GOOD, GOOD]),
    (False, True, True, [GOOD], None),
]


@pytest.mark.parametrize("follow", [False, True], ids=["after", "follow"])
@pytest.mark.parametrize(("every", "success", "failure", "meet", "fail"), TABLE)
def test_each_kind_of_condition(
    follow: bool, every: bool, success: bool, failure: bool, meet: list[bool], fail: list[bool] | None
):
    for ends, ready in ((meet, True), (fail, False)):
        if ends is None:
            continue
        graph: Graph[str] = Graph()
        parents = ("a", "b")
        assert graph.add("c", [Condition(parents, every, success, failure, follow)], {}) is None
        for parent, ok in zip(parents, ends[:-1], strict=False):
            assert graph.ended(parent, Outcome(ok, 3)) == []
            assert graph.waits_for("c") == ["b"]
        last = parents[len(ends) - 1]
        expected = Ready(frozenset({3}) if follow else None) if ready else Impossible(last)
        assert graph.ended(last, Outcome(ends[-1], 3)) == [("c", expected)]
        assert len(graph) == 0
        assert graph._children == {}


def test_a_child_follows_where_its_parents_ran():
    every = Condition(("a", "b"), follow=True)
    one = Condition(("a", "b"), all=False, follow=True)
    anyhow = Condition(("a", "b"), failure=True, follow=True)
    ran = {"a": Outcome(True, 0), "b": Outcome(True, 2)}
    graph: Graph[str] = Graph()
    assert graph.add("c", [every], ran) == Impossible("b", (0, 2))
    assert graph.add("c", [one], ran) == Ready(frozenset({0, 2}))
    assert graph.add("c", [anyhow], {"a": Outcome(False, None), "b": Outcome(True, 2)}) == Ready(frozenset({2}))
    assert graph.add("c", [anyhow], {name: Outcome(False, None) for name in "ab"}) == Ready(None)
    # What is known when it may begin counts, also what came after the condition was met.
    assert graph.add("c", [one, Condition(("x",))], {"a": Outcome(True, 1)}) is None
    assert graph.ended("b", Outcome(True, 4)) == []
    assert graph.ended("x", Outcome(True, 0)) == [("c", Ready(frozenset({1, 4})))]


def test_what_is_decided_already_never_waits():
    graph: Graph[str] = Graph()
    assert graph.add("c", [], {}) == Ready()
    assert graph.add("c", [Condition(("a", "a"))], {"a": Outcome(True, 0)}) == Ready()
    assert graph.add("c", [Condition(("a", "b"))], {"a": Outcome(False, 0)}) == Impossible("a")
    assert len(graph) == 0
    assert not graph.remove("c")
    assert graph.waits_for("c") == []


def test_a_child_that_is_taken_out_is_told_nothing_and_leaves_nothing():
    graph: Graph[str] = Graph()
    graph.add("c", [Condition(("a", "b"))], {})
    graph.add("d", [Condition(("a",))], {})
    assert graph.remove("c")
    assert graph.ended("a", Outcome(True, 0)) == [("d", Ready())]
    assert graph._children == {}
    assert list(graph) == []


def test_a_diamond_of_ten_thousand_and_a_chain_as_long():
    graph: Graph[int] = Graph()
    middle = range(1, 9999)
    for child in middle:
        assert graph.add(child, [Condition((0,))], {}) is None
    assert graph.add(9999, [Condition(tuple(middle))], {}) is None
    ready = graph.ended(0, Outcome(True, 0))
    assert ready == [(child, Ready()) for child in middle]
    told = [graph.ended(child, Outcome(True, child % 7)) for child in middle]
    assert told == [[]] * 9997 + [[(9999, Ready())]]
    for child in range(1, 10_000):
        graph.add(child, [Condition((child - 1,))], {})
    for parent in range(9999):
        assert graph.ended(parent, Outcome(True, 0)) == [(parent + 1, Ready())]
    assert len(graph) == 0


@st.composite
def stories(draw: Any) -> tuple[list[list[Condition[int]]], list[tuple[int, bool, int | None]], set[int]]:
    """Draw tasks with conditions on earlier ones, an order of ends, and which of them are taken out."""
    size = draw(st.integers(1, 9))
    tasks: list[list[Condition[int]]] = []
    for number in range(size):
        parents = st.lists(st.integers(0, number - 1), max_size=4).map(tuple) if number else st.just(())
        kind = st.tuples(st.booleans(), st.sampled_from([(True, False), (False, True), (True, True)]), st.booleans())
        conditions = draw(st.lists(st.tuples(parents, kind), max_size=2))
        tasks.append([Condition(p, every, *accepted, follow) for p, (every, accepted, follow) in conditions])
    ends = [(n, draw(st.booleans()), draw(st.none() | st.integers(0, 2))) for n in draw(st.permutations(range(size)))]
    return tasks, ends, draw(st.sets(st.integers(0, size - 1), max_size=2))


def judged(conditions: list[Condition[int]], ended: dict[int, Outcome]) -> str:
    """Say from all that is known whether a task may begin."""
    met = True
    for condition in conditions:
        parents = list(dict.fromkeys(condition.parents))
        good = [p for p in parents if p in ended and condition.accepts(ended[p])]
        bad = [p for p in parents if p in ended and p not in good]
        engines = {ended[p].engine for p in good} - {None}
        if condition.follow and condition.all and len(engines) > 1:
            return "impossible"
        if parents and bad and (condition.all or len(bad) == len(parents)):
            return "impossible"
        met = met and (not parents or (len(good) == len(parents) if condition.all else bool(good)))
    return "ready" if met else "waits"


@given(stories())
def test_each_child_is_told_once_at_the_moment_it_is_decided(story: Any):
    tasks, ends, taken = story
    graph: Graph[int] = Graph()
    ended: dict[int, Outcome] = {}
    told: dict[int, str] = {}
    for number, conditions in enumerate(tasks):
        verdict = graph.add(number, conditions, {})
        told |= {} if verdict is None else {number: type(verdict).__name__.lower()}
    for number in sorted(taken):
        if graph.remove(number):
            told[number] = "taken"
    for parent, ok, engine in ends:
        ended[parent] = Outcome(ok, engine)
        for child, verdict in graph.ended(parent, ended[parent]):
            assert child not in told
            told[child] = type(verdict).__name__.lower()
        for child, conditions in enumerate(tasks):
            if told.get(child) != "taken":
                assert told.get(child, "waits") == judged(conditions, ended) or told.get(child) == "ready"
            assert (child in graph) == (child not in told)
    assert graph._children == {}
    assert len(graph) == 0
