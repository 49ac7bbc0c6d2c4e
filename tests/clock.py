"""Timers on a clock that goes when the test says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Clock:
    """What a loop gives of time."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._set = 0

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, step: Callable[[], None]) -> Any:
        self._set += 1
        timer = (self.now + delay, self._set, step)
        self._timers.append(timer)
        clock = self

        class Handle:
            def cancel(self) -> None:
                if timer in clock._timers:
                    clock._timers.remove(timer)

        return Handle()

    def go(self, seconds: float) -> None:
        end = self.now + seconds
        while self._timers and min(self._timers)[0] <= end:
            timer = min(self._timers)
            self._timers.remove(timer)
            self.now = timer[0]
            timer[2]()
        self.now = end

    def __len__(self) -> int:
        return len(self._timers)
