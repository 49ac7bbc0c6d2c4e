"""The gate: who goes when a place is wanted, and when the time is over."""

from __future__ import annotations

import asyncio

import pytest
from runners import Run

from aioparallel import gate as module
from aioparallel.gate import Gate, Slot


def test_one_source_has_few_places_unless_it_is_trusted(run: Run) -> None:
    async def main() -> None:
        gate, sent_away = Gate(slots=6, per_source=2), list[str]()

        def enter(source: str, name: str, *, trusted: bool = False) -> Slot:
            return gate.enter(source, lambda: sent_away.append(name), trusted=trusted)

        enter("a", "a1")
        enter("b", "b1")
        enter("a", "a2")
        enter("a", "a3")
        assert sent_away == ["a1"]
        for number in range(3):
            enter("c", f"c{number}", trusted=True)
        assert sent_away == ["a1"]
        # All six are taken: whoever has waited longest goes, from wherever.
        enter("d", "d1")
        assert sent_away == ["a1", "b1"]
        assert len(gate) == 6
        gate.close()
        assert sent_away == ["a1", "b1", "a2", "a3", "c0", "c1", "c2", "d1"]
        assert len(gate) == 0

    run(main())


def test_slot_that_is_left_frees_its_place_and_its_timer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANDSHAKE", 0.01)

    async def main() -> None:
        gate, sent_away = Gate(slots=1), list[str]()
        slot = gate.enter("a", lambda: sent_away.append("first"))
        assert repr(slot) == "<Slot of a>"
        slot.leave()
        gone = asyncio.Event()
        gate.enter("a", lambda: (sent_away.append("second"), gone.set()))
        await gone.wait()
        assert len(gate) == 0
        assert sent_away == ["second"]

    run(main())
