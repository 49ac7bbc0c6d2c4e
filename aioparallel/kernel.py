"""The process that runs user code, one command at a time, in its main thread.

    python -u -c '… import aioparallel.kernel …' --fd N --shared M --parent PID …

It speaks wire frames over one socket, with its host and nobody else; descriptors 1 and 2 are files that its host made
(`shared`). It ends when the socket does, and with its host. Rules:

* a command is answered exactly once, whatever the user's code does short of ending the process;
* KeyboardInterrupt comes only into the command it was meant for, and only while that runs;
* an answer leaves at once, unless commands wait and the last ones were all so short that it pays to gather.
"""

from __future__ import annotations

import _thread
import contextlib
import itertools
import json
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from aioparallel.decoder import Decoder
from aioparallel.errors import MessageTooLarge
from aioparallel.interrupts import Coroutines, Interrupts
from aioparallel.memory import AVAILABLE, Pool, Segment, span
from aioparallel.namespace import Namespace
from aioparallel.native import SIGINT, die_with_parent, get_handler, set_handler
from aioparallel.outlet import Outlet
from aioparallel.serialize import pack_error
from aioparallel.shared import CANCELS, DONE, NONE, RUNNING, TAKEN, OutputFile, Page
from aioparallel.source import SYSTEM
from aioparallel.wire import (
    JOINED,
    RESULT_META,
    SHARED,
    Buffer,
    Bulk,
    Frame,
    KernelCall,
    Kind,
    Limits,
    Sendable,
    Status,
    encode,
    encode_shared,
    size_of,
)

__all__ = ["Kernel", "main"]

#: A command below this, seconds, is short; after so many short ones in a row answers are gathered …
SHORT = 0.0001
STREAK = 8
#: … for at most this long, seconds, and this much, bytes.
LATE = 0.001
FULL = 65536
#: The thread that sends what is late ends after so many looks that found nothing.
LOOKS = 20
#: Longest sleep between two looks whether the host holds a result, seconds.
LONGEST_LOOK = 0.02
#: Seconds for which memory that a large result was in is kept for the next one.
IDLE = 2.0
#: Exit status when the user's code has closed the socket.
EX_IOERR = 74


