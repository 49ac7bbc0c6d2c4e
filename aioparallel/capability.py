r"""Authority as a 0600 file: save, load, narrow.

A capability is an id and a 32-byte key, for one interface of one controller. Who holds the file may do what it says.
Restrictions ("caveats") are folded into the key one after the other, which anybody can do offline and nobody can
undo: `k' = HMAC-SHA256(k, "caveat\0" + caveat)`. The controller starts from its own copy of the key, folds the
caveats the peer names, and compares proofs; a caveat left out, changed or put in another order gives another key.

    exp=<unix time>     not after that moment
    ops=<name>,<name>   only these operations
    engines=3-7,9       only these engines

Several caveats of one kind all hold, so none can widen what an earlier one left. One that is not known is refused.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from aioparallel.errors import CapabilityError, ConfigurationError, NoClusterError
from aioparallel.private import FILE_LIMIT, Secret, private_directory, private_file_read, private_file_write
from aioparallel.source import Source

__all__ = [
    "Capability",
    "Grant",
    "Secret",
    "capability_path",
    "check_name",
    "environment_capability",
    "find_capability",
    "fold",
    "private_directory",
    "private_file_read",
    "private_file_write",
    "state_directory",
]

FORMAT = 1
CAVEATS_MAX = 8
CAVEAT_LENGTH = 128
ENGINES_MAX = 65535
LINE_PREFIX = "aioparallel-cap-1:"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OPERATIONS = re.compile(r"[A-Za-z_]\w*(,[A-Za-z_]\w*)*", re.ASCII)
_ENGINES = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*", re.ASCII)
_MOMENT = re.compile(r"\d{1,12}(\.\d{1,6})?", re.ASCII)
_HEX_32 = re.compile(r"[0-9a-f]{64}")


def fold(key: bytes, caveats: Iterable[str]) -> bytes:
    """Return the key that `caveats`, in this order, make of `key`.

    Raises:
        UnicodeEncodeError: A caveat holds a lone surrogate.
    """
    for caveat in caveats:
        key = hmac.digest(key, b"caveat\0" + caveat.encode(), "sha256")
    return key


def check_name(name: str, what: str) -> str:
    """Return `name` if it can be part of a file name.

    Raises:
        ConfigurationError: It can't; `what` says what it was meant to name.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} can't name {what}: letters, digits, '.', '_' and '-', at most 64, no '.' first"
        )
    return name


# Where files are


def state_directory(explicit: Path | None = None) -> Path:
    """Return the directory of capability files, logs and sockets: `explicit`, AIOPARALLEL_DIR, or ~/.aioparallel.

    Raises:
        ConfigurationError: AIOPARALLEL_DIR is a relative path, or there is no home directory.
    """
    try:
        if explicit is not None:
            return Path(explicit).expanduser().absolute()
        named = Path(os.environ.get("AIOPARALLEL_DIR") or "~/.aioparallel").expanduser()
    except RuntimeError:
        raise ConfigurationError("there is no home directory: set AIOPARALLEL_DIR to an absolute path") from None
    # A relative one would make the working directory decide whose keys are used.
    if not named.is_absolute():
        raise ConfigurationError(f"AIOPARALLEL_DIR must be an absolute path, not {str(named)!r}")
    return named


def environment_capability(interface: str) -> Path | None:
    """Return the file that AIOPARALLEL_CAP names for `interface`, or None if it is not set.

    It holds the path of one capability file, or of a directory of them.

    Raises:
        ConfigurationError: It is a relative path, or holds a capability instead of a path.
    """
    value = os.environ.get("AIOPARALLEL_CAP")
    if not value:
        return None
    if value.startswith((LINE_PREFIX, "{")):
        raise ConfigurationError("AIOPARALLEL_CAP holds a path, never a capability: environments are seen by others")
    path = Path(value).expanduser()
    if not path.is_absolute():
        raise ConfigurationError(f"AIOPARALLEL_CAP must be an absolute path, not {value!r}")
    return path / f"{check_name(interface, 'an interface')}.cap" if path.is_dir() else path


def capability_path(interface: str, *, cluster: str = "default", directory: Path | None = None) -> Path:
    """Return where the capability of `interface` of `cluster` lies below the state directory.

    Raises:
        ConfigurationError: A name that can't be part of a file name, or as `state_directory`.
    """
    check_name(cluster, "a cluster")
    check_name(interface, "an interface")
    return state_directory(directory) / "security" / cluster / f"{interface}.cap"


# What may be done


