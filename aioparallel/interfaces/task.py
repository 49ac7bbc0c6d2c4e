"""Task: load-balanced work for whichever engine is free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from aioparallel.errors import EngineDied, EngineLost, ParallelError, from_plain
from aioparallel.face import Client
from aioparallel.interface import ClientProxy, Interface, remote
from aioparallel.mapping import Mapping
from aioparallel.queues import Command
from aioparallel.scheduler import LeastLoaded
from aioparallel.taskcalls import TaskCalls
from aioparallel.wire import LAST, RESULT_META, TRIED, Frame, Status

if TYPE_CHECKING:
    from aioparallel.engines import Engine

__all__ = ["TaskClient", "TaskInterface"]

#: A task whose kernels died this often while they ran it is not run again.
STRIKES = 3


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
