"""Which engine of several: each policy, by name, and what they see."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from aioparallel.policies import NAMES, Candidate, LeastLoaded, Lifo, PlainRandom, Policy, TwoBin, Weighted, named
from aioparallel.scheduler import Scheduler


def engines(*loads: float) -> list[Candidate]:
    return [Candidate(number, load, int(load > 0), -number, {}) for number, load in enumerate(loads)]


def randbelow(seed: int = 7) -> random.Random:
    return random.Random(seed)


def test_least_loaded_takes_the_least_and_among_equals_the_last_used() -> None:
    assert LeastLoaded().choose(engines(0.2, 0.1, 0.3)).id == 1
    assert LeastLoaded().choose(engines(0.1, 0.1, 0.1)).id == 0


def test_least_recently_used_ignores_the_load() -> None:
    assert named("lru").choose(engines(0.0, 0.1, 9.0)).id == 2


def test_random_takes_each_as_often() -> None:
    policy = PlainRandom(randbelow().randrange)
    counts = Counter(policy.choose(engines(0, 1, 2, 3)).id for _ in range(4000))
    assert all(900 < counts[number] < 1100 for number in range(4))


def test_two_bin_takes_the_less_recently_used_of_two() -> None:
    policy = TwoBin(randbelow().randrange)
    counts = Counter(policy.choose(engines(0, 0)).id for _ in range(4000))
    assert 900 < counts[0] < 1100


def test_weighted_draws_by_the_inverse_of_the_load() -> None:
    policy = Weighted(randbelow().randrange)
    counts = Counter(policy.choose(engines(0.001, 0.003)).id for _ in range(4000))
    # The second is drawn twice in a row in one of sixteen.
    assert 200 < counts[1] < 300
    assert policy.choose(engines(0.0, 1e9)).id == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_has_a_name_and_gives_every_task_an_engine(name: str) -> None:
    policy = named(name, randbelow().randrange)
    assert repr(policy) == f"<{NAMES[name].__name__}>"
    tasks: Scheduler[int] = Scheduler(policy)
    for engine in range(4):
        tasks.engine_joined(engine)
    for number in range(100):
        tasks.task_added(number)
    placed: Counter[int] = Counter()
    ran = []
    while decided := tasks.decide(0.0):
        for task, engine in decided:
            ran.append(task)
            placed[engine] += 1
            tasks.task_done(task, 0.0001)
    assert sorted(ran) == list(range(100))
    if name != "lifo":
        assert ran[:4] == [0, 1, 2, 3]
        assert name == "least-loaded" or set(placed) == {0, 1, 2, 3}
    else:
        assert ran == list(reversed(range(100)))


def test_unknown_name_says_which_there_are() -> None:
    with pytest.raises(ValueError, match="no scheduler 'fastest': there are least-loaded, lru, random, two-bin"):
        named("fastest")


def test_random_policy_without_a_source_says_so() -> None:
    with pytest.raises(TypeError, match=r"PlainRandom needs random numbers: make it as PlainRandom\(randbelow\)"):
        named("random").choose(engines(0))


def test_lifo_is_least_loaded() -> None:
    assert Lifo.lifo
    assert not LeastLoaded.lifo


class Highest(Policy):
    """The engine with the highest id; made without calling `Policy`."""

    def __init__(self) -> None:
        self.seen: list[list[Candidate]] = []

    def choose(self, engines: Sequence[Candidate]) -> Candidate:
        self.seen.append(list(engines))
        return engines[-1]


def test_a_policy_of_ones_own_sees_the_idle_ones_first() -> None:
    policy = Highest()
    tasks: Scheduler[str] = Scheduler(policy)
    tasks.engine_joined(0)
    tasks.engine_joined(1, {"gpu": 2.0})
    for name in "ab":
        tasks.task_added(name, label=b"short")
    assert tasks.decide(0.0) == [("a", 1), ("b", 0)]
    assert [[engine.id for engine in offered] for offered in policy.seen] == [[0, 1], [0]]
    assert policy.seen[0][1] == Candidate(1, 0.0, 0, -2, {"gpu": 2.0})
    tasks.task_done("a", 0.001)
    for name in "cd":
        tasks.task_added(name, label=b"short")
    # Engine 0 has a task of unknown length, so engine 1 gets both, the second on top of a short one.
    assert tasks.decide(0.0) == [("c", 1), ("d", 1)]
    assert [(engine.id, engine.load, engine.tasks) for engine in policy.seen[-1]] == [(1, 0.001, 1)]


class Wrong(Policy):
    """Chooses well twice, and then what was not offered."""

    chosen = 0

    def choose(self, engines: Sequence[Candidate]) -> Candidate:
        self.chosen += 1
        return engines[0] if self.chosen < 3 else Candidate(99, 0.0, 0, 0, {})


def test_a_policy_that_fails_loses_no_decision() -> None:
    tasks: Scheduler[str] = Scheduler(Wrong())
    for engine in range(4):
        tasks.engine_joined(engine)
    for name in "abcd":
        tasks.task_added(name)
    assert tasks.decide(0.0) == [("a", 0), ("b", 1)]
    with pytest.raises(ValueError, match=r"<Wrong> chose Candidate\(id=99"):
        tasks.decide(0.0)
    assert (tasks.waiting, tasks.placed) == (2, 2)
