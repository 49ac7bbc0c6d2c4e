"""Scatter, gather, map and their relatives: on model engines, and on both faces of a real cluster."""

from __future__ import annotations

import asyncio
import itertools
import operator
import threading
import time
from array import array
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from model import ModelHost, connect, model_cluster, settle

import aioparallel
from aioparallel import client
from aioparallel.errors import (
    CompositeError,
    ConfigurationError,
    EngineDied,
    InvalidEngineID,
    MessageTooLarge,
    NoEnginesRegistered,
    OperationError,
    QueueCleared,
    SerializationError,
)
from aioparallel.wire import Limits

ENGINES = 3

KINDS: dict[str, Callable[[int], Any]] = {
    "list": lambda n: list(range(n)),
    "tuple": lambda n: tuple(range(n)),
    "str": lambda n: "".join(map(chr, range(60, 60 + n))),
    "bytes": lambda n: bytes(range(n)),
    "range": range,
    "numpy": lambda n: numpy.arange(2.0 * n).reshape(n, 2),
}


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, numpy.ndarray):
        return found.dtype == expected.dtype and numpy.array_equal(found, expected)
    return type(found) is type(expected) and found == expected


def double(x: Any) -> Any:
    return 2 * x


def one_over(x: int) -> float:
    return 1 / x


# Scatter and gather


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_gathered_is_what_was_scattered(kind: str) -> None:
    async def main() -> None:
        async with model_cluster(7) as (controller, _), connect(controller) as mec:
            for n, dist, length in itertools.product(range(1, 8), "br", range(51)):
                whole, targets = KINDS[kind](length), list(range(n))
                scattered = mec.scatter("a", whole, dist, targets=targets)
                assert same(await mec.gather("a", dist, targets=targets), whole)
                assert await scattered == [None] * n

    asyncio.run(main())


def test_each_engine_is_sent_its_part_only() -> None:
    async def main() -> None:
        async with model_cluster(3, eager=False) as (controller, host), connect(controller) as mec:
            done = mec.scatter("a", [bytes([i]) * 100_000 for i in range(6)])
            await settle()
            assert [frame.engine for frame in host.waiting] == [0, 1, 2]
            assert all(200_000 < frame.size < 201_000 for frame in host.waiting)
            for _ in range(3):
                host.step()
            assert await done == [None, None, None]
            assert [len(space.names["a"]) for space in host.spaces.values()] == [2, 2, 2]

    asyncio.run(main())


def test_parts_follow_the_order_of_the_targets() -> None:
    async def main() -> None:
        async with model_cluster(3) as (controller, _), connect(controller) as mec:
            await mec.scatter("a", "abcdefg", targets=[2, 0])
            assert await mec.pull("a", targets=[0, 2]) == ["efg", "abcd"]
            assert await mec.gather("a", targets=[2, 0]) == "abcdefg"
            assert await mec.gather("a", targets=2) == "abcd"
            await mec.scatter("a", [0, 1, 2, 3, 4], "r")
            assert await mec["a"] == [[0, 3], [1, 4], [2]]
            assert await mec.gather("a") == [0, 3, 1, 4, 2]
            mec.targets = [1]
            await mec.scatter("a", "xyz")
            assert await mec.gather("a") == "xyz"

    asyncio.run(main())


def test_views_scatter_over_their_engines_and_one_engine_gives_bare_values() -> None:
    async def main() -> None:
        async with model_cluster(4) as (controller, _), connect(controller) as mec:
            assert await mec[::2].scatter("a", range(5)) == [None, None]
            assert await mec[::2]["a"] == [range(3), range(3, 5)]
            assert await mec[::2].gather("a") == range(5)
            assert await mec[[3, 1]].scatter("b", "xyz") == [None, None]
            assert await mec[3]["b"] == "xy"
            assert await mec[1].scatter("c", (1, 2)) is None
            assert await mec[1].gather("c") == (1, 2)
            assert await mec[1].map(double, [1, 2]) == [2, 4]
            assert await mec[1:].map(double, range(5)) == [0, 2, 4, 6, 8]
            assert await mec[0].scatter("d", "ab", targets=[2, 3]) == [None, None]
            with pytest.raises(InvalidEngineID, match="no engine 9; engines: 0, 1, 2, 3"):
                await mec[0].scatter("d", "ab", targets=[0, 9])

    asyncio.run(main())


