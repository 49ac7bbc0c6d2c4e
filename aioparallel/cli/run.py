"""Start a cluster, run a Python script against it, end it, and exit with the script's status."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from aioparallel import loops
from aioparallel.cli import Parser, count, hosting_arguments
from aioparallel.cli.ending import Ending
from aioparallel.cluster import Cluster
from aioparallel.errors import ConfigurationError

__all__ = ["arguments", "run"]

#: Seconds that a script has for its own end after each signal.
GRACE = 2.0


def arguments(parser: Parser) -> None:
    """Say which arguments there are."""
    parser.add_argument("-n", type=count, metavar="N", help="how many engines (default: one for each processor)")
    parser.add_argument("--listen", metavar="ADDRESS", help="where the controller listens (default: a Unix socket)")
    hosting_arguments(parser)
    parser.add_argument("--launcher", metavar="NAME", default="local", help="what starts the engines (default: local)")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=60.0, help="how long the start may take")
    parser.add_argument("script", type=Path, help="a Python script; a client in it finds the cluster by itself")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="the script's arguments")


def run(options: argparse.Namespace) -> int:
    """Run it, and return its exit status."""
    if not options.script.is_file():
        raise ConfigurationError(f"there is no script {str(options.script)!r}")
    return loops.run(_run(options), debug=options.debug or None)


async def _run(options: argparse.Namespace) -> int:
    directory = options.script.absolute().parent
    cluster = Cluster(
        options.n,
        listen=options.listen,
        launcher=options.launcher,
        queue=options.queue,
        path=[directory],
        scheduler=options.scheduler,
        timeout=options.timeout,
        interfaces=options.interface,
    )
    with Ending() as ending:
        ending.on_again = cluster.kill
        try:
            async with cluster:
                return await _script(options, cluster.directory, ending)
        except asyncio.CancelledError:
            if not ending.reason:
                raise
            return ending.status


async def _script(options: argparse.Namespace, directory: Path, ending: Ending) -> int:
    environment = {**os.environ, "AIOPARALLEL_DIR": str(directory)}
    environment.pop("AIOPARALLEL_CAP", None)
    # In the foreground, with our terminal: it may ask questions, and Ctrl-C is its own, too.
    script = await asyncio.create_subprocess_exec(sys.executable, options.script, *options.args, env=environment)
    try:
        status = await script.wait()
    except asyncio.CancelledError:
        status = await _ended(script, ending)
    return status if status >= 0 else 128 - status


async def _ended(script: asyncio.subprocess.Process, ending: Ending) -> int:
    """End the script: the signal we had, then stronger ones."""
    first = ending.status - 128
    # A terminal has sent Ctrl-C to the script as well; a second one would hit it while it tidies up.
    sent = first == signal.SIGINT and _in_foreground()
    ending.on_again = script.kill
    for number in (0 if sent else first, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            script.send_signal(number)
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(script.wait(), GRACE)
    return await script.wait()


def _in_foreground() -> bool:
    """Tell whether a terminal's Ctrl-C reaches our process group."""
    try:
        with open("/dev/tty", "rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
