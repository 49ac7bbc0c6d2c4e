"""On which terms a task runs: what a client says of it besides its payload, checked. Sans-I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aioparallel.errors import OperationError

__all__ = ["PLAIN", "Parent", "Relation", "Terms"]

#: Seconds that a task which was refused looks for an engine that takes it.
DEPEND_TIMEOUT = 60.0
#: Most recoveries of recoveries.
DEPTH = 100
#: No number is as large as this one.
LARGE = 2**63


class Parent(NamedTuple):
    """A task as a client names it.

    Attributes:
        call: The number of its own call that made it; None if it goes by its id.
        task: Its id; None if it goes by a call.
    """

    call: int | None
    task: int | None

    @classmethod
    def of(cls, plain: Any) -> Parent:
        """Read one from plain values.

        Raises:
            OperationError: It is none.
        """
        if isinstance(plain, dict) and len(plain) == 1:
            ((kind, number),) = plain.items()
            if kind in ("call", "task") and _is_count(number):
                return cls(number, None) if kind == "call" else cls(None, number)
        raise OperationError(f'a task is named as {{"call": number}} or {{"task": id}}, not {plain!r}'[:1000])


@dataclass(frozen=True, slots=True)
class Relation:
    """Which tasks must have ended before this one, and how.

    Attributes:
        of: Which.
        all: All of them, or any.
        success: Whether success counts.
        failure: Whether failure counts.
    """

    of: tuple[Parent, ...]
    all: bool = True
    success: bool = True
    failure: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of a task.

    Attributes:
        label: What people read of it.
        retries: How often it is run again after a failure.
        timeout: Seconds that it may run; None: as long as it takes.
        priority: Higher goes first.
        after: What must have ended before.
        follow: The same, and where those ran this one runs.
        arguments: Whose values it is given.
        depend_timeout: Seconds from the first refusal on in which an engine must take it.
        at_most_once: Whether it may not be begun twice.
        engines: Where it may run; None: anywhere.
        resources: What it takes up at its engine, by name, sorted.
        properties: Whether the kernel is to be told its engine's properties.
        recovery: On which terms its recovery task runs.
        recovery_buffers: How many buffers of the payload, the last ones, are that.
    """

    label: bytes = b""
    retries: int = 0
    timeout: float | None = None
    priority: int = 0
    after: Relation | None = None
    follow: Relation | None = None
    arguments: tuple[Parent, ...] = ()
    depend_timeout: float = DEPEND_TIMEOUT
    at_most_once: bool = False
    engines: frozenset[int] | None = None
    resources: tuple[tuple[str, float], ...] = ()
    properties: bool = False
    recovery: Terms | None = None
    recovery_buffers: int = 0

    @classmethod
    def of(cls, plain: Any, buffers: int) -> Terms:
        """Read terms from plain values.

        Args:
            plain: What the client says.
            buffers: How many the payload has.

        Raises:
            OperationError: It says what can't be done; the text names it.
        """
        terms = cls._read(plain, buffers, 0)
        if terms.at_most_once and terms.retries:
            raise OperationError("at_most_once and retries exclude each other: one forbids to run the task again")
        return terms

    @classmethod
    def _read(cls, plain: Any, buffers: int, depth: int) -> Terms:
        if not isinstance(plain, dict):
            raise OperationError(f"the options of a task are a JSON object, not {plain!r}"[:1000])
        if depth > DEPTH:
            raise OperationError(f"recovery tasks of recovery tasks: more than {DEPTH}")
        unknown = [name for name in plain if name not in _READ and name != "recovery"]
        if unknown:
            known = ", ".join(sorted([*_READ, "recovery"]))
            raise OperationError(f"a task has no option {unknown[0]!r}; there are {known}"[:1000])
        values = {name: _READ[name](name, value) for name, value in plain.items() if name != "recovery"}
        recovery = plain.get("recovery")
        if recovery is not None:
            values |= cls._read_recovery(recovery, buffers, depth)
        return cls(**values)

    @classmethod
    def _read_recovery(cls, plain: Any, buffers: int, depth: int) -> dict[str, Any]:
        if not isinstance(plain, dict) or not _is_count(plain.get("buffers")):
            raise OperationError("a recovery task is a JSON object that says how many buffers it has")
        count, options = plain["buffers"], {name: value for name, value in plain.items() if name != "buffers"}
        if not 1 <= count < buffers:
            raise OperationError(f"a payload of {buffers} buffers can't have a recovery task of {count}")
        for name in ("after", "follow", "arguments"):
            if options.get(name):
                raise OperationError(f"a recovery task begins when its task has failed: it takes no {name!r}")
        return {"recovery": cls._read(options, count, depth + 1), "recovery_buffers": count}


