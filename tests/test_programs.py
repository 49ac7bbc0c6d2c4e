"""Functions, files, results once more, and what else engines are told: on both faces, the blocking one for real."""

from __future__ import annotations

import asyncio
import inspect
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model import play

from aioparallel import client
from aioparallel.client import Reference
from aioparallel.errors import CompositeError, InvalidEngineID, InvalidProperty, NoEnginesRegistered, RemoteError

ENGINES = 4

c = 100
lock = threading.Lock()


def scaled(x: int) -> int:
    with lock:
        return c * x


@pytest.fixture
def mec(mec: client.MultiEngineClient) -> Iterator[client.MultiEngineClient]:
    """One whose engines have no properties after each test."""
    yield mec
    mec.clear_properties()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "prog.py"
    path.write_text(
        "import sys\nprint('in', __name__, __file__)\nprint('oh', file=sys.stderr)\n\n\n"
        "def inverse(x):\n    return 1 / x\n\n\nresult = inverse(4) * id\n",
        encoding="utf-8",
    )
    return path


# --- functions ------------------------------------------------------------------------------------------------------


def test_a_pushed_function_lives_in_the_engines_names(mec: client.MultiEngineClient):
    mec.push({"c": 3})
    mec.push_function({"f": lambda x: c * x, "scaled": scaled})
    assert mec.apply(Reference("f"), 2) == [6] * 4
    mec.execute("import contextlib; lock = contextlib.nullcontext()")
    mec[1].execute("c = 5")
    assert [result.value for result in mec.execute("f(2), scaled(2)")] == ["(6, 6)", "(10, 10)", "(6, 6)", "(6, 6)"]


def test_a_pushed_function_lives_in_the_engines_names_async():
    async def story(mec: Any, host: Any) -> None:
        for number in range(3):
            await mec[number].push({"c": number})
        await mec[:2].push_function({"f": lambda x: c * x})
        assert await mec.apply(Reference("f"), 2, targets=[0, 1]) == [0, 2]
        with pytest.raises(NameError, match="'f' is not defined"):
            await mec.apply(Reference("f"), 2, targets=2)
        assert [f(2) for f in await mec[:2].pull_function("f")] == [0, 2]
        assert [f(3) for f in await mec[1].pull_function(["f"])] == [3]

    play(story, n=3)


def test_pulled_functions_work_here(mec: client.MultiEngineClient):
    mec.execute("k = id\ndef g(x): return h(x) + 1\ndef h(x): return k * x")
    assert [g(10) for g in mec.pull_function("g")] == [1, 11, 21, 31]
    g, h = mec[2].pull_function(("g", "h"))
    assert (g(1), h(1)) == (3, 2)
    with pytest.raises(TypeError, match="'k' is not a Python function but of type int"):
        mec[2].pull_function("k")
    with pytest.raises(CompositeError, match=r"\[3:pull_function\]: NameError: name 'nothing'"):
        mec.pull_function("nothing")


@pytest.mark.parametrize(
    ("functions", "error", "text"),
    [
        ({"f": 3}, TypeError, "'f' is not a Python function but of type int; `push` sends values of any kind"),
        ({"f": len}, TypeError, "'f' is not a Python function but of type builtin_function_or_method"),
        ({"f": threading.Lock}, TypeError, "'f' is not a Python function"),
        ({"f": Path("x").exists}, TypeError, "'f' is not a Python function but of type method"),
        ({"not a name": scaled}, ValueError, "'not a name' is not a name that can be pushed"),
        ({"f": lambda x=lock: x}, TypeError, r"a default of functions\['f'\]: cannot pickle"),
    ],
)
def test_what_is_no_function_is_refused_here(
    functions: Any, error: type[Exception], text: str, mec: client.MultiEngineClient
):
    with pytest.raises(error, match=text):
        mec.push_function(functions)


# --- files and results ----------------------------------------------------------------------------------------------


