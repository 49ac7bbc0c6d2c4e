"""An engine as an interface uses it: calls of plain values, in turn, between others, or reserved."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from aioparallel.errors import (
    EngineLost,
    MessageTooLarge,
    OperationError,
    ParallelError,
    QueueCleared,
    RemoteError,
    from_plain,
)
from aioparallel.plain import shape_of
from aioparallel.queues import Command
from aioparallel.reply import what_was_written
from aioparallel.wire import Frame, Status

if TYPE_CHECKING:
    from aioparallel.engines import Engine

__all__ = ["EngineCall", "EngineProxies", "EngineProxy", "Reservation"]

_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", re.ASCII)
_ANYTHING = shape_of(Any)


class _Caller:
    """Who calls, as an engine's queue sees it: an interface, which always reads what it gets."""

    congested = False

    def __init__(self, hosting: Any) -> None:
        self.hosting = hosting
        self.connection = self

    def __repr__(self) -> str:
        return f"<interface {self.hosting.name!r}>"


class _Order(Command):
    """What an interface has an engine do."""

    __slots__ = ("between", "future")

    def __init__(self, call: EngineCall, payload: Frame, caller: _Caller, label: bytes, priority: int, between: bool):
        super().__init__(payload, caller, _done, label=label, exclusive=True, priority=priority)
        self.between = between
        self.future = call


def _done(order: Any, result: Frame | ParallelError) -> None:
    order.future.take(result)


class EngineCall(asyncio.Future[Any]):
    """A call under way on an engine: await it for the value; cancel it to withdraw the call.

    Attributes:
        engine: The engine's id.
        stdout, stderr: What it wrote, when it has ended.
        seconds: How long it ran.
    """

    def __init__(self, proxy: EngineProxy, *, plain: bool) -> None:
        super().__init__()
        self.engine = proxy.id
        self.stdout = self.stderr = ""
        self.seconds = 0.0
        self._proxy = proxy
        self._plain = plain
        self.order: Command | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        """Withdraw the call: it is dropped where it waits, or interrupted where it runs."""
        cancelled = super().cancel(msg)
        if cancelled and self.order is not None:
            self._proxy.withdraw(self.order)
        return cancelled

    def take(self, result: Frame | ParallelError) -> None:
        """Take what the engine answers."""
        self._proxy.ended(self)
        if self.done():
            return
        if isinstance(result, Frame) and result.code in (Status.OK, Status.ERROR):
            _, self.seconds, self.stdout, self.stderr = what_was_written(result.header)
        try:
            self.set_result(self._value(result))
        except ParallelError as error:
            self.set_exception(error)

    def _value(self, result: Frame | ParallelError) -> Any:
        if isinstance(result, ParallelError):
            raise result
        if result.code == Status.FAULT:
            raise from_plain(result.json())
        if result.code == Status.CANCELLED:
            raise QueueCleared(f"withdrawn from engine {self.engine} before it ran")
        if not self._plain:
            return result
        said = json.loads(bytes(result.buffers[0]))
        if result.code == Status.OK:
            return said
        raise RemoteError(said["type"], said["text"], said["traceback"], self.engine)


