"""How an interface is written: Interface, @remote, Host, Client.

An interface is a style of parallelism: the part that runs in the controller (`Interface`) and the part that a
program holds (`Client`), in one file. The controller's part sees the controller only as `Host`, and user
data only as opaque frames: it can't unpickle. Only a client packs and unpacks, so `serialize` is imported
when a client is made, never when an interface is loaded.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, overload

from aioparallel.connection import Connection
from aioparallel.errors import (
    InvalidEngineID,
    MessageTooLarge,
    OperationError,
    ParallelError,
    PluginError,
    ProtocolError,
    to_plain,
)
from aioparallel.events import Monitor
from aioparallel.source import Source
from aioparallel.wire import LAST, NO_ENGINE, TRIED, Frame, Kind, Limits, Sendable, Status, encode

if TYPE_CHECKING:
    from aioparallel.capability import Grant
    from aioparallel.engines import Engine

__all__ = ["ClientProxy", "Host", "Interface", "operations", "remote"]

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


class Host(Protocol):
    """The controller as an interface sees it: this much is promised."""

    @property
    def engines(self) -> Mapping[int, Engine]:
        """The engines by id, ascending."""
        ...

    @property
    def monitor(self) -> Monitor:
        """Who is told what happened."""
        ...

    @property
    def limits(self) -> Limits:
        """The bounds in force."""
        ...

    @property
    def source(self) -> Source:
        """Where random bytes and the wall clock come from."""
        ...

    def create_task(self, work: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        """Run `work`; the task is kept, its failure is logged, and it is cancelled when the interface stops."""
        ...

    def status(self) -> dict[str, Any]:
        """Everything a person would ask, as plain values."""
        ...

    def shut_down(self) -> None:
        """End the controller, in good order, soon."""
        ...


@dataclass(frozen=True, slots=True)
class _Operation:
    raw: bool


@overload
def remote(method: F) -> F: ...
@overload
def remote(*, raw: bool = False) -> Callable[[F], F]: ...
def remote(method: F | None = None, *, raw: bool = False) -> F | Callable[[F], F]:
    """Mark a method of an `Interface` as an operation that clients may call by name.

    A plain operation takes and returns plain (JSON) values; `async def` or not. A raw one takes
    `(client, frame)`, returns None, and answers itself, now or later, through the client.

    Args:
        method: The method, when used without parentheses.
        raw: Whether it is a raw one.
    """

    def mark(function: F) -> F:
        function.__aioparallel__ = _Operation(raw)  # type: ignore[attr-defined]
        return function

    return mark if method is None else mark(method)


def operations(interface: type[Interface]) -> tuple[str, ...]:
    """Return the names of an interface's operations, sorted; their places are their codes on the wire."""
    return tuple(sorted(name for name, _ in inspect.getmembers(interface, lambda m: hasattr(m, "__aioparallel__"))))


class Interface:
    """The controller's part of a style of parallelism. Subclass it, name it, mark operations with `@remote`.

    Attributes:
        name: How clients and files name it.
        client: The class of its asyncio client.
        host: The controller; there from `start` on.
    """

    name: ClassVar[str]
    client: ClassVar[Any] = None
    host: Host

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in operations(cls):
            method = getattr(cls, name)
            if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
                raise PluginError(f"{cls.__module__}.{cls.__name__}.{name}: an operation can't be a generator")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'name', 'without a name')!r}>"

    async def start(self) -> None:
        """Begin; `host` is there. An exception refuses the interface."""

    async def stop(self) -> None:
        """End; no operation is called any more."""

    def report(self) -> dict[str, Any]:
        """Return what people should know of it, as plain values, for `status`."""
        return {}

    def kernel_started(self, engine: Engine) -> None:
        """A fresh kernel serves an engine, as it joins or after a restart: `engine.put_first` what it has to do first.

        Of an engine that joins every interface is told so before `engine_joined` of any.
        """

    def kernel_lost(self, engine: Engine) -> None:
        """An engine has no kernel for now: it died, restarts or is broken. What it had is about to be answered.

        A kernel that dies and is broken then is told of twice.
        """

    def properties_changed(self, engine: Engine) -> None:
        """What is noted about an engine (`engine.properties`) is something else now."""

    def engine_joined(self, engine: Engine) -> None:
        """An engine is ready."""

    def engine_left(self, engine: Engine) -> None:
        """An engine is gone; its commands have been answered."""

    def client_joined(self, client: ClientProxy) -> None:
        """A client proved the capability of this interface."""

    def client_drained(self, client: ClientProxy) -> None:
        """A client that was `congested` reads again."""

    def client_left(self, client: ClientProxy) -> None:
        """A client's connection ended. What it still waits for is nobody's any more."""


