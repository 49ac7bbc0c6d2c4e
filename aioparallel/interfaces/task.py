"""Task: load-balanced work for whichever engine is free."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from aioparallel.channel import Finish, serializer
from aioparallel.errors import EngineDied, EngineLost, ParallelError, from_plain
from aioparallel.face import Client
from aioparallel.interface import ClientProxy, Interface, remote
from aioparallel.queues import Command
from aioparallel.results import NAMES, name_of, outputs, value_of
from aioparallel.scheduler import LeastLoaded
from aioparallel.wire import LAST, RESULT_META, TRIED, Frame, Status

if TYPE_CHECKING:
    from aioparallel.engines import Engine

__all__ = ["Chunks", "Mapping", "TaskCalls", "TaskClient", "TaskInterface"]

#: A task whose kernels died this often while they ran it is not run again.
STRIKES = 3
#: Seconds of running time that `map` wants a chunk to take.
CHUNK_SECONDS = 0.05
#: How much larger a chunk may be than the one it learns from.
CHUNK_GROWTH = 16


class _Task(Command):
    """One task of a client, and the command that an engine's queue holds for it."""

    __slots__ = ("engine", "interface", "strikes", "withdrawn")

    def __init__(self, interface: TaskInterface, client: ClientProxy, frame: Frame) -> None:
        super().__init__(frame, client, interface.done, label=frame.header[:80])
        self.interface = interface
        self.engine: Engine | None = None
        self.strikes = 0
        self.withdrawn = False

    def __repr__(self) -> str:
        where = f"at {self.engine!r}" if self.engine else "waiting"
        return f"<task {self.payload.id} of {self.client.session}, {where}>"

    def withdraw(self) -> None:
        """The client wants it no more."""
        self.interface.withdraw(self)


class TaskInterface(Interface):
    """Gives each task to the engine that will be free soonest.

    A task whose kernel dies while it runs gets a strike and runs elsewhere, up to three; one that only waited
    there gets none. Execution is at least once, delivery of the result exactly once.
    """

    name = "task"
    raw = True

    async def start(self) -> None:
        """Begin with no tasks."""
        self._scheduler: LeastLoaded[_Task] = LeastLoaded()
        #: Tasks of clients that don't read: given to an engine, they would keep it from the others' tasks.
        self._held: dict[ClientProxy, list[_Task]] = {}

    @remote(raw=True)
    def submit(self, client: ClientProxy, frame: Frame) -> None:
        """Take a task in: the header is its label, the payload what an engine is to do."""
        task = client.calls[frame.id] = _Task(self, client, frame)
        client.hold(frame.size)
        self._scheduler.task_added(task, task.label)
        self._place()

    @remote
    def watch_output(self, client: ClientProxy, call: int) -> None:
        """Tell the client what its task `call` writes, as long as it is under way, wherever that is."""
        task = client.calls.get(call) if type(call) is int else None
        if isinstance(task, _Task):
            task.watched = True
            if task.engine is not None:
                task.engine.watch(task)

    def engine_joined(self, engine: Engine) -> None:
        """One more to give tasks to."""
        self._scheduler.engine_joined(engine.id)
        self._place()

    def engine_left(self, engine: Engine) -> None:
        """One less; what it had has been answered and waits again."""
        self._scheduler.engine_left(engine.id)

    def _place(self) -> None:
        """Carry out what the scheduler decides."""
        decisions = self._scheduler.decide()
        while decisions:
            held = 0
            for task, number in decisions:
                if task.client.connection.congested:
                    self._scheduler.task_done(task)
                    self._held.setdefault(task.client, []).append(task)
                    held += 1
                else:
                    engine = task.engine = self.host.engines[number]
                    engine.put(task)
            decisions = self._scheduler.decide() if held else []

    def client_drained(self, client: ClientProxy) -> None:
        """A client reads again: its tasks want engines again."""
        for task in self._held.pop(client, ()):
            if not task.withdrawn:
                self._scheduler.task_added(task, task.label)
        self._place()

    def client_left(self, client: ClientProxy) -> None:
        """A client is gone, and its tasks are withdrawn."""
        self._held.pop(client, None)

    def done(self, task: Any, result: Frame | ParallelError) -> None:
        """Take what an engine answers."""
        engine, task.engine = task.engine, None
        if isinstance(result, Frame) and result.code != Status.FAULT:
            ran = result.code != Status.CANCELLED
            self._scheduler.task_done(task, RESULT_META.unpack_from(result.body[0])[1] if ran else None)
            if not task.withdrawn:
                self._answered(task)
                code = result.code + TRIED * task.strikes
                task.client.forward(result, task.payload.id, code=code, flags=LAST, engine=engine.id)
        else:
            if isinstance(result, EngineLost):
                self._scheduler.engine_left(engine.id)
            self._scheduler.task_done(task)
            if isinstance(result, Frame):
                self._scheduler.engine_restarted(engine.id)
            self._failed(task, engine, from_plain(result.json()) if isinstance(result, Frame) else result)
        self._place()

    def _failed(self, task: _Task, engine: Engine, error: ParallelError) -> None:
        """An engine could not do it, and not because of what user code raised."""
        if task.withdrawn:
            return
        if isinstance(error, EngineDied):
            task.strikes += error.running
            if task.strikes < STRIKES:
                self._scheduler.task_added(task, task.label)
                return
        self._answered(task)
        tried = max(0, task.strikes - 1)
        task.client.fault(task.payload.id, error, engine=engine.id, tried=tried)

    def _answered(self, task: _Task) -> None:
        task.client.calls.pop(task.payload.id, None)
        task.client.release(task.payload.size)

    def withdraw(self, task: _Task) -> None:
        """Drop a task where it waits, or have it interrupted where it runs."""
        task.withdrawn = True
        task.client.release(task.payload.size)
        if task.engine is None:
            self._scheduler.task_removed(task)
            return
        task.engine.cancel(task)
        if task.cancelled:
            # It had not been sent: nobody will answer it.
            self._scheduler.task_done(task)
            self._place()


