"""What tasks ask of engines and of other tasks: `@require`, `@depend`, Dependency. Sans-I/O."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Coroutine, Iterable, Mapping
from reprlib import repr as short
from types import ModuleType
from typing import Any, ParamSpec, TypeAlias, TypeVar

from aioparallel.errors import TaskRejectError
from aioparallel.reference import Promise

__all__ = ["Dependency", "Properties", "called", "check_of", "depend", "flag", "reject_unless", "require"]

P = ParamSpec("P")
T = TypeVar("T")

#: What is noted about an engine, as the function that is given as `depend=` sees it.
Properties: TypeAlias = Mapping[str, Any]


def require(*needs: str | ModuleType | Callable[..., Any]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function one that is only called where all that it needs can be had: `@require("numpy")`.

    Before each call the needs are looked up where the call is made. If one is missing there the function is not called
    and `TaskRejectError` is raised, which has a task run elsewhere.

    Args:
        needs: Modules, by name or as they are, which are imported; functions and classes, which are looked up by name
            in the module they are of. Those of a script or a prompt are looked up among the names of the engine.

    Raises:
        TypeError: A need that has no name.
    """
    wanted = tuple([_need(need) for need in needs])

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        if not callable(function):
            raise TypeError(f"@require is for functions, not for {function!r}")

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            _look_up(wanted, called(function))
            return function(*args, **kwargs)

        return call

    return decorate


def depend(f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function one that is only called where `f(*args, **kwargs)` is true: `@depend(os.path.exists, "/data")`.

    `f` is called before each call, where that is made. If it returns something false the function is not called and
    `TaskRejectError` is raised, which has a task run elsewhere. What `f` itself raises goes on as it is.

    Args:
        f: The condition.
        args: What it is given.
        kwargs: The same, by name.

    Raises:
        TypeError: `f` can't be called.
    """
    if not callable(f):
        raise TypeError(f"@depend needs a function that says where to run, not {f!r}: @depend(f, *args, **kwargs)")

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        if not callable(function):
            raise TypeError(f"@depend is for functions, not for {function!r}")

        @functools.wraps(function)
        def call(*values: P.args, **named: P.kwargs) -> T:
            answer = f(*args, **kwargs)
            if isinstance(answer, Coroutine):
                answer.close()
                raise TypeError(f"@depend takes a plain function, and {called(f)} is asynchronous")
            reject_unless(answer, f, args, kwargs)
            return function(*values, **named)

        return call

    return decorate


def _look_up(needs: Iterable[tuple[str, str]], name: str) -> None:
    """Find all that a function needs: things by the name of their module, and that in it ("": the module itself).

    Raises:
        TaskRejectError: One is not to be had here.
    """
    for module, path in needs:
        try:
            found: Any = importlib.import_module(module)
            for part in path.split(".") if path else ():
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            wanted = f"{path} of {module}" if path else f"the module {module}"
            raise TaskRejectError(f"{name} requires {wanted}, which is not to be had here: {error}") from error


def reject_unless(answer: Any, f: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
    """Take an answer to the question whether this is the engine to run something.

    Raises:
        TaskRejectError: It is not; the text says what was asked.
    """
    if not answer:
        shown = ", ".join([*map(short, args), *(f"{key}={short(value)}" for key, value in kwargs.items())])
        raise TaskRejectError(f"{called(f)}({shown}) is {short(answer)} here")


class Dependency:
    """Tasks that another one waits for (`after=`), or runs beside (`follow=`), and how they have to end.

    Args:
        tasks: Ids or futures of tasks; one, or several.
        all: Whether all of them count, or any one.
        success: Whether it counts when one succeeds.
        failure: Whether it counts when one fails.

    Raises:
        TypeError: Something else than ids and futures; a flag that is no bool.
        ValueError: Neither success nor failure would count; a negative id.

    Attributes:
        tasks: Those, in a tuple.
        all, success, failure: As given.
    """

    __slots__ = ("all", "failure", "success", "tasks")

    def __init__(
        self,
        tasks: Any,
        all: bool = True,  # noqa: A002 (the name that people know)
        success: bool = True,
        failure: bool = False,
    ) -> None:
        listed = [tasks] if isinstance(tasks, int | Promise) else tasks
        if isinstance(listed, str | bytes) or not isinstance(listed, Iterable):
            raise TypeError(f"a Dependency is on ids or futures of tasks, not on {tasks!r}")
        # A set has no order that would be the same the next time.
        self.tasks = tuple(sorted(listed, key=_number) if isinstance(listed, set | frozenset) else listed)
        for task in self.tasks:
            if isinstance(task, bool) or not isinstance(task, int | Promise):
                raise TypeError(f"a Dependency is on ids or futures of tasks, not on {task!r}")
            if isinstance(task, int) and task < 0:
                raise ValueError(f"ids of tasks are numbers from 0 on, not {task}")
        self.all = flag("all", all)
        self.success = flag("success", success)
        self.failure = flag("failure", failure)
        if not (success or failure):
            raise ValueError("a Dependency on tasks that neither succeed nor fail would wait for ever")

    def __repr__(self) -> str:
        how = " or ".join([word for word, counts in (("success", self.success), ("failure", self.failure)) if counts])
        return f"<Dependency on {how} of {'all' if self.all else 'any'} of {list(self.tasks)!r:.200}>"

    @classmethod
    def of(cls, given: Any) -> Dependency:
        """Return what was given for `after=` or `follow=` as a Dependency: itself, or one on the success of all.

        Raises:
            TypeError: It is none, nor ids or futures.
            ValueError: A negative id.
        """
        return given if isinstance(given, Dependency) else cls(given)


def check_of(depend: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return what was given as `depend=`: a function, and its arguments after the properties.

    Raises:
        TypeError: It is no function, nor a tuple or list that begins with one.
    """
    if callable(depend):
        return depend, ()
    if isinstance(depend, tuple | list) and depend and callable(depend[0]):
        return depend[0], tuple(depend[1:])
    raise TypeError(f"depend is a function of an engine's properties, or (f, *arguments), not {depend!r}")


def _number(task: Any) -> tuple[bool, int]:
    is_id = isinstance(task, int)
    return not is_id, task if is_id else getattr(task, "number", 0)


def _need(need: Any) -> tuple[str, str]:
    if isinstance(need, str) and all(map(str.isidentifier, need.split("."))):
        return need, ""
    if isinstance(need, ModuleType):
        return need.__name__, ""
    module, path = getattr(need, "__module__", None), getattr(need, "__qualname__", None)
    if callable(need) and isinstance(module, str) and isinstance(path, str) and "<" not in path:
        return module, path
    raise TypeError(f"@require takes names of modules, modules, and functions that have a name, not {need!r}")


def called(f: Any) -> str:
    """Return what to call a function in a text."""
    while isinstance(f, functools.partial):
        f = f.func
    return str(getattr(f, "__qualname__", None) or type(f).__name__)


def flag(name: str, value: Any) -> bool:
    """Return a flag as it was given.

    Raises:
        TypeError: It is no bool.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} is True or False, not {value!r}")
    return value