class EngineProxy:
    """An engine as an interface uses it.

    What is asked of it waits its turn among the commands of all interfaces: one at a time, in the order of the engine's
    queue. `between`, `priority`, `preempt` and `reserve` say otherwise, by rule.
    """

    def __init__(self, hosting: Any, engine: Engine) -> None:
        self._hosting = hosting
        self._engine = engine
        self._caller = _Caller(hosting)
        self._calls: dict[EngineCall, None] = {}
        self._reservations: deque[Reservation] = deque()

    def __repr__(self) -> str:
        return f"<EngineProxy of {self._engine!r}, {len(self._calls)} calls of {self._hosting.name!r}>"

    @property
    def id(self) -> int:
        """Its id."""
        return self._engine.id

    @property
    def host(self) -> str:
        """Which machine it runs on."""
        return self._engine.host

    @property
    def pid(self) -> int:
        """The process id of its kernel."""
        return self._engine.pid

    @property
    def python(self) -> str:
        """Which Python it runs."""
        return self._engine.python

    @property
    def state(self) -> str:
        """What it is doing: "idle", "running", "restarting" or "broken"."""
        return self._engine.state

    @property
    def queued(self) -> int:
        """How many commands wait for it, of all interfaces."""
        return self._engine.queued

    @property
    def properties(self) -> Mapping[str, Any]:
        """What clients note about it, by name; JSON values."""
        return self._engine.properties

    @property
    def reserved(self) -> str:
        """Which interface has it reserved, and why: "wordcount: warming up"; "" if none has."""
        return self._engine.reserved

    def status(self) -> dict[str, Any]:
        """Return what a person would ask about it, as plain values."""
        return self._engine.status()

    def interrupt(self) -> asyncio.Future[Any]:
        """Raise KeyboardInterrupt in what runs."""
        return self._engine.interrupt()

    def restart(self) -> asyncio.Future[Any]:
        """Start a fresh kernel under the same id."""
        return self._engine.restart()

    def stop(self) -> asyncio.Future[Any]:
        """End the engine."""
        return self._engine.stop()

    def call(
        self,
        function: str,
        /,
        *args: Any,
        priority: int = 0,
        between: bool = False,
        preempt: Literal["interrupt"] | None = None,
        **kwargs: Any,
    ) -> EngineCall:
        """Call a function on the engine, given plain values, for a plain value; `async def` ones are awaited there.

        Nothing is pickled: arguments and value travel as JSON, and the controller reads only these. Cancelling what
        this returns withdraws the call, and so does the end of the interface.

        Args:
            function: Its import path there: "module:function". `__main__` is what clients have pushed and defined.
            args: Its arguments.
            priority: Higher goes first, if the engines' queue knows priorities.
            between: Go before all that waits: right after what the engine has been sent already.
            preempt: "interrupt": also end what the engine does and has been sent: a task waits again, other callers get
                `Preempted`. Only if the interface says `may_preempt = True`, and never inside another's reservation.
            kwargs: Its arguments, by name; not one of the above.

        Returns:
            A future of its value.

        Raises:
            OperationError: `function` is no import path, or the interface may not pre-empt.
            TypeError: An argument is not plain.
            MessageTooLarge: The arguments are above `Limits.message`.
            EngineLost: The engine is gone.

        Awaiting raises:
            RemoteError: What the function raised, with its type's name, text and traceback; or its value is not plain.
            EngineDied: The kernel died while it ran or waited.
            QueueCleared: It was removed from the queue before it ran.
            Preempted: Another interface interrupted it.
        """
        if not isinstance(function, str) or not _PLACE.fullmatch(function):
            raise OperationError(
                f'engine.call names a function by its import path, "module:function", not {function!r}'
            )
        if preempt not in (None, "interrupt"):
            raise OperationError(f'preempt is "interrupt" or None, not {preempt!r}')
        if preempt is not None and not self._hosting.interface.may_preempt:
            raise OperationError(
                f"the interface {self._hosting.name!r} may not pre-empt: its class has to say may_preempt = True"
            )
        given = _ANYTHING.outward(list(args), f"{function}: args")
        named = _ANYTHING.outward(kwargs, f"{function}: kwargs")
        payload = json.dumps([function, given, named]).encode()
        limit = self._hosting.limits.message
        if len(payload) > limit:
            raise MessageTooLarge(f"{function}: arguments of {len(payload):,} bytes; the limit is {limit:,}")
        label = function.encode()
        call = self._order(Frame.command_of(payload), label, priority, between or preempt is not None, plain=True)
        if preempt is not None and call.order is not None:
            self._engine.preempt(call.order, f"the interface {self._hosting.name!r} needed the engine for {function}")
        return call

    def apply(self, payload: Frame, *, label: str = "", priority: int = 0, between: bool = False) -> EngineCall:
        """Forward a packed command: the frame that a raw operation was given by a client.

        Args:
            payload: The frame.
            label: What people read of it in `status`.
            priority: As for `call`.
            between: As for `call`.

        Returns:
            A future of the engine's answer, a `Frame` to pass on as it is (`ClientProxy.forward`), whether the code
            raised or not.

        Raises:
            EngineLost: The engine is gone.
        """
        return self._order(payload, label.encode(), priority, between, plain=False)

    def reserve(self, reason: str) -> Reservation:
        """Have the engine for this interface alone: `async with engine.reserve("calibrating"):`.

        Inside, commands of other interfaces are not sent to it: they wait, and Task gives its tasks to other engines.
        What it had been sent before ends first. Reservations of one engine are given in the order in which they were
        asked for; one ends with its block, with a cancel, with the interface, and with the engine.

        Args:
            reason: Why, for people.
        """
        return Reservation(self._hosting, self._engine, self._reservations, reason)

    def withdraw(self, order: Command) -> None:
        """A call is no longer wanted."""
        self._engine.cancel(order)
        if order.cancelled and isinstance(order, _Order):
            self.ended(order.future)  # it had not been sent: nobody will answer it

    def ended(self, call: EngineCall) -> None:
        """A call needs no further care."""
        self._calls.pop(call, None)

    def close(self) -> None:
        """Withdraw all: the interface ends."""
        for reservation in tuple(self._reservations):
            reservation.release()
        for call in tuple(self._calls):
            call.cancel()

    def _order(self, payload: Frame, label: bytes, priority: int, between: bool, *, plain: bool) -> EngineCall:
        if self._hosting.engine(self.id) is not self._engine:
            raise EngineLost(f"engine {self.id} is gone", engine_id=self.id)
        call = EngineCall(self, plain=plain)
        call.order = _Order(call, payload, self._caller, label, priority, between)
        self._calls[call] = None
        self._engine.put(call.order)
        return call


