"""Large messages in memory that the processes of one machine share: one copy, whoever it passes.

The payload of a large message lies in a file without a name (a `Segment`); the frame says which. Each process that the
message passes opens the file by `/proc/<pid>/fd/<number>` and holds it by itself, so that none depends on the one
before. It is mapped privately where it is unpacked: objects lie in it without a copy and may be changed, and only the
pages that somebody changes are ever copied.

To write into fresh pages takes three times as long as into used ones, so a sender keeps its segments for a while
(`Pool`). Whether others still use one says a lock of the system's: everybody holds a shared lock from when they open a
segment until all that lies in it is gone there, also if they are killed.

There is no such thing on other systems than Linux, nor between machines, containers or users: a `Handover` at the
beginning of a connection finds out, and without it everything travels in the frames.
"""

from __future__ import annotations

import _thread
import mmap
import os
import stat
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

__all__ = ["AVAILABLE", "TOKEN", "Handover", "Pool", "Segment", "span"]

AVAILABLE = hasattr(os, "memfd_create") and os.path.exists("/proc/self/fd")

#: Where a buffer may begin, bytes: what processors and array libraries like.
ALIGNMENT = 64
#: Most buffers that one `pwritev` takes.
VECTOR = 512
#: Mappings that live in a process at most, for each keeps a descriptor; what comes then is copied.
MAPPINGS = 128
#: Bytes that are copied at once into pages that are there.
SLICE = 2**20
#: Segments of one sender that are on their way at most, for each process that they pass spends a descriptor on each.
LENT = 64
#: Segments that a sender keeps at most for what comes next.
KEPT = 8
#: The token that proves that two processes see the same file, bytes.
TOKEN = 16

_mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


