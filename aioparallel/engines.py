"""The controller's side of an engine: a proxy, and the queue of what it is to do."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from aioparallel.broadcast import Outgoing
from aioparallel.connection import Connection
from aioparallel.errors import EngineLost, ParallelError, Preempted, QueueCleared
from aioparallel.queues import Command, Queue, arrivals
from aioparallel.resources import checked_resources
from aioparallel.turnstile import Turnstile
from aioparallel.wire import NO_ENGINE, SECONDS, Composed, Frame, HostCall, Kind, Status, encode

__all__ = ["Engine", "Link"]

logger = logging.getLogger(__name__)

#: An answer that is none.
RETURNED = int(Status.RETURNED)
#: Commands on their way to one engine at most; the scheduler keeps to less.
IN_FLIGHT = 512


class Link(Protocol):
    """What an engine asks of the connection to its host; `roster.EngineLink` is one.

    Attributes:
        connection: Where commands go.
        numbers: Where their ids come from.
        outgoing: What the host keeps for several of its engines.
    """

    connection: Connection
    numbers: Iterator[int]
    outgoing: Outgoing

    def call(self, operation: HostCall, engine: int = NO_ENGINE) -> asyncio.Future[Any]:
        """Ask the host for something; the future ends when the host has answered or is gone."""
        ...

    def tell(self, operation: HostCall, number: int, engine: int, header: bytes = b"") -> None:
        """Tell the host something that it does not answer."""
        ...

    def properties_changed(self, engine: Engine) -> None:
        """Take note that an engine's properties are others now."""
        ...

    def reserved(self, engine: Engine, reserved: bool) -> None:
        """Take note that an engine is one interface's alone, or everybody's again."""
        ...


