"""One engine's place, with kernels that are models: every order of events, and no process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

from clock import Clock
from pieces import flat

from aioparallel.decoder import Decoder
from aioparallel.kernels import Kernel
from aioparallel.seat import Seat
from aioparallel.wire import OUTPUT_META, Frame, KernelCall, Kind, Limits, News, Sendable, Status, encode


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
        self.sent += _frames(pieces)

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
        self.on_frames(_frames(encode(Kind.NOTICE, header=json.dumps({"ready": True, "python": "3.99"}).encode())))

    def answer(self, *numbers: int) -> None:
        self.on_frames([frame for number in numbers for frame in _frames(encode(Kind.RESULT, number))])


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
        for frame in _frames(pieces):
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
        else:
            self.seat.acknowledge(kernel.pid, 0)
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
        assert host.take() == ["ready", "kernel_died", "kernel_restarting"]
        host.command(1)
        assert host.take() == [(1, "RETURNED", None, None)]
        host.seat.start()
        host.working()
        assert host.take() == ["restarted"]

        late = ModelHost()
        late.seat.start()
        late.kernels[0].up()
        late.kernels[0].on_exit(-9, "")
        late.seat.start()
        late.kernels[1].up()
        late.take()
        late.seat.become(5)
        assert late.take() == ["kernel_restarting", "restarted"]

    _played(story)


def test_commands_that_were_meant_for_the_kernel_before_are_returned() -> None:
    def story(host: ModelHost) -> None:
        host.working().on_exit(-9, "")
        host.command(4)
        host.seat.start()
        kernel = host.kernels[-1]
        host.command(5)
        kernel.up()
        assert [(sent.kind, sent.code) for sent in kernel.sent] == [(Kind.CALL, KernelCall.SETUP)]
        host.command(6)
        host.take()
        # The word about an earlier kernel is not about this one.
        host.seat.acknowledge(kernel.pid - 1, 0)
        host.command(7)
        host.seat.acknowledge(kernel.pid, 9)
        host.command(8)
        assert host.take() == [(7, "RETURNED", None, None), (8, "RETURNED", None, None)]
        host.command(10)
        assert host.take() == ["busy"]
        assert [sent.id for sent in kernel.sent if sent.kind == Kind.COMMAND] == [10]

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
            "kernel_died",
            (2, "FAULT", True, "killed by SIGSEGV"),
            (3, "FAULT", False, "killed by SIGSEGV"),
        ]
        host.command(4)
        host.seat.cancel(4)
        assert host.take() == [(4, "RETURNED", None, None)]
        host.seat.start()
        assert [frame.kind for frame in host.working().sent] == [Kind.CALL]
        assert host.take() == ["restarted"]

    _played(story)


def test_what_was_done_and_not_answered_had_begun() -> None:
    def story(host: ModelHost) -> None:
        for runs, ran, begun in ((3, None, [1, 2, 3]), (None, 2, [1, 2]), (None, None, []), (None, 77, [])):
            kernel = host.working()
            for number in (1, 2, 3, 4):
                host.command(number)
            kernel.runs, kernel.ran = runs, ran
            kernel.answer(77)
            host.errors.clear()
            kernel.on_exit(-9, "")
            assert [error["begun"] for error in host.errors] == [number in begun for number in (1, 2, 3, 4)]
            assert [error["running"] for error in host.errors] == [number == runs for number in (1, 2, 3, 4)]
            assert ("with the result of this" in host.errors[0]["text"]) == bool(begun)
            host.seat.restart(host.answer)

    _played(story)


def ended(host: ModelHost, kernel: ModelKernel, number: int, *, until: str) -> None:
    """End a command that runs, and have its kernel resist until that step."""
    clock = host.seat._ladder._loop = Clock()  # type: ignore[assignment]
    kernel.runs = number
    host.seat.end(number)
    clock.go(2.0 if until == "terminate" else 4.0)
    assert kernel.asked[-2:] == [("interrupt", number), ("terminate", number)]
    assert kernel.killed == (until == "kill")


def test_what_is_ended_with_its_kernel_is_no_death() -> None:
    def story(host: ModelHost) -> None:
        for until in ("terminate", "kill"):
            kernel = host.working()
            for number in (1, 2, 3):
                host.command(number)
            host.take()
            host.errors.clear()
            ended(host, kernel, 2, until=until)
            kernel.runs = 3  # it is kept from beginning
            kernel.on_exit(-15, "")
            assert [entry if isinstance(entry, str) else entry[:3] for entry in host.take()] == [
                "kernel_restarting",
                (1, "FAULT", False),
                (2, "FAULT", None),
                (3, "FAULT", False),
            ]
            assert [(error["error"], error.get("begun"), error.get("step")) for error in host.errors] == [
                ("EngineDied", True, None),
                ("TaskAborted", None, until),
                ("EngineDied", False, None),
            ]
            assert repr(host.seat._deaths) == "<Deaths: 0 in a row>"
            assert host.seat.state == "starting"

    _played(story)


def test_a_restart_while_a_command_is_ended() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        host.command(1)
        host.take()
        ended(host, kernel, 1, until="terminate")
        host.seat.restart(host.answer)
        assert kernel.killed
        kernel.on_exit(-9, "")
        host.working()
        assert host.take() == [
            "kernel_restarting", (1, "FAULT", None, None), "restarted", ("answer", {"pid": 102}, None)
        ]  # fmt: skip

    _played(story)


def test_what_will_not_begin_is_answered_for_at_once() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        for number in range(1, 8):
            host.command(number)
        kernel.answer(1)
        kernel.runs = 3  # and 2 is done, its answer on the way
        host.take()
        host.seat.end(4)
        host.seat.cancel(5)
        for number in (6, 6, 3, 2, 99):
            assert host.seat.recall(number) == (number == 3)
        assert host.take() == [(number, "CANCELLED", None, None) for number in (4, 5, 6)]
        assert kernel.asked == [("withdraw", number) for number in (4, 5, 6, 3, 2)]
        # The kernel says so as well when it comes to them: that is no news.
        kernel.answer(2, 3, 4)
        assert host.take() == [(2, "OK", None, None), (3, "OK", None, None)]
        kernel.runs, kernel.ran = None, 3
        assert host.seat.interrupt()
        assert kernel.asked[-1] == ("interrupt", 7)
        host.seat.cancel(7)
        assert host.take() == [(7, "CANCELLED", None, None)]
        assert not host.seat.interrupt()
        kernel.on_exit(-9, "")
        assert host.take() == ["kernel_died"]
        assert not host.seat._unanswered
        assert not host.seat._withdrawn

    _played(story)


def test_what_the_kernel_comes_to_while_it_is_withdrawn_is_answered_for_once() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        for number in (1, 2):
            host.command(number)
        looked = iter([1, 2, 2, 2])
        # Between two looks of ours it has come to 2, says so, and waits to read that it is not to begin it.
        kernel.looks = lambda: next(looked)
        host.take()
        host.seat.end(2)
        assert host.take() == [(2, "CANCELLED", None, None)]
        assert not host.seat._ladder.is_ending
        assert host.seat.interrupt()
        assert kernel.asked == [("withdraw", 2), ("interrupt", 1)]
        kernel.looks = None
        kernel.on_exit(-9, "")
        assert [line for line in host.take() if line[0] == 2] == []

    _played(story)


def test_what_is_about_to_begin_is_left_to_the_kernel() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        host.command(1)
        host.command(2)
        kernel.runs = 1
        host.take()
        host.seat.end(1)
        assert kernel.asked == [("withdraw", 1), ("interrupt", 1)]
        kernel.on_frames(_frames(encode(Kind.RESULT, 1, code=Status.CANCELLED)))
        assert host.take() == [(1, "CANCELLED", None, None)]
        assert not host.seat._ladder.is_ending

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
        assert kernel.asked == [("interrupt", 1), ("interrupt", 2), ("withdraw", 1), ("interrupt", 2)]

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
        fault = (1, "FAULT", False, "restarted on request")
        assert host.take() == ["kernel_restarting", fault, "restarted", ready, ready]

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
        assert other.take() == ["left", ("answer", None, None)]
        other.command(2)
        assert other.take() == []  # that it is gone answers for all

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
        assert host.take()[-3:] == ["kernel_died", "kernel_broken", "broken: exit status 1"]
        host.command(10)
        assert host.take()[0][1:3] == ("FAULT", False)
        host.seat.restart(host.answer)
        assert host.seat.state == "starting"
        assert host.take() == ["kernel_restarting"]
        for _ in range(5):
            host.kernels[-1].on_exit(1, "")
            if host.seat.state != "broken":
                host.seat.start()
        assert ("answer", {"pid": host.seat.pid}, "OperationError") in host.take()

    _played(story)


def test_a_watched_command_is_told_of_while_it_runs() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        host.command(1)
        host.command(2)
        host.take()
        host.seat.watch(1)
        host.seat.watch(2)
        host.seat.watch(99)
        assert host.take() == ["watched", "watched"]
        assert host.seat.watched
        kernel.written = [b"0123456789abc", b"err"]
        host.seat.check_output()
        assert host.take() == []  # it has not begun
        kernel.runs = 1
        host.seat.check_output()
        assert host.take() == [(1, News.STDOUT, 0, b"0123456789"), (1, News.STDERR, 0, b"err")]
        host.reading_paused = True
        host.seat.check_output()
        assert host.take() == []
        host.reading_paused = False
        host.seat.check_output()
        assert host.take() == [(1, News.STDOUT, 10, b"abc")]
        kernel.answer(1)
        host.seat.check_output()
        assert host.take()[1:] == []
        kernel.answer(2)
        assert not host.seat.watched

    _played(story)


def test_the_last_words_are_told_before_the_death() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        host.command(1)
        host.seat.watch(1)
        host.command(2)
        host.seat.watch(2)
        kernel.runs, kernel.written = 1, [b"0123456789abc", b""]
        host.take()
        kernel.on_exit(-9, "")
        assert [entry[:3] for entry in host.take() if not isinstance(entry, str)] == [
            (1, News.STDOUT, 0),
            (1, News.STDOUT, 10),
            (1, "FAULT", True),
            (2, "FAULT", False),
        ]
        assert not host.seat.watched

    _played(story)


def test_records_pass_in_order_until_their_session_is_forgotten() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        host.command(1)
        host.take()
        record = _frames(encode(Kind.NOTICE, 77, code=News.RECORD, header=b"{}"))
        kernel.on_frames(record + _frames(encode(Kind.RESULT, 1)))
        assert host.take() == [(77, News.RECORD, 0, b""), (1, "OK", None, None)]
        host.seat.forget(77)
        host.seat.forget(77)
        assert [(frame.kind, frame.code, frame.id) for frame in kernel.sent[2:]] == [(Kind.CALL, KernelCall.FORGET, 77)]
        kernel.on_frames(record)
        assert host.take() == []
        kernel.answer(77)
        assert host.seat._forgotten == set()
        assert host.take() == []

    _played(story)
