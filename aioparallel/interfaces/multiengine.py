"""MultiEngine: address engines directly."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from aioparallel.calls import MultiEngineCalls
from aioparallel.errors import InvalidProperty, NoEnginesRegistered, OperationError, ParallelError, QueueCleared
from aioparallel.face import Client
from aioparallel.handle import Handle
from aioparallel.interface import ClientProxy, Interface, chosen, remote
from aioparallel.joint import call_each
from aioparallel.output import Watch
from aioparallel.queues import Command
from aioparallel.replay import Recording, Step
from aioparallel.settling import Finish
from aioparallel.views import OnJoin, View
from aioparallel.wire import LAST, Buffer, Frame, Kind, Status, encode

if TYPE_CHECKING:
    from aioparallel.engines import Engine

__all__ = ["MultiEngineClient", "MultiEngineInterface"]

#: How much the properties of one engine may take as JSON, bytes.
PROPERTIES = 64 * 1024


class _Submission:
    """One call of a client, on its way through several engines.

    Attributes:
        kept: Whether it stays in a queue that is cleared.
        step: The step of the set-up that this is the first time of.
    """

    __slots__ = ("client", "frame", "interface", "kept", "parts", "remaining", "step")

    def __init__(self, interface: MultiEngineInterface, client: ClientProxy, frame: Frame, engines: list[Engine]):
        #: The step of the set-up that this is the first time of.
        self.step: Step | None = None
        self.interface = interface
        self.client = client
        self.frame = frame
        self.kept = False
        self.remaining = len(engines)
        # Emptied at the end: parts know their submission, and payloads must not wait for the garbage collector.
        self.parts: list[_Part] = []

    def __repr__(self) -> str:
        return f"<call {self.frame.id} of {self.client.session}, {self.remaining} answers to come>"

    def withdraw(self) -> None:
        """The client wants it no more."""
        if self.step is not None:
            self.interface.drop_step(self.step)
        parts, self.parts = self.parts, []
        for part in parts:
            part.engine.cancel(part)
        self.client.release(self.frame.size)
        self.remaining = 0

    def watch(self) -> None:
        """The client wants to be told what it writes."""
        for part in self.parts:
            part.engine.watch(part)

    def answer(self, engine: Engine, result: Frame | ParallelError) -> None:
        """Pass one engine's answer on."""
        if not self.remaining:
            return
        self.remaining -= 1
        if self.step is not None:
            self.step.asked.discard(engine.id)
            if not isinstance(result, Frame) or result.code != Status.OK:
                self.interface.drop_step(self.step)
        flags = 0 if self.remaining else LAST
        if not self.remaining:
            self.parts.clear()
            self.client.calls.pop(self.frame.id, None)
            self.client.release(self.frame.size)
        if isinstance(result, Frame):
            self.client.forward(result, self.frame.id, code=result.code, flags=flags, engine=engine.id)
        else:
            self.client.fault(self.frame.id, result, engine=engine.id, last=bool(flags))


class _Part(Command):
    """What one engine does of a call."""

    __slots__ = ("broadcast", "engine", "submission")

    def __init__(self, submission: _Submission, engine: Engine, label: bytes) -> None:
        done = submission.interface.done
        super().__init__(submission.frame, submission.client, done, label=label, exclusive=True)
        self.engine = engine
        self.submission = submission
        self.broadcast = submission.remaining > 1


