"""Every exception, the tree drawn on top.

ParallelError
├── ConfigurationError          (ValueError)    an argument, address or plug-in that can't be used
│   ├── AddressError                            an address nobody can listen on or dial
│   └── PluginError                             an interface, transport, launcher or queue that is refused
├── CapabilityError                             a capability file that can't be trusted or read
│   └── NoClusterError                          no capability file where one was looked for
├── ConnectionFailed            (ConnectionError)
│   ├── ControllerGone                          the file is there, its controller is not
│   ├── AccessDenied                            the two could not prove themselves to each other
│   ├── VersionMismatch                         the two don't speak the same version
│   └── ConnectionLost                          a connection ended while work was waiting for it
├── ProtocolError                               a peer broke the rules of the wire
│   └── HandshakeError                          … before it was let in
├── MessageTooLarge             (ValueError)    more than `Limits` allows in one message
├── SerializationError          (TypeError)     an object that can't be sent
│   └── DeserializationError                    one that arrived and can't be rebuilt
├── ClusterError                                a cluster that didn't start or didn't stay
├── OperationError                              a call that the controller refused
│   ├── InvalidEngineID         (LookupError)   a target that does not exist
│   ├── InvalidProperty         (LookupError)   a property that an engine does not have
│   ├── InvalidTaskID           (LookupError)   a task that does not exist
│   ├── ParentsDelivered                        a task whose parents have been answered: the client mends it
│   └── NoEnginesRegistered                     all engines were asked for, and there are none
├── InvalidDeferredID           (LookupError)   a result that `flush` has forgotten
├── QueueCleared                                a command that was removed before it ran
├── Preempted                                   an interface interrupted it: it needed the engine
├── EngineDied                                  a kernel ended while it had work
│   └── EngineLost                              … and its host with it; or the work may not be done twice
├── TaskError                                   a task that was not done
│   ├── TaskAborted                             it was taken back
│   ├── TaskTimeout             (TimeoutError)  it ran longer than it was allowed to
│   ├── TaskPoisoned                            kernel after kernel died while it ran
│   ├── TaskRejectError                         raised by a task: not on this engine
│   ├── DependencyError                         what it depends on has failed, or is nowhere to be had
│   └── ResultGone              (LookupError)   it was done, and its result is not kept any more
├── SimulationFailed            (AssertionError) a promise that a simulated cluster did not keep
└── RemoteError                                 an exception that can't be rebuilt here
CompositeError                  (ExceptionGroup)    what several engines raised
PythonVersionWarning            (UserWarning)   engine and client run different Pythons
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, ClassVar, TextIO

__all__ = [
    "AccessDenied",
    "AddressError",
    "CapabilityError",
    "ClusterError",
    "CompositeError",
    "ConfigurationError",
    "ConnectionFailed",
    "ConnectionLost",
    "ControllerGone",
    "Death",
    "DependencyError",
    "DeserializationError",
    "EngineDied",
    "EngineLost",
    "HandshakeError",
    "InvalidDeferredID",
    "InvalidEngineID",
    "InvalidProperty",
    "InvalidTaskID",
    "MessageTooLarge",
    "NoClusterError",
    "NoEnginesRegistered",
    "OperationError",
    "ParallelError",
    "ParentsDelivered",
    "PluginError",
    "Preempted",
    "ProtocolError",
    "PythonVersionWarning",
    "QueueCleared",
    "RemoteError",
    "ResultGone",
    "SerializationError",
    "SimulationFailed",
    "TaskAborted",
    "TaskError",
    "TaskPoisoned",
    "TaskRejectError",
    "TaskTimeout",
    "VersionMismatch",
    "from_plain",
    "to_plain",
]


class ParallelError(Exception):
    """Everything that aioparallel itself raises (user exceptions arrive as themselves)."""

    #: Attributes that travel with the text, by name: of which type, and what they are without a value of it.
    _carried: ClassVar[Mapping[str, tuple[type | tuple[type, ...], Any]]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to rebuild it, with whatever else it carries."""
        return _rebuilt, (type(self), self.args, self.__dict__)


