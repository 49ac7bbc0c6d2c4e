"""What a controller keeps across restarts: identity, epoch, certificate, issued capabilities."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from aioparallel.capability import Capability, Grant
from aioparallel.errors import CapabilityError, ClusterError
from aioparallel.identity import Identity
from aioparallel.private import Secret, private_directory, private_file_read, private_file_write
from aioparallel.source import Source

__all__ = ["Authority", "ControllerState", "Record"]

FORMAT = 1
STATE_LIMIT = 16 * 1024 * 1024
RECORDS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Record:
    """One capability, as its controller knows it.

    Attributes:
        id: Its id.
        interface: What it is for.
        key: Its key, with no caveat folded in.
        issued: Unix time.
        note: For people.
        revoked: Whether it counts no more.
    """

    id: str
    interface: str
    key: Secret
    issued: float
    note: str = ""
    revoked: bool = False

    def grant(self) -> Grant:
        """Return what it allows, before any caveat."""
        return Grant(self.interface, self.id)


class Authority:
    """The table of a controller's capabilities. It has at most 10,000 entries."""

    def __init__(self, controller_id: str) -> None:
        self.controller_id = controller_id
        self._records: dict[str, Record] = {}
        # The one capability of each interface that is written into files, so that copies of the file go on working.
        self._standing: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Authority of {self.controller_id}: {len(self._records)} capabilities>"

    def __len__(self) -> int:
        return len(self._records)

    def issue(self, interface: str, source: Source, *, note: str = "") -> tuple[str, Secret]:
        """Make a new capability for `interface` and return its id and key.

        Raises:
            CapabilityError: The table is full.
        """
        if len(self._records) >= RECORDS_MAX:
            raise CapabilityError(f"a controller has at most {RECORDS_MAX} capabilities")
        record = Record(source.token(8).hex(), interface, Secret(source.token(32)), source.wall(), note)
        self._records[record.id] = record
        return record.id, record.key

    def for_interface(self, interface: str, source: Source) -> tuple[str, Secret]:
        """Return the standing capability of `interface`; it is issued the first time, and after it was revoked.

        Raises:
            CapabilityError: The table is full.
        """
        record = self._records.get(self._standing.get(interface, ""))
        if record is not None and not record.revoked:
            return record.id, record.key
        id_, key = self.issue(interface, source)
        self._standing[interface] = id_
        return id_, key

    def lookup(self, id_: str) -> Record | None:
        """Return what is known about a capability, also about a revoked one, or None."""
        return self._records.get(id_)

    def revoke(self, id_: str) -> None:
        """Let a capability count no more; its record stays, so that its holder is told why.

        Raises:
            CapabilityError: There is none of that id.
        """
        if id_ not in self._records:
            raise CapabilityError(f"there is no capability {id_!r}")
        self._records[id_] = replace(self._records[id_], revoked=True)

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain values. They hold the keys."""
        records = [
            {
                "id": record.id,
                "interface": record.interface,
                "key": record.key.hex(),
                "issued": record.issued,
                "note": record.note,
                "revoked": record.revoked,
            }
            for record in self._records.values()
        ]
        return {"controller": self.controller_id, "capabilities": records, "standing": dict(self._standing)}

    @classmethod
    def from_json(cls, plain: object) -> Authority:
        """Return the table that `to_json` described.

        Raises:
            CapabilityError: It is something else.
        """
        match plain:
            case {"controller": str(controller), "capabilities": [*capabilities], "standing": {**standing}}:
                authority = cls(controller)
            case _:
                raise CapabilityError("the table of capabilities is damaged")
        for capability in capabilities:
            record = _record(capability)
            authority._records[record.id] = record
        for interface, id_ in standing.items():
            if not isinstance(id_, str) or id_ not in authority._records:
                raise CapabilityError("the table of capabilities is damaged: a standing one is missing")
            authority._standing[str(interface)] = id_
        return authority


def _record(plain: object) -> Record:
    match plain:
        case {
            "id": str(id_),
            "interface": str(interface),
            "key": str(key),
            "issued": int() | float() as issued,
            "note": str(note),
            "revoked": bool(revoked),
        }:
            return Record(id_, interface, Secret.from_hex(key), issued, note, revoked)
    raise CapabilityError("the table of capabilities is damaged: an entry is incomplete")


class ControllerState:
    """What a controller keeps across restarts, in one 0600 file, which is replaced as a whole at each change.

    It is locked while it is open, so two controllers never share it; `close` (or leaving its `with`) unlocks it.
    One without a path is kept in memory only.

    Attributes:
        controller_id: Who this controller is, for good.
        epoch: Which of its lives this is, from 1.
        authority: Its capabilities.
    """

    def __init__(self, controller_id: str, source: Source, *, path: Path | None = None) -> None:
        self.controller_id = controller_id
        self.epoch = 1
        self.authority = Authority(controller_id)
        self._source = source
        self._path = path
        self._lock: FileIO | None = None
        self._serial = 0
        self._tls: tuple[Secret, str] | None = None
        self._identity: Identity | None = None

    @classmethod
    def in_memory(cls, source: Source) -> ControllerState:
        """Return the state of a new controller that leaves nothing behind."""
        return cls(source.token(16).hex(), source)

    @classmethod
    def open(cls, path: Path, source: Source) -> ControllerState:
        """Load the state at `path` and begin its next epoch, or make a new one.

        Raises:
            ClusterError: Another controller has it open.
            CapabilityError: It could have been read or written by others, is damaged, or can't be written.
        """
        lock = _locked(path)
        try:
            try:
                state = cls._from_json(private_file_read(path, limit=STATE_LIMIT), path, source)
                state.epoch += 1
            except FileNotFoundError:
                state = cls(source.token(16).hex(), source, path=path)
            state.save()
        except BaseException:
            lock.close()
            raise
        state._lock = lock
        return state

    def __repr__(self) -> str:
        return f"<ControllerState {self.controller_id} epoch {self.epoch} at {self._path or 'no path'}>"

    def __enter__(self) -> ControllerState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another controller open it. Nothing is written: every change was when it happened."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def save(self) -> None:
        """Write it; a change counts once this has returned.

        Raises:
            CapabilityError: The file can't be written; the old one is untouched.
        """
        if self._path is None:
            return
        key, certificate = self._tls or (None, None)
        plain = {
            "format": FORMAT,
            "epoch": self.epoch,
            "serial": self._serial,
            "authority": self.authority.to_json(),
            "tls": {"key": key.reveal().decode(), "certificate": certificate} if key else None,
        }
        private_file_write(self._path, (json.dumps(plain, indent=1) + "\n").encode(), self._source)

    def identity(self) -> Identity:
        """Return the key and certificate of this controller; they are made and saved the first time.

        Raises:
            ConfigurationError: They must be made and trustme is not installed.
            CapabilityError: They are damaged or can't be saved.
        """
        if self._identity is None and self._tls is not None:
            self._identity = Identity.load(self.controller_id, *self._tls)
        if self._identity is None:
            made = Identity.new(self.controller_id, self._source.wall())
            self._tls = (made.key_pem, made.certificate_pem)
            self.save()
            self._identity = made
        return self._identity

    def capability(self, interface: str, *, cluster: str, addresses: tuple[str, ...], note: str = "") -> Capability:
        """Return the standing capability of `interface`, with the certificate pinned if `identity` was asked for.

        It is known to this state, and saved, before anybody can hold it.

        Raises:
            CapabilityError: The table is full or can't be saved.
        """
        id_, key = self.authority.for_interface(interface, self._source)
        self._serial += 1
        self.save()
        identity = self._identity
        return Capability(
            id=id_,
            interface=interface,
            controller=self.controller_id,
            cluster=cluster,
            addresses=addresses,
            server_name=identity.server_name if identity else "",
            pins=(identity.fingerprint.hex(),) if identity else (),
            certificates=(identity.certificate_pem,) if identity else (),
            key=key,
            caveats=(),
            issued=self._source.wall(),
            serial=self._serial,
            note=note,
        )

    @classmethod
    def _from_json(cls, data: bytes, path: Path, source: Source) -> ControllerState:
        try:
            match json.loads(data.decode()):
                case {"format": 1, "epoch": int(epoch), "serial": int(serial), "authority": plain, "tls": tls}:
                    pass
                case _:
                    raise CapabilityError(f"it is not a controller's state of format {FORMAT}")
            authority = Authority.from_json(plain)
            state = cls(authority.controller_id, source, path=path)
            state.authority, state.epoch, state._serial = authority, epoch, serial
            state._tls = _tls(tls)
        except CapabilityError as error:
            raise CapabilityError(f"{path} can't be used: {error}; remove it to start as a new controller") from None
        except (ValueError, RecursionError):
            raise CapabilityError(f"{path} holds no JSON; remove it to start as a new controller") from None
        return state


def _tls(plain: object) -> tuple[Secret, str] | None:
    match plain:
        case None:
            return None
        case {"key": str(key), "certificate": str(certificate)}:
            return Secret(key.encode()), certificate
    raise CapabilityError("its key and certificate are damaged")


def _locked(path: Path) -> FileIO:
    """Return the open file whose lock keeps other controllers out; the system unlocks it when we die."""
    private_directory(path.parent)
    at = path.with_suffix(".lock")
    try:
        lock = FileIO(str(at), "r+", opener=_open_lock)
    except OSError as error:
        raise CapabilityError(f"cannot lock {at}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock.fileno(), 0)
        os.pwrite(lock.fileno(), str(os.getpid()).encode(), 0)
    except OSError as error:
        holder = lock.read(32).decode("ascii", "replace")
        lock.close()
        if not isinstance(error, BlockingIOError):
            raise CapabilityError(f"cannot lock {at}: {error.strerror}") from None
        running = f"a controller runs for {path.parent} already (process {holder})"
        raise ClusterError(f"{running}: end it with aiocluster stop, or give this one another cluster name") from None
    return lock


def _open_lock(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
