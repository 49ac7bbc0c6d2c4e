"""Say what a cluster and each of its engines is doing now."""

from __future__ import annotations

import argparse
import json
from typing import Any

from aioparallel import loops
from aioparallel.capability import Capability, capability_path
from aioparallel.cli import Parser, place_arguments, print_table

__all__ = ["arguments", "duration", "engine_table", "fetch_status", "run", "short"]


def arguments(parser: Parser) -> None:
    """Say which arguments there are."""
    place_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Ask the controller, which answers whatever the engines do, and print it."""
    status = fetch_status(options)
    if options.json:
        print(json.dumps(status))
        return 0
    # One of them is the one that asks.
    counts = status["clients"] | {"monitor": status["clients"].get("monitor", 1) - 1}
    clients = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()) if number) or "none"
    print(
        f"cluster {status['cluster']!r}: {len(status['engines'])} engines, "
        f"running for {duration(status['seconds'])} (controller: process {status['pid']})\n"
        f"listens on {', '.join(status['addresses'])}\n"
        f"clients: {clients}\n"
    )
    engine_table(status["engines"])
    return 0


def fetch_status(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the controller says about itself.

    Raises:
        NoClusterError: There is no such cluster.
        ControllerGone: There was one.
    """
    return loops.run(_fetch(options), debug=options.debug or None)


async def _fetch(options: argparse.Namespace) -> dict[str, Any]:
    from aioparallel.interfaces.monitor import MonitorClient

    file = capability_path("monitor", cluster=options.cluster, directory=options.directory)
    async with MonitorClient(Capability.load(file)) as monitor:
        status: dict[str, Any] = await monitor.status()
        return status


def engine_table(engines: list[dict[str, Any]]) -> None:
    """Print engines, one a line."""
    if not engines:
        print("no engines; aiocluster engines -n 2 starts some")
        return
    print_table(
        ("ENGINE", "STATE", "DOING", "FOR", "WAITING", "DEATHS", "PROCESS"),
        [
            (
                engine["id"],
                engine["state"],
                short(engine["doing"]),
                "" if engine["seconds"] is None else duration(engine["seconds"]),
                engine["queued"] + max(0, engine["under_way"] - 1),
                engine["deaths"],
                f"{engine['pid']} on {engine['host']}, Python {engine['python']}",
            )
            for engine in engines
        ],
    )
    for engine in engines:
        if engine["resources"]:
            has = ", ".join(f"{name}={amount:g}" for name, amount in engine["resources"].items())
            print(f"engine {engine['id']} has {has}")
        if engine["trouble"]:
            print(f"engine {engine['id']}: {engine['trouble']}")


def short(text: str | None, width: int = 48) -> str:
    """Return a text in one line of at most `width` characters."""
    line = " ".join((text or "").split())
    return line if len(line) <= width else line[: width - 1] + "…"


def duration(seconds: float) -> str:
    """Return a time span as people write it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
