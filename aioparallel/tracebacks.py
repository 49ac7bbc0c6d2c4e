"""Remote tracebacks as people read them: the user's frames with their source lines, and none of ours."""

from __future__ import annotations

import linecache
import os
import re
import sys
import traceback

__all__ = ["traceback_text", "with_sources"]

_OURS = os.path.join(os.path.dirname(__file__), "")
_ASYNCIO = os.path.join(os.path.dirname(os.__file__), "asyncio", "")

#: A frame that is shown without its source line; before it, what a group of exceptions draws at the left.
_BARE_FRAME = re.compile(r'^([ |]*)  File "([^"\n]+)", line (\d+), in .*$(?!\n\1    )', re.MULTILINE)


def traceback_text(error: BaseException) -> str:
    """Format an exception with the frames that are the user's, here and in all that is chained to it.

    Whatever the exception's own methods do, this raises nothing.
    """
    try:
        formatted = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
        pending = [formatted]
        for entry in pending:
            _trim(entry)
            pending += filter(None, (entry.__cause__, entry.__context__, *(entry.exceptions or ())))
        return "".join(formatted.format()).rstrip("\n")
    except BaseException:
        return ""


def _trim(entry: traceback.TracebackException) -> None:
    """Remove the frames by which an engine came to the user's, and any of ours."""
    # By way of these, but only where the way begins with us: a user's own use of them is the user's.
    pickler = getattr(sys.modules.get("cloudpickle"), "__file__", None)
    ways = (_OURS, _ASYNCIO, os.path.join(os.path.dirname(pickler), "") if pickler else _OURS)
    users = 0
    if entry.stack and entry.stack[0].filename.startswith(_OURS):
        while users < len(entry.stack) and entry.stack[users].filename.startswith(ways):
            users += 1
    entry.stack[:] = [frame for frame in entry.stack[users:] if not frame.filename.startswith(_OURS)]
    if not entry.stack:
        # Of an error that an engine itself has to tell nothing is left; then no headline promises frames.
        entry.stack = None  # type: ignore[assignment]


def with_sources(text: str) -> str:
    """Add the source lines that the engine did not have to the text of a traceback.

    An engine shows those of what it was given as code, and of files it can read. A function that was typed at a prompt
    or in a notebook, or in a script on another machine, has its source here. The engine's text is left as it is where
    neither has one (Python before 3.13 forgets what was typed at its own prompt).
    """
    try:
        return _BARE_FRAME.sub(_with_source, text)
    except Exception:
        return text  # without, rather than none: this runs whenever an error arrives


def _with_source(found: re.Match[str]) -> str:
    left, filename, line = found[1], found[2], int(found[3])
    # What has no name of its own is not told apart from the engine's; and a pipe or a terminal would be waited for.
    if filename in ("<string>", "<stdin>") or not (filename in linecache.cache or os.path.isfile(filename)):
        return found[0]
    linecache.checkcache(filename)
    source = linecache.getline(filename, line).strip()
    return f"{found[0]}\n{left}    {source}" if source else found[0]
