from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from spaces import described, main_module

from aioparallel import capture, serialize
from aioparallel.serialize import pack, unpack


def there_and_back(obj: Any) -> Any:
    return unpack(pack(obj))


SIMPLE = """
    import os.path, math
    from textwrap import dedent
    K = 3
    def noop(x): return x
    def helper(x, y=2, *, z=4): return x * y * z * K
    def useful(x: int, scale: float = 2.0) -> "float":
        'It has a doc.'
        return helper(math.sqrt(x)) * scale + len(os.path.join("a", dedent(" b")))
    def factorial(n): return 1 if n < 2 else n * factorial(n - 1)
    def even(n): return n == 0 or odd(n - 1)
    def odd(n): return n != 0 and even(n - 1)
    def outer(a):
        def inner(n): return a if n == 0 else inner(n - 1) + K
        return inner
    closure = outer(5)
    power = lambda x: [(lambda y: y ** K)(x) for _ in range(2)]
    def typed(x: list[int], y: int | None = None) -> dict[str, tuple[int, ...]]: return {}
    async def coroutine(x): return x
"""


@pytest.mark.parametrize("name", ["noop", "useful", "factorial", "even", "closure", "power", "typed"])
def test_simple_functions_are_described(name: str) -> None:
    function = main_module(SIMPLE)[name]
    assert described(function)
    for _ in range(2):
        again = there_and_back(function)
        assert again is not function
        assert again(4) == function(4)
        for attribute in (
            "__name__",
            "__qualname__",
            "__doc__",
            "__module__",
            "__annotations__",
            "__defaults__",
            "__dict__",
        ):
            assert getattr(again, attribute) == getattr(function, attribute)


def test_attributes_of_described_functions() -> None:
    space = main_module("def f(x, *, y=1): return x + y")
    function = space["f"]
    function.__kwdefaults__ = {"y": 5}
    function.mark = "m"
    function.__doc__ = "Changed."
    function.__qualname__ = "Some.f"
    again = there_and_back(function)
    assert (again(1), again.mark, again.__doc__, again.__qualname__) == (6, "m", "Changed.", "Some.f")
    again.__kwdefaults__["y"] = 0
    assert there_and_back(function)(1) == 6


def test_what_the_receiver_does_to_a_function_is_not_seen_by_the_next() -> None:
    function = main_module("def f(x=0):\n  f.calls = getattr(f, 'calls', 0) + 1\n  return f.calls")["f"]
    buffers = pack(function)
    assert [unpack(buffers)() for _ in range(3)] == [1, 1, 1]
    again = unpack(buffers)
    again.__globals__["f"] = types.SimpleNamespace(calls=10)
    assert again() == 11
    assert unpack(buffers)() == 1
    simple = pack(main_module("K = 1\ndef f(): return K")["f"])
    unpack(simple).__globals__["K"] = 2
    assert unpack(simple)() == 1
    counter = main_module("def make():\n  n = 0\n  def f():\n    nonlocal n\n    n += 1\n    return n\n  return f")[
        "make"
    ]()
    assert [there_and_back(counter)() for _ in range(2)] == [1, 1]


CHANGES: list[Callable[[dict[str, Any]], None]] = [
    lambda space: space.update(K=True),  # equal to what it was, and not the same
    lambda space: space.update(K=2),
    lambda space: space.update(len=lambda x: 100),  # was a builtin
    lambda space: space.update(math=types.SimpleNamespace(sqrt=lambda x: -1.0)),
    lambda space: space.update(helper=lambda x: "other"),
    lambda space: setattr(space["helper"], "__defaults__", (7,)),
    lambda space: setattr(space["helper"], "__kwdefaults__", {"z": 9}),
    lambda space: space["helper"].__kwdefaults__.update(z=True),
    lambda space: setattr(space["helper"], "__code__", (lambda x, y=2, *, z=4: z).__code__),
    lambda space: setattr(space["f"], "__defaults__", (True,)),
    lambda space: setattr(space["f"], "extra", 1),
    lambda space: space["f"].__annotations__.update(x=str),
    lambda space: setattr(space["cell"], "cell_contents", 8),
    lambda space: space.pop("K"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_captured(change: Callable[[dict[str, Any]], None]) -> None:
    space = main_module(
        """
        import math
        K = 1
        def helper(x, y=2, *, z=1): return x, y, z, K
        def make(free):
            def f(x=1): return helper(x), len("abc"), math.sqrt(4), K, free, vars(f), f.__annotations__, f.__defaults__
            return f
        f = make(6)
        cell = f.__closure__[1]
        """
    )
    function = space["f"]
    space["cell"] = next(cell for cell in function.__closure__ if cell.cell_contents == 6)

    def outcome(called: Any) -> str:
        try:
            return repr(called())
        except NameError as error:
            return repr(error)

    before = outcome(function)
    assert outcome(there_and_back(function)) == outcome(there_and_back(function)) == before
    change(space)
    assert outcome(function) != before
    assert outcome(there_and_back(function)) == outcome(function)


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def test_a_description_is_found_again_and_forgotten_with_its_function() -> None:
    space = main_module(SIMPLE)
    for name in ("noop", "useful", "factorial", "even"):
        assert capture.describe(space[name], serialize._CODEC) is capture.describe(space[name], serialize._CODEC)
    function = (lambda: lambda: 1)()
    pack(function)
    key = id(function)
    assert key in capture._descriptions
    del function
    assert key not in capture._descriptions
    kept = [_constant(i) for i in range(2 * capture.REMEMBERED)]
    for function in kept:
        assert there_and_back(function)() == function()
    assert len(capture._descriptions) <= capture.REMEMBERED
    assert len(capture._analyses) <= capture.REMEMBERED


def test_submodules_that_a_function_reaches_are_imported() -> None:
    space = main_module("import xml\ndef f(): return xml.dom.minidom.__name__")
    with pytest.MonkeyPatch.context() as patch:
        import xml.dom.minidom

        buffers = pack(space["f"])
        for name in ("xml.dom", "xml.dom.minidom"):
            patch.delitem(sys.modules, name)
        patch.delattr(xml, "dom")
        assert unpack(buffers)() == "xml.dom.minidom"
