"""What happened, as values; Monitor: who is told. Sans-I/O."""

from __future__ import annotations

import logging
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
    "Monitor",
    "PeerRefused",
]

logger = logging.getLogger(__name__)


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
    """

    source: str
    reason: str


Event: TypeAlias = (
    EngineJoined | EngineLeft | EngineSuspect | KernelDied | KernelRestarted | ClientJoined | ClientLeft | PeerRefused
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