class Reservation:
    """An engine for one interface alone, inside `async with`."""

    def __init__(self, hosting: Any, engine: Engine, kept: deque[Reservation], reason: str) -> None:
        self._hosting = hosting
        self._engine = engine
        self._kept = kept
        self.text = f"{hosting.name}: {reason}"
        self._turn: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Reservation of engine {self._engine.id} by {self.text}>"

    async def __aenter__(self) -> Reservation:
        if self._turn is not None:
            raise OperationError(f"{self!r} has been used; ask for another")
        if self._hosting.engine(self._engine.id) is not self._engine:
            raise EngineLost(f"engine {self._engine.id} is gone", engine_id=self._engine.id)
        self._turn = asyncio.get_running_loop().create_future()
        self._kept.append(self)
        self._engine.reserve(self)
        try:
            await self._turn
        except BaseException:
            self.release()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    @property
    def hosting(self) -> Any:
        """Whose it is."""
        return self._hosting

    def begin(self) -> None:
        """It is this one's turn."""
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def lose(self, error: ParallelError) -> None:
        """The engine is gone."""
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(error)

    def release(self) -> None:
        """Let the others have the engine again. Safe to call twice."""
        if self in self._kept:
            self._kept.remove(self)
            self.lose(QueueCleared(f"the interface {self._hosting.name!r} has ended"))
            self._engine.release(self)


class EngineProxies(Mapping[int, EngineProxy]):
    """The engines of a controller as one interface uses them, by id."""

    def __init__(self, hosting: Any) -> None:
        self._hosting = hosting
        self._known: dict[int, EngineProxy] = {}

    def __repr__(self) -> str:
        return f"<EngineProxies {list(self)}>"

    def __getitem__(self, number: int) -> EngineProxy:
        engine = self._hosting.engine(number)
        if engine is None:
            raise KeyError(number)
        return self.of(engine)

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._hosting.ids()))

    def __len__(self) -> int:
        return len(self._hosting.ids())

    def of(self, engine: Engine) -> EngineProxy:
        """Return the one that stands for an engine, also when that has just left."""
        proxy = self._known.get(engine.id)
        if proxy is None or proxy._engine is not engine:
            proxy = self._known[engine.id] = EngineProxy(self._hosting, engine)
        return proxy

    def left(self, engine: Engine) -> None:
        """Forget one that has left."""
        proxy = self._known.get(engine.id)
        if proxy is not None and proxy._engine is engine:
            del self._known[engine.id]

    def close(self) -> None:
        """Withdraw all that is under way."""
        for proxy in tuple(self._known.values()):
            proxy.close()