def test_a_file_runs_in_the_namespace(mec: client.MultiEngineClient, program: Path):
    results = mec.run(program)
    assert [result.id for result in results] == [0, 1, 2, 3]
    assert results[2].stdout == f"in __main__ {program}\n"
    assert results[2].stderr == "oh\n"
    assert results[2].input == f"run({str(program)!r})"
    assert results[2].value is None
    assert mec.pull("result") == [0.0, 0.25, 0.5, 0.75]
    assert mec[1].execute("'__file__' in globals()").value == "False"
    program.unlink()
    with pytest.raises(ZeroDivisionError) as caught:
        mec.execute("inverse(0)", targets=1)
    assert f'File "{program}", line 7, in inverse\n    return 1 / x\n' in caught.value.__notes__[0]


def test_a_file_runs_in_the_namespace_async(program: Path, monkeypatch: pytest.MonkeyPatch):
    async def story(mec: Any, host: Any) -> None:
        monkeypatch.chdir(program.parent)
        results = await mec.run("prog.py")
        assert results[1].input == f"run({str(program)!r})"
        assert await mec.pull("result") == [0.0, 0.25, 0.5]
        program.write_text("x = 1\nraise ValueError(f'{__file__}')\n", encoding="utf-8")
        with pytest.raises(CompositeError, match=r"\[0:run\]: ValueError: .*prog.py"):
            await mec.run(program)
        await mec.execute("__file__ = 'mine'")
        with pytest.raises(ValueError, match=r"prog\.py") as caught:
            await mec[0].run(program)
        assert "line 2, in <module>\n    raise ValueError(f'{__file__}')" in caught.value.__notes__[0]
        assert await mec.pull("__file__") == ["mine"] * 3

    play(story, n=3)


def test_a_file_may_await_and_keeps_its_futures_to_itself(mec: client.MultiEngineClient, program: Path):
    program.write_text(
        "# -*- coding: latin-1 -*-\nfrom __future__ import annotations\nimport asyncio\n"
        "await asyncio.sleep(0)\ndef f(x: int): pass\nname = 'é'\n",
        encoding="latin-1",
    )
    mec.run(program, targets=0)
    mec.execute("def g(x: int): pass", targets=0)
    result = mec[0].execute("f.__annotations__['x'], g.__annotations__['x'], name")
    assert result.value == "('int', <class 'int'>, 'é')"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"x = 1\nif x\n", r"expected ':' \(prog.py, line 2\)"),
        (b"x = 1\n  return\n", r"unexpected indent \(prog.py, line 2\)"),
        (b"return 3\n", r"'return' outside function \(prog.py, line 1\)"),
        (b"x = 1\0\n", r"null bytes"),
        (b"x = '\xff'\n", r"unicode error"),
        (b"# coding: nonsense\n", r"nonsense"),
    ],
)
def test_what_is_no_program_is_an_error_here(content: bytes, text: str, mec: client.MultiEngineClient, program: Path):
    program.write_bytes(content)
    mec.push({"x": 0})
    with pytest.raises(SyntaxError, match=text) as caught:
        mec.run(program, block=False)
    assert caught.value.filename == str(program)
    assert mec.keys(targets=0) == [["x"]]


def test_a_file_that_cannot_be_read_is_an_error_here(mec: client.MultiEngineClient, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"missing\.py"):
        mec.run(tmp_path / "missing.py", block=False)
    with pytest.raises(IsADirectoryError):
        mec.run(tmp_path, block=False)
    with pytest.raises(TypeError):
        mec.run(3)  # type: ignore[arg-type]


def test_results_are_had_once_more(mec: client.MultiEngineClient, program: Path):
    mec.restart()
    with pytest.raises(IndexError, match="nothing has been executed on this engine yet"):
        mec[0].get_result()
    first = mec.execute("print('hello'); id * 2")
    mec.execute("import sys; print('oh', file=sys.stderr)", targets=[1, 3])
    mec.apply(print, "not of an input")
    assert mec.get_result(1) == first
    assert repr(mec.get_result(1)) == repr(first)
    assert [result.number for result in mec.get_result()] == [1, 2, 1, 2]
    assert mec[3].get_result().stderr == "oh\n"
    assert mec[3].get_result().stdout == ""
    assert [result.id for result in mec.get_result(1, targets=[2, 0])] == [2, 0]
    ran = mec[0].run(program)
    assert mec[0].get_result() == ran
    mec.reset()
    assert mec[0].get_result(2) == ran
    with pytest.raises(IndexError, match="there is no result 3: results are numbered from 1, the last one is 2"):
        mec[1].get_result(3)
    with pytest.raises(CompositeError, match=r"\[2:get_result\]: IndexError: there is no result 2"):
        mec.get_result(2)


