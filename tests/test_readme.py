"""README and docs: their Python runs. README: its transcript is what one sees, its second command runs every change."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

#: Run by the script that stands for a person at a prompt: the lines typed, and what they must print.
PROMPT = """
import doctest, sys
test = doctest.DocTestParser().get_doctest(sys.stdin.read(), {}, "README.md", "README.md", 0)
runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
runner.run(test)
sys.exit(runner.failures > 0)
"""


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def pages() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def programs() -> list[tuple[str, int]]:
    """Return each block of Python: its page, and which it is there."""
    return [
        (name, number)
        for name in pages()
        for number in range(len(blocks("python", (ROOT / name).read_text(encoding="utf-8"))))
    ]


def run_on_a_cluster(script: Path, *, typed: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
    command = [sys.executable, "-m", "aioparallel", "run", "-n", "4", str(script)]
    return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=120, env=environment)


def expected_output(block: str) -> list[str]:
    """Return what a block says its prints show: the comments that begin with `# ->`."""
    return re.findall(r"# -> (.*)$", block, re.MULTILINE)


@pytest.mark.parametrize(("name", "number"), programs())
def test_python_block(name: str, number: int, tmp_path: Path) -> None:
    block = blocks("python", (ROOT / name).read_text(encoding="utf-8"))[number]
    script = tmp_path / "block.py"
    script.write_text(block, encoding="utf-8")
    done = run_on_a_cluster(script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == expected_output(block)


@pytest.mark.parametrize("number", range(len(blocks("pycon"))))
def test_transcript(number: int, tmp_path: Path) -> None:
    script = tmp_path / "prompt.py"
    script.write_text(PROMPT, encoding="utf-8")
    # In a doctest an empty line ends the expected output; ours has empty lines within.
    typed = re.sub(r"\n\n(?!>>>|\Z)", "\n<BLANKLINE>\n", blocks("pycon")[number])
    done = run_on_a_cluster(script, typed=typed)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_blocks_to_run() -> None:
    assert len(blocks("python")) >= 2
    assert blocks("pycon")


def test_the_second_command_is_the_one_run_for_every_change() -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert ".venv/bin/aiocluster run -n 4 examples/wordfreq.py" in commands[0]
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == commands[1]


@pytest.mark.parametrize("name", pages())
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{name} points to {target}"
