"""Places for those who have not proved themselves: few, fewer for one source, each for seconds.

Transports have each arrival enter as soon as there is a connection; the controller has it leave when its handshake is
done. Whoever says nothing meanwhile is sent away in time, or when its place is wanted.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["HANDSHAKE", "Gate", "Slot"]

#: Seconds from the first byte of a connection to the end of its handshake.
HANDSHAKE = 6.0


class Slot:
    """A place before the gate, held from a connection's first moment until it has proved itself.

    Attributes:
        source: Where the connection comes from; one source holds a few places at most.
        evict: Ends the connection; the transport sets it.
    """

    __slots__ = ("_gate", "_timer", "evict", "source")

    def __init__(self, gate: Gate, source: str, evict: Callable[[], object]) -> None:
        self.source = source
        self.evict = evict
        self._gate = gate
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE, self.expire)

    def __repr__(self) -> str:
        return f"<Slot of {self.source}>"

    def expire(self) -> None:
        """End the connection: its time is over, or its place is wanted."""
        self.leave()
        self.evict()

    def leave(self) -> None:
        """Free the place. Safe to call twice."""
        self._timer.cancel()
        self._gate.free(self)


class Gate:
    """The places for connections that have not proved themselves yet.

    When all are taken, the one that has waited longest goes: an honest peer needs milliseconds.

    Args:
        slots: How many at once.
        per_source: How many from one source.
    """

    def __init__(self, slots: int = 64, per_source: int = 16) -> None:
        self._slots = slots
        self._per_source = per_source
        self._taken: OrderedDict[Slot, None] = OrderedDict()
        self._evicted = 0

    def __repr__(self) -> str:
        return f"<Gate {len(self._taken)} of {self._slots} slots taken, {self._evicted} evicted>"

    def __len__(self) -> int:
        return len(self._taken)

    def __bool__(self) -> bool:
        # One with nobody before it is a gate all the same.
        return True

    def enter(self, source: str, evict: Callable[[], object], *, trusted: bool = False) -> Slot:
        """Take a place, from whoever has waited longest if need be; a trusted source may take all of them."""
        if len(self._taken) >= self._slots:
            self._evict(next(iter(self._taken)))
        elif not trusted:
            same = [slot for slot in self._taken if slot.source == source]
            if len(same) >= self._per_source:
                self._evict(same[0])
        slot = Slot(self, source, evict)
        self._taken[slot] = None
        return slot

    def free(self, slot: Slot) -> None:
        """Give a place back."""
        self._taken.pop(slot, None)

    def close(self) -> None:
        """Send everybody away who still waits."""
        for slot in tuple(self._taken):
            slot.expire()

    def _evict(self, slot: Slot) -> None:
        self._evicted += 1
        slot.expire()
