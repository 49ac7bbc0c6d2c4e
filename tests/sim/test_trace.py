"""Events as people read them, and as they are compared."""

from __future__ import annotations

from aioparallel.testing.trace import Event, Trace


def test_events_in_words() -> None:
    now = [0.0]
    trace = Trace(lambda: now[0])
    trace.add("host 0", "is sent {0} for engine {1}", 3, 1)
    now[0] = 12.5
    trace.add("engine 1", "begins")
    assert str(trace).splitlines() == [
        "    0.000000  host 0        is sent 3 for engine 1",
        "   12.500000  engine 1      begins",
    ]
    assert trace.events[1] == Event(12.5, "engine 1", "begins")
    assert trace.tail(5) == str(trace)
    assert trace.tail(1).splitlines() == ["… 1 events before", "   12.500000  engine 1      begins"]


def test_the_digest_is_over_events_and_bytes() -> None:
    def made(data: bytes, *events: str) -> int:
        trace = Trace(lambda: 1.0)
        for event in events:
            trace.add("somebody", event)
        trace.sent(memoryview(data))
        return trace.digest

    assert made(b"a", "x", "y") == made(b"a", "x", "y")
    assert len({made(b"a", "x", "y"), made(b"b", "x", "y"), made(b"a", "y", "x"), made(b"a", "x")}) == 4
