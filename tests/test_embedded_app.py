"""The example of an application that embeds controller and engines: its own tests, run as its user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parent.parent / "examples" / "embedded_app"


def test_embedded_app() -> None:
    pytest.importorskip("aiohttp", reason="SKIPPED: examples/embedded_app is not tested, for there is no aiohttp here")
    # Debug mode is for our tests, not for a user's programs.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONASYNCIODEBUG"}
    environment["PYTHONPATH"] = os.pathsep.join([str(APP / "src"), *filter(None, [environment.get("PYTHONPATH")])])
    command = [sys.executable, "-B", "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(APP / "tests")]
    done = subprocess.run(command, cwd=APP, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_shows_how_it_begins_and_ends() -> None:
    source = (APP / "src" / "embedded_app.py").read_text(encoding="utf-8")
    hooks = source[source.index("async def computing(") : source.index("async def page(")].rstrip()
    page = (APP.parent.parent / "docs" / "howto" / "embed-a-controller.md").read_text(encoding="utf-8")
    assert f"```py\n{hooks}\n```\n" in page