class Engine:
    """One engine as the controller knows it: its queue, and what is under way.

    Attributes:
        id: Its id.
        host, pid, python: Where it runs, and what.
        state: "idle", "running", "restarting" or "broken".
        resources: What it has, by name: what tasks may ask for a part of.
        trouble: What is not as it should be with its present kernel, in words; "" if nothing.
    """

    def __init__(self, number: int, link: Link, about: dict[str, Any], queue: Queue) -> None:
        self.id = number
        self.host = str(about.get("host", ""))
        self.pid = int(about.get("pid", 0))
        self.python = str(about.get("python", ""))
        self.kernel_state = ""
        self.trouble = ""
        self.deaths = 0
        self.resources = checked_resources(about.get("resources", {}))
        self._properties: dict[str, Any] = {}
        self._link = link
        self._queue = Turnstile(queue)
        #: Who has it reserved, first, and who waits for that.
        self._reservations: deque[Any] = deque()
        self._next: Command | None = None
        #: What a fresh kernel does before everything else, and the number of the last one of these that was sent. While
        #: `_shut`, what waits has to wait for that, or for the kernel.
        self._first: deque[Command] = deque()
        self._first_sent = 0
        self._shut = False
        self._under_way: dict[int, Command] = {}
        self._withdrawn: set[int] = set()
        self._exclusive = False
        self._since = 0.0
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<Engine {self.id} {self.state}, {len(self._under_way)} under way, {self.queued} queued>"

    @property
    def state(self) -> str:
        """What it is doing, in a word."""
        return self.kernel_state or ("running" if self._under_way else "idle")

    @property
    def properties(self) -> dict[str, Any]:
        """What clients note about it, by name; JSON values. To change them, assign a new dict: interfaces are told."""
        return self._properties

    @properties.setter
    def properties(self, properties: dict[str, Any]) -> None:
        self._properties = properties
        self._link.properties_changed(self)

    @property
    def queued(self) -> int:
        """How many commands wait here."""
        return len(self._first) + self._queue.total + (self._next is not None and not self._next.cancelled)

    @property
    def reserved(self) -> str:
        """Which interface has it reserved, and why; "" if none has."""
        return self._reservations[0].text if self._reservations else ""

    def put(self, command: Command) -> None:
        """Queue a command; it is sent when the engine has room, and its client reads."""
        client = command.client
        if command.between and self._next is not None:
            self._put_back()
        alone = self._next is None and not len(self._queue) and not self._queue.held and not self._shut
        if alone and self._has_room(command) and (client is None or not client.connection.congested):
            # It has passed through the empty queue, so to speak: should it come back, it has a place there.
            command.arrival = next(arrivals)
            self._send(command)
            return
        self._queue.put(command)
        self.pump()

    def put_first(self, command: Command) -> None:
        """Have an exclusive command done before all that waits; for `Interface.kernel_started`.

        It belongs to the kernel that is there: if that dies before it has run, nobody is told.
        """
        self._first.append(command)
        self._shut = True
        self.pump()

    def kernel_gone(self) -> None:
        """Send nothing until there is a fresh kernel."""
        self.kernel_state = "restarting"
        self._first.clear()
        self._shut = True

    def kernel_ready(self, pid: int) -> None:
        """There is a fresh kernel: to be followed by what it does first, and `pump`."""
        self.kernel_state, self.trouble, self.pid = "", "", pid

    def kernel_broken(self) -> None:
        """There will be no kernel: the host says so to whoever wants one; to be followed by `pump`."""
        self.kernel_state = "broken"

    def _has_room(self, command: Command) -> bool:
        under_way = len(self._under_way)
        if self._queue.holder is not None and not self._queue.lets(command):
            return False
        return not under_way or not (command.exclusive or self._exclusive or under_way >= IN_FLIGHT)

    def pump(self) -> None:
        """Send what may be sent now."""
        if self._queue.held:
            self._queue.readmit()
        if self._shut and not self._do_first():
            return
        while True:
            command = self._next
            if command is None or command.cancelled:
                if not len(self._queue):
                    self._next = None
                    return
                command = self._next = self._queue.pop()
            if command.client is not None and command.client.connection.congested:
                self._next = None
                self._queue.hold(command)
            elif self._has_room(command):
                self._next = None
                self._send(command)
            else:
                return

    def reserve(self, reservation: Any) -> None:
        """Let only the commands of `reservation.hosting` pass, from its turn on until `release`."""
        self._reservations.append(reservation)
        if len(self._reservations) == 1:
            self._begin_reservation()

    def release(self, reservation: Any) -> None:
        """End a reservation, or the wait for one."""
        if reservation not in self._reservations:
            return
        held = reservation is self._reservations[0]
        self._reservations.remove(reservation)
        if held:
            self._put_back()
            self._queue.release()
            if self._reservations:
                self._begin_reservation()
            else:
                self._link.reserved(self, False)
            self.pump()

    def _begin_reservation(self) -> None:
        self._put_back()
        self._queue.reserve(self._reservations[0].hosting)
        self._link.reserved(self, True)
        self._reservations[0].begin()

    def preempt(self, wanted: Command, reason: str) -> None:
        """Interrupt what was sent before `wanted`, which waits; not if somebody else has the engine reserved."""
        if (not wanted.waiting and wanted is not self._next) or not self._queue.lets(wanted):
            return
        for command in tuple(self._under_way.values()):
            _answer_as_preempted(command, reason)
            self.cancel(command)
            if command.cancelled:
                command.cancelled = False  # it may be put into a queue again
                command.done(command, Preempted(f"withdrawn: {reason}"))

    def _put_back(self) -> None:
        """Have the command that is next wait among the others again."""
        if self._next is not None:
            self._queue.put_back(self._waiting())

    def _do_first(self) -> bool:
        """Send what goes before all that waits; return whether that may follow."""
        if self.kernel_state == "restarting":
            return False
        while self._first:
            if not self._has_room(self._first[0]):
                return False
            self._first_sent = self._send(self._first.popleft())
        self._shut = False
        return True

    def _send(self, command: Command) -> int:
        number = next(self._link.numbers)
        if not self._under_way:
            self._since = self._loop.time()
        self._under_way[number] = command
        self._exclusive = command.exclusive
        connection, payload = self._link.connection, command.payload
        if command.limit is not None:
            self._link.tell(HostCall.LIMIT, number, self.id, SECONDS.pack(command.limit))
        if type(payload) is Composed:
            connection.send(payload.command(number, self.id, small=connection.limits.small))
        elif command.broadcast and self._link.outgoing.is_for(payload):
            connection.send(self._link.outgoing.command(payload, number, self.id))
        else:
            connection.send(connection.forward(payload, Kind.COMMAND, number, engine=self.id))
        if command.watched:
            self._link.tell(HostCall.WATCH, number, self.id)
        return number

    def finished(self, frame: Frame) -> None:
        """Take the answer to a command."""
        command = self._under_way.get(frame.id)
        if command is None:
            logger.debug("engine %d answered command %d, which nobody waits for", self.id, frame.id)
            return
        self._remove(frame.id)
        withdrawn = bool(self._withdrawn) and frame.id in self._withdrawn
        if withdrawn:
            self._withdrawn.remove(frame.id)
        if frame.code == RETURNED:
            self._take_back(command, frame, withdrawn)
        else:
            command.done(command, frame)
        if self._next is not None or len(self._queue) or self._queue.held or self._shut:
            self.pump()

    def watch(self, command: Command) -> None:
        """Have what a command writes told to its client (whose CALL its payload is), from now on or when it is sent."""
        command.watched = True
        for number, under_way in self._under_way.items():
            if under_way is command:
                self._link.tell(HostCall.WATCH, number, self.id)

    def wrote(self, frame: Frame) -> None:
        """Pass on what a command has written; a client that does not read finds it in the result."""
        command = self._under_way.get(frame.id)
        if command is not None and command.watched and not command.client.connection.congested:
            command.client.send(frame.forward(Kind.NOTICE, command.call, code=frame.code, engine=self.id))

    def _take_back(self, command: Command, frame: Frame, withdrawn: bool) -> None:
        """A command was meant for a kernel that is gone, and has not begun: it has its place in the queue again."""
        if withdrawn:
            frame.code = Status.CANCELLED
            command.done(command, frame)
        elif frame.id != self._first_sent:
            self._queue.put_back([command, *self._waiting()])

    def cancel(self, command: Command) -> None:
        """Withdraw a command: it is dropped where it waits, or interrupted where it runs.

        One that has not been sent is `cancelled` then, and nobody answers it. One that has been is answered.
        """
        number = self._drop(command)
        if number:
            self._link.connection.send(encode(Kind.CANCEL, number, engine=self.id))

    def end(self, command: Command) -> None:
        """Have a command end, whatever that takes: as `cancel`, but one that runs may cost the engine its kernel.

        It is answered as cancelled if it had not begun, with a `TaskAborted`, or with its value if it was done just
        then.
        """
        number = self._drop(command)
        if number:
            self._link.tell(HostCall.END, number, self.id)

    def recall(self, command: Command) -> bool:
        """Have a command back that has not begun; one that runs is left alone.

        Returns:
            Whether it is back now: it had not been sent, nobody will answer it, and it may be put elsewhere. One that
            had been is answered in any case: as cancelled if it had not begun.
        """
        number = self._number_of(command)
        if number and not self._unsend(number, command):
            self._withdrawn.add(number)
            self._link.tell(HostCall.RECALL, number, self.id)
            return False
        waiting = self._waiting()
        self._queue.put_back(other for other in waiting if other is not command)
        self.pump()
        return bool(number) or command in waiting

    def _number_of(self, command: Command) -> int:
        """Return under which number a command was sent; 0: it was not."""
        return next((number for number, under_way in self._under_way.items() if under_way is command), 0)

    def _drop(self, command: Command) -> int:
        """Drop a command where it waits; return under which number it has been sent, or 0."""
        number = self._number_of(command)
        if number and not self._unsend(number, command):
            self._withdrawn.add(number)
            return number
        if number or command is self._next:
            command.cancelled = True
            if command is self._next:
                self._next = None
            self.pump()
            return 0
        self._queue.cancel(command)
        return 0

    def _unsend(self, number: int, command: Command) -> bool:
        """Take back a large command: what its host has not seen all of, it never will."""
        connection = self._link.connection
        if not (command.payload.is_large and connection.withdraw(number)):
            return False
        self._remove(number)
        if command.limit is not None:
            # So that the host forgets what it was told about it.
            connection.send(encode(Kind.CANCEL, number, engine=self.id))
        return True

    def _remove(self, number: int) -> None:
        """A command is under way no more."""
        del self._under_way[number]
        if self._under_way:
            self._since = self._loop.time()
        else:
            self._exclusive = False

    def clear(self, wanted: Callable[[Command], bool] | None = None) -> int:
        """Fail what waits here with `QueueCleared`; return how many."""
        cleared: list[Command] = []
        kept: list[Command] = []
        for command in self._waiting():
            (cleared if wanted is None or wanted(command) else kept).append(command)
        self._queue.put_back(kept)
        for command in cleared:
            command.done(command, QueueCleared(f"removed from the queue of engine {self.id} before it ran"))
        self.pump()
        return len(cleared)

    def _waiting(self) -> list[Command]:
        """Take out all that waits."""
        first = [self._next] if self._next is not None and not self._next.cancelled else []
        self._next = None
        return first + self._queue.clear()

    def interrupt(self) -> asyncio.Future[Any]:
        """Raise KeyboardInterrupt in what runs."""
        return self._link.call(HostCall.INTERRUPT, self.id)

    def restart(self) -> asyncio.Future[Any]:
        """Start a fresh kernel under the same id."""
        return self._link.call(HostCall.RESTART, self.id)

    def stop(self) -> asyncio.Future[Any]:
        """End the engine."""
        return self._link.call(HostCall.STOP, self.id)

    def lost(self, reason: str) -> None:
        """Answer everything: the engine is gone."""
        under_way, self._under_way = list(self._under_way.values()), {}
        self._exclusive = self._shut = False
        self._first.clear()
        self._withdrawn.clear()
        reservations, self._reservations = self._reservations, deque()
        if reservations:
            self._queue.release()
        for reservation in reservations:
            reservation.lose(EngineLost(reason, engine_id=self.id))
        # What had begun over there, nobody can tell any more: whatever was sent may have.
        waiting = self._waiting()
        for command in under_way:
            command.done(command, EngineLost(reason, engine_id=self.id, running=True))
        for command in waiting:
            command.done(command, EngineLost(reason, engine_id=self.id, running=False))

    def pending(self) -> str:
        """Return the label of what runs, or ""."""
        for command in self._under_way.values():
            return command.label.decode("utf-8", "replace") or "a command"
        return ""

    def queue_status(self) -> dict[str, Any]:
        """Return what waits and what runs, by label."""
        queued = [command.label.decode("utf-8", "replace") for command in self._peek()]
        return {"id": self.id, "pending": self.pending() or None, "queue": queued}

    def _peek(self) -> Iterator[Command]:
        waiting = self._waiting()
        self._queue.put_back(waiting)
        yield from waiting[:100]

    def status(self) -> dict[str, Any]:
        """Return what a person would ask about it, as plain values."""
        running = self._loop.time() - self._since if self._under_way else None
        return {
            "id": self.id,
            "state": self.state,
            "doing": self.pending() or None,
            "seconds": running,
            "queued": self.queued,
            "under_way": len(self._under_way),
            "host": self.host,
            "pid": self.pid,
            "python": self.python,
            "resources": self.resources,
            "deaths": self.deaths,
            "trouble": self.trouble or None,
            "reserved": self.reserved or None,
        }


def _answer_as_preempted(command: Command, reason: str) -> None:
    """Have a command that is about to be interrupted answered as pre-empted, unless it is done just then."""
    done = command.done

    def answered(command: Command, result: Frame | ParallelError) -> None:
        command.done = done
        if isinstance(result, Frame) and result.code in (Status.ERROR, Status.CANCELLED):
            result = Preempted(f"interrupted: {reason}")
        done(command, result)

    command.done = answered
