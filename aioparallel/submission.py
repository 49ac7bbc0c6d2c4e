"""A task on its way to the controller: which others it names, when it leaves, what its answers say."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from aioparallel.channel import Channel, serializer
from aioparallel.conditions import Dependency
from aioparallel.errors import DependencyError, TaskAborted, from_plain
from aioparallel.options import Check, TaskOptions
from aioparallel.receipt import TaskReply
from aioparallel.results import NAMES, outputs, value_of
from aioparallel.settling import Finish, Postponed, fail
from aioparallel.tasks import Task, TaskResult
from aioparallel.wire import Buffer, Frame, Status

__all__ = ["Submission", "result_in", "value_in"]


class Submission:
    """One task on its way, for as long as it may have to be sent.

    A task may name others by their futures. Those that the controller has not answered it knows by the number of their
    call. One that has ended here is named no more: its value goes along, or its end is judged here. If both happen at
    once, and the controller has just forgotten it, the task waits here for the answer, and is sent again.

    Args:
        channel: Where it is sent.
        future: What its answer settles.
        operation: Which takes it.
        call: The verb for the engine, and its arguments.
        finish: Makes its value.
        label: What people read of it.
        options: Its options.
        checks: What an engine is asked before.
        recovery: What runs when it has failed.
    """

    def __init__(
        self,
        channel: Channel,
        future: Any,
        operation: str,
        call: tuple[Any, ...],
        finish: Finish,
        *,
        label: str,
        options: TaskOptions,
        checks: Sequence[Check] = (),
        recovery: Task | None = None,
    ) -> None:
        self.future = future
        self._channel = channel
        self._operation = operation
        self._finish = finish
        self._label = (options.label or label)[:80]
        self._options = options
        self._command, self._names = command(call, checks)
        self._checked = bool(checks)
        self._recovery = recovery
        #: The futures that it names, by the numbers of their calls.
        self._parents: dict[int, TaskReply] = {}

    def __repr__(self) -> str:
        return f"<Submission of {self._label}>"

    def send(self, packed: tuple[list[Buffer], list[Any]] | None = None) -> None:
        """Send it; or have it wait for futures that only this program knows; or fail it, if it can't begin.

        Args:
            packed: Its payload and the futures in it, if that has been packed.

        Raises:
            SerializationError: It can't be packed.
            TypeError: It is to wait for the future of something else than a task.
            MessageTooLarge, ConnectionLost: As `Channel.call`.
        """
        while not self.future.done():
            buffers, arguments = packed or self._pack()
            packed = None
            unknown = [future for future in self._named(arguments) if self._call_of(future) is None]
            if self._wait_for(unknown):
                return
            try:
                header = self._header(arguments)
            except _Unmet as unmet:
                error = DependencyError(f"{self._label} can't run: {unmet}")
                error.__cause__ = unmet.__cause__
                fail(self.future, error)
                return
            if header is not None:
                self._leave(header, buffers)
                return

    def _pack(self) -> tuple[list[Buffer], list[Any]]:
        outcomes: list[Any] = []
        return serializer().pack(self._command, name=self._names, outcomes=outcomes), outcomes

    def _named(self, arguments: Sequence[Any]) -> list[Any]:
        """Return all futures that it names."""
        named = list(arguments)
        for name in ("after", "follow"):
            dependency = getattr(self._options, name)
            for task in dependency.tasks if dependency is not None else ():
                if isinstance(task, TaskReply):
                    named.append(task)
                elif not isinstance(task, int):
                    raise TypeError(f"{name} takes ids and futures of tasks, which {task!r} is not")
        return named

    def _call_of(self, future: Any) -> int | None:
        return future.call_on(self._channel) if isinstance(future, TaskReply) else None

    def _wait_for(self, futures: Iterable[Any]) -> bool:
        """Go on when all of them have ended; False if they have."""
        for future in futures:
            if not future.done():
                # One after the other: it can't go on before the last of them in any case.
                self._channel.waiting[self.future] = None
                future.add_done_callback(functools.partial(self._go_on, futures))
                return True
        self._channel.waiting.pop(self.future, None)
        return False

    def _go_on(self, futures: Iterable[Any], _: object = None) -> None:
        try:
            if not self._wait_for(futures):
                self.send()
        except Exception as error:
            fail(self.future, error)

    def _header(self, arguments: Sequence[Any]) -> dict[str, Any] | None:
        """Return what the controller is told; None if an argument has arrived by now.

        Raises:
            _Unmet: It can't begin any more.
        """
        self._parents = {}
        header: dict[str, Any] = {"label": self._label, **self._options.plain()}
        if self._checked:
            header["properties"] = True
        if arguments:
            header["arguments"] = []
            for future in arguments:
                if future.done():
                    if (error := _error_of(future)) is not None:
                        raise _Unmet("a task whose value it is to be given has failed") from error
                    return None
                header["arguments"].append(self._parent(future))
        if self._options.after is not None:
            _add(header, "after", _judge(self._options.after)[0], self._options.after, self._parent)
        if self._options.follow is not None:
            left, places = _judge(self._options.follow)
            if places:
                header["engines"] = self._places(places)
            _add(header, "follow", left, self._options.follow, self._parent)
        return header

    def _parent(self, task: Any) -> dict[str, int]:
        """Return a task as the controller is told of it."""
        if isinstance(task, int):
            return {"task": task}
        number = self._call_of(task)
        if number is None:
            # It has ended since it was looked at: the answer will be that it is not known, and then it is judged here.
            number = task.number
        self._parents[number] = task
        return {"call": number}

    def _places(self, places: dict[int, None]) -> list[int]:
        """Return the engines where tasks ran that it follows, and where it may run besides.

        Raises:
            _Unmet: There is none.
        """
        where = ", ".join(map(str, places))
        if self._options.follow.all and len(places) > 1:
            raise _Unmet(f"it follows tasks that ran on several engines: {where}")
        allowed = self._options.engines
        chosen = [place for place in places if place in self._channel.engines and (not allowed or place in allowed)]
        if not chosen:
            raise _Unmet(f"it follows tasks that ran on engine {where}, which it can't run on")
        return chosen

    def _leave(self, header: dict[str, Any], buffers: list[Buffer]) -> None:
        if self._recovery is not None:
            header["recovery"], more = recovery_of(self._recovery)
            buffers = [*buffers, *more]
        # Whoever names no future of ours need not be kept: it will not be sent again.
        finish = self._answered if self._parents else self._finish
        channel, future = self._channel, self.future
        number = channel.call(
            self._operation, future, finish, header=plain_header(header), buffers=buffers, behind=tuple(self._parents)
        )
        future.sent(channel, number)
        if future.done():
            # Cancelled in another thread, when nobody had sent anything yet.
            channel.withdraw(number)

    def _answered(self, frames: list[Frame]) -> Any:
        """Make the value, or send it again.

        Raises:
            Postponed: It is sent again.
        """
        if frames[-1].code == Status.FAULT and len(frames) == 1:
            plain = frames[-1].json()
            delivered = plain.get("calls") if plain.get("error") == "ParentsDelivered" else None
            futures = [self._parents[number] for number in delivered or () if number in self._parents]
            if futures:
                self.future.sent(None, 0)
                self._go_on(futures)
                raise Postponed
        return self._finish(frames)


class _Unmet(Exception):
    """What a task depends on can't be any more; its cause is what the task raised that decided this."""


