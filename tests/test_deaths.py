"""How long to wait for the next kernel."""

from __future__ import annotations

from aioparallel.deaths import Deaths


def test_deaths_wait_longer_and_longer() -> None:
    deaths = Deaths(first=0.1, longest=1.0, many=100, window=60)
    waits = [deaths.died(100.0 * i, worked=False) for i in range(8)]
    assert waits == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert deaths.died(1000.0, worked=True) == 0.0
    assert repr(deaths) == "<Deaths: 1 in a row>"


def test_deaths_are_too_many_only_close_together() -> None:
    deaths = Deaths(many=3, window=60)
    assert [deaths.died(now, worked=False) for now in (0, 10, 70, 75)][-1] is not None
    assert deaths.died(76, worked=False) is None
    deaths.forget()
    assert deaths.died(77, worked=False) == 0.0


def test_deaths_of_commands_are_waited_for_but_not_too_many() -> None:
    deaths = Deaths(first=0.1, many=3, window=60, patience=0.5)
    assert [deaths.died(0.0, worked=False, began=True) for _ in range(6)] == [0.0, 0.1, 0.2, 0.4, 0.5, 0.5]
    assert deaths.died(0.0, worked=True, began=True) == 0.0
    assert deaths.died(0.0, worked=False) == 0.1
    assert deaths.died(0.0, worked=False) == 0.2
    assert deaths.died(0.0, worked=False) is None