def test_flattened_parts_of_one_item_are_that_item() -> None:
    async def main() -> None:
        async with model_cluster(3) as (controller, _), connect(controller) as mec:
            await mec.scatter("a", [10, 11, 12], flatten=True)
            assert await mec["a"] == [10, 11, 12]
            assert await mec.gather("a") == [10, 11, 12]
            await mec.scatter("a", [10, 11, 12, 13, 14], flatten=True)
            assert await mec["a"] == [[10, 11], [12, 13], 14]
            assert await mec.gather("a") == [10, 11, 12, 13, 14]
            await mec.scatter("a", (10, 11), flatten=True)
            assert await mec["a"] == [10, 11, ()]
            assert await mec.gather("a") == [10, 11]
            await mec.scatter("a", numpy.arange(4), "r", flatten=True)
            assert await mec.gather("a", "r") == [0, 1, 2, 3]
            assert await mec[0].scatter("a", ["only"], flatten=True) is None
            assert await mec[0]["a"] == "only"

    asyncio.run(main())


def test_what_was_changed_on_the_engines_is_gathered_as_it_is_there() -> None:
    async def main() -> None:
        async with model_cluster(3) as (controller, _), connect(controller) as mec:
            await mec.scatter("a", list(range(10)))
            await mec.execute("a = [x for x in a if x % 2]")
            assert await mec.gather("a") == [1, 3, 5, 7, 9]
            await mec.execute("b = id")
            assert await mec.gather("b") == [0, 1, 2]
            with pytest.raises(CompositeError, match=r"\[1:gather\]: NameError: name 'c' is not defined"):
                await mec.gather("c")
            with pytest.raises(NameError):
                await mec.gather("c", targets=1)

    asyncio.run(main())


def test_bad_arguments_are_refused_before_anything_is_sent() -> None:
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, host), connect(controller) as mec:
            for call in (mec.scatter, lambda *a: mec.gather("a", *a[2:])):
                with pytest.raises(ValueError, match="dist is 'b'"):
                    call("a", [1], "x")
            for key in ("not a name", "", 3, ("a", "b")):
                with pytest.raises(ValueError, match="not a name that can be pushed"):
                    mec.scatter(key, [1])
                with pytest.raises(ValueError, match="not a name that can be pushed"):
                    mec.gather(key)
            with pytest.raises(TypeError, match="'dict' can't be cut apart"):
                mec.scatter("a", {"b": 1})
            with pytest.raises(SerializationError, match=r"cannot send names\['a'\]\[0\]: cannot pickle"):
                mec.scatter("a", [1, 2, threading.Lock()])
            with pytest.raises(ValueError, match="targets are"):
                mec.scatter("a", [1], targets="some")
            with pytest.raises(ConfigurationError, match="blocking face"):
                mec.map(double, [1], block=True)
            await settle()
            assert host.waiting == []

    asyncio.run(main())


def test_a_part_above_the_limit_keeps_all_of_them_back() -> None:
    async def main() -> None:
        limits = Limits(message=10_000)
        async with model_cluster(2, eager=False) as (controller, host), connect(controller, limits=limits) as mec:
            with pytest.raises(MessageTooLarge):
                mec.scatter("a", ["small", "x" * 20_000])
            await settle()
            assert host.waiting == []

    asyncio.run(main())


# Targets that are not there


