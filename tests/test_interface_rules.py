"""The conformance kit of interfaces: the built-ins pass, and each of many broken ones is found out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import uvloop
from plugged import Counter
from runners import Run

from aioparallel.interface import Interface, remote
from aioparallel.testing import CheckFailed, check_interface, interface_rules
from aioparallel.testing.rules import words


@pytest.mark.parametrize(
    ("interface", "run"),
    [
        *((name, asyncio.run) for name in ("multiengine", "task", "monitor", "admin", "plugged:Counter")),
        (Counter, uvloop.run),
    ],
)
def test_good_interfaces_pass(interface: str | type[Interface], run: Run) -> None:
    async def main() -> None:
        rules = await check_interface(interface)
        assert len(rules) == 8
        assert all(rule.endswith(".") for rule in rules)

    run(main())


class NoName(Interface):
    """Has no name."""


class Odd(Counter):
    name = "not an identifier"


class FailsToStart(Counter):
    async def start(self) -> None:
        raise RuntimeError("no more room")


class StartsOnce(Counter):
    started: list[object] = []

    async def start(self) -> None:
        if self.started:
            raise RuntimeError("started already")
        self.started.append(self)

    async def stop(self) -> None:
        if len(self.started) > 2:
            self.started.clear()


class NotTwice(Counter):
    running: list[object] = []

    async def start(self) -> None:
        if self.running:
            raise RuntimeError("one of us is here")
        self.running.append(self)

    async def stop(self) -> None:
        self.running.clear()


class LeavesATask(Counter):
    async def start(self) -> None:
        self.task = asyncio.create_task(asyncio.sleep(0.3), name="watcher")


class FailsToStop(Counter):
    async def stop(self) -> None:
        raise RuntimeError("not yet")


class NotesLater(Counter):
    async def engine_joined(self, engine: Any) -> None:  # type: ignore[override]
        """Never called."""


class KnowsNoEngines(Counter):
    async def start(self) -> None:
        self.busy: dict[int, bool] = {}

    def engine_joined(self, engine: Any) -> None:
        self.busy[engine.id] = len(self.host.engines) > 1

    def engine_left(self, engine: Any) -> None:
        # It was alone, so nobody may go.
        if not self.busy[engine.id]:
            raise LookupError(f"engine {engine.id} can't be missed")


class TakesAnything(Counter):
    @remote
    def add(self, number: int = 0, **more: Any) -> int:
        return number


@pytest.mark.parametrize(
    ("interface", "rule", "seen"),
    [
        (NoName, "takes in", "is not an interface with a name"),
        (Odd, "takes in", "is not an interface with a name"),
        (TakesAnything, "takes in", "TakesAnything.add: parameter 'more' is variadic keyword"),
        (FailsToStart, "takes in", "FailsToStart) can't start: RuntimeError: no more room"),
        (StartsOnce, "any number of times", "started already"),
        (NotTwice, "Two controllers", "one of us is here"),
        (LeavesATask, "leaves nothing behind", "LeavesATask) left a task behind, which is cancelled: watcher"),
        (FailsToStop, "leaves nothing behind", "FailsToStop) failed to stop (RuntimeError: not yet)"),
        (NotesLater, "not coroutine functions", "engine_joined is <function NotesLater.engine_joined"),
        (KnowsNoEngines, "come and go", "engine 0 can't be missed"),
        (dict, "derived from", "must be a subclass of aioparallel.interface.Interface"),
        ("nothing", "derived from", "no interface named 'nothing'"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_interfaces_are_found_out(interface: Any, rule: str, seen: str) -> None:
    failure = _failure(interface, rule)
    assert rule in failure.rule
    assert seen in failure.seen
    if isinstance(interface, type):
        assert interface.__name__ in failure.plugin


def test_one_that_needs_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_pickle.py").write_text(
        "import pickle\nfrom aioparallel import Interface\nclass Needy(Interface):\n    name = 'needy'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    failure = _failure("needs_pickle:Needy", "pickle and cloudpickle are banned")
    assert "pickle and cloudpickle are banned" in failure.rule
    assert "import needs_pickle: ModuleNotFoundError: import of pickle halted" in failure.seen


def _failure(interface: Any, rule: str) -> CheckFailed:
    """Have the rule that is broken looked at, and no other."""

    async def main() -> CheckFailed:
        with pytest.raises(CheckFailed) as caught:
            await check_interface(interface)
        return caught.value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interface_rules, "RULES", [each for each in interface_rules.RULES if rule in words(each)])
        return asyncio.run(main())
