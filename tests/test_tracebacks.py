"""Remote tracebacks: the user's frames with their lines, and none of ours."""

from __future__ import annotations

import asyncio
import linecache
import os
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from spaces import do

import aioparallel
from aioparallel.interrupts import Coroutines
from aioparallel.namespace import Namespace
from aioparallel.serialize import pack, unpack_error
from aioparallel.tracebacks import traceback_text, with_sources
from aioparallel.wire import Status

PACKAGE = os.path.dirname(aioparallel.__file__)


@pytest.fixture
def engine() -> Iterator[Namespace]:
    coroutines = Coroutines()
    yield Namespace(3, run_coroutine=coroutines.run)
    if coroutines._runner is not None:
        coroutines._runner.close()


def note_of(engine: Namespace, *command: Any) -> str:
    """Do what raises; return the note it comes with, certain that nothing of ours is in it."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 (any will do)
        do(engine, *command)
    note: str = caught.value.__notes__[-1]
    assert PACKAGE not in note
    assert note.startswith("The traceback on engine 3:\n")
    return note


def executed(engine: Namespace, code: str) -> str:
    return note_of(engine, "execute", textwrap.dedent(code))


def frames(note: str) -> list[str]:
    """Return the lines of source under the frames that are shown."""
    lines = note.splitlines()
    return [lines[i + 1].strip(" |") for i, line in enumerate(lines) if line.strip(" |").startswith("File ")]


def inverse(x: float) -> float:
    return 1 / x


def nested(x: float) -> float:
    return sum(map(inverse, (1, x)))


async def awaiting(x: float) -> float:
    await asyncio.sleep(0)
    return nested(x)


async def grouped(x: float) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(awaiting(x))


async def late() -> None:
    await asyncio.wait_for(asyncio.sleep(60), 0)


def test_execute_shows_its_lines(engine: Namespace) -> None:
    do(engine, "execute", "def f(x):\n    y = x\n    return 1 / y")
    note = executed(engine, "a = 0\nf(a)")
    assert frames(note) == ["f(a)", "return 1 / y"]
    assert 'File "<input-2>", line 2, in <module>' in note
    assert "\n    return 1 / y\n           ~~^~~\n" in note
    assert "\n    1/0\n    ~^~\n" in executed(engine, "1/0")


def test_functions_of_modules_lambdas_and_closures(engine: Namespace) -> None:
    inner = "return 1 / x"
    assert frames(note_of(engine, "apply", inverse, (0,), {})) == [inner]
    assert frames(note_of(engine, "map", inverse, ([1, 0],))) == [inner]
    assert frames(note_of(engine, "apply", nested, (0,), {}))[-1] == inner

    def make(n: int) -> Callable[[], Any]:
        return lambda: n / 0

    assert frames(note_of(engine, "apply", make(1), (), {})) == ["return lambda: n / 0"]


def test_coroutines(engine: Namespace) -> None:
    shown = frames(note_of(engine, "apply", awaiting, (0,), {}))
    assert (shown[0], shown[-1]) == ("return nested(x)", "return 1 / x")
    shown = frames(note_of(engine, "map", awaiting, ([1, 0],)))
    assert (shown[0], shown[-1]) == ("return nested(x)", "return 1 / x")
    note = executed(engine, "import asyncio\nawait asyncio.sleep(0)\n1/0")
    assert frames(note) == ["1/0"]


def test_groups_and_causes(engine: Namespace) -> None:
    note = note_of(engine, "apply", grouped, (0,), {})
    shown = frames(note)
    assert shown[0] == "async with asyncio.TaskGroup() as group:"
    assert "return 1 / x" in shown
    # What a library of the user's choice does is the user's to see, asyncio's too.
    assert "asyncio.wait_for(asyncio.sleep(60), 0)" in note_of(engine, "apply", late, (), {})
    note = executed(
        engine,
        """
        def f(): 1/0
        try:
            f()
        except ZeroDivisionError as error:
            raise KeyError("k") from error
        """,
    )
    assert frames(note) == ["f()", "def f(): 1/0", 'raise KeyError("k") from error']
    assert "The above exception was the direct cause" in note


def test_a_syntax_error_points_at_its_place(engine: Namespace) -> None:
    assert executed(engine, "a = 1\nb = = 2").endswith(
        '  File "<input-1>", line 2\n    b = = 2\n        ^\nSyntaxError: invalid syntax'
    )
    # This one passes the parser; the compiler by itself would not say the line.
    note = executed(engine, "a = 1\n  \nif a:\n    return 4\n")
    assert note.endswith(
        "  File \"<input-2>\", line 4\n    return 4\n    ^^^^^^^^\nSyntaxError: 'return' outside function"
    )
    with pytest.raises(SyntaxError) as caught:
        do(engine, "execute", "\nbreak")
    error = caught.value
    assert (error.filename, error.lineno, error.offset, error.text) == ("<input-3>", 2, 1, "break\n")
    assert do(engine, "keys") == []
    # One that the user's code raises is the user's.
    assert frames(executed(engine, "compile('a b', 'there', 'exec')"))[0] == "compile('a b', 'there', 'exec')"


def test_recursion_without_end(engine: Namespace) -> None:
    note = executed(engine, "def f(n): return f(n + 1)\nf(0)")
    assert "Previous line repeated" in note
    assert frames(note)[:2] == ["f(0)", "def f(n): return f(n + 1)"]
    assert note.endswith("RecursionError: maximum recursion depth exceeded")


@pytest.mark.parametrize("what", ["1/0", "raise SystemExit", "raise KeyboardInterrupt"])
def test_exceptions_that_cannot_say_what_they_are(engine: Namespace, what: str) -> None:
    note = executed(
        engine,
        f"""
        class Mute(Exception):
            def __str__(self):
                {what}
            __repr__ = __str__
        raise Mute
        """,
    )
    assert frames(note) == ["raise Mute"]
    assert "Mute: <exception str() failed>" in note


def test_what_an_engine_itself_has_to_say_has_no_frames(engine: Namespace) -> None:
    expected = "The traceback on engine 3:\nNameError: name 'nothing' is not defined"
    assert note_of(engine, "pull", "nothing") == expected
    assert "Traceback" not in note_of(engine, "apply", len, (), {})


class Unsendable:
    def __reduce__(self) -> Any:
        raise ValueError("not this one")


def test_what_cannot_be_sent_shows_the_users_part(engine: Namespace) -> None:
    note = note_of(engine, "apply", Unsendable, (), {})
    assert "cloudpickle" not in note
    assert set(frames(note)) == {'raise ValueError("not this one")'}


def test_a_file_shows_its_lines_without_being_there(engine: Namespace) -> None:
    source = "def f(x):\n    return 1 / x\n\nf(0)\n"
    note = note_of(engine, "run_file", source, "/nowhere/prog.py")
    assert 'File "/nowhere/prog.py", line 4, in <module>' in note
    assert frames(note) == ["f(0)", "return 1 / x"]


def test_lines_that_only_the_client_has_are_added_there(engine: Namespace) -> None:
    filename, code = "<cell 3>", "def f(x):\n\n    return 1 / x\n"
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, filename, "exec", dont_inherit=True), space)
    status, payload = engine.run([bytes(buffer) for buffer in pack(("apply", space["f"], (0,), {}))])
    assert status == Status.ERROR
    bare = unpack_error(payload).__notes__[-1]
    assert bare.splitlines()[2:] == [f'  File "{filename}", line 3, in f', "ZeroDivisionError: division by zero"]
    linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)
    try:
        assert unpack_error(payload).__notes__[-1].splitlines()[3] == "    return 1 / x"
    finally:
        del linecache.cache[filename]


def test_lines_are_added_where_they_are_missing_and_nowhere_else(tmp_path: Path) -> None:
    here = tmp_path / "here.py"
    here.write_text("first()\n    second()\n", encoding="utf-8")
    text = "\n".join(
        [
            "  + Exception Group Traceback (most recent call last):",
            f'  |   File "{here}", line 2, in f',
            f'  |   File "{here}", line 1, in f',
            "  |     shown()",
            f'  |   File "{here}", line 9, in f',
            '  |   File "/nowhere.py", line 1, in f',
            '  |   File "<string>", line 1, in f',
            '  |   File "/dev/zero", line 1, in f',
            f'  File "{here}", line 1, in <module>',
        ]
    )
    lines = text.splitlines()
    assert with_sources(text).splitlines() == [*lines[:2], "  |     second()", *lines[2:], "    first()"]
    assert with_sources("no traceback at all") == "no traceback at all"


def test_a_strange_exception_is_no_obstacle() -> None:
    class Strange(Exception):
        __cause__ = property(lambda self: 1 / 0)  # type: ignore[assignment]

    assert traceback_text(Strange("x")) in (
        "",
        f"{__name__}.test_a_strange_exception_is_no_obstacle.<locals>.Strange: x",
    )