class ConfigurationError(ParallelError, ValueError):
    """An argument or a setting that can't be used; the text says which and what would do."""


class AddressError(ConfigurationError):
    """An address nobody can listen on or dial."""


class PluginError(ConfigurationError):
    """An interface, transport, launcher or queue that is refused; the text names it and what was expected."""


class CapabilityError(ParallelError):
    """A capability file that can't be trusted or read; the text names the file and the way out."""


class NoClusterError(CapabilityError):
    """There is no capability file where one was looked for: no cluster has been started."""


class ConnectionFailed(ParallelError, ConnectionError):
    """No usable connection to a controller."""


class ControllerGone(ConnectionFailed):
    """The capability file is there, but the controller that wrote it does not answer."""


class AccessDenied(ConnectionFailed):
    """The controller refused the capability, or could not prove that it knows it."""


class VersionMismatch(ConnectionFailed):
    """The two ends don't speak the same version; the text names both."""


class ConnectionLost(ConnectionFailed):
    """The connection to the controller ended while work was waiting for it."""


class ProtocolError(ParallelError):
    """A peer broke the rules of the wire; its connection is closed."""


class HandshakeError(ProtocolError):
    """A peer was not let in.

    Attributes:
        reply: The bytes that the peer may still be sent before its connection is closed.
    """

    def __init__(self, text: str, reply: bytes = b"") -> None:
        super().__init__(text)
        self.reply = reply


class MessageTooLarge(ParallelError, ValueError):
    """A message above the limit; nothing of it was sent."""


class SerializationError(ParallelError, TypeError):
    """An object that can't be sent; the text names the path to it."""


class DeserializationError(SerializationError):
    """An object that arrived and can't be rebuilt here; the text holds the original reason."""


class ClusterError(ParallelError):
    """A cluster that did not start, or did not stay."""


class OperationError(ParallelError):
    """A call that the controller refused; the text says why."""


class InvalidEngineID(OperationError, LookupError):
    """A target that does not exist."""


class InvalidProperty(OperationError, LookupError):
    """A property that an engine does not have."""


class InvalidTaskID(OperationError, LookupError):
    """A task that does not exist."""


class ParentsDelivered(OperationError):
    """A task depends on calls that the controller has answered: whoever has the answers knows what follows from them.

    Attributes:
        calls: Their numbers.
    """

    _carried: ClassVar = {"calls": ((list, tuple), ())}

    def __init__(self, text: str, *, calls: Sequence[int] = ()) -> None:
        super().__init__(text)
        self.calls = tuple(calls)


class NoEnginesRegistered(OperationError):
    """All engines were asked for, and there are none; or an empty list of them was."""

    def __init__(self, text: str = "") -> None:
        super().__init__(
            text
            or "there are no engines; start some with `aiocluster engines -n 4`, or see why there are none: "
            "`aiocluster logs`"
        )

    @classmethod
    def among(cls, known: Sequence[int]) -> NoEnginesRegistered:
        """Return the error for targets that name none, where these engines are."""
        if not known:
            return cls()
        return cls(f"targets are an empty list, which names no engine; engines: {', '.join(map(str, known))}")


class InvalidDeferredID(ParallelError, LookupError):
    """The result was forgotten by `flush` before anybody had asked for it."""


class QueueCleared(ParallelError):
    """The command was removed from an engine's queue before it ran."""


class Preempted(ParallelError):
    """The command was interrupted, because an interface that may do so needed the engine at once."""


class EngineDied(ParallelError):
    """The kernel ended while it had work; what was in its namespace is lost.

    Attributes:
        engine_id: Which engine, or None if unknown.
        reason: How the process ended: "killed by SIGKILL", "exit status 3".
        output: The last of what it wrote to stdout and stderr.
        running: Whether the command was running at that moment.
        begun: Whether it had begun: it was running, or it was done and its result is lost.
    """

    _carried: ClassVar = {
        "engine_id": (int, None), "reason": (str, ""), "output": (str, ""), "running": (bool, False),
        "begun": (bool, False),
    }  # fmt: skip

    def __init__(
        self,
        text: str,
        *,
        engine_id: int | None = None,
        reason: str = "",
        output: str = "",
        running: bool = False,
        begun: bool = False,
    ) -> None:
        super().__init__(text)
        self.running = running
        self.begun = begun or running
        self.engine_id = engine_id
        self.reason = reason
        self.output = output


