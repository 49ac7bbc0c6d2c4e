"""The launcher contract: start a command, so many times, somewhere. What the command is, is data.

A launcher is found by its name through the entry-point group `aioparallel.launchers`, or by its place (`module:Class`).
`aioparallel.testing.check_launcher` checks what is said here, rule by rule.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from aioparallel import plugins

__all__ = ["Job", "Launcher", "get"]


class Job(ABC):
    """One command that was started.

    * Its standard input stays open for as long as it should live: a command of ours ends in good order when that is
      closed, so that none outlives who started it, however that ended. Nothing is ever written to it.
    * The first line of its standard output says how its start went; what follows has to be read and is thrown away.
    * Standard error is for people: its last kilobytes are worth keeping, for `output`.

    Attributes:
        exited: The return code, once it has ended: negative for a signal, as `subprocess` has it. Wait for it behind
            `asyncio.shield`.
    """

    exited: asyncio.Future[int]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.describe()}>"

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """Its process id on this machine, or None if it runs elsewhere."""

    @property
    @abstractmethod
    def output(self) -> str:
        """The last of what it wrote to standard error, as far as that comes here."""

    @abstractmethod
    def describe(self) -> str:
        """Return what and where it is, and how it ended if it has, for people."""

    @abstractmethod
    async def wait_announced(self) -> str:
        """Wait for the first line of standard output and return it; "" if the command ended without one.

        Cancellation leaves the job as it is; the line can be waited for again.
        """

    @abstractmethod
    async def stop(self, grace: float = 5.0) -> None:
        """End it: in good order if that takes at most `grace` seconds. Safe to call twice.

        When this returns, nothing of it is left. Cancellation ends it at once.
        """

    @abstractmethod
    def kill(self) -> None:
        """End it at once, with what it started; `stop` still has to be called."""


class Launcher(ABC):
    """Starts commands at one kind of place.

    It is made without arguments, and knows nothing of aioparallel: a command is a list of strings, which reach the
    program as they are. The programs that it starts find a controller by the files that their arguments name, so those
    must be there where they run.

    Attributes:
        name: How it is asked for.
    """

    name: ClassVar[str]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    @abstractmethod
    async def start(
        self,
        command: Sequence[str],
        count: int = 1,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> list[Job]:
        """Start `command` `count` times, and return without waiting for what they do.

        Args:
            command: The program and its arguments.
            count: How many times.
            cwd: The working directory; None for this process's.
            env: The environment; None for this process's.

        Returns:
            The jobs, `count` of them. The caller stops each.

        Raises:
            OSError: It can't be started; none is left running. Neither is one when this is cancelled.
        """


def get(launcher: str | Launcher | type[Launcher]) -> Launcher:
    """Return the launcher that is meant.

    Args:
        launcher: A launcher, its class, the name under which one is installed ("local"), or the place of its class
            (`module:Class`).

    Raises:
        PluginError: There is none of that name (the text says which are), or it can't be used.
    """
    if isinstance(launcher, str):
        found: Launcher = plugins.make(plugins.LAUNCHERS, launcher, Launcher)
        return found
    if isinstance(launcher, Launcher):
        return launcher
    name = f"{launcher.__module__}:{launcher.__qualname__}" if isinstance(launcher, type) else repr(launcher)
    plugins.check(launcher, Launcher, f"launcher {name}")
    made: Launcher = plugins.made(launcher, f"launcher {name}")
    return made
