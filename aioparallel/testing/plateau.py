"""Whether everything that keeps work is as empty as before there was any."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["KEPT", "Plateau"]

#: What may be remembered when the work is over: all of it is bounded.
KEPT = frozenset(
    {
        "Book.candidates",
        "Channel._codes",
        "Channel.engines",
        "ClientProxy._operations",
        "Deaths._times",
        "Dispatcher._labels",
        "Dispatcher.failures",
        "Engine._properties",
        "EngineHost._engines",
        "InFlight._forgotten",
        "Ledger._gone",
        "Lengths._known",
        "Roster._free",
    }
)
#: Numbers that count work: nothing when there is none.
COUNTS = frozenset({"ClientProxy._held", "Drain._lent", "Engine.load", "FifoQueue._live", "Outbox.size"})


class Plateau:
    """Compares the tables of objects with what they were.

    A table is an attribute of an object of ours that is a dict, list, set or deque; it is named by class and attribute.
    One that was empty at the beginning has to be so again.
    """

    def __init__(self) -> None:
        self._before: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Plateau of {len(self._before)} tables>"

    def begin(self, roots: Iterable[object]) -> None:
        """Take note of how things are before there is work."""
        self._before.clear()
        for name, table, _ in _tables(roots):
            self._before[name] += 0 if name in COUNTS else len(table)

    def left(self, roots: Iterable[object]) -> list[str]:
        """Return what was not there at the beginning, in words, sorted."""
        left = []
        for name, table, owner in _tables(roots):
            if name in COUNTS and table:
                left.append(f"{name} is {table} of {owner!r}")
            elif name not in COUNTS and name not in KEPT and len(table) and not self._before[name]:
                left.append(f"{name} of {owner!r} has {len(table)}: {_some(table)}")
        return sorted(left)


def _some(table: Any) -> str:
    items = list(table.items() if isinstance(table, Mapping) else table)
    return ", ".join(map(repr, items[:3]))[:300]


def _tables(roots: Iterable[object]) -> Iterator[tuple[str, Any, object]]:
    """Yield all tables, and counts, that can be reached: name, table and owner."""
    waiting = deque(roots)
    seen: set[int] = set()
    while waiting:
        owner = waiting.popleft()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        for attribute, value in _attributes(owner):
            name = f"{type(owner).__name__}.{attribute}"
            if isinstance(value, dict | list | set | deque):
                yield name, value, owner
                for part in _parts(value):
                    if _shape(part).ours:
                        waiting.append(part)
            elif name in COUNTS:
                yield name, value, owner
            elif _shape(value).ours:
                waiting.append(value)


def _parts(value: Any) -> Iterator[object]:
    """Yield what is in a table, and in the tables in it."""
    for part in [*value.keys(), *value.values()] if isinstance(value, dict) else value:
        if isinstance(part, dict | list | set | deque | tuple):
            yield from _parts(part)
        else:
            yield part


class _Shape:
    """What is known of a class.

    Attributes:
        ours: Whether it is one of ours.
        slots: The names of all its slots.
    """

    __slots__ = ("ours", "slots")

    def __init__(self, kind: type[Any]) -> None:
        module = kind.__module__
        self.ours = module.startswith("aioparallel.") and not module.startswith("aioparallel.testing")
        found = [base.__dict__.get("__slots__", ()) for base in kind.__mro__]
        self.slots = [name for slots in found for name in ([slots] if isinstance(slots, str) else slots)]


_shapes: dict[type[Any], _Shape] = {}


def _shape(owner: object) -> _Shape:
    kind = type(owner)
    shape = _shapes.get(kind)
    if shape is None:
        shape = _shapes[kind] = _Shape(kind)
    return shape


def _attributes(owner: object) -> Iterator[tuple[str, object]]:
    yield from getattr(owner, "__dict__", {}).items()
    for name in _shape(owner).slots:
        if hasattr(owner, name):
            yield name, getattr(owner, name)
