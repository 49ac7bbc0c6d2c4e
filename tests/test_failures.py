"""Exceptions on their way: as themselves, or as a RemoteError that says all that can be said."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
from spaces import main_module

from aioparallel.errors import DeserializationError, EngineDied, RemoteError, SerializationError
from aioparallel.serialize import Buffer, pack, pack_error, unpack, unpack_error


class Unbuildable:
    def __reduce__(self) -> Any:
        return _raise, (ValueError,)


def _raise(error: type[BaseException]) -> None:
    raise error("while rebuilding")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def arrived(error: BaseException, engine_id: int | None = 3) -> Exception:
    return unpack_error(pack_error(raised(error), engine_id=engine_id))


class Fussy(Exception):
    """Its constructor takes other arguments than it passes on, as most do."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.reason = reason


class Leaving(Exception):
    def __init__(self, *args: Any) -> None:
        if args != ("go",):
            sys.exit("the constructor was run")
        super().__init__("other text")


class Reducing(Exception):
    def __reduce__(self) -> Any:
        return sys.exit, ("while rebuilding",)


class Unreducible(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit


class Mute(Exception):
    def __str__(self) -> str:
        sys.exit("no text")


class Impostor(Exception):
    def __reduce__(self) -> Any:
        return KeyboardInterrupt, ()


class Newborn(Exception):
    def __new__(cls, *args: Any) -> Any:
        return KeyboardInterrupt() if args == ("trick",) else super().__new__(cls, *args)


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("division by zero"),
        KeyError("k"),
        OSError(2, "No such file", "/nowhere"),
        UnicodeDecodeError("ascii", b"\xff", 0, 1, "bad"),
        SyntaxError("bad", ("<input-1>", 1, 2, "x y", 1, 3)),
        ImportError("no", name="n"),
        Fussy(7, reason="r"),
        ExceptionGroup("several", [ValueError(1), Fussy(1, reason="x")]),
        EngineDied("gone", engine_id=2, reason="killed by SIGKILL"),
        RemoteError("far.Away", "text", "tb", 1),
        SerializationError("cannot send x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_arrives_as_itself(error: Exception) -> None:
    result = arrived(error)
    assert type(result) is type(error)
    assert str(result) == str(error)
    assert result.args == error.args or isinstance(error, ExceptionGroup)
    for name in ("code", "reason", "errno", "filename", "start", "lineno", "text", "name"):
        assert getattr(result, name, None) == getattr(error, name, None)
    assert result.engine_id == 3  # type: ignore[attr-defined]
    note = result.__notes__[-1]
    assert note.startswith("The traceback on engine 3:\nTraceback (most recent call last):\n") or "Group" in note
    assert "raise error" in note


def test_a_constructor_that_leaves_is_not_run() -> None:
    error = Leaving("go")
    result = arrived(error)
    assert type(result) is Leaving
    assert str(result) == "other text"


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(3), "SystemExit"),
        (GeneratorExit(), "GeneratorExit"),
        (StopIteration(5), "StopIteration"),
        (StopAsyncIteration(), "StopAsyncIteration"),
        (BaseExceptionGroup("g", [KeyboardInterrupt()]), "BaseExceptionGroup"),
        (Reducing("x"), f"{__name__}.Reducing"),
        (Unreducible("x"), f"{__name__}.Unreducible"),
        (Impostor("x"), f"{__name__}.Impostor"),
        (Newborn("x"), None),
        (ValueError(threading.Lock()), "ValueError"),
        (Mute("x"), None),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, BaseException) else "",
)
def test_what_cannot_be_raised_here_becomes_a_remote_error(error: BaseException, name: str | None) -> None:
    result = arrived(error)
    if name is None:
        assert type(result) is type(error)
        return
    assert type(result) is RemoteError
    assert result.type_name == name
    assert result.engine_id == 3
    assert "raise error" in result.traceback_text
    assert "raise error" in result.__notes__[-1]


def test_a_class_that_makes_something_else_is_a_remote_error() -> None:
    error = Newborn("x")
    error.args = ("trick",)
    assert type(arrived(error)) is RemoteError


def test_notes_and_causes_travel_as_text() -> None:
    error = ValueError("outer")
    error.add_note("look here")
    error.__cause__ = raised(KeyError("inner"))
    result = arrived(error, None)
    assert result.__notes__[0] == "look here"
    assert "KeyError: 'inner'" in result.__notes__[1]
    assert result.__notes__[1].startswith("The traceback on an engine:")
    unsendable = ValueError(threading.Lock())
    unsendable.add_note("look here")
    assert arrived(unsendable).__notes__[0] == "look here"


def test_an_exception_class_of_a_script_is_caught_where_it_came_from() -> None:
    error = main_module("class Mine(Exception): pass")["Mine"]
    assert isinstance(arrived(error("x")), error)


def test_frames_of_ours_are_not_shown() -> None:
    try:
        unpack(pack(Unbuildable()))
    except DeserializationError as error:
        text = unpack_error(pack_error(error, engine_id=0)).__notes__[-1]
    assert "serialize.py" not in text.rpartition("During handling")[0]
    assert "while rebuilding" in text


@pytest.mark.parametrize("buffers", [[], [b"not json"], [b"[1]"], [b"{}"], [b'{"notes": 3}', b"garbage"], [b"\xff"]])
def test_garbage_is_a_remote_error(buffers: list[Buffer]) -> None:
    assert isinstance(unpack_error(buffers), RemoteError)