class Kernel:
    """What stands between the socket and the namespace.

    Args:
        wire: The socket's descriptor.
        page: The words shared with the host.
        outputs: The files behind stdout and stderr.
        limits: The bounds.
        host: The host's pid, if we can open each other's segments.
    """

    def __init__(
        self, wire: int, page: Page, outputs: tuple[OutputFile, OutputFile], limits: Limits, host: int = 0
    ) -> None:
        self._wire = wire
        self._host = host
        self._words = page.words
        self._outputs = outputs
        self._limits = limits
        self._room = limits.room
        self._decoder = Decoder(limits)
        self._coroutines = Coroutines()
        self._interrupts = Interrupts(page, self._coroutines)
        self._handler = self._interrupts.handle
        self._namespace: Namespace | None = None
        self._pending: deque[Frame] = deque()
        self._cancelled: set[int] = set()
        self._cancels = 0
        self._streak = 0
        #: What the host reads while nothing runs.
        self._last = NONE
        # Answers that have not left; the lock is held to change and to send them, for a thread may do either.
        self._lock = _thread.allocate_lock()
        self._out: list[Sendable] = []
        self._streams = itertools.count()
        self._out_size = 0
        self._out_since = 0.0
        #: What results in shared memory lie in that the host does not hold yet, in the order in which they were sent.
        self._lent: deque[Segment] = deque()
        self._taken = 0
        self._pool = Pool(limits.outbox)
        self._waiter = select.poll()
        self._waiter.register(wire, select.POLLIN)
        self._helping = False
        self._forked = False
        largest = min(limits.header, limits.message)
        self._outlet = Outlet(lambda: self._send([], gather=False), self._start_outlet, largest=largest)

    def __repr__(self) -> str:
        return f"<Kernel {self._namespace!r}, {len(self._pending)} commands waiting>"

    def serve(self) -> None:
        """Do what comes until the host closes the socket."""
        signal.signal(signal.SIGINT, self._handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
        os.register_at_fork(after_in_child=self._in_child)
        python = ".".join(map(str, sys.version_info[:3]))
        ready = json.dumps({"ready": True, "pid": os.getpid(), "python": python}).encode()
        self._send(encode(Kind.NOTICE, header=ready), gather=False)
        while True:
            while not self._pending:
                self._flush()
                if not self._read():
                    return
            self._perform(self._pending.popleft())

    # Receiving

    def _read(self) -> bool:
        """Wait for bytes and take the frames in them; return False at the end."""
        while (self._lent or len(self._pool)) and not self._waiter.poll(IDLE * 1000):
            self._take_back()
            self._pool.trim()
        try:
            count = os.readv(self._wire, self._decoder.get_buffers())
        except ConnectionResetError:
            return False
        for frame in self._decoder.buffer_updated(count):
            self._take(frame)
        return count > 0

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.COMMAND:
            self._pending.append(frame)
        elif frame.kind == Kind.CANCEL:
            self._cancels += 1
            if any(waiting.id == frame.id for waiting in self._pending):
                self._cancelled.add(frame.id)
        elif frame.kind == Kind.CALL and frame.code == KernelCall.SETUP:
            self._set_up(frame.json())
        elif frame.kind == Kind.CALL and frame.code == KernelCall.FORGET:
            if self._namespace is not None:
                self._namespace.end_forwarding(frame.id)
            self._send(encode(Kind.RESULT, frame.id), gather=False)

    def _set_up(self, setup: dict[str, Any]) -> None:
        """Become an engine: its id is known now."""
        sys.path[:0] = [entry for entry in setup.get("path", ()) if entry not in sys.path]
        self._namespace = Namespace(
            setup["engine"], run_coroutine=self._coroutines.run, interrupts=self._interrupts, outlet=self._outlet
        )
        sys.modules["__main__"] = self._namespace.module

    # Doing

    def _perform(self, frame: Frame) -> None:
        number = frame.id
        patience = LATE / 10
        while self._lent and self._taken + len(self._lent) > self._words[TAKEN]:
            # If this one were to end the process, results that the host does not hold yet would be lost with it.
            self._flush()
            time.sleep(patience)
            patience = min(2 * patience, LONGEST_LOOK)
        # Set before the host's word is read: one who withdraws it sees that it runs, or is seen.
        self._words[RUNNING] = number
        while self._words[CANCELS] != self._cancels and number not in self._cancelled:
            # Those frames are on their way: they tell what not to start.
            self._flush()
            self._pending.appendleft(frame)
            if not self._read():
                os._exit(0)
            self._pending.popleft()
        if self._cancelled and number in self._cancelled:
            self._cancelled.discard(number)
            self._words[RUNNING] = self._last
            self._send(encode(Kind.RESULT, number, code=Status.CANCELLED), gather=bool(self._pending))
            return
        started, since = SYSTEM.wall(), time.perf_counter()
        status, payload = self._run(frame)
        now = time.perf_counter()
        frame.segment = None
        if self._forked:
            # A child of the user's that came back out of the user's code has no business here.
            os._exit(0)
        if get_handler(SIGINT) is not self._handler:
            set_handler(SIGINT, self._handler)
        # Before its output is taken: what the host reads while a command runs is that command's.
        self._words[RUNNING] = self._last = number | DONE
        try:
            pieces = self._answer(number, status, payload, started, now - since)
        except OSError:
            self._words[RUNNING] = number  # it has closed our files, and is what we die of
            raise
        self._streak = self._streak + 1 if now - since < SHORT else 0
        self._send(pieces, gather=self._streak > STREAK and bool(self._pending), now=now)

    def _run(self, frame: Frame) -> tuple[Status, list[Buffer]]:
        assert self._namespace is not None
        self._interrupts.command = frame.id
        try:
            if frame.flags & SHARED:
                host, inode, lengths = frame.loan
                frame.segment = Segment.open(self._host, host, inode, span(lengths))
            return self._namespace.run(frame.buffers, frame.json() if frame.code == JOINED else None)
        except BaseException as error:
            # An interrupt on the last step out of the user's code: then the command has been interrupted.
            self._interrupts.shut()
            return self._namespace.failed(error)

    def _answer(
        self, number: int, code: Status, payload: list[Buffer], started: float, seconds: float
    ) -> list[Sendable]:
        stdout, stderr = self._outputs[0].take(self._room), self._outputs[1].take(self._room)
        header = RESULT_META.pack(started, seconds, len(stdout))
        if stdout or stderr:
            header = b"".join((header, stdout, stderr))
            assert self._namespace is not None
            self._namespace.printed(stdout, stderr)
        limit = self._limits.message
        if self._host and self._limits.share <= size_of(payload) <= limit:
            self._take_back()
            loan = self._pool.lend(payload)
            if loan is not None:
                self._lent.append(loan[0])
                return encode_shared(Kind.RESULT, number, *loan, code=code, header=header)
        try:
            return encode(
                Kind.RESULT, number, code=code, header=header, buffers=payload, limit=limit, small=self._limits.small
            )
        except MessageTooLarge as error:
            assert self._namespace is not None
            payload = pack_error(error, engine_id=self._namespace.engine_id)
            return encode(Kind.RESULT, number, code=Status.ERROR, header=header, buffers=payload)

    def _take_back(self) -> None:
        """Use again what results lay in that the host holds by itself now."""
        while self._lent and self._taken < self._words[TAKEN]:
            self._taken += 1
            self._pool.take_back(self._lent.popleft())

    # Answering

    def _send(self, pieces: list[Sendable], *, gather: bool, now: float = 0.0) -> None:
        """Send an answer now, or soon together with the next ones."""
        with self._lock:
            if not self._out:
                self._out_since = now
            if self._outlet.waiting:
                # Log records of the command before its answer.
                pieces = [*self._outlet.take(), *pieces]
            self._out += pieces
            self._out_size += size_of(pieces)
            if not gather or self._out_size > FULL or now - self._out_since > LATE:
                self._flush_held()
            elif not self._helping:
                self._start_helper()

    def _flush(self) -> None:
        if self._out:
            with self._lock:
                self._flush_held()

    def _flush_held(self) -> None:
        pieces, self._out, self._out_size = self._out, [], 0
        try:
            self._write(pieces)
        except ConnectionError:
            os._exit(0)  # the host is gone

    def _write(self, pieces: list[Sendable]) -> None:
        """Write all pieces: small ones in one copy, large messages a PIECE at a time, from where they are."""
        small: list[Buffer] = []
        for piece in pieces:
            if not isinstance(piece, Bulk):
                small.append(piece)
                continue
            for cut in piece.cut(next(self._streams), self._limits.piece):
                _write(self._wire, [b"".join(small), *cut] if small else cut)
                small = []
        if small:
            _write(self._wire, [b"".join(small)])

    def _start_helper(self) -> None:
        try:
            _start_thread(self._help)
            self._helping = True
        except RuntimeError:  # the user's code has used up all threads
            self._flush_held()

    def _start_outlet(self, work: Callable[[], None]) -> None:
        # This is on behalf of a command, but not the user's code: an interrupt in here would do harm.
        self._interrupts.shut()
        _start_thread(work)

    def _help(self) -> None:
        """Send what is late because a command turned out long; end when there has been nothing for a while."""
        idle = 0
        while True:
            time.sleep(LATE)
            with self._lock:
                if self._out:
                    idle = 0
                    if time.perf_counter() - self._out_since > LATE:
                        self._flush_held()
                    continue
                idle += 1
                if idle > LOOKS:
                    self._helping = False
                    return

    def _in_child(self) -> None:
        """Be an ordinary process after the user's code has forked: no socket, no part in this one's doings."""
        self._forked = True
        self._lock = _thread.allocate_lock()
        self._out.clear()
        self._outlet.abandon()
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, self._wire, inheritable=False)
        os.close(nothing)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _start_thread(work: Callable[[], None]) -> None:
    """Start a thread that gets no signals: they must reach the main thread, where the user's code is."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        _thread.start_new_thread(work, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write(wire: int, pieces: list[Buffer]) -> None:
    """Write all pieces, which are few, from where they are."""
    while pieces:
        written = os.writev(wire, pieces)
        while pieces and written >= len(pieces[0]):
            written -= len(pieces.pop(0))
        if written:
            pieces[0] = memoryview(pieces[0])[written:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Be a kernel, as told by the command line, until the host closes the socket.

    Raises:
        SystemExit: The host is gone already.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = {name.removeprefix("--"): int(value) for name, value in zip(words[::2], words[1::2], strict=True)}
    die_with_parent(options["parent"])
    names = ("message", "header", "piece", "output", "outbox", "share")
    limits = Limits(**{name: options[name] for name in names})
    os.set_inheritable(options["fd"], False)
    page = Page(options["shared"])
    host = options["parent"] if limits.share and AVAILABLE and _is_open(options["parent"], options["shared"]) else 0
    os.close(options["shared"])  # the memory stays
    # Descriptors of our own: the user's code may close 1 and 2 or make them lead elsewhere.
    outputs = OutputFile(os.dup(1), page, 0), OutputFile(os.dup(2), page, 1)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", write_through=True)  # type: ignore[union-attr]
    sys.argv = [""]
    try:
        Kernel(options["fd"], page, outputs, limits, host).serve()
    except OSError as error:
        os.write(2, f"user code has closed the kernel's own files: {error}\n".encode())
        os._exit(EX_IOERR)
    # At once: the user's threads, children and exit handlers have nobody left to work for.
    os._exit(0)


def _is_open(pid: int, number: int) -> bool:
    """Whether a descriptor that we share with another process can be opened over there."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), os.fstat(number))
    return False


if __name__ == "__main__":
    main()
