"""On which terms a client asks for a task: every option is checked at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from aioparallel.conditions import Dependency, check_of

__all__ = ["PLAIN", "Check", "TaskOptions"]

#: A function of an engine's properties, and its further arguments.
Check: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]

#: What the controller can count to.
LARGEST = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options of a task, as `TaskClient.options` takes them.

    Raises:
        TypeError: One is of a wrong type.
        ValueError: One has a value that can't be, or two exclude each other.
    """

    retries: int = 0
    timeout: float | None = None
    priority: int = 0
    after: Any = None
    follow: Any = None
    depend: Any = None
    depend_timeout: float = 60.0
    at_most_once: bool = False
    label: str | None = None
    engines: Any = None
    resources: Any = None

    def __post_init__(self) -> None:
        set_to = object.__setattr__
        _check_integer("retries", self.retries)
        if self.retries < 0:
            raise ValueError(f"retries is a number of further tries from 0 on, not {self.retries}")
        _check_integer("priority", self.priority)
        if self.timeout is not None:
            _check_number("timeout", self.timeout, "seconds of running time, or None")
            if not self.timeout > 0:
                raise ValueError(f"timeout is seconds of running time above 0, not {self.timeout}")
        _check_number("depend_timeout", self.depend_timeout, "seconds")
        if not isinstance(self.at_most_once, bool):
            raise TypeError(f"at_most_once is True or False, not {self.at_most_once!r}")
        if self.at_most_once and self.retries:
            raise ValueError("at_most_once and retries exclude each other: one forbids what the other asks for")
        if self.label is not None and not isinstance(self.label, str):
            raise TypeError(f"label is a str, not {self.label!r}")
        for name in ("after", "follow"):
            given = getattr(self, name)
            try:
                set_to(self, name, None if given is None else Dependency.of(given))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}: {error}") from None
        if self.depend is not None:
            check_of(self.depend)
        set_to(self, "engines", _ids(self.engines))
        set_to(self, "resources", _amounts(self.resources))

    def checks(self) -> list[Check]:
        """Return what is asked of an engine before the task runs there."""
        return [] if self.depend is None else [check_of(self.depend)]

    def plain(self) -> dict[str, Any]:
        """Return what the controller is told of them apart from `after` and `follow`; nothing of those left out."""
        told = ("retries", "timeout", "priority", "depend_timeout", "at_most_once", "engines", "resources")
        return {name: value for name in told if (value := getattr(self, name)) != _DEFAULTS[name]}


def _check_integer(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is an int, not {value!r}")
    if not -LARGEST <= value < LARGEST:
        raise ValueError(f"{name} is a number below 2**63, not {value}")


def _check_number(name: str, value: Any, what: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} is {what}, not {value!r}")
    if not 0 <= value < LARGEST or math.isnan(value):
        raise ValueError(f"{name} is {what}, a finite number from 0 on, not {value}")


def _ids(engines: Any) -> list[int] | None:
    """Return ids of engines, each once, as they travel."""
    if engines is None:
        return None
    listed = [engines] if isinstance(engines, int) else engines
    if isinstance(listed, str | bytes) or not isinstance(listed, Iterable):
        raise TypeError(f"engines is an id or a sequence of ids, or None for all of them, not {engines!r}")
    ids = list(dict.fromkeys(listed))
    for each in ids:
        _check_integer("an engine's id", each)
        if each < 0:
            raise ValueError(f"ids of engines are numbers from 0 on, not {each}")
    if not ids:
        raise ValueError("engines is empty: there is no engine that the task could run on; None is for all of them")
    return ids


def _amounts(resources: Any) -> dict[str, float] | None:
    """Return named numbers, as they travel."""
    if resources is None:
        return None
    if not isinstance(resources, Mapping):
        raise TypeError(f"resources is a dict of numbers by name, {{'gpu': 1}}, not {resources!r}")
    for name, amount in resources.items():
        if not isinstance(name, str):
            raise TypeError(f"resources go by name, a str, not {name!r}")
        _check_number(f"resources[{name!r}]", amount, "a number")
    return dict(resources) or None


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(TaskOptions)}

#: Those of a task about which nothing was said.
PLAIN = TaskOptions()
