"""Plain values: what fits an annotation comes out as it went in; what does not is named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Optional, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioparallel.plain import shape_of


@dataclass(frozen=True)
class Point:
    """A place."""

    x: float
    y: float = 0.0


@dataclass
class Path:
    """Places."""

    name: str
    points: list[Point] = field(default_factory=list)
    length: float = field(default=0.0, init=False)


@dataclass
class Node:
    """One that holds itself."""

    next: Node | None


@dataclass
class Odd:
    """One with what can't travel."""

    raw: bytes


def travelled(annotation: Any, value: Any) -> Any:
    shape = shape_of(annotation)
    return shape.inward(json.loads(json.dumps(shape.outward(value, "it"))), "it")


PLAIN = [
    (str, "ü"),
    (int, 3),
    (float, 2.5),
    (float, 2),
    (bool, True),
    (None, None),
    (type(None), None),
    (Any, {"a": [1, None, {"b": "c"}]}),
    (object, "x"),
    (list, [1, "a"]),
    (list[str], ["a", "b"]),
    (list[float], [1, 2.5]),
    (list[list[int]], [[1], []]),
    (Sequence[int], [1, 2]),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (tuple, (1, "a")),
    (tuple[()], ()),
    (dict, {"a": 1}),
    (dict[str, int], {"a": 1}),
    (dict[int, tuple[str, float]], {1: ("a", 2.0), -3: ("b", 0.5)}),
    (Mapping[str, bool], {"a": True}),
    (int | None, None),
    (Optional[str], "a"),  # noqa: UP045
    (Union[int, list[int]], [1]),  # noqa: UP007
    (Literal["fast", "slow", 3, None], "slow"),
    (Point, Point(1.0, 2.0)),
    (list[Path], [Path("a", [Point(1.0)]), Path("b")]),
    (dict[str, Point | None], {"a": None, "b": Point(0.5)}),
]


@pytest.mark.parametrize(("annotation", "value"), PLAIN, ids=[str(annotation) for annotation, _ in PLAIN])
def test_what_fits_comes_out_as_it_went_in(annotation: Any, value: Any) -> None:
    out = travelled(annotation, value)
    assert out == value
    assert type(out) is type(value) or annotation is float


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (str, b"a", "it is the bytes b'a'; expected str"),
        (int, True, "it is the bool True; expected int"),
        (int, 2.0, "it is the float 2.0; expected int"),
        (float, True, "it is the bool True; expected float"),
        (float, "1", "it is the str '1'; expected float"),
        (bool, 1, "it is the int 1; expected bool"),
        (str, None, "it is None; expected str"),
        (None, 0, "it is the int 0; expected None"),
        (list[str], "abc", "it is the str 'abc'; expected list[str]"),
        (Sequence[str], "abc", "it is the str 'abc'; expected Sequence[str]"),
        (list[str], ["a", 1], "it[1] is the int 1; expected str"),
        (list[str], ("a",), "it is the tuple ('a',); expected list[str]"),
        (dict[str, list[int]], {"a": [1, "2"]}, "it['a'][1] is the str '2'; expected int"),
        (dict[str, int], {1: 1}, "a key of it is the int 1; expected str"),
        (tuple[int, str], (1,), "it is the tuple (1,); expected tuple[int, str]"),
        (tuple[int, str], (1, 2), "it[1] is the int 2; expected str"),
        (int | list[int], [1, "a"], "it is the list [1, 'a']; expected int | list[int]"),
        (Literal["a", 1], True, "it is the bool True; expected Literal['a', 1]"),
        (Point, {"x": 1}, "it is the dict {'x': 1}; expected Point"),
        (Point, Point("a"), "it.x is the str 'a'; expected float"),  # type: ignore[arg-type]
        (Any, {"a": [b""]}, "it['a'][0] is the bytes b''; expected a plain value (JSON)"),
        (Any, {1: 2}, "it has the key 1; expected keys of str"),
    ],
)
def test_what_does_not_fit_is_named(annotation: Any, value: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        shape_of(annotation).outward(value, "it")
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("annotation", "plain"),
    [
        (str, 1),
        (int, 1.0),
        (int, True),
        (float, True),
        (float, 10**400),
        (list[int], {}),
        (tuple[int, str], [1]),
        (dict[int, int], {"a": 1}),
        (dict[int, int], []),
        (Point, []),
        (Point, {}),
        (Point, {"x": 1, "z": 2}),
        (Point, {"x": "1"}),
        (Literal["a"], "b"),
        (int | None, "a"),
    ],
)
def test_what_arrives_and_does_not_fit(annotation: Any, plain: Any) -> None:
    with pytest.raises(TypeError, match=r"^it.* expected "):
        shape_of(annotation).inward(plain, "it")


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (bytes, "bytes is not one of plain values; plain are str, int, float"),
        (set[int], r"set\[int\] is not one of plain values"),
        (list[bytes], "bytes is not one"),
        (dict[float, int], r"dict\[float, …\] can't travel: keys are str or int"),
        (Node, "field 'next' of Node: Node is a dataclass inside itself"),
        (Odd, "field 'raw' of Odd: bytes is not one of plain values"),
        ("str", "str is not one of plain values"),
    ],
)
def test_what_is_not_plain(annotation: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        shape_of(annotation)


def test_what_is_too_deep() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(TypeError, match="nested more than 64 deep"):
        shape_of(Any).outward(deep, "it")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_json_is_plain(value: Any) -> None:
    assert travelled(Any, value) == value


@given(st.dictionaries(st.integers(), st.lists(st.tuples(st.text(), st.floats(allow_nan=False)))))
def test_numbers_as_keys_and_tuples(value: Any) -> None:
    assert travelled(dict[int, list[tuple[str, float]]], value) == value
