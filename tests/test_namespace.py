from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
from spaces import do

from aioparallel.errors import (
    DeserializationError,
    OperationError,
    RemoteError,
    SerializationError,
    TaskRejectError,
)
from aioparallel.namespace import VERBS, Namespace
from aioparallel.reference import Outcome, Reference
from aioparallel.serialize import Buffer, pack, unpack, unpack_error
from aioparallel.wire import Status


@pytest.fixture
def engine() -> Namespace:
    return Namespace(3, run_coroutine=asyncio.run)


def note(error: BaseException) -> str:
    return error.__notes__[-1]


def test_the_verbs() -> None:
    assert sorted(VERBS) == [
        "apply",
        "attempt",
        "end_forwarding",
        "execute",
        "forward_logging",
        "get_result",
        "keys",
        "map",
        "perform",
        "pull",
        "pull_function",
        "push",
        "push_function",
        "reset",
        "run_file",
        "set_up",
    ]


def test_execute_is_a_prompt(engine: Namespace) -> None:
    assert do(engine, "execute", "a = 5") == {"input": "a = 5", "number": 1, "id": 3, "repr": None}
    assert do(engine, "execute", "b = 2\na * b + id")["repr"] == "13"
    assert do(engine, "execute", "_ + 1")["repr"] == "14"
    assert do(engine, "execute", "None")["repr"] is None
    assert do(engine, "execute", "")["number"] == 5
    with pytest.raises(ZeroDivisionError):
        do(engine, "execute", "a = 6; 1 / 0")
    assert do(engine, "execute", "a, __name__, __builtins__.len('xx')") == {
        "input": "a, __name__, __builtins__.len('xx')",
        "number": 7,
        "id": 3,
        "repr": "(6, '__main__', 2)",
    }


def test_execute_awaits(engine: Namespace) -> None:
    do(engine, "execute", "import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x * 2")
    assert do(engine, "execute", "await f(4)")["repr"] == "8"
    assert do(engine, "execute", "y = await f(1)\n[await f(i) for i in range(y)]")["repr"] == "[0, 2]"
    do(engine, "execute", "async with asyncio.timeout(5): z = 1")
    assert do(engine, "execute", "c = f(1); c.close(); z")["repr"] == "1"
    with pytest.raises(ZeroDivisionError) as caught:
        do(engine, "execute", "async def g():\n    return 1 / 0\nawait g()")
    assert "asyncio" not in note(caught.value)
    assert note(caught.value).count("<input-6>") == 2


def test_an_input_that_awaits_is_one_coroutine(engine: Namespace) -> None:
    do(engine, "execute", "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 7")
    assert do(engine, "execute", "t = asyncio.create_task(f())\nawait t")["repr"] == "7"
    assert do(engine, "execute", "loop = asyncio.get_running_loop()\nawait f()\nloop.is_running()")["repr"] == "True"
    # Only the last line awaits, only a line before it, none.
    assert do(engine, "execute", "now = asyncio.get_running_loop().time()\n(await f()) + 1")["repr"] == "8"
    assert do(engine, "execute", "x = await f()\nasyncio.get_running_loop().is_running()")["repr"] == "True"
    assert do(engine, "execute", "x = await f()")["repr"] is None
    assert do(engine, "execute", "await f()\nNone")["repr"] is None
    with pytest.raises(RuntimeError, match="no running event loop"):
        do(engine, "execute", "asyncio.get_running_loop()")
    with pytest.raises(ZeroDivisionError) as caught:
        do(engine, "execute", "1 / 0\nawait f()")
    assert "aioparallel" not in note(caught.value)
    assert "asyncio" not in note(caught.value)
    assert 'File "<input-9>", line 1, in <module>' in note(caught.value)


def test_future_imports_hold_as_at_a_prompt(engine: Namespace) -> None:
    do(engine, "execute", "def f(x: 1): pass")
    assert do(engine, "execute", "f.__annotations__")["repr"] == "{'x': 1}"  # none of ours
    do(engine, "execute", "from __future__ import annotations")
    do(engine, "execute", "def f(x: 1): pass")
    assert do(engine, "execute", "f.__annotations__")["repr"] == "{'x': '1'}"
    do(engine, "reset")
    assert do(engine, "execute", "def f(x: 1): pass\nf.__annotations__")["repr"] == "{'x': 1}"


