"""What strangers plug in, as they write it: a queue and an interface."""

from __future__ import annotations

from aioparallel.interface import Interface, remote
from aioparallel.queues import Command, Queue


class Stack(Queue):
    """Last in, first out: a queue needs no more than this."""

    def __init__(self) -> None:
        super().__init__()
        self._commands: list[Command] = []

    def _put(self, command: Command) -> None:
        self._commands.append(command)

    def _pop(self) -> Command:
        return self._commands.pop()


class Counter(Interface):
    """A stranger's interface, without a client of its own."""

    name = "counter"

    def __init__(self) -> None:
        self.value = 0

    @remote
    def add(self, number: int) -> int:
        """Add a number; return the sum."""
        self.value += number
        return self.value
