"""When a program should end: a signal, or the end of its standard input or parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aioparallel.errors import ConfigurationError

__all__ = ["Ending"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ending:
    """Cancels the task that made it once the program should end; for use in `with`.

    Cleaning up happens where the cancellation arrives. A signal that comes again calls `on_again`: somebody is in
    a hurry.

    Args:
        managed: Whether the program lives only as long as its standard input is open and its parent is there.
        on_first: Called in place of cancelling, with the signal (None: managed, and let go).

    Attributes:
        reason: Why, in words; "" while there is no reason.
        status: The exit status that tells it to a shell.
    """

    def __init__(self, *, managed: bool = False, on_first: Callable[[int | None], object] | None = None) -> None:
        self.reason = ""
        self.status = 0
        self.on_again: Callable[[], object] = lambda: None
        self._on_first = on_first
        self._managed = managed
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._parent = -1

    def __repr__(self) -> str:
        return f"<Ending {self.reason or 'not yet'}>"

    def __enter__(self) -> Self:
        for number in SIGNALS:
            # nohup's promise is kept. A shell's, to shield background jobs from Ctrl-C, is not: kill -INT must end us.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._loop.add_signal_handler(number, self._signalled, number)
        if self._managed:
            try:
                self._loop.add_reader(0, self._read)
            except PermissionError:
                raise ConfigurationError("--managed: standard input must be a pipe, a socket or a terminal") from None
            self._watch_parent()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number in SIGNALS:
            self._loop.remove_signal_handler(number)
        self._unwatch()

    def has_begun(self) -> None:
        """The program ends by itself, for whatever reason: what it does for that is not cancelled any more."""
        self._task = None

    def _watch_parent(self) -> None:
        # Processes that the parent forked may hold the other end of our standard input open after its death.
        with contextlib.suppress(AttributeError, OSError):
            self._parent = os.pidfd_open(os.getppid())
            self._loop.add_reader(self._parent, self._end, "the process that started this one ended", None)

    def _unwatch(self) -> None:
        if self._managed:
            self._managed = False
            self._loop.remove_reader(0)
        if self._parent >= 0:
            self._loop.remove_reader(self._parent)
            os.close(self._parent)
            self._parent = -1

    def _read(self) -> None:
        try:
            data = os.read(0, 4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end("standard input was closed", None)

    def _signalled(self, number: int) -> None:
        self._end(signal.Signals(number).name, number)

    def _end(self, reason: str, number: int | None) -> None:
        if number is None:
            self._unwatch()
        if self.reason:
            if number is not None:
                self.on_again()
            return
        self.reason = reason
        self.status = 0 if number is None else 128 + number
        if self._on_first is not None:
            self._on_first(number)
        elif self._task is not None:
            self._task.cancel(reason)
