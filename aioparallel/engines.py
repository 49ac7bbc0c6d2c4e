"""The controller's side of its engines: a proxy and a queue each."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from aioparallel.broadcast import Outgoing
from aioparallel.connection import Connection
from aioparallel.errors import (
    EngineLost,
    OperationError,
    ParallelError,
    Preempted,
    ProtocolError,
    QueueCleared,
    from_plain,
    to_plain,
)
from aioparallel.events import EngineJoined, EngineLeft, EngineSuspect, KernelDied, KernelRestarted, Monitor
from aioparallel.queues import Command, FifoQueue, Queue
from aioparallel.turnstile import Turnstile
from aioparallel.wire import LAST, NO_ENGINE, EngineCall, Frame, HostCall, Kind, News, Status, encode

__all__ = ["Engine", "EngineLink", "Roster"]

logger = logging.getLogger(__name__)

#: An answer that is none.
RETURNED = int(Status.RETURNED)
#: Commands on their way to one engine at most; the scheduler keeps to less.
IN_FLIGHT = 512


class Engine:
    """One engine as the controller knows it: its queue, and what is under way.

    Attributes:
        id: Its id.
        host, pid, python: Where it runs, and what.
        state: "idle", "running", "restarting" or "broken".
        properties: What clients note about it, by name; JSON values.
        trouble: What is not as it should be with its present kernel, in words; "" if nothing.
    """

    def __init__(self, number: int, link: EngineLink, about: dict[str, Any], queue: Queue) -> None:
        self.id = number
        self.host = str(about.get("host", ""))
        self.pid = int(about.get("pid", 0))
        self.python = str(about.get("python", ""))
        self.kernel_state = ""
        self.trouble = ""
        self.deaths = 0
        self.properties: dict[str, Any] = {}
        self._link = link
        self._queue = Turnstile(queue)
        #: Who has it reserved, first, and who waits for that.
        self._reservations: deque[Any] = deque()
        self._next: Command | None = None
        #: Commands of clients that don't read: they let the others' pass.
        self._held: dict[Any, Queue] = {}
        #: What a fresh kernel does before everything else. While `_shut`, what waits has to wait for that, or for the
        #: kernel.
        self._first: deque[Command] = deque()
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
    def queued(self) -> int:
        """How many commands wait here."""
        held = sum(map(len, self._held.values())) if self._held else 0
        return len(self._first) + self._queue.total + held + (self._next is not None and not self._next.cancelled)

    @property
    def reserved(self) -> str:
        """Which interface has it reserved, and why; "" if none has."""
        return self._reservations[0].text if self._reservations else ""

    def put(self, command: Command) -> None:
        """Queue a command; it is sent when the engine has room, and its client reads."""
        client = command.client
        if command.between and self._next is not None:
            self._put_back()
        alone = self._next is None and not len(self._queue) and not self._held and not self._shut
        if alone and self._has_room(command) and not client.connection.congested:
            self._send(command)
            return
        self._held.get(client, self._queue).put(command)
        self.pump()

    def put_first(self, command: Command) -> None:
        """Have an exclusive command done before all that waits; for `Interface.kernel_started`.

        It belongs to the kernel that is there: if that dies before it has run, nobody is told. Its `client` is None.
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
        """There will be no kernel: the host says so to whoever wants one."""
        self.kernel_state = "broken"
        self.pump()

    def _has_room(self, command: Command) -> bool:
        under_way = len(self._under_way)
        if self._queue.holder is not None and not self._queue.lets(command):
            return False
        return not under_way or not (command.exclusive or self._exclusive or under_way >= IN_FLIGHT)

    def pump(self) -> None:
        """Send what may be sent now."""
        if self._held:
            self._release()
        if self._shut and not self._do_first():
            return
        while True:
            command = self._next
            if command is None or command.cancelled:
                if not len(self._queue):
                    self._next = None
                    return
                command = self._next = self._queue.pop()
            if command.client.connection.congested:
                self._next = None
                self._hold(command)
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
            for waiting in self._waiting():
                self._queue.put(waiting)

    def _do_first(self) -> bool:
        """Send what goes before all that waits; return whether that may follow."""
        if self.kernel_state == "restarting":
            return False
        while self._first:
            if not self._has_room(self._first[0]):
                return False
            self._send(self._first.popleft())
        self._shut = False
        return True

    def _hold(self, command: Command) -> None:
        """A client does not read what it gets: set its commands aside, for the others' sake."""
        client = command.client
        held = self._held[client] = FifoQueue()
        held.put(command)
        for waiting in self._queue.clear():
            (held if waiting.client is client else self._queue).put(waiting)

    def _release(self) -> None:
        """Queue the commands of clients that read again."""
        for client in [client for client in self._held if not client.connection.congested]:
            for command in self._held.pop(client).clear():
                self._queue.put(command)

    def _send(self, command: Command) -> None:
        number = next(self._link.numbers)
        if not self._under_way:
            self._since = self._loop.time()
        self._under_way[number] = command
        self._exclusive = command.exclusive
        connection, payload = self._link.connection, command.payload
        if command.broadcast and self._link.outgoing.is_for(payload):
            connection.send(self._link.outgoing.command(payload, number, self.id))
        else:
            connection.send(connection.forward(payload, Kind.COMMAND, number, engine=self.id))
        if command.watched:
            self._link.tell(HostCall.WATCH, number, self.id)

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
        if self._next is not None or len(self._queue) or self._held or self._shut:
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
            call = command.payload.id
            command.client.send(frame.forward(Kind.NOTICE, call, code=frame.code, engine=self.id))

    def _take_back(self, command: Command, frame: Frame, withdrawn: bool) -> None:
        """A command was meant for a kernel that is gone, and has not begun: it comes before all that waits."""
        if withdrawn:
            frame.code = Status.CANCELLED
            command.done(command, frame)
        elif command.client is not None:
            for waiting in [command, *self._waiting()]:
                self._queue.put(waiting)

    def cancel(self, command: Command) -> None:
        """Withdraw a command: it is dropped where it waits, or interrupted where it runs."""
        if command is self._next:
            command.cancelled = True
            self._next = None
            self.pump()
            return
        for number, under_way in self._under_way.items():
            if under_way is command:
                self._withdraw(number, command)
                return
        client = command.client
        held = self._held.get(client, self._queue)
        held.cancel(command)
        if held is not self._queue and not len(held):
            del self._held[client]

    def _withdraw(self, number: int, command: Command) -> None:
        """Withdraw a command that was sent: what its host has not seen all of, it never will."""
        if command.payload.is_large and self._link.connection.withdraw(number):
            command.cancelled = True
            self._remove(number)
            self.pump()
        else:
            self._withdrawn.add(number)
            self._link.connection.send(encode(Kind.CANCEL, number, engine=self.id))

    def _remove(self, number: int) -> None:
        """A command is under way no more."""
        del self._under_way[number]
        if self._under_way:
            self._since = self._loop.time()
        else:
            self._exclusive = False

    def clear(self, wanted: Callable[[Command], bool] | None = None) -> int:
        """Fail what waits here with `QueueCleared`; return how many."""
        waiting = self._waiting()
        cleared = 0
        for command in waiting:
            if wanted is not None and not wanted(command):
                self._queue.put(command)
                continue
            cleared += 1
            command.done(command, QueueCleared(f"removed from the queue of engine {self.id} before it ran"))
        self.pump()
        return cleared

    def _waiting(self) -> list[Command]:
        """Take out all that waits."""
        first = [self._next] if self._next is not None and not self._next.cancelled else []
        self._next = None
        held = [command for queue in self._held.values() for command in queue.clear()]
        self._held.clear()
        return first + held + self._queue.clear()

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
        for place, command in enumerate(under_way + self._waiting()):
            running = place == 0 and bool(under_way)
            command.done(command, EngineLost(reason, engine_id=self.id, running=running))

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
        for command in waiting:
            self._queue.put(command)
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


