"""Capabilities: saved, loaded, narrowed, and never widened."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from aioparallel.capability import (
    Capability,
    Grant,
    Secret,
    capability_path,
    environment_capability,
    fold,
    private_file_write,
    state_directory,
)
from aioparallel.errors import CapabilityError, ConfigurationError, NoClusterError
from aioparallel.source import SYSTEM

KEY = bytes(range(32))
CAPABILITY = Capability(
    id="0011223344556677",
    interface="task",
    controller="c0ffee",
    cluster="default",
    addresses=("unix:///run/x/default.sock", "tls://host0:10105"),
    server_name="c0ffee.aioparallel.invalid",
    pins=("ab" * 32,),
    certificates=("-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n",),
    key=Secret(KEY),
    caveats=(),
    issued=1_700_000_000.5,
    serial=3,
    note="für Ana",
)


# Where


def test_state_directory_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/ana")
    monkeypatch.delenv("AIOPARALLEL_DIR", raising=False)
    assert state_directory() == Path("/home/ana/.aioparallel")
    monkeypatch.setenv("AIOPARALLEL_DIR", "")
    assert state_directory() == Path("/home/ana/.aioparallel")
    monkeypatch.setenv("AIOPARALLEL_DIR", "~/here")
    assert state_directory() == Path("/home/ana/here")
    assert state_directory(tmp_path) == tmp_path
    monkeypatch.setenv("AIOPARALLEL_DIR", "relative/place")
    with pytest.raises(ConfigurationError, match="absolute"):
        state_directory()


def test_environment_capability_is_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AIOPARALLEL_CAP", raising=False)
    assert environment_capability("task") is None
    monkeypatch.setenv("AIOPARALLEL_CAP", str(tmp_path / "x.cap"))
    assert environment_capability("task") == tmp_path / "x.cap"
    monkeypatch.setenv("AIOPARALLEL_CAP", str(tmp_path))
    assert environment_capability("task") == tmp_path / "task.cap"
    monkeypatch.setenv("AIOPARALLEL_CAP", "task.cap")
    with pytest.raises(ConfigurationError, match="absolute"):
        environment_capability("task")
    monkeypatch.setenv("AIOPARALLEL_CAP", CAPABILITY.to_line())
    with pytest.raises(ConfigurationError, match="path, never a capability") as caught:
        environment_capability("task")
    assert CAPABILITY.to_line()[20:40] not in str(caught.value)


def test_capability_path(tmp_path: Path) -> None:
    assert capability_path("task", cluster="big", directory=tmp_path) == tmp_path / "security" / "big" / "task.cap"


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "/etc", "a\0b", "a\n", "é", "x" * 65])
def test_names_cannot_leave_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="can't name an interface"):
        capability_path(name, directory=tmp_path)
    with pytest.raises(ConfigurationError, match="can't name a cluster"):
        capability_path("task", cluster=name, directory=tmp_path)


# The file


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = capability_path("task", directory=tmp_path / "new")
    CAPABILITY.save(path, SYSTEM)
    assert Capability.load(path) == CAPABILITY
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_bytes())["format"] == 1


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoClusterError, match=r"task\.cap; start one with: aiocluster start -n 4"):
        Capability.load(tmp_path / "task.cap")


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "private" / "task.cap"
    private_file_write(path, data, SYSTEM)
    return path


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[" * 60000, b"\xff\xfe{", b"[]", b"null", b'{"format":2}', b"{}", b"\x80\x04\x95cos\nsystem\n."],
)
def test_what_is_not_a_capability_file_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CapabilityError, match=r"task\.cap is not a capability file"):
        Capability.load(written(tmp_path, data))


WRONG: dict[type, list[Any]] = {
    str: [None, 1, True, ["a"], {"a": 1}],
    int: [None, "1", True, 1.5, [1]],
    float: [None, "1", True, float("nan"), float("inf"), 10**400, [1]],
    tuple: [None, "text", [1], ["a", None], {"a": 1}],
    Secret: [None, "", "00" * 31, 5, ["a"]],
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Capability)])
def test_missing_and_wrong_fields_are_refused_by_name(tmp_path: Path, field: str) -> None:
    path = tmp_path / "private" / "task.cap"
    CAPABILITY.save(path, SYSTEM)
    plain = json.loads(path.read_bytes())
    wrong = [{**plain, field: value} for value in WRONG[type(getattr(CAPABILITY, field))]]
    for change in [*wrong, {name: plain[name] for name in plain if name != field}]:
        with pytest.raises(CapabilityError, match=rf"task\.cap is not a capability file: '{field}'") as caught:
            Capability.load(written(tmp_path, json.dumps(change).encode()))
        assert KEY.hex() not in str(caught.value)


def test_short_key_and_bad_pin_are_refused(tmp_path: Path) -> None:
    CAPABILITY.save(tmp_path / "private" / "task.cap", SYSTEM)
    plain = json.loads((tmp_path / "private" / "task.cap").read_bytes())
    for change in ({"key": KEY.hex()[:-2]}, {"key": KEY.hex().upper()}, {"pins": ["ab" * 31]}, {"pins": ["AB" * 32]}):
        with pytest.raises(CapabilityError, match="is not a capability file"):
            Capability.load(written(tmp_path, json.dumps({**plain, **change}).encode()))


def test_too_large_to_save(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="at most 65536"):
        dataclasses.replace(CAPABILITY, note="x" * 70000).save(tmp_path / "task.cap", SYSTEM)
    assert not list(tmp_path.iterdir())


def test_nothing_shows_the_key() -> None:
    for text in (repr(CAPABILITY), str(CAPABILITY), str(dataclasses.asdict(CAPABILITY)), repr([CAPABILITY])):
        assert KEY.hex() not in text
        assert repr(KEY) not in text
    assert "task" in repr(CAPABILITY)
    assert "ops=pull" in repr(CAPABILITY.narrow("ops=pull"))
    with pytest.raises(TypeError):
        pickle.dumps(CAPABILITY)


# One line


def test_one_line_there_and_back() -> None:
    line = CAPABILITY.to_line()
    assert line.isascii()
    assert not set(line) & set(" \n=")
    assert Capability.from_line(f"  {line}\n") == CAPABILITY


def test_a_damaged_line_is_refused_without_repeating_it() -> None:
    line = CAPABILITY.to_line()
    damaged = [line[:-3], line[5:], "", line + "!", line[:40] + "é" + line[41:], line + "A" * 200_000, line[:18]]
    for text in damaged:
        with pytest.raises(CapabilityError) as caught:
            Capability.from_line(text)
        assert line[30:60] not in str(caught.value)


# Narrowing


def test_fold_is_the_documented_chain() -> None:
    once = hmac.new(KEY, b"caveat\0ops=pull", hashlib.sha256).digest()
    twice = hmac.new(once, b"caveat\0exp=5", hashlib.sha256).digest()
    assert fold(KEY, []) == KEY
    assert fold(KEY, ["ops=pull", "exp=5"]) == twice
    assert fold(KEY, ["exp=5", "ops=pull"]) != twice


def test_narrow_folds_the_key_and_keeps_the_rest() -> None:
    child = CAPABILITY.narrow("ops=status,submit").narrow("exp=2000000000", "engines=3-7,9")
    assert child.caveats == ("ops=status,submit", "exp=2000000000", "engines=3-7,9")
    assert child.key.reveal() == fold(KEY, child.caveats)
    assert dataclasses.replace(child, key=CAPABILITY.key, caveats=()) == CAPABILITY
    assert CAPABILITY.narrow() == CAPABILITY


BAD_CAVEATS = [
    *("", "moon=full", "ops", "ops=", "ops=a,,b", "ops=a b", "ops=a,", "ops=é", "OPS=a", " ops=a", "ops =a", "ops=a\n"),
    *("exp=", "exp=nan", "exp=inf", "exp=-1", "exp=1e9", "exp=soon", "exp=٣", "exp=1\n", "engines=", "engines=-1"),
    *("engines=7-3", "engines=3-", "engines=a", "engines=1,,2", "engines=65535", "engines=99999", "engines=٣"),
    *(",".join(["engines=0-65534"] + ["0-65534"] * 10), "ops=" + "a" * 125, "ops=\ud800"),
]


@pytest.mark.parametrize("caveat", BAD_CAVEATS)
def test_bad_caveats_fail_closed(caveat: str) -> None:
    with pytest.raises(CapabilityError):
        CAPABILITY.narrow(caveat)
    with pytest.raises(CapabilityError):
        Grant("task", "x").narrowed([caveat], 0.0)


def test_too_many_caveats() -> None:
    child = CAPABILITY.narrow(*["ops=a"] * 8)
    with pytest.raises(CapabilityError, match="at most 8"):
        child.narrow("ops=a")


def test_grant_under_caveats() -> None:
    grant = Grant("task", "x").narrowed(["ops=a,b", "engines=3-5,9", "exp=100.5"], 0.0)
    assert grant == Grant("task", "x", frozenset("ab"), frozenset([3, 4, 5, 9]), 100.5)
    assert grant.allows("a")
    assert not grant.allows("c")
    assert Grant("task", "x").allows("anything")
    again = grant.narrowed(["ops=b,c", "engines=0-65534", "exp=200"], 0.0)
    assert (again.ops, again.engines, again.expires) == (frozenset("b"), frozenset([3, 4, 5, 9]), 100.5)
    assert grant.narrowed(["ops=z"], 0.0).ops == frozenset()


@pytest.mark.parametrize(("now", "void"), [(99.0, False), (100.0, True), (101.0, True), (float("nan"), True)])
def test_expiry(now: float, void: bool) -> None:
    grant = Grant("task", "x", expires=100.0)
    assert grant.expired(now) is void
    assert not Grant("task", "x").expired(now)
    if void:
        with pytest.raises(CapabilityError, match="expired"):
            grant.narrowed([], now)


def test_random_chains_never_widen() -> None:
    dice = random.Random(1)
    names = [chr(letter) for letter in range(ord("a"), ord("h"))]

    def caveat() -> str:
        kind = dice.choice(["ops", "engines", "exp"])
        if kind == "ops":
            return "ops=" + ",".join(dice.sample(names, dice.randint(1, 6)))
        if kind == "exp":
            return f"exp={dice.randint(1, 1000)}"
        first = dice.randint(0, 20)
        return f"engines={first}-{first + dice.randint(0, 9)},{dice.randint(0, 30)}"

    for _ in range(500):
        grant = Grant("task", "x")
        for text in [caveat() for _ in range(dice.randint(1, 8))]:
            less = grant.restricted([text])
            assert grant.ops is None or (less.ops is not None and less.ops <= grant.ops)
            assert grant.engines is None or (less.engines is not None and less.engines <= grant.engines)
            assert grant.expires is None or (less.expires is not None and less.expires <= grant.expires)
            assert (less.interface, less.id) == (grant.interface, grant.id)
            grant = less
