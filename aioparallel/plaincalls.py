"""What interfaces call on engines: functions by import path, with plain values in and out. Sans-I/O."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Coroutine
from typing import Any

from aioparallel.plain import shape_of

__all__ = ["call_plain"]


def call_plain(payload: bytes, run_coroutine: Callable[[Coroutine[Any, Any, Any]], Any]) -> bytes:
    """Call a function as a JSON array says: "module:function", its arguments, and those by name; return JSON.

    Nothing has to be unpacked, so that a controller can write the one and read the other.

    Args:
        payload: The array.
        run_coroutine: Runs a coroutine until it is done and returns its value.

    Raises:
        ImportError: There is no such module.
        AttributeError: It has nothing of that name.
        TypeError: What the function returns is not plain.
        BaseException: Whatever it raises.
    """
    place, args, kwargs = json.loads(payload)
    module, _, path = place.partition(":")
    function: Any = importlib.import_module(module)
    for name in path.split("."):
        function = getattr(function, name)
    value = function(*args, **kwargs)
    if isinstance(value, Coroutine):
        value = run_coroutine(value)
    return json.dumps(shape_of(Any).outward(value, f"what {place} returned")).encode()
