"""Bugs that are planted: each is found by the scenario that every seed runs, within so many seeds.

A check that finds nothing wrong says little unless it is known what it would find.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sim.scenario import OPTIONS, mixed

from aioparallel import dispatch, verdicts
from aioparallel.dispatch import Dispatcher
from aioparallel.engines import Engine
from aioparallel.errors import EngineDied, EngineLost
from aioparallel.graph import Graph, Ready
from aioparallel.inflight import InFlight
from aioparallel.interface import ClientProxy
from aioparallel.ladder import Ladder
from aioparallel.placing import Placing
from aioparallel.queues import Queue
from aioparallel.receipt import TaskReply
from aioparallel.room import Engine as EngineRoom
from aioparallel.scheduler import Scheduler
from aioparallel.testing import explore
from aioparallel.verdicts import judge, never_began
from aioparallel.wire import LAST, Frame, Status

SEEDS = 200

Plant = Callable[[pytest.MonkeyPatch], None]
MUTANTS: dict[str, Plant] = {}


def mutant(plant: Plant) -> Plant:
    MUTANTS[plant.__name__.replace("_", " ")] = plant
    return plant


@mutant
def a_task_whose_engine_died_is_lost(patch: pytest.MonkeyPatch) -> None:
    wait = Placing.wait

    def wait_unless_again(self: Placing, task: Any, *, again: bool = False) -> None:
        if not again:
            wait(self, task)

    patch.setattr(Placing, "wait", wait_unless_again)


@mutant
def a_task_whose_engine_is_lost_waits_twice(patch: pytest.MonkeyPatch) -> None:
    lose = Engine.lost

    def lost(self: Engine, reason: str) -> None:
        under_way = list(self._under_way.values())
        lose(self, reason)
        for command in under_way:
            command.done(command, EngineLost(reason, engine_id=self.id, running=False))

    patch.setattr(Engine, "lost", lost)


@mutant
def a_host_says_that_all_its_kernel_had_was_running(patch: pytest.MonkeyPatch) -> None:
    fault = InFlight.fault
    patch.setattr(InFlight, "fault", lambda self, *about, running, **more: fault(self, *about, running=True, **more))


@mutant
def a_neighbour_gets_a_strike(patch: pytest.MonkeyPatch) -> None:
    def strike(task: Any, error: EngineDied, *about: Any, **more: Any) -> Any:
        error.running = True
        return died(task, error, *about, **more)

    died = verdicts._died
    patch.setattr(verdicts, "_died", strike)


@mutant
def a_task_is_given_up_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(verdicts, "STRIKES", 2)


@mutant
def a_cancelled_task_is_over_before_its_engine_has_answered(patch: pytest.MonkeyPatch) -> None:
    take_back = Dispatcher.take_back

    def over_at_once(self: Dispatcher, task: Any) -> None:
        take_back(self, task)
        if not task.over:
            self._over(task, never_began(task))

    patch.setattr(Dispatcher, "take_back", over_at_once)


@mutant
def credit_leaks_when_a_task_fails(patch: pytest.MonkeyPatch) -> None:
    close = Dispatcher._close

    def leak(self: Dispatcher, task: Any, ended: Any) -> Any:
        if not ended.ok:
            task.owner.hold(task.size)
        return close(self, task, ended)

    patch.setattr(Dispatcher, "_close", leak)


@mutant
def the_load_of_what_failed_is_never_taken_off(patch: pytest.MonkeyPatch) -> None:
    done = Scheduler.task_done
    patch.setattr(
        Scheduler, "task_done", lambda self, task, seconds=None: None if seconds is None else done(self, task, seconds)
    )


@mutant
def an_answer_to_an_unknown_command_is_taken(patch: pytest.MonkeyPatch) -> None:
    finished = Engine.finished

    def take_it(self: Engine, frame: Frame) -> None:
        if frame.id not in self._under_way and self._under_way:
            frame.id = next(iter(self._under_way))
        finished(self, frame)

    patch.setattr(Engine, "finished", take_it)


@mutant
def the_timer_of_a_timeout_is_not_cancelled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ladder, "_stop", lambda self: setattr(self, "_timed", None))


@mutant
def a_recalled_task_waits_before_it_is_back(patch: pytest.MonkeyPatch) -> None:
    recall = Engine.recall

    def back_at_once(self: Engine, command: Any) -> bool:
        back = recall(self, command)
        number = 0 if back else self._number_of(command)
        if number:
            self._remove(number)
        return back or bool(number)

    patch.setattr(Engine, "recall", back_at_once)


@mutant
def a_result_is_delivered_twice(patch: pytest.MonkeyPatch) -> None:
    def twice(self: Dispatcher, task: Any, result: Any) -> None:
        engine, before = task.engine, task.over
        done(self, task, result)
        if task.over and not before and isinstance(result, Frame) and result.code == Status.OK:
            task.owner.forward(result, task.number, code=Status.OK, flags=LAST, engine=engine.id)

    done = Dispatcher._done
    patch.setattr(Dispatcher, "_done", twice)


@mutant
def what_may_run_once_runs_again(patch: pytest.MonkeyPatch) -> None:
    def forget_that(task: Any, *about: Any, **more: Any) -> Any:
        task.terms = dataclasses.replace(task.terms, at_most_once=False)
        return judge(task, *about, **more)

    patch.setattr(dispatch, "judge", forget_that)


@mutant
def parents_are_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Graph, "add", lambda self, task, conditions, ended: Ready(None))


@mutant
def children_are_not_told_of_their_parents(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Graph, "ended", lambda self, parent, outcome: [])


@mutant
def a_lost_engine_forgets_its_last_command(patch: pytest.MonkeyPatch) -> None:
    lost = Engine.lost

    def forget_one(self: Engine, reason: str) -> None:
        if self._under_way:
            self._under_way.popitem()
        lost(self, reason)

    patch.setattr(Engine, "lost", forget_one)


@mutant
def a_retry_too_few(patch: pytest.MonkeyPatch) -> None:
    failed = verdicts._failed

    def one_less(task: Any, *about: Any) -> Any:
        if task.terms.retries:
            task.past.failures += 1
        return failed(task, *about)

    patch.setattr(verdicts, "_failed", one_less)


@mutant
def a_receipt_never_comes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TaskReply, "ended_as", lambda self, receipt: None)


@mutant
def a_cancelled_command_stays_in_its_queue(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Queue, "_drop_cancelled", lambda self: None)


@mutant
def an_engine_that_left_keeps_its_tasks(patch: pytest.MonkeyPatch) -> None:
    left = Scheduler.engine_left

    def keep(self: Scheduler[Any], engine: int) -> Any:
        room: EngineRoom[Any] | None = self._engines.get(engine)
        had = dict(room.tasks) if room is not None else {}
        tasks = left(self, engine)
        if room is not None:
            room.tasks.update(had)
        return tasks

    patch.setattr(Scheduler, "engine_left", keep)


@mutant
def what_is_returned_is_lost_if_it_was_withdrawn(patch: pytest.MonkeyPatch) -> None:
    take_back = Engine._take_back

    def drop(self: Engine, command: Any, frame: Frame, withdrawn: bool) -> None:
        if not withdrawn:
            take_back(self, command, frame, withdrawn)

    patch.setattr(Engine, "_take_back", drop)


@mutant
def a_timeout_interrupts_whatever_runs(patch: pytest.MonkeyPatch) -> None:
    limit = InFlight.limit

    def from_now_on(self: InFlight, number: int, seconds: float) -> None:
        limit(self, number, seconds)
        self._ladder._loop.call_later(seconds, over, self, number)

    def over(self: InFlight, number: int) -> None:
        # The one that is meant has its ladder.
        running = self._kernel.running if self._kernel is not None else None
        if self._kernel is not None and number in self and running not in (None, number):
            self._kernel.interrupt(running)

    patch.setattr(InFlight, "limit", from_now_on)


@pytest.mark.parametrize("name", MUTANTS)
def test_it_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    with pytest.raises((Exception, BaseExceptionGroup)) as caught:
        explore(mixed, range(SEEDS), limit=100.0, **OPTIONS)
    assert "simulate(scenario, seed=" in str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))


#: Run in processes of its own: clients' calls are withdrawn in the order of what strings hash to.
SET_ORDER = """
from aioparallel.interface import ClientProxy
from aioparallel.testing import simulate
from sim.scenario import OPTIONS, mixed

def leave(self):
    for number in sorted(self.calls, key=lambda number: hash(str(number))):
        self.calls.pop(number).withdraw()

ClientProxy.leave = leave
print([simulate(mixed, seed, **OPTIONS).trace.digest for seed in range(20)])
"""


def test_the_order_of_a_set_is_found() -> None:
    assert hasattr(ClientProxy, "leave")
    outputs = []
    for hash_seed in "12":
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-c", SET_ORDER]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] != outputs[1]