def calls_of(mec: Any, **options: Any) -> list[Callable[[], Any]]:
    return [
        lambda: mec.scatter("a", [1, 2], **options),
        lambda: mec.gather("a", **options),
        lambda: mec.map(double, [1, 2], **options),
        lambda: mec.raw_map(double, [[1, 2]], **options),
        lambda: mec.zip_pull(("a", "b"), **options),
    ]


def test_targets_that_are_not_there_are_told_when_the_answer_is_asked_for() -> None:
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, host), connect(controller) as mec:
            for targets in (5, [0, 7]):
                for call in calls_of(mec, targets=targets):
                    with pytest.raises(InvalidEngineID, match=r"no engine [57]; engines: 0, 1"):
                        await call()
            for call in calls_of(mec, targets=[1, 1]):
                with pytest.raises(OperationError, match=r"name an engine twice: \[1, 1\]"):
                    await call()
            await settle()
            assert host.waiting == []
        async with model_cluster(0) as (controller, _), connect(controller) as mec:
            for call in [*calls_of(mec), *calls_of(mec, targets=[])]:
                with pytest.raises(NoEnginesRegistered, match=r"there are no engines; .* `aiocluster logs`"):
                    await call()

    asyncio.run(main())


def test_the_engines_are_known_from_the_first_moment() -> None:
    async def main() -> None:
        async with model_cluster(3) as (controller, _):
            for _ in range(20):
                async with connect(controller) as mec:
                    assert await mec.map(double, [1, 2, 3]) == [2, 4, 6]
                    assert len(mec) == 3

    asyncio.run(main())


def test_an_engine_that_left_unnoticed_is_the_error_of_the_call() -> None:
    async def main() -> None:
        async with model_cluster(2) as (controller, host), connect(controller) as mec:
            mec.channel.engines[7] = mec.channel.engines[0]  # as if nobody had told us yet
            with pytest.raises(InvalidEngineID, match="no engine 7"):
                await mec.scatter("a", [1, 2, 3])
            assert "a" in host.spaces[0].names

    asyncio.run(main())


def test_a_narrowed_capability_scatters_over_its_engines() -> None:
    async def main() -> None:
        async with model_cluster(3) as (controller, _):
            async with aioparallel.MultiEngineClient(
                controller.capability("multiengine").narrow("engines=1-2", "ops=submit")
            ) as mec:
                await mec.scatter("a", range(3))
                assert await mec.pull("a", targets=[1, 2]) == [range(2), range(2, 3)]
                with pytest.raises(InvalidEngineID):
                    await mec.scatter("a", range(3), targets=[0, 1])

    asyncio.run(main())


# Errors, and the end of calls


def test_errors_are_those_of_every_call_to_engines() -> None:
    async def main() -> None:
        async with model_cluster(3) as (controller, _), connect(controller) as mec:
            with pytest.raises(CompositeError) as group:
                await mec.map(one_over, [1, 2, 0, 3, 0, 4])
            assert [error.engine_id for error in group.value.exceptions] == [1, 2]
            assert "[1:map]: ZeroDivisionError: division by zero" in str(group.value)
            with pytest.raises(ZeroDivisionError) as caught:
                await mec.map(one_over, [1, 0], targets=2)
            assert caught.value.engine_id == 2
            assert "return 1 / x" in caught.value.__notes__[0]
            with pytest.raises(ZeroDivisionError):
                await mec[1].map(one_over, [1, 0])

    asyncio.run(main())


def test_a_failing_part_waits_for_the_others_and_clears_only_its_engine() -> None:
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, host), connect(controller) as mec:
            mapped = mec.map(one_over, [0, 1])
            behind = mec.execute("x = 1", targets=0)
            beside = mec.execute("x = 1", targets=1)
            await settle()
            host.step(0)
            with pytest.raises(QueueCleared):
                await behind
            assert not mapped.done()
            host.step()
            await settle()
            host.step()
            await beside
            with pytest.raises(CompositeError, match="1 of 2 engines raised"):
                await mapped

    asyncio.run(main())


