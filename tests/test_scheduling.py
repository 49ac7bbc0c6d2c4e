"""What holds whatever happens, how well engines are used, and that the same events lead to the same decisions."""

from __future__ import annotations

import hashlib
import heapq
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aioparallel.needs import Needs
from aioparallel.policies import NAMES, named
from aioparallel.room import UNKNOWN
from aioparallel.scheduler import AHEAD, DEPTH, Scheduler

LABELS = (b"", b"short", b"long")
SECONDS = (None, 0.0, 1e-7, AHEAD / 3, AHEAD, 1.0, 1e6, math.nan)
GPU = Needs(resources=(("gpu", 0.5),))
NEEDS = (
    *(None, None, None, GPU, Needs(engines=frozenset({0, 1})), Needs(not_on=frozenset({1}))),
    *(Needs(rather_not=frozenset({0, 2})), Needs(resources=(("gpu", 1.0), ("mem", 1.5)), rather_not=frozenset({3}))),
)
RESOURCES: tuple[dict[str, float], ...] = ({}, {"gpu": 1.0}, {"gpu": 2.0, "mem": 4.0})


class AnySequence(RuleBasedStateMachine):
    """Random events, checked against a model that knows where each task is and what it needs."""

    @initialize(policy=st.sampled_from([*NAMES]))
    def begin(self, policy: str) -> None:
        self.tasks: Scheduler[int] = Scheduler(named(policy, random.Random(1).randrange))
        self.now = 0.0
        self.count = 0
        self.waiting: dict[int, tuple[str, bytes, int, Needs | None]] = {}
        self.at: dict[int, dict[int, tuple[str, bytes, int, Needs | None]]] = {}
        self.has: dict[int, dict[str, float]] = {}
        self.down: set[int] = set()
        self.silent: set[str] = set()
        self.asked: set[int] = set()
        self.gone: list[int] = []

    # What may run where, as the model sees it

    def may_ever(self, needs: Needs | None, engine: int) -> bool:
        if engine in self.down:
            return False
        if needs is None:
            return True
        if engine in needs.not_on or (needs.engines is not None and engine not in needs.engines):
            return False
        return all(self.has[engine].get(name, 0) >= amount for name, amount in needs.resources)

    def candidates(self, needs: Needs | None) -> list[int]:
        able = [engine for engine in self.at if self.may_ever(needs, engine)]
        return [engine for engine in able if needs is None or engine not in needs.rather_not] or able

    def spare(self, needs: Needs | None, engine: int) -> bool:
        held: Counter[str] = Counter()
        for *_, theirs in self.at[engine].values():
            held.update(dict(theirs.resources if theirs else ()))
        return needs is None or all(
            self.has[engine][name] - held[name] >= amount - 1e-9 for name, amount in needs.resources
        )

    def is_kept(self, engine: int, needs: Needs | None, priority: int) -> bool:
        """Whether an engine may be kept for somebody who needs more of what it has."""
        wanted = set(dict(needs.resources)) if needs is not None else set()
        return any(
            theirs is not None
            and least >= priority
            and wanted & set(dict(theirs.resources))
            and engine in self.candidates(theirs)
            and not self.spare(theirs, engine)
            for *_, least, theirs in self.waiting.values()
        )

    def load(self, engine: int) -> float:
        return self.tasks._engines[engine].load / 1e9

    def could_go(self, needs: Needs | None) -> list[int]:
        """Return the engines that could take a task with such needs now."""
        return [
            engine
            for engine in self.candidates(needs)
            if self.spare(needs, engine)
            and (not self.at[engine] or (self.load(engine) <= AHEAD and len(self.at[engine]) < DEPTH))
        ]

    # Events

    def put(self, task: int, data: st.DataObject, again: bool) -> None:
        client, label = data.draw(st.sampled_from("ABC")), data.draw(st.sampled_from(LABELS))
        priority, needs = data.draw(st.sampled_from([0, 0, 0, 5])), data.draw(st.sampled_from(NEEDS))
        self.tasks.task_added(task, client=client, label=label, priority=priority, needs=needs, again=again)
        self.waiting[task] = client, label, priority, needs

    @rule(data=st.data(), times=st.integers(1, 5))
    def new_tasks(self, data: st.DataObject, times: int) -> None:
        for _ in range(times):
            self.count += 1
            self.put(self.count, data, again=False)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def task_again(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.gone))
        self.gone.remove(task)
        self.put(task, data, again=True)

    @rule(engine=st.integers(0, 4), resources=st.sampled_from(RESOURCES))
    def engine_joins_or_leaves(self, engine: int, resources: dict[str, float]) -> None:
        if engine not in self.at:
            self.at[engine], self.has[engine] = {}, resources
            self.tasks.engine_joined(engine, resources)
            return
        assert self.tasks.engine_left(engine) == [*self.at[engine]]
        self.gone += self.at.pop(engine)
        self.down.discard(engine)

    @rule(engine=st.integers(0, 4))
    def kernel_goes_or_comes(self, engine: int) -> None:
        if engine in self.down:
            self.tasks.engine_resumed(engine)
            self.down.discard(engine)
        else:
            self.tasks.engine_paused(engine)
            self.down |= {engine} & set(self.at)

    @rule(client=st.sampled_from("ABC"))
    def client_pauses_or_resumes(self, client: str) -> None:
        (self.tasks.client_resumed if client in self.silent else self.tasks.client_paused)(client)
        self.silent ^= {client}

    @rule(client=st.sampled_from("ABC"))
    def client_leaves(self, client: str) -> None:
        self.tasks.client_left(client)
        self.silent.discard(client)

    @precondition(lambda self: self.count)
    @rule(data=st.data(), seconds=st.sampled_from(SECONDS))
    def task_done(self, data: st.DataObject, seconds: float | None) -> None:
        # Any task that ever was: also one that waits, is done, or was at an engine that left.
        task = data.draw(st.integers(1, self.count))
        place = self.tasks.engine_of(task)
        assert place == next((engine for engine, tasks in self.at.items() if task in tasks), None)
        self.tasks.task_done(task, seconds)
        if place is not None:
            del self.at[place][task]
            self.asked.discard(task)
            self.gone.append(task)

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        task = data.draw(st.integers(1, self.count))
        assert self.tasks.task_removed(task) == (task in self.waiting)
        if self.waiting.pop(task, None):
            self.gone.append(task)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), needs=st.sampled_from(NEEDS))
    def change(self, data: st.DataObject, needs: Needs | None) -> None:
        task = data.draw(st.sampled_from([*self.waiting]))
        self.tasks.task_changed(task, needs)
        self.waiting[task] = *self.waiting[task][:3], needs

    # Decisions

    @rule()
    def decide(self) -> None:
        # Loads are the scheduler's own; while it decides they change, so the model counts along.
        loads = {engine: self.load(engine) for engine in self.at}
        decisions = self.tasks.decide(self.now)
        self.load = loads.__getitem__  # type: ignore[method-assign]
        for task, engine in decisions:
            assert task in self.waiting, "placed twice, or never added"
            client, label, priority, needs = self.waiting.pop(task)
            assert client not in self.silent, "a paused client's"
            able = self.could_go(needs)
            assert engine in able, "it may not run there, or there is no room"
            idle = [engine for engine in able if not self.at[engine]]
            assert not idle or engine in idle, "behind another while an engine is free"
            for other, _, higher, theirs in self.waiting.values():
                free = [engine for engine in self.could_go(theirs) if not self.is_kept(engine, theirs, higher)]
                assert higher <= priority or other in self.silent or not free, "before a higher one"
            self.at[engine][task] = client, label, priority, needs
            loads[engine] += self.tasks.expected(label) or UNKNOWN
        del self.load
        for client, _, priority, needs in self.waiting.values():
            free = [engine for engine in self.could_go(needs) if not self.is_kept(engine, needs, priority)]
            assert client in self.silent or not free, "it waits while an engine could take it"

    @rule(later=st.sampled_from([0.0, AHEAD / 2, AHEAD]))
    def recall(self, later: float) -> None:
        self.decide()
        self.now += later
        idle = [engine for engine in self.at if not self.at[engine] and engine not in self.down]
        for task, engine in self.tasks.recalls(self.now):
            assert task in [*self.at[engine]][1:], "it runs, or is not there"
            assert task not in self.asked, "asked twice"
            needs = self.at[engine][task][3]
            assert any(free in self.candidates(needs) and self.spare(needs, free) for free in idle)
            self.asked.add(task)
        self.asked &= {task for tasks in self.at.values() for task in tasks}
        wake = self.tasks.wake
        assert wake is None or (idle and self.now < wake <= self.now + AHEAD)

    # What always holds

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "tasks"):
            return
        assert self.tasks.waiting == len(self.waiting)
        assert self.tasks.placed == sum(map(len, self.at.values()))
        for task in range(1, self.count + 1):
            known = task in self.waiting or any(task in tasks for tasks in self.at.values())
            assert (self.tasks.why(task) != "it neither waits nor is at an engine") == known

    @invariant()
    def nothing_drifts(self) -> None:
        if not hasattr(self, "tasks"):
            return
        assert set(self.tasks._deep) == {engine for engine, tasks in self.at.items() if len(tasks) > 1}
        for number, engine in self.tasks._engines.items():
            assert [*engine.tasks] == [*self.at[number]]
            assert engine.load == sum(length for _, length in engine.tasks.values())
            held: Counter[str] = Counter()
            for *_, needs in self.at[number].values():
                held.update(dict(needs.resources if needs else ()))
            expected = {name: round((amount - held[name]) * 1e6) for name, amount in self.has[number].items()}
            assert engine.free == expected
            assert engine.asked <= set(engine.tasks)
        closed = self.tasks._closed
        assert set(closed.books()) == {book for book in self.tasks._waiting.books.values() if book.closed}
        claims = {book: engine for engine in self.tasks._engines.values() for book in engine.claims}
        assert claims == closed._claims
        assert set(claims) <= set(closed.books())


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


