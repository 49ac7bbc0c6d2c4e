"""What is told of tasks: which there are, what they wait for, and results that nobody waited for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from aioparallel.dispatch import Dispatcher
from aioparallel.errors import InvalidTaskID, OperationError, ResultGone
from aioparallel.ledger import LISTED
from aioparallel.taskstate import Ended, Report, Task
from aioparallel.wire import NO_ENGINE, Kind, Status, encode

if TYPE_CHECKING:
    from aioparallel.interface import ClientProxy

__all__ = ["Asking", "Overview"]

#: How many tasks are told of in detail, of each kind.
TOLD = 100


class Overview:
    """Finds tasks, and says how they are.

    Args:
        tasks: All of them.
    """

    def __init__(self, tasks: Dispatcher) -> None:
        self._tasks = tasks

    def __repr__(self) -> str:
        return f"<Overview of {self._tasks!r}>"

    def find(self, client: ClientProxy, number: int) -> Task | None:
        """Return a task by its id; None if it is over.

        Raises:
            InvalidTaskID: There is none, as far as this client's capability goes.
        """
        total = self._tasks.total
        if not 0 <= number < total:
            known = f"ids so far are 0 to {total - 1}" if total else "there has been none so far"
            raise InvalidTaskID(f"there is no task {number}; {known}")
        task = self._tasks.unattended.get(number)
        if task is None:
            # Whoever waits for its tasks names them by their calls: nobody looks for many of them here.
            task = next((task for task in self._attended() if task.id == number), None)
        kept = self._tasks.ledger.peek(number)
        capability = task.owner.grant.id if task is not None else kept.result.capability if kept is not None else None
        if capability not in (None, client.grant.id):
            raise InvalidTaskID(f"task {number} belongs to holders of another capability")
        return task

    def _attended(self, *, latest: bool = False) -> Iterator[Task]:
        """Yield the tasks that somebody waits for, client by client, the oldest or the latest of each first."""
        for client in self._tasks.clients:
            for call in reversed(client.calls.values()) if latest else client.calls.values():
                if isinstance(call, Task):
                    yield call

    def _waiting(self, *, latest: bool = False) -> Iterator[Task]:
        unattended = self._tasks.unattended.values()
        for tasks in (reversed(unattended) if latest else unattended, self._attended(latest=latest)):
            for task in tasks:
                if task.engine is None:
                    yield task

    def _placed(self) -> Iterator[Task]:
        """Yield the tasks that are at engines, but for those of clients that are gone."""
        # They are few, and mostly old: seldom need all tasks be looked at.
        left = self._tasks.pending
        for tasks in (self._tasks.unattended.values(), self._attended()):
            for task in tasks:
                if not left:
                    return
                if task.engine is not None:
                    left -= 1
                    yield task

    def counts(self) -> dict[str, int]:
        """Return how many tasks are in which state; each is in one."""
        tasks, ledger = self._tasks, self._tasks.ledger
        return {
            "scheduled": tasks.scheduled,
            "pending": tasks.pending,
            "succeeded": ledger.succeeded,
            "failed": ledger.failed,
        }

    def lists(self) -> dict[str, Any]:
        """Return the ids of the latest tasks in each state, and what is held of results."""
        ledger = self._tasks.ledger
        waiting = [task.id for task in islice(self._waiting(latest=True), LISTED)]
        return {
            "scheduled": sorted(waiting),
            "pending": sorted(task.id for task in self._placed())[-LISTED:],
            "succeeded": ledger.recent(True),
            "failed": ledger.recent(False),
            "held": self._held(),
        }

    def _held(self) -> dict[str, int]:
        return {"bytes": self._tasks.ledger.size, "results": len(self._tasks.ledger)}

    def report(self) -> dict[str, Any]:
        """Return what runs, what waits, and what has failed lately."""
        self._tasks.placing.settle()
        now = asyncio.get_running_loop().time()
        running = sorted(self._placed(), key=lambda task: (task.since, task.id))
        waiting = sorted(islice(self._waiting(), TOLD), key=lambda task: task.id)
        return {
            "counts": self.counts(),
            "held": self._held(),
            "running": [self._about(task, now - task.since) for task in running[:TOLD]],
            "waiting": [self._about(task, None) for task in waiting],
            "failed": [failure._asdict() for failure in self._tasks.failures],
        }

    def _about(self, task: Task, seconds: float | None) -> dict[str, Any]:
        return {
            "id": task.id,
            "label": task.name,
            "client": task.owner.session,
            "engine": task.engine.id if task.engine is not None else None,
            "seconds": seconds,
            "why": self._tasks.why(task),
        }

    def why_over(self, number: int) -> str:
        """Return in one sentence how a task is that is over."""
        outcome = self._tasks.ledger.outcome(number)
        return f"task {number}: it {'is over' if outcome is None else 'has succeeded' if outcome.ok else 'has failed'}"

    def ask(self, client: ClientProxy, call: int, number: int, *, block: bool) -> None:
        """Answer a call with the result of a task that nobody waits for.

        Args:
            client: Who asks.
            call: The call.
            number: The task's id.
            block: Whether to answer when it is over, or at once that it is not.

        Raises:
            InvalidTaskID: There is none of that id.
            ResultGone: It is over, and its result not kept any more.
            OperationError: Somebody waits for it.
        """
        task = self.find(client, number)
        if task is None:
            kept = self._tasks.ledger.find(number)
            if kept is None:
                raise ResultGone(f"the result of task {number} was for the client that submitted it, or is long gone")
            Asking(self._tasks, client, call, number).answer(kept.result)
        elif task.client is not None:
            raise OperationError(f"the result of {task.title} is for the client that submitted it")
        elif block:
            asking = client.calls[call] = Asking(self._tasks, client, call, number, task)
            self._tasks.wait_for(task, asking.told)
        else:
            client.reply(call, None)


class Asking:
    """A client's question for the result of a task that nobody waits for.

    Args:
        tasks: All tasks.
        client: Who asks.
        call: In which call.
        number: The task's id.
        task: The task, if it is not over.
    """

    __slots__ = ("_call", "_client", "_number", "_task", "_tasks")

    def __init__(
        self, tasks: Dispatcher, client: ClientProxy, call: int, number: int, task: Task | None = None
    ) -> None:
        self._tasks = tasks
        self._client = client
        self._call = call
        self._number = number
        self._task = task

    def __repr__(self) -> str:
        return f"<question of {self._client.session} for the result of task {self._number}>"

    def withdraw(self) -> None:
        """The client wants it no more."""
        if self._task is not None:
            self._tasks.wait_no_more(self._task, self.told)

    def told(self, ended: Ended) -> None:
        """The task is over."""
        assert self._task is not None
        self._client.calls.pop(self._call, None)
        self.answer(self._tasks.report_of(self._task, ended))

    def answer(self, report: Report) -> None:
        """Answer with what is known of it; it need not be kept for anybody else."""
        engine = report.ended.engine
        about = {
            "task": self._number,
            "submitted": report.submitted,
            "engine": None if engine == NO_ENGINE else engine,
            "completed": report.completed,
        }
        header = json.dumps(about).encode()
        self._client.send(encode(Kind.RESULT, self._call, code=Status.OK, engine=engine, header=header))
        report.ended.tell(self._client, self._call)
        self._tasks.ledger.delivered(self._number)
