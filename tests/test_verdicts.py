"""What each answer means, for tasks on all kinds of terms."""

from __future__ import annotations

import json
from typing import Any

import pytest
from house import frame
from rawtasks import made_task

from aioparallel.errors import (
    DependencyError,
    EngineDied,
    EngineLost,
    OperationError,
    TaskAborted,
    TaskPoisoned,
    TaskTimeout,
    to_plain,
)
from aioparallel.verdicts import (
    STRIKES,
    fault_of,
    hopeless,
    judge,
    may_run,
    never_began,
    nowhere,
    reason,
    refused_everywhere,
)
from aioparallel.wire import Kind, Status

NOW = 100.0
ALL = (0, 1, 2)
TIMEOUT = TaskTimeout("too long", step="interrupt", seconds=1.0, engine_id=0)


def answer(code: Status) -> Any:
    return frame(Kind.RESULT, 9, code=code, buffers=[b"payload"])


def fault(error: Any) -> Any:
    return frame(Kind.RESULT, 9, code=Status.FAULT, header=json.dumps(to_plain(error)).encode())


def died(*, running: bool = True, begun: bool = True, engine: int = 0) -> EngineDied:
    return EngineDied("gone", engine_id=engine, reason="killed by SIGKILL", running=running, begun=begun)


def given(task: Any, result: Any, engine: int = 0, *, engines: Any = ALL, struck: bool = True, now: float = NOW) -> Any:
    return judge(task, result, engine, now, engines, struck=struck)


@pytest.mark.parametrize("terms", [{}, {"retries": 3}, {"at_most_once": True}])
def test_a_value_is_its_end(terms: dict[str, Any]):
    task = made_task(**terms)
    ok = answer(Status.OK)
    ended = given(task, ok, 2)
    assert (ended.ok, ended.result, ended.engine, ended.tried) == (True, ok, 2, 0)


def test_what_was_asked_back_is_tried_elsewhere_and_has_no_past():
    task = made_task()
    assert given(task, answer(Status.CANCELLED)) is None
    assert task.course is None


@pytest.mark.parametrize("result", [answer(Status.ERROR), fault(TIMEOUT)], ids=["error", "timeout"])
def test_a_failure_is_the_end_when_no_try_is_left(result: Any):
    assert given(made_task(), result).result is result
    task = made_task(retries=2)
    assert given(task, result, 0) is None
    assert given(task, result, 1) is None
    assert task.needs.rather_not == {0, 1}
    ended = given(task, result, 2)
    assert (ended.ok, ended.result, ended.engine, ended.tried) == (False, result, 2, 2)


def test_who_failed_everywhere_may_go_anywhere_but_where_it_failed_last():
    task = made_task(retries=9)
    for engine in (0, 1, 2, 1):
        assert given(task, answer(Status.ERROR), engine) is None
    assert task.needs.rather_not == {1, 2}
    assert given(task, answer(Status.ERROR), 0) is None
    assert task.needs.rather_not == {0}


def test_recovery_comes_when_retries_are_spent():
    task = made_task(buffers=(b"call", b"other"), retries=1, recovery={"buffers": 1})
    assert given(task, answer(Status.ERROR), 0) is None
    assert task.terms.recovery is not None
    assert given(task, answer(Status.ERROR), 1) is None
    assert task.terms.recovery is None
    assert task.needs is None
    assert given(task, answer(Status.ERROR), 2).tried == 2


# Deaths


def test_three_deaths_on_two_engines_are_enough():
    task = made_task()
    for engine in (0, 0, 0):
        assert given(task, died(engine=engine), engine) is None
    ended = given(task, fault(died(engine=1)), 1)
    assert isinstance(ended.result, TaskPoisoned)
    assert [death.engine for death in ended.result.deaths] == [0, 0, 0, 1]
    assert ended.tried == STRIKES


