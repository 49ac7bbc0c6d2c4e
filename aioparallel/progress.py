"""How far a `map` has come: events for whoever shows it, and a bar for terminals."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from aioparallel.errors import ConfigurationError

__all__ = ["Bar", "Listener", "Progress", "listener_for"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a `map` has come.

    Attributes:
        done: Items whose values are there.
        total: Items in all; None if the input does not say.
        running: Items that are sent and not done.
    """

    done: int
    total: int | None
    running: int


Listener: TypeAlias = Callable[[Progress], object]


class Bar:
    """Shows events as a bar on stderr (tqdm), when it takes a while.

    Args:
        label: What stands before it.

    Raises:
        ImportError: There is no tqdm.
    """

    #: Seconds before it is shown at all.
    DELAY = 0.5

    def __init__(self, label: str) -> None:
        tqdm = importlib.import_module("tqdm").tqdm
        # No thread of its own, which would look after bars that are forgotten: this one is not.
        kind = type("_Bar", (tqdm,), {"monitor_interval": 0})
        self._bar: Any = kind(desc=label, delay=self.DELAY, leave=None, file=sys.stderr)

    def __repr__(self) -> str:
        return f"<Bar {self._bar.n} of {self._bar.total}>"

    def __call__(self, progress: Progress) -> None:
        """Show how far it has come."""
        self._bar.total = progress.total
        self._bar.update(progress.done - self._bar.n)

    def close(self) -> None:
        """Leave the terminal as it should be."""
        self._bar.close()


def listener_for(progress: Any, label: str, *, shows: bool) -> Listener | None:
    """Return what is told of events.

    Args:
        progress: A function of `Progress`; True for a bar, False for nothing; None for a bar if that makes sense.
        label: What stands before a bar.
        shows: Whether a terminal may be written to unasked.

    Raises:
        ConfigurationError: A bar was asked for, and there is no tqdm.
        TypeError: It is something else.
    """
    if progress is None:
        if not shows or not sys.stderr or not sys.stderr.isatty():
            return None
        try:
            return Bar(label)
        except ImportError:
            return None
    if isinstance(progress, bool):
        if not progress:
            return None
        try:
            return Bar(label)
        except ImportError:
            text = "a progress bar needs tqdm: pip install 'aioparallel[progress]', or give progress= a function"
            raise ConfigurationError(text) from None
    if not callable(progress):
        raise TypeError(f"progress is a function that is given Progress events, True, False or None, not {progress!r}")
    listener: Listener = progress
    return listener
