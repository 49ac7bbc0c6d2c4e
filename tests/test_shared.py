"""The page of words and the output files, from both sides."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from typing import Any

import pytest

from aioparallel import shared
from aioparallel.shared import INTERRUPT, NONE, RUNNING, OutputFile, Page


@pytest.fixture
def page() -> Iterator[Page]:
    made = Page.make()
    yield made
    made.close()


@pytest.fixture
def ends(page: Page) -> Iterator[tuple[OutputFile, OutputFile]]:
    """The host's end and the kernel's end of one file."""
    host = OutputFile.make(page, 0)
    kernel = OutputFile(os.dup(host.number), page, 0)
    yield host, kernel
    host.close()
    kernel.close()


def test_a_word_is_seen_by_both(page: Page) -> None:
    assert page.words[INTERRUPT] == page.words[RUNNING] == NONE
    other = Page(os.dup(page.number))
    page.words[INTERRUPT] = 2**63 + 5
    assert other.words[INTERRUPT] == 2**63 + 5
    assert repr(other) == repr(page)
    other.close()


@pytest.mark.parametrize("memfd", [True, False])
def test_files_have_no_name_and_leave_nothing(memfd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not memfd:
        monkeypatch.delattr(os, "memfd_create")
    before = sorted(os.listdir("/proc/self/fd"))
    page = Page.make()
    file = OutputFile.make(page, 1)
    os.write(file.number, b"one")
    os.lseek(file.number, 0, os.SEEK_SET)
    os.write(file.number, b"two")  # for appending, wherever one stands
    assert file.take(100) == b"onetwo"
    assert not os.get_inheritable(file.number)
    assert "deleted" in os.readlink(f"/proc/self/fd/{file.number}")
    file.close()
    page.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_each_byte_is_handed_over_once(ends: tuple[OutputFile, OutputFile]) -> None:
    host, kernel = ends
    assert kernel.take(100) == b""
    for part in (b"one", b"two"):
        os.write(host.number, part)
        assert host.tail(2) == part[-2:]
        assert kernel.take(100) == part
        assert host.tail(100) == b""


@pytest.mark.parametrize("size", [9, 10, 11, 1000])
def test_the_middle_is_left_out(ends: tuple[OutputFile, OutputFile], size: int) -> None:
    host, kernel = ends
    os.write(host.number, b"abcde" + b"." * (size - 10) + b"vwxyz"[: size - 5])
    taken = kernel.take(10)
    if size <= 10:
        assert len(taken) == size
    else:
        assert taken == f"abcde\n… {size - 10:,} bytes left out …\nvwxyz".encode()


def test_a_large_file_is_emptied(ends: tuple[OutputFile, OutputFile]) -> None:
    host, kernel = ends
    os.write(host.number, b"x" * (shared.KEEP + 1))
    assert len(kernel.take(2**30)) == shared.KEEP + 1
    assert os.fstat(host.number).st_size == 0
    os.write(host.number, b"next")
    assert kernel.take(100) == b"next"


def test_a_file_that_somebody_emptied(ends: tuple[OutputFile, OutputFile]) -> None:
    host, kernel = ends
    os.write(host.number, b"a long line")
    kernel.take(100)
    os.ftruncate(host.number, 0)
    os.write(host.number, b"new")
    assert host.tail(100) == b"new"
    assert kernel.take(100) == b"new"


def test_the_host_cuts_what_runs_away(ends: tuple[OutputFile, OutputFile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "RUNAWAY", 100)
    host, kernel = ends
    os.write(host.number, b"before")
    kernel.take(100)
    os.write(host.number, b"x" * 100)
    assert not host.trim(10)
    os.write(host.number, b"x" * 100)
    assert host.trim(5)
    assert host.tail(100) == b"x" * 5
    os.write(host.number, b"last")
    assert kernel.take(10) == "xxxxx\n… 195 bytes left out …\nlast".encode()
    os.write(host.number, b"next")
    assert kernel.take(10) == b"next"


def _hold(number: int, pipe: Any) -> None:
    with shared._Locked(number):
        pipe.send("held")
        pipe.recv()


def test_the_host_does_not_cut_while_the_kernel_does(
    ends: tuple[OutputFile, OutputFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "RUNAWAY", 100)
    host, _ = ends
    os.write(host.number, b"x" * 200)
    ours, theirs = multiprocessing.Pipe()
    os.set_inheritable(host.number, True)
    holder = os.fork()
    if not holder:
        _hold(host.number, theirs)
        os._exit(0)
    assert ours.recv() == "held"
    assert not host.trim(10)
    ours.send("let go")
    os.waitpid(holder, 0)
    assert host.trim(10)
    ours.close()
    theirs.close()


def test_the_host_reads_what_was_not_handed_over(ends: tuple[OutputFile, OutputFile]) -> None:
    host, kernel = ends
    os.write(host.number, b"before")
    kernel.take(100)
    assert host.read(0, 100) == b""
    os.write(host.number, b"0123456789")
    assert host.read(0, 4) == b"0123"
    assert host.read(4, 100) == b"456789"
    assert host.read(10, 100) == host.read(11, 100) == b""
    os.ftruncate(host.number, 0)
    os.write(host.number, b"new")
    assert host.read(0, 100) == b"new"
