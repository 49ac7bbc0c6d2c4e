"""What the faces' results have in common: callbacks, metadata, being forgotten unread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from aioparallel.errors import InvalidDeferredID
from aioparallel.output import Watch
from aioparallel.reference import Promise
from aioparallel.wire import RESULT_META, TRIED, Buffer, Status

__all__ = ["CallInfo", "Reply", "Unread", "what_was_written"]

Brief: TypeAlias = tuple[int, int, Buffer]
Step: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

#: Held for the few instructions in which a callback is added or taken, never while one runs.
_stepping = threading.Lock()


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What is known about a call on one engine. Times are those of the wall clock of whoever took them, seconds.

    Attributes:
        engine: Which.
        submitted: When the client made the call.
        started, completed: When the engine began and ended it; None if it did not run to its end there.
        attempt: Which try this was, from 1; more than 1 only for a task that failed before, or whose engines died.
        stdout, stderr: What it wrote.
    """

    engine: int
    submitted: float
    started: float | None
    completed: float | None
    attempt: int
    stdout: str
    stderr: str


def what_was_written(header: Buffer) -> tuple[float, float, str, str]:
    """Return what a kernel's header says about a command: when it began, how long it ran, its stdout and stderr."""
    started, seconds, length = RESULT_META.unpack_from(header)
    end = RESULT_META.size + length
    stdout, stderr = bytes(header[RESULT_META.size : end]), bytes(header[end:])
    return started, seconds, stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace")


class Unread:
    """What the results of one client share that nobody has asked for, from one `flush` to the next.

    Attributes:
        forgotten: Whether they have been flushed.
    """

    __slots__ = ("forgotten",)

    def __init__(self) -> None:
        self.forgotten = False

    def __repr__(self) -> str:
        return f"<Unread results{', forgotten' if self.forgotten else ''}>"


class Reply(Promise):
    """The result of a call, on its way or there: what a `Handle` and a `PendingResult` are besides futures.

    Attributes:
        submitted: When the call was made: wall clock, seconds.
        answers: What the engines' answers were, without their payload: one `Frame.brief`, or a list of several.
        targets: In which order the engines were named; None: by id.
        bare: Whether one engine answers for itself, not in a list: as a task's does, and that of a view of one.
        unread: Shared by those that nobody has asked for; None when somebody has, or they can't be flushed.
    """

    submitted: float = 0.0
    answers: Brief | list[Brief] | None = None
    targets: Sequence[int] | None = None
    bare: bool = True
    unread: Unread | None = None
    #: What the call writes, once somebody watches.
    written: Watch | None = None
    _channel: Any = None
    _number: int | tuple[int, ...] = 0
    #: Callbacks that have not been called, and the thread that calls them.
    _steps: deque[Step] | None = None
    _stepper: int = 0

    # What a face provides.
    done: Callable[[], bool]
    forget: Callable[[], None]
    _value: Callable[[], tuple[bool, Any]]
    _change: Callable[[Any, BaseException | None], None]

    @property
    def number(self) -> int:
        """The call's number; there is no other of it among this client's."""
        return self._number[0] if isinstance(self._number, tuple) else self._number

    def sent(self, channel: Any, number: int | tuple[int, ...]) -> None:
        """Note which call of which `Channel`, or which several that are one, this is the result of."""
        self._channel = channel
        self._number = number

    def _expect_steps(self) -> None:
        """There is going to be a callback."""

    @property
    def metadata(self) -> Any:
        """What is known about the call, when it has ended: a list of `CallInfo`, one an engine, in target order.

        A task, and the view of a single engine, give the bare record. Calls that raised have it too. An engine that
        did not answer (the call was withdrawn, the connection lost) has none: the list is shorter, the bare one None.

        Raises:
            RuntimeError: The call has not ended.
        """
        if not self.done():
            raise RuntimeError("a call's metadata is there when the call has ended")
        answers = getattr(self, "answers", None)
        briefs = answers if isinstance(answers, list) else [answers] if answers else []
        found = [info for brief in briefs if (info := self._info(*brief)) is not None]
        if self.bare:
            return found[-1] if found else None
        order = {target: place for place, target in enumerate(self.targets or ())}
        return sorted(found, key=lambda info: order.get(info.engine, info.engine))

    def _info(self, engine: int, code: int, header: Buffer) -> CallInfo | None:
        tried, status = divmod(code, TRIED)
        if status in (Status.OK, Status.ERROR) and len(header) >= RESULT_META.size:
            started, seconds, stdout, stderr = what_was_written(header)
            return CallInfo(engine, self.submitted, started, started + seconds, tried + 1, stdout, stderr)
        # The controller's own word: about an engine, or about the call as a whole.
        about_engine = engine != 0xFFFF and status != Status.OK
        return CallInfo(engine, self.submitted, None, None, tried + 1, "", "") if about_engine else None

    def arrived(self) -> tuple[Any] | None:
        """Return the value, in a tuple; None if it is not there, or never will be. It then counts as asked for."""
        self._ask()
        good, value = self._value() if self.done() else (False, None)
        return (value,) if good else None

    def add_callback(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Call `f(value, *args, **kwargs)` with the value; what it returns is the value from then on.

        Callbacks are called once each, in the order in which they were added, in the thread that takes the answers
        in; one that is added after the end, at once. They are for short work: answers wait meanwhile. What one raises
        is the error from then on. After an error, and when cancelled, the (further) ones are not called. To wait in
        one for a result raises `RuntimeError`.

        Args:
            f: What to call.
            *args: What it is given besides the value.
            **kwargs: The same, by name.

        Raises:
            TypeError: `f` can't be called.
        """
        if not callable(f):
            raise TypeError(f"{f!r} can't be called")
        self._ask()
        self._expect_steps()
        with _stepping:
            if self._steps is None:
                self._steps = deque()
            self._steps.append((f, args, kwargs))
        # If it is not done, whoever finishes it looks for steps before that and after.
        if self.done():
            self._follow()

    def _through(self, value: Any) -> Any:
        """Return what the callbacks make of the value that has just arrived, or raise what they raise."""
        steps = self._steps
        assert steps is not None
        self._stepper = threading.get_ident()
        try:
            while steps and not self.done():
                f, args, kwargs = steps.popleft()
                value = f(value, *args, **kwargs)
            return value
        finally:
            self._stepper = 0

    def _follow(self) -> None:
        """Call the callbacks that were added too late for `_through`."""
        with _stepping:
            if self._stepper:
                return  # whoever calls them comes to the new ones too
            self._stepper = threading.get_ident()
        while (step := self._next_step()) is not None:
            value, (f, args, kwargs) = step
            try:
                self._change(f(value, *args, **kwargs), None)
            except BaseException as error:
                self._change(None, error)

    def _next_step(self) -> tuple[Any, Step] | None:
        with _stepping:
            good, value = self._value()
            if good and self._steps:
                return value, self._steps.popleft()
            self._steps = None
            self._stepper = 0
            return None

    def _check_not_in_callback(self) -> None:
        """Refuse to wait in one of its own callbacks.

        Raises:
            RuntimeError: This is one.
        """
        if self._stepper == threading.get_ident():
            raise RuntimeError("a callback can't wait for the result that it is called with: its first argument is it")

    def _ask(self) -> None:
        """Somebody wants the value: from here on it is not flushed; if it has been, forget it."""
        unread, self.unread = self.unread, None
        if unread is not None and unread.forgotten:
            self.forget()

    @staticmethod
    def _forgotten() -> InvalidDeferredID:
        return InvalidDeferredID("flush() has forgotten this result: it had not been asked for")
