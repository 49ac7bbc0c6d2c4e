"""Everybody who listens is told, in order, whatever the others do."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, get_args

import pytest

from aioparallel import events
from aioparallel.events import ClientLeft, EngineJoined, EngineLeft, Event, Monitor


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
    assert {kind.__name__ for kind in kinds} == set(events.__all__) - {"Event", "Monitor"}
    for kind in kinds:
        event = kind(*range(len(dataclasses.fields(kind))))
        assert event == kind(*range(len(dataclasses.fields(kind))))
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(event, dataclasses.fields(kind)[0].name, 1)


def test_left_says_why() -> None:
    assert ClientLeft("task", "ab12", "it closed the connection").reason == "it closed the connection"