class MultiEngineInterface(Interface):
    """Passes commands on to the engines they name, in order, one at a time an engine.

    A command that fails clears what this interface had queued on that engine at that moment.
    """

    name = "multiengine"
    raw = True

    @remote
    def get_ids(self, client: ClientProxy) -> list[int]:
        """Return the ids of the engines this client reaches, ascending."""
        return [engine.id for engine in chosen(client, self.host.engines, "all")]

    @remote(raw=True)
    def submit(self, client: ClientProxy, frame: Frame) -> None:
        """Queue the payload on each of the targets; each answers for itself."""
        call = frame.json()
        if not isinstance(call, dict):
            raise OperationError("submit needs a JSON object")
        engines = self._engines(client, call.get("targets"))
        self._submit(client, frame, engines, call)

    def _submit(
        self,
        client: ClientProxy,
        frame: Frame,
        engines: list[Engine],
        call: dict[str, Any],
        step: Step | None = None,
    ) -> None:
        label = _label(call)
        submission = _Submission(self, client, frame, engines)
        submission.step = step
        client.hold(frame.size)
        client.calls[frame.id] = submission
        submission.kept = bool(call.get("kept"))
        parts = submission.parts = [_Part(submission, engine, label) for engine in engines]
        if call.get("watched"):
            submission.watch()
        for part in tuple(parts):
            part.engine.put(part)

    @remote(raw=True)
    def set_up(self, client: ClientProxy, frame: Frame) -> None:
        """Queue the payload on all engines, and keep it for those that join or restart."""
        call = frame.json()
        if not isinstance(call, dict) or call.get("targets") != "all":
            raise OperationError("on_join is for every engine: it takes no targets")
        engines = chosen(client, self.host.engines, "all")
        step = self._recording.record(frame, _label(call), client.grant, {engine.id: engine for engine in engines})
        self._tell_steps()
        if engines:
            self._submit(client, frame, engines, call, step)
        else:
            client.send(encode(Kind.RESULT, frame.id, flags=LAST))

    @remote
    def set_up_list(self) -> list[str]:
        """Return the labels of the steps that are kept for engines that join or restart."""
        return self._recording.labels()

    @remote
    def set_up_clear(self, client: ClientProxy) -> int:
        """Keep no steps any more, as far as this client reaches; return how many there were."""
        cleared = self._recording.clear(client.grant)
        self._tell_steps()
        return cleared

    def drop_step(self, step: Step) -> None:
        """A step failed when it was first done, or was withdrawn."""
        self._recording.drop(step)
        self._tell_steps()

    def _tell_steps(self) -> None:
        for client in self._clients:
            client.tell({"steps": len(self._recording)})

    async def start(self) -> None:
        """Begin with nothing recorded."""
        self._recording = Recording(self.host.monitor)
        self._clients: dict[ClientProxy, None] = {}

    def client_joined(self, client: ClientProxy) -> None:
        """One more to tell how many steps there are."""
        self._clients[client] = None
        if len(self._recording):
            client.tell({"steps": len(self._recording)})

    def client_left(self, client: ClientProxy) -> None:
        """One less."""
        self._clients.pop(client, None)

    def kernel_started(self, engine: Engine) -> None:
        """A fresh kernel does first what was recorded."""
        self._recording.replay(engine)

    def engine_left(self, engine: Engine) -> None:
        """Its id will be another's."""
        self._recording.engine_left(engine)

    @remote
    def watch_output(self, client: ClientProxy, call: int) -> None:
        """Tell the client what its call `call` writes, as long as it is under way."""
        submission = client.calls.get(call)
        if isinstance(submission, _Submission):
            submission.watch()

    @remote
    def clear_queue(self, client: ClientProxy, targets: Any) -> list[int]:
        """Fail what waits on the targets with `QueueCleared`; return how many on each."""
        return [engine.clear(self._is_ours) for engine in self._engines(client, targets)]

    @remote
    def queue_status(self, client: ClientProxy, targets: Any) -> list[dict[str, Any]]:
        """Return for each target what runs and what waits."""
        return [engine.queue_status() for engine in self._engines(client, targets)]

    @remote
    async def interrupt(self, client: ClientProxy, targets: Any) -> None:
        """Raise KeyboardInterrupt in what runs on the targets."""
        await self._each(client, targets, lambda engine: engine.interrupt())

    @remote
    async def restart(self, client: ClientProxy, targets: Any) -> None:
        """Start a fresh kernel under the same id on each target."""
        await self._each(client, targets, lambda engine: engine.restart())

    @remote
    async def kill(self, client: ClientProxy, targets: Any, controller: bool) -> None:
        """End the targets, and the controller if asked."""
        if controller:
            # The engine hosts end with their controller, so there is nobody to ask first.
            self.host.shut_down()
            return
        await self._each(client, targets, lambda engine: engine.stop())

    @remote
    def set_properties(self, client: ClientProxy, targets: Any, properties: dict[str, Any]) -> None:
        """Note something about the targets."""
        changed = [(engine, engine.properties | properties) for engine in self._engines(client, targets)]
        for engine, wanted in changed:
            size = len(json.dumps(wanted))
            if size > PROPERTIES:
                raise OperationError(
                    f"the properties of engine {engine.id} would take {size:,} bytes; the limit is {PROPERTIES:,}"
                )
        for engine, wanted in changed:
            engine.properties = wanted

    @remote
    def get_properties(self, client: ClientProxy, targets: Any, names: str | list[str] | None) -> list[Any]:
        """Return for each target the value of one name, a dict of several, or (None) of all."""
        engines = self._engines(client, targets)
        if names is None:
            return [engine.properties for engine in engines]
        if isinstance(names, str):
            return [_property(engine, names) for engine in engines]
        return [{name: _property(engine, name) for name in names} for engine in engines]

    @remote
    def has_properties(self, client: ClientProxy, targets: Any, names: str | list[str]) -> list[Any]:
        """Return for each target whether it has one name, or a list of that for several."""
        engines = self._engines(client, targets)
        if isinstance(names, str):
            return [names in engine.properties for engine in engines]
        return [[name in engine.properties for name in names] for engine in engines]

    @remote
    def del_properties(self, client: ClientProxy, targets: Any, names: str | list[str]) -> None:
        """Forget some of what is noted about the targets."""
        engines, names = self._engines(client, targets), [names] if isinstance(names, str) else names
        for engine in engines:
            for name in names:
                _property(engine, name)
        for engine in engines:
            engine.properties = {name: value for name, value in engine.properties.items() if name not in names}

    @remote
    def clear_properties(self, client: ClientProxy, targets: Any) -> None:
        """Forget all that is noted about the targets."""
        for engine in self._engines(client, targets):
            engine.properties = {}

    async def _each(self, client: ClientProxy, targets: Any, ask: Callable[[Engine], Any]) -> None:
        answers = [ask(engine) for engine in self._engines(client, targets)]
        for answer in answers:
            await answer

    def _engines(self, client: ClientProxy, targets: Any) -> list[Engine]:
        engines = chosen(client, self.host.engines, targets)
        if not engines:
            raise NoEnginesRegistered.among([engine.id for engine in chosen(client, self.host.engines, "all")])
        return engines

    def done(self, part: Any, result: Frame | ParallelError) -> None:
        """Take what an engine answers."""
        if isinstance(result, Frame) and result.code == Status.REJECTED:
            result.code = Status.ERROR  # it was meant for this engine: nobody looks for another
        failed = isinstance(result, ParallelError) or result.code in (Status.ERROR, Status.FAULT)
        # What stays in a queue that is cleared is not the user's own step: nothing was meant to build on it.
        failed = failed and not part.submission.kept
        # One that was withdrawn ends in an interrupt that nobody is told of: it does not count as a failure.
        wanted = part.submission.remaining > 0
        part.submission.answer(part.engine, result)
        if failed and wanted and not isinstance(result, QueueCleared):
            part.engine.clear(self._is_ours)

    def _is_ours(self, command: Command) -> bool:
        return isinstance(command, _Part) and not command.submission.kept


