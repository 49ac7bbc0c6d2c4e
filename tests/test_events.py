"""Everybody who listens is told, in order, whatever the others do."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, get_args

import pytest

from aioparallel import events
from aioparallel.events import KINDS, ClientLeft, EngineJoined, EngineLeft, Event, Monitor, PeerRefused, Refusals


def test_every_listener_is_told_in_order() -> None:
    monitor, heard = Monitor(), list[tuple[str, Event]]()
    monitor.listen(lambda event: heard.append(("first", event)))
    monitor.listen(lambda event: heard.append(("second", event)))
    one, two = EngineJoined(0, "here", 17), EngineLeft(0, "gone")
    monitor.publish(one)
    monitor.publish(two)
    assert heard == [("first", one), ("second", one), ("first", two), ("second", two)]


def test_listener_stops() -> None:
    monitor, heard = Monitor(), list[Event]()
    stop = monitor.listen(heard.append)
    assert repr(monitor) == "<Monitor with 1 listeners>"
    stop()
    stop()
    monitor.publish(EngineLeft(0, "gone"))
    assert heard == []
    assert repr(monitor) == "<Monitor with 0 listeners>"


def test_failing_listener_is_logged_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    monitor, heard = Monitor(), list[Event]()

    def fail(event: Event) -> None:
        raise RuntimeError("no")

    monitor.listen(fail)
    monitor.listen(heard.append)
    with caplog.at_level(logging.ERROR):
        monitor.publish(EngineLeft(3, "gone"))
        monitor.publish(EngineLeft(4, "gone"))
    assert [event.engine for event in heard if isinstance(event, EngineLeft)] == [3, 4]
    assert len(caplog.records) == 2
    assert "EngineLeft(engine=3, reason='gone')" in caplog.records[0].getMessage()


def test_listener_may_come_and_go_while_it_is_told() -> None:
    monitor, heard = Monitor(), list[str]()

    def once(event: Event) -> None:
        heard.append("once")
        stop()
        monitor.listen(lambda event: heard.append("new"))

    stop = monitor.listen(once)
    monitor.listen(lambda event: heard.append("other"))
    monitor.publish(EngineLeft(0, "gone"))
    assert heard == ["once", "other"]
    monitor.publish(EngineLeft(0, "gone"))
    assert heard == ["once", "other", "other", "new"]


def test_events_are_values() -> None:
    kinds: tuple[Any, ...] = get_args(Event)
    assert {kind.__name__ for kind in kinds} == set(events.__all__) - {"Event", "Monitor", "Refusals"}
    for kind in kinds:
        event = kind(*range(len(dataclasses.fields(kind))))
        assert event == kind(*range(len(dataclasses.fields(kind))))
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(event, dataclasses.fields(kind)[0].name, 1)


def test_left_says_why() -> None:
    assert ClientLeft("task", "ab12", "it closed the connection").reason == "it closed the connection"


def test_refusals_are_told_at_once_then_counted_for_longer_and_longer() -> None:
    refusals = Refusals()
    assert refusals.due is None
    assert refusals.add("a", "wrong proof", 10.0) == PeerRefused("a", "wrong proof")
    assert refusals.due == 11.0
    for place in range(100):
        assert refusals.add(f"b{place}", "wrong proof", 10.5) is None
    assert refusals.tell(10.9) == []
    assert refusals.tell(11.0) == [PeerRefused("b99", "wrong proof", 99)]
    assert refusals.add("c", "wrong proof", 11.0) is None
    assert refusals.due == 13.0
    assert refusals.tell(13.0) == [PeerRefused("c", "wrong proof", 0)]
    # Nobody for four seconds: the next one is told at once.
    assert refusals.tell(17.0) == []
    assert refusals.due is None
    assert refusals.add("d", "wrong proof", 17.5) == PeerRefused("d", "wrong proof")


def test_strangers_do_not_decide_how_many_kinds_of_refusals_there_are() -> None:
    refusals = Refusals()
    lengths = [refusals.add("a", f"a message of {length} bytes", 0.0) for length in range(1000)]
    assert [told for told in lengths if told] == [PeerRefused("a", "a message of 0 bytes")]
    invented = [refusals.add("a", "x" * length, 0.0) for length in range(1, 1001)]
    assert sum(told is not None for told in invented) == KINDS
    assert refusals.add("b", "y", 0.5) is None
    assert sum(told.more + 1 for told in refusals.flush()) == 999 + 1000 - KINDS + 1
    assert refusals.flush() == []
    assert refusals.add("b", "y", 0.5) is not None
