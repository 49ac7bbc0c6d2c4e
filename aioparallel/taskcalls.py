"""What can be asked of the Task interface: the same methods for both faces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioparallel.channel import Finish, serializer
from aioparallel.results import NAMES, name_of, value_of
from aioparallel.wire import Frame

__all__ = ["TaskCalls"]


class TaskCalls:
    """What can be asked of the Task interface; the same for both faces.

    Errors, unless a method says more: what user code raised, as itself, with the remote traceback as a note;
    `SerializationError` for an argument that can't be sent; `EngineDied` when three kernels died while they ran
    the task; `ConnectionLost`.
    """

    # What a face provides.
    _begin: Callable[..., Any]
    _engine_count: Callable[[], int]

    def submit(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run `f(*args, **kwargs)` on whichever engine is free; return its future.

        A function that can't be imported on the engine is captured now: its globals and closure as they are.
        Cancelling the future drops the task where it waits, or interrupts it where it runs.
        """
        if not callable(f):
            raise TypeError(f"{f!r} can't be called")
        return self._task(("apply", f, args, kwargs), _value, label=name_of(f))

    def _task(self, call: tuple[Any, ...], finish: Finish, *, label: str) -> Any:
        buffers = serializer().pack(call, name=NAMES[call[0]])
        return self._begin("submit", finish, header=label.encode(), buffers=buffers)


def _value(frames: list[Frame]) -> Any:
    return value_of(frames[-1], "submit")
