"""Tasks as objects: what they refuse, what they do on an engine and in which order, and what they come to."""

from __future__ import annotations

import asyncio
import copy
import functools
import itertools
from typing import Any

import pytest
from spaces import do

import aioparallel
from aioparallel import client
from aioparallel.errors import TaskRejectError
from aioparallel.namespace import Namespace
from aioparallel.reference import Reference
from aioparallel.serialize import pack
from aioparallel.tasks import MapTask, StringTask, Task, TaskResult
from aioparallel.wire import Status


@pytest.fixture
def engine() -> Namespace:
    return Namespace(3, run_coroutine=asyncio.run)


def perform(engine: Namespace, task: Task) -> Any:
    """Run a task as it runs on an engine: what it comes to, or the error raised."""
    return do(engine, "perform", task.for_engine())


@pytest.mark.parametrize("name", ["MapTask", "StringTask", "Task", "TaskResult"])
def test_they_are_of_both_faces(name: str) -> None:
    assert getattr(aioparallel, name) is getattr(client, name)


# What they are made of


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: StringTask(len), "made of code as a str.*for a function: MapTask"),
        (lambda: StringTask("", pull=3), "pull takes names, not 3"),
        (lambda: StringTask("", pull=["a", 3]), "pull takes names, each a str, not 3"),
        (lambda: StringTask("", push=["a"]), "push is a dict of values by name"),
        (lambda: MapTask("abs"), "'abs' can't be called; for code: StringTask"),
        (lambda: MapTask(abs, 3), "args are the arguments in a tuple, not 3"),
        (lambda: MapTask(abs, "xy"), "args are the arguments in a tuple, not 'xy'"),
        (lambda: MapTask(abs, kwargs=3), "kwargs is a dict of arguments by name, not 3"),
        (lambda: StringTask("", clear_before=1), "clear_before is True or False, not 1"),
        (lambda: StringTask("", clear_after=None), "clear_after is True or False, not None"),
        (lambda: StringTask("", retries="3"), "retries is a number of further tries, not '3'"),
        (lambda: StringTask("", retries=True), "retries is a number of further tries, not True"),
        (lambda: MapTask(abs, recovery_task=abs), "recovery_task is a Task, or None, not <built-in"),
        (lambda: MapTask(abs, depend="gpu"), r"depend is a function of an engine's properties, or \(f, \*arguments\)"),
        (lambda: MapTask(abs, depend=()), "depend is a function of an engine's properties"),
        (lambda: MapTask(abs, retry=3), "retry"),
    ],
)
def test_what_can_not_be_meant_is_refused(make: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        make()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: StringTask("", pull="a.b"), "pull: 'a.b' is no name that a variable can have"),
        (lambda: StringTask("", push={"class": 1}), "push: 'class' is no name"),
        (lambda: StringTask("", retries=-1), "retries is a number of further tries from 0 on, not -1"),
    ],
)
def test_values_that_can_not_be_meant_are_refused(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


def test_recovery_goes_in_no_circle() -> None:
    first = StringTask("1", recovery_task=StringTask("2", recovery_task=StringTask("3")))
    first.validate()
    first.recovery_task.recovery_task.recovery_task = first  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="can't be recovered by itself"):
        first.validate()


def test_they_say_what_they_are() -> None:
    assert repr(StringTask("\n  a = 5\nb = 6")) == "<StringTask a = 5>"
    assert StringTask("").label == ""
    assert repr(MapTask(functools.partial(pow, 2), (3,))) == "<MapTask pow>"
    assert repr(Twice(3)) == "<Twice Twice>"
    assert StringTask("", pull="a").pull == ["a"]
    assert StringTask("", pull=iter("ab")).pull == ["a", "b"]
    assert MapTask(abs, [-1]).args == (-1,)


def test_checks_are_functions_with_what_they_are_given() -> None:
    assert MapTask(abs).checks() == []
    assert MapTask(abs, depend=len).checks() == [(len, ())]
    assert MapTask(abs, depend=[len, 1, 2]).checks() == [(len, (1, 2))]


def test_what_an_engine_need_not_know_stays_here() -> None:
    task = StringTask("1", retries=2, depend=len, recovery_task=StringTask("'far too large'"), clear_after=True)
    bare = task.for_engine()
    assert (bare.depend, bare.recovery_task, bare.clear_after, bare.expression) == (None, None, True, "1")
    assert b"far too large" not in pack(bare)[0]
    kept = copy.copy(task)
    assert (kept.depend, kept.recovery_task) == (len, task.recovery_task)


# What they do


def test_a_string_task_pushes_executes_and_pulls(engine: Namespace) -> None:
    task = StringTask("b = a + 1; c = b * id", pull=["b", "c"], push={"a": 1})
    assert perform(engine, task) == {"b": 2, "c": 6}
    assert perform(engine, StringTask("d = a", pull="d")) == {"d": 1}
    assert perform(engine, StringTask("d = a")) == {}
    assert engine.keys() == ["a", "b", "c", "d"]
    with pytest.raises(ZeroDivisionError):
        perform(engine, StringTask("1 / 0", pull="b"))
    with pytest.raises(NameError, match="name 'e' is not defined"):
        perform(engine, StringTask("d = 2", pull=["d", "e"]))
    with pytest.raises(SyntaxError):
        perform(engine, StringTask("d = = 2"))


