"""Functions that leave their globals behind and live in the names of an engine. Sans-I/O."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import CellType, CodeType, FunctionType
from typing import Any

from aioparallel import reference
from aioparallel.capture import PYTHON, importable

__all__ = ["Rebinding", "fill", "make_cell", "make_function"]

#: What else of a function travels.
_ATTRIBUTES = (
    "__defaults__", "__kwdefaults__", "__annotations__", "__qualname__", "__module__", "__doc__", "__dict__",
    "__type_params__",
)  # fmt: skip


class Rebinding:
    """Which functions inside an object leave their globals behind, and how they travel.

    Those that were named do, always, whether they have an import path or not. So do all they lead to (by their
    closures, defaults, attributes) that an engine could not import, for these have nowhere else to look for their
    globals. The wrapper that a decorator put around one, and functions of other modules, keep the globals of their
    modules. No function's globals are looked at.

    Args:
        functions: The ones that were named.
        dumps_code: Turns a code object into bytes that this version of Python understands.
    """

    def __init__(self, functions: Iterable[FunctionType], dumps_code: Callable[[CodeType], bytes]) -> None:
        self._named = {id(function): function for function in functions}
        self._inner = {id(inner): inner for inner in map(_innermost, self._named.values())}
        self._homes = {id(inner.__globals__) for inner in self._inner.values()}
        self._dumps_code = dumps_code

    def __repr__(self) -> str:
        return f"<Rebinding of {', '.join(function.__qualname__ for function in self._named.values())}>"

    def reduce(self, obj: Any, make: Callable[..., FunctionType]) -> Any:
        """Return how a pickler is to take something apart; NotImplemented for what it does well by itself.

        Args:
            obj: What the pickler has come to.
            make: Called where it arrives, with what `make_function` takes, but the code as bytes after the version of
                Python (two bytes).
        """
        if type(obj) is CellType:
            return make_cell, (), _contents(obj), None, None, fill
        if type(obj) is not FunctionType or (home := self._home(obj)) is None:
            return NotImplemented
        blob = bytes(PYTHON) + self._dumps_code(obj.__code__)
        state = {name: getattr(obj, name) for name in _ATTRIBUTES if hasattr(obj, name)}
        return make, (blob, obj.__name__, obj.__closure__ or (), home), state, None, None, fill

    def _home(self, function: FunctionType) -> str | None:
        """Return the module whose globals a function keeps, "" for none, None if it goes by its import path."""
        if id(function) in self._inner:
            return ""
        if id(function) not in self._named and importable(function):
            return None
        space = function.__globals__
        name = space.get("__name__")
        if name in (None, "__main__", "__mp_main__") or getattr(sys.modules.get(name), "__dict__", None) is not space:
            return ""
        # A helper of the same module is of the same kind as the function; a wrapper is not.
        return "" if id(space) in self._homes and "__wrapped__" not in function.__dict__ else name


def _innermost(function: FunctionType) -> FunctionType:
    """Return what the wrappers of decorators were put around, as `inspect.unwrap` does."""
    seen = {id(function)}
    while type(inner := function.__dict__.get("__wrapped__")) is FunctionType and id(inner) not in seen:
        seen.add(id(inner))
        function = inner
    return function


def _contents(cell: CellType) -> tuple[Any, ...] | None:
    try:
        return (cell.cell_contents,)
    except ValueError:
        return None  # it is empty yet


def make_function(code: CodeType, name: str, cells: tuple[CellType, ...], home: str) -> FunctionType:
    """Make a function that has just arrived; `fill` does the rest, which may lead back to it.

    Args:
        code: Its code.
        name: Its name.
        cells: Its closure.
        home: The module whose globals it has; "" for the names of this place.
    """
    if home:
        __import__(home)
    place = reference.place
    space = place.names if place is not None and not home else vars(sys.modules[home or "__main__"])
    return FunctionType(code, space, name, None, cells)


def make_cell() -> CellType:
    """Make an empty cell of a closure."""
    return CellType()


def fill(made: Any, state: Any) -> None:
    """Give a cell its content, or a function its attributes."""
    if type(made) is CellType:
        (made.cell_contents,) = state
        return
    made.__dict__.update(state.pop("__dict__"))
    for name, value in state.items():
        setattr(made, name, value)
