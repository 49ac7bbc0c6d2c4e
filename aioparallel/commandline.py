"""The command lines of a cluster's programs, and the names by which these find the caller's classes."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from aioparallel import queues, transports
from aioparallel.capability import check_name
from aioparallel.errors import ConfigurationError
from aioparallel.importable import own_directories
from aioparallel.interface import Interface
from aioparallel.queues import Queue
from aioparallel.schedulers import find_policy
from aioparallel.source import SYSTEM

__all__ = ["CommandLines", "environment"]


class CommandLines:
    """What a cluster is to be, checked, in the words of `aiocontroller` and `aioengine`.

    Args:
        cluster: Its name.
        listen: Where the controller listens; None: a Unix socket.
        interfaces: Interfaces besides those that are installed, or names of the only ones that are wanted.
        queue: Where commands wait for their engine.
        scheduler: Which engine takes a task.
        path: Directories from which the programs can import; None: from where this one can, when they start.

    Attributes:
        interfaces: Each as a name, or as "module:Class".

    Raises:
        ConfigurationError: An argument that can't be used.
    """

    def __init__(
        self,
        cluster: str,
        *,
        listen: str | Sequence[str] | None = None,
        interfaces: str | type[Interface] | Sequence[str | type[Interface]] = (),
        queue: str | type[Queue] = "fifo",
        scheduler: str | None = None,
        path: str | Path | Sequence[str | Path] | None = None,
    ) -> None:
        several = [interfaces] if isinstance(interfaces, str | type) else interfaces
        self.interfaces = [_place_of_interface(interface) for interface in several]
        self._cluster = check_name(cluster, "a cluster")
        self._listen = [listen] if isinstance(listen, str) else list(listen or ())
        for address in self._listen:
            transports.get(address)
        self._queue = _place_of_queue(queue)
        entries = [path] if isinstance(path, str | Path) else path
        self._path = None if entries is None else [str(Path(entry).absolute()) for entry in entries]
        if scheduler is not None and ":" not in scheduler:
            find_policy(scheduler, SYSTEM)
        self._scheduler = scheduler

    def __repr__(self) -> str:
        return f"<CommandLines of the cluster {self._cluster!r}>"

    def controller(self, directory: Path, *, temporary: bool) -> list[str]:
        """Return what starts the controller; the state directory may be `temporary`."""
        listen = [option for address in self._listen for option in ("--listen", address)]
        wanted = [option for interface in self.interfaces for option in ("--interface", interface)]
        scheduler = ["--scheduler", self._scheduler] if self._scheduler is not None else []
        chosen = [*wanted, "--queue", self._queue, *scheduler]
        # What is not installed is imported from where the engines import it, and nothing else of ours is.
        path = self._path_options() if any(":" in option for option in chosen) else []
        rest = [*listen, *chosen, *path, *(["--temporary"] if temporary else [])]
        return [*_python("controller"), *self._place(directory), *rest]

    def engines(self, n: int, directory: Path, *, wait: float) -> list[str]:
        """Return what starts a host of `n` engines, which waits for the controller for so many seconds."""
        path = self._path_options()
        return [*_python("engine"), *self._place(directory), "-n", str(n), *path, "--wait", str(wait)]

    def _place(self, directory: Path) -> list[str]:
        return ["--managed", "--cluster", self._cluster, "--directory", str(directory)]

    def _path_options(self) -> list[str]:
        entries = own_directories() if self._path is None else self._path
        return [option for entry in entries for option in ("--path", entry)]


def environment() -> dict[str, str]:
    """Return an environment in which this very package is the one that is found."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[1])
    known = environment.get("PYTHONPATH", "").split(os.pathsep)
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *known):
        environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, known)])
    return environment


def _python(module: str) -> list[str]:
    # -P: a file in the working directory must not be taken for a module that a controller needs.
    return [sys.executable, "-P", "-m", f"aioparallel.cli.{module}"]


def _place_of_interface(interface: str | type[Interface]) -> str:
    """Return by what the controller finds an interface: its name, or as `module:Class`."""
    if isinstance(interface, str):
        return interface
    if not (isinstance(interface, type) and issubclass(interface, Interface)):
        raise ConfigurationError(f"interfaces are subclasses of aioparallel.Interface, or names, not {interface!r}")
    return _place_of(interface)


def _place_of_queue(queue: str | type[Queue]) -> str:
    """Return by what the controller finds a queue: its name, or as `module:Class`."""
    if isinstance(queue, str):
        if ":" not in queue:
            queues.get(queue)
        return queue
    return _place_of(queues.get(queue))


def _place_of(kind: type) -> str:
    """Return by what the controller, which is another process, imports a class.

    Raises:
        ConfigurationError: It can't.
    """
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise ConfigurationError(
            f"the controller, a process of its own, can't import {kind.__module__}.{kind.__qualname__}: put it in a "
            "module"
        )
    return f"{kind.__module__}:{kind.__qualname__}"
