"""Functions without an import path as plain values, when all they lead to is immutable.

cloudpickle can capture any function, at 20 to 100 µs a time on each side. Most functions that people send from a prompt
or a script lead to nothing but constants, modules and importable things. Those are described here by plain values, so
that the sender can notice that a description still holds, and the receiver can make the function again from a template.
What the receiver makes is new each time, with globals and cells of its own, so nothing shows that it was remembered.

Everything else is refused (`describe` returns None) and left to cloudpickle.
"""

from __future__ import annotations

import builtins
import opcode
import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter, is_, itemgetter
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, GenericAlias, ModuleType, UnionType
from typing import Any, NamedTuple

__all__ = ["PYTHON", "Codec", "Description", "Template", "describe", "importable"]

PYTHON = sys.version_info[:2]
REMEMBERED = 256
LARGEST = 64 * 1024

_ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None), type(Ellipsis)})
_NONE = type(None)
_MISSING: Any = object()
# `exec`-like tricks aside, only these change a function's globals; functions that share those must travel together.
_REBINDING = frozenset({opcode.opmap["STORE_GLOBAL"], opcode.opmap["DELETE_GLOBAL"]})
_ROOTS = ("__file__", "__name__", "__package__", "__path__")

# What may change of a function, besides what is looked at by identity.
_attributes = attrgetter(
    "__dict__", "__annotations__", "__kwdefaults__", "__name__", "__qualname__", "__module__", "__doc__"
)  # fmt: skip
_EXTRAS = ("__qualname__", "__module__", "__doc__", "__kwdefaults__", "__annotations__", "__dict__")

# How a value travels in a slot of a description.
_VALUE, _MODULE, _MEMBER, _EMPTY = range(4)


@dataclass(frozen=True, slots=True)
class Codec:
    """How values become bytes and again values: handed down by the one module that may import what does it.

    Attributes:
        dumps: Pickles plain values, and importable things by name.
        loads: Its inverse.
        dumps_code: Turns a code object into bytes that this version of Python understands.
        loads_code: Its inverse.
    """

    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]
    dumps_code: Callable[[CodeType], bytes]
    loads_code: Callable[[bytes], CodeType]


class _Refused(Exception):
    """This function is not for us."""


class _Watched(NamedTuple):
    """What must still be so of one function; `function` is None for the first, which is held weakly."""

    function: FunctionType | None
    code: CodeType
    defaults: tuple[Any, ...] | None
    closure: tuple[CellType, ...] | None
    attributes: tuple[Any, ...]
    dicts: tuple[int, ...]
    space: dict[str, Any]
    absent: tuple[str, ...]
    present: Callable[[dict[str, Any]], tuple[Any, ...]]
    values: tuple[Any, ...]


def importable(obj: Any) -> bool:
    """Return whether another process gets this very function or class by importing it."""
    name = obj.__module__
    if name == "__main__" or name == "__mp_main__":
        return False
    try:
        found: Any = sys.modules[name]
        path = obj.__qualname__
        if "." not in path:
            return getattr(found, path) is obj
        for part in path.split("."):
            found = getattr(found, part)
    except (KeyError, AttributeError, TypeError):
        return False
    return found is obj


class _Analysis(NamedTuple):
    """What one code object says by itself; kept as long as the code lives."""

    code: weakref.ref[CodeType]
    dumped: bytes
    names: tuple[str, ...]


_analyses: dict[int, _Analysis] = {}


def _remember(table: dict[int, Any], key: int, entry: Any) -> None:
    # Other threads may be here too; whoever finds the table changed under it just leaves it one entry larger.
    try:
        while len(table) >= REMEMBERED:
            table.pop(next(iter(table)), None)
    except (RuntimeError, StopIteration):
        pass
    table[key] = entry


