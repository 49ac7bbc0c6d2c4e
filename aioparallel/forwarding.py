"""A client's request for the log records of engines: made again of those that come later, and ended."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import logging
from types import TracebackType
from typing import Any

from aioparallel.channel import Channel, serializer
from aioparallel.errors import ParallelError
from aioparallel.records import left_out, record_of
from aioparallel.results import NAMES
from aioparallel.wire import Frame

__all__ = ["LogForwarding"]

_requests = itertools.count(1)


class LogForwarding:
    """Log records of engines are handled here, until `close` or the end of the `with`; made by `forward_logging`.

    Attributes:
        installed: What becomes of the request to the engines that were there: a handle, or a `PendingResult`.
    """

    installed: Any

    def __init__(self, channel: Channel, level: int, logger: str, targets: str | list[int]) -> None:
        if not isinstance(logger, str):
            raise TypeError(f"logger is the name of one, not {logger!r}")
        self._channel = channel
        self._logger = logger
        self._targets = targets
        self._number = next(_requests)
        self._counts: dict[int, int] = {}
        self._closed = False
        #: The verb and its arguments, which an engine is sent.
        self.request = ("forward_logging", (int(channel.session, 16), self._number, logger, level))
        channel.forwardings[self._number] = self._take
        channel.on_engines.append(self._ask)

    def __repr__(self) -> str:
        return f"<LogForwarding of {self._logger or 'root'!r}{', closed' if self._closed else ''}>"

    def __enter__(self) -> LogForwarding:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, behind the commands that were submitted before; does not wait for that. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._channel.on_engines.remove(self._ask)
        session, number = self.request[1][:2]
        ended = self._submit(("end_forwarding", (session, number)), "all")
        ended.add_done_callback(lambda _: self._channel.forwardings.pop(number, None))

    def _ask(self, engines: list[int]) -> None:
        """Make the request of engines that are new, or have forgotten it."""
        asked = [engine for engine in engines if self._targets == "all" or engine in self._targets]
        if asked:
            self._submit(self.request, asked)

    def _submit(
        self, command: tuple[str, tuple[Any, ...]], targets: str | list[int]
    ) -> concurrent.futures.Future[None]:
        """Send a command of which nobody needs the answer: an engine that gives none is gone, and its records too."""
        done: concurrent.futures.Future[None] = concurrent.futures.Future()
        verb, arguments = command
        header = json.dumps({"targets": targets, "label": verb, "kept": True}).encode()
        buffers = serializer().pack((verb, *arguments), name=NAMES[verb])
        try:
            self._channel.call("submit", done, _whatever, header=header, buffers=buffers)
        except ParallelError:
            done.set_result(None)
        return done

    def _take(self, engine: int, news: dict[str, Any]) -> None:
        """Have a record handled, and tell of those that are missing before it."""
        try:
            before, count = self._counts.get(engine, 0), news["count"]
            # A fresh kernel begins to count again.
            missing = count - 1 - (before if count > before else 0)
            self._counts[engine] = count
            if missing:
                _handle(left_out(missing, self._logger, engine))
            _handle(record_of(news["record"], engine))
        except Exception as error:
            text = f"a log record of engine {engine} could not be handled"
            self._channel.loop.call_exception_handler({"message": text, "exception": error})


def _handle(record: logging.LogRecord) -> None:
    logging.getLogger(record.name).handle(record)


def _whatever(frames: list[Frame]) -> None:
    """Take an answer, whatever it says."""