class Segment:
    """A file in memory that has no name, and the payload of one message in it.

    Attributes:
        number: Its descriptor in this process.
        inode: What tells it from all other files in memory.
    """

    __slots__ = ("__weakref__", "_view", "inode", "number")

    def __init__(self, number: int, inode: int) -> None:
        self.number = number
        self.inode = inode
        #: Its maker's own, once it is used again.
        self._view: memoryview | None = None

    def __repr__(self) -> str:
        return f"<Segment {self.number}>"

    def __del__(self) -> None:
        self.close()

    @classmethod
    def make(cls, size: int) -> Self:
        """Make a new one of `size` bytes, which will never become smaller.

        Raises:
            OSError: There is no memory or no descriptor for it.
        """
        import fcntl

        number = os.memfd_create("aioparallel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        segment = cls(number, os.fstat(number).st_ino)
        os.ftruncate(number, size)
        # Whoever has mapped a file that is then cut off is killed by the system.
        fcntl.fcntl(number, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return segment

    @classmethod
    def open(cls, pid: int, number: int, inode: int, size: int) -> Self:
        """Open another process's segment, and hold it.

        Args:
            pid: Whose.
            number: Its descriptor there.
            inode: Its inode.
            size: How large it must be at least, bytes.

        Raises:
            OSError: It is not there, not ours to open, or something else than a segment.
        """
        import fcntl

        path = f"/proc/{pid}/fd/{number}"
        # Looked at before it is opened, for to open a device or a pipe may have consequences.
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode) or (about.st_ino, about.st_uid) != (inode, os.geteuid()):
            raise FileNotFoundError(f"{path} is not the segment that was meant")
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        segment = cls(opened, inode)
        about = os.fstat(opened)
        sealed = fcntl.fcntl(opened, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        if about.st_ino != inode or about.st_size < size or not sealed:
            raise OSError(f"{path} is not a segment of {size:,} bytes")
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return segment

    def close(self) -> None:
        """Let go of it; what lies in it here stays until it is gone by itself. Safe to call twice."""
        number, self.number = self.number, -1
        self._view = None
        if number >= 0:
            with suppress(OSError):
                os.close(number)

    def write(self, buffers: Sequence[Any]) -> None:
        """Put buffers into it, as `buffers` finds them.

        Raises:
            OSError: There is no memory left.
        """
        if self._view is not None:
            self._copy(self._view, buffers)
            return
        pieces: list[Any] = []
        for buffer in buffers:
            pieces.append(memoryview(buffer))
            if rest := -len(buffer) % ALIGNMENT:
                pieces.append(bytes(rest))
        position = start = 0
        while start < len(pieces):
            written = os.pwritev(self.number, pieces[start : start + VECTOR], position)
            position += written
            while start < len(pieces) and written >= len(pieces[start]):
                written -= len(pieces[start])
                start += 1
            if written:
                pieces[start] = pieces[start][written:]

    @staticmethod
    def _copy(view: memoryview, buffers: Sequence[Any]) -> None:
        position = 0
        for buffer in buffers:
            source = memoryview(buffer)
            # A little at a time, for meanwhile no other thread can run.
            for start in range(0, len(source), SLICE):
                part = source[start : start + SLICE]
                view[position + start : position + start + len(part)] = part
            position += len(source) + -len(source) % ALIGNMENT

    def buffers(self, lengths: Sequence[int]) -> list[memoryview | bytearray]:
        """Return the buffers in it, writable; changing them changes nothing for anybody else.

        Args:
            lengths: The length of each, bytes.

        Raises:
            OSError: There is no memory or no descriptor for it.
        """
        mapping = mmap.mmap(self.number, span(lengths), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        whole = memoryview(mapping)
        views, position = [], 0
        for length in lengths:
            views.append(whole[position : position + length])
            position += length + -length % ALIGNMENT
        if len(_mapped) >= MAPPINGS:
            return [bytearray(view) for view in views]
        _mapped.add(mapping)
        return list(views)

    def is_unused(self) -> bool:
        """Whether nobody else holds it (for its maker)."""
        import fcntl

        try:
            fcntl.flock(self.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self.number, fcntl.LOCK_UN)
        return True

    def use_again(self, size: int) -> None:
        """Make it ready for another message, of `size` bytes (for its maker).

        Raises:
            OSError: There is no memory for it.
        """
        present = os.fstat(self.number).st_size
        if present < size:
            # To write into fresh pages the system is faster than a mapping, which it would have to fill page by page.
            self._view = None
            os.ftruncate(self.number, size)
        elif self._view is None:
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            self._view = memoryview(mmap.mmap(self.number, present, flags=flags))


def span(lengths: Sequence[int]) -> int:
    """Return how many bytes of a segment buffers of these lengths take."""
    return sum(length + -length % ALIGNMENT for length in lengths)


class Pool:
    """The segments that one sender writes its large messages into. From any thread.

    Args:
        bound: How much may be on its way at once, bytes.

    Attributes:
        lent: How much is on its way, bytes.
    """

    def __init__(self, bound: int) -> None:
        self.lent = 0
        self._bound = bound
        self._lock = _thread.allocate_lock()
        self._lengths: dict[Segment, int] = {}
        self._kept: list[Segment] = []
        self._idle: set[Segment] = set()

    def __repr__(self) -> str:
        return f"<Pool, {self.lent:,} bytes on their way, {len(self._kept)} segments kept>"

    def __len__(self) -> int:
        return len(self._kept)

    def lend(self, buffers: Sequence[Any]) -> tuple[Segment, list[int]] | None:
        """Put a message's buffers into a segment; None if it had better travel by itself.

        Returns:
            The segment, and the length of each buffer. It stays on its way until `take_back` or `give_up`.
        """
        lengths = [len(buffer) for buffer in buffers]
        size = span(lengths)
        with self._lock:
            if (self.lent and self.lent + size > self._bound) or len(self._lengths) >= LENT:
                return None
            segment = self._choose(size)
            self.lent += size
        try:
            if segment is None:
                segment = Segment.make(size)
            else:
                segment.use_again(size)
            segment.write(buffers)
        except OSError:
            with self._lock:
                self.lent -= size
            return None
        except BaseException:
            # Ctrl-C in the middle of a long copy.
            with self._lock:
                self.lent -= size
            raise
        self._lengths[segment] = size
        return segment, lengths

    def _choose(self, size: int) -> Segment | None:
        """Take out the kept segment that fits best: the smallest that is large enough, else the largest."""
        free = [(os.fstat(segment.number).st_size, segment) for segment in self._kept if segment.is_unused()]
        if not free:
            return None
        fitting = [pair for pair in free if pair[0] >= size]
        _, best = min(fitting, key=_size) if fitting else max(free, key=_size)
        self._kept.remove(best)
        self._idle.discard(best)
        return best

    def take_back(self, segment: Segment) -> None:
        """A message has arrived: those who still need it hold it by themselves."""
        with self._lock:
            if self._forget(segment):
                self._kept.append(segment)
                if len(self._kept) > KEPT:
                    self._idle.discard(self._kept.pop(0))

    def give_up(self, segment: Segment) -> None:
        """Nobody can say who may still read it: it is never written again."""
        with self._lock:
            self._forget(segment)

    def _forget(self, segment: Segment) -> bool:
        size = self._lengths.pop(segment, None)
        self.lent -= size or 0
        return size is not None

    def trim(self) -> bool:
        """Let go of what was not needed since the last time; to be called now and then. Return whether some is left."""
        with self._lock:
            self._kept = [segment for segment in self._kept if segment not in self._idle]
            self._idle = set(self._kept)
            return bool(self._kept)


def _size(pair: tuple[int, Segment]) -> int:
    return pair[0]


class Handover:
    """How two processes find out that each can open what the other one holds.

    Each offers a file, says where it is and what is in it, and accepts the other's if that is so.

    Attributes:
        peer: The far end's pid, once its offer was good.
        accepted: Whether the far end can open what we lend it.
    """

    def __init__(self) -> None:
        self.peer = 0
        self.accepted = False
        self._offered: Segment | None = None

    def __repr__(self) -> str:
        return f"<Handover with {self.peer or 'nobody'}, {'accepted' if self.accepted else 'not accepted'}>"

    def offer(self, token: bytes) -> dict[str, Any] | None:
        """Return what to tell the far end, or None where there is nothing to offer.

        Args:
            token: Random bytes that whoever opens the file will find in it.
        """
        if not AVAILABLE:
            return None
        try:
            offered = Segment.make(TOKEN)
            offered.write([token])
        except OSError:
            return None
        self._offered = offered
        return {"pid": os.getpid(), "number": offered.number, "inode": offered.inode, "token": token.hex()}

    def end(self) -> None:
        """Let go of the file that was offered: nobody will look at it any more."""
        self._offered = None

    def receive(self, said: Any) -> list[dict[str, Any]]:
        """Take what the far end says; return what to answer."""
        if not isinstance(said, dict):
            return []
        if said.get("accepted") is True and self._offered is not None:
            self.accepted, self._offered = True, None
        if "token" not in said or not AVAILABLE:
            return []
        try:
            token = bytes.fromhex(said["token"])
            found = Segment.open(int(said["pid"]), int(said["number"]), int(said["inode"]), TOKEN)
            if len(token) != TOKEN or os.pread(found.number, TOKEN, 0) != token:
                return []
        except (OSError, ValueError, KeyError, TypeError):
            return []
        self.peer = int(said["pid"])
        answers: list[dict[str, Any]] = [{"accepted": True}]
        if self._offered is None and not self.accepted and (offer := self.offer(token)) is not None:
            answers.append(offer)
        return answers