def _codes(code: CodeType) -> Iterable[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _analyse(code: CodeType, dumps: Callable[[CodeType], bytes]) -> _Analysis:
    key = id(code)
    known = _analyses.get(key)
    if known is not None and known.code() is code:
        return known
    names = dict.fromkeys(_ROOTS)
    for inner in _codes(code):
        if not _REBINDING.isdisjoint(inner.co_code[::2]):
            raise _Refused
        names |= dict.fromkeys(inner.co_names)
    forget = _analyses.pop
    analysis = _Analysis(weakref.ref(code, lambda _: forget(key, None)), dumps(code), tuple(names))
    _remember(_analyses, key, analysis)
    return analysis


def _watch(held: FunctionType | None, member: FunctionType, absent: tuple[str, ...], names: list[str]) -> _Watched:
    space = member.__globals__
    # Twice the same, for an itemgetter of one name would not return a tuple.
    present = itemgetter(*names, *names[:1]) if len(names) == 1 else itemgetter(*names) if names else _nothing
    attributes = tuple([value.copy() if type(value) is dict else value for value in _attributes(member)])
    dicts = tuple([i for i, value in enumerate(attributes) if type(value) is dict and value])
    pointed = member.__code__, member.__defaults__, member.__closure__
    return _Watched(held, *pointed, attributes, dicts, space, absent, present, present(space))


def _nothing(space: dict[str, Any]) -> tuple[Any, ...]:
    return ()


class Description:
    """One function and all it leads to, and how to see that nothing of it has changed.

    Attributes:
        blob: What `Template` takes, as bytes: the Python version (two bytes), then the pickled plain values.
        members: Identities of the functions in it, to see whether two descriptions overlap.
        heads: What `serialize` has made of the blob, by verb.
    """

    __slots__ = (
        "_cells", "_codec", "_contents", "_functions", "_globals", "_modules", "_packages", "_references",
        "_slots", "_spaces", "_submodules", "_watched", "blob", "heads", "members",
    )  # fmt: skip

    def __init__(self, function: FunctionType, codec: Codec) -> None:
        self._codec = codec
        self._functions: list[FunctionType] = [function]
        self._watched: list[_Watched] = []
        self._spaces: list[dict[str, Any]] = []
        self._globals: list[dict[str, tuple[int, Any]]] = []
        self._cells: list[CellType] = []
        self._contents: list[Any] = []
        self._slots: list[tuple[int, Any]] = []
        self._references: list[Any] = []
        self._modules: list[ModuleType] = []
        self._submodules: dict[str, None] = {}
        self._packages = 0
        plain = [self._function(member) for member in self._functions]  # grows while we go through it
        self.heads: dict[str, bytes] = {}
        self.members = frozenset(map(id, self._functions))
        self.blob = bytes(PYTHON) + codec.dumps((plain, self._globals, self._slots, list(self._submodules)))
        if len(self.blob) > LARGEST:
            raise _Refused
        # Only the watchers are needed from here on; they hold the first function weakly.
        self._functions, self._spaces, self._globals, self._slots = [], [], [], []

    def holds(self, function: FunctionType) -> bool:
        """Return whether describing `function`, the one this was made of, would give the same again."""
        for member, code, defaults, closure, attributes, dicts, space, absent, present, values in self._watched:
            seen = member or function
            if seen.__code__ is not code or seen.__defaults__ is not defaults or seen.__closure__ is not closure:
                return False
            # Equal strings or empty dicts are the same to us; what is inside of dicts must be identical, as 1 == True.
            now = _attributes(seen)
            if now != attributes or not space.keys().isdisjoint(absent) or not all(map(is_, present(space), values)):
                return False
            if dicts and not all(all(map(is_, now[i].values(), attributes[i].values())) for i in dicts):
                return False
        if self._cells and not all(map(is_, map(_content, self._cells), self._contents)):
            return False
        for module in self._modules:
            if sys.modules.get(module.__name__) is not module:
                return False
        if self._packages and self._packages != len(sys.modules):
            return False
        return not self._references or all(map(importable, self._references))

    def _function(self, member: FunctionType) -> tuple[Any, ...]:
        """Describe one function, and note what it leads to."""
        if getattr(member, "__type_params__", ()):
            raise _Refused
        analysis = _analyse(member.__code__, self._codec.dumps_code)
        space = member.__globals__
        where = next((i for i, known in enumerate(self._spaces) if known is space), -1)
        if where < 0:
            where = len(self._spaces)
            self._spaces.append(space)
            self._globals.append({})
        absent = tuple([name for name in analysis.names if name not in space])
        names = [name for name in analysis.names if name in space]
        for name in names:
            self._globals[where][name] = self._slot(space[name], analysis.names)
        closure = tuple([self._cell(cell, analysis.names) for cell in member.__closure__ or ()])
        self._watched.append(_watch(member if self._watched else None, member, absent, names))
        if not self._is_frozen(member.__defaults__):
            raise _Refused
        extras = self._extras(member, len(closure))
        return analysis.dumped, where, member.__name__, member.__defaults__, closure, extras

    def _extras(self, member: FunctionType, cells: int) -> tuple[tuple[str, Any], ...]:
        """Return the attributes that a function made of the rest would not have by itself."""
        empty = tuple([CellType() for _ in range(cells)])
        space = {"__name__": member.__globals__.get("__name__")}
        bare = FunctionType(member.__code__, space, member.__name__, member.__defaults__, empty)
        extras = []
        for name in _EXTRAS:
            value = getattr(member, name)
            if value == getattr(bare, name):
                continue
            if not self._is_frozen(tuple(value.values()) if type(value) is dict else value):
                raise _Refused
            extras.append((name, value))
        return tuple(extras)

    def _cell(self, cell: CellType, names: tuple[str, ...]) -> int:
        """Return the number of a closure's cell, which several functions may share."""
        for number, known in enumerate(self._cells):
            if known is cell:
                return number
        content = _content(cell)
        self._cells.append(cell)
        self._contents.append(content)
        self._slots.append((_EMPTY, None))
        number = len(self._cells) - 1
        self._slots[number] = self._slot(content, names)
        return number

    def _slot(self, value: Any, names: tuple[str, ...]) -> tuple[int, Any]:
        """Return how a global or the content of a cell travels."""
        if value is _MISSING:
            return _EMPTY, None
        if self._is_frozen(value):
            return _VALUE, value
        if type(value) is FunctionType:
            for number, known in enumerate(self._functions):
                if known is value:
                    return _MEMBER, number
            self._functions.append(value)
            return _MEMBER, len(self._functions) - 1
        if type(value) is ModuleType and value.__name__ != "__main__" and sys.modules.get(value.__name__) is value:
            self._modules.append(value)
            if hasattr(value, "__path__"):
                self._packages = len(sys.modules)
                self._submodules |= dict.fromkeys(_submodules(value.__name__, names))
            return _MODULE, value.__name__
        raise _Refused

    def _is_frozen(self, value: Any) -> bool:
        """Return whether a value can't change, or travels as the name of something importable."""
        kind = type(value)
        if kind in _ATOMS or value is _NONE:
            return True
        if kind is tuple or kind is frozenset:
            return all(map(self._is_frozen, value))
        if kind is FunctionType or kind is BuiltinFunctionType or isinstance(value, type):
            if found := importable(value):
                self._references.append(value)
            return found
        if kind is GenericAlias or kind is UnionType or kind.__module__ == "typing":
            arguments = getattr(value, "__args__", None)
            return arguments is not None and self._is_frozen((getattr(value, "__origin__", None), *arguments))
        return False


class Template:
    """What a description's plain values say, ready to make that function as often as wanted.

    Args:
        blob: A description's, from the same version of Python.
        codec: How its bytes become plain values and code again.
    """

    __slots__ = ("_cells", "_functions", "_globals", "_links", "_simple")

    def __init__(self, blob: bytes, codec: Codec) -> None:
        functions, spaces, slots, submodules = codec.loads(blob[2:])
        for name in submodules:
            __import__(name)
        self._globals: list[dict[str, Any]] = []
        self._links: list[tuple[int, str, int]] = []
        for where, space in enumerate(spaces):
            # Told outright, for `eval` and the like inside the function look there.
            self._globals.append({"__builtins__": builtins.__dict__})
            for name, (kind, value) in space.items():
                if kind == _MEMBER:
                    self._links.append((where, name, value))
                self._globals[where][name] = _import(value) if kind == _MODULE else value
        self._cells = [(kind, _import(value) if kind == _MODULE else value) for kind, value in slots]
        self._functions = [(codec.loads_code(code), *rest) for code, *rest in functions]
        self._simple = len(functions) == 1 and not slots and not self._links

    def make(self) -> FunctionType:
        """Return the function, new, with globals, cells and dicts that nothing else has."""
        if self._simple:
            code, _, name, defaults, _, extras = self._functions[0]
            function = FunctionType(code, self._globals[0].copy(), name, defaults)
            if extras:
                _set_all(function, extras)
            return function
        spaces = [space.copy() for space in self._globals]
        cells = [CellType() if kind == _EMPTY else CellType(value) for kind, value in self._cells]
        functions = []
        for code, where, name, defaults, closure, extras in self._functions:
            function = FunctionType(code, spaces[where], name, defaults, tuple([cells[i] for i in closure]))
            _set_all(function, extras)
            functions.append(function)
        for where, name, number in self._links:
            spaces[where][name] = functions[number]
        for cell, (kind, value) in zip(cells, self._cells, strict=True):
            if kind == _MEMBER:
                cell.cell_contents = functions[value]
        return functions[0]


def _import(name: str) -> ModuleType:
    __import__(name)
    return sys.modules[name]


def _set_all(function: FunctionType, extras: Iterable[tuple[str, Any]]) -> None:
    for attribute, value in extras:
        setattr(function, attribute, value.copy() if type(value) is dict else value)


def describe(function: FunctionType, codec: Codec) -> Description | None:
    """Return a description of `function` as it is now, or None if it leads to something that only cloudpickle captures.

    Args:
        function: One that is not `importable`.
        codec: How plain values and code become bytes.
    """
    key = id(function)
    try:
        known = _descriptions.get(key)
        if known is not None and known[0]() is function and known[1].holds(function):
            return known[1]
        description = Description(function, codec)
    except Exception:
        # Whatever odd thing is in the way, cloudpickle can do it or say what it is.
        return None
    forget = _descriptions.pop
    _remember(_descriptions, key, (weakref.ref(function, lambda _: forget(key, None)), description))
    return description


_descriptions: dict[int, tuple[weakref.ref[FunctionType], Description]] = {}


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _submodules(package: str, names: tuple[str, ...]) -> list[str]:
    """Return the imported modules below `package` that a function with these names can reach from it."""
    prefix = package + "."
    return [
        name
        for name in list(sys.modules)
        if name.startswith(prefix) and not set(name[len(prefix) :].split(".")).difference(names)
    ]
