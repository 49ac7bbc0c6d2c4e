"""Find the log files, show their ends."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from pathlib import Path

from aioparallel.capability import check_name, state_directory
from aioparallel.cli import FAILED, Parser, count, print_table
from aioparallel.cli.logfile import log_directory, logs

__all__ = ["arguments", "run"]


def arguments(parser: Parser) -> None:
    """Say which arguments there are."""
    parser.add_argument("--cluster", metavar="NAME", help="only those of this cluster")
    parser.add_argument(
        "--role", choices=("cluster", "controller", "engine"), help="only those of this kind of process"
    )
    parser.add_argument("--running", action="store_true", help="only those of processes that run")
    parser.add_argument("--tail", metavar="N", type=count, help="print the last N lines of each")
    parser.add_argument("--directory", metavar="DIR", type=Path, help="the state directory")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print where they are, the newest last, or what is in them."""
    state = state_directory(options.directory)
    if options.cluster is not None:
        check_name(options.cluster, "a cluster")
    found = [
        log
        for log in logs(state, options.cluster)
        if options.role in (None, log.role) and (log.alive or not options.running)
    ]
    if options.json:
        plain = [
            {
                "path": str(log.path),
                "cluster": log.cluster,
                "role": log.role,
                "pid": log.pid,
                "size": log.size,
                "modified": log.modified,
                "running": log.alive,
                **({"lines": log.tail(options.tail)} if options.tail else {}),
            }
            for log in found
        ]
        print(json.dumps(plain))
    elif not found:
        print(f"no log files in {log_directory(state)}")
        return FAILED
    elif options.tail:
        for log in found:
            print(f"==> {log.path} <==", *log.tail(options.tail), "", sep="\n")
    else:
        print_table(
            ("CLUSTER", "ROLE", "PROCESS", "LAST WRITTEN", "BYTES", "FILE"),
            [
                (
                    log.cluster,
                    log.role,
                    f"{log.pid} {'running' if log.alive else 'ended'}",
                    datetime.fromtimestamp(log.modified).strftime("%Y-%m-%d %H:%M:%S"),
                    log.size,
                    log.path,
                )
                for log in found
            ],
        )
    return 0
