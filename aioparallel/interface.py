"""How an interface is written: Interface, @remote, Host, Client.

An interface is a style of parallelism: the part that runs in the controller (`Interface`) and the part that a
program holds (`Client`), in one file. The controller's part sees the controller only as `Host`, and user
data only as opaque frames: it can't unpickle. Only a client packs and unpacks, so `serialize` is imported
when a client is made, never when an interface is loaded.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from aioparallel import plugins
from aioparallel.answering import Answering, fault, header_of, plain_answer
from aioparallel.connection import Connection
from aioparallel.errors import InvalidEngineID, OperationError, ParallelError, PluginError, ProtocolError
from aioparallel.events import Monitor
from aioparallel.generated import OnDemand, client_of, made_by_us
from aioparallel.hosting import HELD_UP, Hosting, described
from aioparallel.operations import Kind as Answers
from aioparallel.operations import Operation, check_interface_name, check_makeable, declared, operations, remote
from aioparallel.plain import shape_of
from aioparallel.proxies import EngineProxy
from aioparallel.source import Source
from aioparallel.wire import KEY, NO_ENGINE, Frame, Kind, Limits, News, Sendable, encode

if TYPE_CHECKING:
    from aioparallel.capability import Capability, Grant

__all__ = ["ClientProxy", "EngineProxy", "Host", "Interface", "admitted", "client_of", "operations", "remote"]


class Host(Protocol):
    """The controller as an interface sees it: this much is promised."""

    @property
    def engines(self) -> Mapping[int, Any]:
        """The engines by id, ascending: an `EngineProxy` each."""
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

    def grant(self, *caveats: str) -> Capability:
        """Return a capability of this interface, narrowed by `caveats`, to hand to somebody."""
        ...

    def status(self) -> dict[str, Any]:
        """Everything a person would ask, as plain values."""
        ...

    def shut_down(self) -> None:
        """End the controller, in good order, soon."""
        ...


class Interface:
    """The controller's part of a style of parallelism. Subclass it, name it, mark operations with `@remote`.

    It lives in the controller's loop, as long as the controller or until it is removed: what it keeps, it keeps for all
    clients. Its methods must be quick, and await what takes long. An error in a method that is told something
    (`engine_joined` and its like) is logged, and harms nobody else.

    Attributes:
        name: How clients and files name it; an identifier.
        client: The class of its asyncio client. One is made from the annotations of the operations, unless you set it.
        blocking_client: The same of its blocking client; None: it is made.
        may_preempt: Whether it may interrupt what others have an engine do (`EngineProxy.call`).
        raw: Whether it puts commands into the queues of engines by itself: then it is given `engines.Engine`, in place
            of `EngineProxy`.
        host: The controller; there from `start` on.
    """

    name: ClassVar[str]
    client: ClassVar[Any] = OnDemand()
    blocking_client: ClassVar[Any] = None
    may_preempt: ClassVar[bool] = False
    raw: ClassVar[bool] = False
    host: Host

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'name', 'without a name')!r}>"

    async def start(self) -> None:
        """Begin; `host` is there. An exception refuses the interface: then `stop` is not called."""

    async def stop(self) -> None:
        """End; no operation is called any more. Tasks that are left are cancelled after this."""

    def report(self) -> dict[str, Any]:
        """Return what people should know of it, as plain values, for `status`."""
        return {}

    def kernel_started(self, engine: Any) -> None:
        """A fresh kernel serves an engine, as it joins or after a restart: `engine.put_first` what it has to do first.

        Of an engine that joins every interface is told so before `engine_joined` of any.
        """

    def kernel_lost(self, engine: Any) -> None:
        """An engine has no kernel for now: it died, restarts or is broken. What it had is about to be answered.

        A kernel that dies and is broken then is told of twice.
        """

    def properties_changed(self, engine: Any) -> None:
        """What is noted about an engine (`engine.properties`) is something else now."""

    def engine_joined(self, engine: Any) -> None:
        """An engine is ready."""

    def engine_left(self, engine: Any) -> None:
        """An engine is gone; its commands have been answered."""

    def engine_reserved(self, engine: Any) -> None:
        """An interface has an engine for itself: commands of others wait there."""

    def engine_released(self, engine: Any) -> None:
        """An engine is everybody's again."""

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

    def __init__(self, connection: Connection, hosting: Hosting, grant: Grant, session: str, python: str) -> None:
        self.connection = connection
        self.grant = grant
        self.python = python
        self.session = session
        self.calls: dict[int, Withdrawable] = {}
        self.hosting = hosting
        self._answering = Answering(self, connection, hosting)
        self._clock = asyncio.get_running_loop().time
        self._operations: list[tuple[Operation, Callable[..., Any] | None]] = []
        for name, operation in declared(type(hosting.interface)).items():
            # The one place where it is decided what a capability may call.
            allowed = grant.allows(name)
            self._operations.append((operation, getattr(hosting.interface, name) if allowed else None))
        self._held = 0
        self._paused = False
        self._gone = False

    def __repr__(self) -> str:
        under_way = len(self.calls) + len(self._answering)
        return f"<ClientProxy {self.session} of {self.hosting.name}, {under_way} calls under way>"

    @property
    def congested(self) -> bool:
        """Whether the client reads too slowly: who produces for it should wait."""
        return self.connection.congested

    def receive(self, frames: list[Frame]) -> None:
        """Do what the client asks."""
        for frame in frames:
            if self._gone:
                return
            if frame.kind == Kind.CALL:
                self._call(frame)
            elif frame.kind == Kind.CANCEL:
                self.connection.withdraw(frame.id)
                call = self.calls.pop(frame.id, None)
                if call is not None:
                    call.withdraw()
                else:
                    self._answering.cancel(frame.id)
            elif frame.kind == Kind.NOTICE and frame.code == News.TAKEN and len(frame.header) == KEY.size:
                self._answering.taken(frame.id, *KEY.unpack(frame.header))
            elif frame.kind not in (Kind.BEAT, Kind.GOODBYE):
                raise ProtocolError(f"a client sent {frame!r}")

    def _call(self, frame: Frame) -> None:
        try:
            operation, method = self._operations[frame.code]
        except IndexError:
            raise ProtocolError(f"a client called operation {frame.code}") from None
        name = operation.name
        try:
            if method is None:
                raise OperationError(f"this capability does not allow {name!r} of {self.hosting.name!r}")
            if operation.kind is Answers.RAW:
                since = self._clock()
                method(self, frame)
                if self._clock() - since >= HELD_UP:
                    self.hosting.held_up(name, self._clock() - since)
            else:
                self._answering.begin(frame.id, operation, method, frame.json())
        except ProtocolError:
            raise
        except Exception as error:
            self._answering.failed(frame.id, name, error)

    def send(self, pieces: Iterable[Sendable]) -> None:
        """Send a frame."""
        self.connection.send(pieces)

    def forward(self, result: Frame, number: int, *, code: int, flags: int, engine: int) -> None:
        """Pass an engine's answer on as an answer to a call."""
        connection = self.connection
        connection.send(connection.forward(result, Kind.RESULT, number, code=code, flags=flags, engine=engine))

    def reply(self, number: int, value: Any) -> None:
        """Answer a call with a plain value."""
        self.send(plain_answer(number, value, self.connection.limits))

    def fault(
        self, number: int, error: ParallelError, *, engine: int = NO_ENGINE, last: bool = True, tried: int = 0
    ) -> None:
        """Answer a call with one of our own errors; `tried` is how often it had been tried before."""
        self.send(fault(number, error, engine=engine, last=last, tried=tried))

    def notify(self, value: Any) -> None:
        """Tell the client something that it did not ask for: a plain value, for its `notices` and `on_notice`.

        What a client does not read waits here, until it is given up as stuck: where there is much to tell, and the
        latest is enough, leave out what comes while it is `congested`.

        Raises:
            TypeError: The value is not plain.
            MessageTooLarge: It is above `Limits.header`.
        """
        header = header_of(shape_of(Any).outward(value, "a notice"), self.connection.limits)
        self.send(encode(Kind.NOTICE, code=News.VALUE, header=header))

    def tell(self, news: dict[str, Any]) -> None:
        """Tell the client's channel what happened."""
        self.send(encode(Kind.NOTICE, header=json.dumps(news).encode()))

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
        self._gone = True
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.withdraw()
        self._answering.leave()

    def allowed(self, engine: int) -> bool:
        """Whether the client's capability reaches that engine."""
        return self.grant.engines is None or engine in self.grant.engines


