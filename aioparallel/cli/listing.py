"""List the clusters of this user and whether they run."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from aioparallel.capability import state_directory
from aioparallel.cli import Parser, print_table
from aioparallel.cli.rundir import CONTROLLER, holder

__all__ = ["Found", "arguments", "clusters", "run"]


@dataclass(frozen=True, slots=True)
class Found:
    """One cluster.

    Attributes:
        cluster: Its name.
        running: Whether its controller runs.
        pid: The controller's process id, 0 if there is none.
        host: Its machine.
        addresses: Where it listens.
        started: Unix time.
    """

    cluster: str
    running: bool
    pid: int = 0
    host: str = ""
    addresses: tuple[str, ...] = ()
    started: float = 0.0


def arguments(parser: Parser) -> None:
    """Say which arguments there are."""
    parser.add_argument("--directory", metavar="DIR", type=Path, help="the state directory")
    parser.add_argument("--json", action="store_true", help="print JSON")


def clusters(state: Path) -> list[Found]:
    """Return the clusters that have run below this state directory, by name."""
    names = {place.name for part in ("run", "security") for place in (state / part).glob("*") if place.is_dir()}
    found = []
    for name in sorted(names):
        running = holder(state / "run" / name / CONTROLLER)
        if running is None:
            found.append(Found(name, running=False))
        else:
            found.append(Found(name, True, running.pid, running.host, running.addresses, running.started))
    return found


def run(options: argparse.Namespace) -> int:
    """Print them."""
    state = state_directory(options.directory)
    found = clusters(state)
    if options.json:
        print(json.dumps([asdict(cluster) for cluster in found]))
    elif not found:
        print(f"no cluster has run in {state}")
    else:
        print_table(("CLUSTER", "STATE", "SINCE", "PROCESS", "ADDRESS"), [_row(cluster) for cluster in found])
    return 0


def _row(cluster: Found) -> tuple[str, ...]:
    if not cluster.running:
        return cluster.cluster, "ended", "", "", ""
    since = datetime.fromtimestamp(cluster.started).strftime("%Y-%m-%d %H:%M")
    return cluster.cluster, "running", since, f"{cluster.pid} on {cluster.host}", ", ".join(cluster.addresses)