@dataclass(frozen=True, slots=True)
class Grant:
    """What a proven capability allows. None stands for "all" or "for ever".

    Attributes:
        interface: The one interface it is for.
        id: The capability's id.
        ops: The operations of that interface.
        engines: The engine ids.
        expires: Unix time from which on it is void.
    """

    interface: str
    id: str
    ops: frozenset[str] | None = None
    engines: frozenset[int] | None = None
    expires: float | None = None

    def restricted(self, caveats: Iterable[str]) -> Grant:
        """Return what is left of this grant under `caveats`: never more than there was.

        Raises:
            CapabilityError: A caveat that is not known or can't be understood.
        """
        grant = self
        for caveat in caveats:
            grant = grant._under(caveat)
        return grant

    def narrowed(self, caveats: Iterable[str], now: float) -> Grant:
        """Return what is left of this grant under `caveats` at the Unix time `now`.

        Raises:
            CapabilityError: A caveat that is not known or can't be understood, or the grant has expired.
        """
        grant = self.restricted(caveats)
        if grant.expired(now):
            raise CapabilityError("the capability has expired")
        return grant

    def expired(self, now: float) -> bool:
        """Tell whether it is void at the Unix time `now`; a clock that is not a number voids it too."""
        return self.expires is not None and not now < self.expires

    def allows(self, op: str) -> bool:
        """Tell whether the operation `op` may be called."""
        return self.ops is None or op in self.ops

    def _under(self, caveat: str) -> Grant:
        kind, _, value = caveat.partition("=")
        if len(caveat) > CAVEAT_LENGTH:
            raise CapabilityError(f"a caveat has at most {CAVEAT_LENGTH} characters, not {len(caveat)}")
        if kind == "exp" and _MOMENT.fullmatch(value):
            return replace(self, expires=min(float(value), math.inf if self.expires is None else self.expires))
        if kind == "ops" and _OPERATIONS.fullmatch(value):
            ops = frozenset(value.split(","))
            return replace(self, ops=ops if self.ops is None else ops & self.ops)
        if kind == "engines" and _ENGINES.fullmatch(value):
            engines = _engine_ids(value)
            return replace(self, engines=engines if self.engines is None else engines & self.engines)
        known = "exp=<unix time>, ops=<name>,<name>, engines=3-7,9"
        raise CapabilityError(f"the caveat {caveat!r} can't be understood; known are {known}")


def _engine_ids(value: str) -> frozenset[int]:
    spans = [[int(end) for end in part.split("-")] for part in value.split(",")]
    for span in spans:
        if span[0] > span[-1] or span[-1] >= ENGINES_MAX:
            raise CapabilityError(f"engines={value}: ids go from 0 to {ENGINES_MAX - 1}, ranges upwards")
    # Bounded before anything is built: fifteen full ranges fit into one caveat.
    if sum(span[-1] - span[0] + 1 for span in spans) > ENGINES_MAX:
        raise CapabilityError(f"engines={value}: these ranges overlap")
    return frozenset(engine for span in spans for engine in range(span[0], span[-1] + 1))


# The file itself


