"""The reference pages: their Python runs, and prints what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path(__file__).resolve().parent.parent / "docs" / "reference"


def blocks() -> list[tuple[str, str]]:
    """Return every block of Python, with the name of its page."""
    return [
        (page.name, block)
        for page in sorted(PAGES.glob("*.md"))
        for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ]


@pytest.mark.parametrize(("page", "block"), blocks())
def test_python_block(page: str, block: str, tmp_path: Path) -> None:
    script = tmp_path / page.replace(".md", ".py")
    script.write_text(block, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
    command = [sys.executable, "-m", "aioparallel", "run", "-n", "4", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    # What a line prints stands behind it.
    assert done.stdout.splitlines() == re.findall(r"# -> (.*)$", block, re.MULTILINE)


def test_there_are_blocks_to_run() -> None:
    assert "clients.md" in {page for page, _ in blocks()}
