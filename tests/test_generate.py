"""The written module of a client: it runs, and a type checker sees through it."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

import aioparallel
from aioparallel import client
from aioparallel.controller import Controller
from aioparallel.generate import main, written
from aioparallel.interface import Interface, remote


@dataclass(frozen=True)
class Place:
    """Somewhere."""

    x: float
    name: str = ""


class Everything(Interface):
    """Everything that annotations can say.

    And a "quoted \\ word".
    """

    name = "everything"

    @remote
    async def nothing(self) -> None:
        """Do \"\"\"nothing\"\"\"."""

    @remote
    def count(
        self, texts: list[str], *, how: Literal["fast", "slow"] = "fast", most: int | None = None
    ) -> dict[str, int]:
        """Count the words.

        Args:
            texts: Of these.
            how: In which way.
            most: No more than that.
        """
        return {how: len(texts)}

    @remote
    def sort(self, places: Sequence[Place], by: Mapping[str, Any], first: Place = Place(0.5, "b")) -> tuple[Place, ...]:
        return first, *places

    @remote
    async def walk(self, steps: int = 3) -> AsyncIterator[Place]:
        """Go."""
        for i in range(steps):
            yield Place(float(i))


class Quiet(Interface):
    """Has streams only."""

    name = "quiet"

    @remote
    async def ticks(self) -> AsyncIterator[int]:
        yield 1


USES = {
    False: """
async def use(client: EverythingClient) -> None:
    counts: dict[str, int] = await client.count(["a"], how="slow")
    places: tuple[Place, ...] = await client.sort([Place(1.0, "a")], {})
    async for place in client.walk(3):
        x: float = place.x
    await client.nothing()
    notices = client.notices()
""",
    True: """
def use(client: EverythingClient) -> None:
    counts: dict[str, int] = client.count(["a"], how="slow")
    places: tuple[Place, ...] = client.sort([Place(1.0, "a")], {})
    for place in client.walk(3):
        x: float = place.x
    client.nothing(block=False).cancel()
    counts = client.count(["a"], block=True)
""",
}
WRONG = {
    False: "async def wrong(client: EverythingClient) -> None:\n    x: str = await client.count([3])\n",
    True: "def wrong(client: EverythingClient) -> None:\n    x: str = client.count([3])\n",
}


def module_of(source: str, directory: Path) -> ModuleType:
    path = directory / "written.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("written", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_runs(tmp_path: Path) -> None:
    made = module_of(written(Everything), tmp_path).EverythingClient
    assert inspect.getdoc(made) == 'Everything that annotations can say.\n\nAnd a "quoted \\ word".'
    assert made.nothing.__doc__ == 'Do """nothing""".'

    async def main() -> None:
        async with Controller() as controller:
            await controller.listen("memory://x")
            await controller.add(Everything)
            async with made(controller.capability("everything")) as c:
                assert await c.nothing() is None
                assert await c.count(["a", "b"]) == {"fast": 2}
                assert await c.sort([Place(2.0)], {}) == (Place(0.5, "b"), Place(2.0))
                assert [place.x async for place in c.walk()] == [0.0, 1.0, 2.0]
                with pytest.raises(TypeError, match="argument how is the str 'odd'; expected Literal"):
                    c.count([], how="odd")

    asyncio.run(main())


def test_the_blocking_one_is_a_blocking_client(tmp_path: Path) -> None:
    made = module_of(written(Everything, blocking=True), tmp_path).EverythingClient
    assert issubclass(made, client.Client)
    assert "Future" not in written(Quiet)
    assert "overload" not in written(Quiet, blocking=True)


@pytest.mark.parametrize("blocking", [False, True])
def test_a_type_checker_sees_through_it(blocking: bool, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "everything.py").write_text(written(Everything, blocking=blocking), encoding="utf-8")
    (tmp_path / "quiet.py").write_text(written(Quiet, blocking=blocking), encoding="utf-8")
    start = "from everything import EverythingClient\nfrom test_generate import Place\n\n"
    (tmp_path / "good.py").write_text(start + USES[blocking], encoding="utf-8")
    (tmp_path / "wrong.py").write_text(start + WRONG[blocking], encoding="utf-8")
    place = "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Place:\n    x: float\n    name: str\n"
    (tmp_path / "test_generate.py").write_text(place, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "."]
    # Where the package stands in a checkout, mypy has to be told.
    environment = dict(os.environ)
    if "site-packages" not in aioparallel.__file__:
        environment["MYPYPATH"] = str(Path(aioparallel.__file__).parent.parent)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    # Ours is another check's.
    found = [line for line in done.stdout.splitlines() if ": error: " in line and "aioparallel/" not in line]
    assert len(found) == 2, done.stdout + done.stderr
    assert all(line.startswith("wrong.py:5") for line in found)
    assert 'List item 0 has incompatible type "int"' in done.stdout


def test_the_program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--blocking", "test_generate:Everything"]) == 0
    assert capsys.readouterr().out == written(Everything, blocking=True)
    assert main(["task"]) == 1
    assert re.search(r"TaskInterface\.\w+ is raw, so no client can be made", capsys.readouterr().err)
    assert main(["nothing"]) == 1
    assert "python -m aioparallel.generate: no interface named 'nothing'; known: admin" in capsys.readouterr().err
