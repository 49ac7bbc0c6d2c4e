"""The pages: each of their Python blocks runs, as a script on a cluster of its own, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_readme import ROOT, expected_output, run_on_a_cluster

BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in sorted((ROOT / "docs").rglob("*.md"))
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_block(block: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block, encoding="utf-8")
    done = run_on_a_cluster(script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == expected_output(block)