def test_a_map_task_calls(engine: Namespace) -> None:
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    assert perform(engine, MapTask(divmod, (7, 2))) == (3, 1)
    assert perform(engine, MapTask(sorted, [[1, 3, 2]], {"reverse": True})) == [3, 2, 1]
    assert perform(engine, MapTask(later, (4,))) == 8
    engine.names["a"] = 5
    assert perform(engine, MapTask(abs, (Reference("-a"),))) == 5


@pytest.mark.parametrize(("before", "after", "fails"), [*itertools.product((False, True), repeat=3)])
def test_names_are_cleared_before_and_after_also_when_it_fails(
    engine: Namespace, before: bool, after: bool, fails: bool
) -> None:
    engine.names["old"] = 1
    code = "seen = sorted(name for name in ('old', 'new') if name in globals())" + ("; 1 / 0" if fails else "")
    task = StringTask(code, pull="seen", push={"new": 2}, clear_before=before, clear_after=after)
    try:
        assert perform(engine, task) == {"seen": ["new"] if before else ["new", "old"]}
        assert not fails
    except ZeroDivisionError:
        assert fails
    assert engine.keys() == ([] if after else ["new", "seen"] if before else ["new", "old", "seen"])
    assert engine.names["id"] == 3
    # The next one is none of its business.
    engine.names["kept"] = 1
    perform(engine, StringTask("1"))
    assert engine.names["kept"] == 1


def test_what_it_comes_to_has_its_names_though_they_are_cleared(engine: Namespace) -> None:
    code = "class Mine(Exception):\n    pass\nfactor = 3\ndef f(x):\n    return x * factor"
    assert perform(engine, StringTask(code, pull="f", clear_after=True))["f"](2) == 6
    with pytest.raises(Exception, match="text") as caught:
        perform(engine, StringTask(code + "\nraise Mine('text')", clear_after=True))
    assert type(caught.value).__name__ == "Mine"
    assert engine.keys() == []


class Twice(Task):
    """A user's own, which does not call our `__init__`."""

    def __init__(self, x: int) -> None:
        self.x = x

    def run_on(self, engine: Namespace) -> Any:
        engine.push({"x": self.x})
        engine.execute("x = 2 * x")
        return engine.pull("x"), engine.keys(), engine.engine_id


class Later(Task):
    async def run_on(self, engine: Namespace) -> Any:
        await asyncio.sleep(0)
        return engine.keys()


class Elsewhere(Task):
    def run_on(self, engine: Namespace) -> Any:
        raise TaskRejectError("not here")


class Idle(Task):
    pass


def test_tasks_of_ones_own(engine: Namespace) -> None:
    Twice(4).validate()
    assert perform(engine, Twice(4)) == (8, ["x"], 3)
    assert perform(engine, Later(clear_before=True)) == []
    assert engine.run(pack(("perform", Elsewhere())))[0] == Status.REJECTED
    with pytest.raises(NotImplementedError, match="Idle does not say in `run_on` what is to be done"):
        perform(engine, Idle())


# What they come to


def test_values_by_name() -> None:
    result = TaskResult(
        7, 2, {"a": 1, "b": [2]}, submitted=10.0, started=11.0, completed=13.5, duration=2.5, stdout="x"
    )
    assert result.results == {"a": 1, "b": [2]}
    assert (result["a"], result.ns.b, result.keys()) == (1, [2], ["a", "b"])
    assert "a" in result
    assert "c" not in result
    assert (result.taskid, result.engineid, result.failure) == (7, 2, None)
    assert (result.submitted, result.started, result.completed, result.duration) == (10.0, 11.0, 13.5, 2.5)
    assert (result.stdout, result.stderr) == ("x", "")
    result.raise_exception()
    with pytest.raises(KeyError, match="'c' was not pulled; what was: 'a', 'b'"):
        result["c"]
    with pytest.raises(TypeError, match="not iterable"):
        iter(result)  # type: ignore[call-overload]
    assert repr(result) == "<TaskResult of task 7 on engine 2 in 2.5 s: {'a': 1, 'b': [2]}>"


def test_any_other_value() -> None:
    result = TaskResult(None, None, 5)
    assert result.results == 5
    assert repr(result) == "<TaskResult of a task: 5>"
    for ask in (lambda: result.ns, lambda: result["a"], result.keys, lambda: "a" in result):
        with pytest.raises(TypeError, match="this task came to 5, not to values by name"):
            ask()
    with pytest.raises(TypeError, match="not to values by name"):
        TaskResult(None, None, {1: 2}).keys()
    assert len(repr(TaskResult(1, 1, list(range(10**6))))) < 200


def test_a_failure_is_raised_by_whoever_asks_for_more() -> None:
    result = TaskResult(7, None, failure=ZeroDivisionError("division by zero\nand more"), duration=0.001234)
    assert repr(result) == "<TaskResult of task 7 in 0.00123 s: failed, ZeroDivisionError: division by zero>"
    for ask in (lambda: result.results, lambda: result.ns, lambda: result["a"], result.keys, result.raise_exception):
        with pytest.raises(ZeroDivisionError):
            ask()
    assert repr(TaskResult(7, 1, failure=KeyError())) == "<TaskResult of task 7 on engine 1: failed, KeyError>"
