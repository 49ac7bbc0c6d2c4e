"""What an engine has executed: numbered results, and source lines for tracebacks. Sans-I/O.

Everything here is bounded in number and in bytes; the oldest goes first.
"""

from __future__ import annotations

import linecache
from collections import deque
from collections.abc import Sequence
from typing import Any

from aioparallel.wire import Buffer, size_of

__all__ = ["ENTRIES", "RESULT_BYTES", "SOURCE_BYTES", "Entry", "History"]

#: How many inputs keep their results, and their source lines …
ENTRIES = 1000
#: … and how many bytes these may take.
RESULT_BYTES = 2**25
SOURCE_BYTES = 2**24


class Entry:
    """One input and what came of it.

    Attributes:
        input: What was to be done.
        number: Its number, from 1.
        filename: What its code is called in tracebacks.
        text: The repr of its last expression's value, or None.
        stdout, stderr: What it wrote.
        error: What it raised, packed; None if nothing.
    """

    __slots__ = ("error", "filename", "input", "number", "stderr", "stdout", "text")

    def __init__(self, number: int, text: str, filename: str) -> None:
        self.number = number
        self.input = text
        self.filename = filename
        self.text: str | None = None
        self.stdout = self.stderr = b""
        self.error: list[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Entry {self.number}: {self.input[:40]!r}>"

    @property
    def size(self) -> int:
        """How much it takes, in bytes or about so."""
        return len(self.input) + len(self.text or "") + len(self.stdout) + len(self.stderr) + size_of(self.error or ())

    def failed(self, payload: Sequence[Buffer]) -> None:
        """Keep a packed error: copied, for its buffers may be memory that user code goes on changing."""
        self.error = [bytes(buffer) for buffer in payload]


class History:
    """The inputs of one engine.

    Attributes:
        number: That of the last one; they are numbered from 1.
    """

    def __init__(self) -> None:
        self.number = 0
        self._entries: dict[int, Entry] = {}
        self._sizes: dict[int, int] = {}
        self._size = 0
        self._sources: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._source_size = 0

    def __repr__(self) -> str:
        return f"<History of {self.number} inputs, {len(self._entries)} kept>"

    def begin(self, code: str, filename: str | None = None) -> Entry:
        """Number an input, and keep its source lines.

        Args:
            code: Its source.
            filename: The file it is from; None if there is none.
        """
        self.number += 1
        name = f"<input-{self.number}>" if filename is None else filename
        self._keep_source(name, code)
        return Entry(self.number, code if filename is None else f"run({filename!r})", name)

    def keep(self, entry: Entry) -> None:
        """Keep an entry as it is now; again, when something has come to it."""
        self._size += entry.size - self._sizes.get(entry.number, 0)
        self._sizes[entry.number] = entry.size
        self._entries[entry.number] = entry
        while len(self._entries) > ENTRIES or self._size > RESULT_BYTES:
            oldest = next(iter(self._entries))
            del self._entries[oldest]
            self._size -= self._sizes.pop(oldest)

    def entry(self, number: int | None) -> Entry:
        """Return the entry with that number, or the last one.

        Raises:
            IndexError: There is none, or it is gone.
        """
        if not self.number:
            raise IndexError("nothing has been executed on this engine yet")
        asked = self.number if number is None else number
        if asked in self._entries:
            return self._entries[asked]
        if not 0 < asked <= self.number:
            raise IndexError(f"there is no result {asked}: results are numbered from 1, the last one is {self.number}")
        bounds = f"the last {ENTRIES:,} are kept, up to {RESULT_BYTES:,} bytes"
        raise IndexError(f"result {asked} is gone: {bounds}")

    def _keep_source(self, filename: str, code: str) -> None:
        # No modification time: linecache.checkcache then leaves the entry alone.
        # Lines as Python counts them: `splitlines` would end one at a form feed, too.
        lines = code.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        kept = (len(code), None, [f"{line}\n" for line in lines], filename)
        linecache.cache[filename] = kept
        self._sources.append((filename, kept))
        self._source_size += len(code)
        while len(self._sources) > ENTRIES or (self._source_size > SOURCE_BYTES and len(self._sources) > 1):
            name, oldest = self._sources.popleft()
            self._source_size -= oldest[0]
            # A file that has been run again since then has newer lines under its name.
            if linecache.cache.get(name) is oldest:
                del linecache.cache[name]
