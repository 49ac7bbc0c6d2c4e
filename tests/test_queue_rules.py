"""The conformance kit of queues: the built-ins pass, and each of many broken ones is found out."""

from __future__ import annotations

import pickle
import random
from collections import deque

import pytest
from plugged import Stack

from aioparallel.queues import Command, FifoQueue, PriorityQueue, Queue
from aioparallel.testing import CheckFailed, check_queue


class ByClient(Queue):
    """One of each client in turn."""

    def __init__(self) -> None:
        super().__init__()
        self._turns: deque[object] = deque()
        self._waiting: dict[object, deque[Command]] = {}

    def _put(self, command: Command) -> None:
        if command.client not in self._waiting:
            self._waiting[command.client] = deque()
            self._turns.append(command.client)
        self._waiting[command.client].append(command)

    def _pop(self) -> Command:
        client = self._turns.popleft()
        command = self._waiting[client].popleft()
        if self._waiting[client]:
            self._turns.append(client)
        else:
            del self._waiting[client]
        return command


@pytest.mark.parametrize("queue", ["fifo", "priority", FifoQueue, PriorityQueue, Stack, ByClient, "plugged:Stack"])
def test_good_queues_pass(queue: str | type[Queue]) -> None:
    rules = check_queue(queue)
    assert len(rules) > 8
    assert all(rule.endswith(".") for rule in rules)


class Loses(FifoQueue):
    def _put(self, command: Command) -> None:
        if len(self._commands) != 2:
            super()._put(command)


class Twice(FifoQueue):
    def _put(self, command: Command) -> None:
        super()._put(command)
        if len(self._commands) == 3:
            super()._put(command)


class Copies(FifoQueue):
    def _pop(self) -> Command:
        real = super()._pop()
        return Command(real.payload, real.client, real.done, label=real.label, priority=real.priority)


class Shared(Queue):
    _commands: deque[Command] = deque()

    def _put(self, command: Command) -> None:
        self._commands.append(command)

    def _pop(self) -> Command:
        return self._commands.popleft()


class NeverEmpty(FifoQueue):
    def _pop(self) -> Command:
        return self._commands[0] if self._commands else super()._pop()


class GivesNone(FifoQueue):
    def _pop(self) -> Command:
        return self._commands.popleft() if self._commands else None  # type: ignore[return-value]


class WrongError(FifoQueue):
    def _pop(self) -> Command:
        if not self._commands:
            raise KeyError("empty")
        return super()._pop()


class ByAddress(FifoQueue):
    def _pop(self) -> Command:
        if not self._commands:
            raise IndexError
        chosen = min(self._commands, key=id)
        self._commands.remove(chosen)
        return chosen


class ByChance(FifoQueue):
    def _pop(self) -> Command:
        self._commands.rotate(random.randrange(5))
        return self._commands.popleft()


class Hoards(FifoQueue):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[Command] = []

    def _put(self, command: Command) -> None:
        self.log.append(command)
        super()._put(command)


class Async(FifoQueue):
    async def _put(self, command: Command) -> None:  # type: ignore[override]
        super()._put(command)


class Changes(FifoQueue):
    def _put(self, command: Command) -> None:
        command.priority += 1
        super()._put(command)


class CountsWrong(FifoQueue):
    def __len__(self) -> int:
        return len(self._commands)


class ClearsTurnedRound(FifoQueue):
    def clear(self) -> list[Command]:
        return super().clear()[::-1]


class OfWhoRuns(FifoQueue):
    """Forgets its order when it is looked at."""

    def put_back(self, commands: object) -> None:
        first, *others = commands  # type: ignore[misc]
        for command in (*others, first):
            self.put(command)


class LosesTheLooked(FifoQueue):
    def put_back(self, commands: object) -> None:
        super().put_back(list(commands)[1:])  # type: ignore[call-overload]


class WithoutSuper(Stack):
    def __init__(self) -> None:
        self._commands = []


@pytest.mark.parametrize(
    ("queue", "rule", "seen"),
    [
        (Loses, "comes out once", "it has lost the 3. of 3 commands"),
        (Twice, "comes out once", "raised no IndexError"),
        (Copies, "the very same object", "came out 0 times"),
        (Shared, "shares nothing with others", "a new queue raised no IndexError"),
        (NeverEmpty, "comes out once", "raised no IndexError"),
        (GivesNone, "is empty", "raised no IndexError|AttributeError"),
        (WrongError, "is empty", "KeyError"),
        (ByAddress, "follows from what was put|clear|what was put later", ""),
        (ByChance, ".", "gave|lost|gives|without the look"),
        (Hoards, "holds on to nothing", "it still holds 20"),
        (Async, ".", "lost|coroutine"),
        (Changes, "changes nothing of a command", "'priority': 4"),
        (CountsWrong, "not counted", "length is"),
        (ClearsTurnedRound, "`clear` returns", "pop gives job 0"),
        (OfWhoRuns, "as if nothing had been", "without the look"),
        (LosesTheLooked, "as if nothing had been", "its length is 6"),
        (WithoutSuper, "is empty", "AttributeError"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_broken_queues_are_found_out(queue: type[Queue], rule: str, seen: str) -> None:
    with pytest.raises(CheckFailed) as caught:
        [check_queue(queue) for _ in range(20)]  # chance may be on its side once
    assert caught.value.plugin == f"queue {queue.__name__!r}"
    assert any(part in caught.value.rule for part in rule.split("|")), caught.value.rule
    assert any(part in caught.value.seen for part in seen.split("|")), caught.value.seen
    assert caught.value.plugin in str(caught.value)


@pytest.mark.parametrize(
    ("queue", "seen"),
    [
        (deque, "must be a subclass of aioparallel.queues.Queue"),
        (Queue, "lacks _pop, _put"),
        ("no-such-queue", "no queue named 'no-such-queue'; known: fifo, priority"),
        ("nowhere:Queue", "No module named 'nowhere'"),
        (type("Greedy", (FifoQueue,), {"__init__": lambda self, size: None}), "can't be made without arguments"),
    ],
)
def test_what_is_no_queue(queue: object, seen: str) -> None:
    with pytest.raises(CheckFailed, match="made without arguments") as caught:
        check_queue(queue)  # type: ignore[arg-type]
    assert seen in caught.value.seen


def test_a_failure_travels_between_processes() -> None:
    with pytest.raises(CheckFailed) as caught:
        check_queue(Loses)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.rule == caught.value.rule