def test_a_kernel_that_dies_fails_its_part() -> None:
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, host), connect(controller) as mec:
            mapped = mec.map(double, [1, 2])
            await settle()
            host.die(1)
            host.step()
            with pytest.raises(CompositeError) as group:
                await mapped
            assert group.value.exceptions[0].engine_id == 1
            assert isinstance(group.value.exceptions[0], EngineDied)

    asyncio.run(main())


def under_way(host: ModelHost) -> list[int]:
    return [frame.engine for frame in host.waiting]


def test_cancelling_a_scatter_under_way_withdraws_every_part() -> None:
    async def main() -> None:
        async with model_cluster(3, eager=False) as (controller, host), connect(controller) as mec:
            before = mec.execute("a = 'before'", targets=1)
            scattered = mec.scatter("a", [1, 2, 3])
            await settle()
            assert under_way(host) == [1, 0, 2]  # the part for engine 1 waits in its queue
            host.step(1)
            await settle()
            assert scattered.cancel()
            await settle()
            assert len(host.cancelled) == 1  # engine 2 was asked to stop; what waited for engine 1 is gone
            host.step()
            await before
            await settle()
            assert scattered.cancelled()
            assert under_way(host) == []
            assert [space.names.get("a") for space in host.spaces.values()] == [[1], "before", None]
            assert mec.channel._pending == {}
            again = mec.scatter("a", [1, 2, 3])
            await settle()
            for _ in range(3):
                host.step()
            assert await again == [None] * 3

    asyncio.run(main())


# Map


def test_map_is_the_builtin_over_the_engines() -> None:
    async def main() -> None:
        async with model_cluster(3) as (controller, _), connect(controller) as mec:
            for length in (0, 1, 2, 3, 7, 50):
                for dist in "br":
                    numbers = list(range(length))
                    assert await mec.map(double, numbers, dist=dist) == [2 * n for n in numbers]
                    found = await mec.map(operator.sub, numbers, tuple(numbers[::-1]), dist=dist)
                    assert found == [a - b for a, b in zip(numbers, numbers[::-1], strict=True)]
            assert await mec.map(double, "abc") == ["aa", "bb", "cc"]
            assert await mec.map(double, array("i", [1, 2])) == [2, 4]
            rows = numpy.arange(8).reshape(4, 2)
            assert await mec.map(lambda row: int(row.sum()), rows) == [1, 5, 9, 13]

    asyncio.run(main())


def test_map_makes_lists_of_what_does_not_slice() -> None:
    async def main() -> None:
        async with model_cluster(2) as (controller, _), connect(controller) as mec:
            assert await mec.map(double, (n for n in range(5))) == [0, 2, 4, 6, 8]
            assert await mec.map(operator.add, iter("ab"), {"c": 1, "d": 2}) == ["ac", "bd"]
            assert await mec.map(pow, range(3), iter([2, 2, 2])) == [0, 1, 4]

    asyncio.run(main())


def test_map_sends_one_message_an_engine() -> None:
    async def main() -> None:
        async with model_cluster(3, eager=False) as (controller, host), connect(controller) as mec:
            mapped = mec.map(double, range(100))
            await settle()
            assert under_way(host) == [0, 1, 2]
            status = await mec.queue_status()
            assert [each["pending"] for each in status] == ["map double"] * 3
            for place in (2, 0, 0):
                host.step(place)
            assert await mapped == list(range(0, 200, 2))

    asyncio.run(main())


def test_map_refuses_what_it_cannot_go_over() -> None:
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, host), connect(controller) as mec:
            with pytest.raises(ValueError, match="sequences of different lengths: 3, 2"):
                mec.map(pow, [1, 2, 3], (1, 2))
            with pytest.raises(ValueError, match="sequences of different lengths: 2, 3"):
                mec.map(pow, [1, 2], iter([1, 2, 3]))
            with pytest.raises(TypeError, match="at least one sequence"):
                mec.map(double)
            with pytest.raises(TypeError, match="argument 1 is a single 'int'"):
                mec.map(pow, [1, 2], 2)
            with pytest.raises(TypeError, match="3 can't be called"):
                mec.map(3, [1])
            with pytest.raises(ValueError, match="dist is 'b'"):
                mec.map(double, [1], dist="z")
            await settle()
            assert host.waiting == []

    asyncio.run(main())


