"""Why a task is where it is, in one clause for people. Sans-I/O."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from aioparallel.lines import Line
from aioparallel.needs import Needs
from aioparallel.room import Engine
from aioparallel.waiting import Waiting

__all__ = ["why_placed", "why_waiting"]

T = TypeVar("T", bound=Hashable)

#: Ids that are named one by one.
FEW = 5


def why_placed(task: T, engine: Engine[T]) -> str:
    """Say where a task is, and what is before it there."""
    before = list(engine.tasks).index(task)
    told = f"engine {engine.id} has it"
    if before:
        told += f"; {_tasks(before)} before it there"
    if engine.paused:
        told += f"{' and' if before else ';'} its kernel is down"
    if task in engine.asked:
        told += ", and it was asked back"
    return told


def why_waiting(
    task: T, line: Line[T], waiting: Waiting[T], engines: Mapping[int, Engine[T]], candidates: list[Engine[T]]
) -> str:
    """Say what a waiting task waits for.

    Args:
        task: It waits in `line`.
        line: Where it waits.
        waiting: Everything that waits.
        engines: All engines.
        candidates: Those that may run it, and are not paused.
    """
    if line.client.paused:
        return "its client does not read what it is sent"
    needs = line.book.needs
    if not candidates:
        return _nowhere(needs, engines)
    if needs is not None and not any(engine.spare(needs) for engine in candidates):
        verb = "is" if len(needs.resources) == 1 else "are"
        return f"it waits for {_resources(needs)}, which {verb} in use on {_named(e.id for e in candidates)}"
    if needs is not None and not any(engine.can_hold(needs, line.priority) for engine in candidates):
        kept = [engine.id for engine in candidates if engine.spare(needs)]
        verb = "is" if len(kept) == 1 else "are"
        return f"it waits for {_resources(needs)}: {_named(kept)} {verb} kept for tasks that need more"
    higher = sum(
        len(other)
        for book in waiting.open
        for other in book.lines()
        if other.priority > line.priority and not other.client.paused
    )
    if higher:
        return f"{_count(higher)} of higher priority {'goes' if higher == 1 else 'go'} first"
    before = _before(task, line, waiting.lifo)
    told = "every engine is busy"
    if needs is not None:
        told = f"it waits for {_named((engine.id for engine in candidates), 'or')} to have room"
    if before:
        told += f", and {_tasks(before)} before it"
    return told


def _before(task: T, line: Line[T], lifo: bool) -> int:
    """Return how many tasks of its client go before it, in its line and in the one of tasks that run again."""
    everything = reversed(line.tasks) if lifo else iter(line.tasks)
    before = 0
    for other in everything:
        if other == task:
            break
        before += other not in line.stale
    if not line.again:
        again = line.book.levels[line.priority].again.get(line.key)
        before += len(again) if again is not None else 0
    return before


def _nowhere(needs: Needs | None, engines: Mapping[int, Engine[T]]) -> str:
    """Say why there is no engine for it."""
    if not engines:
        return "it waits for an engine: there is none"
    able = [engine for engine in engines.values() if engine.may_run(needs)]
    if able:
        kernel = "whose kernel is" if len(able) == 1 else "whose kernels are"
        return f"it waits for {_named(engine.id for engine in able)}, {kernel} down"
    if needs is None:  # then every engine is able
        return "it waits for an engine"
    wanted = f"{_named(sorted(needs.engines), 'or')}" if needs.engines is not None else "an engine"
    if needs.resources:
        wanted += f" with {_resources(needs)}"
    refused = sorted(needs.not_on.intersection(engines))
    if refused and (needs.engines is None or needs.engines.intersection(refused)):
        return f"it waits for {wanted}: {_named(refused)} rejected it, and there is no other"
    return f"it waits for {wanted}: there is none"


def _resources(needs: Needs) -> str:
    return " and ".join(f"{name}={amount:g}" for name, amount in needs.resources)


def _named(ids: Iterable[int], conjunction: str = "and") -> str:
    """Name engines: "engine 3", "engines 1, 2 and 5", "12 engines"."""
    names = [str(number) for number in ids]
    if len(names) > FEW:
        return f"one of {len(names)} engines" if conjunction == "or" else f"{len(names)} engines"
    if len(names) < 2:
        return f"engine {''.join(names)}" if names else "no engine"
    start = "engine" if conjunction == "or" else "engines"
    return f"{start} {', '.join(names[:-1])} {conjunction} {names[-1]}"


def _count(number: int) -> str:
    return f"{number} task" if number == 1 else f"{number} tasks"


def _tasks(number: int) -> str:
    return f"{_count(number)} {'is' if number == 1 else 'are'}"
