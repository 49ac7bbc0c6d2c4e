"""What map-reduce does on engines; apart from the interface, which they need not load."""

from __future__ import annotations

import json
import pkgutil
import zlib
from collections.abc import Callable, Iterable
from typing import Any


def map_one(mapper: str, source: str, parts: int) -> list[str]:
    """Call a mapper with one input; return its values by key, cut into parts by key.

    Each part is JSON already: whoever carries it to where it is reduced need not read it.
    """
    shuffled: list[dict[str, list[Any]]] = [{} for _ in range(parts)]
    pairs: Iterable[tuple[str, Any]] = _function(mapper)(source)
    for key, value in pairs:
        if not isinstance(key, str):
            raise TypeError(f"{mapper} gave the key {key!r}; keys are strings")
        shuffled[part_of(key, parts)].setdefault(key, []).append(value)
    return [json.dumps(part) for part in shuffled]


def reduce_part(reducer: str, shuffled: list[str]) -> dict[str, Any]:
    """Call a reducer with each key of one part, and with all values that mappers have given for it."""
    values: dict[str, list[Any]] = {}
    for part in shuffled:
        for key, some in json.loads(part).items():
            values.setdefault(key, []).extend(some)
    function = _function(reducer)
    return {key: function(key, values[key]) for key in sorted(values)}


def part_of(key: str, parts: int) -> int:
    """Return in which part a key is: the same on every engine, which `hash` is not."""
    return zlib.crc32(key.encode()) % parts


def _function(place: str) -> Callable[..., Any]:
    function: Callable[..., Any] = pkgutil.resolve_name(place)
    return function