def test_raw_map_takes_the_name_of_a_function_of_the_engines() -> None:
    async def main() -> None:
        async with model_cluster(3) as (controller, _), connect(controller) as mec:
            await mec.execute("def scaled(x, y=1): return 100 * id + x * y")
            assert await mec.raw_map("scaled", [range(4)]) == [0, 1, 102, 203]
            assert await mec.raw_map("scaled", [[1, 2, 3, 4], [5, 6, 7, 8]], dist="r") == [5, 112, 221, 32]
            assert await mec.map("abs", [-1, 2]) == [1, 2]
            assert await mec.raw_map(pow, ([2, 3], [3, 2])) == [8, 9]
            with pytest.raises(CompositeError, match=r"\[2:map\]: NameError: name 'nothing' is not defined"):
                await mec.raw_map("nothing", [[1, 2, 3]])
            with pytest.raises(NameError, match="nothing"):
                await mec.raw_map("nothing", [[1, 2, 3]], targets=1)
            await mec.push({"five": 5})
            with pytest.raises(TypeError, match="'five' is no function here but of type 'int'"):
                await mec[0].raw_map("five", [[1]])

    asyncio.run(main())


def test_a_mapper_keeps_its_options() -> None:
    async def main() -> None:
        async with model_cluster(3) as (controller, _), connect(controller) as mec:
            await mec.execute("def where(x): return id")
            dealt = mec.mapper(dist="r", targets=[0, 2])
            assert await dealt.map("where", range(4)) == [0, 2, 0, 2]
            assert await mec.mapper().map("where", range(4)) == [0, 0, 1, 2]
            assert await mec[1:].mapper().map("where", range(4)) == [1, 1, 2, 2]
            assert repr(dealt).startswith("Mapper(client=<MultiEngineClient")
            with pytest.raises(ValueError, match="dist is"):
                mec.mapper("x")
            with pytest.raises(ValueError, match="targets are"):
                mec.mapper(targets="some")

    asyncio.run(main())


def test_parallel_makes_a_function_elementwise() -> None:
    async def main() -> None:
        async with model_cluster(2) as (controller, _), connect(controller) as mec:

            @mec.parallel()
            def scale(x: int, by: int = 10) -> int:
                """Scale a number."""
                return x * by

            assert await scale([1, 2, 3]) == [10, 20, 30]
            assert await scale([1, 2, 3], (4, 5, 6)) == [4, 10, 18]
            assert (scale.__name__, scale.__doc__) == ("scale", "Scale a number.")
            assert scale.__wrapped__(2) == 20
            with pytest.raises(TypeError, match=r"with parentheses: @mec.parallel\(\)"):
                mec.parallel(double)
            with pytest.raises(TypeError, match="can't be called"):
                mec.parallel()(3)
            with pytest.raises(ValueError, match="dist is"):
                mec.parallel("x")

    asyncio.run(main())


# zip_pull


def test_zip_pull_is_the_transpose() -> None:
    async def main() -> None:
        async with model_cluster(2) as (controller, _), connect(controller) as mec:
            await mec.execute("a, b = id, id * 10")
            assert await mec.zip_pull(("a", "b")) == [(0, 1), (0, 10)]
            assert await mec.zip_pull(["a"]) == [(0, 1)]
            assert await mec.zip_pull("a") == [0, 1]
            assert await mec.zip_pull(("a", "b"), targets=[1, 0]) == [(1, 0), (10, 0)]
            assert await mec.zip_pull(("a", "b"), targets=1) == [(1,), (10,)]
            assert await mec[1].zip_pull(("a", "b")) == [1, 10]
            assert await mec[1].zip_pull("b") == 10
            assert await mec[:].zip_pull(("b", "a")) == [(0, 10), (0, 1)]
            with pytest.raises(CompositeError, match=r"\[0:zip_pull\]: NameError"):
                await mec.zip_pull(("a", "c"))

    asyncio.run(main())


