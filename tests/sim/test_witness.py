"""Who reads along accuses whoever breaks a promise, and nobody else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pieces import flat

from aioparallel.errors import EngineDied, TaskPoisoned, to_plain
from aioparallel.limits import Limits
from aioparallel.proof import pack
from aioparallel.testing.witness import Witness
from aioparallel.wire import LAST, TRIED, HostCall, Kind, Status, encode


class Court:
    """A client of Task, two hosts, and a witness of what they and the controller say."""

    def __init__(self) -> None:
        self.accusations: list[str] = []
        self.open = {"client": True, "host 0": True, "host 1": True}
        self.witness = Witness(Limits(), lambda *about: None, self.accusations.append)
        self._ears: dict[str, Any] = {}
        for name in self.open:
            ear = self._ears[name] = self.witness.listen(name, lambda name=name: self.open[name])  # type: ignore[misc]
            interface = "task" if name == "client" else "engine"
            ear("down", memoryview(pack({"v": [1]})))
            ear("up", memoryview(pack({"body": json.dumps({"interface": interface})})))
            ear("down", memoryview(pack({"ok": True, "ops": ["submit", "submit_with"]})))

    def say(self, name: str, direction: str, kind: Kind, number: int, **about: Any) -> None:
        self._ears[name](direction, memoryview(flat(encode(kind, number, **about))))

    def submit(self, number: int = 1, payload: bytes = b"task", **terms: Any) -> None:
        header, code = (json.dumps(terms).encode(), 1) if terms else (b"label", 0)
        self.say("client", "up", Kind.CALL, number, code=code, header=header, buffers=[payload])

    def command(self, number: int, host: int = 0, payload: bytes = b"task") -> None:
        self.say(f"host {host}", "down", Kind.COMMAND, number, engine=host, buffers=[payload])

    def answer(self, number: int, host: int = 0, value: bytes = b"value", code: int = Status.OK) -> None:
        self.say(f"host {host}", "up", Kind.RESULT, number, engine=host, code=code, buffers=[value])

    def death(self, number: int, *, running: bool, really: bool = True) -> None:
        if running and really:
            self.witness.kernel_ended(number)
        header = json.dumps(to_plain(EngineDied("dead", engine_id=0, running=running))).encode()
        self.say("host 0", "up", Kind.RESULT, number, engine=0, code=Status.FAULT, header=header)

    def deliver(self, number: int = 1, value: bytes = b"value", code: int = Status.OK, tried: int = 0) -> None:
        self.say("client", "down", Kind.RESULT, number, flags=LAST, code=code + TRIED * tried, buffers=[value])


@pytest.fixture
def court() -> Court:
    return Court()


def test_what_goes_well(court: Court) -> None:
    court.submit()
    assert court.witness.unanswered() == ["client: call 1, client's 1"]
    court.command(10)
    assert court.witness.leased() == ["host 0: command 10 for engine 0"]
    court.answer(10)
    court.deliver()
    assert court.accusations == []
    assert (court.witness.unanswered(), court.witness.leased()) == ([], [])


def test_a_task_runs_again_after_a_death_and_that_is_told(court: Court) -> None:
    court.submit()
    court.command(10)
    court.command(11, payload=b"other")
    court.death(10, running=True)
    court.death(11, running=False)
    court.command(12, host=1)
    court.answer(12, host=1)
    court.deliver(tried=1)
    assert court.accusations == []


def test_a_host_that_is_lost_has_nothing_any_more(court: Court) -> None:
    court.submit()
    court.command(10)
    court.open["host 0"] = False
    court.command(11, host=1)
    court.answer(11, host=1)
    court.deliver(tried=1)
    assert court.accusations == []
    assert court.witness.leased() == []


def two_at_once(court: Court) -> None:
    court.command(10)
    court.command(11, host=1)


def again_after_its_end(court: Court) -> None:
    court.command(10)
    court.answer(10)
    court.command(11, host=1)


def after_the_client_was_answered(court: Court) -> None:
    court.say("client", "down", Kind.RESULT, 1, flags=LAST, code=Status.CANCELLED)
    court.command(10)


def an_answer_of_nobodys(court: Court) -> None:
    court.command(10)
    court.answer(10)
    court.deliver(value=b"another value")


def an_answer_twice(court: Court) -> None:
    court.command(10)
    court.answer(10)
    court.deliver()
    court.deliver()


def a_host_that_answers_twice(court: Court) -> None:
    court.command(10)
    court.answer(10)
    court.answer(10)


def a_host_that_answers_what_it_was_asked_to_end(court: Court) -> None:
    court.say("host 0", "down", Kind.CALL, 77, code=HostCall.END, engine=0)
    court.answer(77)


def a_death_that_was_not(court: Court) -> None:
    court.command(10)
    court.death(10, running=True, really=False)


def a_try_that_was_not(court: Court) -> None:
    court.command(10)
    court.death(10, running=False)
    court.command(11)
    court.answer(11)
    court.deliver(tried=1)


def given_up_too_early(court: Court) -> None:
    court.command(10)
    court.death(10, running=True)
    header = json.dumps(to_plain(TaskPoisoned("poison", deaths=[]))).encode()
    court.say("client", "down", Kind.RESULT, 1, flags=LAST, code=Status.FAULT, header=header)


def no_frames(court: Court) -> None:
    court._ears["host 0"]("up", memoryview(b"\xff" * 100))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (two_at_once, "while another one has it"),
        (again_after_its_end, "after it had been done"),
        (after_the_client_was_answered, "after its client had been answered"),
        (an_answer_of_nobodys, "no engine gave for it"),
        (an_answer_twice, "answered again, or never made"),
        (a_host_that_answers_twice, "did not have"),
        (a_host_that_answers_what_it_was_asked_to_end, "did not have"),
        (a_death_that_was_not, "and did not"),
        (a_try_that_was_not, "said to have been tried 1 times"),
        (given_up_too_early, "given up after 1 deaths"),
        (no_frames, "breaks the rules of the wire"),
    ],
)
def test_what_goes_wrong(court: Court, wrong: Any, words: str) -> None:
    court.submit()
    wrong(court)
    assert len(court.accusations) == 1
    assert words in court.accusations[0]


def test_what_may_run_once(court: Court) -> None:
    court.submit(at_most_once=True)
    court.command(10)
    court.death(10, running=False)
    court.command(11)
    assert court.accusations == []
    court.open["host 0"] = False
    court.command(12, host=1)
    assert court.accusations == ["client's 1 was sent to engine 1 again, and may run once at most"]


def test_of_tasks_that_are_packed_alike_nobody_can_tell(court: Court) -> None:
    court.submit(1)
    court.submit(2)
    court.command(10)
    court.command(11, host=1)
    court.answer(10)
    court.answer(11, host=1)
    court.deliver(1)
    court.deliver(2)
    assert court.accusations == []


def test_an_answer_that_is_made_to_come_twice(court: Court) -> None:
    court.submit()
    court.command(10)
    court.answer(10)
    data = court.witness.echo("host 0")
    assert data is not None
    court._ears["host 0"]("up", memoryview(data))
    assert court.accusations == []
    assert court.witness.echo("host 1") is None
