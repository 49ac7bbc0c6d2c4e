"""A task at the controller: where it may run, what it is made of, and how its client is told of its end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from house import frame
from rawtasks import FakeOwner, made_task

from aioparallel.errors import MessageTooLarge, TaskAborted
from aioparallel.needs import Needs
from aioparallel.taskstate import TRIES, Ended, Value
from aioparallel.wire import JOINED, NO_ENGINE, Kind, Status

ABORTED = TaskAborted("taken back", step="waiting", seconds=0.0)


def answer(code: Status = Status.OK, *buffers: bytes) -> Any:
    return frame(Kind.RESULT, 9, code=code, header=b"about", buffers=buffers)


# Where it may run


def test_a_plain_task_may_run_anywhere_and_has_no_past():
    task = made_task(label=b"f")
    assert (task.needs, task.course, task.limit, task.priority) == (None, None, None, 0)
    assert (task.title, task.name, task.call) == ("task 7 (f)", "f", 3)
    assert made_task().title == "task 7"
    assert repr(task) == "<task 7 (f) of session 1, waiting>"


def test_where_it_may_run_is_what_all_allow():
    task = made_task(FakeOwner(frozenset({0, 1, 2})), engines=[1, 2, 3], resources={"gpu": 0.5, "mem": 0})
    assert task.needs == Needs(frozenset({1, 2}), (("gpu", 0.5),))
    task.past.follows = frozenset({2, 5})
    task.past.refusals[2] = None
    task.past.rather_not = frozenset({1})
    task.look_anew()
    assert task.needs == Needs(frozenset({2}), (("gpu", 0.5),), frozenset({2}), frozenset({1}))


def test_what_is_over_is_anywhere_again():
    task = made_task(retries=1)
    assert task.needs is None
    task.past.refusals[2] = None
    task.look_anew()
    assert task.needs == Needs(not_on=frozenset({2}))
    del task.past.refusals[2]
    task.look_anew()
    assert task.needs is None


# What it is made of


def test_what_the_client_sent_is_passed_on_as_it_is():
    task = made_task(timeout=2, priority=3, label=b"f")
    assert (task.limit, task.priority, task.name) == (2.0, 3, "f")
    payload = task.payload
    task.make_ready({}, 1000)
    assert task.payload is payload


def test_values_and_properties_stand_behind_the_call():
    owner = FakeOwner()
    task = made_task(owner, arguments=[{"task": 1}, {"task": 2}], properties=True)
    for parts in ((b"a", b"bc"), (b"d",)):
        value = Value(owner)  # type: ignore[arg-type]
        value.users += 1
        value.arrived(answer(Status.OK, *parts))
        task.past.values.append(value)
    assert owner.held == 4
    for kind in "xy":  # at another engine it is put together anew
        task.make_ready({"kind": kind}, 1000)
        assert task.payload.code == JOINED
        assert json.loads(task.payload.header) == {"parts": [2, 1], "properties": {"kind": kind}}
        assert list(map(bytes, task.payload.buffers)) == [b"call", b"a", b"bc", b"d"]
    with pytest.raises(MessageTooLarge):
        task.make_ready({}, 10)
    assert repr(task.past.values[0]) == "<Value of 3 bytes, 1 users>"
    for value in task.past.values:
        value.let_go()
    assert owner.held == 0


def test_a_recovery_task_takes_its_place_once():
    recovery = {"buffers": 1, "timeout": 5, "resources": {"gpu": 1}}
    task = made_task(buffers=(b"call", b"other"), recovery=recovery, label=b"f", retries=2)
    task.make_ready({}, 1000)
    assert list(map(bytes, task.payload.buffers)) == [b"call"]
    task.past.failures, task.past.tried, task.past.deadline = 2, 3, 8.0
    task.past.refusals[1] = None
    assert task.recover()
    past = task.past
    assert (past.failures, past.tried, past.deadline, past.refusals) == (0, 3, None, {})
    assert (task.limit, task.name, task.needs) == (5.0, "f", Needs(resources=(("gpu", 1.0),)))
    task.make_ready({}, 1000)
    assert list(map(bytes, task.payload.buffers)) == [b"other"]
    assert not task.recover()


# Its end


def test_how_it_ended_is_told_with_its_cause_last():
    owner: Any = FakeOwner()
    value = Ended(True, answer(Status.OK, b"12345"), 4, 2)
    value.tell(owner, 3)
    Ended(False, answer(Status.REJECTED), 1).tell(owner, 3)
    failed = Ended(False, ABORTED, tried=TRIES + 10, cause=Ended(False, answer(Status.ERROR, b"12"), 5, 1))
    failed.tell(owner, 3)
    assert owner.said == [
        (3, "OK", 4, True, 2),
        (3, "ERROR", 1, True, 0),
        (3, "TaskAborted", NO_ENGINE, False, TRIES),
        (3, "ERROR", 5, True, 1),
    ]
    assert failed.root.engine == 5
    assert value.root is value
    assert (value.size > 5, failed.size) == (True, failed.root.size)
