"""What commands write while they run: Output, and Watch, which puts together what one call writes."""

from __future__ import annotations

import asyncio
import codecs
import sys
from collections.abc import Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from aioparallel.wire import NO_ENGINE, OUTPUT_META, RESULT_META, Buffer, Frame, News, Status

__all__ = ["Listener", "Output", "Printer", "Watch", "Watching", "watch_of"]

STREAMS = ("stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a command wrote.

    Attributes:
        engine: The engine that ran it.
        command: The number of the call it belongs to, `number` of its handle or `PendingResult`.
        stream: "stdout" or "stderr".
        text: The piece; it may end anywhere, also within a line.
    """

    engine: int
    command: int
    stream: str
    text: str


Listener: TypeAlias = Callable[[Output], object]


class _Stream:
    """One stream of one command on one engine: the bytes that were shown, and the character that is not whole yet."""

    __slots__ = ("decoder", "shown")

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.shown = bytearray()


class Watch:
    """All that a call has written so far, and who is told of it. Its methods are called on the loop.

    What came while the command ran is the beginning of what its result carries. So the result completes it, and
    nothing is lost when pieces were left out on the way.

    Args:
        loop: Whose exception handler is told of a listener that raises.

    Attributes:
        pieces: What has been written, in the order in which it came.
        over: Whether there will be no more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.pieces: list[Output] = []
        self.over = False
        # Several calls may be one to their caller (`joint`).
        self._command = 0
        self._calls = 0
        self._loop = loop
        self._listeners: list[Listener] = []
        self._streams: dict[tuple[int, int], _Stream] = {}
        self._complete: set[int] = set()
        self._waiting: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<Watch of {len(self.pieces)} pieces{', over' if self.over else ''}>"

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every piece there was and will be."""
        for piece in self.pieces:
            self._tell(listener, piece)
        self._listeners.append(listener)

    async def more(self, place: int) -> bool:
        """Wait until there is a piece at `place`; return False if there will be none."""
        while len(self.pieces) <= place and not self.over:
            waiting: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(waiting)
            try:
                await waiting
            finally:
                if waiting in self._waiting:
                    self._waiting.remove(waiting)
        return len(self.pieces) > place

    def begin(self, number: int) -> None:
        """Watch a call; one more, if it is one of several."""
        self._command = self._command or number
        self._calls += 1

    def wrote(self, frame: Frame) -> None:
        """Take a NOTICE of what was written next."""
        header = frame.header
        if len(header) != OUTPUT_META.size or frame.code not in (News.STDOUT, News.STDERR):
            return
        (offset,) = OUTPUT_META.unpack(header)
        place = frame.engine, frame.code - News.STDOUT
        stream = self._streams.get(place) or self._streams.setdefault(place, _Stream())
        if not offset and stream.shown:
            # A task that has begun anew, after its kernel died.
            stream = self._streams[place] = _Stream()
        if offset == len(stream.shown):
            self._show(*place, stream, b"".join(frame.buffers))

    def answered(self, engine: int, code: int, header: Buffer) -> None:
        """Take an engine's answer: whatever it wrote and has not been shown is shown now."""
        if engine == NO_ENGINE or engine in self._complete:
            return
        self._complete.add(engine)
        written: tuple[bytes, ...] = (b"", b"")
        if code & 0xFF in (Status.OK, Status.ERROR) and len(header) >= RESULT_META.size:
            length = RESULT_META.unpack_from(header)[2]
            both = bytes(header[RESULT_META.size :])
            written = both[:length], both[length:]
        for number, data in enumerate(written):
            stream = self._streams.pop((engine, number), None) or _Stream()
            if not data.startswith(stream.shown):
                if not data:
                    # The engine's end, or an interrupt on the way: there is no more to be known.
                    data = bytes(stream.shown)
                else:
                    stream = _Stream()
            self._show(engine, number, stream, data[len(stream.shown) :], final=True)

    def end(self) -> None:
        """A call has ended, or nobody will hear of it any more; with the last one there will be no more."""
        self._calls -= 1
        if self._calls:
            return
        self.over = True
        self._wake()

    def _show(self, engine: int, number: int, stream: _Stream, data: bytes, *, final: bool = False) -> None:
        stream.shown += data
        text = stream.decoder.decode(data, final)
        if not text:
            return
        piece = Output(engine, self._command, STREAMS[number], text)
        self.pieces.append(piece)
        for listener in tuple(self._listeners):
            self._tell(listener, piece)
        self._wake()

    def _tell(self, listener: Listener, piece: Output) -> None:
        try:
            listener(piece)
        except Exception as error:
            text = f"who watches the output of call {piece.command} raised"
            self._loop.call_exception_handler({"message": text, "exception": error})

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class Printer:
    """Prints what engines write to this program's own stdout and stderr, each line behind `[engine] `.

    What ends within a line is printed at once all the same. Another's text then begins a line of its own, and what
    the first writes next goes on in a new one.
    """

    def __init__(self) -> None:
        #: Of each stream, whose line has no end yet; of each engine's streams, whose line was ended by us.
        self._open: dict[str, Output | None] = {}
        self._broken: dict[tuple[str, int], int] = {}

    def __repr__(self) -> str:
        return "<Printer>"

    def __call__(self, piece: Output) -> None:
        """Print a piece."""
        stream, text, prefix = piece.stream, piece.text, f"[{piece.engine}] "
        before = self._open.get(stream)
        goes_on = before is not None and (before.engine, before.command) == (piece.engine, piece.command)
        start = "" if goes_on else prefix
        if before is not None and not goes_on:
            start = "\n" + prefix
            self._broken[stream, before.engine] = before.command
        if self._broken.get((stream, piece.engine)) == piece.command and not goes_on:
            # Its line has its end already.
            del self._broken[stream, piece.engine]
            text = text.removeprefix("\n")
            if not text:
                return
        ended = text.endswith("\n")
        self._open[stream] = None if ended else piece
        body = (text[:-1] if ended else text).replace("\n", "\n" + prefix)
        print(f"{start}{body}", end="\n" if ended else "", file=getattr(sys, stream), flush=True)


#: What the calls that are made here are watched by.
_inside: ContextVar[tuple[Watching, ...]] = ContextVar("aioparallel_watching", default=())


class Watching:
    """Watches every command that is submitted inside its `with`, until that command has ended.

    Inside is meant as for any context variable: other threads and tasks that were there before are not.

    Args:
        owner: Whose commands.
        listener: Called with every piece.
        engines: Whose output; None: every engine's.
    """

    def __init__(self, owner: object, listener: Listener, engines: Collection[int] | None) -> None:
        self._owner = owner
        self._listener = listener
        self._engines = engines
        self._over = False

    def __repr__(self) -> str:
        return f"<Watching for {self._listener!r}{', over' if self._over else ''}>"

    def __enter__(self) -> Watching:
        self._over = False
        _inside.set((*_inside.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A task that was begun inside has a copy of the variable, which can't be reached.
        self._over = True
        _inside.set(tuple(watching for watching in _inside.get() if watching is not self))

    def hears(self, owner: object) -> bool:
        """Whether commands of `owner` are watched now."""
        return self._owner is owner and not self._over

    def tell(self, piece: Output) -> None:
        """Pass a piece on."""
        if self._engines is None or piece.engine in self._engines:
            self._listener(piece)


def watch_of(owner: object, loop: asyncio.AbstractEventLoop) -> Watch | None:
    """Return a watch for a command that is about to be submitted, or None if nobody here watches."""
    inside = _inside.get()
    if not inside:
        return None
    hearing = [watching for watching in inside if watching.hears(owner)]
    if not hearing:
        return None
    watch = Watch(loop)
    for watching in hearing:
        watch.listen(watching.tell)
    return watch