def test_a_syntax_error_shows_its_line_and_runs_nothing(engine: Namespace) -> None:
    with pytest.raises(SyntaxError) as caught:
        do(engine, "execute", "a = 1\nb = = 2")
    assert 'File "<input-1>", line 2' in note(caught.value)
    assert "b = = 2" in note(caught.value)
    assert "namespace.py" not in note(caught.value)
    with pytest.raises(SyntaxError):
        do(engine, "execute", "a = 1\nreturn")
    assert do(engine, "keys") == []


def test_tracebacks_are_the_users(engine: Namespace) -> None:
    do(engine, "execute", "def f(x):\n    return 1 / x")
    with pytest.raises(ZeroDivisionError) as caught:
        do(engine, "execute", "y = 0\nf(y)")
    text = note(caught.value)
    assert "aioparallel" not in text
    assert 'File "<input-2>", line 2, in <module>' in text
    assert 'File "<input-1>", line 2, in f' in text
    assert "    f(y)\n" in text
    assert "    return 1 / x\n" in text
    assert caught.value.engine_id == 3  # type: ignore[attr-defined]


def test_apply(engine: Namespace) -> None:
    assert do(engine, "apply", divmod, (7, 2), {}) == (3, 1)
    assert do(engine, "apply", sorted, ([1, 3, 2],), {"reverse": True}) == [3, 2, 1]
    with pytest.raises(TypeError):
        do(engine, "apply", len, (), {})


async def double(x: int, y: int = 0) -> int:
    await asyncio.sleep(0)
    return 2 * x + y


def stop(x: int) -> int:
    if x == 2:
        raise StopIteration
    return x


def test_apply_and_map_await(engine: Namespace) -> None:
    assert do(engine, "apply", double, (4,), {}) == 8
    assert do(engine, "map", double, ([1, 2, 3],)) == [2, 4, 6]
    assert do(engine, "map", double, ([1, 2], [10, 20])) == [12, 24]
    with pytest.raises(TypeError):
        do(engine, "map", double, ([1, None, 3],))  # and no warning of a coroutine that was never awaited


def test_map(engine: Namespace) -> None:
    assert do(engine, "map", abs, ([-1, 2, -3],)) == [1, 2, 3]
    assert do(engine, "map", pow, ([2, 3], (3, 2))) == [8, 9]
    assert do(engine, "map", abs, ([],)) == []
    assert do(engine, "map", abs, ()) == []
    with pytest.raises(ValueError, match="different lengths: 2, 1"):
        do(engine, "map", pow, ([1, 2], [1]))


def test_map_finds_a_function_by_its_name(engine: Namespace) -> None:
    do(engine, "execute", "def f(x): return x + id")
    assert do(engine, "map", "f", ([1, 2],)) == [4, 5]
    assert do(engine, "map", "abs", ([-1, 2],)) == [1, 2]
    do(engine, "execute", "def abs(x): return 'mine'")
    assert do(engine, "map", "abs", ([-1],)) == ["mine"]
    with pytest.raises(NameError, match="name 'nothing' is not defined"):
        do(engine, "map", "nothing", ([1],))
    with pytest.raises(TypeError, match="'id' is no function here but of type 'int'"):
        do(engine, "map", "id", ([1],))


@pytest.mark.parametrize("items", [[2], [1, 2, 3], [1, 3, 2]])
def test_map_does_not_end_at_a_stop_iteration(engine: Namespace, items: list[int]) -> None:
    with pytest.raises(RemoteError, match="StopIteration"):
        do(engine, "map", stop, (items,))


def test_push_pull_keys_reset(engine: Namespace) -> None:
    assert do(engine, "push", {"b": 2, "a": [1], "_private": 0}) is None
    assert do(engine, "pull", "a") == [1]
    assert do(engine, "pull", ["a", "b"]) == [[1], 2]
    assert do(engine, "pull", ("b",)) == [2]
    do(engine, "execute", "x: int = 1\n3")
    assert do(engine, "keys") == ["_private", "a", "b", "x"]
    assert do(engine, "pull", "id") == 3
    with pytest.raises(NameError, match="name 'nowhere' is not defined") as caught:
        do(engine, "pull", ["a", "nowhere"])
    assert "namespace.py" not in note(caught.value)
    do(engine, "execute", "id = 5")
    do(engine, "reset")
    assert do(engine, "keys") == []
    assert do(engine, "pull", "id") == 3
    assert do(engine, "execute", "1 + 1")["number"] == 3
    with pytest.raises(TypeError, match="names must be strings, not int: 1"):
        do(engine, "push", {"ok": 1, 1: 2})
    assert do(engine, "keys") == []


def test_functions_of_the_engine_travel(engine: Namespace) -> None:
    do(engine, "execute", "K = 3\ndef f(x): return x * K\nclass C:\n    n = 4")
    assert do(engine, "pull", "f")(2) == 6
    assert do(engine, "pull", "C").n == 4


