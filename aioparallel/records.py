"""Log records as plain values: taken by a handler on an engine, and made again at a client."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

__all__ = ["Forwarders", "as_level", "left_out", "plain_record", "record_of"]

#: Most characters of any text in a record, a message say.
LONGEST = 8192
#: Most bytes of a record; one with more (in `extra`) goes without what is not logging's own.
LARGEST = 60_000

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"taskName"}
_formatter = logging.Formatter()


def as_level(level: int | str) -> int:
    """Return a level as a number.

    Raises:
        ValueError: There is no such level.
    """
    if isinstance(level, int) and not isinstance(level, bool) and level >= 0:
        return level
    known = logging.getLevelNamesMapping()
    if not isinstance(level, str) or level.upper() not in known:
        raise ValueError(f"level is a number from 0 on or one of {', '.join(known)}, not {level!r}")
    return known[level.upper()]


def plain_record(record: logging.LogRecord) -> dict[str, Any]:
    """Return a record as a JSON object: arguments merged in, exceptions as text, and of `extra` what is plain."""
    plain: dict[str, Any] = {}
    for name, value in record.__dict__.items():
        if type(value) is str:
            plain[name] = value[:LONGEST]
        elif value is None or type(value) in (int, float, bool):
            plain[name] = value
    plain["msg"] = _message(record)[:LONGEST]
    plain["args"] = plain["exc_info"] = None
    if record.exc_info and not record.exc_text:
        # The end of a traceback tells most.
        plain["exc_text"] = _formatter.formatException(record.exc_info)[-LONGEST:]
    return plain


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:
        return f"{record.msg!r} (its arguments can't be merged in: {type(error).__name__}: {error})"


def record_of(plain: dict[str, Any], engine: int) -> logging.LogRecord:
    """Return the record that was made on an engine."""
    return logging.makeLogRecord(plain | {"args": (), "engine": engine})


def left_out(count: int, logger: str, engine: int) -> logging.LogRecord:
    """Return a record that tells how many there were that did not come."""
    text = f"engine {engine}: {count:,} log records were left out: they came faster than they could be passed on"
    about = {"name": logger or "root", "msg": text, "levelno": logging.WARNING, "levelname": "WARNING"}
    return record_of(about, engine)


class _Forwarder(logging.Handler):
    """What takes the records of one request."""

    def __init__(self, logger: logging.Logger, level: int, request: tuple[int, int], put: Callable[[int, bytes], None]):
        super().__init__(level)
        self.logger = logger
        self._session, self._request = request
        self._put = put
        self._count = 0

    def handle(self, record: logging.LogRecord) -> bool:
        """Forward a record; without the handler's lock, which an interrupt of user code might leave taken."""
        if not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Forward a record. What goes wrong here is not the user's code's business; that one is missing is told."""
        self._count += 1
        about = {"request": self._request, "count": self._count}
        try:
            plain = plain_record(record)
            header = json.dumps(about | {"record": plain}).encode()
            if len(header) > LARGEST:
                own = {name: value for name, value in plain.items() if name in _OWN}
                header = json.dumps(about | {"record": own}).encode()
            self._put(self._session, header)
        except Exception:
            return


class Forwarders:
    """The requests of clients for the records of one engine.

    Args:
        put: Sends a record, given the client's session and the record as JSON; never waits.
    """

    def __init__(self, put: Callable[[int, bytes], None]) -> None:
        self._put = put
        self._handlers: dict[tuple[int, int], _Forwarder] = {}
        #: Of each logger whose level we have lowered its own, and ours.
        self._levels: dict[logging.Logger, tuple[int, int]] = {}

    def __repr__(self) -> str:
        return f"<Forwarders for {len(self._handlers)} requests>"

    def __len__(self) -> int:
        return len(self._handlers)

    def begin(self, session: int, request: int, logger: str, level: int) -> None:
        """Forward the records of a logger, from a level on."""
        self.end(session, request)
        source = logging.getLogger(logger)
        handler = self._handlers[session, request] = _Forwarder(source, level, (session, request), self._put)
        source.addHandler(handler)
        self._adjust(source)

    def end(self, session: int, request: int | None = None) -> None:
        """End one request of a client, or all of them."""
        for asked in [asked for asked in self._handlers if asked[0] == session and request in (None, asked[1])]:
            handler = self._handlers.pop(asked)
            handler.logger.removeHandler(handler)
            handler.close()
            self._adjust(handler.logger)

    def _adjust(self, logger: logging.Logger) -> None:
        """Give a logger the level that is wanted of it now, or its own again."""
        own, ours = self._levels.pop(logger, (logger.level, logger.level))
        if logger.level != ours:
            own = logger.level  # user code has set another meanwhile
        logger.setLevel(own)
        wanted = [max(handler.level, 1) for handler in self._handlers.values() if handler.logger is logger]
        if wanted and logger.getEffectiveLevel() > min(wanted):
            logger.setLevel(min(wanted))
            self._levels[logger] = own, min(wanted)
