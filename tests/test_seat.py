"""One engine's place, with kernels that are models: every order of events, and no process."""

from __future__ import annotations

from clock import Clock
from seats import ModelHost, ModelKernel, played

from aioparallel.wire import KernelCall, Kind


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

    played(story)


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

    played(story)


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

    played(story)


def ended(host: ModelHost, kernel: ModelKernel, number: int, *, until: str) -> None:
    """End a command that runs, and have its kernel resist until that step."""
    clock = host.seat.inflight._ladder._loop = Clock()  # type: ignore[assignment]
    kernel.runs = number
    host.seat.inflight.end(number)
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

    played(story)


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

    played(story)


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

    played(story)


def test_stop_when_it_works_and_when_there_is_no_kernel() -> None:
    def story(host: ModelHost) -> None:
        kernel = host.working()
        host.take()
        host.seat.stop(host.answer)
        assert host.take() == []
        host.command(1)
        assert [frame.kind for frame in kernel.sent] == [Kind.CALL]
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

    played(story)


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

    played(story)