def test_errors_of_the_engines_own_classes(engine: Namespace) -> None:
    do(engine, "execute", "class Mine(Exception):\n    pass")
    with pytest.raises(Exception, match="text") as caught:
        do(engine, "execute", "raise Mine('text')")
    assert type(caught.value).__name__ == "Mine"


@pytest.mark.parametrize(
    "error", ["SystemExit(3)", "KeyboardInterrupt", "GeneratorExit", "StopIteration", "BaseException"]
)
def test_nothing_ends_the_engine(engine: Namespace, error: str) -> None:
    with pytest.raises(RemoteError, match=error.partition("(")[0]):
        do(engine, "execute", f"raise {error}")
    with pytest.raises(RemoteError, match="SystemExit"):
        do(engine, "execute", "import sys; sys.exit('bye')")
    with pytest.raises(RemoteError, match="SystemExit"):
        do(engine, "execute", "class Rude:\n    def __repr__(self): raise SystemExit\nRude()")


def test_results_that_cannot_be_sent(engine: Namespace) -> None:
    do(engine, "push", {"threading": threading})
    with pytest.raises(SerializationError, match=r"cannot send result\['lock'\]: cannot pickle '_thread.lock' object"):
        do(engine, "execute", "x = {'lock': threading.Lock()}") and do(engine, "pull", "x")


def test_unknown_verbs_and_garbage(engine: Namespace) -> None:
    with pytest.raises(OperationError, match="unknown verb 'explode': an engine knows apply, attempt, end_forwarding"):
        do(engine, "explode")
    garbage: list[list[Buffer]] = [
        [],
        [b"x"],
        pack(3),
        pack(()),
        pack(([],)),
        pack(("pull",)),
        pack(("apply", 1, 2, 3, 4)),
    ]
    for buffers in garbage:
        status, payload = engine.run(buffers)
        assert status == Status.ERROR
        assert isinstance(unpack_error(payload), Exception)


class Switch:
    """Interrupts allowed only inside; counts."""

    def __init__(self) -> None:
        self.on = False
        self.entered = 0

    def __enter__(self) -> None:
        self.on = True
        self.entered += 1

    def __exit__(self, *exc_info: object) -> None:
        self.on = False


class Prober:
    def __reduce__(self) -> Any:
        raise ValueError(f"on: {SWITCH.on}")


SWITCH = Switch()


def look() -> bool:
    return SWITCH.on


def test_interrupts_come_only_into_user_code() -> None:
    engine = Namespace(0, run_coroutine=asyncio.run, interrupts=SWITCH)
    assert do(engine, "apply", look, (), {}) is True
    with pytest.raises(SerializationError, match="on: True"):
        do(engine, "apply", Prober, (), {})
    assert not SWITCH.on
    assert SWITCH.entered == 2


@pytest.fixture
def as_main(engine: Namespace) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "__main__", engine.module)
        yield


@pytest.mark.usefixtures("as_main")
def test_as_the_main_module(engine: Namespace) -> None:
    do(engine, "execute", "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\n")
    assert do(engine, "execute", "P(3)")["repr"] == "P(x=3)"
    assert do(engine, "execute", "import pickle; pickle.loads(pickle.dumps(P(4)))")["repr"] == "P(x=4)"
    assert do(engine, "pull", "P")(5).x == 5
    assert repr(engine).startswith("<Namespace of engine 3: ")


# What comes along with a task


def joined(engine: Namespace, command: tuple[Any, ...], *values: Any, **about: Any) -> Any:
    """Do a command with which the values of other tasks come along."""
    packed = [pack(value) for value in values]
    buffers = [bytes(buffer) for each in [pack(command), *packed] for buffer in each]
    status, payload = engine.run(buffers, {"parts": [len(each) for each in packed], **about})
    if status == Status.OK:
        return unpack(payload)
    error = unpack_error(payload)
    assert (status == Status.REJECTED) == isinstance(error, TaskRejectError)
    raise error


def test_outcomes_become_the_values_that_came_along(engine: Namespace) -> None:
    array = numpy.arange(10_000.0)
    call = ("apply", lambda *args: args, (Outcome(1), [Outcome(0)], {"k": Outcome(1)}), {})
    first, (second,), keyed = joined(engine, call, "zero", array)
    assert second == "zero"
    assert numpy.array_equal(first, array)
    assert keyed["k"] is first
    assert joined(engine, ("apply", lambda x: x.flags.writeable, (Outcome(0),), {}), array) is True
    assert joined(engine, ("apply", Outcome(0), (2,), {}), lambda x: 2 * x) == 4
    # One is unpacked once, when it is first met; one that is not met, never.
    assert joined(engine, ("apply", lambda a, b: a is b, (Outcome(0), [Outcome(0)][0]), {}), [1], Unbuildable()) is True


