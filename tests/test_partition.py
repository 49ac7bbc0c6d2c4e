"""Sequences cut into parts, and parts that become one again."""

from __future__ import annotations

import subprocess
import sys
from array import array
from collections import UserList, UserString, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from aioparallel.partition import check_dist, cut, is_sequence, join
from aioparallel.serialize import pack

#: The same numbers as a sequence of each kind, from a list of numbers below 256.
KINDS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "str": lambda numbers: "".join(map(chr, numbers)),
    "bytes": bytes,
    "bytearray": bytearray,
    "range": lambda numbers: range(3, 3 + 2 * len(numbers), 2),
    "range that falls": lambda numbers: range(-len(numbers))[::-1],
    "array": lambda numbers: array("h", numbers),
    "numpy": lambda numbers: numpy.array(numbers, dtype=numpy.int16),
    "UserList": UserList,
    "UserString": lambda numbers: UserString("".join(map(chr, numbers))),
}

every_kind = pytest.mark.parametrize("kind", KINDS)
both_dists = pytest.mark.parametrize("dist", ["b", "r"])


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, numpy.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert numpy.array_equal(found, expected)
    else:
        assert found == expected


@every_kind
@given(
    numbers=st.lists(st.integers(0, 255), max_size=50),
    n=st.integers(1, 7),
    dist=st.sampled_from("br"),
)
@settings(deadline=None, database=None, max_examples=60)
def test_what_is_cut_and_joined_is_as_it_was(kind: str, numbers: list[int], n: int, dist: str) -> None:
    whole = KINDS[kind](numbers)
    parts = cut(whole, n, dist)
    assert len(parts) == n
    assert sum(map(len, parts)) == len(whole)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert {type(part) for part in parts} == {type(whole)}
    assert_same(join(parts, dist), whole)


@given(
    whole=st_numpy.arrays(
        dtype=st.one_of(
            st_numpy.scalar_dtypes(),
            st_numpy.unicode_string_dtypes(max_len=5),
            st.just(numpy.dtype([("a", "<i4"), ("b", ">f8")])),
        ),
        shape=st_numpy.array_shapes(max_dims=4, min_side=0, max_side=8),
    ),
    n=st.integers(1, 7),
    dist=st.sampled_from("br"),
    order=st.sampled_from("CF"),
    stride=st.sampled_from([1, 2, -1]),
)
@settings(deadline=None, database=None, max_examples=150)
def test_arrays_of_any_shape_and_type_too(whole: Any, n: int, dist: str, order: Any, stride: int) -> None:
    whole = numpy.asarray(whole, order=order)[::stride]
    found = join(cut(whole, n, dist), dist)
    assert (found.dtype, found.shape) == (whole.dtype, whole.shape)
    assert found.tobytes() == whole.tobytes()  # also where an item is not equal to itself


def test_what_is_left_over_goes_to_the_first() -> None:
    assert cut([0, 1, 2, 3, 4, 5, 6], 3) == [[0, 1, 2], [3, 4], [5, 6]]
    assert cut([0, 1, 2, 3, 4, 5, 6, 7], 3) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert cut("ab", 4) == ["a", "b", "", ""]
    assert cut([], 2) == [[], []]


def test_round_robin_deals_like_cards() -> None:
    assert cut([0, 1, 2, 3, 4, 5, 6], 3, "r") == [[0, 3, 6], [1, 4], [2, 5]]
    assert cut((0, 1), 3, "r") == [(0,), (1,), ()]
    assert cut(range(5), 2, "r") == [range(0, 6, 2), range(1, 5, 2)]


@pytest.mark.parametrize("dist", ["x", "", "br", None, 1, ["b"]])
def test_there_are_two_distributions(dist: Any) -> None:
    for call in (lambda: check_dist(dist), lambda: cut([1], 1, dist), lambda: join([[1]], dist)):
        with pytest.raises(ValueError, match=r"dist is 'b' \(blocks\) or 'r' \(round robin\), not"):
            call()


class Unsized:
    def __getitem__(self, key: Any) -> Any:
        return [1][key]


class Frame:
    """Like what calls itself an array and adds up its items."""

    def __array__(self) -> Any:
        return numpy.zeros(2)

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("odd", "text"),
    [
        ({"a": 1}, "'dict' can't be cut apart: .* make it a list first"),
        ({1, 2}, "'set' can't be cut apart"),
        (5, "'int' can't be cut apart"),
        (None, "'NoneType' can't be cut apart"),
        (iter([1, 2]), "'list_iterator' can't be cut apart"),
        (deque([1, 2]), "'deque' can't be cut apart"),
        (memoryview(b"ab"), "'memoryview' can't be cut apart"),
        (list, "'type' can't be cut apart"),
        (Unsized(), "'Unsized' can't be cut apart"),
        (numpy.array(3), "a 0-d array has no items"),
        (numpy.float64(3), r"'float64' can't be cut apart; make it a numpy array \(numpy.asarray\)"),
        (Frame(), "'Frame' can't be cut apart; make it a numpy array"),
    ],
)
def test_what_cannot_be_cut_is_named_with_a_way_out(odd: Any, text: str) -> None:
    assert not is_sequence(odd)
    with pytest.raises(TypeError, match=text):
        cut(odd, 2)