# A cluster that takes no time


class Cluster:
    """Engines that run tasks one after the other, in a time of their own.

    Args:
        scheduler: Who gives them tasks.
        engines: How many there are.
        length: Returns how many seconds a task takes.
    """

    def __init__(self, scheduler: Scheduler[int], engines: int, length: Callable[[int], float]) -> None:
        self.scheduler = scheduler
        self.length = length
        self.now = 0.0
        self.queues: dict[int, list[int]] = {engine: [] for engine in range(engines)}
        self.events: list[tuple[float, int, int, int]] = []
        self.started: dict[int, float] = {}
        self.trace: list[tuple[float, int, int]] = []
        self.labels: dict[int, bytes] = {}
        for engine in self.queues:
            scheduler.engine_joined(engine)

    def submit(self, task: int, label: bytes = b"f", client: str = "A") -> None:
        self.labels[task] = label
        self.scheduler.task_added(task, label=label, client=client)

    def place(self) -> None:
        for task, engine in self.scheduler.decide(self.now):
            self.queues[engine].append(task)
            self.start(engine)
        recalled = self.scheduler.recalls(self.now)
        for task, engine in recalled:
            assert task != self.queues[engine][0]
            self.queues[engine].remove(task)
            self.scheduler.task_done(task)
            self.scheduler.task_added(task, label=self.labels[task], again=True)
        if recalled:
            self.place()
        elif self.scheduler.wake is not None:
            heapq.heappush(self.events, (self.scheduler.wake, 1, -1, -1))

    def start(self, engine: int) -> None:
        task = self.queues[engine][0]
        if task not in self.started:
            self.started[task] = self.now
            self.trace.append((self.now, task, engine))
            heapq.heappush(self.events, (self.now + self.length(task), 0, task, engine))

    def run(self) -> float:
        """Run everything; return when the last task was done."""
        self.place()
        end = 0.0
        while self.events:
            self.now, _, task, engine = heapq.heappop(self.events)
            if task >= 0:
                end = self.now
                assert self.queues[engine].pop(0) == task
                self.scheduler.task_done(task, self.length(task))
                if self.queues[engine]:
                    self.start(engine)
            self.place()
        assert (self.scheduler.waiting, self.scheduler.placed) == (0, 0)
        return end


