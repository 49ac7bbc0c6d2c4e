"""What commands write, told while they run to those who watch."""

from __future__ import annotations

from aioparallel.kernels import Kernel
from aioparallel.wire import OUTPUT_META, Kind, News, Sendable, encode

__all__ = ["Watched"]


class Watched:
    """The commands of one engine of which somebody wants to know what they write."""

    def __init__(self) -> None:
        #: How much of the stdout and stderr of each has been told, bytes.
        self._told: dict[int, list[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._told)

    def __repr__(self) -> str:
        return f"<Watched: {list(self._told)}>"

    def begin(self, number: int) -> None:
        """Tell what a command writes, from its beginning on."""
        self._told[number] = [0, 0]

    def end(self, number: int) -> None:
        """A command has been answered."""
        self._told.pop(number, None)

    def look(self, kernel: Kernel, engine: int) -> list[Sendable]:
        """Return what the command that runs has written since the last time, as NOTICEs, if somebody watches it."""
        number = kernel.running
        told = self._told.get(number) if number is not None else None
        pieces: list[Sendable] = []
        if number is None or told is None:
            return pieces
        for stream, code in enumerate((News.STDOUT, News.STDERR)):
            data = kernel.read_output(number, stream, told[stream])
            if data:
                header = OUTPUT_META.pack(told[stream])
                told[stream] += len(data)
                pieces += encode(Kind.NOTICE, number, code=code, engine=engine, header=header, buffers=[data])
        return pieces
