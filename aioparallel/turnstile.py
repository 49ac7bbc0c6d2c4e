"""Whose commands an engine is given next: between others, reserved, held while nobody reads. Sans-I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from aioparallel.queues import Command, FifoQueue, Queue, arrivals

__all__ = ["Turnstile"]


class Turnstile(Queue):
    """The queue of an engine, with a rule before it.

    Commands that go `between` come before what waits. While somebody has the engine reserved, only the commands of that
    holder are in the queue; those of others are set aside, in order, and come back at the end. What waits of a client
    that does not read what it gets is held, for the others' sake. Its length is how many commands may be given to the
    engine; `total` counts all.

    Args:
        queue: Where commands wait that nothing else is said about.

    Attributes:
        holder: Who has the engine reserved; None: nobody.
        held: What waits of clients that don't read, by client.
    """

    def __init__(self, queue: Queue) -> None:
        super().__init__()
        self.holder: Any = None
        self.held: dict[Any, Queue] = {}
        self._queue = queue
        self._between: deque[Command] = deque()
        self._aside = FifoQueue()

    def __len__(self) -> int:
        return len(self._queue) + len(self._between) - self._between_aside()

    def __repr__(self) -> str:
        reserved = f", reserved by {self.holder!r}" if self.holder is not None else ""
        return f"<Turnstile before {self._queue!r}, {self.total} in all{reserved}>"

    @property
    def total(self) -> int:
        """How many commands wait here, whether or not they may pass."""
        held = sum(map(len, self.held.values())) if self.held else 0
        return len(self._queue) + len(self._between) + len(self._aside) + held

    def lets(self, command: Command) -> bool:
        """Whether a command may be given to the engine now."""
        return self.holder is None or getattr(command.client, "hosting", None) is self.holder

    def put(self, command: Command) -> None:
        """Add a command; one that is no longer wanted is dropped."""
        if command.cancelled:
            return
        if self.held and command.client in self.held:
            self.held[command.client].put(command)
        elif command.between:
            command.arrival = next(arrivals)
            command.waiting = True
            self._between.append(command)
        else:
            (self._queue if self.lets(command) else self._aside).put(command)

    def put_back(self, commands: Iterable[Command]) -> None:
        """Put commands that were taken out in again, as if they had never left, whoever has it reserved by now."""
        between, mine, others = list(self._between), list[Command](), list[Command]()
        for command in commands:
            if command.between and not command.cancelled:
                command.waiting = True
                between.append(command)
            elif not command.between:
                (mine if self.lets(command) else others).append(command)
        self._between = deque(sorted(between, key=attrgetter("arrival")))
        self._queue.put_back(mine)
        self._aside.put_back(others)

    def pop(self) -> Command:
        """Remove and return the next command that may pass.

        Raises:
            IndexError: There is none.
        """
        for command in self._between:
            if self.lets(command):
                self._between.remove(command)
                command.waiting = False
                return command
        return self._queue.pop()

    def cancel(self, command: Command) -> None:
        """Mark a waiting command as no longer wanted; one that has left the queue is left alone."""
        if self.held and command.client in self.held:
            held = self.held[command.client]
            held.cancel(command)
            if not len(held):
                del self.held[command.client]
        elif command in self._between:
            self._between.remove(command)
            command.waiting, command.cancelled = False, True
        elif self.holder is None or self.lets(command):
            self._queue.cancel(command)
        else:
            self._aside.cancel(command)

    def clear(self) -> list[Command]:
        """Remove and return all that wait: what is held, the others in the order they would have run, what is aside."""
        held = [command for queue in self.held.values() for command in queue.clear()]
        self.held.clear()
        return held + self._take_out()

    def hold(self, command: Command) -> None:
        """Set aside all that waits of the client of `command`, which was next: it does not read what it gets."""
        client = command.client
        waiting = [command, *self._take_out()]
        held = self.held[client] = FifoQueue()
        held.put_back(command for command in waiting if command.client is client)
        self.put_back(command for command in waiting if command.client is not client)

    def readmit(self) -> None:
        """Queue the commands of clients that read again."""
        for client in [client for client in self.held if not client.connection.congested]:
            for command in self.held.pop(client).clear():
                self.put(command)

    def _take_out(self) -> list[Command]:
        """Remove and return all that wait but what is held."""
        between = list(self._between)
        self._between.clear()
        for command in between:
            command.waiting = False
        return between + self._queue.clear() + self._aside.clear()

    def reserve(self, holder: Any) -> None:
        """Let only the commands of `holder` pass."""
        assert self.holder is None
        waiting = self._queue.clear()
        self.holder = holder
        self.put_back(waiting)

    def release(self) -> None:
        """Let all pass again, each in its place."""
        waiting = self._aside.clear() + self._queue.clear()
        self.holder = None
        self.put_back(waiting)

    def _between_aside(self) -> int:
        if self.holder is None:
            return 0
        return sum(not self.lets(command) for command in self._between)

    def _put(self, command: Command) -> None:
        self._queue.put(command)

    def _pop(self) -> Command:
        return self._queue.pop()
