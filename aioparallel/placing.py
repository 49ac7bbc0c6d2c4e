"""How tasks come to engines: what the scheduler decides is carried out, and it is told what happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aioparallel.errors import MessageTooLarge, ParallelError
from aioparallel.policies import Policy
from aioparallel.scheduler import Scheduler
from aioparallel.taskstate import Task
from aioparallel.turn import Turn

if TYPE_CHECKING:
    from aioparallel.engines import Engine
    from aioparallel.interface import ClientProxy, Host

__all__ = ["Placing"]

#: So many tasks have waited at once that it is worth something to let go of what they took.
MANY = 10_000


class Placing:
    """Tasks that wait for engines or are at one.

    Args:
        host: The controller.
        policy: Which of several free engines takes a task.
        failed: Told of a task that can't be given to any engine, and why; it is none of these any more.
        emptied: Told that there is none, after there have been many.

    Attributes:
        scheduler: Who decides.
    """

    def __init__(
        self,
        host: Host,
        policy: Policy | None,
        failed: Callable[[Task, ParallelError], None],
        emptied: Callable[[], None],
    ) -> None:
        self.scheduler: Scheduler[Task] = Scheduler(policy)
        self._host = host
        self._failed = failed
        self._emptied = emptied
        self._most = 0
        self._loop = asyncio.get_running_loop()
        self._turn = Turn.of_running_loop()
        self._due = False
        self._paused: dict[ClientProxy, None] = {}
        #: Tasks that can't run everywhere because of what happened: they followed their parents, or were refused.
        self._choosy: dict[Task, None] = {}
        self._waking: asyncio.TimerHandle | None = None
        #: When that is due, loop time; the handle itself can't say so on every loop.
        self._waking_at = 0.0

    def __repr__(self) -> str:
        return f"<Placing by {self.scheduler!r}>"

    def close(self) -> None:
        """Decide nothing any more."""
        self._due = True
        if self._waking is not None:
            self._waking.cancel()

    # Tasks

    def wait(self, task: Task, *, again: bool = False) -> None:
        """A task wants an engine; to be followed by `place`.

        Args:
            task: The task.
            again: Whether it goes before its client's others.
        """
        self.scheduler.task_added(
            task, client=task.owner, label=task.label, priority=task.priority, needs=task.needs, again=again
        )
        if task.course is not None and (task.course.follows is not None or task.course.refusals):
            self._choosy[task] = None

    def place(self) -> None:
        """Have carried out what the scheduler decides: once for all that happens in this turn of the loop."""
        # A task that came alone and is done leaves nothing to decide.
        if not self._due and (self.scheduler.undecided or self._most > MANY):
            self._due = True
            self._turn.due(self._place)

    def settle(self) -> None:
        """Carry it out now, if that is due: somebody wants to know where a task is."""
        if self._due:
            self._place()

    def _place(self) -> None:
        self._due = False
        scheduler, now = self.scheduler, self._loop.time()
        self._give(now)
        recalled = scheduler.recalls(now)
        if recalled and self._ask_back(recalled):
            self._give(now)
        waiting = scheduler.waiting
        if waiting > self._most:
            self._most = waiting
        elif self._most > MANY and not waiting and not scheduler.placed:
            self._trim()
        wake = scheduler.wake
        if wake is not None and (self._waking is None or wake < self._waking_at):
            if self._waking is not None:
                self._waking.cancel()
            self._waking, self._waking_at = self._loop.call_at(wake, self._wake), wake

    def _trim(self) -> None:
        """Let go of the memory that many tasks took: dicts keep their tables when they are emptied."""
        self._most = 0
        self.scheduler.trim()
        self._emptied()

    def _wake(self) -> None:
        self._waking = None
        self._place()

    def _give(self, now: float) -> None:
        """Give tasks to engines as long as there are some for which one has room."""
        decisions = self.scheduler.decide(now)
        while decisions:
            held = []
            for task, number in decisions:
                client = task.client
                if client is not None and client.connection.congested:
                    held.append(task)
                    continue
                engine = task.engine = self._host.engines[number]
                task.since = now
                if task.course is None or self._make_ready(task, engine):
                    engine.put(task)
            for task in held:
                # Given to an engine, they would keep it from the others' tasks: nobody reads what it would answer.
                self._paused[task.owner] = None
                self.scheduler.client_paused(task.owner)
                self.scheduler.task_done(task)
                self.wait(task, again=True)
            decisions = self.scheduler.decide(now)

    def _make_ready(self, task: Task, engine: Engine) -> bool:
        """Have a task's payload put together; return whether that was possible."""
        try:
            task.make_ready(engine.properties, self._host.limits.message)
        except MessageTooLarge as error:
            self.taken_from_engine(task)
            self._failed(task, error)
            return False
        return True

    def _ask_back(self, recalled: Sequence[tuple[Task, int]]) -> bool:
        """Ask tasks back for engines that are idle; return whether one is back already."""
        back = [task for task, number in recalled if self._host.engines[number].recall(task)]
        for task in back:
            self.taken_from_engine(task)
            self.wait(task, again=True)
        return bool(back)

    def taken_from_engine(self, task: Task) -> None:
        """An engine has a task no more, and will not answer it."""
        task.engine = None
        self.scheduler.task_done(task)

    def forget(self, task: Task) -> None:
        """A task is over."""
        self._choosy.pop(task, None)

    # Engines

    def engine_joined(self, engine: Engine) -> None:
        """One more to give tasks to."""
        self.scheduler.engine_joined(engine.id, engine.resources)
        self.engine_changed(engine)

    def engine_changed(self, engine: Engine) -> None:
        """It is not what it was: who refused it, or was refused by it, may ask again."""
        for task in tuple(self._choosy):
            if engine.id in task.past.refusals:
                del task.past.refusals[engine.id]
                self._look_anew(task)
        self.place()

    def engine_left(self, engine: Engine) -> list[Task]:
        """One less, and what it had waits again; return those that had to run there and nowhere else."""
        self.scheduler.engine_left(engine.id)
        stranded = []
        for task in tuple(self._choosy):
            follows = task.past.follows
            if follows is not None and engine.id in follows:
                task.past.follows = follows - {engine.id}
                if not task.past.follows and task.engine is None:
                    self.scheduler.task_removed(task)
                    stranded.append(task)
                else:
                    self._look_anew(task)
        return stranded

    def _look_anew(self, task: Task) -> None:
        task.look_anew()
        self.scheduler.task_changed(task, task.needs)

    # Clients

    def client_drained(self, client: ClientProxy) -> None:
        """A client reads again: its tasks want engines again."""
        if client in self._paused:
            del self._paused[client]
            self.scheduler.client_resumed(client)
            self.place()

    def client_left(self, client: ClientProxy) -> None:
        """A client is gone; tasks that were to go on without it do so."""
        paused = self._paused.pop(client, False) is None
        self.scheduler.client_left(client)
        if paused:
            self.place()
