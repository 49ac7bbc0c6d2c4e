"""Run a controller, without engines: `aiocontroller`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from aioparallel.cli import Command, Parser, announce, execute, hosting_arguments, place_arguments

if TYPE_CHECKING:
    from aioparallel.controller import Controller

__all__ = ["arguments", "main", "run"]

logger = logging.getLogger(__name__)

#: Where one listens on every network, which is no address to dial.
EVERYWHERE = ("0.0.0.0", "[::]")  # noqa: S104


def main(argv: Sequence[str] | None = None) -> int:
    """Be `aiocontroller`, and return the exit status.

    Raises:
        SystemExit: The arguments were wrong, or only help was wanted.
    """
    return execute("aiocontroller", cast(Command, sys.modules[__name__]), argv)


def arguments(parser: Parser) -> None:
    """Say which arguments there are."""
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        help="where to listen: unix:///path, tls://host:port (port 0: any, the same one next time), or what another "
        "transport that is installed serves; may be repeated (default: a Unix socket in the state directory)",
    )
    parser.add_argument("--location", metavar="HOST", help="the name by which other machines reach a tls:// address")
    hosting_arguments(parser)
    parser.add_argument(
        "--path",
        metavar="DIR",
        action="append",
        default=[],
        help="a directory from which a module:Class can be imported, besides the working directory; may be repeated",
    )
    place_arguments(parser)
    parser.add_argument("--managed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--temporary", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Run until somebody ends it."""
    # A controller is unable to unpickle, whatever it imports.
    for name in ("pickle", "_pickle", "cloudpickle"):
        sys.modules[name] = None  # type: ignore[assignment]
    from aioparallel import loops

    return loops.run(_serve(options), debug=options.debug or None)


async def _serve(options: argparse.Namespace) -> int:
    from aioparallel.authority import ControllerState
    from aioparallel.capability import state_directory
    from aioparallel.cli.ending import Ending
    from aioparallel.cli.logfile import log_to
    from aioparallel.cli.rundir import CONTROLLER, Holder, Lock, run_directory, socket_path
    from aioparallel.controller import Controller
    from aioparallel.source import SYSTEM

    # Last, so that nothing there is taken for a module that a controller needs.
    by_place = any(":" in name for name in (options.queue, options.scheduler or "", *options.interface))
    sys.path += [entry for entry in (*options.path, *([os.getcwd()] if by_place else [])) if entry not in sys.path]
    state = state_directory(options.directory)
    run = run_directory(state, options.cluster)
    made: Path | None = None
    async with contextlib.AsyncExitStack() as stack:
        ending = stack.enter_context(Ending(managed=options.managed))
        if options.temporary:
            stack.callback(_remove, state)
        me = Holder.this_process(SYSTEM)
        lock = stack.enter_context(Lock(run / CONTROLLER, me))
        log = log_to(state, options.cluster, "controller", debug=options.debug, stderr=not options.managed)
        kept = stack.enter_context(
            ControllerState.open(state / "security" / options.cluster / "controller.json", SYSTEM)
        )
        controller = Controller(kept, cluster=options.cluster, queue=options.queue)
        await stack.enter_async_context(controller)
        # Before the controller is closed: why it ends is told, not who was in a hurry then.
        stack.callback(ending.has_begun)
        left_out = await _host(controller, options.interface, options.scheduler)
        if options.listen:
            for address in options.listen:
                await _listen(controller, address, state, options.cluster)
        else:
            made = socket_path(run)
            if made.parent != run:
                stack.callback(shutil.rmtree, made.parent, ignore_errors=True)
            await controller.listen(f"unix://{made}")
        addresses = tuple(_reached(address, options.location) for address in controller.addresses)
        controller.publish(state, addresses=addresses)
        lock.write(replace(me, addresses=addresses))
        logger.info("ready at %s", ", ".join(addresses))
        if options.managed:
            announce(ready=True, pid=os.getpid(), addresses=addresses, log=str(log), left_out=left_out)
        else:
            print(f"the controller listens on {', '.join(addresses)}; Ctrl-C ends it", flush=True)
        try:
            await controller.wait_closed()
        except asyncio.CancelledError:
            if not ending.reason:
                raise
        logger.info("ending: %s", ending.reason or "asked to by a client")
    return 0


async def _host(controller: Controller, wanted: list[str], scheduler: str | None) -> list[str]:
    """Host the interfaces that were asked for by name, or all that are installed; and those asked for by place.

    Returns:
        Which that are installed are not hosted, and why, for people.
    """
    from aioparallel import plugins
    from aioparallel.errors import PluginError
    from aioparallel.interfaces.task import TaskInterface

    if scheduler is not None:
        await controller.add(TaskInterface(scheduler))
    left_out = []
    names = [name for name in wanted if ":" not in name]
    for name in names or plugins.names(plugins.INTERFACES):
        if name == TaskInterface.name and scheduler is not None:
            continue
        try:
            await controller.add(name)
        except PluginError as error:
            if names:
                raise
            # One package that is broken must not take the others' clusters away.
            left_out.append(f"the interface {name!r} is not hosted: {error}")
            logger.warning("%s", left_out[-1])
    for place in wanted:
        if ":" in place:
            kind = plugins.load(plugins.INTERFACES, place)
            # It may be installed as well.
            if not any(type(interface) is kind for interface in controller.interfaces.values()):
                await controller.add(place)
    return left_out


async def _listen(controller: Controller, address: str, state: Path, cluster: str) -> None:
    """Listen there; for "any port", on the one of last time, so that copied capability files go on working."""
    from aioparallel.errors import AddressError

    before = _address_before(address, state, cluster) if address.endswith(":0") else None
    if before is not None:
        try:
            await controller.listen(before)
        except AddressError as error:
            logger.warning("the port of last time is taken (%s): copied capability files have to be copied anew", error)
        else:
            return
    await controller.listen(address)


def _address_before(address: str, state: Path, cluster: str) -> str | None:
    from aioparallel.capability import Capability, capability_path
    from aioparallel.errors import CapabilityError

    try:
        last = Capability.load(capability_path("engine", cluster=cluster, directory=state))
    except CapabilityError:
        return None
    scheme = address.partition("://")[0]
    ports = [known.rpartition(":")[2] for known in last.addresses if known.startswith(f"{scheme}://")]
    return f"{address.removesuffix('0')}{ports[0]}" if ports and ports[0].isdigit() else None


def _reached(address: str, location: str | None) -> str:
    """Return the address as others dial it."""
    scheme, _, rest = address.partition("://")
    host, separator, port = rest.partition("/")[0].rpartition(":")
    if location is None and host in EVERYWHERE:
        location = platform.node()
    if location is None or not separator:
        # A path or a name: nobody reaches it from elsewhere.
        return address
    place = f"[{location}]" if ":" in location and not location.startswith("[") else location
    return f"{scheme}://{place}:{port}{rest.removeprefix(f'{host}:{port}')}"


def _remove(state: Path) -> None:
    """Remove a private cluster's directory, also when the program that made it was killed."""
    if state.parent == Path(tempfile.gettempdir()) and state.name.startswith("aioparallel-"):
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