class EngineLink:
    """The connection of one engine host, which carries all of its engines."""

    def __init__(self, connection: Connection, roster: Roster, python: str) -> None:
        self.connection = connection
        self.numbers = roster.numbers
        self.outgoing = Outgoing(connection, roster.numbers)
        self.engines: dict[int, Engine] = {}
        self._roster = roster
        self._python = python
        self._calls: dict[int, asyncio.Future[Any]] = {}

    def __repr__(self) -> str:
        return f"<EngineLink with engines {sorted(self.engines)}>"

    def receive(self, frames: list[Frame]) -> None:
        """Take what the host says."""
        for frame in frames:
            kind = frame.kind
            if kind == Kind.RESULT:
                engine = self.engines.get(frame.engine)
                if frame.id in self._calls:
                    self._answer(frame)
                elif engine is not None:
                    engine.finished(frame)
            elif kind == Kind.CALL and frame.code == EngineCall.JOIN:
                self._join(frame)
            elif kind == Kind.CALL and frame.code == EngineCall.READY:
                self._ready(frame)
            elif kind == Kind.NOTICE:
                if frame.code == News.EVENT:
                    self._notice(frame)
                elif frame.engine in self.engines:
                    self._pass_on(frame, self.engines[frame.engine])
            elif kind not in (Kind.BEAT, Kind.GOODBYE):
                raise ProtocolError(f"an engine host sent {frame!r}")

    def call(self, operation: HostCall, engine: int = NO_ENGINE) -> asyncio.Future[Any]:
        """Ask the host for something; the future ends when the host has answered or is gone."""
        number = next(self.numbers)
        future = self._calls[number] = asyncio.get_running_loop().create_future()
        self.connection.send(encode(Kind.CALL, number, code=operation, engine=engine))
        return future

    def tell(self, operation: HostCall, number: int, engine: int) -> None:
        """Tell the host something that it does not answer."""
        self.connection.send(encode(Kind.CALL, number, code=operation, engine=engine))

    def lost(self, error: BaseException | None) -> None:
        """The host is gone, and its engines with it."""
        reason = str(error) if error else "its host closed the connection"
        for engine in list(self.engines.values()):
            self._roster.leave(engine, f"engine {engine.id} is gone: {reason}")
        for future in self._calls.values():
            if not future.done():
                future.set_exception(EngineLost(f"the engine's host is gone: {reason}"))
                future.exception()
        self._calls.clear()

    def reserved(self, engine: Engine, reserved: bool) -> None:
        """An engine is one interface's alone, or everybody's again."""
        self._roster.on_reserved(engine, reserved)

    def silent(self, seconds: float) -> None:
        """The host has been silent for long."""
        for engine in self.engines.values():
            self._roster.monitor.publish(EngineSuspect(engine.id, seconds))

    def _answer(self, frame: Frame) -> None:
        future = self._calls.pop(frame.id)
        if future.done():
            return
        if frame.code == Status.OK:
            future.set_result(frame.json() if frame.header else None)
        else:
            future.set_exception(from_plain(frame.json()))

    def _join(self, frame: Frame) -> None:
        about = frame.json()
        if not isinstance(about, dict):
            raise ProtocolError("JOIN without a JSON object")
        try:
            engine = self._roster.join(self, {"python": self._python} | about)
        except OperationError as error:
            header = json.dumps(to_plain(error)).encode()
            self.connection.send(encode(Kind.RESULT, frame.id, code=Status.FAULT, flags=LAST, header=header))
            return
        header = json.dumps({"engine": engine.id}).encode()
        self.connection.send(encode(Kind.RESULT, frame.id, flags=LAST, engine=engine.id, header=header))
        self._roster.announce(engine)

    def _pass_on(self, frame: Frame, engine: Engine) -> None:
        """Pass news of user code on to the client that asked for it; nobody reads it here."""
        if frame.code != News.RECORD:
            engine.wrote(frame)
            return
        client = self._roster.find_client(frame.id)
        if client is None:
            self.tell(HostCall.FORGET, frame.id, engine.id)
        elif client.allowed(engine.id) and not client.connection.congested:
            client.send(frame.forward(Kind.NOTICE, 0, code=frame.code, engine=engine.id))

    def _ready(self, frame: Frame) -> None:
        """A fresh kernel is there: say from which command on it is meant, then let it begin."""
        about = frame.json()
        engine = self.engines.get(frame.engine)
        if not isinstance(about, dict) or not isinstance(about.get("pid"), int):
            raise ProtocolError("READY without a JSON object and a pid")
        if engine is None:
            return
        answer = {"engine": engine.id, "pid": about["pid"], "first": next(self.numbers)}
        header = json.dumps(answer).encode()
        self.connection.send(encode(Kind.RESULT, frame.id, flags=LAST, engine=engine.id, header=header))
        self._roster.restarted(engine, about["pid"])

    def _notice(self, frame: Frame) -> None:
        notice = frame.json()
        engine = self.engines.get(notice.get("engine", -1)) if isinstance(notice, dict) else None
        if engine is None:
            return
        event, reason = notice.get("event"), str(notice.get("reason", ""))
        if event == "kernel_died":
            engine.kernel_gone()
            engine.deaths += 1
            self._roster.monitor.publish(KernelDied(engine.id, reason, str(notice.get("output", ""))))
        elif event == "kernel_restarting":
            engine.kernel_gone()
        elif event == "kernel_broken":
            engine.kernel_broken()
        elif event == "engine_left":
            self._roster.leave(engine, f"engine {engine.id} is gone: {reason}")


