"""Log records as plain values, and the handlers that take them: nothing raises into user code."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from aioparallel.records import LARGEST, LONGEST, Forwarders, as_level, left_out, plain_record, record_of


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger that nobody else uses, below which there is nothing."""
    logger = logging.getLogger("records.test")
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    yield logger
    for handler in tuple(logger.handlers):
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


class Sent:
    """What was sent, to whom."""

    def __init__(self) -> None:
        self.news: list[tuple[int, dict[str, Any]]] = []

    def __call__(self, session: int, header: bytes) -> None:
        self.news.append((session, json.loads(header)))

    def messages(self, session: int = 1) -> list[str]:
        return [news["record"]["msg"] for to, news in self.news if to == session]


def test_a_record_comes_back_as_it_was(logger: logging.Logger) -> None:
    sent = Sent()
    Forwarders(sent).begin(1, 5, "records.test", logging.INFO)
    try:
        {}["missing"]
    except KeyError:
        logger.exception("no %s in %d", "key", 3, extra={"user": "me", "there": True, "no": object()}, stack_info=True)
    [(_, news)] = sent.news
    assert (news["request"], news["count"]) == (5, 1)
    record = record_of(news["record"], 7)
    assert (record.name, record.levelname, record.getMessage()) == ("records.test", "ERROR", "no key in 3")
    assert record.funcName == "test_a_record_comes_back_as_it_was"
    assert (record.engine, record.user, record.there, hasattr(record, "no")) == (7, "me", True, False)  # type: ignore[attr-defined]
    text = logging.Formatter("%(engine)s %(message)s").format(record)
    assert text.startswith("7 no key in 3\nTraceback (most recent call last)")
    assert "KeyError: 'missing'\nStack" in text


def ours(logger: logging.Logger) -> list[logging.Handler]:
    """The forwarding handlers; tests' own may be there too."""
    return [handler for handler in logger.handlers if type(handler).__name__ == "_Forwarder"]


class Unprintable:
    """Can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words for it")

    __repr__ = __str__


def test_what_can_not_be_formatted_is_said_and_raises_nothing(logger: logging.Logger) -> None:
    sent = Sent()
    Forwarders(sent).begin(1, 1, "records.test", logging.INFO)
    [handler] = ours(logger)
    for message, args in (("%d and %d", (1,)), ("%s", (Unprintable(),)), (Unprintable(), ()), ("after", ())):
        handler.handle(logging.makeLogRecord({"msg": message, "args": args}))
    assert sent.messages() == [
        "'%d and %d' (its arguments can't be merged in: TypeError: not enough arguments for format string)",
        "'%s' (its arguments can't be merged in: RuntimeError: no words for it)",
        "after",
    ]
    assert [news["count"] for _, news in sent.news] == [1, 2, 4]  # that one is missing will be told


@pytest.mark.parametrize("level", [-1, True, None, 2.5, "LOUD", "", b"INFO"])
def test_a_level_that_is_none(level: Any) -> None:
    with pytest.raises(ValueError, match="level is a number from 0 on or one of CRITICAL, "):
        as_level(level)


def test_levels_by_number_and_name() -> None:
    assert [as_level(level) for level in (0, 15, "INFO", "warning")] == [0, 15, 20, 30]


def test_large_records_are_cut() -> None:
    plain = plain_record(logging.makeLogRecord({"msg": "x" * 10**6, "extra_text": "y" * 10**6}))
    assert (len(plain["msg"]), len(plain["extra_text"])) == (LONGEST, LONGEST)


def test_extras_go_when_a_record_is_too_large(logger: logging.Logger) -> None:
    sent = Sent()
    Forwarders(sent).begin(1, 1, "records.test", logging.INFO)
    logger.warning("much", extra={f"extra{i}": "y" * LONGEST for i in range(20)})
    [(_, news)] = sent.news
    assert "extra1" not in news["record"]
    assert len(json.dumps(news)) < LARGEST
    assert sent.messages() == ["much"]


def test_a_level_is_lowered_for_as_long_as_it_is_wanted(logger: logging.Logger) -> None:
    sent = Sent()
    forwarders = Forwarders(sent)
    forwarders.begin(1, 1, "records.test", logging.INFO)
    assert logger.level == logging.INFO
    forwarders.begin(2, 1, "records.test", logging.DEBUG)
    forwarders.begin(2, 2, "records.test", logging.ERROR)
    assert (logger.level, len(forwarders)) == (logging.DEBUG, 3)
    logger.debug("fine")
    logger.error("bad")
    assert (sent.messages(1), sent.messages(2)) == (["bad"], ["fine", "bad", "bad"])
    forwarders.end(2, 1)
    assert logger.level == logging.INFO
    forwarders.end(1)
    assert logger.level == logging.WARNING
    forwarders.end(1)
    forwarders.end(2)
    assert (logger.level, ours(logger), len(forwarders)) == (logging.WARNING, [], 0)
    assert repr(forwarders) == "<Forwarders for 0 requests>"


def test_a_level_that_user_code_sets_meanwhile_is_its_own(logger: logging.Logger) -> None:
    forwarders = Forwarders(Sent())
    forwarders.begin(1, 1, "records.test", logging.INFO)
    logger.setLevel(logging.ERROR)
    forwarders.end(1, 1)
    assert logger.level == logging.ERROR
    logger.setLevel(logging.NOTSET)
    forwarders.begin(1, 1, "records.test", logging.CRITICAL)
    assert logger.level == logging.NOTSET  # what is inherited lets enough through
    forwarders.end(1, 1)


def test_asked_again_it_begins_anew(logger: logging.Logger) -> None:
    sent = Sent()
    forwarders = Forwarders(sent)
    for _ in range(2):
        forwarders.begin(1, 1, "records.test", logging.INFO)
        logger.info("once")
    assert [news["count"] for _, news in sent.news] == [1, 1]


def test_how_many_are_missing_is_told_in_a_record() -> None:
    record = left_out(1234, "", 3)
    assert (record.name, record.levelno, record.engine) == ("root", logging.WARNING, 3)  # type: ignore[attr-defined]
    assert record.getMessage().startswith("engine 3: 1,234 log records were left out")