class Withdrawable(Protocol):
    """A raw call under way."""

    def withdraw(self) -> None:
        """The client wants it no more."""
        ...


class ClientProxy:
    """A client as the controller's part of an interface sees it.

    Attributes:
        connection: Where answers go.
        grant: What its capability allows.
        python: Which Python it runs.
        session: Its session id.
        calls: Each raw call under way; the interface keeps it true.
    """

    def __init__(self, connection: Connection, interface: Interface, grant: Grant, session: str, python: str) -> None:
        self.connection = connection
        self.grant = grant
        self.python = python
        self.session = session
        self.calls: dict[int, Withdrawable] = {}
        self._interface = interface
        self._methods: list[tuple[str, Callable[..., Any] | None, bool]] = []
        for name in operations(type(interface)):
            method = getattr(interface, name)
            self._methods.append((name, method if grant.allows(name) else None, method.__aioparallel__.raw))
        self._tasks: dict[int, asyncio.Task[Any]] = {}
        self._held = 0
        self._paused = False

    def __repr__(self) -> str:
        return f"<ClientProxy {self.session} of {self._interface.name}, {len(self.calls)} calls under way>"

    @property
    def congested(self) -> bool:
        """Whether the client reads too slowly: who produces for it should wait."""
        return self.connection.congested

    def receive(self, frames: list[Frame]) -> None:
        """Do what the client asks."""
        for frame in frames:
            if frame.kind == Kind.CALL:
                try:
                    name, method, raw = self._methods[frame.code]
                except IndexError:
                    raise ProtocolError(f"a client called operation {frame.code}") from None
                try:
                    if method is None:
                        raise OperationError(f"this capability does not allow {name!r} of {self._interface.name!r}")
                    if raw:
                        method(self, frame)
                    else:
                        self._call(frame, name, method)
                except ProtocolError:
                    raise
                except Exception as error:
                    self._failed(frame.id, name, error)
            elif frame.kind == Kind.CANCEL:
                self.connection.withdraw(frame.id)
                call = self.calls.pop(frame.id, None)
                if call is not None:
                    call.withdraw()
                elif frame.id in self._tasks:
                    self._tasks[frame.id].cancel()
            elif frame.kind not in (Kind.BEAT, Kind.GOODBYE):
                raise ProtocolError(f"a client sent {frame!r}")

    def send(self, pieces: Iterable[Sendable]) -> None:
        """Send a frame."""
        self.connection.send(pieces)

    def forward(self, result: Frame, number: int, *, code: int, flags: int, engine: int) -> None:
        """Pass an engine's answer on as an answer to a call."""
        connection = self.connection
        connection.send(connection.forward(result, Kind.RESULT, number, code=code, flags=flags, engine=engine))

    def reply(self, number: int, value: Any) -> None:
        """Answer a call with a plain value."""
        header = json.dumps(value).encode()
        limits = self.connection.limits
        if len(header) > min(limits.header, limits.message):
            text = f"a plain answer of {len(header):,} bytes; the limit is {limits.header:,} (Limits.header)"
            self.fault(number, MessageTooLarge(text))
            return
        self.send(encode(Kind.RESULT, number, code=Status.OK, flags=LAST, header=header))

    def fault(
        self, number: int, error: ParallelError, *, engine: int = NO_ENGINE, last: bool = True, tried: int = 0
    ) -> None:
        """Answer a call with one of our own errors; `tried` is how often it had been tried before."""
        header = json.dumps(to_plain(error)).encode()
        flags, code = LAST if last else 0, Status.FAULT + TRIED * tried
        self.send(encode(Kind.RESULT, number, code=code, flags=flags, engine=engine, header=header))

    def notify(self, value: Any) -> None:
        """Tell the client something it did not ask for."""
        self.send(encode(Kind.NOTICE, header=json.dumps(value).encode()))

    def hold(self, size: int) -> None:
        """Count bytes that wait here for an engine; a client with too many is not read from."""
        self._held += size
        if self._held > self.connection.limits.backlog and not self._paused:
            self._paused = True
            self.connection.pause_reading()

    def release(self, size: int) -> None:
        """Count bytes that wait no more."""
        self._held -= size
        if self._paused and self._held <= self.connection.limits.backlog // 2:
            self._paused = False
            self.connection.resume_reading()

    def leave(self) -> None:
        """Withdraw everything: the client is gone."""
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.withdraw()
        for task in tuple(self._tasks.values()):
            task.cancel()

    def allowed(self, engine: int) -> bool:
        """Whether the client's capability reaches that engine."""
        return self.grant.engines is None or engine in self.grant.engines

    def _call(self, frame: Frame, name: str, method: Callable[..., Any]) -> None:
        """Call a plain operation."""
        arguments = frame.json()
        if not isinstance(arguments, dict):
            raise ProtocolError("the arguments of a call are a JSON object")
        value = _bound(method, name, {"client": self} | arguments)
        if inspect.iscoroutine(value):
            number = frame.id
            task = self._tasks[number] = self._interface.host.create_task(self._finish(number, name, value))
            task.add_done_callback(lambda _: self._finished(number, value))
        else:
            self.reply(frame.id, value)

    async def _finish(self, number: int, name: str, work: Coroutine[Any, Any, Any]) -> None:
        try:
            self.reply(number, await work)
        except Exception as error:
            self._failed(number, name, error)

    def _finished(self, number: int, work: Coroutine[Any, Any, Any]) -> None:
        self._tasks.pop(number, None)
        # One that was cancelled before its first step has never begun to wait for this.
        work.close()

    def _failed(self, number: int, name: str, error: Exception) -> None:
        if not isinstance(error, ParallelError):
            logger.exception("operation %r of interface %r failed", name, self._interface.name, exc_info=error)
            error = OperationError(f"{name}: {type(error).__name__}: {error}")
        self.fault(number, error)


