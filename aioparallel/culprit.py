"""Which part of an object can't be sent: the path to it, for people."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from types import FunctionType
from typing import Any

from aioparallel.reference import Promise

__all__ = ["culprit"]

#: How deep to look, and at how many things.
SEARCH_DEPTH = 24
SEARCH_TRIES = 2000


def culprit(
    obj: Any, name: str | Sequence[str], reason: Exception, refusal_of: Callable[[Any], Exception | None]
) -> tuple[str, str]:
    """Return the path to the innermost thing in `obj` that can't be packed, and why.

    Args:
        obj: What could not be packed.
        name: What to call it; or one name for each of its items, if it is a tuple.
        reason: Why it could not.
        refusal_of: Returns why something can't be packed, or None if it can.
    """
    path = name if isinstance(name, str) else "value"
    if isinstance(reason, RecursionError) or isinstance(reason.__cause__, RecursionError):
        return path, "it is nested too deeply"
    children = _children(obj, path) if isinstance(name, str) else zip(name, obj, strict=False)
    tries = SEARCH_TRIES
    seen: set[int] = set()
    for _ in range(SEARCH_DEPTH):
        found = None
        with suppress(Exception):  # whatever an odd object raises while we look into it
            for label, child in islice(children, tries):
                tries -= 1
                if id(child) in seen:
                    continue
                seen.add(id(child))
                refusal = refusal_of(child)
                if refusal is not None:
                    found, path, reason = child, label, refusal
                    break
        if found is None:
            break
        children = _children(found, path)
    return path, str(reason) or type(reason).__name__


def _children(obj: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Go through what an object holds, each with a path for people."""
    if isinstance(obj, dict):
        yield from ((f"{path}[{_short(key)}]", value) for key, value in obj.items())
        yield from ((f"key {_short(key)} of {path}", key) for key in obj)
    elif isinstance(obj, list | tuple):
        yield from ((f"{path}[{number}]", value) for number, value in enumerate(obj))
    elif isinstance(obj, set | frozenset):
        yield from ((f"item {_short(value)} of {path}", value) for value in obj)
    elif isinstance(obj, functools.partial):
        yield from ((f"{path}.func", obj.func), (f"{path}.args", obj.args), (f"{path}.keywords", obj.keywords))
    elif isinstance(obj, FunctionType):
        for variable, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=True):
            with suppress(ValueError):  # an empty cell
                yield f"variable {variable!r} of {path}", cell.cell_contents
        yield from ((f"a default of {path}", value) for value in obj.__defaults__ or ())
        yield from ((f"default {key!r} of {path}", value) for key, value in (obj.__kwdefaults__ or {}).items())
        yield from ((f"annotation {key!r} of {path}", value) for key, value in obj.__annotations__.items())
        yield from ((f"{path}.{attribute}", value) for attribute, value in obj.__dict__.items())
        # Last, for those of a function that is rebound on an engine don't travel.
        for variable in obj.__code__.co_names:
            if variable in obj.__globals__:
                yield f"global {variable!r} of {path}", obj.__globals__[variable]
    elif not isinstance(obj, type | Promise):
        yield from ((f"{path}.{attribute}", value) for attribute, value in getattr(obj, "__dict__", {}).items())
        for owner in type(obj).__mro__:
            slots = owner.__dict__.get("__slots__", ())
            for attribute in (slots,) if isinstance(slots, str) else slots:
                if hasattr(obj, attribute):
                    yield f"{path}.{attribute}", getattr(obj, attribute)


def _short(obj: Any) -> str:
    text = repr(obj)
    return text if len(text) <= 60 else text[:57] + "..."
