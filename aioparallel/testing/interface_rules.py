"""What an interface must do, rule by rule: `await check_interface(WordCount)`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from aioparallel import hosting, plugins
from aioparallel.controller import Controller
from aioparallel.errors import EngineLost, OperationError, PluginError
from aioparallel.face import Client
from aioparallel.hosting import Hosting
from aioparallel.interface import Interface
from aioparallel.operations import Kind, declared
from aioparallel.testing.memory_cluster import MemoryCluster
from aioparallel.testing.rules import CheckFailed, expect, follow_all, until

__all__ = ["check_interface"]

#: Times that it is started and stopped.
ROUNDS = 3
#: What the controller calls and does not wait for.
TOLD = (
    *("engine_joined", "engine_left", "engine_reserved", "engine_released", "properties_changed"),
    *("kernel_started", "kernel_lost", "client_joined", "client_drained", "client_left"),
)
#: As `aiocontroller` does, and then loads it.
LOADS = (
    "import importlib, sys\n"
    "for name in ('pickle', '_pickle', 'cloudpickle'): sys.modules[name] = None\n"
    "sys.path += sys.argv[2:]\n"
    "importlib.import_module(sys.argv[1])\n"
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What the rules are tried on.

    Attributes:
        interface: The class.
        name: Its name.
        ops: The names of its operations.
    """

    interface: type[Interface]
    name: str
    ops: tuple[str, ...]

    @property
    def client(self) -> type[Client]:
        """A client that can call any operation by name."""
        return type("AnyClient", (Client,), {"interface": self.name})


async def check_interface(interface: str | type[Interface], *, seconds: float = 30.0) -> list[str]:
    """Check that an interface does what `aioparallel.interface.Interface` asks for.

    It is hosted by controllers in the running loop; none of its operations is called with arguments that it would take.

    Args:
        interface: The class, its place (`module:Class`), or the name under which it is installed.
        seconds: How long each rule may take.

    Returns:
        The rules that it follows, in words.

    Raises:
        CheckFailed: It breaks one; the text says which, and what was seen.
    """
    usable = "It is a class derived from aioparallel.Interface, made without arguments, that a controller takes in."
    name = f"interface {interface!r}" if isinstance(interface, str) else f"interface {_place(interface)}"
    try:
        kind = plugins.load(plugins.INTERFACES, interface, Interface) if isinstance(interface, str) else interface
        plugins.check(kind, Interface, name)
        async with Controller() as controller:
            made = await controller.add(kind)
            subject = Subject(kind, made.name, tuple(declared(kind)))
    except (PluginError, TypeError) as error:
        raise CheckFailed(name, usable, str(error)) from error
    rules = [_watched(rule) for rule in RULES]
    return [usable, *await follow_all(f"interface {subject.name!r} ({_place(kind)})", rules, subject, seconds=seconds)]


class _Contained(logging.Handler):
    """Keeps what a controller says of what it had to contain."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; how long a step took says as much about the machine as about the interface."""
        if record.funcName != Hosting.held_up.__name__:
            error = record.exc_info[1] if record.exc_info else None
            self.said.append(record.getMessage() + (f" ({type(error).__name__}: {error})" if error else ""))


@contextlib.contextmanager
def _containing() -> Iterator[list[str]]:
    handler = _Contained()
    logger = logging.getLogger(hosting.__name__)
    logger.addHandler(handler)
    try:
        yield handler.said
    finally:
        logger.removeHandler(handler)


def _watched(rule: Callable[[Subject], Awaitable[None]]) -> Callable[[Subject], Awaitable[None]]:
    """Return a rule that also breaks when the controller had to contain something: it would only have logged that."""

    @functools.wraps(rule)
    async def watched(subject: Subject) -> None:
        with _containing() as said:
            await rule(subject)
            expect(not said, "; ".join(said))

    return watched


async def loads_without_pickle(subject: Subject) -> None:
    """Its module loads where pickle and cloudpickle are banned from import, as they are in `aiocontroller`."""
    module = subject.interface.__module__
    if module == "__main__":
        return
    loading = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        LOADS,
        module,
        *(entry for entry in sys.path if entry),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await loading.communicate()
    finally:
        if loading.returncode is None:
            loading.kill()
            await loading.wait()
    last = said.decode(errors="replace").strip().rpartition("\n")[2]
    expect(loading.returncode == 0, f"import {module}: {last}")


