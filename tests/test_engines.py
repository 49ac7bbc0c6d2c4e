"""An engine's queue, driven by hand: what is sent to the host is looked at, and answered."""

from __future__ import annotations

import asyncio
import json

import pytest
import uvloop
from house import Client, House, Play, frame, gone, playing

from aioparallel import engines as module
from aioparallel.errors import EngineDied, EngineLost, QueueCleared, TaskAborted
from aioparallel.events import EngineLeft
from aioparallel.queues import PriorityQueue
from aioparallel.wire import JOINED, SECONDS, Composed, HostCall, Kind, Status


@pytest.fixture(params=[asyncio.run, uvloop.run])
def play(request: pytest.FixtureRequest) -> Play:
    return playing(request.param)


def test_commands_go_out_in_order_and_their_answers_come_back(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.host.take()
        house.put(engine, "a", "b", "c")
        assert house.arrived() == ["a", "b", "c"]
        assert all(sent.engine == 0 for sent in house.under_way.values())
        assert len({sent.id for sent in house.under_way.values()}) == 3
        assert (engine.state, engine.queued, engine.pending()) == ("running", 0, "a")
        house.answer("a")
        house.answer("c")
        house.answer("b", Status.ERROR)
        assert [(label, result.code) for label, result in house.results] == [("a", 0), ("c", 0), ("b", 1)]
        assert engine.state == "idle"

    play(story)


def test_an_exclusive_one_runs_alone(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.put(engine, "a", "b")
        house.put(engine, "alone", "alone too", exclusive=True)
        house.put(engine, "c", "d")
        assert house.arrived() == ["a", "b"]
        house.answer("a")
        assert house.arrived() == []
        house.answer("b")
        assert house.arrived() == ["alone"]
        house.answer("alone")
        assert house.arrived() == ["alone too"]
        assert engine.queued == 2
        house.answer("alone too")
        assert house.arrived() == ["c", "d"]

    play(story)


def test_only_so_many_are_under_way(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_FLIGHT", 2)

    def story(house: House) -> None:
        engine = house.join()
        house.put(engine, "a", "b", "c", "d")
        assert house.arrived() == ["a", "b"]
        assert (engine.queued, engine.status()["under_way"]) == (2, 2)
        house.answer("b")
        assert house.arrived() == ["c"]

    play(story)


def test_another_queue_sends_in_its_own_order(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.put(engine, "first", exclusive=True)
        for priority, label in enumerate(("low", "high", "highest")):
            house.put(engine, label, exclusive=True, priority=priority)
        order = house.arrived()
        while house.under_way:
            house.answer(order[-1])
            order += house.arrived()
        # One of them was next already when the higher ones came.
        assert order == ["first", "low", "highest", "high"]

    play(story, queue=PriorityQueue)


def test_cancel_where_it_waits_where_it_is_next_and_where_it_runs(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        running, following, waiting, last = house.put(engine, "running", "following", "waiting", "last", exclusive=True)
        assert house.arrived() == ["running"]
        engine.cancel(waiting)
        engine.cancel(following)
        assert house.host.take() == []  # the host has never heard of them
        assert engine.queued == 1
        engine.cancel(running)
        [sent] = house.host.take()
        assert (sent.kind, sent.id, sent.engine) == (Kind.CANCEL, house.under_way["running"].id, 0)
        # It runs until the host has answered.
        assert engine.state == "running"
        house.answer("running", Status.CANCELLED)
        assert house.arrived() == ["last"]
        engine.cancel(waiting)
        engine.cancel(running)
        assert house.host.take() == []
        house.answer("last")
        engine.cancel(last)
        assert house.host.take() == []
        assert house.done() == ["running", "last"]
        assert engine.state == "idle"

    play(story)


def test_cancelling_a_large_one_that_has_not_left_needs_no_answer(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.host.take()
        large = house.command("large", exclusive=True)
        large.payload = frame(Kind.CALL, 900, buffers=[bytes(100_000)])
        engine.put(large)
        house.put(engine, "next")
        [number] = engine._under_way
        house.host.leaving.add(number)
        engine.cancel(large)
        assert large.cancelled
        assert [sent.kind for sent in house.host.sent] == [Kind.COMMAND, Kind.COMMAND]
        assert "next" in house.arrived()[-1]
        house.answer("next")
        assert house.done() == ["next"]
        assert engine.state == "idle"
        # The next one has left already: its host is asked.
        large.cancelled = False
        engine.put(large)
        engine.cancel(large)
        assert [sent.kind for sent in house.host.take()] == [Kind.COMMAND, Kind.CANCEL]
        assert engine.state == "running"

    play(story)


def asked(house: House) -> list[tuple[str, str]]:
    """Return what the host was asked about commands, and of which."""
    by_id = {sent.id: label for label, sent in house.under_way.items()}
    return [
        (HostCall(sent.code).name if sent.kind == Kind.CALL else Kind(sent.kind).name, by_id[sent.id])
        for sent in house.host.take()
        if sent.kind != Kind.COMMAND
    ]


def test_what_is_to_end_is_dropped_where_it_waits_and_ended_where_it_runs(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        [runs, behind] = house.put(engine, "runs", "behind")
        [following, waiting] = house.put(engine, "next", "waits", exclusive=True)
        house.arrived()
        for command in (waiting, following, behind, runs):
            engine.end(command)
        assert asked(house) == [("END", "behind"), ("END", "runs")]
        assert [command.cancelled for command in (runs, behind, following, waiting)] == [False, False, True, True]
        house.answer("runs", Status.FAULT, TaskAborted("ended", step="kill", seconds=4.0))
        house.answer("behind", Status.RETURNED)
        assert [(label, result.code) for label, result in house.results] == [
            ("runs", Status.FAULT),
            ("behind", Status.CANCELLED),
        ]
        assert (engine.queued, engine.state, house.arrived()) == (0, "idle", [])

    play(story)


def test_what_is_asked_back_may_be_put_elsewhere(play: Play) -> None:
    def story(house: House) -> None:
        engine, other = house.join(), house.join()
        [runs, behind] = house.put(engine, "runs", "behind")
        [following, waiting, _] = house.put(engine, "next", "waits", "last", exclusive=True)
        house.arrived()
        assert not engine.recall(runs)
        assert not engine.recall(behind)
        assert asked(house) == [("RECALL", "runs"), ("RECALL", "behind")]
        assert engine.recall(waiting)
        assert engine.recall(following)
        assert not engine.recall(following)
        assert engine.queued == 1
        other.put(waiting)
        assert house.arrived() == ["waits"]
        house.answer("waits")
        # One that was on its way to a kernel that is gone is back as well, and not sent again by itself.
        house.answer("behind", Status.RETURNED)
        house.answer("runs")
        assert [(label, result.code) for label, result in house.results] == [
            ("waits", Status.OK),
            ("behind", Status.CANCELLED),
            ("runs", Status.OK),
        ]
        other.put(behind)
        assert house.arrived() == ["last", "behind"]
        assert engine._withdrawn == set()

    play(story)


def test_a_limit_is_told_before_its_command_and_forgotten_with_it(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.host.take()
        limited, large = house.command("limited"), house.command("large")
        limited.limit = large.limit = 1.5
        engine.put(limited)
        engine.put(house.command("free"))
        sent = house.host.take()
        assert [(one.kind, one.code, one.engine) for one in sent] == [
            (Kind.CALL, HostCall.LIMIT, 0),
            (Kind.COMMAND, 0, 0),
            (Kind.COMMAND, 0, 0),
        ]
        assert (sent[0].id, SECONDS.unpack(sent[0].header)) == (sent[1].id, (1.5,))
        # A large one that never leaves: the host has been told of its limit.
        large.payload = frame(Kind.CALL, 900, buffers=[bytes(100_000)])
        for take_away in (engine.end, engine.recall):
            large.cancelled = False
            engine.put(large)
            house.host.take()
            number = max(engine._under_way)
            house.host.leaving.add(number)
            assert take_away(large) in (None, True)
            assert [(one.kind, one.id) for one in house.host.take()] == [(Kind.CANCEL, number)]
            assert len(engine._under_way) == 2

    play(story)


def test_a_command_of_several_places_is_one_message(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.host.take()
        for size in (3, 100_000):
            command = house.command("joined")
            command.payload = Composed.of(JOINED, b'{"parts": [1]}', [b"x" * size, b"value"])
            command.client = None
            engine.put(command)
            [sent] = house.host.take()
            assert (sent.kind, sent.code, sent.header, sent.size) == (
                Kind.COMMAND,
                JOINED,
                b'{"parts": [1]}',
                command.payload.size,
            )
            assert [bytes(buffer) for buffer in sent.buffers] == [b"x" * size, b"value"]
            house.host.leaving.add(sent.id)
            engine.cancel(command)
            assert command.cancelled is command.payload.is_large is (size > 3)
            house.host.take()

    play(story)


def test_cancelling_the_next_lets_the_one_behind_it_go(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.put(engine, "runs")
        [alone] = house.put(engine, "alone", exclusive=True)
        house.put(engine, "beside")
        assert house.arrived() == ["runs"]
        engine.cancel(alone)
        assert house.arrived() == ["beside"]

    play(story)


def test_clear_fails_what_waits_and_leaves_what_runs(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        other = Client()
        house.put(engine, "running", "mine", exclusive=True)
        house.put(engine, "another's", exclusive=True, client=other)
        house.put(engine, "mine too", exclusive=True)
        assert house.arrived() == ["running"]
        assert engine.clear(lambda command: command.client is house.client) == 2
        assert [label for label, result in house.results if isinstance(result, QueueCleared)] == ["mine", "mine too"]
        assert "queue of engine 0 before it ran" in str(house.results[0][1])
        assert engine.queue_status() == {"id": 0, "pending": "running", "queue": ["another's"]}
        house.answer("running")
        assert house.arrived() == ["another's"]
        assert engine.clear() == 0

    play(story)


def test_looking_at_a_queue_changes_nothing(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        labels = [f"command {number}" for number in range(120)]
        commands = house.put(engine, *labels, exclusive=True)
        engine.cancel(commands[2])
        del labels[2]
        for _ in range(2):
            status = engine.queue_status()
            assert status == {"id": 0, "pending": labels[0], "queue": labels[1:101]}
        assert engine.queued == 118
        order = []
        while arrived := house.arrived():
            order += arrived
            house.answer(*arrived)
        assert order == labels

    play(story)


def test_a_lost_engine_answers_everything(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.put(engine, "runs", "behind it")
        house.put(engine, "alone", "last", exclusive=True)
        house.link.lost(ConnectionResetError("cut"))
        assert house.done() == ["runs", "behind it", "alone", "last"]
        assert house.roster.engines == {}
        assert house.told == [("join", 0), ("leave", 0)]
        assert house.events[-1] == EngineLeft(0, "engine 0 is gone: cut")
        # A second time is no time.
        house.link.lost(None)
        house.roster.leave(engine, "again")
        assert house.done() == []
        assert house.told == [("join", 0), ("leave", 0)]

    play(story)


def test_whatever_was_sent_to_a_lost_host_may_have_run(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.put(engine, "runs", "waits there")
        house.put(engine, "waits here", exclusive=True)
        house.roster.leave(engine, "gone")
        lost = [result for _, result in house.results]
        assert all(isinstance(error, EngineLost) and error.engine_id == 0 for error in lost)
        assert [error.running for error in lost] == [True, True, False]

    play(story)


def test_nothing_is_sent_for_a_client_that_does_not_read(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        slow = Client()
        house.put(engine, "runs", client=slow)
        slow.congested = True
        house.put(engine, "held", "held too", client=slow)
        assert house.arrived() == ["runs"]
        house.answer("runs")
        assert house.arrived() == []
        assert engine.queued == 2
        slow.congested = False
        engine.pump()
        assert house.arrived() == ["held", "held too"]

    play(story)


def test_the_others_commands_pass_those_of_a_client_that_does_not_read(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        slow = Client()
        slow.congested = True
        held = house.put(engine, "held 1", "held 2", "held 3", client=slow, exclusive=True)
        house.put(engine, "passes", "passes too", exclusive=True)
        held += house.put(engine, "held 4", client=slow, exclusive=True)
        assert house.arrived() == ["passes"]
        assert engine.queued == 5
        assert engine.queue_status()["queue"] == ["passes too", "held 1", "held 2", "held 3", "held 4"]
        house.answer("passes")
        assert house.arrived() == ["passes too"]
        engine.cancel(held[1])
        assert engine.queued == 3
        slow.congested = False
        engine.pump()
        assert house.arrived() == []
        house.put(engine, "last", exclusive=True)
        order = ["passes too"]
        while order:
            house.answer(*order)
            order = house.arrived()
        assert house.done() == ["passes", "passes too", "held 1", "held 3", "held 4", "last"]

    play(story)


def test_what_is_held_is_forgotten_with_its_client_and_lost_with_its_engine(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        slow = Client()
        slow.congested = True
        for command in house.put(engine, "a", "b", client=slow):
            engine.cancel(command)
        assert engine._queue.held == {}
        house.put(engine, "c", "d", client=slow)
        assert engine.clear(lambda command: command.label == b"c") == 1
        house.roster.leave(engine, "gone")
        assert house.done() == ["c", "d"]

    play(story)


def test_answers_that_nobody_waits_for_are_dropped(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.put(engine, "a")
        house.arrived()
        house.link.receive([frame(Kind.RESULT, 4000, engine=0), frame(Kind.RESULT, 4001, engine=77)])
        assert house.done() == []
        sent = house.under_way["a"]
        house.answer("a")
        house.link.receive([frame(Kind.RESULT, sent.id, engine=0)])
        assert house.done() == ["a"]
        assert engine.state == "idle"

    play(story)


def test_status_says_what_and_for_how_long(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join(pid=4711, host="far")
        idle = engine.status()
        assert (idle["state"], idle["doing"], idle["seconds"], idle["python"]) == ("idle", None, None, "3.11.7")
        assert (idle["pid"], idle["host"]) == (4711, "far")
        house.put(engine, "fib", "", exclusive=True)
        busy = engine.status()
        assert (busy["state"], busy["doing"], busy["queued"], busy["under_way"]) == ("running", "fib", 1, 1)
        assert busy["seconds"] >= 0
        house.arrived()
        house.answer("fib")
        assert engine.pending() == "a command"  # one without a label
        json.dumps(engine.status())

    play(story)


# Its kernel


def test_nothing_is_sent_while_there_is_no_kernel(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.put(engine, "a")
        assert house.arrived() == ["a"]
        gone(house)
        house.answer("a", Status.FAULT, EngineDied("killed", running=True))
        house.put(engine, "b", "c")
        assert (house.arrived(), engine.queued, engine.state) == ([], 2, "restarting")
        house.ready(18)
        assert house.arrived() == ["b", "c"]
        gone(house)
        house.put(engine, "d")
        gone(house, "kernel_broken")
        assert (house.arrived(), engine.state) == (["d"], "broken")  # the host says how it is

    play(story)


def test_what_a_fresh_kernel_does_first_goes_before_everything_one_by_one(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        gone(house)
        house.put(engine, "later")
        house.ready(18)
        assert house.arrived() == ["later"]
        gone(house)
        house.answer("later", Status.FAULT, EngineDied("killed", running=True))
        house.put(engine, "waits", "waits too")
        engine.kernel_ready(19)
        first = [house.command(label, exclusive=True) for label in ("one", "two")]
        for command in first:
            command.client = None
            engine.put_first(command)
        engine.pump()
        house.put(engine, "last")
        assert (house.arrived(), engine.queued) == (["one"], 4)
        house.answer("one", Status.ERROR)
        assert house.arrived() == ["two"]
        house.answer("two")
        assert house.arrived() == ["waits", "waits too", "last"]
        assert engine.clear() == 0

    play(story)


def test_what_was_to_be_done_first_dies_with_its_kernel(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        for label in ("one", "two", "three"):
            command = house.command(label, exclusive=True)
            command.client = None
            engine.put_first(command)
        assert (engine.clear(), engine.queued) == (0, 2)
        assert house.arrived() == ["one"]
        gone(house)
        house.answer("one", Status.FAULT, EngineDied("killed", running=True))
        house.ready(18)
        assert (house.arrived(), engine.queued) == ([], 0)
        assert house.done() == ["one"]
        # One that was on its way to a kernel that is gone by then belongs to that one.
        command = house.command("first", exclusive=True)
        command.client = None
        engine.put_first(command)
        assert house.arrived() == ["first"]
        gone(house)
        house.answer("first", Status.RETURNED)
        house.ready(19)
        assert (house.arrived(), house.done(), engine.queued) == ([], [], 0)

    play(story)


def test_what_comes_back_keeps_its_place_and_what_goes_first_does_not_wait_for_it(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.put(engine, "a", "b", exclusive=True)
        assert house.arrived() == ["a"]
        gone(house)
        before = house.under_way["a"].id
        first = house.ready(18)
        assert before < first
        setup = house.command("setup", exclusive=True)
        setup.client = None
        engine.put_first(setup)
        house.put(engine, "c")
        assert house.arrived() == []  # "a" is not back yet
        house.answer("a", Status.RETURNED)
        assert house.arrived() == ["setup"]
        assert house.under_way["setup"].id > first
        house.answer("setup")
        assert house.arrived() == ["a"]
        house.answer("a")
        assert house.arrived() == ["b"]
        house.answer("b")
        assert house.arrived() == ["c"]
        assert house.done() == ["setup", "a", "b"]

    play(story)


def test_several_that_come_back_keep_their_order(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.put(engine, "a", "b", "c")
        house.put(engine, "d", exclusive=True)
        assert house.arrived() == ["a", "b", "c"]
        gone(house)
        for label in "acb":
            house.answer(label, Status.RETURNED)
        assert engine.queue_status()["queue"] == ["a", "b", "c", "d"]
        house.ready(18)
        assert house.arrived() == ["a", "b", "c"]

    play(story)


def test_what_comes_back_withdrawn_does_not_run(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        [a, _] = house.put(engine, "a", "b", exclusive=True)
        house.arrived()
        gone(house)
        engine.cancel(a)
        house.answer("a", Status.RETURNED)
        [(label, result)] = house.results
        assert (label, result.code) == ("a", Status.CANCELLED)
        house.ready(18)
        assert house.arrived() == ["b"]
        assert engine._withdrawn == set()
        # All that is known of an engine goes with it.
        gone(house)
        engine.put_first(house.command("x", exclusive=True))
        house.link.lost(None)
        assert house.done() == ["a", "b"]
        assert engine.queued == 0

    play(story)