def _add(header: dict[str, Any], name: str, left: Sequence[Any], dependency: Dependency, parent: Any) -> None:
    """Tell the controller of what is left of a dependency."""
    if left:
        told: dict[str, Any] = {"of": [parent(task) for task in left]}
        for flag, otherwise in (("all", True), ("success", True), ("failure", False)):
            if (value := getattr(dependency, flag)) is not otherwise:
                told[flag] = value
        header[name] = told


def _judge(dependency: Dependency) -> tuple[list[Any], dict[int, None]]:
    """Look at those of a dependency's tasks that have ended here.

    Returns:
        What the rest of it depends on; and on which engines those ran that count, in order.

    Raises:
        _Unmet: It can't be met any more.
    """
    left: list[Any] = []
    places: dict[int, None] = {}
    met, cause = False, None
    for task in dependency.tasks:
        if isinstance(task, int) or not task.done():
            left.append(task)
            continue
        error = _error_of(task)
        if dependency.success if error is None else dependency.failure:
            met = True
            if (about := task.metadata) is not None:
                places[about.engine] = None
        elif dependency.all:
            raise _unmet(error)
        else:
            cause = error
    if not dependency.all:
        if met:
            return [], places
        if not left and dependency.tasks:
            raise _unmet(cause)
    return left, places


