"""Command lines: what each program of a cluster is told, and which classes it could not find."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from aioparallel import commandline as module
from aioparallel.commandline import CommandLines, environment
from aioparallel.errors import AddressError, ConfigurationError
from aioparallel.interface import Interface
from aioparallel.queues import FifoQueue, PriorityQueue

STATE = Path("/state")


class Tally(Interface):
    """Adds up."""

    name = "tally"


def options_of(command: list[str]) -> list[str]:
    """Return what follows on the program and on where the cluster is."""
    assert command[:3] == [sys.executable, "-P", "-m"]
    assert command[4:9] == ["--managed", "--cluster", "mine", "--directory", "/state"]
    return command[9:]


def test_what_is_not_said_is_left_to_the_programs() -> None:
    lines = CommandLines("mine", path=[])
    controller = lines.controller(STATE, temporary=False)
    assert controller[3] == "aioparallel.cli.controller"
    assert options_of(controller) == ["--queue", "fifo"]
    engines = lines.engines(3, STATE, wait=2.5)
    assert engines[3] == "aioparallel.cli.engine"
    assert options_of(engines) == ["-n", "3", "--wait", "2.5"]


def test_everything_is_said_in_the_words_of_the_programs() -> None:
    lines = CommandLines(
        "mine",
        listen=["memory://a", "memory://b"],
        interfaces=["task", "admin"],
        queue="priority",
        scheduler="lru",
        path=["/code"],
    )
    assert options_of(lines.controller(STATE, temporary=True)) == [
        *("--listen", "memory://a", "--listen", "memory://b", "--interface", "task", "--interface", "admin"),
        *("--queue", "priority", "--scheduler", "lru", "--temporary"),
    ]
    assert options_of(CommandLines("mine", listen="memory://a").controller(STATE, temporary=False))[:2] == [
        "--listen",
        "memory://a",
    ]
    assert options_of(lines.engines(1, STATE, wait=60.0)) == ["-n", "1", "--path", "/code", "--wait", "60.0"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"interfaces": [Tally]}, [*("--interface", "test_commandline:Tally"), *("--queue", "fifo")]),
        ({"interfaces": ["my:Tally"]}, [*("--interface", "my:Tally"), *("--queue", "fifo")]),
        ({"interfaces": "my:Tally"}, [*("--interface", "my:Tally"), *("--queue", "fifo")]),
        ({"interfaces": Tally}, [*("--interface", "test_commandline:Tally"), *("--queue", "fifo")]),
        ({"queue": PriorityQueue}, ["--queue", "aioparallel.queues:PriorityQueue"]),
        ({"queue": "my:Stack"}, ["--queue", "my:Stack"]),
        ({"scheduler": "my:Policy"}, ["--queue", "fifo", "--scheduler", "my:Policy"]),
    ],
)
def test_a_controller_imports_what_is_not_installed_from_where_engines_do(settings: Any, said: list[str]) -> None:
    for path in (["/code"], "/code", Path("/code")):
        lines = CommandLines("mine", path=path, **settings)
        assert options_of(lines.controller(STATE, temporary=False)) == [*said, "--path", "/code"]


def test_paths_are_absolute_and_else_those_of_this_program_when_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "own_directories", lambda: ["/mine"])
    here, anywhere = CommandLines("mine", path=["code"]), CommandLines("mine")
    monkeypatch.chdir("/")
    monkeypatch.setattr(module, "own_directories", lambda: ["/mine", "/later"])
    said = options_of(here.engines(1, STATE, wait=1.0))
    assert said == ["-n", "1", "--path", f"{tmp_path}/code", "--wait", "1.0"]
    said = options_of(anywhere.engines(1, STATE, wait=1.0))
    assert said == ["-n", "1", "--path", "/mine", "--path", "/later", "--wait", "1.0"]


def test_programs_find_this_very_package(monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(Path(module.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", "/other")
    monkeypatch.setattr("sysconfig.get_path", lambda name: "/site-packages")
    assert environment() == os.environ | {"PYTHONPATH": f"{root}{os.pathsep}/other"}
    monkeypatch.setenv("PYTHONPATH", root)
    assert environment() == dict(os.environ)
    monkeypatch.setattr("sysconfig.get_path", lambda name: root)
    monkeypatch.delenv("PYTHONPATH")
    assert "PYTHONPATH" not in environment()


def test_what_can_not_be_used_is_refused() -> None:
    class Local(Interface):
        name = "local"

    with pytest.raises(ConfigurationError, match="can't name a cluster"):
        CommandLines("../up")
    with pytest.raises(AddressError, match=r"known: memory://, tls://, unix://"):
        CommandLines("mine", listen="carrier-pigeon://roof")
    with pytest.raises(ConfigurationError, match=r"can't import test_commandline.test_what.*Local: put it in"):
        CommandLines("mine", interfaces=[Local])
    with pytest.raises(ConfigurationError, match=r"interfaces are subclasses of aioparallel\.Interface, or names"):
        CommandLines("mine", interfaces=[dict])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="no scheduler named 'fairest'"):
        CommandLines("mine", scheduler="fairest")


@pytest.mark.parametrize(
    ("queue", "text"),
    [
        ("lifo", "no queue named 'lifo'; known: fifo, priority"),
        (dict, "must be a subclass of aioparallel.queues.Queue"),
        (type("Local", (FifoQueue,), {"__qualname__": "f.<locals>.Local"}), "put it in a module"),
    ],
)
def test_queue_that_can_not_be_used(queue: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        CommandLines("default", queue=queue)
