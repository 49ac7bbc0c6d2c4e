"""Remove what ended clusters left behind; with --all their capabilities too."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import tempfile
from pathlib import Path

from aioparallel.capability import check_name, state_directory
from aioparallel.cli import Parser
from aioparallel.cli.listing import clusters
from aioparallel.cli.logfile import logs
from aioparallel.cli.rundir import CLUSTER, CONTROLLER, Holder, Lock, last_holder
from aioparallel.errors import ClusterError
from aioparallel.source import SYSTEM

__all__ = ["arguments", "run"]


def arguments(parser: Parser) -> None:
    """Say which arguments there are."""
    parser.add_argument("--cluster", metavar="NAME", help="only this cluster's (default: all that have ended)")
    parser.add_argument("--all", action="store_true", help="identity and capability files too: copies of them go stale")
    parser.add_argument("--directory", metavar="DIR", type=Path, help="the state directory")
    parser.add_argument("--json", action="store_true", help="print what was removed as JSON")


def run(options: argparse.Namespace) -> int:
    """Remove it; clusters and processes that run keep what is theirs."""
    state = state_directory(options.directory)
    if options.cluster is not None:
        check_name(options.cluster, "a cluster")
    removed: list[Path] = []
    for log in logs(state, options.cluster):
        if not log.alive:
            log.remove()
            removed.append(log.path)
    for cluster in clusters(state):
        if options.cluster in (None, cluster.cluster) and not cluster.running:
            removed += _cleaned(state, cluster.cluster, everything=options.all)
    if options.json:
        print(json.dumps([str(path) for path in removed]))
    elif removed:
        print("\n".join(f"removed {path}" for path in removed))
    else:
        print("nothing to remove")
    return 0


def _cleaned(state: Path, cluster: str, *, everything: bool) -> list[Path]:
    """Remove an ended cluster's files and return what was removed; one that is just starting is left alone."""
    place = state / "run" / cluster
    me = Holder.this_process(SYSTEM)
    removed = []
    with contextlib.suppress(ClusterError), contextlib.ExitStack() as stack:
        sockets = _lost_sockets(place / CONTROLLER)
        for lock in (CLUSTER, CONTROLLER):
            stack.enter_context(Lock(place / lock, me))
        for path in [*sockets, place, *([state / "security" / cluster] if everything else [])]:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed


def _lost_sockets(lock: Path) -> list[Path]:
    """Return the directories that were made for a socket with too long a path, and that are still there."""
    last = last_holder(lock)
    sockets = [Path(address.removeprefix("unix://")) for address in (last.addresses if last else ())]
    temporary = Path(tempfile.gettempdir())
    return [
        socket.parent
        for socket in sockets
        if socket.parent.parent == temporary
        and socket.parent.name.startswith("aioparallel-")
        and socket.parent.is_dir()
    ]
