"""unix:///path: a socket in a 0700 directory, the peer's uid checked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from aioparallel.errors import AddressError
from aioparallel.transports import Gate, Listener, Peer, Slot, SocketListener, Transport, lent

if TYPE_CHECKING:
    from aioparallel.identity import Identity

__all__ = ["UnixTransport"]

#: Longest path that fits in `sockaddr_un` everywhere (Linux 108, macOS 104, with the terminating zero).
LONGEST = 103


class UnixTransport(Transport):
    """Unix stream sockets: the fastest way on one machine, and no network at all."""

    scheme: ClassVar[str] = "unix"

    async def connect(
        self, address: str, protocol_factory: Callable[[], asyncio.BaseProtocol], *, peer: Peer
    ) -> tuple[asyncio.Transport, Any]:
        """Dial the socket at `address` and check that its owner is this user or root.

        Raises:
            AddressError: The address is not `unix:///path`.
            OSError: Nobody listens there, or somebody else does.
        """
        path = _path(address)
        loop = asyncio.get_running_loop()
        dialled = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            dialled.setblocking(False)
            await loop.sock_connect(dialled, str(path))
            owner = _uid_of_peer(dialled)
            if owner is not None and owner not in (os.geteuid(), 0):
                raise PermissionError(f"{path} is served by user {owner}, not by you")
        except BaseException:
            dialled.close()
            raise
        adopting = loop.create_task(_adopt(dialled, protocol_factory))
        try:
            return await asyncio.shield(adopting)
        except asyncio.CancelledError:
            # In a turn or two there is a transport to abort. uvloop, cancelled meanwhile, would close the socket and
            # not tell a protocol that knows of its connection already.
            adopting.add_done_callback(_abort)
            await asyncio.wait([adopting])
            raise

    async def listen(
        self,
        address: str,
        protocol_factory: Callable[[Slot], asyncio.BaseProtocol],
        *,
        gate: Gate,
        identity: Identity | None,
    ) -> Listener:
        """Make the socket, in a directory that is this user's alone.

        Raises:
            AddressError: The path is relative, too long, taken, or its directory is open to others.
        """
        path = _path(address)
        _check_directory(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _bind(listening, path)
            listening.listen(512)
            listening.setblocking(False)
        except BaseException:
            listening.close()
            raise
        loop = asyncio.get_running_loop()

        async def adopt(accepted: socket.socket, slot: Slot) -> Any:
            return await loop.connect_accepted_socket(lambda: protocol_factory(slot), accepted)

        return _UnixListener(listening, f"unix://{path}", arrived=_source, adopt=adopt, gate=gate, trusted=True)


async def _adopt(
    dialled: socket.socket, protocol_factory: Callable[[], asyncio.BaseProtocol]
) -> tuple[asyncio.Transport, Any]:
    try:
        with lent(dialled):
            return await asyncio.get_running_loop().create_unix_connection(protocol_factory, sock=dialled)
    except BaseException:
        dialled.close()
        raise


def _abort(adopting: asyncio.Task[tuple[asyncio.Transport, Any]]) -> None:
    if not adopting.cancelled() and adopting.exception() is None:
        adopting.result()[0].abort()


class _UnixListener(SocketListener):
    async def aclose(self) -> None:
        """Stop listening and remove the socket's file."""
        already = self._socket.fileno() < 0
        await super().aclose()
        if not already:
            with contextlib.suppress(FileNotFoundError):
                _path(self.address).unlink()


def _path(address: str) -> Path:
    path = Path(address.removeprefix("unix://"))
    if not path.is_absolute():
        raise AddressError(f"{address!r}: a Unix socket's address is unix:///absolute/path")
    if len(os.fsencode(path)) > LONGEST:
        raise AddressError(f"{address!r}: the path is longer than the {LONGEST} bytes a Unix socket may have")
    return path


def _check_directory(path: Path) -> None:
    directory = path.parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise AddressError(f"unix://{path}: {error.strerror}: {error.filename}") from error
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise AddressError(f"unix://{path}: {directory} must be yours alone: chmod 700 {directory}")


def _bind(listening: socket.socket, path: Path) -> None:
    """Bind to `path`; a file left by a controller that is gone is replaced."""
    try:
        listening.bind(str(path))
    except OSError as error:
        if not path.is_socket() or _answers(path):
            raise AddressError(
                f"unix://{path}: {error.strerror}: somebody listens there, or the file is in the way"
            ) from error
        path.unlink()
        listening.bind(str(path))


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def _uid_of_peer(connected: socket.socket) -> int | None:
    """Return the uid at the other end, or None where the system does not say."""
    if sys.platform == "linux":
        _, uid, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(uid)
    if sys.platform == "darwin":
        # LOCAL_PEERCRED gives a struct xucred: version, uid, …
        _, uid = struct.unpack_from("2I", connected.getsockopt(0, 1, 76))
        return int(uid)
    return None


def _source(accepted: socket.socket, name: Any) -> str | None:
    uid = _uid_of_peer(accepted)
    return None if uid is not None and uid not in (os.geteuid(), 0) else f"uid {uid}"
