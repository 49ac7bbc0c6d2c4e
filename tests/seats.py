"""A seat with kernels that are models, and a host that writes down what it is told: every order of events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

from pieces import flat

from aioparallel.decoder import Decoder
from aioparallel.kernels import Kernel
from aioparallel.seat import Seat
from aioparallel.wire import OUTPUT_META, Frame, Kind, Limits, News, Sendable, Status, encode


def frames_of(pieces: Iterable[Sendable]) -> list[Frame]:
    return Decoder(Limits()).feed(flat(pieces))


class ModelKernel(Kernel):
    """Does what the test says."""

    made: list[ModelKernel]

    def __init__(self, on_frames: Callable[[list[Frame]], None], on_exit: Callable[[int, str], None]) -> None:
        super().__init__(on_frames, on_exit)
        self.made.append(self)
        self.number = len(self.made)
        self.sent: list[Frame] = []
        self.asked: list[tuple[str, int]] = []
        self.runs: int | None = None
        self.ran: int | None = None
        self.looks: Callable[[], int] | None = None
        self.written = [b"", b""]
        self.killed = False

    pid = property(lambda self: 100 + self.number)  # type: ignore[assignment]
    running = property(lambda self: self.looks() if self.looks else self.runs)  # type: ignore[assignment]
    latest = property(lambda self: self.running or self.ran)  # type: ignore[assignment]

    def start(self) -> None:
        if self.number == 99:
            raise OSError(12, "no memory")

    def send(self, pieces: Iterable[Sendable]) -> None:
        self.sent += frames_of(pieces)

    def withdraw(self, number: int) -> None:
        self.asked.append(("withdraw", number))

    def interrupt(self, number: int) -> None:
        self.asked.append(("interrupt", number))

    def pause_reading(self) -> None:
        self.asked.append(("pause", 0))

    def resume_reading(self) -> None:
        self.asked.append(("resume", 0))

    def check_output(self) -> None: ...

    def read_output(self, number: int, stream: int, start: int) -> bytes:
        return self.written[stream][start : start + 10] if number == self.runs else b""

    def terminate(self, number: int) -> bool:
        self.asked.append(("terminate", number))
        return self.runs == number

    def kill(self) -> None:
        self.killed = True

    async def aclose(self, grace: float = 0.5) -> None:
        self.on_exit(-15, "")

    def up(self) -> None:
        self.on_frames(frames_of(encode(Kind.NOTICE, header=json.dumps({"ready": True, "python": "3.99"}).encode())))

    def answer(self, *numbers: int) -> None:
        self.on_frames([frame for number in numbers for frame in frames_of(encode(Kind.RESULT, number))])


class ModelHost:
    """What a seat asks of its host, written down."""

    reading_paused = False

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.errors: list[dict[str, Any]] = []
        self.kernels: list[ModelKernel] = []
        kind = type("Made", (ModelKernel,), {"made": self.kernels})
        self.seat = Seat(3, kind, ["/here"], self, grace=2.0)

    def send(self, pieces: Iterable[Sendable]) -> None:
        for frame in frames_of(pieces):
            if frame.kind == Kind.NOTICE:
                offset = OUTPUT_META.unpack(frame.header)[0] if frame.code != News.RECORD else 0
                self.log.append((frame.id, News(frame.code), offset, b"".join(frame.buffers)))
                continue
            plain = frame.json() if frame.header else {}
            if frame.code == Status.FAULT:
                self.errors.append(plain)
            self.log.append((frame.id, Status(frame.code).name, plain.get("running"), plain.get("reason")))

    def notify(self, event: str, seat: Seat, **about: Any) -> None:
        self.log.append(event)

    def seat_busy(self) -> None:
        self.log.append("busy")

    def seat_watched(self) -> None:
        self.log.append("watched")

    def seat_ready(self, seat: Seat) -> None:
        if seat.wants_to_join:
            self.log.append("ready")
            seat.announced = seat.pid

    def seat_restarted(self, seat: Seat) -> None:
        self.log.append("restarted")

    def seat_broken(self, seat: Seat, reason: str, output: str) -> None:
        self.log.append(f"broken: {reason}")

    def seat_left(self, seat: Seat) -> None:
        self.log.append("left")

    def answer(self, value: Any, error: BaseException | None = None) -> None:
        self.log.append(("answer", value, type(error).__name__ if error else None))

    def command(self, number: int) -> None:
        self.seat.inflight.command(frames_of(encode(Kind.COMMAND, number, engine=5))[0])

    def take(self) -> list[Any]:
        log, self.log = self.log, []
        return log

    def working(self) -> ModelKernel:
        """Bring the newest kernel to work."""
        kernel = self.kernels[-1]
        kernel.up()
        if self.seat.engine is None:
            self.seat.become(5)
        else:
            self.seat.acknowledge(kernel.pid, 0)
        assert self.seat.state == "working"
        return kernel


def played(story: Callable[[ModelHost], None]) -> None:
    async def main() -> None:
        host = ModelHost()
        host.seat.start()
        story(host)

    asyncio.run(main())
