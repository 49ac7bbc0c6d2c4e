"""Resources are numbers by name; whatever else comes is refused in words that name it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from aioparallel.errors import ConfigurationError
from aioparallel.resources import checked_resources, parse_resource


def test_they_come_out_sorted_as_numbers() -> None:
    assert list(checked_resources({"mem": 16, "gpu": 0.5}).items()) == [("gpu", 0.5), ("mem", 16.0)]
    assert checked_resources({}) == {}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([("gpu", 1)], "numbers by name"),
        (None, "numbers by name"),
        ({1: 1}, "a word, not 1"),
        ({"": 1}, "a word, not ''"),
        ({"gpu": "1"}, "'gpu' is a finite number from 0 up, not '1'"),
        ({"gpu": True}, "not True"),
        ({"gpu": -0.5}, "not -0.5"),
        ({"gpu": math.inf}, "not inf"),
        ({"gpu": math.nan}, "not nan"),
        ({"gpu": None}, "not None"),
        ({"gpu": 10**400}, r"not one beyond 2\*\*63"),
        ({"gpu": -(10**5000)}, r"not one beyond 2\*\*63"),
        ({"gpu": 1e300}, r"not 1e\+300"),
    ],
)
def test_what_is_none_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        checked_resources(wrong)


@pytest.mark.parametrize(("text", "meant"), [("gpu=1", ("gpu", 1.0)), ("mem=1.5", ("mem", 1.5)), ("gpu", ("gpu", 1.0))])
def test_as_people_write_them(text: str, meant: tuple[str, float]) -> None:
    assert parse_resource(text) == meant


@pytest.mark.parametrize("text", ["", "=1", "gpu=", "gpu=one", "gpu=-1", "gpu=nan", "gpu=inf", "gpu=1e300", "gpu=1=2"])
def test_as_nobody_writes_them(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_resource(text)
