"""What happened, as values; Monitor: who is told. Sans-I/O."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "ClientJoined",
    "ClientLeft",
    "EngineJoined",
    "EngineLeft",
    "EngineSuspect",
    "Event",
    "KernelDied",
    "KernelRestarted",
    "LoopHeldUp",
    "Monitor",
    "PeerRefused",
    "Refusals",
    "SetUpFailed",
]

logger = logging.getLogger(__name__)

#: Seconds for which the next refusals of a kind are only counted: at first, and at most.
QUIET, LONGEST_QUIET = 1.0, 64.0
#: Kinds of refusals that are told apart at a time; strangers must not decide how much is remembered.
KINDS = 8


@dataclass(frozen=True, slots=True)
class EngineJoined:
    """An engine is ready for work.

    Attributes:
        engine: Its id.
        host: The machine it runs on.
        pid: The kernel's process id.
    """

    engine: int
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class EngineLeft:
    """An engine is gone.

    Attributes:
        engine: Its id.
        reason: Why, in words.
    """

    engine: int
    reason: str


@dataclass(frozen=True, slots=True)
class EngineSuspect:
    """An engine host has been silent for longer than `Limits.suspect`.

    Attributes:
        engine: The id.
        silent: Seconds of silence.
    """

    engine: int
    silent: float


@dataclass(frozen=True, slots=True)
class KernelDied:
    """A kernel ended by itself or was killed; its host starts another under the same id.

    Attributes:
        engine: Its id.
        reason: "killed by SIGKILL", "exit status 3".
        output: The last of what it wrote.
    """

    engine: int
    reason: str
    output: str


@dataclass(frozen=True, slots=True)
class KernelRestarted:
    """A fresh kernel serves under an old id.

    Attributes:
        engine: The id.
        pid: The new kernel's process id.
    """

    engine: int
    pid: int


@dataclass(frozen=True, slots=True)
class ClientJoined:
    """A client proved its capability.

    Attributes:
        interface: Which interface it may use.
        session: Its session id.
    """

    interface: str
    session: str


@dataclass(frozen=True, slots=True)
class ClientLeft:
    """A client's connection ended.

    Attributes:
        interface: Which interface it used.
        session: Its session id.
        reason: Why, in words.
    """

    interface: str
    session: str
    reason: str


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """Somebody was not let in.

    Attributes:
        source: Where it came from.
        reason: Why; never told to the peer.
        more: How many others were refused for such a reason, and not told of one by one.
    """

    source: str
    reason: str
    more: int = 0


@dataclass(frozen=True, slots=True)
class SetUpFailed:
    """A step of `on_join` failed on an engine that had joined or restarted; the engine goes on without it.

    Attributes:
        engine: Its id.
        step: The step, in a word: its code, the names it pushes.
        text: What went wrong.
    """

    engine: int
    step: str
    text: str


@dataclass(frozen=True, slots=True)
class LoopHeldUp:
    """The code of an interface kept the controller's loop to itself: nothing else happened meanwhile.

    Attributes:
        interface: Whose code.
        operation: Which operation, or what else of it: "start", "engine_joined", the name of a task.
        seconds: For how long.
    """

    interface: str
    operation: str
    seconds: float


Event: TypeAlias = (
    EngineJoined
    | EngineLeft
    | EngineSuspect
    | KernelDied
    | KernelRestarted
    | ClientJoined
    | ClientLeft
    | PeerRefused
    | SetUpFailed
    | LoopHeldUp
)


class Monitor:
    """Tells every listener what happened, in order; a listener that raises is logged and kept."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Event], object]] = []

    def __repr__(self) -> str:
        return f"<Monitor with {len(self._listeners)} listeners>"

    def listen(self, listener: Callable[[Event], object]) -> Callable[[], None]:
        """Call `listener` with every event from now on; return a function that ends that."""
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def publish(self, event: Event) -> None:
        """Tell every listener."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                logger.exception("a listener failed at %r", event)


class Refusals:
    """Which refusals are told, so that strangers at the door can't flood a log, or who listens.

    The first of a kind is told at once. The next ones are counted for a second, then told as one, and counted for two
    seconds, and so on, until a while goes by without any. Numbers in a reason make it no other kind.
    """

    def __init__(self) -> None:
        #: For each kind: until when it is counted, for how long, and the last one with how many before it.
        self._kinds: dict[str, tuple[float, float, PeerRefused | None]] = {}

    def __repr__(self) -> str:
        return f"<Refusals of {len(self._kinds)} kinds>"

    @property
    def due(self) -> float | None:
        """When `tell` has something to do, on the clock of `now`; None: when somebody has been refused."""
        return min((until for until, _, _ in self._kinds.values()), default=None)

    def add(self, source: str, reason: str, now: float) -> PeerRefused | None:
        """Take note that `source` was refused; return what to tell at once, if it is to be told."""
        kind = re.sub(r"\d+", "#", reason[:200])
        if kind not in self._kinds and len(self._kinds) >= KINDS:
            kind = ""
        if kind in self._kinds:
            until, quiet, last = self._kinds[kind]
            self._kinds[kind] = until, quiet, PeerRefused(source, reason, 0 if last is None else last.more + 1)
            return None
        self._kinds[kind] = now + QUIET, QUIET, None
        return PeerRefused(source, reason)

    def tell(self, now: float) -> list[PeerRefused]:
        """Return what has been counted for long enough."""
        told = []
        for kind, (until, quiet, last) in list(self._kinds.items()):
            if until > now:
                continue
            if last is None:
                del self._kinds[kind]
            else:
                told.append(last)
                quiet = min(2 * quiet, LONGEST_QUIET)
                self._kinds[kind] = now + quiet, quiet, None
        return told

    def flush(self) -> list[PeerRefused]:
        """Return all that has been counted, and begin again."""
        told = [last for _, _, last in self._kinds.values() if last is not None]
        self._kinds.clear()
        return told
