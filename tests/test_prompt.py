"""Code as at a prompt, by itself: what it leaves behind, and what it does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aioparallel.prompt import Prompt, read_program


@pytest.fixture
def names() -> dict[str, Any]:
    return {"__name__": "__main__"}


@pytest.fixture
def prompt(names: dict[str, Any]) -> Prompt:
    return Prompt(names, asyncio.run)


def test_the_value_of_the_last_expression(prompt: Prompt, names: dict[str, Any]) -> None:
    assert prompt.run("a = 5\na + 1", "<input>") == 6
    assert prompt.run("b = a", "<input>") is None
    assert prompt.run("", "<input>") is None
    assert prompt.run("import asyncio\nawait asyncio.sleep(0, a)", "<input>") == 5
    assert prompt.evaluate("[a, b]") == [5, 5]
    assert repr(prompt).startswith("<Prompt of ")
    with pytest.raises(NameError):
        prompt.evaluate("c")
    assert names["a"] == 5


def test_what_does_not_compile_does_not_run(prompt: Prompt, names: dict[str, Any]) -> None:
    for code in ("a = 1\nb = = 2", "a = 1\nreturn", "a = 1\n(yield)"):
        with pytest.raises(SyntaxError) as caught:
            prompt.run(code, "<input>")
        assert (caught.value.filename, caught.value.lineno) == ("<input>", 2)
    with pytest.raises(SyntaxError):
        prompt.run_file("a = 1\nreturn", "a.py")
    assert "a" not in names
    assert "__file__" not in names


def test_future_imports_hold_until_they_are_forgotten(prompt: Prompt) -> None:
    prompt.run_file("from __future__ import annotations", "a.py")  # a file's are its own
    look = "def f(x: 1): pass\nf.__annotations__"
    assert prompt.run(look, "<input>") == {"x": 1}
    prompt.run("from __future__ import annotations", "<input>")
    assert prompt.run(look, "<input>") == {"x": "1"}
    prompt.forget()
    assert prompt.run(look, "<input>") == {"x": 1}


def test_a_file_knows_its_name_while_it_runs(prompt: Prompt, names: dict[str, Any]) -> None:
    prompt.run_file("seen = __file__", "/there/a.py")
    assert names["seen"] == "/there/a.py"
    assert "__file__" not in names
    names["__file__"] = "before"
    with pytest.raises(ZeroDivisionError):
        prompt.run_file("seen = __file__; 1 / 0", "/there/b.py")
    assert (names["seen"], names["__file__"]) == ("/there/b.py", "before")


def test_a_program_is_read_once_it_is_certain_that_it_is_one() -> None:
    assert read_program("# coding: latin-1\na = 'é'".encode("latin-1"), "a.py").endswith("'é'")
    assert read_program(b"await f()\r\n", "a.py") == "await f()\n"
    for source in (b"a = = 1", b"a = '\xff'", b"a = 1\0"):
        with pytest.raises(SyntaxError) as caught:
            read_program(source, "a.py")
        assert caught.value.filename == "a.py"
