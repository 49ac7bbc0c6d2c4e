"""One payload for several engines of a host that shares no memory with the controller: sent once, stored once."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from typing import Any

import pytest
from model import model_cluster

from aioparallel import MultiEngineClient, memory
from aioparallel.broadcast import Outgoing, Stored
from aioparallel.decoder import Decoder
from aioparallel.errors import CompositeError
from aioparallel.wire import KEY, SMALL, STORED, Frame, HostCall, Kind, Limits, Sendable, encode

LARGE = [b"head", bytes(range(256)) * 1000]


class Link:
    """A connection that keeps what is sent, and shares memory or not."""

    def __init__(self, *, shares: bool = False) -> None:
        self.shares = shares
        self.sent: list[Sendable] = []

    def send(self, pieces: list[Sendable]) -> None:
        self.sent += pieces

    def forward(self, frame: Frame, kind: int, number: int, **head: Any) -> list[Sendable]:
        return frame.forward(kind, number, shares=self.shares, **head)

    def frames(self) -> list[Frame]:
        sent, self.sent = self.sent, []
        decoder, frames = Decoder(Limits()), []
        for stream, piece in enumerate(sent):
            cuts = [[piece]] if isinstance(piece, (bytes, bytearray, memoryview)) else piece.cut(stream, SMALL)
            for cut in cuts:
                frames += decoder.feed(b"".join(cut))
        return frames


def arrived(buffers: list[bytes], number: int = 5) -> Frame:
    link = Link()
    link.send(encode(Kind.CALL, number, header=b"{}", buffers=buffers))
    [frame] = link.frames()
    return frame


def payload(frame: Frame) -> list[bytes]:
    return [bytes(buffer) for buffer in frame.buffers]


def test_the_payload_goes_first_and_once_and_is_dropped_with_the_last_reference() -> None:
    link = Link()
    outgoing = Outgoing(link, itertools.count(100))  # type: ignore[arg-type]
    frame = arrived(LARGE)
    assert outgoing.is_for(frame)
    for number, engine in ((1, 0), (2, 3), (3, 1)):
        link.send(outgoing.command(frame, number, engine))
    store, *commands = link.frames()
    assert (store.kind, store.code, store.id, payload(store)) == (Kind.CALL, HostCall.STORE, 100, LARGE)
    assert [(each.kind, each.code, each.id, each.engine) for each in commands] == [
        (Kind.COMMAND, STORED, 1, 0),
        (Kind.COMMAND, STORED, 2, 3),
        (Kind.COMMAND, STORED, 3, 1),
    ]
    assert {KEY.unpack(each.header) for each in commands} == {(100,)}
    del frame
    gc.collect()
    assert [(each.kind, each.code, each.id) for each in link.frames()] == [(Kind.CALL, HostCall.DROP, 100)]
    assert len(outgoing) == 0


def test_small_ones_and_those_in_shared_memory_go_as_ever() -> None:
    assert not Outgoing(Link(), itertools.count()).is_for(arrived([b"small"]))  # type: ignore[arg-type]
    frame = Frame.shared(memory.Segment.make(5), [5], b"{}")
    assert not Outgoing(Link(shares=True), itertools.count()).is_for(frame)  # type: ignore[arg-type]
    assert Outgoing(Link(shares=False), itertools.count()).is_for(frame)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0, 1000, 10**9])
def test_commands_that_come_early_wait(share: int) -> None:
    stored = Stored(share)
    early = [Frame(8, Kind.COMMAND, 0, STORED, number, number + 10, 0, 8, [KEY.pack(100)]) for number in (1, 2, 3)]
    assert [stored.command(frame) for frame in early] == [None, None, None]
    assert stored.cancel(2)
    assert not stored.cancel(2)
    first, third = stored.keep(arrived(LARGE, 100))
    late = stored.command(Frame(8, Kind.COMMAND, 0, STORED, 4, 14, 0, 8, [KEY.pack(100)]))
    assert late is not None
    for frame, number in ((first, 1), (third, 3), (late, 4)):
        assert (frame.kind, frame.id, frame.engine, frame.header) == (Kind.COMMAND, number, number + 10, b"{}")
        assert payload(frame) == LARGE
        assert (frame.segment is not None) == (share == 1000 and memory.AVAILABLE)
    # Stored once: all have the very same.
    assert first.body is third.body is late.body
    kept = weakref.ref(first)
    stored.drop(100)
    stored.drop(100)
    assert len(stored) == 0
    del first, third, late, frame
    gc.collect()
    assert kept() is None


def test_through_a_controller() -> None:
    async def main() -> None:
        async with model_cluster(4) as (controller, host):
            [link] = controller._links
            sent = []
            send = link.connection.send

            def counting(pieces: Any) -> None:
                pieces = list(pieces)
                sent.append(sum(map(len, pieces)))
                send(pieces)

            link.connection.send = counting  # type: ignore[method-assign]
            async with MultiEngineClient(controller.capability("multiengine")) as mec:
                assert await mec.apply(len, bytes(300_000)) == [300_000] * 4
                assert sum(sent) < 310_000
                with pytest.raises(CompositeError):
                    await mec.apply(lambda data: 1 / 0, bytes(300_000))
                assert await mec.apply(len, bytes(300_000), targets=2) == [300_000]
                assert len(link.outgoing) == 0
            assert len(host.stored) == 0

    asyncio.run(main())
