"""Where commands wait: order, and a count that is right whatever is cancelled when."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugged import Stack

from aioparallel import queues
from aioparallel.errors import PluginError
from aioparallel.queues import Command, FifoQueue, PriorityQueue, Queue


def command(name: str = "c", priority: int = 0) -> Command:
    return Command(None, name, lambda command, result: None, priority=priority, label=name.encode())


def owners(commands: list[Command]) -> list[Any]:
    return [command.client for command in commands]


@pytest.fixture(params=[FifoQueue, PriorityQueue])
def queue(request: pytest.FixtureRequest) -> Queue:
    made: Queue = request.param()
    return made


def test_first_in_first_out(queue: Queue) -> None:
    for name in "abc":
        queue.put(command(name))
    assert len(queue) == 3
    assert [queue.pop().client for _ in range(3)] == ["a", "b", "c"]
    assert len(queue) == 0


def test_higher_priority_first_and_equal_ones_in_order() -> None:
    queue = PriorityQueue()
    for name, priority in [("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", 0)]:
        queue.put(command(name, priority))
    assert owners(queue.clear()) == ["b", "d", "a", "e", "c"]


def test_fifo_does_not_look_at_priority() -> None:
    queue = FifoQueue()
    for name, priority in [("a", 0), ("b", 5)]:
        queue.put(command(name, priority))
    assert owners(queue.clear()) == ["a", "b"]


def test_pop_of_nothing(queue: Queue) -> None:
    with pytest.raises(IndexError):
        queue.pop()
    waiting = command()
    queue.put(waiting)
    queue.cancel(waiting)
    with pytest.raises(IndexError):
        queue.pop()
    assert len(queue) == 0


def test_cancelled_command_is_skipped_and_not_counted(queue: Queue) -> None:
    a, b, c = commands = [command(name) for name in "abc"]
    for each in commands:
        queue.put(each)
    queue.cancel(a)
    queue.cancel(c)
    queue.cancel(c)
    assert len(queue) == 1
    assert queue.pop() is b
    assert (a.cancelled, b.cancelled, c.cancelled) == (True, False, True)
    assert len(queue) == 0


def test_cancelling_what_has_left_the_queue_changes_nothing(queue: Queue) -> None:
    gone, waiting = command("gone"), command("waiting")
    queue.put(gone)
    assert queue.pop() is gone
    queue.cancel(gone)
    assert not gone.cancelled
    assert len(queue) == 0
    assert queue.clear() == []
    queue.put(waiting)
    assert len(queue) == 1
    assert owners(queue.clear()) == ["waiting"]


def test_command_that_never_was_in_the_queue_is_not_cancelled(queue: Queue) -> None:
    queue.cancel(command())
    assert len(queue) == 0


def test_cancelled_command_is_not_taken_in(queue: Queue) -> None:
    unwanted = command()
    unwanted.cancelled = True
    queue.put(unwanted)
    assert len(queue) == 0
    assert queue.clear() == []


def test_clear_returns_what_is_wanted_in_order_and_queue_goes_on(queue: Queue) -> None:
    commands = [command(name) for name in "abcd"]
    for each in commands:
        queue.put(each)
    queue.cancel(commands[1])
    assert owners(queue.clear()) == ["a", "c", "d"]
    assert len(queue) == 0
    # What was taken out may be put back.
    queue.put(commands[0])
    assert queue.pop() is commands[0]


def test_queue_of_a_stranger_needs_two_methods() -> None:
    queue = Stack()
    for name in "abc":
        queue.put(command(name))
    assert owners(queue.clear()) == ["c", "b", "a"]


def test_reprs(queue: Queue) -> None:
    waiting = command("job\xff")
    queue.put(waiting)
    assert repr(queue) == f"<{type(queue).__name__} of 1>"
    assert repr(waiting) == "<Command 'jobÿ' of 'job\\xff'>" or "job" in repr(waiting)
    queue.cancel(waiting)
    assert repr(waiting).endswith(" cancelled>")
    assert "�" in repr(Command(None, 1, lambda command, result: None, label=b"\xff"))


@given(
    st.sampled_from([FifoQueue, PriorityQueue]),
    st.lists(st.tuples(st.sampled_from(["put", "pop", "cancel", "clear"]), st.integers(0, 30))),
)
def test_count_and_order_after_anything(kind: type[Queue], steps: list[tuple[str, int]]) -> None:
    queue, made, waiting = kind(), list[Command](), list[Command]()

    def expected() -> list[Command]:
        return sorted(waiting, key=lambda c: -c.priority) if kind is PriorityQueue else list(waiting)

    for step, number in steps:
        if step == "put":
            made.append(command(str(len(made)), priority=number % 3))
            queue.put(made[-1])
            waiting.append(made[-1])
        elif step == "pop" and waiting:
            popped = queue.pop()
            assert popped is expected()[0]
            waiting.remove(popped)
        elif step == "cancel" and made:
            # Any that ever was: waiting, popped, cleared or cancelled.
            chosen = made[number % len(made)]
            queue.cancel(chosen)
            if chosen in waiting:
                waiting.remove(chosen)
        elif step == "clear":
            assert queue.clear() == expected()
            waiting.clear()
        assert len(queue) == len(waiting)
        assert [c for c in made if c.waiting] == waiting
    assert queue.clear() == expected()


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ("fifo", FifoQueue),
        ("priority", PriorityQueue),
        (PriorityQueue, PriorityQueue),
        ("aioparallel.queues:FifoQueue", FifoQueue),
    ],
)
def test_queues_are_found_by_name_place_and_class(wanted: str | type[Queue], kind: type[Queue]) -> None:
    assert queues.get(wanted) is kind


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("lifo", "no queue named 'lifo'; known: fifo, priority"),
        ("nowhere:Queue", "queue 'nowhere:Queue' can't be loaded: ModuleNotFoundError"),
        (dict, "queue builtins:dict must be a subclass of aioparallel.queues.Queue"),
        (FifoQueue(), "queue <FifoQueue of 0> must be a subclass"),
        (Queue, "queue aioparallel.queues:Queue lacks _pop, _put"),
    ],
)
def test_what_is_no_queue(wanted: Any, text: str) -> None:
    with pytest.raises(PluginError, match=re.escape(text)):
        queues.get(wanted)


def test_what_was_taken_out_goes_back_as_if_it_had_never_been() -> None:
    for kind, order in ((FifoQueue, "abcd"), (Stack, "dcba")):
        queue = kind()
        for name in "abcd":
            queue.put(command(name))
        for _ in range(2):
            queue.put_back(queue.clear())
        assert "".join(owners(queue.clear())) == order


def test_what_goes_back_keeps_its_number_and_what_was_cancelled_meanwhile_is_dropped(queue: Queue) -> None:
    for name in "abcd":
        queue.put(command(name))
    out = queue.clear()
    numbers = [each.arrival for each in out]
    out[1].cancelled = True
    queue.put_back(reversed(out[:3]))
    queue.put(out[3])
    assert owners(queue.clear()) == ["a", "c", "d"]
    assert [each.arrival for each in out[:3]] == numbers[:3]
    assert out[3].arrival > numbers[3]


def test_nothing_cancelled_lies_in_a_queue_that_is_empty(queue: Queue) -> None:
    commands = [command(name) for name in "abcd"]
    for each in commands:
        queue.put(each)
    queue.cancel(commands[3])
    queue.cancel(commands[0])
    queue.put_back(queue.clear())
    queue.cancel(commands[1])
    queue.cancel(commands[2])
    with pytest.raises(IndexError):
        queue._pop()
