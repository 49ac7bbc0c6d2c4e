"""What the faces' results have in common: callbacks, metadata."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

import pytest

from aioparallel.handle import Handle
from aioparallel.pending import PendingResult
from aioparallel.portal import portal
from aioparallel.reply import CallInfo, Reply, Unread
from aioparallel.wire import NO_ENGINE, RESULT_META, TRIED, Status

Make = Callable[[], Any]


def each_kind(story: Callable[[Make], None]) -> Callable[[str], None]:
    """Run a test with replies of both kinds, on a loop."""

    @pytest.mark.parametrize("kind", ["handle", "pending"])
    def test(kind: str) -> None:
        async def main() -> None:
            story(Handle if kind == "handle" else lambda: PendingResult(portal()))

        asyncio.run(main())

    return test


def add(value: Any, log: list[Any], name: str, more: int = 1) -> Any:
    log.append((name, value))
    return value + more


# What another call may be given


@each_kind
def test_a_value_has_arrived_or_not(make: Make) -> None:
    waiting, good, bad, cancelled, changed = make(), make(), make(), make(), make()
    good.set_result(None)
    bad.set_exception(ZeroDivisionError())
    cancelled.cancel()
    changed.set_result(1)
    changed.add_callback(add, [], "callback")
    assert [reply.arrived() for reply in (waiting, good, bad, cancelled, changed)] == [None, (None,), None, None, (2,)]
    kept = make()
    kept.unread = Unread()
    kept.set_result(3)
    assert kept.arrived() == (3,)
    assert kept.unread is None
    with pytest.raises(ZeroDivisionError):
        bad.result()


# Callbacks


@each_kind
def test_callbacks_are_chained_in_order_before_the_end_and_after(make: Make) -> None:
    log: list[Any] = []
    reply = make()
    reply.add_callback(add, log, "first")
    reply.add_callback(add, log, "second", more=10)
    assert log == []
    reply.set_result(0)
    assert log == [("first", 0), ("second", 1)]
    assert reply.result() == 11
    reply.add_callback(add, log, "late")
    reply.add_callback(add, log, "later")
    assert log[2:] == [("late", 11), ("later", 12)]
    assert [reply.result(), reply.result()] == [13, 13]


@each_kind
def test_what_a_callback_raises_is_the_error_from_then_on(make: Make) -> None:
    log: list[Any] = []
    early, late = make(), make()
    for reply in (early, late):
        if reply is late:
            reply.set_result(1)
        reply.add_callback(add, log, "before")
        reply.add_callback(lambda value: 1 // 0)
        reply.add_callback(add, log, "after")
    early.set_result(1)
    for reply in (early, late):
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                reply.result()
        assert isinstance(reply.exception(), ZeroDivisionError)
        reply.add_callback(add, log, "still after")
    assert log == [("before", 1), ("before", 1)]


@each_kind
def test_also_what_is_no_exception_of_every_day(make: Make) -> None:
    def fail(_: Any, error: BaseException) -> None:
        raise error

    for error, shown in ((SystemExit(3), SystemExit), (StopIteration(4), (StopIteration, RuntimeError))):
        early, late = make(), make()
        early.add_callback(fail, error)
        early.set_result(1)
        late.set_result(1)
        late.add_callback(fail, error)
        for reply in (early, late):
            assert isinstance(reply.exception(), shown)


@each_kind
def test_an_error_and_a_cancellation_call_nobody(make: Make) -> None:
    log: list[Any] = []
    failed, cancelled = make(), make()
    for reply in (failed, cancelled):
        reply.add_callback(add, log, "early")
    failed.set_exception(KeyError("x"))
    assert cancelled.cancel()
    for reply in (failed, cancelled):
        reply.add_callback(add, log, "late")
    assert log == []
    with pytest.raises(KeyError):
        failed.result()
    assert cancelled.cancelled()


@each_kind
def test_a_callback_may_add_others_and_may_cancel(make: Make) -> None:
    log: list[Any] = []
    for late in (False, True):
        reply = make()
        if late:
            reply.set_result(0)

        def one(value: int, reply: Any = reply) -> int:
            reply.add_callback(add, log, "added")
            log.append("one")
            return value + 100

        reply.add_callback(one)
        if not late:
            reply.set_result(0)
        assert log == ["one", ("added", 100)]
        assert reply.result() == 101
        log.clear()
    withdrawn = make()
    withdrawn.add_callback(lambda value: withdrawn.cancel())
    withdrawn.add_callback(add, log, "never")
    with pytest.raises((asyncio.InvalidStateError, concurrent.futures.InvalidStateError)):
        withdrawn.set_result(1)
    assert withdrawn.cancelled()
    assert log == []


@each_kind
def test_to_read_itself_in_a_callback_is_refused(make: Make) -> None:
    seen: list[BaseException] = []

    def read(value: Any, reply: Any) -> Any:
        try:
            reply.result()
        except (RuntimeError, asyncio.InvalidStateError) as error:
            seen.append(error)
        return value

    early, late = make(), PendingResult(portal())
    early.add_callback(read, early)
    early.set_result(1)
    late.set_result(1)
    late.add_callback(read, late)
    assert len(seen) == 2
    assert (early.result(), late.result()) == (1, 1)


@each_kind
def test_what_can_not_be_called_is_refused(make: Make) -> None:
    with pytest.raises(TypeError, match="3 can't be called"):
        make().add_callback(3)


def test_threads_that_add_callbacks_while_the_value_comes_lose_none() -> None:
    for _ in range(300):
        pending = PendingResult(portal())
        start = threading.Barrier(4)

        def adder(pending: PendingResult = pending, start: threading.Barrier = start) -> None:
            start.wait()
            for _ in range(5):
                pending.add_callback(lambda value: value + 1)

        threads = [threading.Thread(target=adder) for _ in range(3)]
        for thread in threads:
            thread.start()
        start.wait()
        pending.set_result(0)
        for thread in threads:
            thread.join()
        assert pending.result() == 15


# Metadata


def header(started: float, seconds: float, stdout: bytes = b"", stderr: bytes = b"") -> bytes:
    return RESULT_META.pack(started, seconds, len(stdout)) + stdout + stderr


@each_kind
def test_metadata_is_there_at_the_end_in_target_order(make: Make) -> None:
    reply: Reply = make()
    with pytest.raises(RuntimeError, match="when the call has ended"):
        _ = reply.metadata
    reply.submitted, reply.bare = 5.0, False
    reply.answers = [
        (1, Status.OK, header(10.0, 0.5, b"a\xff", b"b")),
        (0, Status.ERROR, header(11.0, 1.0)),
        (2, Status.FAULT, b'{"error": "QueueCleared"}'),
    ]
    reply.set_result(None)  # type: ignore[attr-defined]
    first = CallInfo(0, 5.0, 11.0, 12.0, 1, "", "")
    second = CallInfo(1, 5.0, 10.0, 10.5, 1, "a\ufffd", "b")
    third = CallInfo(2, 5.0, None, None, 1, "", "")
    assert reply.metadata == [first, second, third]
    reply.targets = [2, 0, 1]
    assert reply.metadata == [third, first, second]


@each_kind
def test_metadata_of_one_and_of_nobody(make: Make) -> None:
    task, plain, withdrawn, view = make(), make(), make(), make()
    task.answers = (3, Status.OK + 2 * TRIED, header(1.0, 2.0))
    plain.answers = (NO_ENGINE, Status.OK, b"[1, 2]")
    plain.bare = withdrawn.bare = False
    for reply in (task, plain):
        reply.submitted = 4.0
        reply.set_result(None)
    for reply in (withdrawn, view):
        reply.cancel()
    assert task.metadata == CallInfo(3, 4.0, 1.0, 3.0, 3, "", "")
    assert plain.metadata == withdrawn.metadata == []
    assert view.metadata is None
