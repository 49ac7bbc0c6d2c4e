"""A transport that keeps what is written, for tests of what writes."""

from __future__ import annotations

import asyncio
from typing import Any


class Recorder(asyncio.Transport):
    """A transport that keeps what is written, in the pieces it was written in."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[Any] = []
        self.ends: list[str] = []
        self.waiting = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: Any) -> None:
        self.pieces.append(data)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return bool(self.ends)

    def close(self) -> None:
        self.ends.append("closed")

    def abort(self) -> None:
        self.ends.append("aborted")
