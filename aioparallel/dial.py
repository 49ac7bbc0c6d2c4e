"""Reach a controller, and prove a capability to it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any

from aioparallel import transports
from aioparallel.capability import Capability
from aioparallel.connection import Connection
from aioparallel.errors import (
    AccessDenied,
    ConfigurationError,
    ConnectionFailed,
    ControllerGone,
    HandshakeError,
    NoClusterError,
    ParallelError,
)
from aioparallel.gate import HANDSHAKE
from aioparallel.handshake import ClientHandshake
from aioparallel.memory import TOKEN
from aioparallel.source import SYSTEM, Source
from aioparallel.transports import Peer
from aioparallel.wire import Frame, Limits

__all__ = ["PYTHON", "connect", "connect_patiently"]

logger = logging.getLogger(__name__)

#: This process's version of Python, as the other side is told.
PYTHON = ".".join(map(str, sys.version_info[:3]))

#: Seconds between attempts to reach a controller: at first, at most while it may be starting beside us, and at most.
FIRST_RETRY, SOON_RETRY, LAST_RETRY = 0.05, 0.2, 1.0
#: How much longer each is than the one before, and for how many seconds a controller may be starting.
RETRY_GROWTH, SOON = 1.3, 2.0


async def connect(
    capability: Capability,
    *,
    role: str,
    on_frames: Callable[[list[Frame]], None],
    on_lost: Callable[[BaseException | None], None],
    limits: Limits | None = None,
    source: Source = SYSTEM,
    body: dict[str, Any] | None = None,
) -> tuple[Connection, dict[str, Any]]:
    """Reach a controller, prove the capability, and return the open connection with the controller's welcome.

    The capability's addresses are tried in order; those whose transport is not installed here are passed over.
    Cancellation leaves nothing open.

    Args:
        capability: What to prove.
        role: "client" or "engine".
        on_frames: Called with the frames of one read.
        on_lost: Called once, when an open connection ends.
        limits: The bounds.
        source: Where the nonce comes from.
        body: More to say of this end.

    Raises:
        ControllerGone: Nobody answers at any of the addresses.
        AccessDenied: The controller refused the capability, or could not prove itself.
        VersionMismatch: The controller speaks another version.
        ConfigurationError: No transport that is installed here knows any of the addresses, or it can't be used.
    """
    failures: list[str] = []
    unusable: list[ConfigurationError] = []
    for address in capability.addresses:
        try:
            connection, welcome = await _connect_to(
                address,
                capability,
                on_frames=on_frames,
                on_lost=on_lost,
                limits=limits or Limits(),
                body={
                    "nonce": source.token(16).hex(),
                    "role": role,
                    "interface": capability.interface,
                    "python": PYTHON,
                    **(body or {}),
                },
            )
            if not transports.get(address).in_process:
                connection.offer_memory(source.token(TOKEN), hurry=role != "client")
            return connection, welcome
        except ConfigurationError as error:
            unusable.append(error)
            failures.append(str(error))
        except (OSError, TimeoutError) as error:
            if isinstance(error, ConnectionFailed):
                raise
            failures.append(f"{address}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}")
    if unusable and len(unusable) == len(failures):
        raise unusable[0]
    raise ControllerGone(
        f"no controller answers for the {capability.interface} capability of cluster {capability.cluster!r} "
        f"({'; '.join(failures) or 'it names no address'}); start one with: aiocluster start -n 4"
    )


async def connect_patiently(
    find: Callable[[], Capability],
    *,
    timeout: float | None = None,
    on_waiting: Callable[[ParallelError], None] | None = None,
    **options: Any,
) -> tuple[Connection, dict[str, Any]]:
    """Reach a controller as soon as there is one, as `connect`.

    Args:
        find: Finds the capability, again at each attempt.
        timeout: Seconds to wait; None waits for ever, 0 tries once.
        on_waiting: Called with the reason when there is none yet, and again when the reason changes.
        options: As for `connect`.

    Raises:
        ParallelError: As `connect`; `NoClusterError` and `ControllerGone` when the time is over.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    delay, told = FIRST_RETRY, ""
    while True:
        try:
            return await connect(find(), **options)
        except (NoClusterError, ControllerGone) as error:
            if timeout is not None:
                left = began + timeout - loop.time()
                if left <= 0:
                    raise
                delay = min(delay, left)
            if str(error) != told:
                told = str(error)
                logger.info("waiting for a controller: %s", told)
                if on_waiting is not None:
                    on_waiting(error)
        await asyncio.sleep(delay)
        longest = SOON_RETRY if loop.time() - began < SOON else LAST_RETRY
        delay = min(RETRY_GROWTH * delay, longest)


async def _connect_to(
    address: str,
    capability: Capability,
    *,
    on_frames: Callable[[list[Frame]], None],
    on_lost: Callable[[BaseException | None], None],
    limits: Limits,
    body: dict[str, Any],
) -> tuple[Connection, dict[str, Any]]:
    transport = transports.get(address)
    peer = Peer(capability.server_name, capability.certificates, capability.pins)
    opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def lost(error: BaseException | None) -> None:
        if not opened.done():
            opened.set_exception(error or ConnectionResetError("the controller hung up during the handshake"))
        else:
            on_lost(error)

    def open_up(_: Connection) -> None:
        if not opened.done():
            opened.set_result(None)

    connection = Connection(
        lambda made: ClientHandshake(capability, fingerprint=transport.vet(made, peer), body=body),
        limits=limits,
        on_open=open_up,
        on_frames=on_frames,
        on_lost=lost,
    )
    try:
        async with asyncio.timeout(HANDSHAKE):
            await transport.connect(address, lambda: connection, peer=peer)
            await opened
    except BaseException as error:
        connection.on_lost = lambda _: None
        connection.abort()
        if opened.done() and not opened.cancelled():
            opened.exception()
        if isinstance(error, HandshakeError):
            raise AccessDenied(f"{address}: {error}") from error
        raise
    handshake = connection.session.handshake
    assert isinstance(handshake, ClientHandshake)
    return connection, handshake.welcome
