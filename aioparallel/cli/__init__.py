"""The programs, one module per command, and the manners they share.

Mistakes end with one clear line on standard error: status 2 for how a program was called, 1 for what went
wrong. A traceback is shown with `--debug` only. A program that another one started (`--managed`, `--announce`)
says how its start went as one line of JSON on standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from aioparallel.errors import ConfigurationError, ParallelError
from aioparallel.resources import parse_resource

__all__ = [
    "Command",
    "Parser",
    "announce",
    "count",
    "execute",
    "hosting_arguments",
    "place_arguments",
    "print_table",
    "resource_argument",
]

FAILED = 1
USAGE = 2


class Command(Protocol):
    """A module of this folder, seen as a command."""

    def arguments(self, parser: Parser) -> None:
        """Say which arguments there are."""

    def run(self, options: argparse.Namespace) -> int:
        """Do it, and return the exit status."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with status 2.

        Raises:
            SystemExit: Always.
        """
        self.exit(USAGE, f"{self.prog}: {message} ({self.prog} --help explains)\n")


def count(text: str) -> int:
    """Return the whole number from 1 up that `text` is, for argparse.

    Raises:
        argparse.ArgumentTypeError: It isn't one.
    """
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65535):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, not {text!r}")
    return int(text)


def resource_argument(parser: Parser) -> None:
    """Add the argument that says what each engine has."""
    parser.add_argument(
        "--resource",
        metavar="NAME=NUMBER",
        action="append",
        default=[],
        type=_resource,
        help="what each of the engines has, such as gpu=1, for tasks that ask for it; may be repeated",
    )


def _resource(text: str) -> tuple[str, float]:
    try:
        return parse_resource(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def hosting_arguments(parser: Parser) -> None:
    """Add the arguments that say what a controller hosts, and by which plug-ins it works."""
    parser.add_argument(
        "--interface",
        metavar="NAME",
        action="append",
        default=[],
        help="host only this one (default: all that are installed); module:Class: host this one too; may be repeated",
    )
    parser.add_argument(
        "--queue",
        metavar="NAME",
        default="fifo",
        help="where commands wait for their engine: fifo, priority, another that is installed, or module:Class "
        "(default: fifo)",
    )
    parser.add_argument(
        "--scheduler",
        metavar="NAME",
        help="which engine takes a task: least-loaded (the default), lru, random, two-bin, weighted, lifo, the name of "
        "a plug-in, or module:Class",
    )


def place_arguments(parser: Parser) -> None:
    """Add the arguments that say which cluster is meant."""
    parser.add_argument("--cluster", metavar="NAME", default="default", help="the cluster's name (default: default)")
    parser.add_argument(
        "--directory",
        metavar="DIR",
        type=Path,
        help="where capability files, logs and sockets are (default: AIOPARALLEL_DIR or ~/.aioparallel)",
    )


def execute(program: str, command: Command, argv: Sequence[str] | None = None) -> int:
    """Run a command with its arguments and return the exit status; complaints go to standard error.

    Raises:
        SystemExit: The arguments were wrong, or only help was wanted.
    """
    parser = Parser(prog=program, description=(command.__doc__ or "").partition("\n")[0])
    command.arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show tracebacks, log everything")
    options = parser.parse_args(argv)
    try:
        status = command.run(options)
        sys.stdout.flush()
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough; the interpreter must not try to flush it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except (ParallelError, OSError) as error:
        return _failed(program, options, error, str(error))
    except Exception as error:
        text = f"{type(error).__name__}: {error} (a mistake in aioparallel; --debug shows where)"
        return _failed(program, options, error, text)
    return status


def _failed(program: str, options: argparse.Namespace, error: Exception, text: str) -> int:
    status = USAGE if isinstance(error, ConfigurationError) else FAILED
    if getattr(options, "managed", False) or getattr(options, "announce", False):
        announce(error=text, status=status)
    if options.debug:
        traceback.print_exception(error)
    print(f"{program}: {text}", file=sys.stderr)
    return status


def announce(**values: Any) -> None:
    """Tell the program that started this one how it went: one line of JSON on standard output."""
    try:
        print(json.dumps(values), flush=True)
    except OSError:
        # Nobody listens any more; then nobody wants to know.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under a head, in columns as wide as they need to be."""
    lines = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