@pytest.mark.parametrize("policy", list(NAMES))
def test_256_tasks_of_a_fifth_of_a_second_keep_8_engines_busy(policy: str) -> None:
    efficiencies = []
    for seed in range(20):
        chance = random.Random(seed)
        lengths = [chance.uniform(0.1, 0.2) for _ in range(256)]
        cluster = Cluster(Scheduler(named(policy, chance.randrange)), 8, lengths.__getitem__)
        for task in range(256):
            cluster.submit(task)
        efficiencies.append(sum(lengths) / 8 / cluster.run())
    assert min(efficiencies) >= 0.96
    assert sum(efficiencies) / len(efficiencies) >= 0.97


@pytest.mark.parametrize("policy", list(NAMES))
def test_no_task_is_stuck_behind_a_long_one_while_another_engine_is_free(policy: str) -> None:
    chance = random.Random(3)
    # All of one label, usually a tenth of a millisecond, and now and then a thousand times as long.
    lengths = [0.1 if chance.random() < 0.01 else 0.0001 for _ in range(3000)]
    cluster = Cluster(Scheduler(named(policy, chance.randrange)), 4, lengths.__getitem__)
    for task in range(3000):
        cluster.submit(task)
    end = cluster.run()
    assert end <= sum(lengths) / 4 + 0.1 + 10 * AHEAD


