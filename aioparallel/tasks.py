"""Tasks as objects, made by clients and run on engines, and what they come to."""

from __future__ import annotations

import copy
import keyword
from collections.abc import Callable, Iterable, Mapping, Sequence
from reprlib import repr as short
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from aioparallel.conditions import called, check_of, flag
from aioparallel.errors import text_of

if TYPE_CHECKING:
    from aioparallel.namespace import Namespace

__all__ = ["MapTask", "StringTask", "Task", "TaskResult"]


class Task:
    """A piece of work for `tc.run`, with all that belongs to it. A subclass says in `run_on` what is to be done.

    Args:
        clear_before: Whether to forget all names on the engine before.
        clear_after: Whether to forget them after, also when it fails.
        retries: How often to try again after a failure, preferably elsewhere.
        recovery_task: What to run under the same id when it has failed for the last time.
        depend: A function of an engine's properties (`Properties`), or that and further arguments in a tuple: the task
            only runs on engines for which it returns something true.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: `retries` is negative.

    Attributes:
        clear_before, clear_after, retries, recovery_task, depend: As given.
    """

    # Also what a subclass has whose own `__init__` does not call this one.
    clear_before: bool = False
    clear_after: bool = False
    retries: int = 0
    recovery_task: Task | None = None
    depend: Any = None

    def __init__(
        self,
        *,
        clear_before: bool = False,
        clear_after: bool = False,
        retries: int = 0,
        recovery_task: Task | None = None,
        depend: Callable[..., Any] | Sequence[Any] | None = None,
    ) -> None:
        self.clear_before = flag("clear_before", clear_before)
        self.clear_after = flag("clear_after", clear_after)
        self.retries = retries
        self.recovery_task = recovery_task
        self.depend = depend
        self.validate()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"

    @property
    def label(self) -> str:
        """What `queue_status` and the like call it."""
        return type(self).__name__

    def validate(self) -> None:
        """Look at what was given; `tc.run` does so again, since all of it may be changed before that.

        Raises:
            TypeError: Something is of the wrong type.
            ValueError: `retries` is negative, or recovery tasks go round in a circle.
        """
        if not isinstance(self.retries, int) or isinstance(self.retries, bool):
            raise TypeError(f"retries is a number of further tries, not {self.retries!r}")
        if self.retries < 0:
            raise ValueError(f"retries is a number of further tries from 0 on, not {self.retries}")
        self.checks()
        seen: list[Task] = [self]
        while (after := seen[-1].recovery_task) is not None:
            if not isinstance(after, Task):
                raise TypeError(f"recovery_task is a Task, or None, not {after!r}")
            if any(after is known for known in seen):
                raise ValueError("a task can't be recovered by itself, not even after others")
            seen.append(after)

    def checks(self) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
        """Return what `depend` asks of an engine: functions, each with its arguments after the properties.

        Raises:
            TypeError: It is no function, nor a tuple that begins with one.
        """
        return [] if self.depend is None else [check_of(self.depend)]

    def for_engine(self) -> Self:
        """Return it without what is not the engine's affair: that need not travel."""
        bare = copy.copy(self)
        bare.depend = bare.recovery_task = None
        return bare

    def run_on(self, engine: Namespace) -> Any:
        """Do the work; called on the engine, between `clear_before` and `clear_after`.

        Args:
            engine: Where it runs. It has `push(values)`, `pull(names)`, `execute(code)`, `apply(f, args, kwargs)`,
                `keys()`, `reset()`, and its names as a dict: `names`.

        Returns:
            What `TaskResult.results` is going to be. A coroutine is awaited.

        Raises:
            TaskRejectError: This is not the engine for it: it is given to another one.
            BaseException: Whatever happens to the work.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say in `run_on` what is to be done")


class StringTask(Task):
    """Code for an engine, with values that are set there before, and names whose values are wanted after.

    On the engine, in this order: `clear_before`, `push`, the code, `pull`, `clear_after`.

    Args:
        expression: The code; any number of statements.
        pull: The name, or the names, whose values the result has.
        push: Values by name.
        options: As for `Task`.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: A name that no variable can have.

    Attributes:
        expression, pull, push: As given; `pull` as a list.
    """

    def __init__(
        self,
        expression: str,
        pull: str | Iterable[str] | None = None,
        push: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(expression, str):
            raise TypeError(f"a StringTask is made of code as a str, not of {expression!r}; for a function: MapTask(f)")
        if push is not None and not isinstance(push, Mapping):
            raise TypeError(f"push is a dict of values by name, not {push!r}")
        self.expression = expression
        self.pull = _names("pull", [pull] if isinstance(pull, str) else pull or ())
        self.push = dict(push or {})
        _names("push", self.push)
        super().__init__(**options)

    @property
    def label(self) -> str:
        """The first line of its code."""
        return next(iter(self.expression.strip().splitlines()), "").strip()[:80]

    def run_on(self, engine: Namespace) -> dict[str, Any]:
        """Push, execute, pull; return the values by name."""
        if self.push:
            engine.push(self.push)
        engine.execute(self.expression)
        return dict(zip(self.pull, engine.pull(self.pull), strict=True))


class MapTask(Task):
    """A call of a function.

    Args:
        function: What is called. A coroutine that it returns is awaited.
        args: Its arguments.
        kwargs: The same, by name.
        options: As for `Task`.

    Raises:
        TypeError: An argument of the wrong type.

    Attributes:
        function, args, kwargs: As given; `args` as a tuple.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if not callable(function):
            raise TypeError(f"{function!r} can't be called; for code: StringTask('…')")
        if isinstance(args, str | bytes) or not isinstance(args, Iterable):
            raise TypeError(f"args are the arguments in a tuple, not {args!r}")
        if kwargs is not None and not isinstance(kwargs, Mapping):
            raise TypeError(f"kwargs is a dict of arguments by name, not {kwargs!r}")
        self.function = function
        self.args = tuple(args)
        self.kwargs = dict(kwargs or {})
        super().__init__(**options)

    @property
    def label(self) -> str:
        """The function's name."""
        return called(self.function)[:80]

    def run_on(self, engine: Namespace) -> Any:
        """Call the function; return what it returns."""
        return engine.apply(self.function, self.args, self.kwargs)


