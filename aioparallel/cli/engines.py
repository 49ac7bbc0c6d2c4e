"""List a cluster's engines, add some (-n 2), end some (--stop 3,4)."""

from __future__ import annotations

import argparse
import json
import sys

from aioparallel import loops
from aioparallel.capability import Capability, capability_path, state_directory
from aioparallel.cli import Parser, count, place_arguments, resource_argument
from aioparallel.cli.detached import start_detached
from aioparallel.cli.status import engine_table, fetch_status
from aioparallel.errors import ConfigurationError

__all__ = ["arguments", "run"]


def arguments(parser: Parser) -> None:
    """Say which arguments there are."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-n", type=count, metavar="N", help="add so many engines on this machine")
    what.add_argument("--stop", type=_ids, metavar="IDS", help="end these engines: 3 or 0,2,5 or all")
    parser.add_argument(
        "--path",
        metavar="DIR",
        action="append",
        help="a directory from which the new ones can import; besides the working directory; may be repeated",
    )
    resource_argument(parser)
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=60.0, help="how long their start may take")
    parser.add_argument("--json", action="store_true", help="print JSON")
    place_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """List, add or end them.

    Raises:
        ConfigurationError: Resources for none.
    """
    if options.resource and not options.n:
        raise ConfigurationError("--resource is for engines that are added: say how many, -n 2")
    if options.n:
        fetch_status(options)  # without a controller, say so at once
        done = start_detached(_command(options))["engines"]
        word = "added"
    elif options.stop:
        done = loops.run(_stop(options), debug=options.debug or None)
        word = "ended"
    else:
        engines = fetch_status(options)["engines"]
        if options.json:
            print(json.dumps(engines))
        else:
            engine_table(engines)
        return 0
    if options.json:
        print(json.dumps({word: done}))
    else:
        print(f"{word}: {', '.join(map(str, done)) or 'none'}")
    return 0


def _ids(text: str) -> list[int] | str:
    if text == "all":
        return text
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"must be engine ids such as 0,2,5, or all, not {text!r}")
    return [int(part) for part in parts]


async def _stop(options: argparse.Namespace) -> list[int]:
    from aioparallel.interfaces.admin import AdminClient

    file = capability_path("admin", cluster=options.cluster, directory=options.directory)
    async with AdminClient(Capability.load(file)) as admin:
        ended: list[int] = await admin.stop_engines(options.stop)
        return ended


def _command(options: argparse.Namespace) -> list[str]:
    # They end with the controller that they join: whoever stops that stops them.
    command = [sys.executable, "-P", "-m", "aioparallel.cli.engine", "--announce", "--wait", str(options.timeout)]
    command += ["-n", str(options.n), "--cluster", options.cluster]
    command += ["--directory", str(state_directory(options.directory))]
    command += [part for entry in options.path or () for part in ("--path", entry)]
    command += [part for name, amount in options.resource for part in ("--resource", f"{name}={amount!r}")]
    return [*command, "--debug"] if options.debug else command