def admitted(interface: str | type[Interface] | Interface) -> Interface:
    """Return the interface that a name, a class or an instance stands for, once it is certain that it is fit.

    Raises:
        PluginError: It stands for none, can't be made, or is not fit: the text says where, and what was expected.
    """
    if isinstance(interface, str):
        interface = _loaded(interface)
    if isinstance(interface, Interface):
        return _checked(interface)
    if not (isinstance(interface, type) and issubclass(interface, Interface)):
        raise PluginError(
            f"{interface!r} is not an interface: expected a subclass of aioparallel.Interface, an instance of one, the "
            "name of one that is installed, or module:Class"
        )
    try:
        made = interface()
    except Exception as error:
        place = f"{interface.__module__}.{interface.__qualname__}"
        raise PluginError(f"interface {place} can't be made: {type(error).__name__}: {error}") from error
    return _checked(made)


def _loaded(called: str) -> type[Interface]:
    """Return the interface of that name, or at that place."""
    kind: type[Interface] = plugins.load(plugins.INTERFACES, called, Interface)
    name = check_interface_name(kind)
    if ":" not in called and name != called:
        raise PluginError(
            f"{described(kind, called)} has the name {name!r}: it must be {called!r}, as its entry point's is"
        )
    return kind


def _checked(interface: Interface) -> Interface:
    kind = type(interface)
    check_interface_name(interface)
    raw = any(operation.kind is Answers.RAW for operation in declared(kind).values())
    if made_by_us(kind) and not raw:
        check_makeable(kind)
    return interface


def chosen(client: ClientProxy, engines: Mapping[int, Any], targets: Any) -> list[Any]:
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
