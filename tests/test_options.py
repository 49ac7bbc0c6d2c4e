"""Options of tasks: every value is checked at once, and only what was said travels."""

from __future__ import annotations

import math
from typing import Any

import pytest

from aioparallel.conditions import Dependency
from aioparallel.options import PLAIN, TaskOptions
from aioparallel.terms import Terms

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"retries": -1}, ValueError, "retries is a number of further tries from 0 on, not -1"),
    ({"retries": 1.5}, TypeError, r"retries is an int, not 1\.5"),
    ({"retries": True}, TypeError, "retries is an int, not True"),
    ({"retries": 2**63}, ValueError, "retries is a number below"),
    ({"priority": "high"}, TypeError, "priority is an int, not 'high'"),
    ({"timeout": 0}, ValueError, "timeout is seconds of running time above 0, not 0"),
    ({"timeout": -1}, ValueError, "timeout is seconds of running time, or None, a finite number from 0 on"),
    ({"timeout": math.nan}, ValueError, "timeout is .* not nan"),
    ({"timeout": math.inf}, ValueError, "timeout is .* not inf"),
    ({"timeout": "1"}, TypeError, "timeout is seconds of running time, or None, not '1'"),
    ({"depend_timeout": -0.1}, ValueError, "depend_timeout is seconds"),
    ({"depend_timeout": None}, TypeError, "depend_timeout is seconds, not None"),
    ({"at_most_once": 1}, TypeError, "at_most_once is True or False, not 1"),
    ({"at_most_once": True, "retries": 1}, ValueError, "at_most_once and retries exclude each other"),
    ({"label": b"a"}, TypeError, "label is a str, not b'a'"),
    ({"after": "3"}, TypeError, "after: a Dependency is on ids or futures of tasks, not on '3'"),
    ({"after": -1}, ValueError, "after: ids of tasks are numbers from 0 on, not -1"),
    ({"follow": [None]}, TypeError, "follow: a Dependency is on ids or futures of tasks, not on None"),
    ({"depend": 3}, TypeError, "depend is a function of an engine's properties"),
    ({"depend": (3, len)}, TypeError, "depend is a function of an engine's properties"),
    ({"engines": "all"}, TypeError, "engines is an id or a sequence of ids, or None for all of them, not 'all'"),
    ({"engines": []}, ValueError, "engines is empty"),
    ({"engines": [0, -1]}, ValueError, "ids of engines are numbers from 0 on, not -1"),
    ({"engines": [0.5]}, TypeError, r"an engine's id is an int, not 0\.5"),
    ({"resources": ["gpu"]}, TypeError, "resources is a dict of numbers by name"),
    ({"resources": {1: 1}}, TypeError, "resources go by name, a str, not 1"),
    ({"resources": {"gpu": "all"}}, TypeError, r"resources\['gpu'\] is a number, not 'all'"),
    ({"resources": {"gpu": -1}}, ValueError, r"resources\['gpu'\] is a number"),
]


@pytest.mark.parametrize(("options", "kind", "text"), WRONG)
def test_what_can_not_be_is_refused_in_words(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        TaskOptions(**options)


def test_an_option_that_is_unknown_is_refused() -> None:
    with pytest.raises(TypeError, match="retires"):
        TaskOptions(retires=3)  # type: ignore[call-arg]


def test_only_what_was_said_travels() -> None:
    assert PLAIN.plain() == {}
    assert PLAIN.checks() == []
    said: dict[str, Any] = {
        "retries": 2,
        "timeout": 1.5,
        "priority": -3,
        "depend_timeout": 0,
        "engines": [2, 0],
        "resources": {"gpu": 1},
    }
    assert TaskOptions(**said).plain() == said
    assert TaskOptions(at_most_once=True).plain() == {"at_most_once": True}
    assert TaskOptions(engines=4).plain() == {"engines": [4]}
    assert TaskOptions(engines=(1, 1, 0)).plain() == {"engines": [1, 0]}
    assert TaskOptions(resources={}).plain() == {}


def test_the_controller_reads_what_travels() -> None:
    options = TaskOptions(retries=2, timeout=1.5, priority=-3, depend_timeout=0, engines=[2, 0], resources={"gpu": 1})
    terms = Terms.of(options.plain(), 1)
    assert (terms.retries, terms.timeout, terms.priority, terms.depend_timeout) == (2, 1.5, -3, 0.0)
    assert (terms.engines, terms.resources) == (frozenset({0, 2}), (("gpu", 1.0),))


def test_parents_and_conditions_are_kept_in_one_form() -> None:
    given = Dependency([1, 2], all=False)
    options = TaskOptions(after=3, follow=given, depend=(len, 1))
    assert (options.after.tasks, options.follow) == ((3,), given)
    assert options.checks() == [(len, (1,))]
    assert TaskOptions(depend=len).checks() == [(len, ())]
