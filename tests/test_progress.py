"""Who is told how far a `map` has come."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from aioparallel.errors import ConfigurationError
from aioparallel.progress import Bar, Progress, listener_for


class Terminal:
    """Says that it is one."""

    def __init__(self) -> None:
        self.written = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.written += text

    def flush(self) -> None: ...


def test_a_bar_comes_unasked_only_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    assert listener_for(None, "f", shows=True) is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert listener_for(None, "f", shows=False) is None
    assert listener_for(False, "f", shows=True) is None
    bar = listener_for(None, "f", shows=True)
    assert isinstance(bar, Bar)
    bar.close()
    monkeypatch.setattr(sys, "stderr", None)
    assert listener_for(None, "f", shows=True) is None


def test_a_bar_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(Bar, "DELAY", 0)
    bar: Any = listener_for(True, "f", shows=False)
    bar(Progress(0, 4, 4))
    bar(Progress(3, 4, 1))
    assert repr(bar) == "<Bar 3 of 4>"
    bar(Progress(4, 4, 0))
    bar.close()
    assert "f: 100%" in terminal.written


def test_without_tqdm_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert listener_for(None, "f", shows=True) is None
    with pytest.raises(ConfigurationError, match="a progress bar needs tqdm"):
        listener_for(True, "f", shows=True)


def test_whoever_wants_events_gets_them() -> None:
    assert listener_for(print, "f", shows=False) is print
    with pytest.raises(TypeError, match="progress is a function that is given Progress events"):
        listener_for(3, "f", shows=False)
