"""A host's link to the controller, and all engines by id, driven by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop
from house import House, Play, frame, gone, playing

from aioparallel import roster as module
from aioparallel.errors import EngineDied, EngineLost, OperationError, ProtocolError, from_plain, to_plain
from aioparallel.events import EngineJoined, EngineLeft, EngineSuspect, KernelDied, KernelRestarted
from aioparallel.wire import LAST, NO_ENGINE, EngineCall, Frame, HostCall, Kind, Status


@pytest.fixture(params=[asyncio.run, uvloop.run])
def play(request: pytest.FixtureRequest) -> Play:
    return playing(request.param)


def test_what_a_kernel_goes_through_is_told(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()

        def notice(**about: Any) -> None:
            house.link.receive([frame(Kind.NOTICE, header=json.dumps({"engine": 0} | about).encode())])

        notice(event="kernel_died", reason="killed by SIGKILL", output="last words")
        assert (engine.state, engine.deaths) == ("restarting", 1)
        house.ready(18)
        assert (engine.state, engine.pid) == ("idle", 18)
        notice(event="kernel_restarting")
        assert (engine.state, engine.deaths) == ("restarting", 1)
        notice(event="kernel_broken")
        assert engine.state == "broken"
        notice(event="something of a later version")
        notice(event="kernel_died", engine=99)
        house.link.silent(7.5)
        notice(event="engine_left", reason="it was told to end")
        assert house.events == [
            EngineJoined(0, "here", 17),
            KernelDied(0, "killed by SIGKILL", "last words"),
            KernelRestarted(0, 18),
            EngineSuspect(0, 7.5),
            EngineLeft(0, "engine 0 is gone: it was told to end"),
        ]
        assert house.link.engines == {}
        assert house.told == [
            ("join", 0), ("restarting", 0), ("restarting", 0), ("broken", 0), ("leave", 0)
        ]  # fmt: skip

    play(story)


def test_that_a_kernel_is_lost_is_told_before_its_commands_are_answered(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.put(engine, "a")
        house.arrived()
        house.told.clear()
        gone(house)
        assert (house.told, house.results) == ([("restarting", 0)], [])
        house.answer("a", Status.FAULT, EngineDied("killed", running=True))
        assert house.done() == ["a"]

    play(story)


def test_that_properties_have_changed_is_told(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.told.clear()
        engine.properties = {"gpu": True}
        engine.properties = {}
        assert house.told == [("{'gpu': True}", 0), ("{}", 0)]

    play(story)


def test_what_an_engine_has_is_told_when_it_joins(play: Play) -> None:
    def story(house: House) -> None:
        assert house.join(resources={"mem": 16, "gpu": 0.5}).resources == {"gpu": 0.5, "mem": 16.0}
        assert house.join().status()["resources"] == {}
        all_wrong: list[Any] = [[], "gpu", {"gpu": "1"}, {"gpu": -1}, {"gpu": float("nan")}, {"gpu": True}, {"": 1}]
        for wrong in [*all_wrong, {"gpu": 10**400}]:
            with pytest.raises(ProtocolError, match="wrong type"):
                house.join(resources=wrong)
        with pytest.raises(ProtocolError, match="wrong type"):
            house.join(pid=float("inf"))
        assert house.join().id == 2

    play(story)


def test_ready_of_an_engine_that_has_left_and_one_that_is_no_ready(play: Play) -> None:
    def story(house: House) -> None:
        house.link.receive([frame(Kind.CALL, 7, code=EngineCall.READY, engine=4, header=b'{"engine": 4, "pid": 1}')])
        assert house.host.take() == []
        for header in (b"[]", b'{"engine": 0}', b'{"pid": "x"}'):
            with pytest.raises(ProtocolError, match="READY"):
                house.link.receive([frame(Kind.CALL, 7, code=EngineCall.READY, engine=0, header=header)])

    play(story)


def test_a_fault_of_a_dead_kernel_reaches_the_command(play: Play) -> None:
    def story(house: House) -> None:
        engine = house.join()
        house.put(engine, "a")
        house.arrived()
        house.answer("a", Status.FAULT, EngineDied("killed", engine_id=0, reason="killed", running=True))
        [(_, result)] = house.results
        error = from_plain(result.json())
        assert isinstance(error, EngineDied)
        assert error.running

    play(story)


def _run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 5))


def test_questions_to_the_host_are_answered_refused_or_lost() -> None:
    async def main() -> None:
        house = House()
        engine = house.join()
        house.host.take()
        asked = [engine.interrupt(), engine.restart(), engine.stop(), house.link.call(HostCall.STOP)]
        calls = house.host.take()
        assert [(call.kind, call.code, call.engine) for call in calls] == [
            (Kind.CALL, HostCall.INTERRUPT, 0),
            (Kind.CALL, HostCall.RESTART, 0),
            (Kind.CALL, HostCall.STOP, 0),
            (Kind.CALL, HostCall.STOP, NO_ENGINE),
        ]
        refused = json.dumps(to_plain(OperationError("not now"))).encode()
        house.link.receive([frame(Kind.RESULT, calls[0].id, header=b'{"interrupted": 1}')])
        house.link.receive([frame(Kind.RESULT, calls[1].id, code=Status.FAULT, header=refused)])
        assert await asked[0] == {"interrupted": 1}
        with pytest.raises(OperationError, match="not now"):
            await asked[1]
        asked[2].cancel()
        house.link.receive([frame(Kind.RESULT, calls[2].id)])
        house.link.lost(None)
        with pytest.raises(EngineLost, match="its host closed the connection"):
            await asked[3]

    _run(main())


@pytest.mark.parametrize(
    "wrong",
    [
        frame(Kind.COMMAND, 1, header=b"{}"),
        frame(Kind.CANCEL, 1),
        frame(Kind.CALL, 1, code=99),
        frame(Kind.CALL, 1, code=EngineCall.JOIN, header=b"[]"),
        frame(Kind.CALL, 1, code=EngineCall.JOIN, header=b"{"),
        frame(Kind.CALL, 1, code=EngineCall.JOIN, header=b'{"pid": "many"}'),
        frame(Kind.NOTICE, header=b"\xff"),
    ],
)
def test_a_host_that_breaks_the_rules_is_told_apart(wrong: Frame, play: Play) -> None:
    def story(house: House) -> None:
        with pytest.raises(ProtocolError):
            house.link.receive([wrong])
        assert house.roster.engines == {}
        # No id was used up.
        assert house.join().id == 0

    play(story)


# Roster


def test_the_lowest_free_id_goes_to_the_next(play: Play) -> None:
    def story(house: House) -> None:
        _, other = house.dial()
        assert [house.join().id, house.join(other).id, house.join().id, house.join(other).id] == [0, 1, 2, 3]
        assert sorted(house.link.engines) == [0, 2]
        house.link.lost(None)
        assert list(house.roster.engines) == [1, 3]
        assert [house.join(other).id for _ in range(3)] == [0, 2, 4]
        assert list(house.roster.engines) == [0, 1, 2, 3, 4]

    play(story)


def test_the_answer_to_a_join_comes_before_anybody_hears_of_the_engine(play: Play) -> None:
    def story(house: House) -> None:
        at_the_time: list[int] = []
        house.roster._on_join = lambda engine: at_the_time.append(len(house.host.sent))
        house.join()
        [answer] = house.host.take()
        assert (answer.kind, answer.id, answer.code, answer.flags) == (Kind.RESULT, 5, Status.OK, LAST)
        assert answer.json() == {"engine": 0}
        assert at_the_time == [1]

    play(story)


def test_an_engine_too_many_is_refused_in_words(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NO_ENGINE", 2)

    def story(house: House) -> None:
        house.join()
        engine = house.join()
        house.host.take()
        house.link.receive([frame(Kind.CALL, 6, code=EngineCall.JOIN, header=b"{}")])
        [answer] = house.host.take()
        assert (answer.kind, answer.id, answer.code, answer.flags) == (Kind.RESULT, 6, Status.FAULT, LAST)
        error = from_plain(answer.json())
        assert isinstance(error, OperationError)
        assert "every id is taken" in str(error)
        assert list(house.roster.engines) == [0, 1]
        # The others go on, and the next is welcome when there is an id again.
        house.put(engine, "a")
        assert house.arrived() == ["a"]
        house.roster.leave(engine, "gone")
        assert house.join().id == 1

    play(story)
