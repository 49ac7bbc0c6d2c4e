"""The commands that a kernel has, which is a model: each is answered once, whoever answers it."""

from __future__ import annotations

from seats import ModelHost, frames_of, played

from aioparallel.wire import KernelCall, Kind, News, Status, encode


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
        host.seat.inflight.cancel(4)
        assert host.take() == [(4, "RETURNED", None, None)]
        host.seat.start()
        assert [frame.kind for frame in host.working().sent] == [Kind.CALL]
        assert host.take() == ["restarted"]

    played(story)


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

    played(story)


def test_what_will_not_begin_is_answered_for_at_once() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        for number in range(1, 8):
            host.command(number)
        kernel.answer(1)
        kernel.runs = 3  # and 2 is done, its answer on the way
        host.take()
        host.seat.inflight.end(4)
        host.seat.inflight.cancel(5)
        for number in (6, 6, 3, 2, 99):
            assert host.seat.inflight.recall(number) == (number == 3)
        assert host.take() == [(number, "CANCELLED", None, None) for number in (4, 5, 6)]
        assert kernel.asked == [("withdraw", number) for number in (4, 5, 6, 3, 2)]
        # The kernel says so as well when it comes to them: that is no news.
        kernel.answer(2, 3, 4)
        assert host.take() == [(2, "OK", None, None), (3, "OK", None, None)]
        kernel.runs, kernel.ran = None, 3
        assert host.seat.inflight.interrupt()
        assert kernel.asked[-1] == ("interrupt", 7)
        host.seat.inflight.cancel(7)
        assert host.take() == [(7, "CANCELLED", None, None)]
        assert not host.seat.inflight.interrupt()
        kernel.on_exit(-9, "")
        assert host.take() == ["kernel_died"]
        assert not host.seat.inflight._unanswered
        assert not host.seat.inflight._withdrawn

    played(story)


def test_what_the_kernel_comes_to_while_it_is_withdrawn_is_answered_for_once() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        for number in (1, 2):
            host.command(number)
        looked = iter([1, 2, 2, 2])
        # Between two looks of ours it has come to 2, says so, and waits to read that it is not to begin it.
        kernel.looks = lambda: next(looked)
        host.take()
        host.seat.inflight.end(2)
        assert host.take() == [(2, "CANCELLED", None, None)]
        assert not host.seat.inflight._ladder.is_ending
        assert host.seat.inflight.interrupt()
        assert kernel.asked == [("withdraw", 2), ("interrupt", 1)]
        kernel.looks = None
        kernel.on_exit(-9, "")
        assert [line for line in host.take() if line[0] == 2] == []

    played(story)


def test_what_is_about_to_begin_is_left_to_the_kernel() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        host.command(1)
        host.command(2)
        kernel.runs = 1
        host.take()
        host.seat.inflight.end(1)
        assert kernel.asked == [("withdraw", 1), ("interrupt", 1)]
        kernel.on_frames(frames_of(encode(Kind.RESULT, 1, code=Status.CANCELLED)))
        assert host.take() == [(1, "CANCELLED", None, None)]
        assert not host.seat.inflight._ladder.is_ending

    played(story)


def test_interrupt_names_what_runs_or_comes_first() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        assert not host.seat.inflight.interrupt()
        host.command(1)
        host.command(2)
        assert host.seat.inflight.interrupt()
        kernel.runs = 2
        assert host.seat.inflight.interrupt()
        kernel.runs = 77
        host.seat.inflight.cancel(1)
        host.seat.inflight.cancel(99)
        assert host.seat.inflight.interrupt()
        assert kernel.asked == [("interrupt", 1), ("interrupt", 2), ("withdraw", 1), ("interrupt", 2)]

    played(story)


def test_a_watched_command_is_told_of_while_it_runs() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        host.command(1)
        host.command(2)
        host.take()
        host.seat.inflight.watch(1)
        host.seat.inflight.watch(2)
        host.seat.inflight.watch(99)
        assert host.take() == ["watched", "watched"]
        assert host.seat.inflight.watched
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
        assert not host.seat.inflight.watched

    played(story)


def test_the_last_words_are_told_before_the_death() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        host.command(1)
        host.seat.inflight.watch(1)
        host.command(2)
        host.seat.inflight.watch(2)
        kernel.runs, kernel.written = 1, [b"0123456789abc", b""]
        host.take()
        kernel.on_exit(-9, "")
        assert [entry[:3] for entry in host.take() if not isinstance(entry, str)] == [
            (1, News.STDOUT, 0),
            (1, News.STDOUT, 10),
            (1, "FAULT", True),
            (2, "FAULT", False),
        ]
        assert not host.seat.inflight.watched

    played(story)


def test_records_pass_in_order_until_their_session_is_forgotten() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        host.command(1)
        host.take()
        record = frames_of(encode(Kind.NOTICE, 77, code=News.RECORD, header=b"{}"))
        kernel.on_frames(record + frames_of(encode(Kind.RESULT, 1)))
        assert host.take() == [(77, News.RECORD, 0, b""), (1, "OK", None, None)]
        host.seat.inflight.forget(77)
        host.seat.inflight.forget(77)
        assert [(frame.kind, frame.code, frame.id) for frame in kernel.sent[2:]] == [(Kind.CALL, KernelCall.FORGET, 77)]
        kernel.on_frames(record)
        assert host.take() == []
        kernel.answer(77)
        assert host.seat.inflight._forgotten == set()
        assert host.take() == []

    played(story)
