"""What clients say of their tasks: read as it is meant, or refused in words."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioparallel.errors import OperationError
from aioparallel.terms import _READ, PLAIN, Parent, Relation, Terms


def test_nothing_said_is_plain():
    assert Terms.of({}, 1) == PLAIN


def test_everything_said_is_read():
    plain = {
        "label": "f",
        "retries": 3,
        "timeout": 2,
        "priority": -5,
        "after": {"of": [{"call": 1}, {"task": 2}], "all": False, "failure": True},
        "follow": {"of": [{"task": 7}]},
        "arguments": [{"call": 4}, {"call": 4}],
        "depend_timeout": 0,
        "engines": [3, 1, 3],
        "resources": {"mem": 16, "gpu": 0.5, "disk": 0},
        "properties": True,
        "recovery": {"buffers": 2, "retries": 1, "recovery": {"buffers": 1, "label": "last"}},
    }
    last = Terms(label=b"last")
    assert Terms.of(plain, 4) == Terms(
        label=b"f",
        retries=3,
        timeout=2.0,
        priority=-5,
        after=Relation((Parent(1, None), Parent(None, 2)), all=False, failure=True),
        follow=Relation((Parent(None, 7),)),
        arguments=(Parent(4, None), Parent(4, None)),
        depend_timeout=0.0,
        engines=frozenset({1, 3}),
        resources=(("gpu", 0.5), ("mem", 16.0)),
        properties=True,
        recovery=Terms(retries=1, recovery=last, recovery_buffers=1),
        recovery_buffers=2,
    )
    assert Terms.of({"at_most_once": True, "after": None, "timeout": None, "engines": None}, 1).at_most_once


@pytest.mark.parametrize(
    ("plain", "text"),
    [
        ([], "JSON object"),
        ({"retires": 1}, r"no option 'retires'; there are after, arguments, .*retries"),
        ({"retries": -1}, "'retries'.*-1"),
        ({"retries": True}, "'retries'"),
        ({"timeout": 0}, "'timeout' of a task is a number of seconds above 0"),
        ({"timeout": 10**400}, "'timeout'"),
        ({"timeout": float("nan")}, "'timeout'"),
        ({"depend_timeout": -1}, "'depend_timeout'"),
        ({"priority": 1.5}, "'priority' of a task is an integer"),
        ({"priority": 10**400}, "'priority'"),
        ({"label": 1}, "'label'"),
        ({"engines": []}, "'engines' of a task are ids of engines, at least one"),
        ({"engines": ["0"]}, "'engines'"),
        ({"resources": ["gpu"]}, "'resources'"),
        ({"resources": {"gpu": "1"}}, "'gpu' is a number from 0 on, not '1'"),
        ({"resources": {"gpu": 10**400}}, "'gpu'"),
        ({"properties": 1}, "'properties' of a task is true or false"),
        ({"arguments": {}}, "'arguments' of a task are a list"),
        ({"arguments": [{"call": 1, "task": 2}]}, "a task is named as"),
        ({"arguments": [{"call": -1}]}, "a task is named as"),
        ({"after": {"of": [3]}}, "a task is named as"),
        ({"after": {}}, "'after' of a task are a list of tasks, not None"),
        ({"after": {"of": [], "any": True}}, "'after' of a task is"),
        ({"follow": {"of": [], "all": 1}}, "'follow: all' of a task is true or false"),
        ({"after": {"of": [], "success": False}}, "success, failure, or both"),
        ({"at_most_once": True, "retries": 1}, "exclude each other"),
        ({"recovery": 3}, "says how many buffers"),
        ({"recovery": {}}, "says how many buffers"),
        ({"recovery": {"buffers": 0}}, "a payload of 2 buffers can't have a recovery task of 0"),
        ({"recovery": {"buffers": 2}}, "a payload of 2 buffers can't have a recovery task of 2"),
        ({"recovery": {"buffers": 1, "after": {"of": [{"task": 1}]}}}, "it takes no 'after'"),
    ],
)
def test_what_can_not_be_done_is_refused_by_name(plain: Any, text: str):
    with pytest.raises(OperationError, match=text) as caught:
        Terms.of(plain, 2)
    assert len(str(caught.value)) <= 1000


def test_recoveries_of_recoveries_are_bounded():
    plain: dict[str, Any] = {}
    for count in range(1, 103):
        plain = {"recovery": {"buffers": count} | plain}
    with pytest.raises(OperationError, match="more than 100"):
        Terms.of(plain, 103)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "é", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["of", "call", "task", "x"]), inner),
    max_leaves=6,
)
NAMES = st.sampled_from([*_READ, "recovery", "other"])


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_whatever_a_client_says_is_read_or_refused(plain: dict[str, Any]):
    with contextlib.suppress(OperationError):
        assert isinstance(Terms.of(plain, 3), Terms)
