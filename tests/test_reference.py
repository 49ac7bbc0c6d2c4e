"""Values that are on the engines already, given as arguments."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import pytest
from model import model_cluster
from spaces import do

import aioparallel
from aioparallel import client, reference
from aioparallel.errors import CompositeError
from aioparallel.namespace import Namespace
from aioparallel.reference import Outcome, Promise, Reference
from aioparallel.serialize import pack, unpack


def same(*args: Any, **kwargs: Any) -> Any:
    return (*args, *kwargs.values())


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


@pytest.fixture
def engine() -> Namespace:
    engine = Namespace(3, run_coroutine=asyncio.run)
    do(engine, "push", {"a": [1, {"b": 2}], "n": 4})
    return engine


def test_it_is_one_class_of_both_faces() -> None:
    assert aioparallel.Reference is client.Reference is Reference


def test_away_from_an_engine_it_stays_what_it_is() -> None:
    there = Reference(" a.b[0] ")
    assert repr(there) == "Reference('a.b[0]')"
    for back in (unpack(pack(there)), pickle.loads(pickle.dumps(there)), copy.deepcopy(there)):
        assert back == there
        assert hash(back) == hash(there)
    assert there != Reference("a")
    assert there != "a.b[0]"


def test_an_outcome_stays_what_it_is_away_from_an_engine() -> None:
    there = Outcome(3)
    assert repr(there) == "Outcome(3)"
    for back in (unpack(pack([there]))[0], pickle.loads(pickle.dumps(there)), copy.deepcopy(there)):
        assert back == there
        assert hash(back) == hash(there)
    assert there != Outcome(2)
    assert there != 3


def test_a_promise_has_nothing_to_give() -> None:
    assert Promise().arrived() is None


@pytest.mark.parametrize("wrong", ["", "a b", "a = 1", "import os", "a\0", "a.b["])
def test_what_is_no_expression_is_refused_here(wrong: str) -> None:
    with pytest.raises(ValueError, match="is not a name, nor an expression of names"):
        Reference(wrong)


def test_what_is_no_string_is_refused_here() -> None:
    with pytest.raises(TypeError, match="as a str, not int"):
        Reference(3)  # type: ignore[arg-type]


def test_it_is_the_engines_value_wherever_it_stands(engine: Namespace) -> None:
    assert do(engine, "apply", same, (Reference("n"), [Reference("a[1]['b']")]), {"k": {Reference("n"): {1}}}) == (
        4,
        [2],
        {4: {1}},
    )
    do(engine, "push", {"same": Reference("a"), "deep": ({"x": [Reference("n")]},)})
    assert do(engine, "execute", "same is a, deep")["repr"] == "(True, ({'x': [4]},))"
    assert do(engine, "apply", lambda holder: holder.held, (Holder(Reference("n")),), {}) == 4
    assert do(engine, "map", same, ([Reference("n"), 5],)) == [(4,), (5,)]
    do(engine, "execute", "def f(x): return x * n")
    assert do(engine, "apply", Reference("f"), (2,), {}) == 8


def test_it_is_evaluated_when_the_command_runs(engine: Namespace) -> None:
    command = [bytes(buffer) for buffer in pack(("apply", same, (Reference("n"),), {}))]
    for n in (1, 2):
        do(engine, "push", {"n": n})
        assert unpack(engine.run(command)[1]) == (n,)


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("nothing", NameError, "name 'nothing' is not defined"),
        ("a.foo", AttributeError, "foo"),
        ("a[9]", IndexError, "range"),
        ("1/0", ZeroDivisionError, "division"),
    ],
)
def test_what_it_raises_is_raised_as_itself(engine: Namespace, name: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        do(engine, "apply", same, ([Reference(name)],), {})
    note = caught.value.__notes__[-1]
    assert f"<Reference {name}>" in note
    assert "aioparallel" not in note
    assert "Unresolved" not in note
    assert reference.place is None


def test_a_result_may_hold_one(engine: Namespace) -> None:
    do(engine, "execute", "from aioparallel import Reference\nr = Reference('n')")
    assert do(engine, "pull", "r") == Reference("n")
    assert do(engine, "execute", "import pickle; pickle.loads(pickle.dumps(r))")["repr"] == "Reference('n')"


def test_each_engine_gives_its_own_to_tasks_and_to_views_too() -> None:
    async def main() -> None:
        async with model_cluster(3) as (controller, _):
            mec = await aioparallel.MultiEngineClient.connect(controller.capability("multiengine"))
            tc = await aioparallel.TaskClient.connect(controller.capability("task"))
            async with mec, tc:
                await mec.push({"x": Reference("id * 10")})
                assert await mec.apply(same, [Reference("x")]) == [([0],), ([10],), ([20],)]
                assert await mec[2].apply(same, Reference("x")) == (20,)
                assert await tc.submit(same, Reference("x // x + 2 if x else 3")) == (3,)
                with pytest.raises(NameError, match="nowhere"):
                    await mec.apply(same, Reference("nowhere"), targets=1)
                with pytest.raises(CompositeError, match=r"\[1:apply\]: NameError: name 'nowhere'"):
                    await mec.apply(same, Reference("nowhere"))

    asyncio.run(main())


def test_it_says_in_status_which_function_runs() -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host):
            async with aioparallel.MultiEngineClient(controller.capability("multiengine")) as mec:
                calling = mec.apply(Reference("abs"), -1)
                [status] = await mec.queue_status()
                assert status["pending"] == "abs"
                host.step()
                assert await calling == [1]

    asyncio.run(main())
