"""Functions by their import path, with JSON in and out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from aioparallel.plaincalls import call_plain


def double(x: Any, *, times: int = 1) -> Any:
    return 2 * x * times


async def later(x: Any) -> Any:
    await asyncio.sleep(0)
    return [x]


class Shelf:
    class Book:
        @staticmethod
        def title() -> str:
            return "a title"


def odd() -> Any:
    return {1}


def call(function: str, *args: Any, **kwargs: Any) -> Any:
    payload = json.dumps([f"{__name__}:{function}", args, kwargs]).encode()
    return json.loads(call_plain(payload, asyncio.run))


def test_values_go_in_and_out() -> None:
    assert call("double", 4) == 8
    assert call("double", "ab", times=2) == "abab" * 2
    assert call("double", [None, 1.5]) == [None, 1.5, None, 1.5]
    assert call_plain(b'["builtins:abs", [-3], {}]', asyncio.run) == b"3"


def test_a_coroutine_is_run_to_its_end() -> None:
    assert call("later", 1) == [1]


def test_a_path_leads_into_what_a_module_holds() -> None:
    assert call("Shelf.Book.title") == "a title"


@pytest.mark.parametrize(
    ("place", "error", "text"),
    [
        ("no.such:f", ModuleNotFoundError, "No module named 'no'"),
        ("json:nothing", AttributeError, "nothing"),
        ("json", AttributeError, "has no attribute"),
        ("json:dumps.nothing", AttributeError, "nothing"),
    ],
)
def test_what_is_not_there_is_said(place: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call_plain(json.dumps([place, [], {}]).encode(), asyncio.run)


def test_what_the_function_raises_goes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        call_plain(b'["builtins:divmod", [1, 0], {}]', asyncio.run)


def test_what_is_not_plain_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=rf"what {__name__}:odd returned is the set .1.; expected a plain"):
        call("odd")