class EngineLost(EngineDied):
    """The engine is lost to this work: its host is gone, or the work must not run twice and its kernel died."""


@dataclass(frozen=True, slots=True)
class Death:
    """How a kernel ended while it ran a task.

    Attributes:
        engine: Whose kernel it was.
        reason: How the process ended: "killed by SIGKILL", "exit status 3".
        output: The last of what it wrote to stdout and stderr.
    """

    engine: int
    reason: str
    output: str


class TaskError(ParallelError):
    """A task that was not done, and not because of what its code raised."""


class TaskAborted(TaskError):
    """The task was taken back while it waited or ran.

    Attributes:
        step: What ended it: "waiting" (it never began), "interrupt", "terminate" or "kill".
        seconds: How long that took, from the first step on.
    """

    _carried: ClassVar = {"step": (str, ""), "seconds": ((int, float), 0.0)}

    def __init__(self, text: str, *, step: str = "", seconds: float = 0.0) -> None:
        super().__init__(text)
        self.step = step
        self.seconds = seconds


class TaskTimeout(TaskError, TimeoutError):
    """The task ran longer than its `timeout`.

    Attributes:
        step: What ended it: "interrupt", "terminate" or "kill".
        seconds: How long it took to end it, from the first step on.
        engine_id: Where it ran, or None if unknown.
    """

    _carried: ClassVar = {"step": (str, ""), "seconds": ((int, float), 0.0), "engine_id": (int, None)}

    def __init__(self, text: str, *, step: str = "", seconds: float = 0.0, engine_id: int | None = None) -> None:
        super().__init__(text)
        self.step = step
        self.seconds = seconds
        self.engine_id = engine_id


class TaskPoisoned(TaskError):
    """Kernel after kernel died while it ran the task, which is not tried again.

    Attributes:
        deaths: Each death, in order.
    """

    _carried: ClassVar = {"deaths": ((list, tuple), ())}

    def __init__(self, text: str, *, deaths: Sequence[Death | Sequence[Any]] = ()) -> None:
        super().__init__(text)
        self.deaths = tuple(death if isinstance(death, Death) else Death(*death) for death in deaths)


class TaskRejectError(TaskError):
    """Raised by a task that can't run on this engine: it is given to another, and that counts as no failure."""


class DependencyError(TaskError):
    """A task can't run: a parent has failed (the cause says how), or no engine has what it needs."""


class ResultGone(TaskError, LookupError):
    """The task was done, but its result is not kept any more: it was delivered, cleared, too old, or too much."""


class SimulationFailed(ParallelError, AssertionError):
    """A promise that a simulated cluster (`aioparallel.testing`) did not keep; the text says which, and how it came."""


class RemoteError(ParallelError):
    """An exception on an engine that can't be raised here as itself.

    Attributes:
        type_name: The original class's name, with its module unless that is `builtins`.
        text: The original text.
        traceback_text: The remote traceback, formatted.
        engine_id: Where it happened, or None if unknown.
    """

    def __init__(self, type_name: str, text: str, traceback_text: str = "", engine_id: int | None = None) -> None:
        super().__init__(f"{type_name}: {text}" if text else type_name)
        self.type_name = type_name
        self.text = text
        self.traceback_text = traceback_text
        self.engine_id = engine_id

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteError, (self.type_name, self.text, self.traceback_text, self.engine_id)