class Chunks:
    """The input of a `map`, cut into chunks that take about `CHUNK_SECONDS` each. Sans-I/O.

    The first chunks are of one item, since its length is not known; what they took decides the next.

    Args:
        iterables: As for the builtin `map`; consumed no further than what has been asked for.
        chunksize: Items a chunk, or None to adapt.
        engines: How many engines share the work.
    """

    def __init__(self, iterables: tuple[Iterable[Any], ...], chunksize: int | None, engines: int) -> None:
        if chunksize is not None and (not isinstance(chunksize, int) or chunksize < 1):
            raise ValueError(f"chunksize is a number of items from 1 on, or None, not {chunksize!r}")
        self._rows = zip(*iterables, strict=False)
        self._adaptive = chunksize is None
        self._size = chunksize or 1
        self._engines = max(1, engines)
        try:
            self._left: float = min(len(iterable) for iterable in iterables)  # type: ignore[arg-type]
        except TypeError:
            self._left = math.inf

    def __repr__(self) -> str:
        return f"<Chunks of {self._size}, {self._left} items left>"

    def take(self) -> list[tuple[Any, ...]]:
        """Return the next rows; none are left when it is empty."""
        size = self._size
        if self._adaptive and not math.isinf(self._left):
            # Towards the end chunks shrink, so that all engines finish together.
            size = max(1, min(size, math.ceil(self._left / (3 * self._engines))))
        rows = list(islice(self._rows, size))
        self._left -= len(rows)
        return rows

    def learn(self, size: int, seconds: float) -> None:
        """Take note that a chunk of `size` items took `seconds` on its engine."""
        if self._adaptive and size:
            wanted = CHUNK_SECONDS * size / max(seconds, 1e-9)
            self._size = max(1, min(int(wanted), size * CHUNK_GROWTH, 2**20))