def _bound(method: Callable[..., Any], name: str, arguments: dict[str, Any]) -> Any:
    """Call a plain operation; `client` is given to those that ask for it."""
    signature = inspect.signature(method)
    if "client" not in signature.parameters:
        del arguments["client"]
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise OperationError(f"{name}: {error}") from None
    return method(**arguments)


def chosen(client: ClientProxy, engines: Mapping[int, Engine], targets: Any) -> list[Engine]:
    """Return the engines that `targets` names ("all", or a list of ids), in that order.

    Raises:
        InvalidEngineID: One of them does not exist, or the client's capability does not reach it.
        OperationError: It is neither, or names an engine twice.
    """
    if targets == "all":
        return [engine for number, engine in engines.items() if client.allowed(number)]
    if not isinstance(targets, list) or not all(type(target) is int for target in targets):
        raise OperationError(f'targets are "all" or a list of engine ids, not {targets!r}')
    for target in targets:
        if target not in engines:
            ids = ", ".join(map(str, engines)) or "none"
            raise InvalidEngineID(f"there is no engine {target}; engines: {ids}")
        if not client.allowed(target):
            raise InvalidEngineID(f"this capability does not reach engine {target}")
    if len(set(targets)) != len(targets):
        raise OperationError(f"targets name an engine twice: {targets!r}")
    return [engines[target] for target in targets]
