"""End a cluster, and return when nothing of it is left."""

from __future__ import annotations

import argparse
import json
import os
import signal

from aioparallel import loops
from aioparallel.capability import Capability, capability_path, state_directory
from aioparallel.cli import FAILED, Parser, place_arguments
from aioparallel.cli.rundir import CLUSTER, CONTROLLER, ENGINES, Holder, holder, run_directory, wait_free
from aioparallel.errors import ClusterError, ConnectionFailed

__all__ = ["arguments", "run"]

#: Seconds for an end in good order, and after SIGKILL.
GRACE = 15.0
HARD = 5.0


def arguments(parser: Parser) -> None:
    """Say which arguments there are."""
    place_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was ended as JSON")


def run(options: argparse.Namespace) -> int:
    """End it."""
    state = state_directory(options.directory)
    place = run_directory(state, options.cluster)
    ended = []
    for lock in (CLUSTER, CONTROLLER):
        running = holder(place / lock)
        if running is None:
            continue
        _end(running, options)
        if not wait_free(place / lock, GRACE):
            _kill(running)
            if not wait_free(place / lock, HARD):
                raise ClusterError(
                    f"process {running.pid} on {running.host} of cluster {options.cluster!r} does not end"
                )
        ended.append(running.pid)
    if ended and not wait_free(place / ENGINES, HARD):
        raise ClusterError(f"engines of cluster {options.cluster!r} go on: see aiocluster logs")
    if options.json:
        print(json.dumps({"cluster": options.cluster, "ended": ended}))
    elif ended:
        print(f"cluster {options.cluster!r} has ended")
    else:
        print(f"cluster {options.cluster!r} does not run")
    return 0 if ended else FAILED


def _end(running: Holder, options: argparse.Namespace) -> None:
    if running.is_here:
        _signal(running.pid, signal.SIGTERM)
        return
    # The state directory is shared, and the process is on another machine.
    try:
        loops.run(_shut_down(options))
    except ConnectionFailed as error:
        raise ClusterError(f"cluster {options.cluster!r} runs on {running.host}: stop it there ({error})") from error


async def _shut_down(options: argparse.Namespace) -> None:
    from aioparallel.interfaces.admin import AdminClient

    capability = Capability.load(capability_path("admin", cluster=options.cluster, directory=options.directory))
    async with AdminClient(capability) as admin:
        await admin.shutdown()


def _kill(running: Holder) -> None:
    if running.is_here:
        _signal(running.pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    # The lock was held a moment ago, so the process id is still its holder's. 0 would be our own group.
    if pid <= 0:
        raise ClusterError("the lock does not say which process holds it")
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