def test_a_result_that_was_an_error_is_raised_once_more(mec: client.MultiEngineClient):
    with pytest.raises(CompositeError) as first:
        mec.execute("print(1)\n1 / (id - 2)")
    number = first.value.exceptions[0].__notes__[0].partition("<input-")[2].partition(">")[0]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError) as again:
            mec[2].get_result(int(number))
        assert again.value.__notes__ == first.value.exceptions[0].__notes__
        assert again.value.engine_id == 2
    with pytest.raises(RemoteError, match="KeyboardInterrupt"):
        mec.execute("raise KeyboardInterrupt", targets=1)
    with pytest.raises(RemoteError, match="KeyboardInterrupt"):
        mec.get_result(targets=1)


def test_an_interrupted_input_is_one_that_raised(mec: client.MultiEngineClient, tmp_path: Path):
    mark = tmp_path / "mark"
    running = mec.execute(f"open({str(mark)!r}, 'w').close()\nwhile True: pass", targets=0, block=False)
    while not mark.exists():
        pass
    mec.interrupt(targets=0)
    for call in (running.result, mec[0].get_result):
        with pytest.raises(RemoteError, match="KeyboardInterrupt"):
            call()


def test_an_interrupted_await_says_where_it_waited(mec: client.MultiEngineClient, tmp_path: Path):
    mark = tmp_path / "mark"
    # Made when the input waits already.
    making = f"asyncio.get_running_loop().call_soon(os.mkdir, {str(mark)!r})"
    code = f"import asyncio, os\n{making}\nawait asyncio.sleep(1000)"
    running = mec.execute(code, targets=0, block=False)
    while not mark.exists():
        pass
    mec.interrupt(targets=0)
    with pytest.raises(RemoteError, match="KeyboardInterrupt") as caught:
        running.result()
    assert "line 3, in <module>\n    await asyncio.sleep(1000)\n" in caught.value.traceback_text
    assert "kernel.py" not in caught.value.traceback_text


def test_results_are_had_once_more_async():
    async def story(mec: Any, host: Any) -> None:
        calls = [mec.execute(f"x = {number}\nx") for number in range(3)]
        for _ in range(9):
            await asyncio.sleep(0)
        while host.waiting or not calls[-1].done():
            if host.waiting:
                host.step(stdout=b"out", stderr=b"err")
            await asyncio.sleep(0)
        asked = mec.get_result(2), mec[1].get_result()
        while not all(call.done() for call in asked):
            if host.waiting:
                host.step()
            await asyncio.sleep(0)
        assert await asked[0] == await calls[1]
        assert [result.stdout for result in await asked[0]] == ["out"] * 3
        assert (await asked[1]).value == "2"

    play(story, n=3, eager=False)


@pytest.mark.parametrize("wrong", ["1", 1.0, True, [1]])
def test_results_have_numbers(wrong: Any, mec: client.MultiEngineClient):
    with pytest.raises(TypeError, match="results have numbers"):
        mec.get_result(wrong)


# --- references, properties, benchmark ------------------------------------------------------------------------------


