"""The examples that are packages of their own: installed as a stranger's are, and their own tests run."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def install(name: str, directory: Path) -> Path:
    """Install an example into a directory for PYTHONPATH, with pip where it can build one without the network."""
    # Built elsewhere: it must leave nothing in our tree.
    source = directory / "source"
    target = directory / "installed"
    shutil.copytree(EXAMPLES / name, source)
    try:
        builds = tuple(map(int, importlib.metadata.version("setuptools").split(".")[:2])) >= (70, 1)
    except importlib.metadata.PackageNotFoundError:
        builds = False
    if builds:
        options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--target", str(target)]
        command = [sys.executable, "-m", "pip", "install", *options, str(source)]
        built = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert built.returncode == 0, built.stdout + built.stderr
    else:
        _unpack(source, target)
    return target


def _unpack(source: Path, target: Path) -> None:
    """Do what an installer would: the modules, and what they are found by."""
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shutil.copytree(source / "src", target)
    about = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [(group, entries) for group, entries in project["entry-points"].items()]
    lines = [line for group, entries in points for line in (f"[{group}]", *(f"{k} = {v}" for k, v in entries.items()))]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", ["wordcount_interface"])
def test_package(name: str, tmp_path: Path) -> None:
    target = install(name, tmp_path)
    # Debug mode is for our tests, not for a user's programs.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONASYNCIODEBUG"}
    environment["PYTHONPATH"] = os.pathsep.join([str(target), *filter(None, [environment.get("PYTHONPATH")])])
    tests = tmp_path / "source" / "tests"
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(command, cwd=tests.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_shows_the_whole_of_it() -> None:
    page = (EXAMPLES.parent / "docs" / "howto" / "write-an-interface.md").read_text(encoding="utf-8")
    source = (EXAMPLES / "wordcount_interface" / "src" / "wordcount.py").read_text(encoding="utf-8")
    assert f"```python\n{source}```\n" in page
