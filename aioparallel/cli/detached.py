"""Start a program that goes on when this one ends, and wait until it says that it is ready."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any

from aioparallel.cli import announce
from aioparallel.errors import ClusterError

__all__ = ["let_go", "start_detached"]


def start_detached(command: Sequence[str]) -> dict[str, Any]:
    """Start `command`, which has `--announce`, in a session of its own, and return what it announces.

    Raises:
        ClusterError: It did not start; the text is its own.
        KeyboardInterrupt: Ctrl-C; it has been ended.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()
            said = _parsed(line)
            if not said.get("ready"):
                output = process.stderr.read().decode(errors="replace").strip()
                raise ClusterError(str(said.get("error") or output or "it ended without a word"))
        except BaseException:
            process.terminate()
            raise
        # Popen's `with` would wait for it, and __del__ would warn that it still runs.
        process.stdout.close()
        process.stderr.close()
        process.returncode = 0
    return said


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def let_go(**values: Any) -> None:
    """Announce that this process is ready, and write no more to whoever started it."""
    announce(ready=True, **values)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for file in (0, 1, 2):
        os.dup2(nowhere, file)
    os.close(nowhere)
