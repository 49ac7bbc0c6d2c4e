"""Run engines that join a controller: `aioengine -n 4`. Started first, they wait for it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from aioparallel import loops
from aioparallel.capability import capability_path, environment_capability, state_directory
from aioparallel.cli import Command, Parser, announce, count, execute, place_arguments, resource_argument
from aioparallel.cli.detached import let_go
from aioparallel.cli.ending import Ending
from aioparallel.cli.logfile import log_to
from aioparallel.cli.rundir import ENGINES, Lock, run_directory
from aioparallel.engine import EngineHost
from aioparallel.errors import ParallelError

__all__ = ["arguments", "main", "run"]

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Be `aioengine`, and return the exit status.

    Raises:
        SystemExit: The arguments were wrong, or only help was wanted.
    """
    return execute("aioengine", cast(Command, sys.modules[__name__]), argv)


def arguments(parser: Parser) -> None:
    """Say which arguments there are."""
    parser.add_argument("-n", type=count, metavar="N", default=1, help="how many engines (default: 1)")
    parser.add_argument(
        "--capability", metavar="FILE", type=Path, help="the engine capability file (default: the cluster's)"
    )
    parser.add_argument(
        "--path",
        metavar="DIR",
        action="append",
        default=[],
        type=os.path.abspath,
        help="a directory to import from; may be repeated",
    )
    parser.add_argument(
        "--wait", metavar="SECONDS", type=float, help="how long to wait for the controller (default: until it comes)"
    )
    resource_argument(parser)
    place_arguments(parser)
    parser.add_argument("--managed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--announce", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Run them until the controller, or somebody here, ends them."""
    return loops.run(_serve(options), debug=options.debug or None)


async def _serve(options: argparse.Namespace) -> int:
    state = state_directory(options.directory)
    by_hand = not (options.managed or options.announce)
    file = options.capability or environment_capability("engine")
    with Ending(managed=options.managed) as ending, Lock(run_directory(state, options.cluster) / ENGINES, None):
        log = log_to(state, options.cluster, "engine", debug=options.debug, stderr=by_hand)
        host = EngineHost(
            file or capability_path("engine", cluster=options.cluster, directory=state),
            n=options.n,
            resources=dict(options.resource),
            path=options.path,
            connect_timeout=options.wait,
            on_waiting=_say_waiting if by_hand else None,
        )
        try:
            async with host:
                await host.wait_ready()
                _tell(host, log, options)
                await host.wait_closed()
                logger.info("ended: the controller or a client ended it")
        except asyncio.CancelledError:
            if not ending.reason:
                raise
            logger.info("ended: %s", ending.reason)
        except Exception as error:
            logger.error("ended: %s", error, extra={"final": True})
            raise
    return 0


def _say_waiting(reason: ParallelError) -> None:
    print(f"waiting for a controller ({reason})", file=sys.stderr, flush=True)


def _tell(host: EngineHost, log: Path, options: argparse.Namespace) -> None:
    """Say that the engines are ready, to whoever waits for that."""
    ready = {"pid": os.getpid(), "engines": host.engine_ids, "log": str(log)}
    logger.info("ready: engines %s", ready["engines"])
    if options.managed:
        announce(ready=True, **ready)
    elif options.announce:
        let_go(**ready)
    else:
        ids = ", ".join(map(str, host.engine_ids))
        print(f"engine{'s' if options.n > 1 else ''} {ids} joined {options.cluster!r}; Ctrl-C ends them", flush=True)


if __name__ == "__main__":
    sys.exit(main())