def _unmet(error: BaseException | None) -> _Unmet:
    text = "a task that it depends on has failed" if error else "a task that was to fail before has succeeded"
    unmet = _Unmet(text)
    unmet.__cause__ = error
    return unmet


def _error_of(future: Any) -> BaseException | None:
    """Return why a task has failed that has ended, or None."""
    if future.cancelled():
        receipt = getattr(future, "receipt", None)
        about = {"step": receipt.step, "seconds": receipt.seconds} if receipt else {}
        return TaskAborted("it was cancelled", **about)
    error: BaseException | None = future.exception()
    return error


def command(call: tuple[Any, ...], checks: Sequence[Check]) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """Return what an engine is told, and what its parts are called when one can't be sent."""
    if not checks:
        return call, NAMES[call[0]]
    return ("attempt", list(checks), *call), ("verb", "depend", *NAMES[call[0]])


def plain_header(header: dict[str, Any]) -> bytes:
    """Return what the controller is told as it travels."""
    return json.dumps(header).encode()


def recovery_of(task: Task) -> tuple[dict[str, Any], list[Buffer]]:
    """Return a recovery task as the controller is told of it, and its payload.

    Raises:
        SerializationError: It can't be packed.
    """
    checks = task.checks()
    told, names = command(("perform", task.for_engine()), checks)
    buffers: list[Buffer] = serializer().pack(told, name=names)
    header: dict[str, Any] = {"label": task.label}
    if task.retries:
        header["retries"] = task.retries
    if checks:
        header["properties"] = True
    if task.recovery_task is not None:
        header["recovery"], more = recovery_of(task.recovery_task)
        buffers = [*buffers, *more]
    return {**header, "buffers": len(buffers)}, buffers


def value_in(frames: list[Frame], method: str) -> Any:
    """Return the value in a task's answers.

    Raises:
        DependencyError: It did not run; the cause is the error of the task, or the engine, that decided this.
        BaseException: What it raised.
    """
    if len(frames) == 1:
        return value_of(frames[0], method)
    error = from_plain(frames[0].json())
    try:
        if frames[-1].code != Status.OK:
            value_of(frames[-1], method)
    except Exception as cause:
        raise error from cause
    raise error


def result_in(frames: list[Frame]) -> TaskResult | None:
    """Read what is kept of a task; None: it has not ended.

    Raises:
        ParallelError: What the controller said instead.
    """
    first = frames[0]
    if first.code == Status.FAULT:
        raise from_plain(first.json())
    about = first.json()
    if about is None:
        return None
    results, failure = None, None
    try:
        results = value_in(frames[1:], "run")
    except Exception as error:
        failure = error
    ran = len(frames) == 2 and frames[1].code in (Status.OK, Status.ERROR)
    started, seconds, stdout, stderr = outputs(frames[1]) if ran else (None, None, "", "")
    return TaskResult(
        about["task"],
        about["engine"],
        results,
        failure,
        submitted=about["submitted"],
        started=started,
        completed=about["completed"],
        duration=seconds,
        stdout=stdout,
        stderr=stderr,
    )
