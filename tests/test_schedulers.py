"""Schedulers by name, plug-ins, and a user's own, good and bad."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from model import settle
from rawtasks import raw_tasks

from aioparallel.controller import Controller
from aioparallel.errors import PluginError
from aioparallel.interfaces.task import TaskInterface
from aioparallel.policies import NAMES, Candidate, Policy
from aioparallel.schedulers import Guarded, find_policy
from aioparallel.source import SYSTEM

ENGINES = [Candidate(i, 0.0, 0, i, {}) for i in range(3)]


class Last(Policy):
    """The engine that joined last."""

    def choose(self, engines: Sequence[Candidate]) -> Candidate:
        return engines[-1]


class Broken(Policy):
    def choose(self, engines: Sequence[Candidate]) -> Candidate:
        raise KeyError("oh")


class Astray(Policy):
    def choose(self, engines: Sequence[Candidate]) -> Candidate:
        return Candidate(99, 0.0, 0, 0, {})


class Unmade(Policy):
    def __init__(self, randbelow: Any) -> None:
        raise ValueError("never")

    choose = Last.choose


class NoPolicy: ...


@pytest.mark.parametrize("name", NAMES)
def test_the_built_in_ones_work(name: str):
    policy = find_policy(name, SYSTEM)
    assert type(policy) is NAMES[name]
    assert policy.choose(ENGINES) in ENGINES


def test_a_class_of_ones_own():
    policy = find_policy(f"{__name__}:Last", SYSTEM)
    assert policy.choose(ENGINES) is ENGINES[-1]
    assert not policy.lifo


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fastest", "no scheduler named 'fastest'; known: least-loaded, lru, random, .*module:Class"),
        ("no_such_module:Class", "can't be loaded: ModuleNotFoundError.*installed or on PYTHONPATH"),
        (f"{__name__}:Nothing", "can't be loaded: AttributeError"),
        (f"{__name__}:NoPolicy", "must be a subclass of aioparallel.policies.Policy"),
        (f"{__name__}:Unmade", "can't be made: ValueError: never"),
    ],
)
def test_one_that_is_not_there_is_refused_by_name(name: str, text: str):
    with pytest.raises(PluginError, match=text):
        find_policy(name, SYSTEM)

    async def main() -> None:
        async with Controller() as controller:
            with pytest.raises(PluginError, match="can't start: PluginError: "):
                await controller.add(TaskInterface(scheduler=name))

    asyncio.run(main())


@pytest.mark.parametrize("kind", [Broken, Astray])
def test_one_that_fails_is_followed_by_the_usual(kind: type[Policy], caplog: pytest.LogCaptureFixture):
    policy = Guarded(kind())
    assert policy.choose(ENGINES) is ENGINES[2]
    assert policy.choose(ENGINES) is ENGINES[2]
    assert len(caplog.records) == 1
    assert kind.__name__ in caplog.text


@pytest.mark.parametrize(("name", "engines"), [(f"{__name__}:Last", [2, 1, 0]), (f"{__name__}:Broken", None)])
def test_tasks_go_where_it_says(name: str, engines: list[int] | None):
    async def main() -> None:
        async with raw_tasks(3, eager=False, task=TaskInterface(scheduler=name)) as (raw, host, _):
            calls = [raw.submit(abs, -i) for i in range(5)]
            await settle()
            placed = [frame.engine for frame in host.waiting]
            assert placed == engines or (engines is None and len(placed) == 3)
            host.eager = True
            while host.waiting:
                host.step()
            assert await asyncio.gather(*calls) == [[i] for i in range(5)]

    asyncio.run(main())
