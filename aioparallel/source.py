"""Where random bytes and the wall clock come from: one object, which a simulator can replace."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["SYSTEM", "Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """Random bytes and wall-clock time.

    Monotonic time is not here: that is the event loop's, and sans-I/O modules are handed it.

    Attributes:
        token: Returns that many unpredictable bytes.
        wall: Returns the wall clock, seconds since 1970; for records and expiry, never for deadlines.
    """

    token: Callable[[int], bytes]
    wall: Callable[[], float]


SYSTEM = Source(os.urandom, time.time)
