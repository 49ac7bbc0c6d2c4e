"""What no engine can take now is passed over, and not for ever."""

from __future__ import annotations

from aioparallel.needs import Needs
from aioparallel.room import SHORTEST
from aioparallel.scheduler import AHEAD, Scheduler

SHORT = b"short"


def cluster(*resources: dict[str, float]) -> Scheduler[str]:
    """Return a scheduler with engines 0, 1 … that have these, and which knows that some tasks are short."""
    tasks: Scheduler[str] = Scheduler()
    for engine, amounts in enumerate(resources):
        tasks.engine_joined(engine, amounts)
    tasks.task_added("known", label=SHORT)
    tasks.decide(0.0)
    tasks.task_done("known", SHORTEST)
    return tasks


def add(tasks: Scheduler[str], name: str, *, client: str = "A", priority: int = 0, **resources: float) -> None:
    needs = Needs(resources=tuple(resources.items()))
    tasks.task_added(name, client=client, label=SHORT, priority=priority, needs=needs)


def test_who_needs_much_of_a_resource_is_not_passed_for_ever() -> None:
    tasks: Scheduler[str] = Scheduler()
    for engine in range(2):
        tasks.engine_joined(engine, {"gpu": 1, "mem": 8})
    little, much = Needs(resources=(("gpu", 0.1),)), Needs(resources=(("gpu", 1.0),))
    at: list[str] = []

    def go_on(more: int) -> list[str]:
        """Have the oldest one done, and more come; return what is placed."""
        if at:
            tasks.task_done(at.pop(0), AHEAD / 8)
        for _ in range(more):
            names.append(f"little {len(names)}")
            tasks.task_added(names[-1], client=f"c{len(names) % 5}", label=SHORT, needs=little)
        placed = [task for task, _ in tasks.decide(0.0)]
        at.extend(placed)
        return placed

    names: list[str] = []
    go_on(20)
    tasks.task_added("much", label=SHORT, needs=much)
    tasks.task_added("other", label=SHORT, needs=Needs(resources=(("mem", 1.0),)))
    steps = [go_on(2) for _ in range(60)]
    assert any("much" in placed for placed in steps)
    assert any("other" in placed for placed in steps)
    # The other engine went on meanwhile.
    assert sum(map(len, steps)) >= 50


def test_engine_that_is_kept_for_one_is_kept_from_no_other_for_longer() -> None:
    tasks: Scheduler[str] = Scheduler()
    for engine in range(2):
        tasks.engine_joined(engine, {"gpu": 1})
    here, there = (Needs(engines=frozenset({engine}), resources=(("gpu", 0.5),)) for engine in range(2))
    tasks.task_added("a", label=SHORT, needs=here)
    tasks.task_added("b", label=SHORT, needs=there)
    tasks.decide(0.0)
    for name in "ab":
        tasks.task_done(name, SHORTEST)
        tasks.task_added(name, label=SHORT, needs=here if name == "a" else there)
    assert len(tasks.decide(0.0)) == 2
    tasks.task_added("much", label=SHORT, needs=Needs(resources=(("gpu", 1.0),)))
    assert tasks.decide(0.0) == []
    for name, needs in (("c", here), ("d", there)):
        tasks.task_added(name, label=SHORT, needs=needs)
    [(passes, kept)] = tasks.decide(0.0)
    [waits] = {"c", "d"} - {passes}
    assert tasks.why(waits) == f"it waits for gpu=0.5: engine {1 - kept} is kept for tasks that need more"
    # One of a higher priority is not kept from it.
    tasks.task_added("urgent", label=SHORT, needs=here if waits == "c" else there, priority=1)
    assert tasks.decide(0.0) == [("urgent", 1 - kept)]
    # Nor is anybody when it is not wanted any more.
    assert tasks.task_removed("much")
    tasks.task_done("urgent", SHORTEST)
    assert tasks.decide(0.0) == [(waits, 1 - kept)]


def test_a_claim_is_for_the_nearest_and_goes_with_its_engine() -> None:
    tasks = cluster({"gpu": 1}, {"gpu": 1})
    add(tasks, "a", gpu=0.25)
    add(tasks, "b", gpu=0.5)
    assert len({engine for _, engine in tasks.decide(0.0)}) == 2
    nearer, other = tasks.engine_of("a"), tasks.engine_of("b")
    assert nearer is not None
    assert other is not None
    add(tasks, "much", gpu=1)
    assert tasks.decide(0.0) == []
    closed = tasks._closed
    assert [engine.id for engine in closed._claims.values()] == [nearer]
    assert repr(closed) == "<Closed: 1 books, 1 claims>"
    tasks.engine_paused(nearer)
    assert not closed
    tasks.decide(0.0)
    assert [engine.id for engine in closed._claims.values()] == [other]
    tasks.engine_left(other)
    assert tasks.decide(0.0) == []
    assert not closed._claims
    tasks.engine_resumed(nearer)
    tasks.task_done("a")
    assert tasks.decide(0.0) == [("much", nearer)]
    assert not closed


def test_two_who_need_much_claim_two_engines() -> None:
    tasks = cluster({"gpu": 1, "mem": 1}, {"gpu": 1, "mem": 1})
    for name in "ab":
        add(tasks, name, gpu=0.5, mem=0.5)
    assert len(tasks.decide(0.0)) == 2
    add(tasks, "x", gpu=1)
    add(tasks, "y", mem=1)
    assert tasks.decide(0.0) == []
    assert sorted(engine.id for engine in tasks._closed._claims.values()) == [0, 1]


def test_a_client_that_reads_again_is_let_in_for_its_priority() -> None:
    tasks = cluster({"gpu": 1})
    add(tasks, "a", gpu=0.5)
    tasks.decide(0.0)
    tasks.client_paused("B")
    add(tasks, "urgent", client="B", priority=1, gpu=0.5)
    add(tasks, "much", gpu=1)
    add(tasks, "b", gpu=0.5)
    assert tasks.decide(0.0) == []
    tasks.client_resumed("B")
    assert tasks.decide(0.0) == [("urgent", 0)]
