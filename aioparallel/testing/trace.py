"""What happened in a simulation: events with their virtual times, the same on every run of a seed."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Event", "Trace"]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        time: When, seconds of virtual time.
        who: To whom: "client 1", "host 2", "engine 0", "fault" …
        what: What, in words, with places for `about`.
        about: What belongs into these places.
    """

    time: float
    who: str
    what: str
    about: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.time:12.6f}  {self.who:12}  {self.what.format(*self.about)}"


class Trace:
    """The events of a simulation, in order.

    Args:
        clock: Returns the virtual time.

    Attributes:
        events: The events.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.events: list[Event] = []
        self._clock = clock
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Trace of {len(self.events)} events, {self.digest:08x}>"

    def __str__(self) -> str:
        return "\n".join(map(str, self.events))

    @property
    def digest(self) -> int:
        """A number over the events and all bytes that were sent: equal where all was the same."""
        return zlib.crc32(str(self).encode(), self._bytes)

    def add(self, who: str, what: str, *about: Any) -> None:
        """Take note of something that happens now."""
        self.events.append(Event(self._clock(), who, what, about))

    def sent(self, data: memoryview) -> None:
        """Take note of bytes that are sent now."""
        self._bytes = zlib.crc32(data, self._bytes)

    def tail(self, events: int = 40) -> str:
        """Return the last events, a line each."""
        left = len(self.events) - events
        lines = [f"… {left} events before"] if left > 0 else []
        return "\n".join([*lines, *map(str, self.events[-events:])])