def test_what_is_no_ones_value(engine: Namespace) -> None:
    with pytest.raises(DeserializationError, match="the value of future 0 among the arguments did not come along"):
        do(engine, "apply", abs, (Outcome(0),), {})
    with pytest.raises(DeserializationError, match="the value of future 1 among the arguments did not come along"):
        joined(engine, ("apply", abs, (Outcome(1),), {}), -1)
    assert joined(engine, ("apply", abs, (Outcome(0),), {}), -1) == 1
    assert not engine._parents
    for parts in ([2], [0], [-1], [1, 1], "x"):
        status, payload = engine.run([bytes(buffer) for buffer in pack(("keys",))], {"parts": parts})
        assert status == Status.ERROR
        assert isinstance(unpack_error(payload), Exception)


def test_a_value_that_cannot_be_rebuilt_here_is_named(engine: Namespace) -> None:
    match = "the value of future 1 among the arguments: cannot rebuild what arrived: ModuleNotFoundError: No module"
    with pytest.raises(DeserializationError, match=match) as caught:
        joined(engine, ("apply", max, (Outcome(0), Outcome(1)), {}), 1, Unbuildable())
    assert "/namespace.py" not in note(caught.value)
    assert "in _import_nowhere" in note(caught.value)
    assert not engine._parents


def test_a_value_may_hold_a_reference(engine: Namespace) -> None:
    do(engine, "push", {"a": 5})
    assert joined(engine, ("apply", list, (Outcome(0),), {}), [Reference("a")]) == [5]
    with pytest.raises(NameError, match="nowhere"):
        joined(engine, ("apply", list, (Outcome(0),), {}), [Reference("nowhere")])
    assert do(engine, "apply", lambda: str(Outcome(1)), (), {}) == "Outcome(1)"


class Unbuildable:
    def __reduce__(self) -> Any:
        return _import_nowhere, ()


def _import_nowhere() -> None:
    import nowhere  # type: ignore[import-not-found]  # noqa: F401


# Whether this is the engine for it


def has(properties: dict[str, Any], name: str, least: int = 1) -> Any:
    return properties[name] >= least


async def has_later(properties: dict[str, Any], name: str) -> Any:
    await asyncio.sleep(0)
    properties.clear()  # its own copy
    return name == "gpu"


def test_checks_are_asked_before_anything_is_done(engine: Namespace) -> None:
    def attempt(*checks: Any) -> Any:
        return joined(engine, ("attempt", checks, "push", {"done": True}), properties={"gpu": 2, "mem": 1})

    for failing, text in [
        ((has, ("mem", 2)), r"has\(\{'gpu': 2, 'mem': 1\}, 'mem', 2\) is False here"),
        ((has, ("disk",)), "has asks for 'disk', which is no property of engine 3"),
        ((has_later, ("cpu",)), "has_later"),
    ]:
        with pytest.raises(TaskRejectError, match=text):
            attempt((has, ("gpu",)), failing)
        assert do(engine, "keys") == []
    with pytest.raises(TypeError):
        attempt((has, ()))
    assert attempt((has, ("gpu", 2)), (has_later, ("gpu",)), (has, ("mem",))) is None
    assert do(engine, "pull", "done") is True
    assert joined(engine, ("attempt", [], "apply", abs, (-1,), {})) == 1
    assert not engine.properties
    with pytest.raises(TaskRejectError, match="'gpu', which is no property"):
        do(engine, "attempt", [(has, ("gpu",))], "keys")
    with pytest.raises(OperationError, match="unknown verb 'explode'"):
        do(engine, "attempt", [], "explode")


def test_any_command_may_be_rejected(engine: Namespace) -> None:
    do(engine, "execute", "from aioparallel import TaskRejectError\nclass Mine(TaskRejectError): pass")
    for name in ("TaskRejectError", "Mine"):
        status, payload = engine.run(pack(("execute", f"raise {name}('not here')")))
        assert status == Status.REJECTED
        assert isinstance(error := unpack_error(payload), TaskRejectError)
        assert str(error) == "not here"
        with pytest.raises(TaskRejectError):
            do(engine, "get_result", None)
    with pytest.raises(ExceptionGroup):
        do(engine, "execute", "raise ExceptionGroup('several', [Mine()])")
