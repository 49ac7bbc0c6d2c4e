"""What the tasks of a simulation do, and what is noted of them: engines are in this process."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from aioparallel.errors import TaskRejectError
from aioparallel.testing import crash, work

#: How often each has begun, and when its latest work ends or would have ended, by token.
begun: Counter[str] = Counter()
ends: dict[str, float] = {}


class Oops(Exception):
    """What tasks raise that are to fail."""


def forget() -> None:
    begun.clear()
    ends.clear()


def begin(token: str, seconds: float, **options: Any) -> None:
    begun[token] += 1
    work(seconds, **options)
    ends[token] = asyncio.get_running_loop().time() + seconds


def value_of(token: str) -> str:
    return f"value of {token}"


def plain(token: str, seconds: float, survives: Any = "nothing") -> str:
    begin(token, seconds, survives=survives)
    return value_of(token)


def failing(token: str, seconds: float, times: int = 10**9) -> str:
    """Fail, the first so many times."""
    begin(token, seconds)
    if begun[token] <= times:
        raise Oops(token)
    return value_of(token)


def fatal(token: str, seconds: float, times: int) -> str:
    """Kill the kernel, the first so many times."""
    begin(token, seconds)
    if begun[token] <= times:
        crash()
    return value_of(token)


def choosy(token: str, seconds: float, times: int) -> str:
    """Refuse the engine, the first so many times."""
    if begun[token] < times:
        begun[token] += 1
        raise TaskRejectError(f"{token}: not here")
    begin(token, seconds)
    return value_of(token)


def child(token: str, seconds: float, *values: str) -> str:
    """Be given the values of others."""
    begin(token, seconds)
    return f"{token} of {', '.join(values)}"


def later(token: str, seconds: float, parents: list[str]) -> str:
    """Run after others, of which each has begun, and ended if nothing went wrong."""
    now = asyncio.get_running_loop().time()
    begin(token, seconds)
    early = [parent for parent in parents if not begun[parent] or ends[parent] > now + 1e-9]
    assert not early, f"{token} began at {now} before {early} had ended"
    return value_of(token)


def has_kind(properties: dict[str, Any], kind: str) -> bool:
    return properties.get("kind", kind) == kind
