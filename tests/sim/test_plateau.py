"""What is left over is found wherever it is, and what was there before is not."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from aioparallel.queues import Command, FifoQueue
from aioparallel.testing.plateau import Plateau


def ours(name: str, **attributes: Any) -> Any:
    """Return an object of a class of that name, which passes for one of ours."""
    made = type(name, (), {"__module__": "aioparallel.somewhere", "__repr__": lambda _: f"<{name}>"})()
    vars(made).update(attributes)
    return made


def test_a_table_that_was_empty_must_be_so_again() -> None:
    root = ours("Root", table={}, waiting=deque(), names=["kept"], number=3)
    plateau = Plateau()
    plateau.begin([root])
    root.names.append("more")
    root.number = 7
    assert plateau.left([root]) == []
    root.table[1] = "task"
    root.waiting.extend("abcdef")
    assert plateau.left([root]) == [
        "Root.table of <Root> has 1: (1, 'task')",
        "Root.waiting of <Root> has 6: 'a', 'b', 'c'",
    ]


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {1: (2, [x])}, lambda x: {x: None}])
def test_tables_are_found_wherever_they_are(wrap: Any) -> None:
    inner = ours("Inner", table=set())
    root = ours("Root", inner=wrap(inner), strangers=[object(), "text", 3])
    inner.root = root
    plateau = Plateau()
    plateau.begin([root])
    assert plateau.left([root]) == []
    inner.table.add(1)
    assert plateau.left([root]) == ["Inner.table of <Inner> has 1: 1"]


def test_what_comes_later_has_nothing_to_keep() -> None:
    plateau = Plateau()
    plateau.begin([])
    assert plateau.left([ours("Root", table=[1])]) == ["Root.table of <Root> has 1: 1"]


def test_slots_and_counts() -> None:
    queue = FifoQueue()
    plateau = Plateau()
    plateau.begin([queue])
    queue.put(Command(b"", None, lambda command, result: None, label=b"one"))
    assert plateau.left([queue]) == [
        "FifoQueue._commands of <FifoQueue of 1> has 1: <Command 'one' of None>",
        "FifoQueue._live is 1 of <FifoQueue of 1>",
    ]
    assert plateau.left([ours("ClientProxy", _held=0)]) == []
    assert plateau.left([ours("ClientProxy", _held=-3)]) == ["ClientProxy._held is -3 of <ClientProxy>"]
