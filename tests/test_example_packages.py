"""The examples that are packages of their own: installed as a stranger's are, and their own tests run."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"

#: The packages, and what each needs besides aioparallel.
NEEDS = {
    "wordcount_interface": "",
    "mapreduce_interface": "",
    "websocket_transport": "websockets",
    "embedded_app": "aiohttp",
}


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
    points = project.get("entry-points", {}).items()
    lines = [line for group, entries in points for line in (f"[{group}]", *(f"{k} = {v}" for k, v in entries.items()))]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                bool(needs) and find_spec(needs) is None, reason=f"EXAMPLE NOT TESTED: there is no {needs} here"
            ),
        )
        for name, needs in NEEDS.items()
    ],
)
def test_package(name: str, tmp_path: Path) -> None:
    target = install(name, tmp_path)
    # Debug mode is for our tests, not for a user's programs.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONASYNCIODEBUG"}
    environment["PYTHONPATH"] = os.pathsep.join([str(target), *filter(None, [environment.get("PYTHONPATH")])])
    # What else is installed for pytest takes longer to load than these tests do to run.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    tests = tmp_path / "source" / "tests"
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(command, cwd=tests.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_none_is_left_out() -> None:
    assert {place.parent.name for place in EXAMPLES.glob("*/pyproject.toml")} == set(NEEDS)
    assert {place.parent.name for place in EXAMPLES.glob("*/README.md")} == set(NEEDS)


def test_the_page_shows_the_whole_of_the_word_count() -> None:
    page = (ROOT / "docs" / "howto" / "write-an-interface.md").read_text(encoding="utf-8")
    source = (EXAMPLES / "wordcount_interface" / "src" / "wordcount.py").read_text(encoding="utf-8")
    assert f"```python\n{source}```\n" in page


def test_the_page_shows_how_the_web_service_begins_and_ends() -> None:
    source = (EXAMPLES / "embedded_app" / "src" / "embedded_app.py").read_text(encoding="utf-8")
    hooks = source[source.index("async def computing(") : source.index("async def page(")].rstrip()
    page = (ROOT / "docs" / "howto" / "embed-a-controller.md").read_text(encoding="utf-8")
    assert f"```py\n{hooks}\n```\n" in page


def test_who_has_not_the_transport_is_told_so(tmp_path: Path) -> None:
    code = "from aioparallel import transports; transports.get('wss://host0:443')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "no transport for 'wss://host0:443'; known: memory://, tls://, unix://" in done.stderr
    assert "is the package that brings wss:// installed here?" in done.stderr
