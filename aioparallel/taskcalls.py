"""What can be asked of the Task interface: the same methods for both faces."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aioparallel.errors import InvalidTaskID, TaskAborted
from aioparallel.options import TaskOptions
from aioparallel.receipt import FINISHED, WAITING, Receipt, TaskReply
from aioparallel.reply import Reply
from aioparallel.settling import fail, plain_value
from aioparallel.submitting import Submitting, WithOptions
from aioparallel.wire import Frame

__all__ = ["TaskCalls"]


class TaskCalls(Submitting):
    """What can be asked of the Task interface; the same for both faces.

    A task is told by its future, or by its id: a number that `run` gives. Where a method has `block`, that is for the
    blocking face; the asyncio face gives something to await.

    Errors, unless a method says more: what user code raised, as itself, with the remote traceback as a note;
    `SerializationError` for an argument that can't be sent; `TaskPoisoned` when kernel after kernel died while it ran
    the task; `TaskTimeout`; `TaskAborted`; `DependencyError`; `ConnectionLost`.
    """

    # What a face provides.
    _operate: Callable[..., Any]
    _given: Callable[[Any, bool | None], Any]
    _wait_for_all: Callable[..., Any]
    _check_block: Callable[[bool | None], None]
    _in_order_of_ends: Callable[[list[Any], float | None], Any]

    def options(
        self,
        *,
        retries: int = 0,
        timeout: float | None = None,
        priority: int = 0,
        after: Any = None,
        follow: Any = None,
        depend: Callable[..., Any] | Sequence[Any] | None = None,
        depend_timeout: float = 60.0,
        at_most_once: bool = False,
        label: str | None = None,
        engines: int | Iterable[int] | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> WithOptions:
        """Return what has this client's `submit`, `map`, `run`, `mapper` and `parallel`, with these options.

        Args:
            retries: How often a task is tried again that fails, preferably on another engine.
            timeout: Seconds that it may run. At their end it is interrupted, terminated, or killed together with its
                kernel, whatever is needed, and fails with `TaskTimeout`.
            priority: Tasks of higher priority go first, also before those of other clients.
            after: Tasks that must have ended before: an id, a future, several of them, or a `Dependency`, which says
                whether all or any of them count, and whether success or failure.
            follow: The same, and it runs on the engine where they ran.
            depend: A function of an engine's properties, or that and more arguments in a tuple; it is called on the
                engine, and if what it returns is not true the task goes to another one.
            depend_timeout: Seconds to look for an engine that does not refuse it, from the first refusal on.
            at_most_once: Never run it again: it fails with `EngineLost` if its engine is lost when it may have begun.
            label: What it is called where tasks are shown; the name of the function unless given.
            engines: The only engines where it may run.
            resources: How much it takes of what engines have, by name, as long as it is there: `{"gpu": 1}`.

        Raises:
            TypeError: One of them is of a wrong type.
            ValueError: One of them has a value that can't be, or two exclude each other.
        """
        chosen = TaskOptions(
            retries=retries,
            timeout=timeout,
            priority=priority,
            after=after,
            follow=follow,
            depend=depend,
            depend_timeout=depend_timeout,
            at_most_once=at_most_once,
            label=label,
            engines=engines,
            resources=resources,
        )
        return WithOptions(self, chosen)

    def get_task_result(self, task: int, block: bool = False) -> Any:
        """Return the `TaskResult` of a task that was submitted with `run`, by whichever client.

        It is delivered once; until then it is kept as long, and as far, as the controller's bounds allow.

        Args:
            task: Its id.
            block: Whether to wait for the task to end. If not, None stands for one that has not.

        Raises:
            InvalidTaskID: There is no such task.
            ResultGone: Its result is not kept any more; the text says why.
        """
        return self._deliver(self._ask_for_result(_id(task), block=bool(block)), True)

    def abort(self, task: Any, block: bool | None = None) -> Any:
        """Take a task back where it waits, or end it where it runs; return a `Receipt` when that is done.

        Its future, and whoever asks for its result, gets `TaskAborted`.

        Args:
            task: Its id or its future.
            block: Whether to wait (blocking face).

        Raises:
            InvalidTaskID: There is no such task.
        """
        if isinstance(task, TaskReply):
            if task.done():
                return self._given(FINISHED, block)
            if not self._is_sent(task):
                if fail(task, TaskAborted("it was taken back before it was sent", step=WAITING.step)):
                    return self._given(WAITING, block)
                return self._given(FINISHED, block)
        return self._ask("abort", _receipt, task, block)

    def why(self, task: Any, block: bool | None = None) -> Any:
        """Return in one sentence why a task does not run, or where it is.

        Args:
            task: Its id or its future.
            block: Whether to wait (blocking face).

        Raises:
            InvalidTaskID: There is no such task.
        """
        if isinstance(task, TaskReply):
            if task.done():
                return self._given("it was cancelled" if task.cancelled() else "it has ended", block)  # type: ignore[attr-defined]
            if not self._is_sent(task):
                return self._given("it waits in this program for results that only that knows of", block)
        return self._ask("why", plain_value, task, block)

    def barrier(self, tasks: Any = None, timeout: float | None = None) -> Any:
        """Wait until tasks have ended, well or badly; it does not count as asking for their results.

        Args:
            tasks: An id or a future, or several; None: all that this client has futures of, and all that were given to
                `run` by whoever has its capability.
            timeout: Seconds to wait at most.

        Raises:
            InvalidTaskID: There is no task with one of the ids.
            TimeoutError: They took longer. They go on.
            TypeError: Something else than ids and futures.
        """
        listed = self.channel.under_way(TaskReply) if tasks is None else _listed(tasks)
        futures = [task for task in listed if not isinstance(task, int)]
        for future in futures:
            if not isinstance(future, Reply):
                raise TypeError(f"barrier waits for tasks, told by their ids or futures, not for {future!r}")
        ids = None if tasks is None else list(dict.fromkeys(_id(task) for task in listed if isinstance(task, int)))
        asked = None
        if ids is None or ids:
            asked = self._begin("barrier", plain_value, header=json.dumps({"tasks": ids}).encode())
        return self._wait_for_all(futures, timeout, asked)

    def spin(self, block: bool | None = None) -> Any:
        """Take in what has arrived: whatever had ended before is known here when it returns."""
        return self._operate("spin", block, _nothing)

    def clear(self, tasks: int | Iterable[int] | None = None, block: bool | None = None) -> Any:
        """Have the controller forget tasks that have ended, and their results; return how many it has forgotten.

        Args:
            tasks: Their ids; None: all that have ended.
            block: Whether to wait (blocking face).

        Raises:
            InvalidTaskID: There is no task with one of the ids.
            TypeError: Something else than ids.
        """
        ids = None if tasks is None else [_id(task) for task in _listed(tasks)]
        return self._operate("clear", block, tasks=ids)

    def queue_status(self, verbose: bool = False, block: bool | None = None) -> Any:
        """Return how many tasks there are of all clients: a dict with `scheduled`, `pending`, `succeeded`, `failed`.

        Each is in exactly one of these: it waits, is at an engine, or has ended well or badly.

        Args:
            verbose: Whether to return their ids in place of their numbers (the newest 1,000 at most), and besides as
                `held` how many results are kept, and how many bytes they take.
            block: Whether to wait (blocking face).
        """
        return self._operate("queue_status", block, verbose=bool(verbose))

    def as_completed(self, futures: Iterable[Any], timeout: float | None = None) -> Any:
        """Iterate over futures in the order in which they end; with `async for` on the asyncio face.

        Args:
            futures: Those; each is given once.
            timeout: Seconds to wait at most, from the first step on, for all of them.

        Raises:
            TimeoutError: They took longer. They go on.
            TypeError: One of them is no future of this face.
        """
        return self._in_order_of_ends(list(dict.fromkeys(futures)), timeout)

    def _is_sent(self, task: TaskReply) -> bool:
        """Whether the controller knows a task that has not ended.

        Raises:
            TypeError: It is one of another client.
        """
        if task._channel not in (None, self.channel):
            raise TypeError(f"{task!r} is of another client: ask that one")
        return task._channel is not None

    def _ask(self, operation: str, finish: Callable[[list[Frame]], Any], task: Any, block: bool | None) -> Any:
        """Ask something about one task."""
        self._check_block(block)
        called = task.number if isinstance(task, TaskReply) else None
        about = {"task": _id(task)} if called is None else {"call": called}
        behind = () if called is None else (called,)
        return self._deliver(self._begin(operation, finish, header=json.dumps(about).encode(), behind=behind), block)


def _listed(tasks: Any) -> list[Any]:
    """Return tasks as they were given, one or several; what is no task is looked at by whoever uses it."""
    one = isinstance(tasks, int | Reply | str) or not isinstance(tasks, Iterable)
    return [tasks] if one else list(tasks)


def _id(task: Any) -> int:
    """Return the id of a task.

    Raises:
        TypeError: It is none.
        InvalidTaskID: It is one that no task can have.
    """
    if not isinstance(task, int) or isinstance(task, bool):
        raise TypeError(f"a task is told by its id or by its future, not by {task!r}")
    if task < 0:
        raise InvalidTaskID(f"there is no task {task}: ids are numbers from 0 on")
    return task


def _receipt(frames: list[Frame]) -> Receipt:
    """Read how a task has ended that was aborted."""
    answer = plain_value(frames)
    return Receipt(answer["step"], answer["seconds"])


def _nothing(frames: list[Frame]) -> None:
    plain_value(frames)
