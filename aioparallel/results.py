"""What MultiEngine calls give back: ResultList, ExecuteResult, one value from several answers."""

from __future__ import annotations

import functools
from asyncio import CancelledError
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from aioparallel.channel import serializer
from aioparallel.errors import CompositeError, EngineDied, from_plain
from aioparallel.reference import Reference
from aioparallel.reply import what_was_written
from aioparallel.wire import NO_ENGINE, Frame, Status

__all__ = [
    "NAMES",
    "ExecuteResult",
    "QueueStatusList",
    "ResultList",
    "Targets",
    "collect",
    "name_of",
    "names_asked",
    "outputs",
    "value_of",
]

Targets: TypeAlias = int | str | Sequence[int]

#: What the parts of a payload are called when one of them can't be sent.
NAMES = {
    "execute": ("verb", "code"),
    "apply": ("verb", "f", "args", "kwargs"),
    "map": ("verb", "f", "args"),
    "push": ("verb", "names", "readonly"),
    "pull": ("verb", "names"),
    "keys": ("verb",),
    "reset": ("verb",),
    "push_function": ("verb", "functions"),
    "pull_function": ("verb", "names"),
    "run_file": ("verb", "source", "filename"),
    "get_result": ("verb", "i"),
    "forward_logging": ("verb", "session", "request", "logger", "level"),
    "perform": ("verb", "task"),
    "end_forwarding": ("verb", "session", "request"),
}

#: Methods whose values are what an input came to.
_EXECUTED = frozenset({"execute", "run", "get_result"})


def name_of(f: Any) -> str:
    """Return what to call a function in `status`."""
    if isinstance(f, Reference):
        return f.name[:80]
    while isinstance(f, functools.partial):
        f = f.func
    return str(getattr(f, "__qualname__", None) or type(f).__name__)[:80]


def names_asked(names: str | Sequence[str]) -> str | list[str]:
    """Return names to be pulled as they travel: one, or a list of several.

    Raises:
        TypeError: They are anything else.
    """
    if isinstance(names, str):
        return names
    listed = list(names) if isinstance(names, Iterable) else [names]
    for name in listed:
        if not isinstance(name, str):
            raise TypeError(f"what is pulled is a name or a sequence of names, each a str, not {name!r}")
    return listed


@dataclass(frozen=True, slots=True)
class ExecuteResult:
    """What one engine answers to `execute`, `run` and `get_result`.

    Attributes:
        id: The engine.
        number: The input's number, from 1 for each engine.
        input: The code; of a file, `run('its name')`.
        stdout, stderr: What it wrote.
        value: The repr of the last statement's value if that was an expression, else None.
    """

    id: int
    number: int
    input: str
    stdout: str
    stderr: str
    value: str | None

    def __str__(self) -> str:
        lines = [f"[{self.id}] In [{self.number}]: {self.input.rstrip()}"]
        shown = "".join(
            [self.stdout, "" if not self.stdout or self.stdout.endswith("\n") else "\n", self.value or ""]
        ).rstrip("\n")
        if shown:
            lines.append(f"[{self.id}] Out[{self.number}]: {shown}")
        if self.stderr:
            lines.append(f"[{self.id}] Err[{self.number}]: " + self.stderr.rstrip("\n"))
        return "\n".join(lines)

    __repr__ = __str__


class ResultList(list[Any]):
    """The results of `execute`, one an engine, printed as at a prompt."""

    def __repr__(self) -> str:
        return "\n".join(["<Results List>", "\n\n".join(map(str, self)), ""])


class QueueStatusList(list[Any]):
    """The queues of engines: for each its id, what runs (`pending`) and what waits (`queue`)."""

    def __repr__(self) -> str:
        lines = ["<Queue Status List>"]
        for status in self:
            lines.append(f"[{status['id']}] pending: {status['pending']}")
            lines.append(f"[{status['id']}] queue: {status['queue']}")
        return "\n".join(lines)


def outputs(frame: Frame) -> tuple[float, float, str, str]:
    """Return what a kernel says about a command: when it began, how long it ran, its stdout and stderr."""
    if frame.code not in (Status.OK, Status.ERROR, Status.REJECTED):
        return 0.0, 0.0, "", ""
    return what_was_written(frame.header)


def value_of(frame: Frame, method: str = "") -> Any:
    """Return the value in one RESULT.

    Raises:
        BaseException: What the engine, or the controller, raised instead.
    """
    if frame.code == Status.OK:
        return serializer().unpack(frame.buffers)
    if frame.code == Status.CANCELLED:
        raise CancelledError
    if frame.code in (Status.ERROR, Status.REJECTED):
        error: BaseException = serializer().unpack_error(frame.buffers)
    else:
        error = from_plain(frame.json())
        # The controller's own word is of no engine.
        if frame.engine != NO_ENGINE and (not isinstance(error, EngineDied) or error.engine_id is None):
            error.engine_id = frame.engine  # type: ignore[attr-defined]
    # A user's exception class may forbid new attributes; the text then goes without the method's name.
    with suppress(Exception):
        error.method = method  # type: ignore[attr-defined]
    raise error


def collect(frames: list[Frame], *, method: str, targets: Sequence[int] | None, bare: bool) -> Any:
    """Make one value of the answers of several engines, in the order of `targets` (None: by id).

    Raises:
        CompositeError: Several engines were asked and some raised.
        BaseException: One engine was asked and it raised.
    """
    if len(frames) == 1 and targets is not None and len(targets) == 1:
        value = _shaped(frames[0], method)
        return value if bare else _listed(method, [value])
    for frame in frames:
        # The controller's own word: said as it is, whatever others say that were asked apart.
        if frame.engine == NO_ENGINE and frame.code == Status.OK:
            return _listed(method, [])
        if frame.engine == NO_ENGINE and frame.code == Status.FAULT:
            raise from_plain(frame.json())
    order = {target: place for place, target in enumerate(targets)} if targets is not None else {}
    values, errors = [], []
    for frame in sorted(frames, key=lambda frame: order.get(frame.engine, frame.engine)):
        try:
            values.append(_shaped(frame, method))
        except Exception as error:
            errors.append(error)
    if errors:
        raise CompositeError(f"{len(errors)} of {len(frames)} engines raised", errors)
    return _listed(method, values)


def _listed(method: str, values: list[Any]) -> list[Any]:
    return ResultList(values) if method in _EXECUTED else values


def _shaped(frame: Frame, method: str) -> Any:
    value = value_of(frame, method)
    if method not in _EXECUTED:
        return value
    # A result of long ago brings its output along; a new one comes with it.
    _, _, stdout, stderr = outputs(frame)
    stdout, stderr = value.get("stdout", stdout), value.get("stderr", stderr)
    return ExecuteResult(value["id"], value["number"], value["input"], stdout, stderr, value["repr"])
