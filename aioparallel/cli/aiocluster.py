"""Start, look at and end clusters: `aiocluster -n 4`."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import cast

from aioparallel.cli import USAGE, Command, execute

__all__ = ["main"]

#: Each is a module beside this one, imported when it is asked for.
COMMANDS = {
    "start": "start a controller and engines on this machine (this is the default)",
    "stop": "end a cluster",
    "list": "list the clusters of this user and whether they run",
    "status": "say what a cluster and each of its engines is doing now",
    "tasks": "say which tasks run, wait, and have failed lately",
    "run": "start a cluster, run a Python script against it, end it",
    "engines": "list a cluster's engines, add some, end some",
    "logs": "find the log files, show their ends",
    "clean": "remove what ended clusters left behind",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, and return the exit status.

    Raises:
        SystemExit: The arguments were wrong, or only help was wanted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    match arguments:
        case ["-h" | "--help" | "help"]:
            print(_help())
            return 0
        case ["--version"]:
            print(f"aiocluster {version('aioparallel')}")
            return 0
        case [name, *rest] if not name.startswith("-"):
            pass
        case rest:
            name = "start"
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        known = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(COMMANDS)}"
        print(f"aiocluster: there is no command {name!r}; {known}", file=sys.stderr)
        return USAGE
    # A module named like a builtin would stand in its place in this package.
    module = "listing" if name == "list" else name
    command = cast(Command, import_module(f"aioparallel.cli.{module}"))
    return execute(f"aiocluster {name}", command, rest)


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name.ljust(width)}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: aiocluster [-n N] | aiocluster COMMAND ...\n\n"
        f"{(__doc__ or '').strip()}\n\n{commands}\n\n"
        "`aiocluster COMMAND --help` explains each; `aiocluster -n 4` is all that is needed to begin."
    )


if __name__ == "__main__":
    sys.exit(main())
