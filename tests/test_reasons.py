"""Why a task is where it is, as people read it."""

from __future__ import annotations

from typing import Any

from aioparallel.needs import Needs
from aioparallel.scheduler import AHEAD, Scheduler

GPU = Needs(resources=(("gpu", 1.0),))


def scheduler(engines: int = 0, **resources: float) -> Scheduler[str]:
    made: Scheduler[str] = Scheduler()
    for engine in range(engines):
        made.engine_joined(engine, resources)
    return made


def why(tasks: Scheduler[str], needs: Needs | None = None, **more: Any) -> str:
    """Add a task, decide, and ask why it is where it is."""
    tasks.task_added("asked", needs=needs, **more)
    tasks.decide(0.0)
    told = tasks.why("asked")
    if not tasks.task_removed("asked"):
        tasks.task_done("asked")
    return told


def test_unknown_task() -> None:
    assert scheduler().why("never seen") == "it neither waits nor is at an engine"


def test_no_engine_at_all() -> None:
    assert why(scheduler()) == "it waits for an engine: there is none"
    assert why(scheduler(), GPU) == "it waits for an engine: there is none"


def test_no_engine_that_may() -> None:
    tasks = scheduler(2)
    assert why(tasks, GPU) == "it waits for an engine with gpu=1: there is none"
    needs = Needs(resources=(("mem", 0.5), ("gpu", 2.0)))
    assert why(tasks, needs) == "it waits for an engine with gpu=2 and mem=0.5: there is none"
    assert why(tasks, Needs(engines=frozenset({7}))) == "it waits for engine 7: there is none"
    assert why(tasks, Needs(engines=frozenset({7, 9}))) == "it waits for engine 7 or 9: there is none"
    needs = Needs(not_on=frozenset({1, 0, 5}))
    assert why(tasks, needs) == "it waits for an engine: engines 0 and 1 rejected it, and there is no other"


def test_kernels_that_are_down() -> None:
    tasks = scheduler(2)
    tasks.engine_paused(0)
    tasks.engine_paused(1)
    assert why(tasks) == "it waits for engines 0 and 1, whose kernels are down"
    assert why(tasks, Needs(engines=frozenset({1}))) == "it waits for engine 1, whose kernel is down"


def test_resources_in_use() -> None:
    tasks = scheduler(2, gpu=1.0, mem=3.0)
    tasks.task_added("a", needs=GPU)
    tasks.task_added("b", needs=GPU)
    tasks.decide(0.0)
    assert why(tasks, GPU) == "it waits for gpu=1, which is in use on engines 0 and 1"
    needs = Needs(resources=(("gpu", 1.0), ("mem", 1.0)), engines=frozenset({1}))
    assert why(tasks, needs) == "it waits for gpu=1 and mem=1, which are in use on engine 1"


def test_others_go_first() -> None:
    tasks = scheduler(1)
    for name in "xabc":
        tasks.task_added(name)
    tasks.decide(0.0)
    assert why(tasks) == "every engine is busy, and 3 tasks are before it"
    tasks.task_removed("b")
    tasks.task_removed("c")
    assert why(tasks) == "every engine is busy, and 1 task is before it"
    assert why(tasks, priority=1) == "every engine is busy"
    tasks.task_added("p", priority=1)
    assert why(tasks) == "1 task of higher priority goes first"
    tasks.task_added("q", priority=2, client="other")
    assert why(tasks) == "2 tasks of higher priority go first"
    tasks.client_paused("other")
    assert why(tasks) == "1 task of higher priority goes first"
    assert why(tasks, client="other") == "its client does not read what it is sent"


def test_tasks_that_run_again_go_first() -> None:
    tasks = scheduler(1)
    for name in "xa":
        tasks.task_added(name)
    tasks.decide(0.0)
    tasks.task_added("again", again=True)
    assert why(tasks) == "every engine is busy, and 2 tasks are before it"
    assert tasks.why("again") == "every engine is busy"


def test_engine_that_is_wanted_is_busy() -> None:
    tasks = scheduler(8)
    for number in range(9):
        tasks.task_added(str(number))
    tasks.decide(0.0)
    needs = Needs(engines=frozenset({3}))
    assert why(tasks, needs) == "it waits for engine 3 to have room"
    assert why(tasks, Needs(not_on=frozenset({3}))) == "it waits for one of 7 engines to have room"


def test_where_it_is() -> None:
    tasks = scheduler(2)
    assert why(tasks) == "engine 0 has it"
    tasks.task_added("short", label=b"short")
    tasks.decide(0.0)
    tasks.task_done("short", AHEAD / 100)
    tasks.engine_left(1)
    for name in "abcd":
        tasks.task_added(name, label=b"short")
    tasks.decide(0.0)
    assert tasks.why("b") == "engine 0 has it; 1 task is before it there"
    assert tasks.why("d") == "engine 0 has it; 3 tasks are before it there"
    tasks.engine_joined(1)
    tasks.recalls(0.0)
    assert ("d", 0) in tasks.recalls(AHEAD)
    assert tasks.why("d") == "engine 0 has it; 3 tasks are before it there, and it was asked back"
    tasks.engine_paused(0)
    assert tasks.why("a") == "engine 0 has it; its kernel is down"
    assert tasks.why("b") == "engine 0 has it; 1 task is before it there and its kernel is down"
