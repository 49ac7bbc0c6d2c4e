"""Memory that processes share: found as written, nobody changes it for another, used again only when free."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aioparallel import memory
from aioparallel.memory import ALIGNMENT, Handover, Pool, Segment, span

pytestmark = pytest.mark.skipif(not memory.AVAILABLE, reason="SHARED MEMORY WAS NOT TESTED: this system has no memfd")

BUFFERS = [b"first", bytes(ALIGNMENT), b"", bytearray(b"x" * 1000), memoryview(b"last")]


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def filled(buffers: list[Any]) -> tuple[Segment, list[int]]:
    lengths = [len(buffer) for buffer in buffers]
    segment = Segment.make(span(lengths))
    segment.write(buffers)
    return segment, lengths


def opened(segment: Segment, size: int = 1) -> Segment:
    return Segment.open(os.getpid(), segment.number, segment.inode, size)


def test_what_is_written_is_found_and_lies_as_arrays_like_it() -> None:
    segment, lengths = filled(BUFFERS)
    found = opened(segment, span(lengths)).buffers(lengths)
    assert [bytes(buffer) for buffer in found] == [bytes(buffer) for buffer in BUFFERS]
    whole = segment.buffers([span(lengths)])[0]
    assert bytes(whole[ALIGNMENT : 2 * ALIGNMENT]) == bytes(ALIGNMENT)
    assert bytes(whole[:ALIGNMENT]).rstrip(b"\0") == b"first"


def test_many_buffers_are_written() -> None:
    buffers = [str(number).encode() for number in range(3 * memory.VECTOR)]
    segment, lengths = filled(buffers)
    assert [bytes(buffer) for buffer in segment.buffers(lengths)] == buffers


def test_whoever_changes_it_changes_it_for_himself() -> None:
    segment, lengths = filled([b"shared"])
    (mine,), (theirs,) = opened(segment).buffers(lengths), opened(segment).buffers(lengths)
    mine[:] = b"MINE!!"
    assert (bytes(mine), bytes(theirs)) == (b"MINE!!", b"shared")
    assert bytes(opened(segment).buffers(lengths)[0]) == b"shared"


def test_only_a_segment_is_opened(tmp_path: Path) -> None:
    segment, _ = filled([b"some"])
    with pytest.raises(OSError, match="not the segment that was meant"):
        Segment.open(os.getpid(), segment.number, segment.inode + 1, 1)
    with pytest.raises(OSError, match="not a segment of 1,000,000 bytes"):
        opened(segment, 1_000_000)
    reading, writing = os.pipe()
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        bare = os.memfd_create("bare")  # not sealed: whoever has mapped it could be killed by cutting it off
        for number in (reading, file.fileno(), bare):
            with pytest.raises(OSError, match=r"segment|Invalid argument|Operation not supported"):
                Segment.open(os.getpid(), number, os.fstat(number).st_ino, 0)
    for number in (reading, writing, bare):
        os.close(number)
    with pytest.raises(FileNotFoundError):
        Segment.open(os.getpid(), 10_000, 1, 0)
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(segment.number, 1)


def test_beyond_so_many_mappings_it_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    segment, lengths = filled([b"some"])
    monkeypatch.setattr(memory, "MAPPINGS", len(memory._mapped) + 2)
    kept = [segment.buffers(lengths) for _ in range(4)]
    assert [type(buffers[0]) for buffers in kept] == [memoryview, memoryview, bytearray, bytearray]
    assert {bytes(buffers[0]) for buffers in kept} == {b"some"}
    del kept[0]
    assert type(segment.buffers(lengths)[0]) is memoryview


def test_it_is_in_use_until_all_that_lies_in_it_is_gone() -> None:
    segment, lengths = filled([b"some", b"more"])
    assert segment.is_unused()
    held = opened(segment)
    assert not segment.is_unused()
    first, second = held.buffers(lengths)
    held.close()
    held.close()
    del first
    assert not segment.is_unused()
    del second
    assert segment.is_unused()


def test_one_who_was_killed_uses_nothing_any_more() -> None:
    segment, lengths = filled([b"some"])
    code = (
        "from aioparallel.memory import Segment; import sys\n"
        f"held = Segment.open({os.getpid()}, {segment.number}, {segment.inode}, 1)\n"
        f"print(bytes(held.buffers({lengths})[0]), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"b'some'\n"
        assert not segment.is_unused()
        child.kill()
        child.wait()
    assert segment.is_unused()


def test_a_sender_writes_into_used_pages_when_nobody_needs_them() -> None:
    pool = Pool(10_000)
    first, lengths = pool.lend([bytes(4000)]) or pytest.fail("nothing was lent")
    assert (lengths, pool.lent, len(pool)) == ([4000], span(lengths), 0)
    held = opened(first)
    pool.take_back(first)
    assert (pool.lent, len(pool)) == (0, 1)
    second, _ = pool.lend([b"other"]) or pytest.fail("nothing was lent")
    assert second is not first
    held.close()
    third, lengths = pool.lend([b"third" * 1000]) or pytest.fail("nothing was lent")
    assert third is first
    assert bytes(third.buffers(lengths)[0]) == b"third" * 1000
    # From the second time on its maker has it mapped.
    for buffers in ([b"fourth", bytes(100), b"4"], [bytearray(b"fifth" * 900)]):
        pool.take_back(third)
        again, lengths = pool.lend(buffers) or pytest.fail("nothing was lent")
        assert again is first
        assert [bytes(buffer) for buffer in again.buffers(lengths)] == [bytes(buffer) for buffer in buffers]
    pool.give_up(second)


def test_the_segment_that_fits_best_is_taken() -> None:
    pool = Pool(10**9)
    lent = [pool.lend([bytes(size)]) or pytest.fail("nothing was lent") for size in (100, 9000, 5000)]
    for segment, _ in lent:
        pool.take_back(segment)
    assert (pool.lend([bytes(4000)]) or [None])[0] is lent[2][0]
    assert (pool.lend([bytes(4000)]) or [None])[0] is lent[1][0]
    assert (pool.lend([bytes(4000)]) or [None])[0] is lent[0][0]  # it grows


def test_so_much_may_be_on_its_way() -> None:
    pool = Pool(1000)
    first, _ = pool.lend([bytes(5000)]) or pytest.fail("one message always passes")
    assert pool.lend([b"more"]) is None
    pool.give_up(first)
    assert pool.lent == 0
    assert len(pool) == 0
    pool.give_up(first)
    pool.take_back(first)
    assert (pool.lent, len(pool)) == (0, 0)


def test_so_many_may_be_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LENT", 3)
    pool = Pool(10**9)
    lent = [pool.lend([b"some"]) or pytest.fail("nothing was lent") for _ in range(3)]
    assert pool.lend([b"more"]) is None
    pool.take_back(lent[0][0])
    assert pool.lend([b"more"]) is not None


def test_what_is_not_needed_for_a_while_is_let_go() -> None:
    pool = Pool(10**9)
    lent = [pool.lend([b"some"]) or pytest.fail("nothing was lent") for _ in range(memory.KEPT + 3)]
    for segment, _ in lent:
        pool.take_back(segment)
    assert len(pool) == memory.KEPT
    assert pool.trim()
    used, _ = pool.lend([b"some"]) or pytest.fail("nothing was lent")
    pool.take_back(used)
    assert pool.trim()
    assert len(pool) == 1
    assert not pool.trim()
    assert len(pool) == 0


def test_where_there_is_no_memory_it_travels_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(size: int) -> Segment:
        raise OSError(28, "No space left on device")

    pool = Pool(1000)
    monkeypatch.setattr(Segment, "make", none_left)
    assert pool.lend([b"some"]) is None
    assert pool.lent == 0


def test_two_processes_find_out_that_they_see_the_same() -> None:
    near, far = Handover(), Handover()
    offer = near.offer(bytes(range(16)))
    answers = far.receive(offer)
    assert (far.peer, far.accepted, near.accepted) == (os.getpid(), False, False)
    last = [reply for answer in answers for reply in near.receive(answer)]
    assert near.accepted
    assert near.peer == os.getpid()
    assert [far.receive(answer) for answer in last] == [[]]
    assert far.accepted


@pytest.mark.parametrize(
    "changed",
    [
        {"token": "00" * 16},
        {"token": "xyz"},
        {"token": ""},
        {"pid": 2**22 + 1},
        {"inode": 1},
        {"number": "x"},
        {"pid": None},
    ],
)
def test_one_who_sees_something_else_is_not_accepted(changed: dict[str, Any]) -> None:
    near, far = Handover(), Handover()
    offer = near.offer(bytes(range(16)))
    assert offer is not None
    assert far.receive(offer | changed) == []
    assert far.peer == 0


@pytest.mark.parametrize("said", [None, 7, [], {}, {"accepted": 1}, {"accepted": True}])
def test_nonsense_is_not_accepted(said: Any) -> None:
    assert Handover().receive(said) == []
    assert not Handover().accepted
