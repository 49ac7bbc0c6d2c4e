"""Frames over a socket pair: whole, in order, uncopied, whatever the sizes."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from runners import RUNNERS

from aioparallel.errors import ProtocolError
from aioparallel.frames import FrameSocket
from aioparallel.wire import Frame, Kind, Limits, encode


class Pair:
    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.ends: list[BaseException | None] = []
        near, far = socket.socketpair()
        self.near = FrameSocket(near, Limits(), self.frames.extend, self.ends.append)
        self.far = FrameSocket(far, Limits(), self.frames.extend, self.ends.append)

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)


@RUNNERS
def test_small_and_large_arrive_in_order(run: Any) -> None:
    async def main() -> None:
        pair = Pair()
        sizes = [0, 1, 100_000, 5, 3_000_000, *[10] * 500, 70_000, 65_535, 65_536]
        for number, size in enumerate(sizes):
            pair.near.send(encode(Kind.COMMAND, number, buffers=[bytes([number % 256]) * size]))
        await pair.until(lambda: len(pair.frames) == len(sizes))
        for number, (frame, size) in enumerate(zip(pair.frames, sizes, strict=True)):
            assert frame.id == number
            assert b"".join(frame.buffers) == bytes([number % 256]) * size
        pair.near.close()
        pair.far.close()

    run(main())


def test_what_is_not_read_waits() -> None:
    async def main() -> None:
        pair = Pair()
        pair.far.pause_reading()
        for number in range(100):
            pair.near.send(encode(Kind.COMMAND, number, buffers=[bytes(50_000)]))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not pair.frames
        assert "0 pieces" not in repr(pair.near)
        pair.far.resume_reading()
        pair.far.resume_reading()
        await pair.until(lambda: len(pair.frames) == 100)
        assert "0 pieces" in repr(pair.near)
        pair.near.close()
        pair.far.close()

    asyncio.run(main())


def test_the_end_comes_after_what_was_said() -> None:
    async def main() -> None:
        pair = Pair()
        pair.near.send(encode(Kind.COMMAND, 1))
        await asyncio.sleep(0)
        pair.near.close()
        pair.near.close()
        pair.near.send(encode(Kind.COMMAND, 2))
        await pair.until(lambda: pair.ends)
        assert [frame.id for frame in pair.frames] == [1]
        assert pair.ends == [None]
        pair.far.send(encode(Kind.COMMAND, 3))
        await asyncio.sleep(0)

    asyncio.run(main())


def test_writing_to_one_that_is_gone_ends_by_reading() -> None:
    async def main() -> None:
        pair = Pair()
        pair.far.close()
        pair.near.send(encode(Kind.COMMAND, 1, buffers=[bytes(1_000_000)]))
        await pair.until(lambda: pair.ends)
        assert not pair.frames

    asyncio.run(main())


def test_nonsense_is_the_end() -> None:
    async def main() -> None:
        pair = Pair()
        pair.near.send([b"\xff" * 100])
        await pair.until(lambda: pair.ends)
        assert isinstance(pair.ends[0], ProtocolError)
        pair.near.close()

    asyncio.run(main())
