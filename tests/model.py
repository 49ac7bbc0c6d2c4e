"""A controller with engines that are namespaces in this very loop: no process, no socket, nothing to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aioparallel
from aioparallel import dial
from aioparallel.broadcast import Stored
from aioparallel.controller import Controller
from aioparallel.errors import EngineDied, ParallelError, TaskAborted, TaskTimeout, to_plain
from aioparallel.interfaces.task import TaskInterface
from aioparallel.namespace import Namespace
from aioparallel.wire import (
    JOINED,
    OUTPUT_META,
    RESULT_META,
    SECONDS,
    STORED,
    EngineCall,
    Frame,
    HostCall,
    Kind,
    Limits,
    News,
    Status,
    encode,
)

Later = Callable[[], None]
#: Ids of calls that tell of a fresh kernel: this, and the engine.
READY = 10_000


class ModelHost:
    """An engine host as the controller sees it. Commands run when the test says so (`step`), or at once (`eager`)."""

    def __init__(self, *, eager: bool = True, seconds: float = 0.001) -> None:
        self.eager = eager
        self.seconds = seconds
        #: Whether what runs goes on when it is to end, until the test says otherwise.
        self.stubborn = False
        self.waiting: list[Frame] = []
        self.cancelled: list[int] = []
        self.asked: list[tuple[HostCall, int]] = []
        self.told: list[tuple[HostCall, int, int]] = []
        self.spaces: dict[int, Namespace] = {}
        #: Seconds that commands may run, by their ids; those that the controller wanted ended, and those asked back.
        self.limits: dict[int, float] = {}
        self.ended: list[int] = []
        self.recalled: list[int] = []
        self.ids: list[int] = []
        self.down: set[int] = set()
        self.stored = Stored(0)
        self.first: dict[int, int] = {}
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self._joined: dict[int, asyncio.Future[int]] = {}

    async def dial(self, controller: Controller, n: int) -> ModelHost:
        self.controller = controller
        self.connection, _ = await dial.connect(
            controller.capability("engine"), role="engine", on_frames=self._receive, on_lost=self.lost.set_result
        )
        for _ in range(n):
            await self.join()
        return self

    async def join(self, **about: Any) -> int:
        number = len(self._joined)
        joined = self._joined[number] = asyncio.get_running_loop().create_future()
        header = json.dumps({"pid": 1000 + number, "host": "model", **about}).encode()
        self.connection.send(encode(Kind.CALL, number, code=EngineCall.JOIN, header=header))
        return await joined

    def _receive(self, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.kind == Kind.RESULT and frame.id >= READY:
                self.down.discard(frame.engine)
                self.first[frame.engine] = frame.json()["first"]
            elif frame.kind == Kind.RESULT:
                self.ids.append(frame.engine)
                self._make_space(frame.engine)
                self._joined[frame.id].set_result(frame.engine)
            elif frame.kind == Kind.COMMAND:
                command = self.stored.command(frame) if frame.code == STORED else frame
                if command is not None:
                    self._command(command)
            elif frame.kind == Kind.CANCEL:
                self._cancel(frame)
            elif frame.kind == Kind.CALL and frame.code == HostCall.STORE:
                for command in self.stored.keep(frame):
                    self._command(command)
            elif frame.kind == Kind.CALL and frame.code == HostCall.DROP:
                self.stored.drop(frame.id)
            elif frame.kind == Kind.CALL and frame.code == HostCall.LIMIT:
                (self.limits[frame.id],) = SECONDS.unpack(frame.header)
            elif frame.kind == Kind.CALL and frame.code in (HostCall.END, HostCall.RECALL):
                self._take_back(frame)
            elif frame.kind == Kind.CALL and frame.code in (HostCall.WATCH, HostCall.FORGET):
                self.told.append((HostCall(frame.code), frame.engine, frame.id))
            elif frame.kind == Kind.CALL:
                self.asked.append((HostCall(frame.code), frame.engine))
                self.connection.send(encode(Kind.RESULT, frame.id, engine=frame.engine))

    def _command(self, frame: Frame) -> None:
        if not self._stale(frame):
            self.waiting.append(frame)
            if self.eager:
                self.step()

    def _make_space(self, engine: int) -> None:
        self.spaces[engine] = Namespace(engine, run_coroutine=_no_coroutines, outlet=_Outlet(self, engine))

    def _cancel(self, frame: Frame) -> None:
        self.cancelled.append(frame.id)
        for waiting in [waiting for waiting in self.waiting if waiting.id == frame.id]:
            self.waiting.remove(waiting)
            self.connection.send(encode(Kind.RESULT, frame.id, engine=frame.engine, code=Status.CANCELLED))

    def _take_back(self, frame: Frame) -> None:
        """End a command, or give it back; the first of an engine's is the one that runs."""
        (self.ended if frame.code == HostCall.END else self.recalled).append(frame.id)
        waiting = [waiting for waiting in self.waiting if waiting.engine == frame.engine]
        for place, command in enumerate(waiting):
            if command.id == frame.id and place:
                self.waiting.remove(command)
                self.connection.send(encode(Kind.RESULT, frame.id, engine=frame.engine, code=Status.CANCELLED))
            elif command.id == frame.id and frame.code == HostCall.END and not self.stubborn:
                error = TaskAborted("ended by an interrupt", step="interrupt", seconds=0.25)
                self.fault(error, self.waiting.index(command))

    def fault(self, error: ParallelError, place: int = 0) -> None:
        """Answer one of the commands that wait with one of our own errors."""
        frame = self.waiting.pop(place)
        header = json.dumps(to_plain(error)).encode()
        self.connection.send(encode(Kind.RESULT, frame.id, code=Status.FAULT, engine=frame.engine, header=header))

    def time_out(self, place: int = 0) -> None:
        """End one of the commands that wait because its time is over."""
        error = TaskTimeout("it ran for longer than it may", step="terminate", seconds=2.5, engine_id=0)
        self.fault(error, place)

    def step(self, place: int = 0, *, stdout: bytes = b"", stderr: bytes = b"") -> None:
        """Run one of the commands that wait."""
        frame = self.waiting.pop(place)
        about = frame.json() if frame.code == JOINED else None
        status, payload = self.spaces[frame.engine].run(frame.buffers, about)
        self.spaces[frame.engine].printed(stdout, stderr)
        header = RESULT_META.pack(0.0, self.seconds, len(stdout)) + stdout + stderr
        self.connection.send(
            encode(Kind.RESULT, frame.id, code=status, engine=frame.engine, header=header, buffers=payload)
        )

    def write(self, text: bytes, *, place: int = 0, offset: int = 0, stream: News = News.STDOUT) -> None:
        """Tell what one of the commands that wait has written, as if it ran."""
        frame, header = self.waiting[place], OUTPUT_META.pack(offset)
        self.connection.send(
            encode(Kind.NOTICE, frame.id, code=stream, engine=frame.engine, header=header, buffers=[text])
        )

    def tell(self, event: str, engine: int) -> None:
        """Tell the controller what happens to an engine's kernel."""
        self.connection.send(encode(Kind.NOTICE, header=json.dumps({"event": event, "engine": engine}).encode()))

    def fall(self, engine: int) -> None:
        """Let an engine's kernel die, as a host tells it; `rise` follows."""
        self.down.add(engine)
        self.tell("kernel_died", engine)
        self.die(engine)

    def rise(self, engine: int) -> None:
        """Have a fresh kernel."""
        self._make_space(engine)
        header = json.dumps({"engine": engine, "pid": 2000 + engine}).encode()
        self.connection.send(encode(Kind.CALL, READY + engine, code=EngineCall.READY, engine=engine, header=header))

    def _stale(self, frame: Frame) -> bool:
        """Return a command that was sent before the controller knew of the fresh kernel."""
        stale = frame.engine in self.down or frame.id < self.first.get(frame.engine, 0)
        if stale:
            self.connection.send(encode(Kind.RESULT, frame.id, engine=frame.engine, code=Status.RETURNED))
        return stale

    def die(self, engine: int) -> None:
        """Let an engine's kernel die: what runs there, and what waits behind it, is answered so."""
        for place, frame in enumerate([frame for frame in self.waiting if frame.engine == engine]):
            self.waiting.remove(frame)
            death = EngineDied("killed by SIGKILL", engine_id=engine, reason="killed by SIGKILL", running=place == 0)
            header = json.dumps(to_plain(death)).encode()
            self.connection.send(encode(Kind.RESULT, frame.id, code=Status.FAULT, engine=engine, header=header))


