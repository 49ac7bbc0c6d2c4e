"""What a controller keeps: ids and keys survive restarts, two controllers never share them, others never read them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from aioparallel.authority import Authority, ControllerState
from aioparallel.capability import Capability, Grant
from aioparallel.errors import CapabilityError, ClusterError, ConfigurationError
from aioparallel.source import SYSTEM, Source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "security" / "default" / "controller.json"


def make(state: ControllerState, interface: str = "task") -> Capability:
    return state.capability(interface, cluster="default", addresses=("unix:///x",))


def test_issue_and_lookup() -> None:
    source = Source(lambda n: b"\x01" * n, lambda: 5.0)
    authority = Authority("c0ffee")
    id_, key = authority.issue("task", source, note="for Ana")
    record = authority.lookup(id_)
    assert record is not None
    assert (id_, key.reveal()) == ("01" * 8, b"\x01" * 32)
    assert (record.interface, record.key, record.issued, record.note, record.revoked) == (
        "task",
        key,
        5.0,
        "for Ana",
        False,
    )
    assert record.grant() == Grant("task", id_)
    assert authority.lookup("nobody") is None
    assert key.hex() not in repr(authority) + repr(record)


def test_standing_capability_of_an_interface() -> None:
    authority = Authority("c0ffee")
    first = authority.for_interface("task", SYSTEM)
    assert authority.for_interface("task", SYSTEM) == first
    assert authority.for_interface("monitor", SYSTEM) != first
    assert len(authority) == 2
    authority.revoke(first[0])
    record = authority.lookup(first[0])
    assert record is not None
    assert record.revoked
    assert authority.for_interface("task", SYSTEM)[0] != first[0]


def test_revoking_nobody_is_an_error() -> None:
    with pytest.raises(CapabilityError, match="no capability 'x'"):
        Authority("c0ffee").revoke("x")


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioparallel.authority.RECORDS_MAX", 2)
    authority = Authority("c0ffee")
    authority.issue("task", SYSTEM)
    authority.issue("task", SYSTEM)
    with pytest.raises(CapabilityError, match="at most 2"):
        authority.issue("task", SYSTEM)


def test_table_there_and_back() -> None:
    authority = Authority("c0ffee")
    standing = authority.for_interface("task", SYSTEM)
    other, _ = authority.issue("monitor", SYSTEM, note="x")
    authority.revoke(other)
    again = Authority.from_json(json.loads(json.dumps(authority.to_json())))
    assert again.to_json() == authority.to_json()
    assert again.for_interface("task", SYSTEM) == standing
    assert again.lookup(other) == authority.lookup(other)


def test_a_damaged_table_is_refused_without_repeating_it() -> None:
    authority = Authority("c0ffee")
    _, key = authority.for_interface("task", SYSTEM)
    plain = authority.to_json()
    entry = plain["capabilities"][0]
    damaged: list[Any] = [None, [], {}, {**plain, "standing": {"task": "gone"}}, {**plain, "standing": {"task": 5}}]
    damaged += [{**plain, "capabilities": [{**entry, name: None}]} for name in entry]
    damaged += [{**plain, "capabilities": [{**entry, "key": key.hex()[:-1]}]}]
    for change in damaged:
        with pytest.raises(CapabilityError) as caught:
            Authority.from_json(change)
        assert key.hex()[:-1] not in str(caught.value)


def test_restart_keeps_everything_but_the_epoch(path: Path) -> None:
    with ControllerState.open(path, SYSTEM) as state:
        assert state.epoch == 1
        first = make(state)
        assert first.serial == 1
    with ControllerState.open(path, SYSTEM) as again:
        assert (again.epoch, again.controller_id) == (2, state.controller_id)
        second = make(again)
        assert (second.id, second.key, second.controller, second.serial) == (first.id, first.key, first.controller, 2)
        record = again.authority.lookup(first.id)
        assert record is not None
        assert record.key == first.key
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_capability_is_on_disk_before_anybody_holds_it(path: Path) -> None:
    with ControllerState.open(path, SYSTEM) as state:
        capability = make(state)
        assert capability.id in path.read_text()
        assert capability.key.hex() not in repr(state) + repr(capability)


def test_two_controllers_never_share_it(path: Path) -> None:
    state = ControllerState.open(path, SYSTEM)
    with pytest.raises(ClusterError, match=rf"runs for .*default already \(process {os.getpid()}\): end it with"):
        ControllerState.open(path, SYSTEM)
    state.close()
    state.close()
    with ControllerState.open(path, SYSTEM) as again:
        assert again.epoch == 2


def test_the_lock_ends_when_opening_fails(path: Path) -> None:
    with ControllerState.open(path, SYSTEM):
        pass
    path.chmod(0o644)
    for _ in range(2):
        with pytest.raises(CapabilityError, match="chmod 600"):
            ControllerState.open(path, SYSTEM)


def test_what_is_left_open_warns(path: Path) -> None:
    state = ControllerState.open(path, SYSTEM)
    with pytest.warns(ResourceWarning):
        del state


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[" * 90000,
        b"\xff",
        b"[]",
        b'{"format":2}',
        b'{"format":1,"epoch":1,"serial":1,"tls":5,"authority":{}}',
    ],
)
def test_a_damaged_file_is_refused_with_a_way_out_and_kept(path: Path, data: bytes) -> None:
    with ControllerState.open(path, SYSTEM):
        pass
    path.write_bytes(data)
    with pytest.raises(CapabilityError, match=r"controller\.json .*; remove it to start as a new controller"):
        ControllerState.open(path, SYSTEM)
    assert path.read_bytes() == data


def test_a_lock_that_is_a_link_is_refused(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(0o700, parents=True)
    (tmp_path / "precious").write_text("data")
    path.with_suffix(".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(CapabilityError, match="cannot lock"):
        ControllerState.open(path, SYSTEM)
    assert (tmp_path / "precious").read_text() == "data"


def test_in_memory_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ControllerState.in_memory(SYSTEM) as state:
        capability = make(state)
        assert make(state).id == capability.id
        assert state.authority.lookup(capability.id) is not None
    assert not list(tmp_path.iterdir())


def test_identity_is_made_once_and_pinned_in_capabilities(path: Path) -> None:
    with ControllerState.open(path, SYSTEM) as state:
        assert make(state).pins == ()
        identity = state.identity()
        assert state.identity() is identity
        capability = make(state)
        assert capability.pins == (identity.fingerprint.hex(),)
        assert capability.certificates == (identity.certificate_pem,)
        assert capability.server_name == identity.server_name == f"{state.controller_id}.aioparallel.invalid"
    with ControllerState.open(path, SYSTEM) as again:
        assert make(again).pins == ()
        assert again.identity() == identity
        assert make(again).pins == capability.pins


def test_without_trustme_everything_but_a_certificate_works(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with ControllerState.open(path, SYSTEM) as state:
        assert make(state).pins == ()
        with pytest.raises(ConfigurationError, match="pip install trustme"):
            state.identity()