#: The terms of a task about which nothing was said.
PLAIN = Terms()


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGE


def _seconds(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < LARGE:
        raise OperationError(f"{name!r} of a task is a number of seconds above 0, not {value!r}")
    return float(value)


def _limit(name: str, value: Any) -> float | None:
    return None if value is None else _seconds(name, value)


def _wait(name: str, value: Any) -> float:
    # No time at all is a good answer to: how long shall it look for an engine?
    return 0.0 if type(value) in (int, float) and value == 0 else _seconds(name, value)


def _count(name: str, value: Any) -> int:
    if not _is_count(value):
        raise OperationError(f"{name!r} of a task is a number from 0 on, not {value!r}")
    return int(value)


def _integer(name: str, value: Any) -> int:
    if type(value) is not int or not -LARGE <= value < LARGE:
        raise OperationError(f"{name!r} of a task is an integer, not {value!r}"[:1000])
    return value


def _flag(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise OperationError(f"{name!r} of a task is true or false, not {value!r}"[:1000])
    return value


def _label(name: str, value: Any) -> bytes:
    if type(value) is not str:
        raise OperationError(f"{name!r} of a task is a string, not {value!r}"[:1000])
    return value.encode("utf-8", "replace")[:80]


def _engines(name: str, value: Any) -> frozenset[int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(map(_is_count, value)):
        raise OperationError(f"{name!r} of a task are ids of engines, at least one, not {value!r}"[:1000])
    return frozenset(value)


def _resources(name: str, value: Any) -> tuple[tuple[str, float], ...]:
    if not isinstance(value, dict):
        raise OperationError(f"{name!r} of a task are numbers by name, not {value!r}"[:1000])
    for resource, amount in value.items():
        if type(amount) not in (int, float) or not 0 <= amount < LARGE:
            raise OperationError(f"{name!r} of a task: {resource!r} is a number from 0 on, not {amount!r}"[:1000])
    return tuple(sorted((resource, float(amount)) for resource, amount in value.items() if amount))


def _parents(name: str, value: Any) -> tuple[Parent, ...]:
    if not isinstance(value, list):
        raise OperationError(f"{name!r} of a task are a list of tasks, not {value!r}"[:1000])
    return tuple(map(Parent.of, value))


def _relation(name: str, value: Any) -> Relation | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not set(value) <= {"of", "all", "success", "failure"}:
        raise OperationError(
            f'{name!r} of a task is {{"of": tasks, "all", "success", "failure"}}, not {value!r}'[:1000]
        )
    accepted = {key: _flag(f"{name}: {key}", flag) for key, flag in value.items() if key != "of"}
    relation = Relation(_parents(name, value.get("of")), **accepted)
    if not (relation.success or relation.failure):
        raise OperationError(f"{name!r} of a task accepts success, failure, or both, not neither")
    return relation


_READ: Mapping[str, Callable[[str, Any], Any]] = {
    "label": _label,
    "retries": _count,
    "timeout": _limit,
    "priority": _integer,
    "after": _relation,
    "follow": _relation,
    "arguments": _parents,
    "depend_timeout": _wait,
    "at_most_once": _flag,
    "engines": _engines,
    "resources": _resources,
    "properties": _flag,
}