# The blocking face, and real engines


@pytest.mark.parametrize("kind", KINDS)
def test_blocking_scatter_and_gather(mec: client.MultiEngineClient, kind: str) -> None:
    for length in (0, 1, 2, 3, 4, 50):
        for dist in "br":
            whole = KINDS[kind](length)
            assert mec.scatter("a", whole, dist) == [None] * 3
            assert same(mec.gather("a", dist), whole)
            pending = mec[1:].scatter("b", whole, dist, block=False)
            assert isinstance(pending, client.PendingResult)
            assert pending.r == [None, None]
            assert same(mec[1:].gather("b", dist, block=False).r, whole)


def test_large_arrays_come_back_and_are_writable(mec: client.MultiEngineClient) -> None:
    whole = numpy.random.default_rng(1).random((3000, 100))
    for dist in "br":
        mec.scatter("a", whole, dist)
        mec.execute("a += 1")
        back = mec.gather("a", dist)
        assert numpy.array_equal(back, whole + 1)
        back += 1


def test_blocking_maps(mec: client.MultiEngineClient) -> None:
    assert mec.map(double, range(10)) == list(range(0, 20, 2))
    assert mec.map(double, range(10), dist="r", targets=[2, 0]) == list(range(0, 20, 2))
    assert mec[0].map(double, "ab") == ["aa", "bb"]
    assert mec.map(double, [1], block=False).r == [2]
    mec.execute("def f(x): return x + id")
    assert mec.raw_map("f", [[0, 0, 0]]) == [0, 1, 2]
    assert mec.mapper(block=False).map("f", [0, 0, 0]).r == [0, 1, 2]

    @mec.parallel(dist="r")
    def square(x: int) -> int:
        return x * x

    assert square(range(7)) == [0, 1, 4, 9, 16, 25, 36]

    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return -x

    assert mec.map(later, [1, 2, 3, 4]) == [-1, -2, -3, -4]


def test_blocking_zip_pull(mec: client.MultiEngineClient) -> None:
    mec.execute("a, b = id, -id")
    assert mec.zip_pull(("a", "b")) == [(0, 1, 2), (0, -1, -2)]
    assert mec.zip_pull("a", block=False).r == [0, 1, 2]
    assert mec[2].zip_pull(("a", "b")) == [2, -2]


def test_blocking_errors(mec: client.MultiEngineClient) -> None:
    with pytest.raises(CompositeError) as group:
        mec.map(one_over, [0, 1, 2])
    assert [error.engine_id for error in group.value.exceptions] == [0]
    with pytest.raises(ZeroDivisionError):
        mec[0].map(one_over, [0])
    for targets in (9, [0, 9]):
        for call in calls_of(mec, targets=targets, block=False):
            pending = call()
            for _ in range(2):
                with pytest.raises(InvalidEngineID, match="no engine 9; engines: 0, 1, 2"):
                    _ = pending.r


def test_cancelling_a_map_that_runs_frees_its_engines(mec: client.MultiEngineClient) -> None:
    mec.push({"kept": 1})
    running = mec.map(time.sleep, [1000] * 3, block=False)
    while not all(status["pending"] for status in mec.queue_status()):
        pass
    assert running.cancel()
    assert running.cancelled()
    assert mec.pull("kept") == [1, 1, 1]
    assert mec.map(double, [1, 2, 3]) == [2, 4, 6]


def test_many_threads_map_at_once(mec: client.MultiEngineClient) -> None:
    found: dict[int, Any] = {}

    def work(k: int) -> None:
        found[k] = [mec.map(double, range(k, k + 5)) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: [[2 * i for i in range(k, k + 5)]] * 10 for k in range(6)}
