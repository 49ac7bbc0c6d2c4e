"""One engine's place, with kernels that are models: every order of events, and no process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

from pieces import flat

from aioparallel.kernels import Kernel
from aioparallel.seat import Deaths, Seat
from aioparallel.wire import Decoder, Frame, KernelCall, Kind, Limits, Sendable, Status, encode


def _frames(pieces: Iterable[Sendable]) -> list[Frame]:
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
        self.killed = False

    pid = property(lambda self: 100 + self.number)  # type: ignore[assignment]
    running = property(lambda self: self.runs)  # type: ignore[assignment]

    def start(self) -> None:
        if self.number == 99:
            raise OSError(12, "no memory")

    def send(self, pieces: Iterable[Sendable]) -> None:
        self.sent += _frames(pieces)

    def cancel(self, number: int) -> None:
        self.asked.append(("cancel", number))

    def interrupt(self, number: int) -> None:
        self.asked.append(("interrupt", number))

    def pause_reading(self) -> None:
        self.asked.append(("pause", 0))

    def resume_reading(self) -> None:
        self.asked.append(("resume", 0))

    def check_output(self) -> None: ...

    def kill(self) -> None:
        self.killed = True

    async def aclose(self, grace: float = 0.5) -> None:
        self.on_exit(-15, "")

    def up(self) -> None:
        self.on_frames(_frames(encode(Kind.NOTICE, header=json.dumps({"ready": True, "python": "3.99"}).encode())))

    def answer(self, *numbers: int) -> None:
        self.on_frames([frame for number in numbers for frame in _frames(encode(Kind.RESULT, number))])


class ModelHost:
    """What a seat asks of its host, written down."""

    reading_paused = False

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.kernels: list[ModelKernel] = []
        kind = type("Made", (ModelKernel,), {"made": self.kernels})
        self.seat = Seat(3, kind, ["/here"], self)

    def send(self, pieces: Iterable[Sendable]) -> None:
        for frame in _frames(pieces):
            plain = frame.json() if frame.header else {}
            self.log.append((frame.id, Status(frame.code).name, plain.get("running"), plain.get("reason")))

    def notify(self, event: str, seat: Seat, **about: Any) -> None:
        self.log.append(event)

    def seat_busy(self) -> None:
        self.log.append("busy")

    def seat_ready(self, seat: Seat) -> None:
        self.log.append("ready")
        seat.announced = seat.pid

    def seat_broken(self, seat: Seat, reason: str, output: str) -> None:
        self.log.append(f"broken: {reason}")

    def seat_left(self, seat: Seat) -> None:
        self.log.append("left")

    def answer(self, value: Any, error: BaseException | None = None) -> None:
        self.log.append(("answer", value, type(error).__name__ if error else None))

    def command(self, number: int) -> None:
        self.seat.command(_frames(encode(Kind.COMMAND, number, engine=5))[0])

    def take(self) -> list[Any]:
        log, self.log = self.log, []
        return log

    def working(self) -> ModelKernel:
        """Bring the newest kernel to work."""
        kernel = self.kernels[-1]
        kernel.up()
        if self.seat.engine is None:
            self.seat.become(5)
        assert self.seat.state == "working"
        return kernel


def _played(story: Callable[[ModelHost], None]) -> None:
    async def main() -> None:
        host = ModelHost()
        host.seat.start()
        story(host)

    asyncio.run(main())


def test_a_kernel_joins_once_and_is_set_up() -> None:
    def story(host: ModelHost) -> None:
        (kernel,) = host.kernels
        assert not host.seat.wants_to_join
        kernel.up()
        assert host.take() == ["ready"]
        assert not kernel.sent
        host.seat.become(5)
        (setup,) = kernel.sent
        assert (setup.kind, setup.code) == (Kind.CALL, KernelCall.SETUP)
        assert setup.json() == {"engine": 5, "path": ["/here"]}
        assert host.take() == []

    _played(story)


def test_a_kernel_that_dies_between_asking_and_joining() -> None:
    def story(host: ModelHost) -> None:
        host.kernels[0].up()
        host.kernels[0].on_exit(-9, "")
        host.seat.become(5)
        assert host.take() == ["ready", "kernel_died"]

    _played(story)


def test_death_answers_everything_and_says_what_ran() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        for number in (1, 2, 3):
            host.command(number)
        kernel.answer(1, 77)
        kernel.runs = 2
        host.take()
        kernel.on_exit(-11, "Segmentation fault")
        assert host.take() == [
            (2, "FAULT", True, "killed by SIGSEGV"),
            (3, "FAULT", False, "killed by SIGSEGV"),
            "kernel_died",
        ]
        host.command(4)
        host.command(5)
        host.seat.cancel(5)
        assert host.take() == [(5, "CANCELLED", None, None)]
        host.seat.start()
        assert [frame.kind for frame in host.working().sent] == [Kind.CALL, Kind.COMMAND]
        assert host.take() == ["kernel_restarted"]

    _played(story)


def test_interrupt_names_what_runs_or_comes_first() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        assert not host.seat.interrupt()
        host.command(1)
        host.command(2)
        assert host.seat.interrupt()
        kernel.runs = 2
        assert host.seat.interrupt()
        kernel.runs = 77
        host.seat.cancel(1)
        host.seat.cancel(99)
        assert host.seat.interrupt()
        assert kernel.asked == [("interrupt", 1), ("interrupt", 2), ("cancel", 1), ("interrupt", 1)]

    _played(story)


def test_restart_while_dying_and_twice() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        host.command(1)
        host.take()
        host.seat.restart(host.answer)
        host.seat.restart(host.answer)
        assert kernel.killed
        assert host.take() == []
        kernel.on_exit(-9, "")
        host.working()
        ready = ("answer", {"pid": 102}, None)
        assert host.take() == [(1, "FAULT", False, "restarted on request"), "kernel_restarted", ready, ready]

    _played(story)


def test_stop_when_it_works_and_when_there_is_no_kernel() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        host.take()
        host.seat.stop(host.answer)
        assert host.take() == []
        kernel.on_exit(-9, "")
        assert host.take() == ["left", ("answer", None, None)]

        other = ModelHost()
        other.seat.start()
        other.working().on_exit(1, "")
        other.command(1)
        other.take()
        other.seat.stop(other.answer)
        assert other.take() == [(1, "FAULT", False, "stopped on request"), "left", ("answer", None, None)]

    _played(story)


def test_broken_in_the_end_and_a_restart_that_fails_is_told() -> None:
    def story(host: ModelHost) -> None:
        for _ in range(4):
            host.working().on_exit(1, "")
            host.seat.start()
        host.command(9)
        host.take()
        host.kernels[-1].on_exit(1, "")
        assert host.seat.state == "broken"
        assert host.take()[-3:] == ["kernel_broken", (9, "FAULT", False, "exit status 1"), "broken: exit status 1"]
        host.command(10)
        assert host.take()[0][1:3] == ("FAULT", False)
        host.seat.restart(host.answer)
        assert host.seat.state == "starting"
        for _ in range(5):
            host.kernels[-1].on_exit(1, "")
            if host.seat.state != "broken":
                host.seat.start()
        assert ("answer", {"pid": host.seat.pid}, "OperationError") in host.take()

    _played(story)


def test_deaths_wait_longer_and_longer() -> None:
    deaths = Deaths(first=0.1, longest=1.0, many=100, window=60)
    waits = [deaths.died(100.0 * i, worked=False) for i in range(8)]
    assert waits == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert deaths.died(1000.0, worked=True) == 0.0
    assert repr(deaths) == "<Deaths: 1 in a row>"


def test_deaths_are_too_many_only_close_together() -> None:
    deaths = Deaths(many=3, window=60)
    assert [deaths.died(now, worked=False) for now in (0, 10, 70, 75)][-1] is not None
    assert deaths.died(76, worked=False) is None
    deaths.forget()
    assert deaths.died(77, worked=False) == 0.0