@dataclass(frozen=True, slots=True, repr=False)
class Capability:
    """What one interface's file holds: where the controller is, how to know it, and the right to use it.

    Attributes:
        id: Which capability this is, to the controller.
        interface: The one interface it is for.
        controller: The controller's id.
        cluster: The cluster's name.
        addresses: Where the controller listens; hints, tried in order.
        server_name: The name in the controller's certificate, or "".
        pins: SHA-256 of the certificates that are accepted, as hexadecimal digits: the current one and the next.
        certificates: Those certificates, PEM.
        key: 32 bytes, with all caveats folded in.
        caveats: What has been narrowed, in order.
        issued: Unix time.
        serial: Higher in every file that the controller writes anew.
        note: For people.
    """

    id: str
    interface: str
    controller: str
    cluster: str
    addresses: tuple[str, ...]
    server_name: str
    pins: tuple[str, ...]
    certificates: tuple[str, ...]
    key: Secret
    caveats: tuple[str, ...]
    issued: float
    serial: int
    note: str

    def __repr__(self) -> str:
        caveats = f" [{' '.join(self.caveats)}]" if self.caveats else ""
        where = ", ".join(self.addresses) or "no address"
        return f"<Capability {self.id}: {self.interface} of {self.cluster!r} at {where}{caveats}>"

    def narrow(self, *caveats: str) -> Capability:
        """Return a capability for less; nobody who holds only that one can get this one back.

        Raises:
            CapabilityError: A caveat that is not known, or more than a controller accepts.
        """
        total = self.caveats + caveats
        if len(total) > CAVEATS_MAX:
            raise CapabilityError(f"a capability has at most {CAVEATS_MAX} caveats, not {len(total)}")
        Grant(self.interface, self.id).restricted(total)
        return replace(self, key=Secret(fold(self.key.reveal(), caveats)), caveats=total)

    def save(self, path: Path, source: Source) -> None:
        """Write it to `path`, mode 0600, all or nothing; missing directories are made with mode 0700.

        Raises:
            CapabilityError: The place is not safe or can't be written, or the capability is above 64 KiB.
        """
        data = (json.dumps(self._to_json(), indent=1) + "\n").encode()
        if len(data) > FILE_LIMIT:
            raise CapabilityError(f"cannot write {path}: a capability file has at most {FILE_LIMIT} bytes")
        private_file_write(path, data, source)

    @classmethod
    def load(cls, path: Path) -> Capability:
        """Return the capability in the file at `path`.

        Raises:
            NoClusterError: There is no such file.
            CapabilityError: It could have been read or written by others, or is not a capability file.
        """
        try:
            data = private_file_read(path)
        except FileNotFoundError:
            raise NoClusterError(f"no cluster: there is no {path}; start one with: aiocluster start -n 4") from None
        return cls._from_json(data, str(path))

    def to_line(self) -> str:
        """Return it as one line of ASCII for a secret store. It holds the key."""
        data = json.dumps(self._to_json(), separators=(",", ":")).encode()
        return LINE_PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")

    @classmethod
    def from_line(cls, line: str) -> Capability:
        """Return the capability that `to_line` wrote.

        Raises:
            CapabilityError: It is something else, or not whole.
        """
        text = line.strip()
        if not text.startswith(LINE_PREFIX) or len(text) > 2 * FILE_LIMIT:
            raise CapabilityError(f"the line is no capability: one starts with {LINE_PREFIX}")
        text = text.removeprefix(LINE_PREFIX)
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise CapabilityError("the line is no capability, or not a whole one") from None
        return cls._from_json(data, "the line")

    def _to_json(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"format": FORMAT, **values, "key": self.key.hex()}

    @classmethod
    def _from_json(cls, data: bytes, name: str) -> Capability:
        try:
            plain = json.loads(data.decode())
        except (ValueError, RecursionError):
            raise CapabilityError(f"{name} is not a capability file: it holds no JSON") from None
        if not isinstance(plain, dict) or plain.get("format") != FORMAT:
            raise CapabilityError(
                f"{name} is not a capability file of format {FORMAT}: was it written by another version?"
            )
        return cls._from_plain(plain, name)

    @classmethod
    def _from_plain(cls, plain: Mapping[str, object], name: str) -> Capability:
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = plain.get(field.name)
            if not _CHECKS[str(field.type)](value):
                raise CapabilityError(f"{name} is not a capability file: {field.name!r} is missing or wrong")
            values[field.name] = tuple(value) if isinstance(value, list) else value
        if not all(_HEX_32.fullmatch(pin) for pin in values["pins"]):
            raise CapabilityError(f"{name} is not a capability file: 'pins' are 64 hexadecimal digits each")
        values["key"] = Secret.from_hex(values["key"])
        return cls(**values)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


# By the annotations above, which are text in this module. A bool is an int to isinstance, so types are compared.
_CHECKS: Mapping[str, Callable[[object], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: type(value) is int,
    "float": lambda value: type(value) in (int, float) and bool(abs(value) < 1e15),  # type: ignore[arg-type]
    "tuple[str, ...]": _is_texts,
    "Secret": lambda value: isinstance(value, str) and bool(_HEX_32.fullmatch(value)),
}


def _of_file(path: Path, interface: str) -> Capability:
    try:
        return Capability.load(path)
    except NoClusterError:
        others = sorted(other.stem for other in path.parent.glob("*.cap") if other.stem != "engine")
        if not others:
            raise
        raise NoClusterError(
            f"there is no {path}: that cluster hosts no interface {interface!r}; it has {', '.join(others)} (why one "
            "is left out is in the controller's log: aiocluster logs)"
        ) from None


def find_capability(
    capability: Capability | str | Path | None,
    interface: str,
    *,
    cluster: str = "default",
    directory: Path | None = None,
) -> Capability:
    """Return the capability a client was given, or the one of the cluster of that name.

    Args:
        capability: One; the path of a file; or None to look where AIOPARALLEL_CAP says, then in the state directory.
        interface: What it must be for.
        cluster: Whose, when none is given.
        directory: The state directory, when it is not the usual one.

    Raises:
        NoClusterError: There is no such file.
        CapabilityError: The file can't be trusted or read.
        ConfigurationError: It is for another interface.
    """
    if capability is None:
        capability = environment_capability(interface) or capability_path(
            interface, cluster=cluster, directory=directory
        )
    found = capability if isinstance(capability, Capability) else _of_file(Path(capability), interface)
    if found.interface != interface:
        where = "this capability" if isinstance(capability, Capability) else str(capability)
        raise ConfigurationError(f"{where} is for the interface {found.interface!r}, not {interface!r}")
    return found