class TaskResult:
    """What came of a task: `result.results`, `result.ns.a`, `result['a']`, or `result.failure`.

    Asking one that failed for what it came to raises its failure. Times are wall clock, seconds.

    Attributes:
        taskid: The task's id; None if it has none.
        engineid: The engine that ran it last; None if none did.
        failure: What it raised, or why it did not run; None if all is well.
        submitted, completed: When the controller took it in, and when it ended; None if unknown.
        started: When the engine began it the last time; None if none did to the end.
        duration: How long it ran then, seconds.
        stdout, stderr: What it wrote then.
    """

    def __init__(
        self,
        taskid: int | None,
        engineid: int | None,
        results: Any = None,
        failure: BaseException | None = None,
        *,
        submitted: float | None = None,
        started: float | None = None,
        completed: float | None = None,
        duration: float | None = None,
        stdout: str = "",
        stderr: str = "",
    ) -> None:
        self.taskid = taskid
        self.engineid = engineid
        self._results = results
        self.failure = failure
        self.submitted = submitted
        self.started = started
        self.completed = completed
        self.duration = duration
        self.stdout = stdout
        self.stderr = stderr

    #: Without this Python would try `self[0]`.
    __iter__: ClassVar[None] = None

    def __repr__(self) -> str:
        name = "a task" if self.taskid is None else f"task {self.taskid}"
        where = "" if self.engineid is None else f" on engine {self.engineid}"
        took = "" if self.duration is None else f" in {self.duration:.3g} s"
        if self.failure is None:
            return f"<TaskResult of {name}{where}{took}: {short(self._results)}>"
        text = text_of(self.failure).strip().partition("\n")[0][:200]
        return f"<TaskResult of {name}{where}{took}: failed, {type(self.failure).__name__}: {text}".rstrip(": ") + ">"

    def raise_exception(self) -> None:
        """Raise its failure, if it has one.

        Raises:
            BaseException: That.
        """
        if self.failure is not None:
            raise self.failure

    @property
    def results(self) -> Any:
        """What it came to: of a StringTask a dict of the values it pulled, else what the function or `run_on` returned.

        Raises:
            BaseException: Its failure.
        """
        self.raise_exception()
        return self._results

    @property
    def ns(self) -> SimpleNamespace:
        """The values that were pulled, as attributes: `result.ns.a`.

        Raises:
            TypeError: It came to something else than values by name.
            BaseException: Its failure.
        """
        return SimpleNamespace(**self._named())

    def keys(self) -> list[str]:
        """Return the names of the values that were pulled.

        Raises:
            TypeError: It came to something else than values by name.
            BaseException: Its failure.
        """
        return list(self._named())

    def __getitem__(self, name: str) -> Any:
        named = self._named()
        if name not in named:
            raise KeyError(f"{name!r} was not pulled; what was: {', '.join(map(repr, named)) or 'nothing'}")
        return named[name]

    def __contains__(self, name: object) -> bool:
        return name in self._named()

    def _named(self) -> Mapping[str, Any]:
        results = self.results
        if not isinstance(results, Mapping) or not all(isinstance(name, str) for name in results):
            raise TypeError(f"this task came to {short(results)}, not to values by name: see its `results`")
        return results


def _names(what: str, names: Any) -> list[str]:
    if not isinstance(names, Iterable):
        raise TypeError(f"{what} takes names, not {names!r}")
    listed = list(names)
    for name in listed:
        if not isinstance(name, str):
            raise TypeError(f"{what} takes names, each a str, not {name!r}")
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{what}: {name!r} is no name that a variable can have")
    return listed
