"""How conformance kits work: rules are looked at one by one, and CheckFailed says what was seen."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

__all__ = ["CheckFailed", "Rule", "expect", "follow", "follow_all", "until"]

T = TypeVar("T")

#: What a plug-in must do, tried on something by a function; its docstring's first line is the rule in words.
Rule: TypeAlias = Callable[[T], Awaitable[None] | None]

#: Seconds between two looks at what nobody tells.
LOOK = 0.005
#: Turns of the loop after which what was ended must have gone.
TURNS = 20


class CheckFailed(AssertionError):
    """A plug-in breaks a rule of its contract.

    Attributes:
        plugin: Which.
        rule: What it must do.
        seen: What it did.
    """

    def __init__(self, plugin: str, rule: str, seen: str) -> None:
        super().__init__(f"{plugin} breaks the rule\n    {rule}\nSeen: {seen}")
        self.plugin = plugin
        self.rule = rule
        self.seen = seen

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make it again: a test runner may carry it from one process to another."""
        return type(self), (self.plugin, self.rule, self.seen)


class _NotMet(Exception):
    """Something else was seen than what the rule says."""


def expect(condition: object, seen: str) -> None:
    """Go on if `condition` holds; otherwise `seen` says what was there instead.

    Raises:
        Exception: It does not hold; `follow` makes a CheckFailed of it.
    """
    if not condition:
        raise _NotMet(seen)


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds, of which nobody tells; `follow_all` sees to it that this ends."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(LOOK)


def follow(plugin: str, rules: Sequence[Rule[T]], subject: T) -> list[str]:
    """Look at rules that wait for nothing, one by one; return them in words.

    Raises:
        CheckFailed: One does not hold.
    """
    for rule in rules:
        with _failing(plugin, rule):
            rule(subject)
    return [words(rule) for rule in rules]


async def follow_all(plugin: str, rules: Sequence[Rule[T]], subject: T, *, seconds: float) -> list[str]:
    """Look at rules one by one, and at what each leaves behind; return them in words.

    Args:
        plugin: Which plug-in, for people.
        rules: The rules.
        subject: What they are tried on.
        seconds: How long one may take: a plug-in that never answers breaks it.

    Raises:
        CheckFailed: One does not hold.
    """
    for rule in rules:
        with _failing(plugin, rule), _watching() as told:
            before = asyncio.all_tasks()
            try:
                async with asyncio.timeout(seconds):
                    result = rule(subject)
                    if inspect.isawaitable(result):
                        await result
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                raise _NotMet("CancelledError, though nobody cancelled what was waited for") from error
            except TimeoutError as error:
                reported = "".join(f"; reported to the event loop: {report}" for report in told())
                raise _NotMet(f"nothing more happened within {seconds:g} s ({_place(error)}){reported}") from error
            await _nothing_left(before, told)
    return [words(rule) for rule in rules]


def words(rule: Callable[..., Any]) -> str:
    """Return what a rule says."""
    text = (rule.__doc__ or rule.__name__.replace("_", " ")).partition("\n")[0]
    return text.strip()


@contextlib.contextmanager
def _failing(plugin: str, rule: Callable[..., Any]) -> Iterator[None]:
    try:
        yield
    except CheckFailed:
        raise
    except _NotMet as error:
        raise CheckFailed(plugin, words(rule), str(error)) from error.__cause__
    except Exception as error:
        raise CheckFailed(plugin, words(rule), f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _watching() -> Iterator[Callable[[], list[str]]]:
    """Collect what is only reported: errors in callbacks, errors that nobody asked for, things never closed."""
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    reports: list[str] = []

    def report(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        reports.append(str(context.get("message")) + (f" ({type(error).__name__}: {error})" if error else ""))

    loop.set_exception_handler(report)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            yield lambda: [*reports, *(str(one.message) for one in caught if issubclass(one.category, ResourceWarning))]
    finally:
        loop.set_exception_handler(handler)


async def _nothing_left(before: set[asyncio.Task[Any]], told: Callable[[], list[str]]) -> None:
    """Check that no task goes on, and that the loop was told of no trouble."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
    left = sorted(f"{task.get_name()} ({_coroutine(task)})" for task in asyncio.all_tasks() - before)
    expect(not left, f"asyncio tasks that go on afterwards: {', '.join(left)}")
    gc.collect()
    await asyncio.sleep(0)
    expect(not told(), f"reported to the event loop, or never closed: {'; '.join(told())}")


def _coroutine(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", "") or repr(task.get_coro())


def _place(error: BaseException) -> str:
    """Say what was waited for: in whose words there are, and the innermost line of a kit that the time ran out in."""
    found = said = ""
    seen: BaseException | None = error
    while seen is not None:
        traceback = seen.__traceback__
        said = said or (str(seen) if isinstance(seen, asyncio.CancelledError) else "")
        while traceback is not None:
            code = traceback.tb_frame.f_code
            if code.co_filename.startswith(__file__.rpartition("rules.py")[0]) and code.co_filename != __file__:
                found = f"in {code.co_name}, line {traceback.tb_lineno} of {code.co_filename.rpartition('/')[2]}"
            traceback = traceback.tb_next
        seen = seen.__cause__ or seen.__context__
    return ", ".join(filter(None, [said, found]))
