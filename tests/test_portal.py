"""The blocking face's loop: whoever waits runs it, a thread of ours does while nobody waits."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from model import settle

from aioparallel.portal import Portal, portal


@pytest.fixture
def made() -> Iterator[Portal]:
    made = Portal()
    yield made
    made.close()


async def echo(value: object) -> object:
    await asyncio.sleep(0)
    return value


def test_run_gives_the_value_or_the_error(made: Portal):
    assert made.run(echo(3)) == 3

    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        made.run(fail())


def test_the_waiting_thread_runs_the_loop_itself(made: Portal):
    async def who() -> int:
        return threading.get_ident()

    # Our thread answers the call that makes it let go, and later has the loop back; those in between find it free.
    assert any(made.run(who()) == threading.get_ident() for _ in range(5000))


def test_our_thread_takes_the_loop_back_when_nobody_waits(made: Portal):
    made.run(echo(1))
    ran: concurrent.futures.Future[int] = concurrent.futures.Future()
    made.loop.call_soon_threadsafe(lambda: ran.set_result(threading.get_ident()))
    assert ran.result(10) != threading.get_ident()


def test_what_is_posted_runs_whether_or_not_anybody_waits(made: Portal):
    for _ in range(20):
        ran: concurrent.futures.Future[int] = concurrent.futures.Future()
        made.post(lambda ran=ran: ran.set_result(1))
        assert made.wait([ran], 10)
        alone: concurrent.futures.Future[int] = concurrent.futures.Future()
        made.post(lambda alone=alone: alone.set_result(2))
        assert alone.result(10) == 2  # without the portal's help


def test_many_threads_wait_at_once(made: Portal):
    def work(i: int) -> list[object]:
        return [made.run(echo((i, k))) for k in range(50)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [[(i, k) for k in range(50)] for i in range(8)]


def test_a_timeout_ends_the_wait_and_not_the_loop(made: Portal):
    never: concurrent.futures.Future[None] = concurrent.futures.Future()
    assert made.wait([never], timeout=0.01) is False
    assert made.run(echo(2)) == 2
    never.cancel()


def test_waiting_in_a_callback_is_refused_and_does_not_hang(made: Portal):
    answer: concurrent.futures.Future[BaseException] = concurrent.futures.Future()

    def callback() -> None:
        try:
            made.run(echo(1))
        except RuntimeError as error:
            answer.set_result(error)

    made.loop.call_soon_threadsafe(callback)
    assert "callback can't wait" in str(answer.result(10))


def test_it_works_under_a_loop_that_already_runs_here(made: Portal):
    async def main() -> object:
        return made.run(echo(5))

    assert asyncio.run(main()) == 5


def test_closing_is_final_and_repeatable():
    made = Portal()
    made.close()
    made.close()
    with pytest.raises(RuntimeError, match="closed"):
        made.run(echo(1))
    assert portal() is portal()
    assert portal().run(echo(4)) == 4


def test_ctrl_c_reaches_the_waiting_main_thread(made: Portal):
    never: concurrent.futures.Future[None] = concurrent.futures.Future()
    made.run(echo(1))

    def interrupted() -> None:
        made.post(lambda: os.kill(os.getpid(), signal.SIGINT))
        made.wait([never])

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert made.run(echo(6)) == 6
    never.cancel()


def test_what_ctrl_c_interrupts_cleans_up_first_and_another_one_ends_that(made: Portal):
    told: list[str] = []

    def interrupt() -> None:
        # When the main thread waits: until then ours may run the loop.
        if made._driver == threading.main_thread().ident:
            os.kill(os.getpid(), signal.SIGINT)
        else:
            made.loop.call_soon(interrupt)

    async def work(stubborn: bool) -> None:
        try:
            interrupt()
            await asyncio.Event().wait()
        finally:
            told.append("cleaning up")
            if stubborn:
                interrupt()
                await release.wait()
            await asyncio.sleep(0)
            told.append("clean")

    release = asyncio.Event()
    with pytest.raises(KeyboardInterrupt):
        made.run(work(False))
    assert told == ["cleaning up", "clean"]
    with pytest.raises(KeyboardInterrupt):
        made.run(work(True))
    assert told == ["cleaning up", "clean", "cleaning up"]
    made.call(release.set)
    made.run(settle())
    assert told[-1] == "clean"

    async def gives_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(concurrent.futures.CancelledError):
        made.run(gives_up())


def test_a_forked_child_gets_a_portal_of_its_own():
    code = """
import os
from aioparallel.portal import portal
async def echo(x): return x
assert portal().run(echo(1)) == 1
child = os.fork()
if not child:
    os._exit(0 if portal().run(echo(7)) == 7 else 1)
assert os.waitpid(child, 0)[1] == 0
assert portal().run(echo(2)) == 2
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def parked(made: Portal, monkeypatch: pytest.MonkeyPatch) -> Portal:
    """A portal whose own thread leaves the loop alone."""
    monkeypatch.setattr("aioparallel.portal.PATIENCE", 60.0)

    async def who() -> int:
        return threading.get_ident()

    while made.run(who()) != threading.get_ident():
        pass
    return made


class Reading:
    """A future that is done after so many reads."""

    def __init__(self, reads: int, *, made: Portal) -> None:
        self.left = reads
        self.made = made
        self.threads: set[int] = set()

    def done(self) -> bool:
        return self.left <= 0

    def read_here(self, seconds: float) -> bool:
        assert self.made._driving.locked()
        self.threads.add(threading.get_ident())
        self.left -= 1
        return True


def test_a_future_that_reads_by_itself_is_read_in_the_waiting_thread(parked: Portal):
    order: list[str] = []
    parked.post(lambda: order.append("posted"))
    future = Reading(3, made=parked)
    parked.wait_for(future)
    assert future.done()
    assert future.threads == {threading.get_ident()}
    assert order == ["posted"]


def test_the_loops_own_work_is_not_put_off_for_ever(parked: Portal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("aioparallel.portal.OWN", -1.0)
    ran: list[int] = []
    parked.loop.call_soon_threadsafe(ran.append, 1)
    # Its time has come: the loop is run although the future could read by itself.
    settled: concurrent.futures.Future[int] = concurrent.futures.Future()
    settled.read_here = lambda seconds: True  # type: ignore[attr-defined]
    parked.loop.call_soon_threadsafe(settled.set_result, 1)
    parked.wait_for(settled)  # type: ignore[arg-type]
    assert ran == [1]


def test_ctrl_c_while_reading_is_raised_when_no_frame_is_in_hand(parked: Portal):
    finished: list[int] = []

    class Interrupted(Reading):
        def read_here(self, seconds: float) -> bool:
            os.kill(os.getpid(), signal.SIGINT)
            finished.extend([i for i in range(1000) if i >= 0])
            return super().read_here(seconds)

    with pytest.raises(KeyboardInterrupt):
        parked.wait_for(Interrupted(5, made=parked))
    assert len(finished) == 1000
    assert parked.run(echo(2)) == 2


def test_one_who_reads_by_itself_runs_the_loop_when_others_are_about(parked: Portal):
    reads: list[float] = []

    class Future(concurrent.futures.Future[int]):
        def read_here(self, seconds: float) -> bool:
            reads.append(seconds)
            assert len(reads) == 1, "what the other thread posted was not noticed"
            other = threading.Thread(target=parked.post, args=(lambda: self.set_result(1),))
            other.start()
            other.join()
            return True

    future = Future()
    parked.wait_for(future)
    assert future.result() == 1
