"""How what runs is ended: each step on a clock of the test's own, and on real kernels that resist."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clock import Clock
from played import Played, hosted, printed

from aioparallel.decoder import Decoder
from aioparallel.errors import TaskAborted, TaskError, TaskTimeout, from_plain
from aioparallel.ladder import LOOK, Ladder
from aioparallel.serialize import unpack, unpack_error
from aioparallel.wire import JOINED, Frame, HostCall, Kind, Limits, Status, encode


class Kernel:
    """What a ladder asks of a kernel, written down."""

    def __init__(self) -> None:
        self.running: int | None = None
        self.asked: list[tuple[str, int]] = []

    def interrupt(self, number: int) -> None:
        self.asked.append(("interrupt", number))

    def terminate(self, number: int) -> bool:
        if self.running == number:
            self.asked.append(("terminate", number))
        return self.running == number

    def kill(self) -> None:
        self.asked.append(("kill", 0))


def result(number: int, code: Status = Status.OK) -> Frame:
    [frame] = Decoder(Limits()).feed(b"".join(encode(Kind.RESULT, number, code=code)))  # type: ignore[arg-type]
    return frame


def climbed(story: Callable[[Ladder, Any, Clock], None]) -> None:
    async def main() -> None:
        ladder, clock = Ladder(2.0), Clock()
        ladder._loop = clock  # type: ignore[assignment]
        ladder.kernel = Kernel()  # type: ignore[assignment]
        story(ladder, ladder.kernel, clock)

    asyncio.run(main())


def about(error: TaskError | None) -> tuple[str, str, float]:
    assert isinstance(error, TaskAborted | TaskTimeout)
    return type(error).__name__, error.step, round(error.seconds, 6)


def test_a_limit_counts_from_when_the_command_has_begun() -> None:
    def story(ladder: Ladder, kernel: Kernel, clock: Clock) -> None:
        ladder.limits |= {1: 5.0, 2: 5.0}
        ladder.oldest(1)
        ladder.oldest(1)
        clock.go(30.0)  # on its way
        kernel.running = 1
        clock.go(4.9)
        assert kernel.asked == []
        clock.go(0.2)
        assert kernel.asked == [("interrupt", 1)]
        clock.go(0.5)
        error = ladder.answered(result(1, Status.ERROR), 7)
        assert about(error)[:2] == ("TaskTimeout", "interrupt")
        assert isinstance(error, TaskTimeout)
        assert error.engine_id == 7
        assert 0.5 <= error.seconds < 0.62
        assert "for longer than its timeout of 5 s" in str(error)
        # The next one has its own time.
        kernel.running = 2
        ladder.oldest(2)
        clock.go(4.99)
        assert len(kernel.asked) == 1
        assert ladder.answered(result(2, Status.ERROR), 7) is None
        assert not ladder
        assert len(clock) == 0

    climbed(story)


@pytest.mark.parametrize("limit", [1e-9, LOOK / 2, LOOK, 1e300, float("inf")])
def test_limits_of_every_size(limit: float) -> None:
    def story(ladder: Ladder, kernel: Kernel, clock: Clock) -> None:
        ladder.limits[1] = limit
        kernel.running = 1
        ladder.oldest(1)
        clock.go(1.0)
        assert bool(kernel.asked) == (limit < 1)

    climbed(story)


def test_what_is_done_in_time_is_left_alone() -> None:
    def story(ladder: Ladder, kernel: Kernel, clock: Clock) -> None:
        ladder.limits |= {1: 1.0, 2: 1.0, 3: 1.0}
        kernel.running = 1
        ladder.oldest(1)
        clock.go(0.9)
        kernel.running = None  # it is done, but its answer is not read yet
        clock.go(60.0)
        assert kernel.asked == []
        assert ladder.answered(result(1), 7) is None
        ladder.oldest(4)  # one without a limit
        assert len(clock) == 0
        ladder.oldest(None)
        ladder.oldest(2)
        assert ladder.verdict(2, 7) is None
        assert len(clock) == 0
        assert repr(ladder) == "<Ladder: idle, 1 limits>"

    climbed(story)


def test_what_resists_is_terminated_then_killed() -> None:
    def story(ladder: Ladder, kernel: Kernel, clock: Clock) -> None:
        kernel.running = 1
        ladder.end(1)
        assert kernel.asked == [("interrupt", 1)]
        assert ladder.is_ending
        assert repr(ladder) == "<Ladder: interrupt 1, 0 limits>"
        clock.go(2.0)
        assert kernel.asked.pop() == ("terminate", 1)
        assert ladder.doomed == 1
        ladder.end(2)  # is kept from beginning
        ladder.limits[3] = 0.1
        ladder.oldest(3)
        clock.go(1.9)
        assert kernel.asked == [("interrupt", 1)]
        clock.go(0.1)
        assert kernel.asked.pop() == ("kill", 0)
        clock.go(0.25)
        error = ladder.verdict(1, 7)
        assert about(error) == ("TaskAborted", "kill", 4.25)
        assert "ended on request on engine 7, by SIGKILL" in str(error)
        assert ladder.verdict(2, 7) is None
        assert ladder.is_ending
        ladder.kernel_ended()
        assert not ladder.is_ending
        assert len(clock) == 0

    climbed(story)


@pytest.mark.parametrize("code", list(Status))
def test_a_value_is_a_value_however_late(code: Status) -> None:
    def story(ladder: Ladder, kernel: Kernel, clock: Clock) -> None:
        kernel.running = 1
        ladder.end(1)
        clock.go(1.0)
        error = ladder.answered(result(1, code), 7)
        if code in (Status.OK, Status.CANCELLED):
            assert error is None
        else:
            assert about(error) == ("TaskAborted", "interrupt", 1.0)
        assert not ladder
        assert len(clock) == 0
        # When SIGTERM is on its way, the kernel is not to be used any more.
        kernel.running = 2
        ladder.end(2)
        clock.go(2.5)
        kernel.asked.clear()
        assert (ladder.answered(result(2, code), 7) is None) == (code in (Status.OK, Status.CANCELLED))
        assert kernel.asked == [("kill", 0)]
        assert ladder.is_ending

    climbed(story)


def test_it_stops_at_what_is_done() -> None:
    def story(ladder: Ladder, kernel: Kernel, clock: Clock) -> None:
        kernel.running = 1
        ladder.end(1)
        kernel.running = 2  # the answer of the first is on its way
        clock.go(60.0)
        assert kernel.asked == [("interrupt", 1)]
        assert ladder.doomed is None
        # The second one is to end before that answer has been read.
        ladder.end(2)
        clock.go(1.0)
        assert about(ladder.answered(result(1, Status.ERROR), 7)) == ("TaskAborted", "interrupt", 61.0)
        clock.go(1.0)
        assert kernel.asked[1:] == [("interrupt", 2), ("terminate", 2)]

    climbed(story)


def test_on_request_while_its_time_is_over_already() -> None:
    def story(ladder: Ladder, kernel: Kernel, clock: Clock) -> None:
        ladder.limits[1] = 1.0
        kernel.running = 1
        ladder.oldest(1)
        clock.go(1.5)
        ladder.end(1)
        ladder.end(1)
        assert kernel.asked == [("interrupt", 1)]
        assert about(ladder.answered(result(1, Status.ERROR), 7)) == ("TaskAborted", "interrupt", 0.5)

    climbed(story)


# Real kernels

GOES_ON = "while True:\n  try: print('on'); {}\n  except BaseException: pass"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
#: By which step they are ended; "on" is printed when they are where they resist.
RESISTING = {
    "sleeps": ("interrupt", "import time; print('on'); time.sleep(1000)"),
    "spins": ("interrupt", "print('on')\nwhile True: pass"),
    "awaits": ("interrupt", "import asyncio; print('on'); await asyncio.sleep(1000)"),
    "goes on": ("terminate", "import time\n" + GOES_ON.format("time.sleep(1000)")),
    "holds the GIL": ("terminate", GOES_ON.format("sum(range(10**12))")),
    "waits in C": ("terminate", "import ctypes; sleep = ctypes.PyDLL(None).sleep\n" + GOES_ON.format("sleep(1000)")),
    "ignores SIGTERM too": ("kill", DEAF + "import time\n" + GOES_ON.format("time.sleep(1000)")),
    "ignores SIGTERM and holds the GIL": ("kill", DEAF + GOES_ON.format("sum(range(10**12))")),
    "makes an error of SIGTERM": (
        "terminate",
        "import signal, time\ndef stop(*_): raise RuntimeError('told')\nsignal.signal(signal.SIGTERM, stop)\n"
        "try: print('on'); time.sleep(1000)\nexcept KeyboardInterrupt: time.sleep(1000)",
    ),
    "dies of it": (
        "interrupt",
        "import os, time\ntry: print('on'); time.sleep(1000)\nexcept BaseException: os._exit(3)",
    ),
    "is stopped": ("kill", "import os, signal; print('on'); os.kill(os.getpid(), signal.SIGSTOP)"),
}
CASES = [(name, "limit") for name in RESISTING]
CASES += [(name, "request") for name in ("sleeps", "goes on", "ignores SIGTERM too")]
QUICK = Limits(grace=0.25)


async def _events(played: Played, n: int) -> list[str]:
    return [(await played.notices.get())["event"] for _ in range(n)]


@pytest.mark.parametrize(("name", "how"), CASES)
def test_whatever_runs_is_ended_by_the_first_step_that_does(name: str, how: str) -> None:
    step, code = RESISTING[name]

    async def main() -> None:
        async with hosted(2, limits=QUICK) as (host, played):
            await played.execute(10, "kept = 1")
            other = played.execute(11, "import time; print('here'); time.sleep(1000)")
            running = played.limited(10, code, 0.25) if how == "limit" else played.execute(10, code)
            number = played.number
            behind = [played.execute(10, "'kept' in globals()") for _ in range(3)]
            if how == "request":
                await printed(host, 10, "on\n")
                played.tell(HostCall.END, number, 10)
            frame = await running
            error = from_plain(frame.json())
            assert frame.code == Status.FAULT
            assert isinstance(error, TaskTimeout if how == "limit" else TaskAborted)
            assert error.step == step
            assert (error.seconds >= QUICK.grace) == (step != "interrupt")
            if isinstance(error, TaskTimeout):
                assert error.engine_id == 10
            answers = [await answer for answer in behind]
            dies = step != "interrupt" or name == "dies of it"
            if dies:
                lost = [answer.json() for answer in answers]
                assert [(one["error"], one["running"]) for one in lost] == [("EngineDied", False)] * 3
                assert lost[0]["reason"] == "restarted to end what it ran"
                assert await _events(played, 2) == ["kernel_restarting", "ready"]
            else:
                assert [unpack(answer.buffers)["repr"] for answer in answers] == ["True"] * 3
                assert played.notices.empty()
            assert await played.value(10, "'kept' in globals()") == str(not dies)
            assert not other.done()
            await printed(host, 11, "here\n")

    asyncio.run(main())


def test_ending_kernels_by_the_dozen_breaks_nothing() -> None:
    async def main() -> None:
        async with hosted(limits=Limits(grace=0.01)) as (host, played):
            for _ in range(7):
                running = played.execute(10, RESISTING["goes on"][1])
                await printed(host, 10, "on\n")
                played.tell(HostCall.END, played.number, 10)
                assert (await running).json()["step"] in ("terminate", "kill")
                assert await played.value(10, "id") == "10"
            assert set(await _events(played, 14)) == {"kernel_restarting", "ready"}

    asyncio.run(main())


def test_what_has_not_begun_is_taken_out() -> None:
    async def main() -> None:
        async with hosted(limits=QUICK) as (host, played):
            running = played.execute(10, "import time; print('on'); time.sleep(1000)")
            first = played.number
            waiting = [played.limited(10, f"{i}", 0.001) for i in range(4)]
            await printed(host, 10, "on\n")
            for number, operation in (
                (first + 1, HostCall.END),
                (first + 2, HostCall.RECALL),
                (first, HostCall.RECALL),
            ):
                played.tell(operation, number, 10)
            played.tell(HostCall.END, 5, 10)
            played.tell(HostCall.RECALL, 5, 99)
            # While the kernel can't say anything.
            assert [(await answer).code for answer in waiting[:2]] == [Status.CANCELLED] * 2
            await played.call(HostCall.INTERRUPT, 10)
            assert (await running).code == Status.ERROR
            codes = [(await answer).code for answer in waiting]
            assert codes == [Status.CANCELLED, Status.CANCELLED, Status.OK, Status.OK]
            assert not host._seats[0].inflight._ladder

    asyncio.run(main())


def test_an_answer_that_races_with_the_end(tmp_path: Path) -> None:
    """Whatever comes first: each command is answered once, and no neighbour is hit by what was meant for another."""
    file = tmp_path / "begun"
    begin = f"import os; os.write(os.open({str(file)!r}, os.O_APPEND | os.O_WRONLY), b'%d ')"
    code = f"{begin}\ntry: __import__('time').sleep(%f)\nexcept BaseException: %s"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with hosted(limits=Limits(grace=0.001)) as (_, played):
            for turn in range(40):
                file.write_text("")
                answers = []
                then = "raise" if turn % 3 else "__import__('time').sleep(0.0012)"
                for n in range(4):
                    seconds = 0.0005 * (turn % 5)
                    answers.append(played.execute(10, code % (n, seconds, then)))
                    if n < 3:
                        delay = 0.0003 * (turn * 7 % 11) * (n + 1)
                        loop.call_later(delay, played.tell, HostCall.END, played.number, 10)
                frames = [await answer for answer in answers]
                begun = set(map(int, file.read_text().split()))
                for n, frame in enumerate(frames):
                    if frame.code == Status.FAULT and frame.json()["error"] == "TaskAborted":
                        continue
                    if frame.code == Status.FAULT:
                        assert not frame.json()["running"]
                        assert frame.json()["begun"] == (n in begun)
                    else:
                        assert frame.code in (Status.OK, Status.CANCELLED), unpack_error(frame.buffers)
                        assert (frame.code == Status.OK) == (n in begun)
                assert frames[3].code == Status.OK or frames[3].json()["error"] == "EngineDied"

    asyncio.run(main())


def test_a_limit_of_what_never_comes_is_forgotten() -> None:
    async def main() -> None:
        async with hosted() as (host, played):
            seat = host._seats[0]
            played.tell(HostCall.LIMIT, 900, 10, b"\0" * 8)
            assert seat.inflight._ladder
            played.say(encode(Kind.CANCEL, 900, engine=10))
            assert not seat.inflight._ladder
            # Of one that comes for a kernel that is gone by then.
            played.patient = False
            await played.execute(10, "import os; os._exit(1)")
            assert (await played.limited(10, "1", 1.0)).code == Status.RETURNED
            assert not seat.inflight._ladder

    asyncio.run(main())


def test_what_is_joined_reaches_the_kernel_as_it_is() -> None:
    async def main() -> None:
        async with hosted() as (host, played):
            kernel: Any = host._seats[0]._kernel
            sent: list[Any] = []
            kernel._socket.send = sent.extend
            header = json.dumps({"parts": [1]}).encode()
            played.say(encode(Kind.COMMAND, 7, code=JOINED, engine=10, header=header, buffers=[b"a", b"b"]))
            [frame] = Decoder(Limits()).feed(b"".join(sent))
            assert (frame.kind, frame.code, frame.header, frame.id) == (Kind.COMMAND, JOINED, header, 7)
            assert [bytes(buffer) for buffer in frame.buffers] == [b"a", b"b"]

    asyncio.run(main())
