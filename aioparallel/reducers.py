"""How objects of a class travel, where their users have said so. Sans-I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["reducers", "register_reducer"]

#: What has been registered, by class.
reducers: dict[type, Callable[[Any], Any]] = {}
#: What a pickler saves before it asks anybody.
_BUILT_IN = (type(None), bool, int, float, str, bytes, bytearray, tuple, list, dict, set, frozenset)


def register_reducer(kind: type, reducer: Callable[[Any], tuple[Any, ...]]) -> None:
    """Have the objects of a class travel as you say: those of this very class, not of its subclasses.

    It holds in this process. What engines send is theirs to say: call it there, too (`mec.on_join.execute`).

    Args:
        kind: The class.
        reducer: Given an object, returns what pickle's `__reduce__` would: a function that can be imported where the
            object arrives, and its arguments.

    Raises:
        TypeError: `kind` is no class, or `reducer` can't be called.
        ValueError: It is a built-in class that always travels as it is.
    """
    if not isinstance(kind, type) or not callable(reducer):
        raise TypeError(f"register_reducer takes a class and a function, not {kind!r} and {reducer!r}")
    if kind in _BUILT_IN:
        raise ValueError(f"a {kind.__name__} always travels as it is: wrap it in a class of your own")
    reducers[kind] = reducer
