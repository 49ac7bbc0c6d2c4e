"""The ways to give tasks away, the same for both faces: submit, map, run, and the options for them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any

from aioparallel.channel import Channel, serializer
from aioparallel.conditions import flag
from aioparallel.mapping import Mapper, Mapping, check_chunksize
from aioparallel.options import PLAIN, Check, TaskOptions
from aioparallel.progress import listener_for
from aioparallel.results import NAMES, name_of, value_of
from aioparallel.settling import Finish, plain_value
from aioparallel.submission import Submission, result_in, value_in
from aioparallel.tasks import Task
from aioparallel.wire import Buffer, Frame

__all__ = ["Submitting", "WithOptions"]


class Submitting:
    """The ways to give work away: the same for a client and for what its `options` returns."""

    #: On which terms.
    _options: TaskOptions = PLAIN

    # What a face provides.
    channel: Channel
    _begin: Callable[..., Any]
    _task_future: Callable[[], Any]
    _plain_future: Callable[[], Any]
    _make_room: Callable[[], None]
    _deliver: Callable[[Any, bool | None], Any]
    _conduct: Callable[..., Any]
    _engine_count: Callable[[], int]
    _values_of: Callable[[Mapping, bool], Any]
    _list_of: Callable[[Any], Any]
    #: Whether a terminal may be written to unasked.
    _shows: bool = False

    def submit(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run `f(*args, **kwargs)` on whichever engine is free; return its future.

        A function that can't be imported on the engine is captured now: its globals and closure as they are. `async
        def` functions are awaited there. Results on their way may stand anywhere in the arguments: the task begins when
        they are there, and is given the values, which go from engine to engine; if one fails, it fails with
        `DependencyError`. Cancelling the future takes the task back wherever it is (`receipt`).
        """
        if not callable(f):
            raise TypeError(f"{f!r} can't be called")
        return self._task(("apply", f, args, kwargs), _value, label=name_of(f))

    def map(
        self,
        f: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        ordered: bool = True,
        progress: Any = None,
    ) -> Any:
        """Call `f` on the items of the iterables, many at a time; return an iterator over the values.

        Like the builtin, up to the end of the shortest. It is for `for` on the blocking face and for `async for` on the
        asyncio one. Work starts at once. Input is consumed within a bounded window, so it may be infinite. Leaving the
        loop early withdraws the rest: at once when the iterator is closed, or when nobody has it any more.

        Args:
            f: What to call.
            iterables: As for the builtin `map`.
            chunksize: Items to a message; None adapts to how long they take.
            ordered: Whether values come in the order of the input, or as they are ready.
            progress: A function that is given a `Progress` whenever values come; True for a bar on stderr, which takes
                tqdm; None for a bar if this is the blocking face, stderr a terminal, and tqdm there; or False.

        Raises:
            TypeError: `f` can't be called; there are no iterables, or one of them is none; `ordered` is no bool.
            ValueError: `chunksize` is not a number from 1 on.
            ConfigurationError: There is no tqdm for a bar.
        """
        if not callable(f):
            raise TypeError(f"{f!r} can't be called")
        if not iterables:
            raise TypeError("map needs at least one iterable")
        check_chunksize(chunksize)
        flag("ordered", ordered)
        listener = listener_for(progress, name_of(f), shows=self._shows)
        return self._values_of(Mapping(self, f, iterables, chunksize, listener), ordered)

    def run(self, task: Task, block: bool | None = None) -> Any:
        """Submit a `StringTask`, a `MapTask`, or a `Task` of your own; return its id.

        The task belongs to nobody: it goes on when this client leaves, and any client of the same capability may ask
        for its result (`get_task_result`).

        Args:
            task: The task; what it says itself of retries and engines goes before this client's options.
            block: Whether to wait for it, and to return its `TaskResult` in place of the id.

        Raises:
            TypeError: It is no `Task`, or has an attribute of a wrong type.
            ValueError: It has an attribute that can't be.
        """
        if not isinstance(task, Task):
            raise TypeError(f"run takes a StringTask, a MapTask or another Task, not {task!r}; a function: submit(f)")
        task.validate()
        options = replace(self._options, retries=task.retries) if task.retries else self._options
        checks = [*task.checks(), *options.checks()]
        future = self._send(
            "run",
            ("perform", task.for_engine()),
            _task_id,
            task.label,
            options,
            checks=checks,
            recovery=task.recovery_task,
            future=self._plain_future(),
        )
        return self._conduct(self._result_of(future)) if block else self._deliver(future, True)

    def mapper(
        self, *, chunksize: int | None = None, ordered: bool = True, progress: Any = None, **options: Any
    ) -> Mapper:
        """Return an object whose `map(f, *iterables)` has these options, and those of `TaskClient.options`.

        Raises:
            TypeError, ValueError: As `map` and `options`.
        """
        check_chunksize(chunksize)
        flag("ordered", ordered)
        return Mapper(self._with(options), chunksize, ordered, progress)

    def parallel(self, *wrongly: Any, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Make a function of items one of iterables, with `@tc.parallel()`: `f(items)` is then the list of the values.

        On the asyncio face it is to be awaited. The options are those of `mapper`.

        Raises:
            TypeError: It was used without the parentheses, or on what can't be called; or as `mapper`.
            ValueError: As `mapper`.
        """
        if wrongly:
            raise TypeError("parallel is used with parentheses, and its options by name: @tc.parallel(chunksize=10)")
        mapper = self.mapper(**options)

        def decorate(f: Callable[..., Any]) -> Callable[..., Any]:
            if not callable(f):
                raise TypeError(f"{f!r} can't be called")

            @functools.wraps(f)
            def elementwise(*iterables: Iterable[Any]) -> Any:
                return self._list_of(mapper.map(f, *iterables))

            return elementwise

        return decorate

    def _with(self, options: dict[str, Any]) -> Submitting:
        return WithOptions(self, replace(self._options, **options)) if options else self

    def _task(self, call: tuple[Any, ...], finish: Finish, *, label: str) -> Any:
        if self._options is PLAIN:
            outcomes: list[Any] = []
            buffers = serializer().pack(call, name=NAMES[call[0]], outcomes=outcomes)
            if not outcomes:
                future = self._task_future()
                return self._begin("submit", finish, header=label.encode(), buffers=buffers, future=future)
            return self._send("submit_with", call, finish, label, PLAIN, packed=(buffers, outcomes))
        return self._send("submit_with", call, finish, label, self._options, checks=self._options.checks())

    def _send(
        self,
        operation: str,
        call: tuple[Any, ...],
        finish: Finish,
        label: str,
        options: TaskOptions,
        *,
        checks: Sequence[Check] = (),
        recovery: Task | None = None,
        packed: tuple[list[Buffer], list[Any]] | None = None,
        future: Any = None,
    ) -> Any:
        """Submit what is more than a call."""
        self._make_room()
        if future is None:
            future = self._task_future()
        Submission(
            self.channel,
            future,
            operation,
            call,
            finish,
            label=label,
            options=options,
            checks=checks,
            recovery=recovery,
        ).send(packed)
        return future

    def _result_of(self, future: Any) -> Generator[Any, Any, Any]:
        number = yield future
        return (yield self._ask_for_result(number, block=True))

    def _ask_for_result(self, number: int, *, block: bool) -> Any:
        header = json.dumps({"task": number, "block": block}).encode()
        return self._begin("get_task_result", result_in, header=header)


class WithOptions(Submitting):
    """The ways to give work away on certain terms; made by `TaskClient.options`.

    It has the client's `submit`, `map`, `run`, `mapper` and `parallel`.
    """

    def __init__(self, tasks: Submitting, options: TaskOptions) -> None:
        self._tasks = tasks
        self._options = options
        self.channel = tasks.channel
        self._begin = tasks._begin
        self._task_future = tasks._task_future
        self._plain_future = tasks._plain_future
        self._make_room = tasks._make_room
        self._deliver = tasks._deliver
        self._conduct = tasks._conduct
        self._engine_count = tasks._engine_count
        self._values_of = tasks._values_of
        self._list_of = tasks._list_of
        self._shows = tasks._shows

    def __repr__(self) -> str:
        return f"<{self._options!r} for {self._tasks!r}>"


def _value(frames: list[Frame]) -> Any:
    return value_of(frames[0], "submit") if len(frames) == 1 else value_in(frames, "submit")


def _task_id(frames: list[Frame]) -> int:
    number: int = plain_value(frames)["task"]
    return number
