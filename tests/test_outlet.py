"""Log records on their way out of a kernel: sent by one thread, waited for by none."""

from __future__ import annotations

import threading
from collections.abc import Callable

from aioparallel.decoder import Decoder
from aioparallel.outlet import RECORDS, Outlet
from aioparallel.wire import Frame, Kind, Limits, News


class Far:
    """Where records go, and the threads that take them there."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.got: list[Frame] = []
        self.more = threading.Condition()
        self.free = threading.Event()
        self.free.set()
        self.outlet = Outlet(self._flush, self._start, largest=100)

    def _flush(self) -> None:
        self.free.wait()
        taken = self.outlet.take()
        with self.more:
            self.got += Decoder(Limits()).feed(b"".join(taken))
            self.more.notify_all()

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        self.threads.append(thread)
        thread.start()

    def wait_for(self, count: int) -> list[bytes]:
        with self.more:
            assert self.more.wait_for(lambda: len(self.got) >= count, 10)
            return [frame.header for frame in self.got]

    def end(self) -> None:
        self.outlet.shut()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


def test_records_leave_in_order_by_themselves() -> None:
    far = Far()
    far.outlet.open()
    for number in range(100):
        far.outlet.send(7, b"%d" % number)
    assert far.wait_for(100) == [b"%d" % number for number in range(100)]
    assert {(frame.kind, frame.code, frame.id) for frame in far.got} == {(Kind.NOTICE, News.RECORD, 7)}
    far.end()


def test_the_newest_stay_when_nobody_takes_them() -> None:
    far = Far()
    far.outlet.open()
    far.free.clear()
    for number in range(3 * RECORDS):
        far.outlet.send(7, b"%d" % number)
    assert len(far.outlet.waiting) == RECORDS
    far.free.set()
    assert far.wait_for(RECORDS)[-1] == b"%d" % (3 * RECORDS - 1)
    far.end()


def test_opened_and_shut_again_and_again_one_thread_is_left() -> None:
    far = Far()
    for number in range(1, 30):
        far.outlet.open()
        far.outlet.open()
        assert repr(far.outlet).startswith("<Outlet open")
        far.outlet.send(7, b"")
        far.wait_for(number)
        far.outlet.shut()
    far.end()
    assert repr(far.outlet) == "<Outlet shut, 0 records waiting>"


def test_what_is_too_large_stays_and_a_child_sends_nothing() -> None:
    far = Far()
    far.outlet.send(7, b"")
    far.outlet.send(7, bytes(101))
    assert len(far.outlet.waiting) == 1
    far.outlet.abandon()
    far.outlet.send(7, b"")
    assert far.outlet.take() == []