class Roster:
    """All engines by id. The lowest free id goes to the next that joins."""

    def __init__(
        self,
        monitor: Monitor,
        *,
        queue: Callable[[], Queue] = FifoQueue,
        on_join: Callable[[Engine], None],
        on_leave: Callable[[Engine], None],
        find_client: Callable[[int], Any] = lambda session: None,
        on_kernel: Callable[[Engine], None] = lambda engine: None,
        on_reserved: Callable[[Engine, bool], None] = lambda engine, reserved: None,
    ) -> None:
        self.monitor = monitor
        self.find_client = find_client
        self.on_reserved = on_reserved
        self.numbers = itertools.count(1)
        self.engines: dict[int, Engine] = {}
        self._queue = queue
        self._on_join = on_join
        self._on_leave = on_leave
        self._on_kernel = on_kernel
        self._free: list[int] = []
        self._used = 0

    def __repr__(self) -> str:
        return f"<Roster of {len(self.engines)} engines>"

    def join(self, link: EngineLink, about: dict[str, Any]) -> Engine:
        """Take an engine in.

        Raises:
            OperationError: There is no id left.
        """
        if self._free:
            number = heapq.heappop(self._free)
        elif self._used < NO_ENGINE:
            number, self._used = self._used, self._used + 1
        else:
            raise OperationError("no more engines: every id is taken")
        try:
            engine = Engine(number, link, about, self._queue())
        except (TypeError, ValueError):
            heapq.heappush(self._free, number)
            raise ProtocolError("JOIN with values of the wrong type") from None
        self.engines[number] = link.engines[number] = engine
        self.engines = dict(sorted(self.engines.items()))
        return engine

    def announce(self, engine: Engine) -> None:
        """Tell everyone that an engine is ready."""
        logger.info("engine %d joined: %s pid %d, Python %s", engine.id, engine.host, engine.pid, engine.python)
        self.monitor.publish(EngineJoined(engine.id, engine.host, engine.pid))
        self._on_kernel(engine)
        self._on_join(engine)

    def restarted(self, engine: Engine, pid: int) -> None:
        """Take note of an engine's fresh kernel, and let it work."""
        engine.kernel_ready(pid)
        self.monitor.publish(KernelRestarted(engine.id, pid))
        self._on_kernel(engine)
        engine.pump()

    def leave(self, engine: Engine, reason: str) -> None:
        """Let an engine go: answer its commands, free its id, tell everyone."""
        if self.engines.pop(engine.id, None) is None:
            return
        engine._link.engines.pop(engine.id, None)
        heapq.heappush(self._free, engine.id)
        logger.info("engine %d left: %s", engine.id, reason)
        engine.lost(reason)
        self.monitor.publish(EngineLeft(engine.id, reason))
        self._on_leave(engine)