def test_clients_that_submit_all_at_once_are_given_the_same_time() -> None:
    lengths = {"A": 0.03, "B": 0.01}
    cluster = Cluster(Scheduler(), 4, lambda task: lengths["AB"[task % 2]])
    for task in range(4000):
        cluster.submit(task, label=b"ab"[task % 2 :][:1], client="AB"[task % 2])
    cluster.run()
    given: Counter[str] = Counter()
    for at, task, _ in cluster.trace:
        if at > 9.0:  # B has nothing left after about 10 s
            break
        given["AB"[task % 2]] += lengths["AB"[task % 2]]  # type: ignore[assignment]
    assert abs(given["A"] - given["B"]) <= 4 * (0.03 + 0.01)


# The same events, the same decisions


def trace() -> str:
    """Run a random story with everything in it; return a digest of each decision."""
    chance = random.Random(11)
    digest = hashlib.sha256()
    for policy in NAMES:
        tasks: Scheduler[str] = Scheduler(named(policy, chance.randrange))
        at: list[str] = []
        up: list[int] = []
        for step in range(1500):
            event = chance.randrange(12)
            engine, client = chance.randrange(6), f"client {chance.randrange(3)}"
            if event < 5:
                needs = chance.choice(NEEDS)
                tasks.task_added(
                    f"{step}", client=client, label=chance.choice(LABELS), priority=event // 4, needs=needs
                )
            elif event < 8 and at:
                task = at.pop(chance.randrange(len(at)))
                tasks.task_done(task, chance.choice(SECONDS))
            elif event == 8:
                if engine in up:
                    up.remove(engine)
                    digest.update(repr(left := tasks.engine_left(engine)).encode())
                    for task in left:
                        at.remove(task)
                        tasks.task_added(task, client=client, again=True)
                else:
                    up.append(engine)
                    tasks.engine_joined(engine, chance.choice(RESOURCES))
            elif event == 9:
                chance.choice([tasks.engine_paused, tasks.engine_resumed])(engine)
            elif event == 10:
                chance.choice([tasks.client_paused, tasks.client_resumed])(client)
            elif event == 11:
                tasks.task_changed(f"{chance.randrange(step + 1)}", chance.choice(NEEDS))
            decided = tasks.decide(step / 1000)
            at += [task for task, _ in decided]
            recalled = tasks.recalls(step / 1000)
            why = tasks.why(f"{chance.randrange(step + 1)}")
            digest.update(repr((decided, recalled, tasks.wake, why)).encode())
    return digest.hexdigest()


def test_same_events_lead_to_same_decisions_whatever_the_hashes_are() -> None:
    code = "import test_scheduling; print(test_scheduling.trace())"
    found = set()
    for seed in ("0", "1", "2", "random"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.path.dirname(__file__)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert found == {trace() + "\n"}