async def is_told_at_once(subject: Subject) -> None:
    """What the controller tells it, it takes note of at once: those methods are plain ones, not coroutine functions."""
    for name in TOLD:
        method = getattr(subject.interface, name, None)
        is_plain = callable(method) and not (
            inspect.iscoroutinefunction(method)
            or inspect.isasyncgenfunction(method)
            or inspect.isgeneratorfunction(method)
        )
        expect(is_plain, f"{name} is {method!r}")
    for name in ("start", "stop"):
        method = getattr(subject.interface, name)
        expect(inspect.iscoroutinefunction(method), f"{name} is no coroutine function: {method!r}")


async def starts_and_stops(subject: Subject) -> None:
    """It can be started and stopped any number of times in one process, and leaves nothing behind."""
    for _ in range(ROUNDS):
        async with Controller() as controller:
            await controller.add(subject.interface)


async def lives_beside_another(subject: Subject) -> None:
    """Two controllers in one loop can host one each; the end of one leaves the other alone."""
    async with Controller() as first:
        await first.add(subject.interface)
        await first.listen("memory://first-of-two")
        async with Controller() as second:
            await second.add(subject.interface)
        async with subject.client(first.capability(subject.name)) as client:
            expect(client.channel.is_open, "a client of the other one was sent away")


async def obeys_narrowed_capabilities(subject: Subject) -> None:
    """What a client's capability does not allow is refused, each operation by name, before anything of it begins."""
    async with MemoryCluster(0, interfaces=[subject.interface]) as cluster:
        capability = cluster.capability(subject.name)
        client = await cluster.enter(subject.client(capability.narrow("ops=nothing_at_all")))
        for name in subject.ops:
            try:
                answer = await client._operate(name)
            except OperationError as error:
                expect(f"does not allow {name!r}" in str(error), f"{name} says: {error}")
            else:
                expect(False, f"{name} answered {answer!r}")


async def answers_what_it_does_not_understand(subject: Subject) -> None:
    """A call with an argument that an operation does not have is answered with an error, and it goes on."""
    arguments: dict[str, Any] = {"no such argument": 1}
    async with MemoryCluster(0, interfaces=[subject.interface]) as cluster:
        client = await cluster.enter(subject.client(cluster.capability(subject.name)))
        for name, operation in declared(subject.interface).items():
            if operation.kind is Kind.RAW:
                continue
            try:
                answer = await client._operate(name, **arguments)
            except OperationError as error:
                expect(name in str(error), f"{name}: the error does not name it: {error}")
            else:
                expect(False, f"{name} answered {answer!r}")
        expect(client.channel.is_open, "its client was sent away")


async def follows_engines_and_clients(subject: Subject) -> None:
    """Engines and clients may come and go in any order, before it and after it."""
    async with MemoryCluster(1, interfaces=[]) as cluster:
        await cluster.controller.add(subject.interface)
        async with subject.client(cluster.capability(subject.name)):
            await cluster.add_engines(1)
            for number in tuple(cluster.controller.engines):
                # The last one's host goes with it, and may not come to answer.
                with contextlib.suppress(EngineLost):
                    await cluster.controller.engines[number].stop()
            await until(lambda: not cluster.controller.engines)
            await cluster.add_engines(1)
            async with subject.client(cluster.capability(subject.name)) as client:
                expect(client.channel.is_open, "a client was sent away")
        kept = cluster.controller.status()["clients"]
        await until(lambda: not sum(cluster.controller.status()["clients"].values()))
        expect(cluster.controller.engines, f"its engines are gone, of its clients there are {kept}")


RULES = (
    loads_without_pickle,
    is_told_at_once,
    starts_and_stops,
    lives_beside_another,
    obeys_narrowed_capabilities,
    answers_what_it_does_not_understand,
    follows_engines_and_clients,
)


def _place(interface: object) -> str:
    return f"{getattr(interface, '__module__', '?')}:{getattr(interface, '__qualname__', interface)}"
