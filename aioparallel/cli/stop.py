"""End a cluster, and return when nothing of it is left."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import sys
from pathlib import Path

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
    place = run_directory(state_directory(options.directory), options.cluster)
    ended = []
    for lock in (CLUSTER, CONTROLLER):
        running = holder(place / lock)
        if running is not None:
            _end(running, place / lock, options)
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


def _end(running: Holder, lock: Path, options: argparse.Namespace) -> None:
    """End the process that holds a lock, and wait until it is gone.

    Raises:
        ClusterError: It does not end, or is out of reach.
    """
    if not running.is_here:
        _end_elsewhere(running, lock, options)
        return
    # The lock was held a moment ago, so the process id is still its holder's. 0 would be our own group.
    if running.pid <= 0:
        raise ClusterError(f"{lock} does not say which process holds it")
    with contextlib.suppress(ProcessLookupError):
        for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, HARD)):
            if _signalled(running.pid, number, lock, patience):
                return
        raise ClusterError(f"process {running.pid} of cluster {options.cluster!r} does not end")


def _signalled(pid: int, number: int, lock: Path, patience: float) -> bool:
    """Send a signal, and return whether the process has ended after at most `patience` seconds."""
    if sys.platform != "linux":
        os.kill(pid, number)
        return wait_free(lock, patience)
    # Its lock is free a moment before the process is gone.
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, number)
        return bool(select.select([process], [], [], patience)[0])
    finally:
        os.close(process)


def _end_elsewhere(running: Holder, lock: Path, options: argparse.Namespace) -> None:
    """End a controller on another machine that shares the state directory."""
    try:
        loops.run(_shut_down(options))
    except ConnectionFailed as error:
        raise ClusterError(f"cluster {options.cluster!r} runs on {running.host}: stop it there ({error})") from error
    if not wait_free(lock, GRACE):
        raise ClusterError(f"cluster {options.cluster!r} on {running.host} does not end: stop it there")


async def _shut_down(options: argparse.Namespace) -> None:
    from aioparallel.interfaces.admin import AdminClient

    capability = Capability.load(capability_path("admin", cluster=options.cluster, directory=options.directory))
    async with AdminClient(capability) as admin:
        await admin.shutdown()