class CompositeError(ExceptionGroup[Exception]):
    """What several engines raised, one exception an engine; `except*` looks inside.

    The text lists every engine: `[0:execute]: ZeroDivisionError: division by zero`.
    """

    def __new__(cls, message: str, exceptions: Sequence[Exception]) -> CompositeError:
        """Make the group and put one line an engine under its message."""
        lines = [message]
        for error in exceptions:
            engine = getattr(error, "engine_id", None)
            method = getattr(error, "method", "call")
            name = error.type_name if isinstance(error, RemoteError) else type(error).__name__
            text = error.text if isinstance(error, RemoteError) else text_of(error)
            first = text.strip().partition("\n")[0]
            lines.append(f"[{'?' if engine is None else engine}:{method}]: {name}: {first}".rstrip(": "))
        group = super().__new__(cls, "\n".join(lines), exceptions)
        group.headline = message
        return group

    headline: str

    def derive(self, excs: Sequence[Exception], /) -> CompositeError:  # type: ignore[override]
        """Return a group of the same kind for `except*`."""
        return CompositeError(self.headline, excs)

    def __reduce__(self) -> tuple[Any, ...]:
        return CompositeError, (self.headline, list(self.exceptions))

    def __str__(self) -> str:
        return self.message

    def print_tracebacks(self, excid: int | None = None, file: TextIO | None = None) -> None:
        """Print the remote tracebacks, or the one at position `excid`, to `file` or stdout.

        Raises:
            IndexError: `excid` is not a position in this group.
        """
        chosen = self.exceptions if excid is None else (self._at(excid),)
        for error in chosen:
            notes = getattr(error, "__notes__", None) or [f"{type(error).__name__}: {text_of(error)}"]
            print("\n".join(notes), file=file or sys.stdout)

    def raise_exception(self, excid: int = 0) -> None:
        """Raise the exception at position `excid`.

        Raises:
            IndexError: `excid` is not a position in this group.
            Exception: The one that was asked for.
        """
        raise self._at(excid)

    def _at(self, excid: int) -> Exception:
        try:
            return self.exceptions[excid]
        except IndexError:
            last = len(self.exceptions) - 1
            raise IndexError(f"there is no exception {excid} in this group; they are numbered 0 to {last}") from None


def text_of(error: BaseException) -> str:
    """Return an exception's text, also when its own class can't tell it."""
    try:
        return str(error)
    except BaseException:
        return f"<{type(error).__name__} whose text can't be had>"


class PythonVersionWarning(UserWarning):
    """An engine runs another Python than this client: functions without an import path can't travel."""


def to_plain(error: BaseException) -> dict[str, Any]:
    """Describe one of our own exceptions in plain values, for a process that can't pickle."""
    plain: dict[str, Any] = {"error": type(error).__name__, "text": str(error)}
    for name in getattr(error, "_carried", ()):
        plain[name] = getattr(error, name)
    if isinstance(error, TaskPoisoned):
        plain["deaths"] = [astuple(death) for death in error.deaths]
    if isinstance(error, RemoteError):
        plain["remote"] = [error.type_name, error.text, error.traceback_text, error.engine_id]
    return plain


def from_plain(plain: dict[str, Any]) -> ParallelError:
    """Rebuild what `to_plain` described; a name that isn't ours becomes an `OperationError`."""
    kind = globals().get(str(plain.get("error")))
    text = str(plain.get("text", ""))
    if kind is RemoteError and isinstance(plain.get("remote"), list) and len(plain["remote"]) == 4:
        name, said, traceback, engine_id = plain["remote"]
        return RemoteError(str(name), str(said), str(traceback), engine_id if isinstance(engine_id, int) else None)
    if not (isinstance(kind, type) and issubclass(kind, ParallelError)) or kind is RemoteError:
        return OperationError(f"{plain.get('error')}: {text}")
    carried = {}
    for name, (kinds, otherwise) in kind._carried.items():
        value = plain.get(name)
        carried[name] = value if isinstance(value, kinds) else otherwise
    try:
        return kind(text, **carried)
    except TypeError:
        return kind(text)


def _rebuilt(kind: type[ParallelError], args: tuple[Any, ...], attributes: dict[str, Any]) -> ParallelError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error