def collected(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def test_references_are_each_engines_own(mec: client.MultiEngineClient, cluster: client.Cluster):
    mec.execute("class A: b = [{'k': id}]\na = A()")
    value = mec.apply(collected, Reference("id"), [Reference("a.b[0]['k']")], k={"r": (Reference("a.b"),)})
    assert value == [((i, [i]), {"k": {"r": ([{"k": i}],)}}) for i in range(4)]
    mec["copy"] = Reference("id")
    assert mec["copy"] == [0, 1, 2, 3]
    with pytest.raises(NameError, match="name 'nowhere' is not defined") as caught:
        mec[3].apply(collected, Reference("nowhere"))
    assert caught.value.engine_id == 3
    assert mec.apply(lambda: 1) == [1] * 4
    with cluster.task() as tc:
        assert tc.submit(collected, Reference("1 + 1")).result() == ((2,), {})


def test_properties_on_the_blocking_face(mec: client.MultiEngineClient):
    mec.set_properties({"gpu": True})
    mec[0].set_properties({"n": 1})
    busy = mec.execute("import time; time.sleep(60)", targets=0, block=False)
    assert mec[0].get_properties() == {"gpu": True, "n": 1}
    assert mec.has_properties("n") == [True, False, False, False]
    busy.cancel()
    mec.restart(targets=0)
    assert mec.get_properties("gpu", block=False).r == [True] * 4
    with pytest.raises(InvalidProperty, match="engine 1 has no property 'n'; it has gpu"):
        mec.get_properties(["n"])
    with pytest.raises(TypeError, match="property 'f' is a function"):
        mec.set_properties({"f": scaled})
    mec.del_properties("gpu")
    mec.clear_properties(targets=[0])
    assert mec.get_properties() == [{}] * 4


def test_benchmark_on_the_blocking_face(mec: client.MultiEngineClient):
    measured = mec.benchmark(rounds=5, size=100_000)
    assert (measured.engines, measured.rounds, measured.size) == (4, 5, 100_000)
    assert 0 < measured.p50 <= measured.p99
    assert min(measured.push_one, measured.push_all) > 0
    assert mec[1:3].benchmark(rounds=1, size=1).engines == 2
    mec.block = False
    assert mec[0].benchmark(rounds=1, size=1).engines == 1
    assert mec.keys(block=True) == [[]] * 4
    with pytest.raises(InvalidEngineID, match="no engine 9"):
        mec.benchmark(targets=9)
    for wrong in ({"rounds": 0}, {"size": "1"}, {"rounds": True}, {"size": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is a number from 1 on, not"):
            mec.benchmark(**wrong)


def test_benchmark_on_the_asyncio_face():
    async def story(mec: Any, host: Any) -> None:
        measured = await mec.benchmark(rounds=3, size=1000, targets=[2, 0])
        assert (measured.engines, measured.rounds, measured.size) == (2, 3, 1000)
        assert (await mec[1].benchmark(rounds=1, size=1)).engines == 1
        assert await mec.keys() == [[]] * 3
        host.eager = False
        measuring = mec.benchmark(rounds=1)
        while not host.waiting:
            await asyncio.sleep(0)
        measuring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await measuring
        while len(host.cancelled) < 3:
            await asyncio.sleep(0)
        assert host.waiting == []

    play(story, n=3)


def test_benchmark_without_engines():
    async def story(mec: Any, host: Any) -> None:
        with pytest.raises(NoEnginesRegistered):
            await mec.benchmark()

    play(story, n=0)


# --- errors ---------------------------------------------------------------------------------------------------------


def test_one_zero_division_of_four(mec: client.MultiEngineClient):
    code = "x = id - 2\n1 / x"
    with pytest.raises(ZeroDivisionError) as caught:
        mec.execute(code, targets=2)
    assert '  File "<input-' in caught.value.__notes__[0]
    assert '>", line 2, in <module>\n    1 / x\n' in caught.value.__notes__[0]
    seen = []
    try:
        mec.execute(code)
    except* ZeroDivisionError as group:
        seen = [error.engine_id for error in group.exceptions]
    assert seen == [2]


def test_a_group_says_who_raised_what_and_where(mec: client.MultiEngineClient):
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    def fail(number: int) -> None:
        raise [ValueError("first\nsecond"), Mute(), KeyboardInterrupt(), KeyError("k")][number]

    with pytest.raises(CompositeError) as caught:
        mec.apply(fail, Reference("id"))
    group = caught.value
    assert str(group).splitlines() == [
        "4 of 4 engines raised",
        "[0:apply]: ValueError: first",
        "[1:apply]: Mute: <Mute whose text can't be had>",
        "[2:apply]: KeyboardInterrupt",
        "[3:apply]: KeyError: 'k'",
    ]
    out = io.StringIO()
    group.print_tracebacks(file=out)
    line = inspect.getsourcelines(fail)[1] + 1
    assert out.getvalue().count(f'File "{__file__}", line {line}, in fail\n') == 4
    out = io.StringIO()
    group.print_tracebacks(3, file=out)
    assert out.getvalue().startswith("The traceback on engine 3:\n")
    with pytest.raises(KeyError):
        group.raise_exception(3)
    with pytest.raises(IndexError, match="there is no exception 4 in this group; they are numbered 0 to 3"):
        group.raise_exception(4)
