"""Exceptions taken apart where they were raised, and made again where they are told, or told in words."""

from __future__ import annotations

import json
from contextlib import suppress
from types import WrapperDescriptorType
from typing import Any

from aioparallel.errors import RemoteError, text_of
from aioparallel.tracebacks import traceback_text, with_sources

__all__ = ["can_be_raised", "described", "rebuilt", "taken_apart", "with_description"]

#: Longest text, and longest traceback, that travels.
LONGEST_TEXT = 256 * 1024


def described(error: BaseException, engine_id: int | None) -> bytes:
    """Return all that can be said of an exception in words, as JSON; raises nothing, whatever its own methods do."""
    kind = type(error)
    notes = error.__dict__.get("__notes__")
    description = {
        "type": kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}",
        "text": text_of(error)[:LONGEST_TEXT],
        "traceback": traceback_text(error)[-LONGEST_TEXT:],
        "notes": [note for note in notes if type(note) is str] if type(notes) is list else [],
        "engine": engine_id,
    }
    return json.dumps(description).encode()


def with_description(error: Exception | None, description: bytes | bytearray | memoryview) -> Exception:
    """Return an exception with the remote traceback as a note and `engine_id` on it; raises nothing.

    Args:
        error: The exception, rebuilt; None if it can't be, for a `RemoteError` in its place.
        description: What `described` said of it.
    """
    said: dict[str, Any] = {}
    with suppress(BaseException):
        said = dict(json.loads(bytes(description)))
    text, engine_id = with_sources(str(said.get("traceback", ""))), said.get("engine")
    if error is None:
        error = RemoteError(str(said.get("type")), str(said.get("text", "")), text, engine_id)
        with suppress(TypeError):
            for note in said.get("notes", ()):
                error.add_note(str(note))
    with suppress(BaseException):
        error.engine_id = engine_id  # type: ignore[attr-defined]
    if text:
        with suppress(BaseException):
            where = "on an engine" if engine_id is None else f"on engine {engine_id}"
            BaseException.add_note(error, f"The traceback {where}:\n{text}")
    return error


def can_be_raised(kind: type) -> bool:
    """Return whether a client may see this class as itself: none that ends a program, a thread or an iteration."""
    return issubclass(kind, Exception) and not issubclass(kind, StopIteration | StopAsyncIteration)


def taken_apart(error: BaseException) -> tuple[Any, ...]:
    """Return what `rebuilt` takes: class, arguments, attributes; or the exception, if it has a way of its own."""
    kind = type(error)
    if kind.__reduce__ is not BaseException.__reduce__ or kind.__reduce_ex__ is not object.__reduce_ex__:
        return (error,)
    args: tuple[Any, ...] = error.args
    if isinstance(error, BaseExceptionGroup):
        args = error.message, [taken_apart(each) for each in error.exceptions]
    return kind, args, error.__dict__


def rebuilt(kind: Any, args: Any = None, state: Any = None) -> Exception | None:
    """Make an exception from its class, arguments and attributes, or take one that rebuilt itself.

    Raises:
        BaseException: Whatever its class raises: it can't be rebuilt here.
    """
    if args is None:
        return kind if can_be_raised(type(kind)) else None
    if issubclass(kind, BaseExceptionGroup):
        args = args[0], [rebuilt(*each) for each in args[1]]
    error = kind.__new__(kind, *args)
    # Its own __init__ often takes other arguments than it passed on. The one in C below it takes these.
    for owner in kind.__mro__:
        if isinstance(owner.__dict__.get("__init__"), WrapperDescriptorType):
            owner.__dict__["__init__"](error, *args)
            break
    error.args = args
    error.__setstate__(state)
    return error if can_be_raised(type(error)) else None
