"""Say which tasks run, which wait and for what, and which have failed lately."""

from __future__ import annotations

import argparse
import json
from typing import Any

from aioparallel.cli import Parser, place_arguments, print_table
from aioparallel.cli.status import duration, fetch_status, short
from aioparallel.errors import OperationError

__all__ = ["arguments", "run"]


def arguments(parser: Parser) -> None:
    """Say which arguments there are."""
    place_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Ask the controller and print it.

    Raises:
        OperationError: The controller hosts no tasks.
    """
    report = fetch_status(options)["reports"].get("task")
    if report is None:
        raise OperationError(f"the controller of cluster {options.cluster!r} does not host the interface 'task'")
    if options.json:
        print(json.dumps(report))
        return 0
    counts, held = report["counts"], report["held"]
    print(
        f"{counts['pending']} at engines, {counts['scheduled']} waiting, {counts['succeeded']} succeeded, "
        f"{counts['failed']} failed; {held['results']} results kept ({held['bytes']:,} bytes)"
    )
    rows = [_row("at an engine", task) for task in report["running"]]
    rows += [_row("waiting", task) for task in report["waiting"]]
    rows += [_row("failed", task) for task in report["failed"]]
    if rows:
        print()
        print_table(("TASK", "WHAT", "STATE", "FOR", "ENGINE", "CLIENT", "WHY"), rows)
    for name, state in (("running", "pending"), ("waiting", "scheduled"), ("failed", "failed")):
        more = counts[state] - len(report[name])
        if more > 0:
            print(f"and {more:,} more {'at engines' if name == 'running' else name}")
    return 0


def _row(state: str, task: dict[str, Any]) -> tuple[object, ...]:
    seconds = task.get("seconds")
    engine = task["engine"]
    return (
        task["id"],
        short(task["label"], 24),
        state,
        "" if seconds is None else duration(seconds),
        "" if engine is None else engine,
        task["client"][:8],
        # The sentence begins with which task it is about: that is in the first columns.
        short(task["why"].removeprefix(f"task {task['id']} ({task['label']}): "), 72),
    )