def _property(engine: Engine, name: str) -> Any:
    """Return a property of an engine.

    Raises:
        InvalidProperty: It does not have it.
    """
    if name not in engine.properties:
        known = ", ".join(sorted(engine.properties)) or "none"
        raise InvalidProperty(f"engine {engine.id} has no property {name!r}; it has {known}"[:1000])
    return engine.properties[name]


def _label(call: dict[str, Any]) -> bytes:
    return str(call.get("label", ""))[:80].encode()


class MultiEngineClient(MultiEngineCalls, Client):
    """The asyncio face: every method submits at once and returns an awaitable handle."""

    interface: ClassVar[str] = "multiengine"
    _view = View
    _on_join = OnJoin

    def _known_ids(self) -> list[int]:
        return sorted(self.channel.engines)

    def _begin_each(
        self,
        operation: str,
        finish: Finish,
        calls: Sequence[tuple[int, bytes, Sequence[Buffer]]],
        watch: Watch | None = None,
    ) -> Handle:
        """Call an operation several times as one; return the handle of all the answers."""
        channel = self.channel
        handle = Handle(loop=channel.loop)
        handle.sent(channel, call_each(channel, operation, handle, finish, calls, watch))
        return handle

    def _known_steps(self) -> int:
        return self.channel.steps


MultiEngineInterface.client = MultiEngineClient
