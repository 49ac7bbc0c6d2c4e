"""Task: load-balanced work for whichever engine is free."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aioparallel.dispatch import Dispatcher
from aioparallel.errors import OperationError, ParentsDelivered, ResultGone, TaskAborted
from aioparallel.graph import Condition, Outcome
from aioparallel.interface import ClientProxy, Interface, remote
from aioparallel.policies import Policy
from aioparallel.schedulers import find_policy
from aioparallel.taskface import TaskClient
from aioparallel.taskreport import Overview
from aioparallel.taskstate import Ended, Task
from aioparallel.terms import Parent, Relation, Terms
from aioparallel.verdicts import fault_of
from aioparallel.wire import Frame

if TYPE_CHECKING:
    from aioparallel.engines import Engine

__all__ = ["TaskClient", "TaskInterface"]


class TaskInterface(Interface):
    """Gives each task to the engine that will be free soonest.

    A task whose kernel dies while it runs gets a strike and runs elsewhere, up to three; one that only waited
    there gets none. Execution is at least once, delivery of the result exactly once.

    Args:
        scheduler: Which of several free engines takes a task: the name of a built-in policy or of a plug-in,
            "module:Class", or a policy itself.
    """

    name = "task"
    raw = True

    def __init__(self, scheduler: str | Policy = "least-loaded") -> None:
        self._scheduler = scheduler

    async def start(self) -> None:
        """Begin with no tasks.

        Raises:
            PluginError: There is no such scheduler.
        """
        policy = self._scheduler
        if isinstance(policy, str):
            policy = find_policy(policy, self.host.source)
        self._tasks = Dispatcher(self.host, policy)
        self._overview = Overview(self._tasks)

    async def stop(self) -> None:
        """Let no timer go off any more."""
        self._tasks.close()

    # Tasks come

    @remote(raw=True)
    def submit(self, client: ClientProxy, frame: Frame) -> None:
        """Take a task in: the header is its label, the payload what an engine is to do."""
        task = client.calls[frame.id] = self._tasks.enter(client, frame, frame.header[:80])
        self._tasks.start(task)

    @remote(raw=True)
    def submit_with(self, client: ClientProxy, frame: Frame) -> None:
        """Take a task in on terms: the header says which."""
        terms = _terms(frame)
        parents = self._parents(client, terms)
        task = client.calls[frame.id] = self._tasks.enter(client, frame, b"", terms)
        self._start(task, parents)

    @remote(raw=True)
    def run(self, client: ClientProxy, frame: Frame) -> None:
        """Take a task in that nobody waits for, and answer with its id: whoever asks for its result, gets it."""
        terms = _terms(frame)
        parents = self._parents(client, terms)
        task = self._tasks.enter(client, frame, b"", terms)
        task.client = None
        task.past.submitted = self.host.source.wall()
        self._tasks.unattended[task.id] = task
        client.reply(frame.id, {"task": task.id})
        self._start(task, parents)

    def _parents(self, client: ClientProxy, terms: Terms) -> dict[Parent, Task | int]:
        """Find the tasks that a new one names; those that have ended go by their ids.

        Raises:
            ParentsDelivered: Calls among them have been answered.
            InvalidTaskID: One of them does not exist.
            ResultGone: One of them ended so long ago that nobody knows how.
        """
        named = [parent for relation in (terms.after, terms.follow) if relation is not None for parent in relation.of]
        found: dict[Parent, Task | int] = {}
        delivered = []
        for parent in dict.fromkeys([*named, *terms.arguments]):
            if parent.call is not None:
                call = client.calls.get(parent.call)
                if isinstance(call, Task):
                    found[parent] = call
                else:
                    delivered.append(parent.call)
            else:
                number = parent.task if parent.task is not None else -1
                found[parent] = self._overview.find(client, number) or number
        if delivered:
            raise ParentsDelivered(f"calls that this one depends on have been answered: {delivered}", calls=delivered)
        for task in found.values():
            if isinstance(task, int) and self._tasks.ledger.outcome(task) is None:
                raise ResultGone(f"task {task} is over, and nobody remembers how it ended")
        return found

    def _start(self, task: Task, found: dict[Parent, Task | int]) -> None:
        """Let a task wait for its parents, or for an engine."""
        if not found:
            self._tasks.start(task)
            return
        terms, conditions = task.terms, []
        for relation, follow in ((terms.after, False), (terms.follow, True)):
            if relation is not None:
                conditions.append(_condition(relation, found, follow=follow))
        arguments = [found[parent] for parent in terms.arguments]
        if arguments:
            conditions.append(Condition(tuple(arguments)))
        ended: dict[Task | int, Outcome] = {}
        for number in found.values():
            if isinstance(number, int) and (outcome := self._tasks.ledger.outcome(number)) is not None:
                ended[number] = outcome
        self._tasks.start_after(task, conditions, ended, arguments)

    # Results of those that nobody waits for

    @remote(raw=True)
    def get_task_result(self, client: ClientProxy, frame: Frame) -> None:
        """Answer with the result of a task that nobody waits for, now or (if asked to) when it is there."""
        asked = frame.json()
        if not isinstance(asked, dict) or type(asked.get("task")) is not int:
            raise OperationError('get_task_result needs {"task": id, "block": true or false}')
        self._overview.ask(client, frame.id, asked["task"], block=bool(asked.get("block")))

    @remote
    async def barrier(self, client: ClientProxy, tasks: list[int] | None = None) -> None:
        """Answer when those tasks are over; None: all of this capability that nobody waits for."""
        if tasks is None:
            mine = [t for t in self._tasks.unattended.values() if t.owner.grant.id == client.grant.id]
        else:
            mine = [task for number in tasks if (task := self._overview.find(client, number)) is not None]
        for task in mine:
            if not task.over:
                await self._end_of(task)

    async def _end_of(self, task: Task, *, take_back: bool = False) -> Ended:
        """Wait until a task is over."""
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

        def told(ended: Ended) -> None:
            if not future.done():
                future.set_result(ended)

        self._tasks.wait_for(task, told)
        try:
            if take_back:
                self._tasks.take_back(task)
            return await future
        finally:
            self._tasks.wait_no_more(task, told)

    @remote
    async def abort(self, client: ClientProxy, task: int | None = None, call: int | None = None) -> dict[str, Any]:
        """End a task, wherever it is; answer when it has ended, with what that took."""
        found = self._named(client, task, call)
        if found is not None:
            error = fault_of((await self._end_of(found, take_back=True)).result)
            if isinstance(error, TaskAborted):
                return {"step": error.step, "seconds": error.seconds}
        return {"step": "finished", "seconds": 0.0}

    def _named(self, client: ClientProxy, task: int | None, call: int | None) -> Task | None:
        """Return a task that goes by its id or by a call of this client; None if it is over.

        Raises:
            InvalidTaskID: There is none of that id.
            OperationError: Neither is given, or both are.
        """
        parent = Parent.of({name: n for name, n in (("task", task), ("call", call)) if n is not None})
        if parent.task is not None:
            return self._overview.find(client, parent.task)
        found = client.calls.get(parent.call) if parent.call is not None else None
        return found if isinstance(found, Task) else None

    # What people ask

    @remote
    def spin(self) -> None:
        """Look whether anything can be done."""
        self._tasks.placing.place()

    @remote
    def clear(self, client: ClientProxy, tasks: list[int] | None = None) -> int:
        """Forget tasks that are over, and their results; return how many."""
        if tasks is not None:
            for number in tasks:
                self._overview.find(client, number)
        return self._tasks.ledger.clear(tasks)

    @remote
    def queue_status(self, verbose: bool = False) -> dict[str, Any]:
        """Return how many tasks are in which state, each in one; or the ids of the latest, and what is held."""
        return self._overview.lists() if verbose else self._overview.counts()

    @remote
    def why(self, client: ClientProxy, task: int | None = None, call: int | None = None) -> str:
        """Return in one sentence why a task is not running."""
        found = self._named(client, task, call)
        if found is not None:
            self._tasks.placing.settle()
            return self._tasks.why(found)
        return self._overview.why_over(task) if task is not None else "it is over"

    @remote
    def tasks(self) -> dict[str, Any]:
        """Return what runs, what waits, and what has failed lately."""
        return self._overview.report()

    def report(self) -> dict[str, Any]:
        """Return what runs, what waits, and what has failed lately."""
        return self._overview.report()

    @remote
    def watch_output(self, client: ClientProxy, call: int) -> None:
        """Tell the client what its task `call` writes, as long as it is under way, wherever that is."""
        task = client.calls.get(call)
        if isinstance(task, Task):
            task.watched = True
            if task.engine is not None:
                task.engine.watch(task)

    # Who comes and goes

    def engine_joined(self, engine: Engine) -> None:
        """One more to give tasks to."""
        self._tasks.placing.engine_joined(engine)

    def engine_left(self, engine: Engine) -> None:
        """One less; what it had has been answered and waits again."""
        self._tasks.engine_left(engine)

    def kernel_lost(self, engine: Engine) -> None:
        """An engine is given nothing until it has a kernel."""
        self._tasks.placing.scheduler.engine_paused(engine.id)

    def kernel_started(self, engine: Engine) -> None:
        """An engine has a fresh kernel."""
        self._resume(engine)
        self._tasks.placing.engine_changed(engine)

    def engine_reserved(self, engine: Engine) -> None:
        """An engine is given nothing while another interface has it for itself; what it has may go elsewhere."""
        self._tasks.placing.scheduler.engine_paused(engine.id)

    def engine_released(self, engine: Engine) -> None:
        """An engine is everybody's again."""
        self._resume(engine)
        self._tasks.placing.place()

    def _resume(self, engine: Engine) -> None:
        if not engine.reserved and not engine.kernel_state:
            self._tasks.placing.scheduler.engine_resumed(engine.id)

    def properties_changed(self, engine: Engine) -> None:
        """It may take what it has refused."""
        self._tasks.placing.engine_changed(engine)

    def client_joined(self, client: ClientProxy) -> None:
        """One more to take tasks from."""
        self._tasks.clients[client] = None

    def client_drained(self, client: ClientProxy) -> None:
        """A client reads again: its tasks want engines again."""
        self._tasks.placing.client_drained(client)

    def client_left(self, client: ClientProxy) -> None:
        """A client is gone, and its tasks are withdrawn; those that answer nobody go on."""
        del self._tasks.clients[client]
        self._tasks.placing.client_left(client)


def _terms(frame: Frame) -> Terms:
    plain = frame.json()
    has_recovery = isinstance(plain, dict) and plain.get("recovery") is not None
    return Terms.of(plain, len(frame.buffers) if has_recovery else 0)


def _condition(relation: Relation, found: dict[Parent, Task | int], *, follow: bool) -> Condition[Task | int]:
    parents = tuple(found[parent] for parent in relation.of)
    return Condition(parents, relation.all, relation.success, relation.failure, follow)


TaskInterface.client = TaskClient
