"""The tree of exceptions: how they travel in plain values, and what several at once say."""

from __future__ import annotations

import io
import json
import pickle
import re
from typing import Any

import pytest

from aioparallel import errors
from aioparallel.errors import (
    CompositeError,
    EngineDied,
    InvalidEngineID,
    OperationError,
    ParallelError,
    QueueCleared,
    RemoteError,
    from_plain,
    to_plain,
)

OURS = [getattr(errors, name) for name in errors.__all__]
PLAIN = [
    kind for kind in OURS if isinstance(kind, type) and issubclass(kind, ParallelError) and kind is not RemoteError
]


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = set(re.findall(r"^[ │├└─]*(\w+)(?= {2,}|\n)", errors.__doc__ or "", re.MULTILINE))
    made = {kind.__name__ for kind in OURS if isinstance(kind, type) and issubclass(kind, BaseException)}
    assert made <= drawn


@pytest.mark.parametrize("kind", PLAIN)
def test_ours_travel_as_plain_values(kind: type[ParallelError]):
    back = from_plain(json.loads(json.dumps(to_plain(kind("what went wrong")))))
    assert type(back) is kind
    assert str(back) == "what went wrong"


def test_a_death_keeps_its_circumstances():
    death = EngineDied("dead", engine_id=3, reason="killed by SIGKILL", output="last", running=True)
    back: Any = from_plain(json.loads(json.dumps(to_plain(death))))
    assert (back.engine_id, back.reason, back.output, back.running) == (3, "killed by SIGKILL", "last", True)


@pytest.mark.parametrize("engine", [3, None])
def test_what_was_raised_on_an_engine_travels_on_with_its_traceback(engine: int | None) -> None:
    back: Any = from_plain(json.loads(json.dumps(to_plain(RemoteError("ValueError", "bad", "Traceback …", engine)))))
    assert type(back) is RemoteError
    assert (back.type_name, back.text, back.traceback_text, back.engine_id) == (
        "ValueError",
        "bad",
        "Traceback …",
        engine,
    )


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"error": "KeyboardInterrupt"},
        {"error": "RemoteError"},
        {"error": "RemoteError", "remote": [1]},
        {"error": 3, "text": 4},
    ],
)
def test_a_name_that_is_not_ours_is_an_operation_error(plain: dict[str, Any]):
    assert type(from_plain(plain)) is OperationError


def test_a_remote_error_says_what_it_was_and_can_be_sent_on():
    error = RemoteError("KeyboardInterrupt", "", "Traceback …", 2)
    assert str(error) == "KeyboardInterrupt"
    back = pickle.loads(pickle.dumps(RemoteError("mod.Odd", "text", "Traceback …", 2)))
    assert (str(back), back.type_name, back.engine_id) == ("mod.Odd: text", "mod.Odd", 2)


def several() -> CompositeError:
    made = [ZeroDivisionError("no"), QueueCleared("cleared"), RemoteError("KeyboardInterrupt", "")]
    for engine, error in enumerate(made):
        error.engine_id, error.method = engine, "execute"  # type: ignore[attr-defined]
    made[0].add_note("the traceback of 0")
    return CompositeError("3 of 4 engines raised", made)


def test_several_are_listed_an_engine_a_line():
    assert str(several()).splitlines() == [
        "3 of 4 engines raised",
        "[0:execute]: ZeroDivisionError: no",
        "[1:execute]: QueueCleared: cleared",
        "[2:execute]: KeyboardInterrupt",
    ]
    assert str(pickle.loads(pickle.dumps(CompositeError("two", [ValueError(1)])))) == "two\n[?:call]: ValueError: 1"


def test_several_can_be_split_printed_and_raised():
    group = several()
    left: Any = group.split(ZeroDivisionError)[1]
    assert isinstance(left, CompositeError)
    assert "ZeroDivisionError" not in str(left)
    out = io.StringIO()
    group.print_tracebacks(file=out)
    assert out.getvalue().splitlines() == [
        "the traceback of 0",
        "QueueCleared: cleared",
        "RemoteError: KeyboardInterrupt",
    ]
    out = io.StringIO()
    group.print_tracebacks(1, file=out)
    assert out.getvalue() == "QueueCleared: cleared\n"
    with pytest.raises(ZeroDivisionError):
        group.raise_exception()
    with pytest.raises(QueueCleared):
        group.raise_exception(1)
    for wrong in (group.raise_exception, group.print_tracebacks):
        with pytest.raises(IndexError, match="there is no exception 7 in this group; they are numbered 0 to 2"):
            wrong(7)


def test_a_line_an_engine_whatever_its_text():
    class Mute(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    group = CompositeError("three", [ValueError("a\nb"), Mute(), ValueError("\n")])
    assert str(group).splitlines()[1:] == [
        "[?:call]: ValueError: a",
        "[?:call]: Mute: <Mute whose text can't be had>",
        "[?:call]: ValueError",
    ]
    out = io.StringIO()
    group.print_tracebacks(1, file=out)
    assert out.getvalue() == "Mute: <Mute whose text can't be had>\n"


def test_users_may_catch_them_as_pythons_own():
    assert issubclass(InvalidEngineID, LookupError)
    assert issubclass(errors.ConnectionLost, ConnectionError)
    assert issubclass(errors.ConfigurationError, ValueError)
    assert issubclass(errors.SerializationError, TypeError)
