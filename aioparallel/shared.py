"""What a host and its kernel share: a page of words, and the files that catch what the kernel writes.

Both are files without a name, made by the host and inherited by the kernel. The page:

    word  written by  meaning
       0  host        INTERRUPT  id of the command that a SIGINT is meant for, or `ANY`
       1  host        CANCELS    how many CANCEL frames were sent: the kernel reads them all before it starts another
       2  kernel      RUNNING    id of the command that runs; with the bit `DONE`: that ran last; or `NONE`
     3+2n  kernel     MARK       how far stream n (0 stdout, 1 stderr) has been handed over, bytes
     4+2n  both       LOST       how much the host has cut out of it since then, bytes
       7  both       MET        id of the command that met its SIGINT; the host sets it back to `NONE` with each new one
       8  host        TAKEN      how many results in shared memory it holds by itself now, or has held

A stream's file is opened for appending, so C code, child processes and Python all add to it in the order in which they
write, none of them ever waits for a reader, and it is still there to be read when the kernel is not.
"""

from __future__ import annotations

import mmap
import os
from typing import Self

__all__ = ["ANY", "CANCELS", "DONE", "INTERRUPT", "MET", "NONE", "RUNNING", "TAKEN", "OutputFile", "Page"]

INTERRUPT, CANCELS, RUNNING, STREAMS, MET, TAKEN = 0, 1, 2, 3, 7, 8
#: Not an id: whichever command runs.
ANY = 2**64 - 1
#: Not an id: no command.
NONE = 2**64 - 2
#: Above every id.
DONE = 2**63

#: A file that has grown beyond this, bytes, is emptied when its content has been handed over.
KEEP = 2**20
#: The host cuts a file that has grown by more than this, bytes, during one command.
RUNAWAY = 2**26


def _nameless_file(name: str) -> int:
    """Return the descriptor of a new file that has no name and is inherited by nobody unless passed on."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(f"aioparallel-{name}")
    import tempfile

    number, path = tempfile.mkstemp(prefix="aioparallel-")
    os.unlink(path)
    return number


class Page:
    """The words. Reading or writing one is a single access to memory, seen by both sides at once.

    Attributes:
        words: Unsigned 64-bit integers, by index.
        number: The descriptor to pass on, or -1 where there is none any more.
    """

    SIZE = 4096

    def __init__(self, number: int) -> None:
        self.number = number
        self._map = mmap.mmap(number, self.SIZE)
        self.words = memoryview(self._map).cast("Q")

    def __repr__(self) -> str:
        return f"<Page {list(self.words[:8])}>"

    @classmethod
    def make(cls) -> Self:
        """Make a new page, with nothing running and nothing to interrupt.

        Raises:
            OSError: There is no memory or no descriptor for it.
        """
        number = _nameless_file("page")
        try:
            os.ftruncate(number, cls.SIZE)
            page = cls(number)
        except BaseException:
            os.close(number)
            raise
        page.words[INTERRUPT] = page.words[RUNNING] = page.words[MET] = NONE
        return page

    def close(self) -> None:
        """Let go of the memory and the descriptor."""
        self.words.release()
        self._map.close()
        os.close(self.number)


class OutputFile:
    """The file that catches one stream of one kernel.

    Args:
        number: Its descriptor; closed by `close`.
        page: The page that the two sides share.
        stream: 0 for stdout, 1 for stderr.
    """

    def __init__(self, number: int, page: Page, stream: int) -> None:
        self.number = number
        self._words = page.words
        self._mark_word = STREAMS + 2 * stream
        self._lost_word = STREAMS + 2 * stream + 1
        # The kernel's own copy of its mark: compared after every command, and cheaper than the page.
        self._mark = 0

    def __repr__(self) -> str:
        return f"<OutputFile {self.number}>"

    @classmethod
    def make(cls, page: Page, stream: int) -> Self:
        """Make a new, empty file.

        Raises:
            OSError: There is no memory or no descriptor for it.
        """
        import fcntl

        number = _nameless_file(("stdout", "stderr")[stream])
        fcntl.fcntl(number, fcntl.F_SETFL, fcntl.fcntl(number, fcntl.F_GETFL) | os.O_APPEND)
        return cls(number, page, stream)

    def close(self) -> None:
        """Close this side's descriptor."""
        os.close(self.number)

    # The kernel's side

    def take(self, limit: int) -> bytes:
        """Return what was written since the last time: all, or its first and last `limit / 2` bytes and a note."""
        end = os.lseek(self.number, 0, os.SEEK_END)
        if end == self._mark:
            return b""
        if end <= KEEP:
            return self._take_until(end, limit)
        # Whoever shortens the file holds its lock, lest one side cut at a place that the other has moved.
        with _Locked(self.number):
            data = self._take_until(os.lseek(self.number, 0, os.SEEK_END), limit)
            os.ftruncate(self.number, 0)
            self._mark = self._words[self._mark_word] = 0
        return data

    def _take_until(self, end: int, limit: int) -> bytes:
        # A child that opens /dev/stdout by name may have emptied the file: then all that is there is new.
        start = self._mark if end >= self._mark else 0
        size, lost = end - start, self._words[self._lost_word]
        self._mark = self._words[self._mark_word] = end
        if not lost and size <= limit:
            return os.pread(self.number, size, start)
        self._words[self._lost_word] = 0
        # The host cuts where the first half ends, so that is where the note belongs in any case.
        head = min(limit // 2, size)
        tail = min(limit - limit // 2, size - head)
        note = f"\n… {lost + size - head - tail:,} bytes left out …\n".encode()
        return os.pread(self.number, head, start) + note + os.pread(self.number, tail, end - tail)

    # The host's side

    def tail(self, limit: int) -> bytes:
        """Return the last of what was written and not handed over, at most `limit` bytes."""
        end = os.fstat(self.number).st_size
        mark = self._words[self._mark_word]
        start = max(mark if mark <= end else 0, end - limit)
        return os.pread(self.number, end - start, start)

    def read(self, start: int, limit: int) -> bytes:
        """Return what was written and not handed over, from its byte `start` on, at most `limit` bytes."""
        end = os.fstat(self.number).st_size
        mark = self._words[self._mark_word]
        start += mark if mark <= end else 0
        return os.pread(self.number, min(limit, end - start), start) if start < end else b""

    def trim(self, keep: int) -> bool:
        """Cut the file if it runs away, leaving the first `keep` bytes that were not handed over.

        Returns:
            Whether something was cut out; it is counted in the page.
        """
        if os.fstat(self.number).st_size - self._words[self._mark_word] <= RUNAWAY:
            return False
        with _Locked(self.number, wait=False) as held:
            end, mark = os.fstat(self.number).st_size, self._words[self._mark_word]
            if not held or end - mark <= RUNAWAY:
                return False
            self._words[self._lost_word] += end - mark - keep
            os.ftruncate(self.number, mark + keep)
        return True


class _Locked:
    """A file's lock, held between the two processes; `with` gives whether it is held."""

    def __init__(self, number: int, *, wait: bool = True) -> None:
        self._number = number
        self._wait = wait
        self._held = False

    def __enter__(self) -> bool:
        import fcntl

        try:
            fcntl.lockf(self._number, fcntl.LOCK_EX | (0 if self._wait else fcntl.LOCK_NB))
        except OSError:
            return False
        self._held = True
        return True

    def __exit__(self, *exc_info: object) -> None:
        if self._held:
            import fcntl

            fcntl.lockf(self._number, fcntl.LOCK_UN)
