"""Engines of another Python than the client's: what is warned of, what is refused in words, and what works."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import ClassVar

import pytest

import aioparallel
from aioparallel.errors import PythonVersionWarning, SerializationError
from aioparallel.launchers import Job
from aioparallel.launchers.local import LocalLauncher

NAMES = ("python3.11", "python3.12", "python3.13", "python3.14")
ASK = "import sys; print(*sys.version_info[:2], sep='.')"


@functools.cache
def other_python() -> str | None:
    """Return an interpreter that we run on and that is not this one."""
    here = ".".join(map(str, sys.version_info[:2]))
    for name in NAMES:
        found = shutil.which(name)
        if found is None:
            continue
        # A name may be there without the interpreter that it stands for.
        said = subprocess.run([found, "-c", ASK], capture_output=True, text=True, check=False, timeout=30)
        if said.returncode == 0 and said.stdout.strip() not in ("", here):
            return found
    return None


class OtherPython(LocalLauncher):
    """Starts engines with another interpreter, which finds our package and nothing else of ours."""

    name: ClassVar[str] = "other"

    def __init__(self, python: str, package: Path) -> None:
        self._python = python
        self._package = package

    async def start(
        self, command: Sequence[str], count: int = 1, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> list[Job]:
        environment = {**(os.environ if env is None else env), "PYTHONPATH": str(self._package)}
        return await super().start([self._python, *command[1:]], count, cwd=cwd, env=environment)


@pytest.fixture
def launcher(tmp_path: Path) -> OtherPython:
    python = other_python()
    if python is None:
        pytest.skip(f"ENGINES OF ANOTHER PYTHON WERE NOT TESTED: none of {', '.join(NAMES)} is here besides this one")
    # Where this package is installed other packages are too, and they are this Python's.
    (tmp_path / "aioparallel").symlink_to(Path(aioparallel.__file__).parent)
    installed, metadata = distribution("aioparallel"), tmp_path / "aioparallel-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: aioparallel\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(installed.read_text("entry_points.txt") or "")
    (tmp_path / "both_have.py").write_text("import sys\ndef version():\n    return sys.version_info[:2]\n")
    return OtherPython(python, tmp_path)


def test_engines_of_another_python(launcher: OtherPython, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(launcher._package))
    import both_have

    async def main() -> None:
        async with aioparallel.Cluster(1, launcher=launcher, path=[]) as cluster:
            here = ".".join(map(str, sys.version_info[:2]))
            words = rf"engine 0 runs Python 3\.\d+\.\d+.*, this client {here}"
            with pytest.warns(PythonVersionWarning, match=words):  # noqa: PT031  (it comes before the first answer)
                mec = await cluster.multiengine()
                assert await mec.get_ids() == [0]
            # What is found by its name, in both.
            [there] = await mec.apply(both_have.version)
            assert there != sys.version_info[:2]
            assert there[0] == 3
            assert await mec.apply(divmod, 7, 2) == [(3, 1)]
            await mec.execute("double = lambda x: 2 * x")
            assert (await mec.execute("double(21)"))[0].value == "42"
            # What travels as bytecode, which is each version's own.
            shown = ".".join(map(str, there))
            words = rf"Python {here}\b.*Python {shown}\b|Python {shown}\b.*Python {here}\b"
            with pytest.raises(SerializationError, match=words) as caught:
                await mec.apply(lambda: 1, targets=0)
            assert "put" in str(caught.value)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PythonVersionWarning)
                tasks = await cluster.task()
                assert await tasks.submit(both_have.version) == there
                with pytest.raises(SerializationError, match=words):
                    await tasks.submit(lambda: 1)
            # The engine is none the worse for it.
            assert await mec.apply(abs, -1) == [1]

    asyncio.run(main())
