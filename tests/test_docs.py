"""README and docs: every block of Python runs and prints what the page says, each once; links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

#: Run by the script that stands for a person at a prompt: the lines typed, and all that is seen, also of errors.
PROMPT = """
import code, contextlib, doctest, io, sys, types
main = sys.modules["__main__"] = types.ModuleType("__main__")
person = code.InteractiveInterpreter(main.__dict__)
checker, flags = doctest.OutputChecker(), doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
screen, wrong = io.StringIO(), []
with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
    for example in doctest.DocTestParser().get_examples(sys.stdin.read()):
        before = screen.tell()
        person.runsource(example.source, "<stdin>")
        seen = screen.getvalue()[before:]
        if not checker.check_output(example.want, seen, flags):
            wrong.append(">>> " + example.source + checker.output_difference(example, seen, flags))
sys.exit("".join(wrong) or None)
"""


def blocks(language: str, page: Path) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def expected_output(block: str) -> list[str]:
    """Return what a block says its prints show: the comments that begin with `# ->`."""
    return re.findall(r"# -> (.*)$", block, re.MULTILINE)


def run_on_a_cluster(script: Path, *, typed: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
    command = [sys.executable, "-m", "aioparallel", "run", "-n", "4", str(script)]
    return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=120, env=environment)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT).with_suffix(""))


PROGRAMS = [
    pytest.param(block, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks("python", page))
]
TRANSCRIPTS = [pytest.param(page, id=name_of(page)) for page in PAGES if blocks("pycon", page)]


@pytest.mark.parametrize("block", PROGRAMS)
def test_python_block(block: str, tmp_path: Path) -> None:
    """Each is a program of its own, on a cluster of its own."""
    script = tmp_path / "block.py"
    script.write_text(block, encoding="utf-8")
    done = run_on_a_cluster(script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == expected_output(block)


@pytest.mark.parametrize("page", TRANSCRIPTS)
def test_transcript(page: Path, tmp_path: Path) -> None:
    """Those of one page are one session at a prompt."""
    script = tmp_path / "prompt.py"
    script.write_text(PROMPT, encoding="utf-8")
    # In a doctest an empty line ends the expected output; ours has empty lines within.
    typed = "\n".join(re.sub(r"\n\n(?!>>>|\Z)", "\n<BLANKLINE>\n", block) for block in blocks("pycon", page))
    done = run_on_a_cluster(script, typed=typed)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_blocks_to_run() -> None:
    assert len(blocks("python", ROOT / "README.md")) >= 2
    assert {param.id for param in TRANSCRIPTS} >= {"README", "docs/tutorial"}


def test_the_second_command_is_the_one_run_for_every_change() -> None:
    commands = [line for block in blocks("sh", ROOT / "README.md") for line in block.splitlines()]
    assert ".venv/bin/aiocluster run -n 4 examples/wordfreq.py" in commands[0]
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == commands[1]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} points to {target}"
