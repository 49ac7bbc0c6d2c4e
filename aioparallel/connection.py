"""A Session with an asyncio transport under it: many frames a read, one write a turn of the loop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
from collections.abc import Callable, Iterable
from typing import Any

from aioparallel.decoder import Decoder
from aioparallel.drain import Drain
from aioparallel.errors import (
    ConnectionFailed,
    ConnectionLost,
    HandshakeError,
    ParallelError,
    ProtocolError,
    to_plain,
)
from aioparallel.lending import Lending
from aioparallel.session import Handshake, Liveness, Session
from aioparallel.turn import Turn
from aioparallel.wire import NO_ENGINE, Frame, Kind, Limits, Sendable, encode

__all__ = ["Connection"]

logger = logging.getLogger(__name__)

#: Seconds for which a thread that waits for one answer looks without sleeping; not with a single processor, which
#: those who work on the answer need.
SPIN = 0.0005 if (os.cpu_count() or 1) > 1 else 0.0
#: Seconds that a closing connection may take to write what it still has.
LINGER = 5.0


class Connection(asyncio.BufferedProtocol):
    """One end of one connection.

    Writes gather: what is sent during one turn of the loop leaves in one piece at its end. Large messages, and what a
    slow reader does not take, wait (`Drain`); beyond `Limits.outbox` the connection is `congested`, and whoever
    produces for it should pause until `on_drained`.

    Args:
        make_handshake: Called when connected, with the asyncio transport; returns this end's handshake.
            It may raise ConnectionError.
        greeting: Called with the handshake; returns the bytes to open with.
        limits: The bounds.
        on_open: Called once, when the handshake is done.
        on_frames: Called with the frames of one read.
        on_lost: Called once, at the end, with the reason (None: it was closed in good order).
    """

    def __init__(
        self,
        make_handshake: Callable[[asyncio.BaseTransport], Handshake],
        *,
        limits: Limits,
        greeting: Callable[[Any], bytes] | None = None,
        on_open: Callable[[Connection], None],
        on_frames: Callable[[list[Frame]], None],
        on_lost: Callable[[BaseException | None], None],
    ) -> None:
        self.limits = limits
        self.on_frames = on_frames
        self.on_lost = on_lost
        self.on_drained: Callable[[], None] = _nothing
        self.on_silence: Callable[[float], None] = _nothing_of
        #: Whether silence beyond `Limits.dead` ends the connection.
        self.mortal = True
        self.congested = False
        self._make_handshake = make_handshake
        self._greeting = greeting
        self._on_open = on_open
        self._loop = asyncio.get_running_loop()
        self._turn = Turn.of_running_loop()
        self._session: Session | None = None
        self._decoder: Decoder | None = None
        self._transport: Any = None
        self._error: BaseException | None = None
        self._out: list[Sendable] = []
        self._drain = Drain(limits, self._weighed)
        self._outbox = self._drain.outbox
        self._flushing = False
        self._closing = False
        self._lost = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._descriptor: int | None = None
        self._poll = select.poll()
        self._skips = self._vain = 0
        self._lending = Lending(limits, send=self.send, send_along=self._send_along, weigh=self._drain.weigh)

    def __repr__(self) -> str:
        state = "lost" if self._lost else "closing" if self._closing else repr(self._session)
        return f"<Connection {state}, {self._outbox.size} bytes to write>"

    @property
    def session(self) -> Session:
        """The session; there is one from the moment of connection."""
        assert self._session is not None
        return self._session

    @property
    def is_open(self) -> bool:
        """Whether frames can be sent."""
        return self._session is not None and self._session.is_open and not self._closing

    @property
    def shares(self) -> bool:
        """Whether the far end can open segments of ours."""
        return self._lending.handover.accepted

    # Sending

    def send(self, pieces: Iterable[Sendable]) -> None:
        """Send a frame (or several), given as pieces; it leaves at the end of this turn of the loop."""
        if self._closing:
            return
        self._out += pieces
        if not self._flushing:
            self._flushing = True
            self._turn.due(self.flush)

    def send_now(self, pieces: Iterable[Sendable]) -> None:
        """Send a frame (or several) without waiting for the end of the turn."""
        if not self._closing:
            self._out += pieces
            self.flush()

    def forward(
        self, frame: Frame, kind: int, number: int, *, code: int = 0, flags: int = 0, engine: int = NO_ENGINE
    ) -> list[Sendable]:
        """Return what passes a frame on, as pieces to send here (`Frame.forward`).

        The segment of a RESULT is held until the far end does; that of a command whoever sends it must hold until the
        answer comes.
        """
        if frame.segment is None:
            return frame.forward(kind, number, code=code, flags=flags, engine=engine)
        return self._lending.forward(frame, kind, number, code=code, flags=flags, engine=engine)

    def offer_memory(self, token: bytes, *, hurry: bool) -> None:
        """Offer the far end that large payloads stay in memory both can see.

        Args:
            token: Random bytes.
            hurry: Whether the last word leaves at once, or with whatever is sent next: a write to a far end that has
                just closed would cost what it said last.
        """
        if not self._lost:
            self._lending.offer(token, hurry=hurry)

    def goodbye(self, error: ParallelError) -> None:
        """Say why, and close."""
        if self.is_open:
            self.send(encode(Kind.GOODBYE, header=json.dumps(to_plain(error)).encode()))
        self.close(error)

    def flush(self) -> None:
        """Write now what was sent, not at the end of the turn."""
        self._flushing = False
        pieces, self._out = self._out, []
        if not pieces or self._transport is None or self._lost:
            return
        assert self._session is not None
        self._session.note_sent()
        if not self._outbox and not self._drain.paused:
            try:
                gathered = b"".join(pieces)  # type: ignore[arg-type]
            except TypeError:
                pass  # a large message is among them
            else:
                self._transport.write(gathered)
                return
        self._outbox.put(pieces)
        self._drain.go_on()

    def withdraw(self, number: int) -> bool:
        """Take back a large message, given its id, and what would follow it under that id.

        Returns:
            Whether not all of it had left: then the far end never sees it.
        """
        self.flush()
        dropped = self._outbox.drop(number)
        if dropped:
            self._drain.go_on()
        return dropped

    def _send_along(self, pieces: Iterable[Sendable]) -> None:
        """Send frames with whatever is sent next."""
        self._out += pieces

    def _weighed(self, congested: bool) -> None:
        """Too much waits for the far end, or it does so no more."""
        self.congested = congested
        if not congested:
            self.on_drained()

    def pause_writing(self) -> None:
        """The transport has enough for now."""
        self._drain.pause()

    def resume_writing(self) -> None:
        """The transport takes more."""
        self._drain.resume()

    def pause_reading(self) -> None:
        """Leave what arrives where it is; the far end will feel it."""
        if self._transport is not None and not self._lost and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._transport is not None and not self._lost and not self._transport.is_closing():
            self._transport.resume_reading()

    # Receiving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._transport = transport
        self._drain.begin(transport)
        try:
            handshake = self._make_handshake(transport)
        except Exception as error:
            self._fail(error)
            return
        self._session = Session(handshake, self.limits, now=self._loop.time())
        if type(self._loop) is asyncio.SelectorEventLoop and transport.get_extra_info("ssl_object") is None:
            connected = transport.get_extra_info("socket")
            if connected is not None:
                self._descriptor = connected.fileno()
                self._poll.register(self._descriptor, select.POLLIN)
        self._timer = self._loop.call_later(self.limits.beat, self._tick)
        if self._greeting is not None:
            self._transport.write(self._greeting(handshake))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes belong."""
        if self._decoder is not None:
            return self._decoder.get_buffer()
        if self._session is None:
            return memoryview(bytearray(4096))
        return self._session.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Take what arrived."""
        session = self._session
        if session is None or self._lost:
            return
        try:
            if self._decoder is None:
                frames = self._shake(session, nbytes)
            else:
                session.heard(self._loop.time())
                frames = self._decoder.buffer_updated(nbytes)
                if self._decoder.about_memory:
                    self._decoder.about_memory = False
                    frames = self._lending.receive(frames)
            if frames:
                self._turn.deliver(self.on_frames, frames)
        except HandshakeError as error:
            self._fail(error, error.reply)
        except (ProtocolError, ConnectionFailed) as error:
            self._fail(error)

    def _shake(self, session: Session, nbytes: int) -> list[Frame]:
        """Go on with the handshake; return the frames that came behind its end."""
        try:
            frames = session.buffer_updated(nbytes, self._loop.time())
        except (ProtocolError, ConnectionFailed):
            raise
        except Exception as error:
            logger.exception("a handshake failed in an unforeseen way")
            self._fail(error)
            return []
        self._transport.write(b"".join(session.take_output()))
        if session.is_open:
            self._decoder = session.decoder
            self._on_open(self)
        return frames

    def read_here(self, seconds: float, *, alone: bool) -> bool:
        """Read once from the socket in the calling thread, while nobody runs the loop.

        For a thread that waits for one answer this leaves out all of the loop's own work. It can be done where
        asyncio's transport is a plain socket without a buffer of its own; the end of the connection is left to it.

        Args:
            seconds: How long to wait for something to read.
            alone: Whether nothing else is under way here. Then it is looked for a moment without sleeping, if that
                was worth it the last times: while this processor is awake, those who work on the answer stay together
                on another, and to wake a sleeping one takes longer than a short call.

        Returns:
            Whether something was read.
        """
        if self._descriptor is None or self._closing or not self._transport.is_reading():
            return False
        if self._outbox or self._transport.get_write_buffer_size():
            return False  # only the loop writes the rest
        try:
            if not (alone and self._spin()) and not self._poll.poll(seconds * 1000):
                return False
            count = os.readv(self._descriptor, self._buffers())
        except OSError:
            return False
        if count:
            self.buffer_updated(count)
        return count > 0

    def _buffers(self) -> list[memoryview]:
        return [self.get_buffer(-1)] if self._decoder is None else self._decoder.get_buffers()

    def _spin(self) -> bool:
        """Look for something to read, for a moment, without sleeping; the seldomer the more often it was in vain."""
        if self._skips:
            self._skips -= 1
            return False
        poll, clock = self._poll.poll, self._loop.time
        end = clock() + SPIN
        while not poll(0):
            if clock() > end:
                self._vain = min(self._vain + 1, 3)
                self._skips = 2**self._vain - 1
                return False
        self._vain = 0
        return True

    def eof_received(self) -> bool:
        """The far end writes no more: neither do we."""
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the owner, once."""
        if self._lost:
            return
        self._lost = self._closing = True
        self._descriptor = None
        for timer in (self._timer, self._deadline):
            if timer is not None:
                timer.cancel()  # the loop would keep all of this until then
        self._out.clear()
        self._drain.end()
        if self._decoder is not None:
            self._decoder.clear()
        self._lending.end()
        self.on_lost(self._error or exc)

    # Ending

    def close(self, error: BaseException | None = None) -> None:
        """Close in good order: what was sent is written first, within `LINGER` seconds. Safe to call twice."""
        if self._closing:
            return
        self._error = self._error or error
        self.flush()
        self._closing = True
        if self._transport is None:
            return
        if not self._outbox:
            self._finish()
        else:
            self._drain.finish(self._finish)
            self._abort_in(LINGER)

    def abort(self, error: BaseException | None = None) -> None:
        """Close at once."""
        self._closing = True
        self._error = self._error or error
        if self._transport is not None and not self._lost:
            self._transport.abort()

    def _finish(self) -> None:
        self._transport.close()
        # A peer that never reads must not keep the descriptor: close() with unsent data never ends.
        self._abort_in(LINGER)

    def _abort_in(self, seconds: float) -> None:
        """Close at once, but only then, if it is still open."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, self.abort)

    def _fail(self, error: BaseException, reply: bytes = b"") -> None:
        """The connection can't go on: at most a last reply, then the end."""
        self._error = self._error or error
        self._closing = True
        if reply:
            self._transport.write(reply)
            self._transport.close()
            self._abort_in(0.2)
        else:
            self._transport.abort()

    def _tick(self) -> None:
        """Give a sign of life, and judge the far end's silence and slowness."""
        assert self._session is not None
        if self._lost:
            return
        now = self._loop.time()
        self._timer = self._loop.call_later(self.limits.beat, self._tick)
        liveness, beat = self._session.tick(now)
        if beat:
            self.send(beat)
        if liveness is Liveness.DEAD and self.mortal and self._session.is_open:
            self.abort(ConnectionLost(f"nothing was heard for {self._session.silence(now):.0f} s"))
        elif liveness is Liveness.SUSPECT:
            self.on_silence(self._session.silence(now))
        if self._drain.is_stuck(now):
            self.abort(ConnectionLost(f"the far end read nothing for {self.limits.stuck:.0f} s"))


def _nothing() -> None:
    pass


def _nothing_of(silence: float) -> None:
    pass
