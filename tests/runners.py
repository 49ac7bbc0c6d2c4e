"""The event loops that tests run on: asyncio's and our own, which is uvloop's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from aioparallel import loops

#: What runs a coroutine, as `asyncio.run` does.
Run = Callable[[Coroutine[Any, Any, Any]], Any]

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "our own": loops.new_event_loop,
}

#: For tests that take `run`, a whole program each time.
RUNNERS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
