"""Small JSON values about engines, kept at the controller; on the asyncio face and model engines."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from model import ModelHost, model_cluster, play, settle

import aioparallel
from aioparallel.errors import InvalidEngineID, InvalidProperty, NoEnginesRegistered, OperationError
from aioparallel.properties import plain_properties, property_names


def test_they_are_set_asked_for_and_removed() -> None:
    async def story(mec: Any, host: ModelHost) -> None:
        assert await mec.set_properties({"gpu": True, "tags": ("a", {"b": [None, 1.5]})}) is None
        await mec.set_properties({"n": 1}, targets=1)
        both = {"gpu": True, "tags": ["a", {"b": [None, 1.5]}]}
        assert await mec.get_properties() == [both, {**both, "n": 1}]
        assert await mec.get_properties("gpu") == [True, True]
        assert await mec.get_properties(["gpu"], targets=[1]) == [{"gpu": True}]
        assert await mec.has_properties("n") == [False, True]
        assert await mec.has_properties(("n", "gpu")) == [[False, True], [True, True]]
        await mec.del_properties(["gpu", "tags"])
        assert await mec.get_properties() == [{}, {"n": 1}]
        await mec.clear_properties()
        assert await mec.get_properties() == [{}, {}]

    play(story)


def test_views_of_one_engine_give_bare_values() -> None:
    async def story(mec: Any, host: ModelHost) -> None:
        await mec[1].set_properties({"n": 1})
        assert await mec[1].get_properties() == {"n": 1}
        assert await mec[1].get_properties("n") == 1
        assert await mec[1].has_properties(["n", "m"]) == [True, False]
        assert await mec[1:].get_properties() == [{"n": 1}]
        assert await mec[1].get_properties(targets=[0, 1]) == [{}, {"n": 1}]
        await mec[1].del_properties("n")
        assert not await mec[1].has_properties("n")

    play(story)


def test_they_do_not_wait_for_commands_and_go_with_the_engine() -> None:
    async def story(mec: Any, host: ModelHost) -> None:
        running = mec.execute("x = 1")
        await mec.set_properties({"n": 1})
        assert await mec.get_properties("n") == [1]
        await mec.restart()
        assert await mec.get_properties("n") == [1]
        host.step()
        await running
        host.connection.abort()
        await settle()
        with pytest.raises(NoEnginesRegistered):
            await mec.get_properties()

    play(story, n=1, eager=False)


def test_an_engine_that_takes_a_free_id_has_none_of_the_old_ones() -> None:
    async def main() -> None:
        async with model_cluster(1) as (controller, host):
            async with aioparallel.MultiEngineClient(controller.capability("multiengine")) as mec:
                await mec.set_properties({"n": 1})
                host.connection.abort()
                await host.lost
                await settle()
                second = await ModelHost().dial(controller, 1)
                assert await mec.get_properties() == [{}]
        await second.lost

    asyncio.run(main())


def test_what_is_not_there_is_named_and_nothing_is_changed() -> None:
    async def story(mec: Any, host: ModelHost) -> None:
        await mec.set_properties({"a": 1, "b": 2})
        await mec.del_properties("b", targets=1)
        missing = "engine 1 has no property 'b'; it has a"
        for call in (mec.get_properties("b"), mec.get_properties(["a", "b"]), mec.del_properties(["a", "b"])):
            with pytest.raises(InvalidProperty, match=missing):
                await call
        assert await mec.get_properties() == [{"a": 1, "b": 2}, {"a": 1}]
        await mec.clear_properties(targets=0)
        with pytest.raises(LookupError, match="engine 0 has no property 'c'; it has none"):
            await mec.get_properties("c", targets=0)
        with pytest.raises(InvalidEngineID):
            await mec.set_properties({"a": 1}, targets=7)

    play(story)


def test_they_are_bounded_an_engine_and_all_or_none_are_set() -> None:
    async def story(mec: Any, host: ModelHost) -> None:
        await mec.set_properties({"a": "x" * 40_000}, targets=1)
        with pytest.raises(OperationError, match=r"engine 1 would take [\d,]+ bytes; the limit is 65,536"):
            await mec.set_properties({"b": "x" * 40_000})
        assert await mec.has_properties("b") == [False, False]
        await mec.set_properties({"a": "x" * 50_000}, targets=1)

    play(story)


def test_a_client_without_manners_is_refused() -> None:
    async def story(mec: Any, host: ModelHost) -> None:
        with pytest.raises(OperationError, match=r"argument properties is the int 3; expected dict\[str, Any\]"):
            await mec._operate("set_properties", targets="all", properties=3)
        for names in (3, [3], {"a": 1}):
            for operation in ("get_properties", "has_properties", "del_properties"):
                with pytest.raises(OperationError, match=r"argument names is the .*; expected str \| list\[str\]"):
                    await mec._operate(operation, targets="all", names=names)
        assert await mec.get_ids() == [0, 1]

    play(story)


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ([3], "properties are a dict of values by name, not list"),
        ({3: 1}, "names of properties are strings, not 3"),
        ({"a": 1, "b": {1}}, "property 'b' is a set; properties are None, bool"),
        ({"a": {"x": [1, b""]}}, r"property 'a'\['x'\]\[1\] is a bytes"),
        ({"a": {1: 2}}, "property 'a' has the key 1, which is not a str"),
        ({"a": math.nan}, "property 'a' is nan, which JSON does not have"),
        ({"a": [-math.inf]}, r"property 'a'\[0\] is -inf"),
        ({"a": ENDLESS}, "property 'a' is nested more than 32 deep"),
        ({"a": 10**5000}, "property 'a' is an int of more digits"),
    ],
)
def test_what_is_not_json_is_refused_here(properties: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        plain_properties(properties)


def test_names_are_strings() -> None:
    assert property_names("ab") == "ab"
    assert property_names(("a", "b")) == ["a", "b"]
    assert property_names({"a": 1}.keys() | set()) == ["a"]
    for wrong in (3, [3], None, b"a"):
        with pytest.raises(TypeError, match="names of properties are strings"):
            property_names(wrong)  # type: ignore[arg-type]
