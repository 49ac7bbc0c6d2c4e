"""Where commands wait: Queue (abstract), FifoQueue, PriorityQueue, Command. Sans-I/O."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["Command", "FifoQueue", "PriorityQueue", "Queue"]


class Command:
    """One piece of work for one engine.

    Attributes:
        payload: What the engine is to do; opaque here.
        client: Who asked for it; None: nobody who is still there.
        done: Called once as `done(command, result)`, with what came back or with one of our errors.
        label: What a person reads in `status`: the function's name, or the first line of the code.
        exclusive: Sent only when the engine has nothing else under way, and nothing is sent beside it.
        priority: Higher goes first in a `PriorityQueue`.
        cancelled: No longer wanted; `Queue.pop` skips it.
        waiting: Whether it is in a queue; the queue keeps it true.
        watched: Whether its client is to be told what it writes, while it runs.
        broadcast: Whether other engines are sent the same payload.
        limit: Seconds that it may run; None: as long as it takes.
        between: Whether it goes before all that waits for its engine.
    """

    __slots__ = ("cancelled", "client", "done", "exclusive", "label", "payload", "priority", "waiting", "watched")

    broadcast: bool = False
    limit: float | None = None
    between: bool = False

    def __init__(
        self,
        payload: Any,
        client: Any,
        done: Callable[[Command, Any], None],
        *,
        label: bytes = b"",
        exclusive: bool = False,
        priority: int = 0,
    ) -> None:
        self.payload = payload
        self.client = client
        self.done = done
        self.label = label
        self.exclusive = exclusive
        self.priority = priority
        self.cancelled = False
        self.waiting = False
        self.watched = False

    @property
    def call(self) -> int:
        """The number of its client's CALL, under which the client is told what it writes."""
        number: int = self.payload.id
        return number

    def __repr__(self) -> str:
        state = " cancelled" if self.cancelled else ""
        return f"<Command {self.label.decode('utf-8', 'replace')!r} of {self.client!r}{state}>"


class Queue(ABC):
    """Commands waiting for one engine. Nothing here awaits, and nothing raises but `IndexError`.

    A subclass says where a command goes (`_put`) and which is next (`_pop`); cancelled ones are counted out
    at once and dropped when they are met.
    """

    def __init__(self) -> None:
        self._live = 0
        #: Cancelled ones that have not been met.
        self._dead = 0

    def __len__(self) -> int:
        return self._live

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._live}>"

    def put(self, command: Command) -> None:
        """Add a command; one that is no longer wanted is dropped."""
        if command.cancelled:
            return
        self._live += 1
        command.waiting = True
        self._put(command)

    def pop(self) -> Command:
        """Remove and return the next command that is still wanted.

        Raises:
            IndexError: There is none.
        """
        while True:
            command = self._pop()
            if command.cancelled:
                self._dead -= 1
                continue
            self._live -= 1
            command.waiting = False
            if self._dead and not self._live:
                self._drop_cancelled()
            return command

    def cancel(self, command: Command) -> None:
        """Mark a waiting command as no longer wanted; one that has left the queue is left alone."""
        if command.waiting:
            command.waiting = False
            command.cancelled = True
            self._live -= 1
            self._dead += 1
            if not self._live:
                self._drop_cancelled()

    def clear(self) -> list[Command]:
        """Remove and return all that wait, in the order they would have run."""
        cleared = []
        while self._live:
            cleared.append(self.pop())
        return cleared

    def _drop_cancelled(self) -> None:
        """Let go of commands, and their payloads, that would lie here until another one comes."""
        while self._dead:
            self._pop()
            self._dead -= 1

    @abstractmethod
    def _put(self, command: Command) -> None:
        """Store a command."""

    @abstractmethod
    def _pop(self) -> Command:
        """Remove and return the next command, cancelled or not; IndexError if there is none."""


class FifoQueue(Queue):
    """First in, first out."""

    def __init__(self) -> None:
        super().__init__()
        self._commands: deque[Command] = deque()

    def _put(self, command: Command) -> None:
        self._commands.append(command)

    def _pop(self) -> Command:
        return self._commands.popleft()


class PriorityQueue(Queue):
    """Higher `priority` first; equal ones first in, first out."""

    def __init__(self) -> None:
        super().__init__()
        self._heap: list[tuple[int, int, Command]] = []
        self._arrivals = 0

    def _put(self, command: Command) -> None:
        self._arrivals += 1
        heapq.heappush(self._heap, (-command.priority, self._arrivals, command))

    def _pop(self) -> Command:
        return heapq.heappop(self._heap)[2]