class _Outlet:
    """Where the log records of an engine leave; all the namespaces here share this program's loggers."""

    def __init__(self, host: ModelHost, engine: int) -> None:
        self._host = host
        self._engine = engine

    def open(self) -> None: ...

    def shut(self) -> None: ...

    def send(self, session: int, header: bytes) -> None:
        notice = encode(Kind.NOTICE, session, code=News.RECORD, engine=self._engine, header=header)
        self._host.connection.send(notice)


def _no_coroutines(work: Coroutine[Any, Any, Any]) -> Any:
    raise AssertionError("a model engine awaits nothing")


async def settle(turns: int = 30) -> None:
    """Let everything that can happen without the outside world happen."""
    for _ in range(turns):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def model_cluster(
    n: int = 3,
    *,
    eager: bool = True,
    limits: Limits | None = None,
    address: str = "memory://model",
    task: TaskInterface | None = None,
) -> AsyncIterator[tuple[Controller, ModelHost]]:
    """Yield a controller with every built-in interface, and the host of its `n` engines."""
    async with Controller(limits=limits) as controller:
        await controller.listen(address)
        for interface in ("multiengine", task or "task", "monitor", "admin"):
            await controller.add(interface)
        host = await ModelHost(eager=eager).dial(controller, n)
        yield controller, host
    await host.lost


#: What happens to a client, given also its engines' host.
Story = Callable[[Any, ModelHost], Coroutine[Any, Any, None]]


def connect(controller: Controller, interface: str = "multiengine", **options: Any) -> Any:
    """Return a client of one of the built-in interfaces, for `async with`."""
    kinds = {"multiengine": aioparallel.MultiEngineClient, "task": aioparallel.TaskClient}
    return kinds[interface](controller.capability(interface), **options)


def play(story: Story, interface: str = "multiengine", n: int = 2, **options: Any) -> None:
    """Tell a story of a client and the host of `n` model engines; afterwards nothing is left of its calls."""

    async def main() -> None:
        async with model_cluster(n, **options) as (controller, host), connect(controller, interface) as client:
            await story(client, host)
            assert client.channel.waiting == client.channel._pending == client.channel._partial == {}

    asyncio.run(main())
