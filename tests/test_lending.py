"""Two ends of a connection, in one process, and what they say to each other of memory that both can see."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from pieces import flat

from aioparallel import memory
from aioparallel.decoder import Decoder
from aioparallel.errors import DeserializationError, ProtocolError
from aioparallel.lending import Lending
from aioparallel.memory import TOKEN, Segment, span
from aioparallel.wire import LAST, Frame, Kind, Limits, Sendable, Status

pytestmark = pytest.mark.skipif(not memory.AVAILABLE, reason="SHARED MEMORY WAS NOT TESTED: this system has no memfd")


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


class End:
    """One end; what it sends waits until somebody carries it to the other."""

    def __init__(self, **limits: Any) -> None:
        self.out: list[Sendable] = []
        self.sends = 0
        self.lent = 0
        self.lending = Lending(Limits(**limits), send=self._send, send_along=self._send_along, weigh=self._weigh)

    def _send(self, pieces: Iterable[Sendable]) -> None:
        self.out += pieces
        self.sends += 1

    def _send_along(self, pieces: Iterable[Sendable]) -> None:
        self.out += pieces

    def _weigh(self, lent: int) -> None:
        self.lent += lent

    def carried(self) -> list[Frame]:
        """Return what it has sent, as the other end reads it."""
        out, self.out = self.out, []
        return Decoder(Limits()).feed(flat(out))


def acquainted(**limits: Any) -> tuple[End, End]:
    """Return two ends that share memory."""
    near, far = End(), End(**limits)
    near.lending.offer(bytes(TOKEN), hurry=True)
    for _ in range(2):
        assert far.lending.receive(near.carried()) == []
        assert near.lending.receive(far.carried()) == []
    assert near.lending.handover.accepted
    assert far.lending.handover.accepted
    return near, far


def result(payload: bytes, number: int = 7) -> Frame:
    """Return a RESULT in shared memory, as it is held by who is to pass it on."""
    segment = Segment.make(span([len(payload)]))
    segment.write([payload])
    held = Frame.shared(segment, [len(payload)], b"header")
    held.kind, held.id, held.flags = Kind.RESULT, number, held.flags | LAST
    return held


def forwarded(near: End, frame: Frame) -> list[Sendable]:
    return near.lending.forward(frame, frame.kind, frame.id, code=Status.OK, flags=LAST, engine=3)


def test_a_result_is_held_until_the_far_end_holds_it() -> None:
    near, far = acquainted()
    near.out += forwarded(near, result(b"x" * 5000))
    assert near.lent == 5000
    assert repr(near.lending).startswith("<Lending 1 results, <Handover with")
    gc.collect()
    [arrived] = far.lending.receive(near.carried())
    assert (arrived.id, arrived.engine, [bytes(buffer) for buffer in arrived.buffers]) == (7, 3, [b"x" * 5000])
    [taken] = far.carried()
    assert (taken.kind, taken.id, taken.engine) == (Kind.TAKEN, 7, 3)
    assert near.lending.receive([taken]) == []
    assert near.lent == 0
    # Twice, or of what was never lent, it means nothing.
    assert near.lending.receive([taken]) == []
    assert near.lent == 0


def test_a_far_end_that_cannot_open_it_is_sent_the_bytes() -> None:
    near = End()
    near.out += forwarded(near, result(b"x" * 5000))
    assert (near.lent, near.sends) == (0, 0)
    [arrived] = Decoder(Limits()).feed(flat(near.out))
    assert [bytes(buffer) for buffer in arrived.buffers] == [b"x" * 5000]


def test_what_is_gone_before_it_is_opened_is_said_to_who_reads_it() -> None:
    near, far = acquainted()
    near.out += forwarded(near, result(b"x" * 5000))
    near.lending.end()
    gc.collect()
    [arrived] = far.lending.receive(near.carried())
    with pytest.raises(DeserializationError, match="the shared memory that this message was in is gone"):
        _ = arrived.buffers


def test_a_payload_above_the_limit_breaks_the_rules() -> None:
    near, far = acquainted(message=4000)
    near.out += forwarded(near, result(b"x" * 5000))
    with pytest.raises(ProtocolError, match="a message of 5,000 bytes; the limit is 4,000"):
        far.lending.receive(near.carried())


def test_who_shares_nothing_neither_offers_nor_answers() -> None:
    near, far = End(), End(share=0)
    far.lending.offer(bytes(TOKEN), hurry=True)
    near.lending.offer(bytes(TOKEN), hurry=True)
    assert far.lending.receive(near.carried()) == []
    assert far.out == []
    assert not far.lending.handover.accepted


@pytest.mark.parametrize("hurry", [True, False])
def test_the_last_word_leaves_at_once_or_with_what_is_sent_next(hurry: bool) -> None:
    near, far = End(), End()
    near.lending.offer(bytes(TOKEN), hurry=hurry)
    far.lending.receive(near.carried())
    near.sends = 0
    near.lending.receive(far.carried())
    assert bool(near.sends) is hurry
    assert [json.loads(frame.header) for frame in near.carried()] == [{"accepted": True}]
