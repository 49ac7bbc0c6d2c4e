"""Classes that travel as their user says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import aioparallel
from aioparallel.errors import SerializationError
from aioparallel.reducers import reducers, register_reducer
from aioparallel.serialize import pack, unpack


class Handle:
    """Something that can't be pickled, and can be opened again."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        raise TypeError("a handle can't be pickled")


class Special(Handle):
    """A subclass, which nobody has said anything about."""


def opened(name: str) -> Handle:
    return Handle(name + " again")


@pytest.fixture(autouse=True)
def none_are_left() -> Iterator[None]:
    yield
    reducers.clear()


def test_objects_of_a_class_travel_as_its_reducer_says() -> None:
    with pytest.raises(SerializationError, match="can't be pickled"):
        pack(Handle("a"))
    assert aioparallel.register_reducer is register_reducer
    register_reducer(Handle, lambda handle: (opened, (handle.name,)))
    assert unpack(pack(Handle("a"))).name == "a again"
    assert [each.name for each in unpack(pack([Handle("a"), Handle("b")]))] == ["a again", "b again"]
    with pytest.raises(SerializationError, match="can't be pickled"):
        pack(Special("a"))


def test_also_where_code_is_captured() -> None:
    register_reducer(Handle, lambda handle: (opened, (handle.name,)))
    kept = Handle("a")
    verb, function, *_ = unpack(pack(("apply", lambda: kept.name, (), {})))
    assert (verb, function()) == ("apply", "a again")


def test_the_latest_holds() -> None:
    register_reducer(Handle, lambda handle: (opened, ("first",)))
    register_reducer(Handle, lambda handle: (opened, ("second",)))
    assert unpack(pack(Handle("a"))).name == "second again"


def test_what_is_no_class_or_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a class and a function, not 3 and <built-in function len>"):
        register_reducer(3, len)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes a class and a function"):
        register_reducer(Handle, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a list always travels as it is: wrap it in a class of your own"):
        register_reducer(list, len)  # type: ignore[arg-type]
