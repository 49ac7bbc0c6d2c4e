"""The controller's engines by id, and the connections of their hosts."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

from aioparallel.broadcast import Outgoing
from aioparallel.connection import Connection
from aioparallel.engines import Engine
from aioparallel.errors import EngineLost, OperationError, ProtocolError, from_plain, to_plain
from aioparallel.events import EngineJoined, EngineLeft, EngineSuspect, KernelDied, KernelRestarted, Monitor
from aioparallel.queues import FifoQueue, Queue
from aioparallel.wire import LAST, NO_ENGINE, EngineCall, Frame, HostCall, Kind, News, Status, encode

__all__ = ["EngineLink", "Roster"]

logger = logging.getLogger(__name__)


class EngineLink:
    """The connection of one engine host, which carries all of its engines."""

    def __init__(self, connection: Connection, roster: Roster, python: str) -> None:
        self.connection = connection
        self.numbers: Iterator[int] = roster.numbers
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

    def tell(self, operation: HostCall, number: int, engine: int, header: bytes = b"") -> None:
        """Tell the host something that it does not answer."""
        self.connection.send(encode(Kind.CALL, number, code=operation, engine=engine, header=header))

    def properties_changed(self, engine: Engine) -> None:
        """Take note that an engine's properties are others now."""
        self._roster.on_properties(engine)

    def reserved(self, engine: Engine, reserved: bool) -> None:
        """Take note that an engine is one interface's alone, or everybody's again."""
        self._roster.on_reserved(engine, reserved)

    def lost(self, error: BaseException | None) -> None:
        """The host is gone, and its engines with it."""
        reason = str(error) if error else "its host closed the connection"
        # All of them first: what one of them had must not go to another one here, whose end it would count as its own.
        for engine in self.engines.values():
            engine.kernel_gone()
        for engine in list(self.engines.values()):
            self._leave(engine, reason)
        for future in self._calls.values():
            if not future.done():
                future.set_exception(EngineLost(f"the engine's host is gone: {reason}"))
                future.exception()
        self._calls.clear()

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
            self._roster.on_kernel_lost(engine)
        elif event == "kernel_restarting":
            engine.kernel_gone()
            self._roster.on_kernel_lost(engine)
        elif event == "kernel_broken":
            engine.kernel_broken()
            self._roster.on_kernel_lost(engine)
            engine.pump()
        elif event == "engine_left":
            self._leave(engine, reason)

    def _leave(self, engine: Engine, reason: str) -> None:
        del self.engines[engine.id]
        self._roster.leave(engine, f"engine {engine.id} is gone: {reason}")


class Roster:
    """All engines by id. The lowest free id goes to the next that joins.

    Args:
        monitor: Who is told what happened.
        queue: Makes the queue of an engine.
        on_join: Told of an engine that has joined.
        on_leave: Told of one that is gone; its commands have been answered.
        find_client: Finds a client by its session.
        on_kernel: Told of an engine's fresh kernel.
        on_kernel_lost: Told that an engine has none for now; its commands have not been answered.
        on_properties: Told that an engine's properties are others now.
        on_reserved: Told that an engine is one interface's alone (True), or everybody's again.
    """

    def __init__(
        self,
        monitor: Monitor,
        *,
        queue: Callable[[], Queue] = FifoQueue,
        on_join: Callable[[Engine], None],
        on_leave: Callable[[Engine], None],
        find_client: Callable[[int], Any] = lambda session: None,
        on_kernel: Callable[[Engine], None] = lambda engine: None,
        on_kernel_lost: Callable[[Engine], None] = lambda engine: None,
        on_properties: Callable[[Engine], None] = lambda engine: None,
        on_reserved: Callable[[Engine, bool], None] = lambda engine, reserved: None,
    ) -> None:
        self.monitor = monitor
        self.find_client = find_client
        self.on_kernel_lost = on_kernel_lost
        self.on_properties = on_properties
        self.on_reserved = on_reserved
        self.numbers: Iterator[int] = itertools.count(1)
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
        except (TypeError, ValueError, OverflowError):
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
        heapq.heappush(self._free, engine.id)
        logger.info("engine %d left: %s", engine.id, reason)
        engine.lost(reason)
        self.monitor.publish(EngineLeft(engine.id, reason))
        self._on_leave(engine)
