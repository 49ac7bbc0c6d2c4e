"""While large calls leave: no later call to the same engines overtakes them. Sans-I/O."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

from aioparallel.wire import Sendable, size_of

__all__ = ["Line"]

#: Engines that a call is for; None means all of them.
Engines: TypeAlias = "frozenset[int] | None"
Release: TypeAlias = Callable[[list[Sendable]], object]


class _Call:
    """A call that waits."""

    __slots__ = ("engines", "large", "number", "pieces", "place", "size")

    def __init__(self, number: int, engines: Engines, pieces: list[Sendable], large: bool, place: int) -> None:
        self.number = number
        self.large = large
        self.engines = engines
        self.pieces = pieces
        self.place = place
        self.size = size_of(pieces)


class Line:
    """Calls that are leaving because they are large, and the calls that wait for them.

    A call waits if an engine it is for is also that of an earlier one which is leaving or waits. Calls that wait are
    kept in a queue for each set of engines, of which there are few: only the first of each can be next.

    Attributes:
        leaving: The numbers of large calls that are not all out yet. When there are none, nothing waits.
        size: How much waits, bytes.
    """

    def __init__(self) -> None:
        self.leaving: dict[int, Engines] = {}
        self.size = 0
        self._queues: dict[Engines, deque[_Call]] = {}
        self._waiting: dict[int, _Call] = {}
        self._places = 0

    def __repr__(self) -> str:
        return f"<Line: {len(self.leaving)} calls leaving, {len(self._waiting)} waiting>"

    def enter(self, number: int, targets: str | Iterable[int] | None, pieces: list[Sendable], *, large: bool) -> bool:
        """Say whether a call may leave now; one that may not is kept until its turn.

        Args:
            number: The call's.
            targets: The engines it is for, or "all"; None: it may overtake and be overtaken.
            pieces: The call.
            large: Whether it takes a while to leave; `left` tells when it has.
        """
        engines = frozenset[int]() if targets is None else None if targets == "all" else frozenset(map(int, targets))
        if targets is not None and any(_meet(engines, other) for other in (*self.leaving.values(), *self._queues)):
            self._places += 1
            call = self._waiting[number] = _Call(number, engines, pieces, large, self._places)
            self._queues.setdefault(engines, deque()).append(call)
            self.size += call.size
            return False
        if large:
            self.leaving[number] = engines
        return True

    def left(self, number: int, release: Release) -> None:
        """A large call is out, or has been dropped: release those that waited for it, in order."""
        if number in self.leaving:
            self._advance(release, number)
            # Last: who finds nothing leaving does not look at what waits.
            del self.leaving[number]

    def withdraw(self, number: int, release: Release) -> bool:
        """Forget a call that waits, and release those that waited for it; say whether it was one."""
        call = self._waiting.pop(number, None)
        if call is None:
            return False
        self.size -= call.size
        queue = self._queues[call.engines]
        first = queue[0] is call
        queue.remove(call)
        if not queue:
            del self._queues[call.engines]
        if first:
            self._advance(release, None)
        return True

    def clear(self) -> None:
        """Forget everything."""
        self.leaving.clear()
        self._queues.clear()
        self._waiting.clear()
        self.size = 0

    def _advance(self, release: Release, done: int | None) -> None:
        """Release what no longer has to wait."""
        taken = [engines for number, engines in self.leaving.items() if number != done]
        heads = [(queue[0].place, queue[0]) for queue in self._queues.values()]
        heapq.heapify(heads)
        while heads:
            _, call = heapq.heappop(heads)
            if any(_meet(call.engines, engines) for engines in taken):
                taken.append(call.engines)
                continue
            queue = self._queues[call.engines]
            queue.popleft()
            if queue:
                heapq.heappush(heads, (queue[0].place, queue[0]))
            else:
                del self._queues[call.engines]
            del self._waiting[call.number]
            self.size -= call.size
            if call.large:
                self.leaving[call.number] = call.engines
                taken.append(call.engines)
            release(call.pieces)


def _meet(some: Engines, others: Engines) -> bool:
    if some is None or others is None:
        # All engines, and at least one.
        return (some is None or bool(some)) and (others is None or bool(others))
    return not some.isdisjoint(others)
