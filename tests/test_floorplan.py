"""tools/floorplan: the plan in ARCHITECTURE.md is the one that stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def floorplan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "floorplan"), *arguments], capture_output=True, text=True
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small package and a document with a place for its plan."""
    package = tmp_path / "aioparallel"
    (package / "rooms").mkdir(parents=True)
    (package / "__init__.py").write_text('"""The house."""\n')
    (package / "wire.py").write_text('"""Frames.\n\nMore.\n"""\n')
    (package / "rooms" / "__init__.py").write_text('"""Where one sits."""\n')
    (package / "rooms" / "kitchen.py").write_text('"""Where one cooks."""\n')
    (package / "rooms" / "notes.txt").write_text("no module")
    (tmp_path / "ARCHITECTURE.md").write_text(
        "above\n<!-- floor plan begins -->\nold\n<!-- floor plan ends -->\nbelow\n"
    )
    return tmp_path


def test_the_plan_shown_is_the_one_that_stands() -> None:
    done = floorplan("--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_prints_captions_as_a_tree(checkout: Path) -> None:
    assert floorplan("--root", str(checkout)).stdout.splitlines() == [
        "aioparallel/",
        "  __init__.py   The house.",
        "  wire.py       Frames.",
        "  rooms/        Where one sits.",
        "    kitchen.py  Where one cooks.",
    ]


def test_checks_and_writes(checkout: Path) -> None:
    before = floorplan("--check", "--root", str(checkout))
    assert before.returncode == 1
    assert before.stderr == "floorplan: ARCHITECTURE.md shows another plan: run tools/floorplan --write\n"
    assert floorplan("--write", "--root", str(checkout)).returncode == 0
    written = (checkout / "ARCHITECTURE.md").read_text()
    assert "    kitchen.py  Where one cooks.\n" in written
    assert written.startswith("above\n")
    assert written.endswith("below\n")
    assert "old" not in written
    assert floorplan("--check", "--root", str(checkout)).returncode == 0


def test_keeps_the_plan_in_the_package_where_there_is_a_place(checkout: Path) -> None:
    init = checkout / "aioparallel" / "__init__.py"
    init.write_text('"""The house."""\n\n# floor plan begins\n# floor plan ends\n')
    assert floorplan("--write", "--root", str(checkout)).returncode == 0
    assert "#   wire.py       Frames.\n" in init.read_text()
    assert floorplan("--check", "--root", str(checkout)).returncode == 0


@pytest.mark.parametrize(
    ("source", "complaint"),
    [("x = 1\n", "has no docstring"), (f'"""{"long " * 30}"""\n', "at most 100 characters")],
)
def test_a_module_without_a_fit_caption(checkout: Path, source: str, complaint: str) -> None:
    (checkout / "aioparallel" / "attic.py").write_text(source)
    done = floorplan("--check", "--root", str(checkout))
    assert done.returncode == 1
    assert "attic.py" in done.stderr
    assert complaint in done.stderr


@pytest.mark.parametrize(
    "text", ["", "floor plan ends\nfloor plan begins\n", "floor plan begins\n" * 2 + "floor plan ends\n"]
)
def test_no_place_for_the_plan(checkout: Path, text: str) -> None:
    (checkout / "ARCHITECTURE.md").write_text(text)
    done = floorplan("--check", "--root", str(checkout))
    assert done.returncode == 1
    assert "ARCHITECTURE.md must have one line" in done.stderr


def test_both_at_once_is_a_usage_error() -> None:
    assert floorplan("--check", "--write").returncode == 2
