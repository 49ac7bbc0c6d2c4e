"""Functions that leave their globals behind and live in an engine's names."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from spaces import answer, do, main_module

from aioparallel import rebinding, serialize
from aioparallel.errors import DeserializationError, SerializationError
from aioparallel.namespace import Namespace
from aioparallel.serialize import pack, unpack

c = 100
lock = threading.Lock()


def times(x: int, y: int = 2, *, z: int = 1) -> int:
    """Multiply by what the engine says."""
    return c * x * z  # type: ignore[name-defined,unused-ignore]


@pytest.fixture
def engine() -> Namespace:
    engine = Namespace(3, run_coroutine=asyncio.run)
    do(engine, "push", {"c": 3})
    return engine


def push(engine: Namespace, **functions: Any) -> dict[str, Any]:
    """Push functions as a client does; return the engine's names."""
    buffers = pack(("push_function", functions), name=("verb", "functions"), rebind=functions.values())
    answer(engine, buffers)
    return engine.names


def test_its_globals_are_the_names_of_the_engine(engine: Namespace) -> None:
    names = push(engine, f=lambda x: c * x, times=times)
    assert names["f"].__globals__ is names["times"].__globals__ is names
    assert names["f"](2) == names["times"](2) == 6
    do(engine, "execute", "c = 5")
    assert names["f"](2) == 10
    do(engine, "reset")
    assert names == engine.names
    with pytest.raises(NameError):
        push(engine, f=lambda: c)["f"]()


def test_what_it_is_goes_along(engine: Namespace) -> None:
    def mine(x: int, y: Any = (1, [2]), *, z: Any = 3) -> str:
        """It says so."""
        return "mine"

    mine.mark = {"a": 1}  # type: ignore[attr-defined]
    made = push(engine, f=mine)["f"]
    assert made is not mine
    for attribute in (
        "__name__",
        "__qualname__",
        "__module__",
        "__doc__",
        "__defaults__",
        "__kwdefaults__",
        "__annotations__",
        "__dict__",
    ):
        assert getattr(made, attribute) == getattr(mine, attribute)


def test_closures_keep_their_cells(engine: Namespace) -> None:
    def pair(start: int) -> tuple[Callable[[], int], Callable[[], int]]:
        def bump() -> int:
            nonlocal start
            start += 1
            return start

        def read() -> int:
            return start * c

        return bump, read

    bump, read = pair(7)
    names = push(engine, bump=bump, read=read)
    assert (names["bump"](), names["read"](), read()) == (8, 24, 700)
    assert (names["bump"](), names["read"]()) == (9, 27)


def test_functions_inside_live_there_too(engine: Namespace) -> None:
    space = main_module(
        """
        def make():
            def helper(x): return c * x
            def fact(n): return 1 if n < 2 else n * fact(n - 1)
            def f(x, *more, by=helper, inside={"h": [helper]}):
                return helper(x), fact(x), by(x), inside["h"][0] is helper, late
            late = 1
            f.helper = helper
            return f
        """
    )
    names = push(engine, f=space["make"]())
    assert names["f"](4) == (12, 24, 12, True, 1)
    assert names["f"].helper(1) == 3


def test_an_empty_cell_stays_empty(engine: Namespace) -> None:
    def make() -> Callable[[], Any]:
        def f() -> Any:
            return later

        if f is None:
            later = 1
        return f

    with pytest.raises(NameError, match="later"):
        push(engine, f=make())["f"]()


def test_its_globals_here_are_not_even_looked_at(engine: Namespace) -> None:
    space = main_module("def f(x):\n  with lock: return missing + x")
    space["lock"] = threading.Lock()
    names = push(engine, f=space["f"])
    do(engine, "execute", "import contextlib\nlock = contextlib.nullcontext()\nmissing = 1")
    assert names["f"](2) == 3


def test_what_can_be_imported_goes_by_its_name_when_it_is_not_the_one_pushed(engine: Namespace) -> None:
    names = push(engine, f=lambda text, dedent=textwrap.dedent: dedent(text), dedent=textwrap.dedent)
    assert names["f"].__defaults__[0].__globals__ is engine.names
    assert push(engine, f=lambda indent=textwrap.indent: indent)["f"]() is textwrap.indent
    with pytest.raises(NameError, match="_whitespace_only_re"):
        names["dedent"](" a")


def test_the_wrapper_of_a_decorator_keeps_its_module(engine: Namespace) -> None:
    space = main_module(
        """
        import contextlib
        @contextlib.contextmanager
        def opened(x):
            yield c * x
        """
    )
    names = push(engine, opened=space["opened"])
    with names["opened"](2) as six:
        assert six == 6
    assert names["opened"].__globals__ is vars(contextlib)
    assert names["opened"].__wrapped__.__globals__ is names


@pytest.fixture
def decorators() -> Iterator[types.ModuleType]:
    module = types.ModuleType("decorators")
    source = (
        "import functools\nK = 'k'\ndef deco(g):\n  @functools.wraps(g)\n  def w(*a): return K, g(*a)\n  return w\n"
    )
    source += "@deco\ndef decorated(x): return c * x\n"
    source += "def inner():\n  return lambda x: f'{K}{x}'\n"
    exec(source, module.__dict__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "decorators", module)
        yield module