class Mapping:
    """One `map` under way: chunks of calls in, values out, at most `window` chunks at once."""

    def __init__(
        self, calls: TaskCalls, f: Callable[..., Any], iterables: tuple[Iterable[Any], ...], chunksize: int | None
    ) -> None:
        if not callable(f):
            raise TypeError(f"{f!r} can't be called")
        if not iterables:
            raise TypeError("map needs at least one iterable")
        engines = calls._engine_count()
        self._calls = calls
        self._f = f
        self._chunks = Chunks(iterables, chunksize, engines)
        self._window = 3 * max(1, engines) + 1
        self.pending: deque[Any] = deque()
        self._sizes: dict[Any, int] = {}
        try:
            self.fill()
        except BaseException:
            self.cancel()
            raise

    def fill(self) -> None:
        """Send chunks until the window is full or the input is at its end."""
        while len(self.pending) < self._window and (rows := self._chunks.take()):
            columns = tuple(map(list, zip(*rows, strict=True)))
            handle = self._calls._task(("map", self._f, columns), _timed, label="map " + name_of(self._f))
            self._sizes[handle] = len(rows)
            self.pending.append(handle)

    def settled(self, handle: Any, answer: tuple[list[Any], float]) -> list[Any]:
        """A chunk is done: learn from it, send more, return its values."""
        values, seconds = answer
        self._chunks.learn(self._sizes.pop(handle), seconds)
        self.fill()
        return values

    def cancel(self) -> None:
        """Withdraw what is not done."""
        for handle in self.pending:
            handle.cancel()
        self.pending.clear()


def _timed(frames: list[Frame]) -> tuple[Any, float]:
    return value_of(frames[-1], "map"), outputs(frames[-1])[1]


def _value(frames: list[Frame]) -> Any:
    return value_of(frames[-1], "submit")


class TaskCalls:
    """What can be asked of the Task interface; the same for both faces.

    Errors, unless a method says more: what user code raised, as itself, with the remote traceback as a note;
    `SerializationError` for an argument that can't be sent; `EngineDied` when three kernels died while they ran
    the task; `ConnectionLost`.
    """

    # What a face provides.
    _begin: Callable[..., Any]
    _engine_count: Callable[[], int]

    def submit(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run `f(*args, **kwargs)` on whichever engine is free; return its future.

        A function that can't be imported on the engine is captured now: its globals and closure as they are.
        Cancelling the future drops the task where it waits, or interrupts it where it runs.
        """
        if not callable(f):
            raise TypeError(f"{f!r} can't be called")
        return self._task(("apply", f, args, kwargs), _value, label=name_of(f))

    def _task(self, call: tuple[Any, ...], finish: Finish, *, label: str) -> Any:
        buffers = serializer().pack(call, name=NAMES[call[0]])
        return self._begin("submit", finish, header=label.encode(), buffers=buffers)


class TaskClient(TaskCalls, Client):
    """The asyncio face: `submit` returns an awaitable handle, `map` an async iterator."""

    interface: ClassVar[str] = "task"

    def map(
        self, f: Callable[..., Any], *iterables: Iterable[Any], chunksize: int | None = None, ordered: bool = True
    ) -> AsyncIterator[Any]:
        """Call `f` on the items of the iterables, many at a time; iterate over the values with `async for`.

        Input is consumed within a bounded window, so it may be infinite. Leaving the loop early (and closing
        the iterator) withdraws the rest.

        Args:
            f: What to call.
            iterables: As for the builtin `map`.
            chunksize: Items to a message; None adapts to how long they take.
            ordered: Whether values come in the order of the input, or as they are ready.

        Raises:
            ValueError: `chunksize` is not a number from 1 on.
        """
        return self._mapped(Mapping(self, f, iterables, chunksize), ordered)

    async def _mapped(self, mapping: Mapping, ordered: bool) -> AsyncIterator[Any]:
        try:
            while mapping.pending:
                if ordered:
                    ready = [mapping.pending.popleft()]
                else:
                    done, _ = await asyncio.wait(mapping.pending, return_when=asyncio.FIRST_COMPLETED)
                    ready = [handle for handle in mapping.pending if handle in done]
                    for handle in ready:
                        mapping.pending.remove(handle)
                while ready:
                    handle = ready.pop(0)
                    try:
                        answer = await handle
                    except BaseException:
                        mapping.pending.extend(ready)
                        raise
                    for value in mapping.settled(handle, answer):
                        yield value
        finally:
            mapping.cancel()

    def _engine_count(self) -> int:
        return len(self.channel.engines)


TaskInterface.client = TaskClient
