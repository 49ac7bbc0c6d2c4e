"""Where commands wait: Queue (abstract), FifoQueue, PriorityQueue, Command. Sans-I/O."""

from __future__ import annotations

import heapq
import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from aioparallel import plugins

__all__ = ["Command", "FifoQueue", "PriorityQueue", "Queue", "arrivals", "get"]

#: Numbers what comes to a queue, whichever it is, so that what was taken out of several can go back as it came.
arrivals = itertools.count(1)


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
        arrival: Higher the later it came to a queue; 0 if it never did. The queue sets it.
    """

    __slots__ = (
        "arrival",
        "cancelled",
        "client",
        "done",
        "exclusive",
        "label",
        "payload",
        "priority",
        "waiting",
        "watched",
    )

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
        self.arrival = 0
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
    """Commands waiting for one engine.

    A queue of your own is a subclass with two methods, made without arguments, once for each engine: `_put` stores a
    command, `_pop` takes out the one that is next. Everything else is here. What a command is *for* a queue can't know:
    it may look at `priority`, `label`, `client`, `exclusive` and `arrival`, and changes nothing of it.

    The rules, which `aioparallel.testing.check_queue` checks:

    * What was put comes out once, the very same object, even if it was cancelled meanwhile; nothing else comes out.
    * What comes out next follows from what was put and taken alone: not from a clock, from chance, or from addresses
      in memory; two queues that were fed the same give the same.
    * `_pop` gives those that were cancelled in their turn, too: they are dropped here, at the latest when no others
      are left. When nothing is left, it raises IndexError. A queue must not hold on to what it has given.
    * Nothing awaits, and nothing raises but that IndexError: both methods are called while frames are read, for every
      command, and should take no more than a few microseconds however many wait.
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
        command.arrival = next(arrivals)
        self._take(command)

    def _take(self, command: Command) -> None:
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

    def put_back(self, commands: Iterable[Command]) -> None:
        """Put commands that were taken out in again, as if they had never left: each keeps its `arrival`.

        The order in which they were taken is not enough: put that way into a queue which gives the newest first, they
        would come out turned round. Those that were cancelled meanwhile are dropped.
        """
        for command in sorted(commands, key=_arrival):
            if not command.cancelled:
                self._take(command)

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

    def _put(self, command: Command) -> None:
        heapq.heappush(self._heap, (-command.priority, command.arrival, command))

    def _pop(self) -> Command:
        return heapq.heappop(self._heap)[2]


def get(queue: str | type[Queue]) -> type[Queue]:
    """Return the class of queue that is meant.

    Args:
        queue: The name of one that is installed ("fifo", "priority"), its place (`module:Class`), or the class itself.

    Raises:
        PluginError: There is none of that name, it is no Queue, or an empty one can't be made; the text names it.
    """
    if isinstance(queue, str):
        kind: type[Queue] = type(plugins.make(plugins.QUEUES, queue, Queue))
        return kind
    name = f"{queue.__module__}:{queue.__qualname__}" if isinstance(queue, type) else repr(queue)
    plugins.check(queue, Queue, f"queue {name}")
    plugins.made(queue, f"queue {name}")
    return queue


def _arrival(command: Command) -> int:
    return command.arrival
