"""Start a controller and engines on this machine, and keep them until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from pathlib import Path

from aioparallel import loops
from aioparallel.capability import capability_path, state_directory
from aioparallel.cli import Parser, count, hosting_arguments, place_arguments
from aioparallel.cli.detached import let_go, start_detached
from aioparallel.cli.ending import Ending
from aioparallel.cli.logfile import log_to
from aioparallel.cli.rundir import CLUSTER, CONTROLLER, ENGINES, Holder, Lock, holder, run_directory, wait_free
from aioparallel.cluster import Cluster
from aioparallel.errors import ClusterError
from aioparallel.source import SYSTEM

__all__ = ["arguments", "run"]

logger = logging.getLogger(__name__)


def arguments(parser: Parser) -> None:
    """Say which arguments there are."""
    parser.add_argument("-n", type=count, metavar="N", help="how many engines (default: one for each processor)")
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        help="where the controller listens: unix:///path or tls://host:port; may be repeated (default: a Unix socket)",
    )
    hosting_arguments(parser)
    parser.add_argument("--launcher", metavar="NAME", default="local", help="what starts the engines (default: local)")
    parser.add_argument(
        "--path",
        metavar="DIR",
        action="append",
        help="a directory from which engines can import; besides the working directory; may be repeated",
    )
    parser.add_argument("--daemonize", action="store_true", help="return when it is ready; `aiocluster stop` ends it")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=60.0, help="how long the start may take")
    parser.add_argument("--json", action="store_true", help="print one line of JSON when it is ready")
    place_arguments(parser)
    parser.add_argument("--announce", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Start it; return when it has ended, or, with --daemonize, when it is ready."""
    if options.daemonize:
        _print_ready(start_detached(_again(options)), options)
        return 0
    return loops.run(_keep(options), debug=options.debug or None)


def _cluster(options: argparse.Namespace, state: Path) -> Cluster:
    return Cluster(
        options.n,
        listen=options.listen,
        launcher=options.launcher,
        queue=options.queue,
        name=options.cluster,
        directory=state,
        path=options.path or (),
        scheduler=options.scheduler,
        timeout=options.timeout,
        interfaces=options.interface,
    )


async def _keep(options: argparse.Namespace) -> int:
    state = state_directory(options.directory)
    place = run_directory(state, options.cluster)
    me = Holder.this_process(SYSTEM)
    cluster = _cluster(options, state)
    with Ending() as ending, Lock(place / CLUSTER, me):
        # One by hand would get the engines that are meant for ours.
        running = holder(place / CONTROLLER)
        if running is not None:
            raise ClusterError(
                f"cluster {options.cluster!r} runs already (process {running.pid} on {running.host}): "
                "end it with aiocluster stop"
            )
        log = log_to(state, options.cluster, "cluster", debug=options.debug, stderr=not options.announce)
        ending.on_again = cluster.kill
        try:
            async with cluster:
                logger.info("ready: engines %s", cluster.engine_ids)
                _tell(cluster, log, options)
                end = await cluster.wait_ended()
                if end:
                    raise ClusterError(end)
        except asyncio.CancelledError:
            if not ending.reason:
                raise
            logger.info("ended: %s", ending.reason)
            # Being ended is how a cluster ends; being ended before there was one is not.
            return 0 if cluster.statistics().start else ending.status
        except ClusterError as error:
            logger.error("%s", error, extra={"final": True})
            raise
        finally:
            # Engines that were added by hand end with their controller, a moment after it.
            wait_free(place / ENGINES, 5.0)
    return 0


def _tell(cluster: Cluster, log: Path, options: argparse.Namespace) -> None:
    ready = {
        "cluster": cluster.name,
        "directory": str(cluster.directory),
        "pid": os.getpid(),
        "engines": cluster.engine_ids,
        "log": str(log),
    }
    if options.announce:
        let_go(**ready)
    else:
        _print_ready(ready, options)


def _print_ready(ready: dict[str, object], options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(ready), flush=True)
        return
    file = capability_path("multiengine", cluster=options.cluster, directory=options.directory)
    if options.directory is not None and file != capability_path("multiengine", cluster=options.cluster):
        argument = repr(str(file))
    else:
        argument = "" if options.cluster == "default" else f"cluster={options.cluster!r}"
    engines = ready["engines"]
    assert isinstance(engines, list)
    stop = ["aiocluster stop"]
    stop += [] if options.cluster == "default" else ["--cluster", options.cluster]
    stop += [] if options.directory is None else ["--directory", str(options.directory)]
    end = "Ctrl-C ends it."
    if options.daemonize:
        end = f"It runs in the background (process {ready['pid']}); `{' '.join(stop)}` ends it."
    print(
        f"{len(engines)} {'engine is' if len(engines) == 1 else 'engines are'} ready.\n\n"
        "    >>> from aioparallel import client\n"
        f"    >>> mec = client.MultiEngineClient({argument})\n"
        "    >>> mec.get_ids()\n"
        f"    {engines}\n\n"
        f"{end}",
        flush=True,
    )


def _again(options: argparse.Namespace) -> list[str]:
    """Return the command that starts the same cluster and stays with it."""
    command = [sys.executable, "-P", "-m", "aioparallel", "start", "--announce", "--cluster", options.cluster]
    command += ["--directory", str(state_directory(options.directory)), "--launcher", options.launcher]
    command += ["--queue", options.queue]
    command += ["--timeout", str(options.timeout)]
    command += ["-n", str(options.n)] if options.n else []
    command += ["--scheduler", options.scheduler] if options.scheduler else []
    command += [part for address in options.listen or () for part in ("--listen", address)]
    command += [part for entry in options.path or () for part in ("--path", entry)]
    command += [part for name in options.interface for part in ("--interface", name)]
    return [*command, "--debug"] if options.debug else command
