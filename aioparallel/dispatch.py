"""Tasks on their way: what they wait for, how they end, and who is told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aioparallel.errors import DependencyError, EngineLost, InvalidEngineID, OperationError, ParallelError, ResultGone
from aioparallel.graph import Condition, Graph, Impossible, Outcome, Ready
from aioparallel.ledger import Ledger
from aioparallel.placing import Placing
from aioparallel.policies import Policy
from aioparallel.taskstate import Ended, Failure, Report, Task, Value
from aioparallel.terms import Terms
from aioparallel.verdicts import hopeless, judge, never_began, nowhere, reason, refused_everywhere
from aioparallel.wire import LAST, NO_ENGINE, RESULT_META, Frame, Status

if TYPE_CHECKING:
    from aioparallel.engines import Engine
    from aioparallel.interface import ClientProxy, Host

__all__ = ["Dispatcher"]

#: How many failures are remembered in detail.
FAILURES = 100
#: How many labels are kept to be used again.
LABELS = 1024


class Dispatcher:
    """All tasks of an interface, from the moment they come to their end.

    A task waits for its parents (in the graph), then for an engine (in the scheduler), then is at one; whatever that
    answers ends the task, or lets it wait again. Each is in exactly one of these places, or over.

    Args:
        host: The controller.
        policy: Which of several free engines takes a task.

    Attributes:
        placing: Those that wait for an engine or are at one.
        ledger: How tasks ended.
        total: How many there have been; the next one's id.
        failures: The last that failed.
        unattended: Those that answer nobody, by id, until they are over.
        clients: The clients whose calls they answer.
        done: Takes what an engine answers.
    """

    def __init__(self, host: Host, policy: Policy | None = None) -> None:
        self.placing = Placing(host, policy, self._failed, self._emptied)
        self._scheduler = self.placing.scheduler
        self.ledger: Ledger[Report] = Ledger(host.limits.results, host.limits.result_ttl)
        self.failures: deque[Failure] = deque(maxlen=FAILURES)
        self.total = 0
        self.unattended: dict[int, Task] = {}
        self.clients: dict[ClientProxy, None] = {}
        # Made once: every task holds it.
        self.done: Callable[[Any, Any], None] = self._done
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._graph: Graph[Task | int] = Graph()
        self._waiters: dict[Task, list[Callable[[Ended], None]]] = {}
        self._refused: dict[Task, asyncio.TimerHandle] = {}
        self._expiring: asyncio.TimerHandle | None = None
        self._labels: dict[bytes, bytes] = {}

    def __repr__(self) -> str:
        return f"<Dispatcher: {self.scheduled} scheduled, {self.pending} pending, {self.ledger!r}>"

    @property
    def scheduled(self) -> int:
        """How many tasks wait."""
        return self._scheduler.waiting + len(self._graph)

    @property
    def pending(self) -> int:
        """How many tasks are at engines."""
        return self._scheduler.placed

    def close(self) -> None:
        """Let no timer go off any more."""
        self.placing.close()
        for timer in self._refused.values():
            timer.cancel()
        if self._expiring is not None:
            self._expiring.cancel()

    # Tasks come

    def enter(self, client: ClientProxy, frame: Frame, label: bytes, terms: Terms | None = None) -> Task:
        """Take in a task of a client; to be followed by `start` or `start_after`.

        Raises:
            InvalidEngineID: It may only run where its client's capability does not reach, or where no engine is.
            ParallelError: Its payload was in shared memory that is gone.
            OSError: There is no memory or no descriptor for it.
        """
        reach = client.grant.engines
        if terms is not None and terms.engines is not None and reach is not None and reach.isdisjoint(terms.engines):
            wanted = ", ".join(map(str, sorted(terms.engines)))
            raise InvalidEngineID(f"this capability does not reach the engines {wanted}")
        if terms is not None and terms.engines is not None and terms.engines.isdisjoint(self._host.engines):
            wanted, there = (", ".join(map(str, ids)) or "none" for ids in (sorted(terms.engines), self._host.engines))
            raise InvalidEngineID(f"there is no engine {wanted}, and this task may run nowhere else; engines: {there}")
        if len(self._labels) >= LABELS:
            self._labels.clear()
        # One object for all tasks of that label: there may be a million.
        task = Task(self, self.total, client, frame, self._labels.setdefault(label, label))
        if terms is not None:
            task.agree(terms)
        elif reach is not None:
            task.look_anew()
        self.total += 1
        client.hold(frame.size)
        return task

    def start(self, task: Task) -> None:
        """Let a task that waits for no other wait for an engine."""
        self.placing.wait(task)
        self.placing.place()

    def start_after(
        self,
        task: Task,
        conditions: Sequence[Condition[Task | int]],
        ended: Mapping[Task | int, Outcome],
        arguments: Sequence[Task | int],
    ) -> None:
        """Let a task wait for others; those that have ended go by their ids.

        Args:
            task: The task.
            conditions: What it waits for.
            ended: How those ended that have.
            arguments: Whose values it is given; each is also in a condition that asks for its success.
        """
        over = None
        try:
            for parent in arguments:
                task.past.values.append(self._value(parent, task))
        except (ParallelError, OSError) as error:
            over = Ended(False, _as_ours(error))
        else:
            verdict = self._graph.add(task, conditions, ended)
            for parent in () if verdict is not None else self._graph.waits_for(task):
                assert isinstance(parent, Task)
                parent.awaited = True
            if isinstance(verdict, Ready):
                over = self._ready(task, verdict.engines)
            elif verdict is not None:
                over = self._hopeless(task, verdict, None)
        if over is not None:
            self._over(task, over)
        self.placing.place()

    def _value(self, parent: Task | int, child: Task) -> Value:
        """Return what a task has given or is going to, with one user more.

        Raises:
            ResultGone: It is not kept any more.
            ParallelError: It was in shared memory that is gone.
            OSError: There is no memory or no descriptor for it.
        """
        if isinstance(parent, Task):
            past = parent.past
            value = past.value = past.value or Value(parent.owner)
        else:
            value = Value(child.owner)
            kept = self.ledger.find(parent)
            if kept is None:
                raise ResultGone(f"the result of task {parent} is not kept any more")
            result = kept.result.ended.result
            if kept.outcome.ok and isinstance(result, Frame):
                value.arrived(result)
        value.users += 1
        return value

    def _ready(self, task: Task, engines: frozenset[int] | None) -> Ended | None:
        """Nothing has to end before a task any more: it waits for an engine, or for those where its parents ran."""
        if engines is not None:
            task.past.follows = engines
            task.look_anew()
            allowed = task.needs.engines if task.needs is not None else None
            if allowed is not None and allowed.isdisjoint(self._host.engines):
                return nowhere(task, engines)
        # One that was given values had better run soon, for they take room here.
        self.placing.wait(task, again=bool(task.past.values))
        return None

    # Engines answer

    def _done(self, task: Task, result: Frame | ParallelError) -> None:
        """Take what an engine answers; nearly always it is the value, and its client waits for that."""
        engine, task.engine = task.engine, None
        assert engine is not None
        if task.course is None and not task.awaited and isinstance(result, Frame) and result.code == Status.OK:
            self._scheduler.task_done(task, RESULT_META.unpack_from(result.body[0])[1])
            task.over = True
            self.ledger.count(task.id, True)
            client = task.owner
            client.calls.pop(task.number, None)
            client.release(task.size)
            client.forward(result, task.number, code=Status.OK, flags=LAST, engine=engine.id)
        else:
            self._judge(task, engine, result)
        self.placing.place()

    def _judge(self, task: Task, engine: Engine, result: Frame | ParallelError) -> None:
        """Take an answer that needs a closer look."""
        struck = True
        if isinstance(result, EngineLost):
            # What it had is answered in the order in which it was sent: only the first can have been running.
            struck = bool(self._scheduler.engine_left(engine.id))
        seconds = None
        if isinstance(result, Frame) and result.code in (Status.OK, Status.ERROR):
            seconds = RESULT_META.unpack_from(result.body[0])[1]
        self._scheduler.task_done(task, seconds)
        ended = judge(task, result, engine.id, self._loop.time(), self._host.engines, struck=struck)
        if ended is not None:
            self._over(task, ended)
            return
        self.placing.wait(task, again=True)
        deadline = task.course.deadline if task.course is not None else None
        if deadline is not None and task not in self._refused:
            self._refused[task] = self._loop.call_at(deadline, self._give_up, task)

    def _give_up(self, task: Task) -> None:
        """The time is over in which an engine had to take a task; one that has it now still may."""
        del self._refused[task]
        if task.engine is None and self._scheduler.task_removed(task):
            self._over(task, refused_everywhere(task, self._host.engines))
            self.placing.place()

    # Tasks end

    def take_back(self, task: Task) -> None:
        """End a task, wherever it is; who waits for it is told when it has ended."""
        if task.over or task.ending is not None:
            return
        if task.engine is None:
            if not self._graph.remove(task):
                self._scheduler.task_removed(task)
        else:
            task.ending = self._loop.time()
            task.engine.end(task)
            if not task.cancelled:
                return
            # It had not been sent: nobody will answer it.
            self.placing.taken_from_engine(task)
        self._over(task, never_began(task))
        if task.awaited or task.ending is not None:
            self.placing.place()

    def _failed(self, task: Task, error: ParallelError) -> None:
        self._over(task, Ended(False, error))

    def _emptied(self) -> None:
        """There is no task, after there have been many: let go of the memory that they took."""
        for client in self.clients:
            if not client.calls:
                client.calls = {}
        if not self.unattended:
            self.unattended = {}

    def _over(self, task: Task, ended: Ended) -> None:
        """A task is over, and so are those that can't begin because of that."""
        ends = deque([(task, ended)])
        while ends:
            task, ended = ends.popleft()
            passed_on = self._close(task, ended)
            if not task.awaited:
                continue
            for child, verdict in self._graph.ended(task, _outcome(passed_on)):
                assert isinstance(child, Task)
                if isinstance(verdict, Ready):
                    over = self._ready(child, verdict.engines)
                else:
                    over = self._hopeless(child, verdict, passed_on)
                if over is not None:
                    ends.append((child, over))
            for told in self._waiters.pop(task, ()):
                told(ended)

    def _close(self, task: Task, ended: Ended) -> Ended:
        """Tell a task's client how it ended, and let go of what it held; return what that is to its children."""
        task.over = True
        self.ledger.count(task.id, ended.ok)
        if not ended.ok:
            where = _outcome(ended).engine
            self.failures.append(Failure(task.id, task.name, task.owner.session, where, reason(ended)))
        if task.client is not None:
            task.client.calls.pop(task.number, None)
            ended.tell(task.client, task.number)
        else:
            self._keep(task, ended)
        task.owner.release(task.size)
        past = task.course
        if past is None:
            return ended
        self.placing.forget(task)
        if (timer := self._refused.pop(task, None)) is not None:
            timer.cancel()
        for value in past.values:
            value.let_go()
        past.values = []
        if past.value is not None and past.value.users and ended.ok and isinstance(ended.result, Frame):
            try:
                past.value.arrived(ended.result)
            except (ParallelError, OSError) as error:
                # Nobody can be given it: to its children it has failed.
                return Ended(False, _as_ours(error), ended.engine)
        return ended

    def _keep(self, task: Task, ended: Ended) -> None:
        """Keep how a task ended that answers nobody, until somebody asks."""
        del self.unattended[task.id]
        self.ledger.keep(task.id, self.report_of(task, ended), ended.size, _outcome(ended), self._loop.time())
        self._expire_later()

    def report_of(self, task: Task, ended: Ended) -> Report:
        """Return what is to be told of a task that nobody waited for."""
        kept = self.ledger.peek(task.id)
        if kept is not None:
            return kept.result
        return Report(ended, task.past.submitted, self._host.source.wall(), task.owner.grant.id)

    def _expire_later(self) -> None:
        due = self.ledger.due
        if due is not None and self._expiring is None:
            self._expiring = self._loop.call_at(due, self._expire)

    def _expire(self) -> None:
        self._expiring = None
        self.ledger.expire(self._loop.time())
        self._expire_later()

    def _hopeless(self, task: Task, verdict: Impossible[Task | int], ended: Ended | None) -> Ended:
        """Return how a task ended that can't begin any more.

        Args:
            task: The task.
            verdict: Why.
            ended: How the parent ended that decided it; None: it had ended before, and goes by its id.
        """
        parent = verdict.parent
        if isinstance(parent, int):
            kept = self.ledger.peek(parent)
            ended, outcome, title = kept.result.ended if kept else None, self.ledger.outcome(parent), f"task {parent}"
            ok = outcome is not None and outcome.ok
        else:
            ok, title = ended is not None and ended.ok, parent.title
        return hopeless(task, title, ok=ok, engines=verdict.engines, cause=ended)

    # Who asks

    def wait_for(self, task: Task, told: Callable[[Ended], None]) -> None:
        """Have `told` called when a task is over that is not."""
        task.awaited = True
        self._waiters.setdefault(task, []).append(told)

    def wait_no_more(self, task: Task, told: Callable[[Ended], None]) -> None:
        """Have it not called any more."""
        waiters = self._waiters.get(task, [])
        if told in waiters:
            waiters.remove(told)
            if not waiters:
                del self._waiters[task]

    def why(self, task: Task) -> str:
        """Return in one sentence why a task that is not over is not, or where it is."""
        if task.ending is not None:
            clause = f"it is being taken back from engine {task.engine.id if task.engine else ''}"
        elif parents := [parent for parent in self._graph.waits_for(task) if isinstance(parent, Task)]:
            others = f" and {len(parents) - 1} others" if len(parents) > 2 else ""
            others = f" and {parents[1].title}" if len(parents) == 2 else others
            clause = f"it waits for {parents[0].title}{others}"
        else:
            clause = self._scheduler.why(task)
        refusals = task.course.refusals if task.course is not None else {}
        refused = f" (refused by {', '.join(map(str, refusals))})" if refusals and "rejected" not in clause else ""
        return f"{task.title}: {clause}{refused}"

    # Engines come and go

    def engine_left(self, engine: Engine) -> None:
        """One less; what it had has been answered and waits again. Tasks that had to run there never will."""
        for task in self.placing.engine_left(engine):
            text = f"{task.title} can't run: engine {engine.id}, where the tasks ran that it follows, is gone"
            self._over(task, Ended(False, DependencyError(text)))
        self.placing.place()


def _outcome(ended: Ended) -> Outcome:
    return Outcome(ended.ok, None if ended.engine == NO_ENGINE else ended.engine)


def _as_ours(error: ParallelError | OSError) -> ParallelError:
    return error if isinstance(error, ParallelError) else OperationError(f"a value can't be passed on: {error}")