@pytest.mark.parametrize(("terms", "engines"), [({}, (0,)), ({"engines": [0]}, ALL)])
def test_on_one_engine_they_are_enough_if_there_is_no_other_for_it(terms: dict[str, Any], engines: Any):
    task = made_task(**terms)
    for _ in range(STRIKES - 1):
        assert given(task, died(), engines=engines) is None
    assert isinstance(given(task, died(), engines=engines).result, TaskPoisoned)


@pytest.mark.parametrize(("running", "struck"), [(False, True), (True, False)])
def test_a_neighbour_gets_no_strike(running: bool, struck: bool):
    task = made_task()
    for _ in range(5):
        assert given(task, died(running=running), struck=struck) is None
    assert task.course is None


@pytest.mark.parametrize("struck", [True, False])
def test_what_may_run_once_does_not_run_again_if_it_may_have_begun(struck: bool):
    task = made_task(at_most_once=True)
    assert given(task, died(running=False, begun=False), struck=struck) is None
    ended = given(task, died(running=False), 1, struck=struck)
    assert isinstance(ended.result, EngineLost)
    assert (ended.result.engine_id, ended.result.reason) == (1, "killed by SIGKILL")


# Refusals


def test_a_refusal_moves_a_task_until_its_time_is_over():
    task = made_task(depend_timeout=10, retries=1)
    assert given(task, answer(Status.REJECTED), 1) is None
    assert (task.past.deadline, task.needs.not_on) == (NOW + 10, {1})
    assert (task.past.failures, task.past.tried) == (0, 0)
    assert not may_run(task, 1)
    assert may_run(task, 0)
    last = answer(Status.REJECTED)
    ended = given(task, last, 0, now=NOW + 10)
    assert isinstance(ended.result, DependencyError)
    assert "engines 1, 0 refused it; engine 2 had no room for it in that time" in str(ended.result)
    assert ended.root.result is last
    task.past.refusals.clear()
    assert "those that were asked refused it" in str(refused_everywhere(task, ()).result)


# Ends on request


@pytest.mark.parametrize(
    ("result", "step"),
    [
        (answer(Status.CANCELLED), "waiting"),
        (answer(Status.REJECTED), "waiting"),
        (died(running=False, begun=False), "waiting"),
        (died(), "kill"),
        (TaskAborted("ended", step="interrupt", seconds=0.5), "interrupt"),
    ],
    ids=["withdrawn", "refused", "not begun", "died", "ended"],
)
def test_what_is_taken_back_is_not_tried_again(result: Any, step: str):
    task = made_task(retries=3)
    task.ending = NOW - 2
    ended = given(task, result)
    assert not ended.ok
    assert isinstance(ended.result, TaskAborted)
    assert ended.result.step == step
    assert ended.result.seconds == {"waiting": 0.0, "kill": 2.0, "interrupt": 0.5}[step]


def test_a_value_or_an_error_in_the_race_stays():
    for code in (Status.OK, Status.ERROR):
        task = made_task(retries=3)
        task.ending = NOW - 2
        result = answer(code)
        assert given(task, result).result is result


# In words


def test_reasons_are_told_without_unpacking_anything():
    assert reason(given(made_task(), answer(Status.ERROR))) == "its code raised an exception"
    assert reason(never_began(made_task(label=b"f"))) == "task 7 (f) was taken back before it had begun"
    assert fault_of(answer(Status.ERROR)) is None
    assert isinstance(fault_of(frame(Kind.RESULT, 1, code=Status.FAULT, header=b"[]")), OperationError)
    failed = given(made_task(), answer(Status.ERROR))
    child = hopeless(made_task(), "task 3", ok=False, engines=(), cause=failed)
    assert reason(child) == "task 7 can't run: task 3, on which it depends, has failed"
    assert child.root is failed
    assert "was to fail before" in reason(hopeless(made_task(), "task 3", ok=True, engines=(), cause=failed))
    assert "several engines: 1, 2" in reason(hopeless(made_task(), "task 3", ok=True, engines=(1, 2), cause=None))
    assert "ran on 1, 4, which are gone" in reason(nowhere(made_task(), {4, 1}))
