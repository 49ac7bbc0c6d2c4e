"""The examples, run as a user runs them: each must end with status 0 on a cluster of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
#: A small part of the standard library is enough to show that the counts agree, and few paths that prices do.
ARGUMENTS = {
    "montecarlo.py": ["400"],
    "wordfreq.py": [str(Path(json.__file__).parent.parent / "asyncio")],
}


def run_example(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aioparallel", "run", "-n", "2", str(EXAMPLES / name), *arguments]
    # Debug mode is for our tests, not for a user's programs.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_example(name: str) -> None:
    done = run_example(name, *ARGUMENTS[name])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "2 engines" in done.stdout or "20 points" in done.stdout
