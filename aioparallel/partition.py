"""How a sequence is cut into parts, in blocks or dealt out in turn, and put together again. Sans-I/O.

A distribution is 'b' or 'r'. In blocks, 7 items for 3 engines are 0 1 2, 3 4, 5 6: what is left over goes to the first.
Round robin deals them out like cards: 0 3 6, 1 4, 2 5. A part may be empty.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise, zip_longest
from typing import Any

__all__ = ["check_dist", "cut", "is_sequence", "join"]

_TEXTS = (str, bytes, bytearray)
_NOTHING = object()


def check_dist(dist: str) -> None:
    """Refuse what is not a distribution.

    Raises:
        ValueError: It is neither 'b' nor 'r'.
    """
    if not isinstance(dist, str) or dist not in ("b", "r"):
        raise ValueError(f"dist is 'b' (blocks) or 'r' (round robin), not {dist!r}")


def is_sequence(obj: Any) -> bool:
    """Return whether something can be cut apart and put together: it has a length, slices and adds up."""
    if isinstance(obj, (list, tuple, range, array, *_TEXTS)):
        return True
    if _is_array(obj):
        return bool(obj.ndim)
    try:
        # What calls itself an array and is none of numpy's (a frame, a tensor) adds up its items, not its parts.
        if isinstance(obj, Mapping) or hasattr(obj, "__array__"):
            return False
        nothing = obj[0:0]
        return len(obj) >= 0 and len(nothing + nothing) == 0
    except Exception:
        return False


def cut(sequence: Any, n: int, dist: str = "b") -> list[Any]:
    """Return `n` parts of a sequence, each of its type.

    Parts of a numpy array, which is cut along its first axis, are views where those are contiguous: nothing is copied
    that sending them would not copy anyway.

    Args:
        sequence: A list, tuple, str, bytes, bytearray, range, array, numpy array, or anything else that slices and
            concatenates.
        n: How many, from 1 on.
        dist: The distribution, 'b' or 'r'.

    Raises:
        TypeError: It is no such thing.
        ValueError: There is no such distribution.
    """
    check_dist(dist)
    if not is_sequence(sequence):
        raise TypeError(_refusal(sequence))
    total = len(sequence)
    if dist == "r":
        places = [slice(place, total, n) for place in range(n)]
    else:
        size, left_over = divmod(total, n)
        ends = [size * place + min(place, left_over) for place in range(n + 1)]
        places = [slice(*ends_of_part) for ends_of_part in pairwise(ends)]
    parts = [sequence[place] for place in places]
    if not _is_array(sequence):
        return parts
    # Only what is contiguous leaves without being copied into a pickle, and arrives in memory of its own.
    return [part if part.flags.c_contiguous or part.flags.f_contiguous else part.copy() for part in parts]


def _refusal(obj: Any) -> str:
    kind = type(obj).__name__
    if _is_array(obj):
        return "a 0-d array has no items that could be cut apart; use push, or array.reshape(1)"
    if hasattr(obj, "__array__"):
        return f"{kind!r} can't be cut apart; make it a numpy array (numpy.asarray) or a list first"
    return f"{kind!r} can't be cut apart: it has no length, or doesn't slice and concatenate; make it a list first"


def join(parts: Sequence[Any], dist: str = "b") -> Any:
    """Return the sequence of which these are the parts: the inverse of `cut`.

    Parts of one type give that type (ranges a range if they still are one's parts, else a list). Anything else gives a
    list: lists, tuples, arrays and the like give their items, every other thing, also a string, is an item itself.

    A part may be longer or shorter than it was cut: blocks stand one behind the other, and round robin takes an item of
    each part in turn that has one left. A single part is returned as it is.

    Raises:
        ValueError: There is no such distribution, or arrays have items of different shapes.
    """
    check_dist(dist)
    sequences = all(map(is_sequence, parts))
    if len(parts) == 1 and sequences:
        return parts[0]
    kinds = {(type(part), part.typecode if isinstance(part, array) else "") for part in parts}
    if not sequences or len(kinds) != 1:
        items = [part if is_sequence(part) and not isinstance(part, _TEXTS) else [part] for part in parts]
        return _fill([None] * _count(items), items, dist)
    kind = type(parts[0])
    if _is_array(parts[0]):
        return _join_arrays(parts, dist)
    if kind is range:
        return _join_ranges(parts, dist)
    if kind in _TEXTS and dist == "b":
        return kind().join(parts)
    if kind is list or kind is tuple or kind is str:
        made: Any = _fill([None] * _count(parts), parts, dist)
        return made if kind is list else "".join(made) if kind is str else tuple(made)
    if kind is bytes or kind is bytearray:
        made = _fill(bytearray(_count(parts)), parts, dist)
        return made if kind is bytearray else bytes(made)
    if kind is array:
        blank = array(parts[0].typecode, bytes(parts[0].itemsize * _count(parts)))
        return _fill(blank, parts, dist)
    return _concatenate(parts, dist)


def _count(parts: Sequence[Any]) -> int:
    return sum(map(len, parts))


def _is_array(obj: Any) -> bool:
    # Never imported from here: where there is one of its arrays, numpy is there.
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(obj, getattr(numpy, "ndarray", ()))


def _in_order(parts: Sequence[Any], dist: str) -> Iterator[Any]:
    """Go through the items of all parts in the order of the whole."""
    if dist == "b":
        return chain.from_iterable(parts)
    rows = zip_longest(*parts, fillvalue=_NOTHING)
    return (item for row in rows for item in row if item is not _NOTHING)


def _fill(blank: Any, parts: Sequence[Any], dist: str) -> Any:
    """Put all items into `blank`, which has room for exactly those; a part at a time if possible."""
    n, start = len(parts), 0
    if dist == "b":
        for part in parts:
            blank[start : start + len(part)] = part
            start += len(part)
    elif all(len(part) == len(range(place, len(blank), n)) for place, part in enumerate(parts)):
        for place, part in enumerate(parts):
            blank[place::n] = part
    else:
        for place, item in enumerate(_in_order(parts, dist)):
            blank[place] = item
    return blank


def _join_arrays(parts: Sequence[Any], dist: str) -> Any:
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        found = ", ".join(str(part.shape) for part in parts)
        raise ValueError(f"arrays whose items differ in shape can't be one array: they have {found}; pull them")
    numpy: Any = sys.modules["numpy"]
    kinds = {part.dtype for part in parts}
    kind = kinds.pop() if len(kinds) == 1 else numpy.result_type(*kinds)
    return _fill(numpy.empty_like(parts[0], dtype=kind, shape=(_count(parts), *shapes.pop()), order="C"), parts, dist)


def _join_ranges(parts: Sequence[range], dist: str) -> Any:
    items = _in_order(parts, dist)
    first = next(items, 0)
    # What the whole would be if it is a range; an engine may have put another one in place of its part.
    step = next(items, first + 1) - first or 1
    whole = range(first, first + _count(parts) * step, step)
    return whole if cut(whole, len(parts), dist) == list(parts) else list(_in_order(parts, dist))


def _concatenate(parts: Sequence[Any], dist: str) -> Any:
    """Add up parts of a type of which only that is known."""
    pieces = list(parts)
    if dist == "r" and _count(parts):
        rows = range(max(map(len, parts)))
        pieces = [part[place : place + 1] for place in rows for part in parts if place < len(part)]
    # In pairs, so that no item is copied more than log2 of their number times.
    while len(pieces) > 1:
        pieces[: len(pieces) & ~1] = [left + right for left, right in zip(pieces[::2], pieces[1::2], strict=False)]
    return pieces[0]