def test_a_part_of_an_array_is_a_view_that_takes_nothing_else_along() -> None:
    whole = numpy.zeros((1000, 1000))
    parts = cut(whole, 4)
    assert all(part.base is whole for part in parts)
    sizes = [sum(memoryview(buffer).nbytes for buffer in pack(part)) for part in parts]
    assert all(2_000_000 <= size < 2_001_000 for size in sizes)


@pytest.mark.parametrize(("whole", "dist"), [(numpy.arange(60_000.0), "r"), (numpy.zeros((3000, 20), order="F"), "b")])
def test_a_part_with_gaps_is_closed_up_once_and_leaves_as_a_buffer(whole: Any, dist: str) -> None:
    for part in cut(whole, 3, dist):
        assert part.flags.c_contiguous
        assert [memoryview(buffer).nbytes for buffer in pack(part)[1:]] == [160_000]


def test_arrays_are_joined_into_one_new_array_and_a_single_one_is_left_alone() -> None:
    only = numpy.arange(5)
    assert join([only]) is only
    found = join([only[:3], only[3:]])
    assert found.base is None
    assert found.flags.c_contiguous
    assert found.flags.writeable


def test_subclasses_of_arrays_stay_what_they_are() -> None:
    masked = numpy.ma.masked_array(range(7), mask=[0, 1, 0, 0, 1, 1, 0])
    for dist in "br":
        found = join(cut(masked, 3, dist), dist)
        assert type(found) is type(masked)
        assert found.tolist() == masked.tolist() == [0, None, 2, 3, None, None, 6]


def test_arrays_of_several_types_become_one_of_their_common_type() -> None:
    parts = [numpy.array([1, 2], dtype="i4"), numpy.array([0.5]), numpy.array([], dtype="i8")]
    assert_same(join(parts), numpy.array([1, 2, 0.5]))
    assert_same(join([numpy.array(["a"]), numpy.array(["bcd"])], "r"), numpy.array(["a", "bcd"]))


def test_arrays_whose_items_differ_in_shape_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"they have \(2, 3\), \(3,\); pull them"):
        join([numpy.zeros((2, 3)), numpy.zeros(3)])


@pytest.mark.parametrize("kind", ["list", "tuple", "str", "bytes", "bytearray", "array", "numpy", "UserList"])
def test_parts_that_grew_or_shrank_give_their_items_in_turn(kind: str) -> None:
    make = KINDS[kind]
    parts = [make([10]), make([20, 21, 22]), make([]), make([30, 31])]
    assert_same(join(parts, "r"), make([10, 20, 30, 21, 31, 22]))
    assert_same(join(parts, "b"), make([10, 20, 21, 22, 30, 31]))


def test_ranges_that_are_no_longer_parts_of_one_become_a_list() -> None:
    assert join([range(1, 3), range(5, 6)]) == [1, 2, 5]
    assert join([range(1, 3), range(1, 2)], "r") == [1, 1, 2]
    assert join([range(0), range(5)]) == [0, 1, 2, 3, 4]


@both_dists
@given(numbers=st.lists(st.integers(0, 255), max_size=50), n=st.integers(1, 7))
@settings(deadline=None, database=None)
def test_single_items_beside_parts_give_a_list(dist: str, numbers: list[int], n: int) -> None:
    for kind in ("list", "tuple", "range", "array", "numpy"):
        whole = KINDS[kind](numbers)
        values = [part[0] if len(part) == 1 else part for part in cut(whole, n, dist)]
        assert list(join(values, dist)) == list(whole)


def test_what_is_no_sequence_is_an_item() -> None:
    assert join([1, "ab", None]) == [1, "ab", None]
    assert join([{"a": 1}, {"a": 2}]) == [{"a": 1}, {"a": 2}]
    assert join([5]) == [5]
    assert join([[1, 2], (3,), "four"]) == [1, 2, 3, "four"]
    assert join([numpy.array(1), numpy.array(2)]) == [1, 2]
    assert join([array("i", [1]), array("d", [0.5])]) == [1, 0.5]
    assert join([]) == []


class Point(NamedTuple):
    x: int
    y: int


def test_named_tuples_are_sequences_too() -> None:
    assert join([Point(1, 2), Point(3, 4)]) == (1, 2, 3, 4)
    assert join(cut(Point(1, 2), 3)) == (1, 2)


def test_numpy_is_not_imported() -> None:
    source = "import sys; from aioparallel.partition import *; join(cut([1, 2], 2)); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source]).returncode == 0
