"""Which directories are a program's own."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from pathlib import Path

import pytest

from aioparallel.importable import own_directories


def test_in_order_once_and_only_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "archive.zip").touch()
    monkeypatch.chdir(tmp_path / "here")
    sysconfig.get_paths()  # it imports something when it is first asked
    entries = ["other", "", "one", "archive.zip", "missing", "other"]
    monkeypatch.setattr(sys, "path", [str(tmp_path / entry) if entry else "" for entry in entries])
    assert own_directories() == [str(tmp_path / name) for name in ("other", "here", "one")]


def test_python_and_installed_packages_are_nobodys_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = sysconfig.get_paths()
    egg = tmp_path / "venv" / "lib" / "site-packages" / "an.egg"
    debian = tmp_path / "lib" / "python3" / "dist-packages"
    for place in (egg, debian):
        place.mkdir(parents=True)
    own = str(tmp_path)
    installed = [
        os.path.dirname(os.__file__),
        os.path.join(os.path.dirname(os.__file__), "lib-dynload"),
        *map(str, (egg, debian)),
    ]
    installed += [places["purelib"], places["scripts"], *site.getsitepackages()]
    monkeypatch.setattr(sys, "path", [*installed[:2], own, *installed[2:]])
    assert own_directories() == [own]


def test_a_program_below_the_prefix_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "src" / "app").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "src" / "app")])
    assert own_directories() == [str(tmp_path / "src" / "app")]
