"""What an engine's answer means for its task: it is over, or is tried again."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from aioparallel.errors import (
    Death,
    DependencyError,
    EngineDied,
    EngineLost,
    ParallelError,
    Preempted,
    TaskAborted,
    TaskPoisoned,
    TaskTimeout,
    from_plain,
)
from aioparallel.taskstate import Ended, Task
from aioparallel.wire import NO_ENGINE, Frame, Status

__all__ = ["STRIKES", "fault_of", "hopeless", "judge", "never_began", "nowhere", "reason", "refused_everywhere"]

#: A task during which so many kernels died, of two engines if there are two, is not run again.
STRIKES = 3


def judge(
    task: Task, result: Frame | ParallelError, engine: int, now: float, engines: Collection[int], *, struck: bool
) -> Ended | None:
    """Judge an answer, and note in the task what follows from it.

    Args:
        task: Whose it is.
        result: The answer.
        engine: Who gave it.
        now: Loop time.
        engines: All engines there are, by id; those that have left are not among them.
        struck: Whether the death of a kernel may be this task's doing: not if others were before it.

    Returns:
        How it ended; None: it is to be tried again.
    """
    code = result.code if isinstance(result, Frame) else Status.FAULT
    if code == Status.OK:
        return Ended(True, result, engine, tried_before(task))
    error = fault_of(result)
    if task.ending is not None:
        return _taken_back(task, result, error, engine, now)
    if code == Status.CANCELLED:
        return None  # it was asked back, to run elsewhere
    if code == Status.REJECTED:
        return _refused(task, result, engine, now, engines)
    if isinstance(error, Preempted) and not task.terms.at_most_once:
        return None  # somebody needed the engine; it has done nothing wrong
    if isinstance(error, EngineDied):
        return _died(task, error, engine, engines, struck=struck)
    if code == Status.ERROR or isinstance(error, TaskTimeout):
        return _failed(task, result, engine, engines)
    return Ended(False, result, engine, tried_before(task))


def fault_of(result: Frame | ParallelError) -> ParallelError | None:
    """Return which of our own errors an answer is, if it is one."""
    if isinstance(result, ParallelError):
        return result
    if result.code != Status.FAULT:
        return None
    plain = result.json()
    return from_plain(plain if isinstance(plain, dict) else {})


def tried_before(task: Task) -> int:
    """Return how often a task was tried before this time."""
    return task.course.tried if task.course is not None else 0


def never_began(task: Task) -> Ended:
    """Return how a task ended that was taken back while it waited."""
    error = TaskAborted(f"{task.title} was taken back before it had begun", step="waiting", seconds=0.0)
    return Ended(False, error, tried=tried_before(task))


def reason(ended: Ended) -> str:
    """Return in words why a task has failed, as far as can be told without unpacking anything."""
    error = fault_of(ended.result)
    return "its code raised an exception" if error is None else str(error)[:1000]


def hopeless(task: Task, parent: str, *, ok: bool, engines: tuple[int, ...], cause: Ended | None) -> Ended:
    """Return how a task ended that can't begin any more.

    Args:
        task: The task.
        parent: The parent that decided it, for people.
        ok: Whether that has succeeded.
        engines: Where its parents ran, if it was to follow all of them and that was not one place.
        cause: How that parent ended, as far as is known.
    """
    if engines:
        text = f"it follows tasks that ran on several engines: {', '.join(map(str, engines))}"
    elif ok:
        text = f"{parent} was to fail before, and has succeeded"
    else:
        text = f"{parent}, on which it depends, has failed"
    error = DependencyError(f"{task.title} can't run: {text}")
    return Ended(False, error, cause=None if ok or cause is None else cause.root)


def nowhere(task: Task, engines: Collection[int]) -> Ended:
    """Return how a task ended that must run where its parents did, which is nowhere any more."""
    where = ", ".join(map(str, sorted(engines)))
    text = f"{task.title} can't run: it follows tasks that ran on {where}, which are gone or not where it may run"
    return Ended(False, DependencyError(text))


def _taken_back(
    task: Task, result: Frame | ParallelError, error: ParallelError | None, engine: int, now: float
) -> Ended:
    """It was to end at its engine, and has."""
    assert task.ending is not None
    code = result.code if isinstance(result, Frame) else Status.FAULT
    begun = not isinstance(error, EngineDied) or error.begun
    if code in (Status.CANCELLED, Status.REJECTED) or not begun:
        return never_began(task)
    if isinstance(error, EngineDied):
        # The kernel died of something else, or with its host: that was the end of the task too.
        text = f"{task.title} was to end; meanwhile: {error}"
        result = TaskAborted(text, step="kill", seconds=now - task.ending)
    return Ended(False, result, engine, tried_before(task))


def _failed(task: Task, result: Any, engine: int, engines: Collection[int]) -> Ended | None:
    """What the task does has failed: another try is left, or its recovery task."""
    if not task.terms.retries and task.terms.recovery is None:
        return Ended(False, result, engine, tried_before(task))
    past = task.past
    ended = Ended(False, result, engine, past.tried)
    past.tried += 1
    if past.failures < task.terms.retries:
        past.failures += 1
        _avoid(task, engine, engines)
        return None
    return None if task.recover() else ended


def _avoid(task: Task, engine: int, engines: Collection[int]) -> None:
    """Let a task run elsewhere, if there is an elsewhere; once it was everywhere, anywhere but where it was last."""
    past = task.past
    past.rather_not |= {engine}
    if past.rather_not.issuperset(engines):
        past.rather_not = frozenset({engine})
    task.look_anew()


def _died(task: Task, error: EngineDied, engine: int, engines: Collection[int], *, struck: bool) -> Ended | None:
    """Its kernel died, or its host was lost."""
    if task.terms.at_most_once and error.begun:
        text = f"{task.title} may run at most once, and may have begun when its engine was lost: {error}"
        lost = EngineLost(text, engine_id=engine, reason=error.reason, output=error.output, running=True)
        return Ended(False, lost, engine, tried_before(task))
    if not (struck and error.running):
        return None
    past = task.past
    past.deaths.append(Death(engine, error.reason or str(error), error.output))
    where = {death.engine for death in past.deaths}
    elsewhere = [number for number in engines if number not in where and may_run(task, number)]
    if len(past.deaths) >= STRIKES and (len(where) > 1 or not elsewhere):
        deaths = "; ".join(f"engine {death.engine}: {death.reason}" for death in past.deaths)
        text = f"{len(past.deaths)} kernels died while they ran {task.title}, which is not tried again: {deaths}"
        return Ended(False, TaskPoisoned(text, deaths=past.deaths), engine, past.tried)
    past.tried += 1
    _avoid(task, engine, engines)
    return None


def may_run(task: Task, engine: int) -> bool:
    """Whether an engine is one of those where a task may run, whatever it has."""
    needs = task.needs
    return needs is None or ((needs.engines is None or engine in needs.engines) and engine not in needs.not_on)


def _refused(task: Task, result: Any, engine: int, now: float, engines: Collection[int]) -> Ended | None:
    """The task said: not here."""
    past = task.past
    past.refusals[engine] = None
    past.refusal = result
    if past.deadline is None:
        past.deadline = now + task.terms.depend_timeout
    task.look_anew()
    return refused_everywhere(task, engines) if now >= past.deadline else None


def refused_everywhere(task: Task, engines: Collection[int]) -> Ended:
    """Return how a task ended that no engine has taken in time."""
    past = task.past
    assert past.refusal is not None
    refused = f"{_named(past.refusals)} refused it"
    others = [number for number in engines if may_run(task, number)]
    unasked = f"; {_named(others)} had no room for it in that time" if others else ""
    text = f"no engine has taken {task.title} in {task.terms.depend_timeout:g} s: {refused}{unasked}"
    last = list(past.refusals)[-1] if past.refusals else NO_ENGINE
    cause = Ended(False, past.refusal, last, past.tried)
    return Ended(False, DependencyError(text), last, past.tried, cause)


def _named(engines: Collection[int]) -> str:
    word = "engine" if len(engines) == 1 else "engines"
    return f"{word} {', '.join(map(str, engines))}" if engines else "those that were asked"
