"""What tasks ask of engines and of other tasks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import os.path
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from spaces import main_module

import aioparallel
from aioparallel import client
from aioparallel.conditions import Dependency, check_of, depend, require
from aioparallel.errors import TaskRejectError
from aioparallel.handle import Handle
from aioparallel.namespace import Namespace
from aioparallel.pending import PendingResult
from aioparallel.portal import portal
from aioparallel.serialize import pack, unpack, unpack_error
from aioparallel.wire import Status


@pytest.fixture
def engine() -> Iterator[Namespace]:
    engine = Namespace(3, run_coroutine=asyncio.run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "__main__", engine.module)
        yield engine


def do(engine: Namespace, *command: Any) -> Any:
    return arrived(engine, pack(command))


def arrived(engine: Namespace, buffers: list[Any]) -> Any:
    """Do a packed command: the value, or the error raised, and whether that is a rejection noted on it."""
    status, payload = engine.run([bytes(buffer) for buffer in buffers])
    if status == Status.OK:
        return unpack(payload)
    error = unpack_error(payload)
    assert (status == Status.REJECTED) == isinstance(error, TaskRejectError)
    raise error


@pytest.mark.parametrize("name", ["Dependency", "Properties", "depend", "require"])
def test_they_are_of_both_faces(name: str) -> None:
    assert getattr(aioparallel, name) is getattr(client, name)


# require


@require("math", "os.path", math, textwrap.dedent, Namespace, os.path.join)
def hypotenuse(x: float, *, y: float = 4.0) -> float:
    """Know three sides of a triangle."""
    return math.hypot(x, y)


@require("math")
async def coroutine(x: int) -> int:
    await asyncio.sleep(0)
    return x


def test_what_is_there_is_no_obstacle(engine: Namespace) -> None:
    assert hypotenuse(3.0) == 5.0
    assert (hypotenuse.__name__, hypotenuse.__doc__) == ("hypotenuse", "Know three sides of a triangle.")
    assert do(engine, "apply", hypotenuse, (3.0,), {"y": 4.0}) == 5.0
    assert do(engine, "apply", coroutine, (3,), {}) == 3
    assert len(pack(hypotenuse)[0]) < 60  # by its import path, as any other function


def test_what_is_missing_is_a_rejection(engine: Namespace) -> None:
    functions = main_module(
        """
        def helper(): pass
        @require("math", "nowhere.to_be.found")
        def f(x): return x
        @require(helper)
        def g(x): return helper
        """,
        require=require,
        depend=depend,
    )
    with pytest.raises(TaskRejectError, match=r"f requires the module nowhere\.to_be.found.*No module named 'nowhere'"):
        do(engine, "apply", functions["f"], (1,), {})
    call = pack(("apply", functions["g"], (1,), {}))
    with pytest.raises(TaskRejectError, match="g requires helper of __main__, which is not to be had here"):
        arrived(engine, call)
    do(engine, "execute", "def helper(): pass")
    assert callable(arrived(engine, call))


def test_a_class_that_is_not_where_it_says_is_missing() -> None:
    class Circle:
        pass

    Circle.__module__, Circle.__qualname__ = "math", "Circle"
    with pytest.raises(TaskRejectError, match="abs requires Circle of math"):
        require(Circle)(abs)(-1)


@pytest.mark.parametrize("need", ["", "a b", "numpy>=2", 3, None, lambda: 1, ["numpy"]])
def test_a_need_without_a_name_is_refused(need: Any) -> None:
    with pytest.raises(TypeError, match="@require takes names of modules, modules, and functions that have a name"):
        require(need)


def test_decorators_are_for_functions() -> None:
    with pytest.raises(TypeError, match="@require is for functions, not for 3"):
        require("math")(3)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="@depend is for functions, not for 3"):
        depend(len, [1])(3)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="@depend needs a function that says where to run, not 'math'"):
        depend("math")  # type: ignore[arg-type]


# depend


def test_a_condition_is_asked_at_each_call(engine: Namespace) -> None:
    functions = main_module(
        """
        import sys
        def named(name, *, value): return getattr(sys, name, None) == value
        @depend(named, "aioparallel_test", value=5)
        def f(x): return 2 * x
        @depend(lambda: 1 / 0)
        def broken(): pass
        async def later(): return True
        @depend(later)
        def slow(): pass
        """,
        require=require,
        depend=depend,
    )
    call = pack(("apply", functions["f"], (1,), {}))
    with pytest.raises(TaskRejectError, match=r"named\('aioparallel_test', value=5\) is False here") as caught:
        arrived(engine, call)
    assert caught.value.engine_id == 3  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "aioparallel_test", 5, raising=False)
        assert arrived(engine, call) == 2
    with pytest.raises(ZeroDivisionError):
        do(engine, "apply", functions["broken"], (), {})
    with pytest.raises(TypeError, match="@depend takes a plain function, and later is asynchronous"):
        do(engine, "apply", functions["slow"], (), {})


# depend=


def test_a_check_is_a_function_and_what_it_is_given() -> None:
    assert check_of(len) == (len, ())
    assert check_of((len, 1, 2)) == (len, (1, 2))
    for wrong in (None, "gpu", (), ("gpu",), {"gpu": 1}):
        with pytest.raises(TypeError, match=r"depend is a function of an engine's properties, or \(f, \*arguments\)"):
            check_of(wrong)


# Dependency


def test_a_dependency_is_on_ids_and_futures() -> None:
    async def main() -> None:
        handles = [Handle() for _ in range(3)]
        for number, handle in enumerate(handles):
            handle.sent(None, 10 - number)
        assert Dependency(handles[0]).tasks == (handles[0],)
        assert Dependency([3, handles[1], 1]).tasks == (3, handles[1], 1)
        assert Dependency({handles[0], 7, handles[1], handles[2], 5}).tasks == (5, 7, *reversed(handles))
        assert Dependency(task for task in (1, 2)).tasks == (1, 2)
        assert Dependency([]).tasks == ()
        assert Dependency(PendingResult(portal())).all is True

    asyncio.run(main())


def test_how_they_have_to_end() -> None:
    dependency = Dependency(3)
    assert (dependency.all, dependency.success, dependency.failure) == (True, True, False)
    assert repr(dependency) == "<Dependency on success of all of [3]>"
    assert repr(Dependency([1, 2], all=False, failure=True)) == "<Dependency on success or failure of any of [1, 2]>"
    assert Dependency.of(dependency) is dependency
    assert Dependency.of([1, 2]).tasks == (1, 2)
    with pytest.raises(ValueError, match="neither succeed nor fail would wait for ever"):
        Dependency(3, success=False)
    with pytest.raises(ValueError, match="ids of tasks are numbers from 0 on, not -1"):
        Dependency([1, -1])
    with pytest.raises(TypeError, match="all is True or False, not 'any'"):
        Dependency(3, "any")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, "3", 2.5, True, [None], ["3"], [concurrent.futures.Future()], [[1]]])
def test_a_dependency_on_anything_else_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="a Dependency is on ids or futures of tasks, not on"):
        Dependency(wrong)