def test_a_decorated_function_and_its_decorator_of_one_module(engine: Namespace, decorators: Any) -> None:
    names = push(engine, f=decorators.decorated, g=decorators.deco(decorators.deco(times)))
    assert names["f"](1) == ("k", 3)
    assert names["g"](1) == ("k", ("k", 3))
    space = main_module("def make(g):\n  def f(x): return g(x)\n  return f")
    assert push(engine, f=space["make"](decorators.inner()))["f"](1) == "k1"


def test_a_module_that_the_engine_lacks_is_named(engine: Namespace, decorators: Any) -> None:
    functions = {"f": decorators.deco(times)}
    buffers = pack(("push_function", functions), rebind=functions.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "decorators")
        with pytest.raises(DeserializationError, match="No module named 'decorators'"):
            answer(engine, buffers)


def test_classes_of_a_script_go_along_and_their_methods_live_there(engine: Namespace) -> None:
    space = main_module(
        """
        class Point:
            def scaled(self): return c
        def make():
            point = Point()
            class Sub(Point):
                def scaled(self): return super().scaled() + 1
            return lambda: (point.scaled(), Sub().scaled())
        """
    )
    assert push(engine, f=space["make"]())["f"]() == (3, 4)


def test_coroutines_and_generators(engine: Namespace) -> None:
    async def f() -> int:
        return c

    def g() -> Iterator[int]:
        yield c

    names = push(engine, f=f, g=g)
    assert do(engine, "execute", "await f()")["repr"] == "3"
    assert list(names["g"]()) == [3]


def test_wrapped_around_itself() -> None:
    def f() -> None: ...

    f.__wrapped__ = f  # type: ignore[attr-defined]
    made = unpack(pack({"f": f}, rebind=[f]))["f"]
    assert made.__wrapped__ is made
    assert repr(rebinding.Rebinding([f], lambda code: b"")).endswith("f>")


def test_the_same_function_under_two_names_is_one(engine: Namespace) -> None:
    names = push(engine, f=times, g=times)
    assert names["f"] is names["g"]


def test_away_from_an_engine_globals_are_those_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "c", 8, raising=False)
    assert unpack(pack({"f": times}, rebind=[times]))["f"](2) == 16


def test_another_python_is_refused_in_words(engine: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebinding, "PYTHON", (3, 2))
    with pytest.raises(SerializationError, match=r"captured by Python 3\.2 in Python 3\.\d+: put it in a module"):
        push(engine, f=times)


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("def make(x):\n  return lambda: x", r"variable 'x' of functions\['f'\]"),
        ("def make(x):\n  def f(y=x): return lock\n  return f", r"a default of functions\['f'\]"),
        ("def make(x):\n  def f(*, y=x): return lock\n  return f", r"default 'y' of functions\['f'\]"),
        ("def make(x):\n  def f(): return lock\n  f.mark = x\n  return f", r"functions\['f'\].mark"),
        ("def make(x):\n  def f(y: x): return lock\n  return f", r"annotation 'y' of functions\['f'\]"),
        (
            "def make(x):\n  def g(): return x\n  def f(): return g, lock\n  return f",
            r"variable 'x' of variable 'g' of functions\['f'\]",
        ),
    ],
)
def test_what_cannot_go_along_is_named(engine: Namespace, source: str, path: str) -> None:
    space = main_module(source)
    space["lock"] = threading.Lock()  # which nobody asks for
    with pytest.raises(SerializationError, match=rf"cannot send {path}: cannot pickle '_thread.lock' object"):
        push(engine, f=space["make"](threading.Lock()))


def test_without_cloudpickle(engine: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    serialize._capturer.cache_clear()
    try:
        space = main_module("def make(n):\n  def g(x): return c * x + n\n  return lambda x: g(x)")
        assert push(engine, f=space["make"](1))["f"](2) == 7
        space = main_module("class A: pass\ndef make():\n  a = A\n  return lambda: a")
        with pytest.raises(SerializationError, match=r"variable 'a' of functions\['f'\].*pip install cloudpickle"):
            push(engine, f=space["make"]())
    finally:
        serialize._capturer.cache_clear()


def test_functions_of_the_engine_are_pulled_with_copies_of_what_they_use(engine: Namespace) -> None:
    push(engine, f=lambda x: c * x)
    do(engine, "execute", "def g(x): return f(x) + c\nimport math\ndef h(): return math.pi")
    assert do(engine, "pull_function", "f")(2) == 6
    f, g = do(engine, "pull_function", ["f", "g"])
    assert g(2) == 9
    assert f.__globals__ is g.__globals__
    do(engine, "push", {"c": 4})
    assert f(2) == 6
    assert do(engine, "pull_function", ("h",))[0]() > 3
    do(engine, "execute", "from textwrap import dedent")
    assert do(engine, "pull_function", "dedent") is textwrap.dedent


def test_what_is_pulled_and_is_no_function(engine: Namespace) -> None:
    with pytest.raises(NameError, match="nothing"):
        do(engine, "pull_function", ["c", "nothing"][1:])
    do(engine, "push", {"abs_": abs})
    for name, kind in (("c", "int"), ("abs_", "builtin_function_or_method")):
        with pytest.raises(TypeError, match=f"'{name}' is not a Python function but of type {kind}; `pull` gets"):
            do(engine, "pull_function", name)
    do(engine, "execute", "import threading\nlock = threading.Lock()\ndef f(): return lock")
    with pytest.raises(SerializationError, match=r"global 'lock' of result"):
        do(engine, "pull_function", "f")
