"""Frames over one socket on the loop, with nothing large ever copied: how a host speaks with a kernel."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from aioparallel.decoder import Decoder
from aioparallel.errors import ProtocolError
from aioparallel.turn import Turn
from aioparallel.wire import SHARED, Buffer, Bulk, Frame, Limits, Sendable, size_of

__all__ = ["FrameSocket"]

#: Most pieces that one `sendmsg` is given.
VECTOR = 64


class FrameSocket:
    """One end of a socket pair: bytes are read straight into place, and many frames leave in one write.

    Args:
        connected: The socket; closed by `close`.
        limits: The bounds.
        on_frames: Called with the frames of one read.
        on_end: Called once when the other end has closed, or broken the rules.
        on_shared: Called first with each frame whose payload lies in a segment.
    """

    def __init__(
        self,
        connected: socket.socket,
        limits: Limits,
        on_frames: Callable[[list[Frame]], None],
        on_end: Callable[[BaseException | None], None],
        on_shared: Callable[[Frame], None] | None = None,
    ) -> None:
        self._socket = connected
        self._socket.setblocking(False)
        self._descriptor = connected.fileno()
        self._decoder = Decoder(limits)
        self._on_frames = on_frames
        self._on_end = on_end
        self._on_shared = on_shared
        self._loop = asyncio.get_running_loop()
        self._turn = Turn.of_running_loop()
        self._piece = limits.piece
        self._streams = 0
        self._out: list[Sendable] = []
        # What has been sent, small frames joined; and what of it is being written.
        self._queue: deque[bytes | Bulk] = deque()
        self._bulk: Iterator[list[Buffer]] = iter(())
        self._waiting: deque[Buffer] = deque()
        self._flushing = False
        self._reading = False
        self._closed = False
        self.reads = 0
        self.resume_reading()

    def __repr__(self) -> str:
        pieces = len(self._queue) + len(self._waiting)
        return f"<FrameSocket {'closed' if self._closed else 'open'}, {pieces} pieces to write>"

    def send(self, pieces: Iterable[Sendable]) -> None:
        """Send frames; they leave at the end of this turn of the loop."""
        if self._closed:
            return
        self._out += pieces
        if not self._flushing:
            self._flushing = True
            self._turn.due(self._flush)

    def pause_reading(self) -> None:
        """Leave what arrives where it is."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)

    def resume_reading(self) -> None:
        """Read on."""
        if not self._reading and not self._closed:
            self._reading = True
            self._loop.add_reader(self._socket, self._read)

    def close(self) -> None:
        """Close at once; what was not written is gone."""
        if not self._closed:
            self.pause_reading()
            self._closed = True
            if self._waiting:
                self._loop.remove_writer(self._socket)
            self._forget()
            self._decoder.clear()
            self._socket.close()

    def _forget(self) -> None:
        self._queue.clear()
        self._waiting.clear()
        self._bulk = iter(())

    def _read(self) -> None:
        try:
            count = os.readv(self._descriptor, self._decoder.get_buffers())
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if not count:
            self._end(None)
            return
        self.reads += 1
        try:
            frames = self._decoder.buffer_updated(count)
            if self._decoder.about_memory:
                self._decoder.about_memory = False
                for frame in frames:
                    if frame.flags & SHARED and self._on_shared is not None:
                        self._on_shared(frame)
            if frames:
                self._turn.deliver(self._on_frames, frames)
        except ProtocolError as error:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self.close()
        self._on_end(error)

    def _flush(self) -> None:
        self._flushing = False
        pieces, self._out = self._out, []
        if self._closed:
            return
        small: list[Buffer] = []
        for piece in pieces:
            if not isinstance(piece, Bulk):
                small.append(piece)
                continue
            if small:
                self._queue.append(b"".join(small))
                small = []
            self._queue.append(piece)
        if small:
            self._queue.append(b"".join(small))
        if not self._waiting:
            self._write()
            if self._waiting and not self._closed:
                self._loop.add_writer(self._socket, self._write_on)

    def _write_on(self) -> None:
        self._write()
        if not self._waiting and not self._closed:
            self._loop.remove_writer(self._socket)

    def _fill(self) -> None:
        """Have enough to write for one `sendmsg`: a large message is cut as it is written."""
        while len(self._waiting) < VECTOR:
            piece = next(self._bulk, None)
            if piece is not None:
                self._waiting += piece
            elif not self._queue:
                return
            else:
                first = self._queue.popleft()
                if isinstance(first, Bulk):
                    self._bulk = first.cut(self._streams, self._piece)
                    self._streams += 1
                else:
                    self._waiting.append(first)

    def _write(self) -> None:
        waiting = self._waiting
        self._fill()
        while waiting:
            pieces = [waiting[index] for index in range(min(VECTOR, len(waiting)))]
            try:
                written = self._socket.sendmsg(pieces)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # The other end is gone; what it said last is still to be read, and tells the end by itself.
                self._forget()
                return
            whole = written == size_of(pieces)
            while waiting and written >= len(waiting[0]):
                written -= len(waiting.popleft())
            if written:
                waiting[0] = memoryview(waiting[0])[written:]
            if not whole:
                return
            self._fill()
