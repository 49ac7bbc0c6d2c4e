"""Between others, reserved, held: who passes, in which order, and that nothing is lost, doubled or miscounted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioparallel.queues import Command, FifoQueue, PriorityQueue
from aioparallel.turnstile import Turnstile


class Client:
    """One of an interface, that reads what it gets or does not."""

    def __init__(self, hosting: str, *, congested: bool = False) -> None:
        self.hosting = hosting
        self.congested = congested
        self.connection = self


ANN, BOB = Client("ann"), Client("bob")


class Between(Command):
    """One that goes before what waits."""

    between = True


def command(name: str, client: Any = ANN, *, between: bool = False, priority: int = 0) -> Command:
    kind = Between if between else Command
    return kind(name, client, lambda *_: None, label=name.encode(), priority=priority)


def names(commands: list[Command]) -> list[Any]:
    return [command.payload for command in commands]


def passing(turnstile: Turnstile) -> list[Any]:
    return [turnstile.pop().payload for _ in range(len(turnstile))]


def test_between_comes_before_what_waits_in_its_own_order() -> None:
    turnstile = Turnstile(FifoQueue())
    for each in (command("a"), command("b"), command("c", between=True), command("d", BOB, between=True)):
        turnstile.put(each)
    assert (len(turnstile), turnstile.total) == (4, 4)
    assert passing(turnstile) == ["c", "d", "a", "b"]
    with pytest.raises(IndexError):
        turnstile.pop()


def test_a_reservation_sets_the_others_aside() -> None:
    turnstile = Turnstile(FifoQueue())
    for each in (command("a"), command("b", BOB), command("c"), command("d", None)):
        turnstile.put(each)
    turnstile.reserve("bob")
    assert (len(turnstile), turnstile.total) == (1, 4)
    for each in (command("e"), command("f", BOB), command("g", between=True), command("h", BOB, between=True)):
        turnstile.put(each)
    assert passing(turnstile) == ["h", "b", "f"]
    assert (len(turnstile), turnstile.total) == (0, 5)
    with pytest.raises(IndexError):
        turnstile.pop()
    turnstile.put(command("i", BOB))
    turnstile.release()
    assert passing(turnstile) == ["g", "a", "c", "d", "e", "i"]


def test_priorities_hold_behind_it() -> None:
    turnstile = Turnstile(PriorityQueue())
    turnstile.reserve("bob")
    for each in (command("a", priority=1), command("b", priority=2), command("c", BOB)):
        turnstile.put(each)
    assert passing(turnstile) == ["c"]
    turnstile.release()
    assert passing(turnstile) == ["b", "a"]


def test_all_is_cleared_and_what_is_cancelled_never_passes() -> None:
    turnstile = Turnstile(FifoQueue())
    waiting = [command(name, client, between=between) for name, client, between in (
        ("a", ANN, False), ("b", BOB, False), ("c", ANN, True), ("d", BOB, True), ("e", ANN, False), ("f", BOB, False),
    )]  # fmt: skip
    for each in waiting:
        turnstile.put(each)
    turnstile.reserve("bob")
    for each in (waiting[0], waiting[2], waiting[5]):
        turnstile.cancel(each)
        turnstile.cancel(each)
        assert each.cancelled
        assert not each.waiting
    assert (len(turnstile), turnstile.total) == (2, 3)
    assert names(turnstile.clear()) == ["d", "b", "e"]
    assert (len(turnstile), turnstile.total) == (0, 0)
    turnstile.put(waiting[0])
    assert turnstile.total == 0


def test_what_is_held_lets_the_others_pass_and_comes_back_behind_them() -> None:
    turnstile, slow, slower = Turnstile(FifoQueue()), Client("ann", congested=True), Client("bob", congested=True)
    waiting = [command(name, client, between=name == "d") for name, client in (
        ("a", slow), ("b", ANN), ("c", slow), ("d", slow), ("e", slower), ("f", BOB), ("g", slower),
    )]  # fmt: skip
    for each in waiting:
        turnstile.put(each)
    turnstile.hold(turnstile.pop())
    assert (len(turnstile), turnstile.total) == (4, 7)
    turnstile.reserve("bob")
    turnstile.hold(turnstile.pop())
    assert (len(turnstile), turnstile.total) == (1, 7)
    turnstile.put(command("h", slow, between=True))
    turnstile.release()
    turnstile.readmit()
    assert list(turnstile.held) == [slow, slower]
    assert passing(turnstile) == ["b", "f"]
    turnstile.put(waiting[1])
    slow.congested = False
    turnstile.readmit()
    assert list(turnstile.held) == [slower]
    assert (len(turnstile), turnstile.total) == (5, 7)
    assert passing(turnstile) == ["d", "h", "b", "a", "c"]
    assert names(turnstile.clear()) == ["e", "g"]
    assert (turnstile.held, turnstile.total) == ({}, 0)


def test_a_client_of_whom_nothing_is_held_any_more_is_forgotten() -> None:
    turnstile, slow = Turnstile(FifoQueue()), Client("ann", congested=True)
    for each in (waiting := [command(name, slow) for name in "ab"]):
        turnstile.put(each)
    turnstile.hold(turnstile.pop())
    for left, each in zip([[slow], []], waiting, strict=True):
        turnstile.cancel(each)
        assert each.cancelled
        assert not each.waiting
        assert list(turnstile.held) == left
    assert turnstile.total == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from([ANN, BOB, None]), st.booleans(), st.integers(0, 2)),
        st.tuples(st.sampled_from(["pop", "reserve", "release", "clear"])),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from([FifoQueue, PriorityQueue]))
def test_nothing_is_lost_or_doubled(steps: list[Any], kind: Any) -> None:
    turnstile, made, out = Turnstile(kind()), [], []
    for step in steps:
        if step[0] == "put":
            made.append(command(f"{len(made)}", step[1], between=step[2], priority=step[3]))
            turnstile.put(made[-1])
        elif step[0] == "pop" and len(turnstile):
            popped = turnstile.pop()
            assert turnstile.lets(popped)
            out.append(popped)
        elif step[0] == "reserve" and turnstile.holder is None:
            turnstile.reserve("bob")
        elif step[0] == "release" and turnstile.holder is not None:
            turnstile.release()
        elif step[0] == "clear":
            for each in turnstile.clear():
                turnstile.put(each)
        elif step[0] == "cancel" and step[1] < len(made) and made[step[1]].waiting:
            turnstile.cancel(made[step[1]])
        left = [each for each in made if each.waiting]
        assert turnstile.total == len(left)
        assert len(turnstile) == sum(turnstile.lets(each) for each in left)
    if turnstile.holder is not None:
        turnstile.release()
    rest = [turnstile.pop() for _ in range(len(turnstile))]
    kept = [each for each in made if not each.cancelled]
    assert sorted(out + rest, key=id) == sorted(kept, key=id)


@pytest.mark.parametrize("kind", [FifoQueue, PriorityQueue])
def test_what_is_taken_out_to_be_looked_at_goes_back_to_its_place(kind: Any) -> None:
    orders = []
    for looks in (0, 1):
        turnstile = Turnstile(kind())
        turnstile.reserve("bob")
        for number, client in enumerate([ANN, BOB, None, ANN, BOB, ANN]):
            turnstile.put(command(f"{number}", client, between=number in (3, 4), priority=number % 2))
        for _ in range(looks):
            turnstile.put_back(reversed(turnstile.clear()))
            assert (len(turnstile), turnstile.total) == (2, 6)
        order = [turnstile.pop().payload]
        turnstile.release()
        for _ in range(looks):
            turnstile.put_back(turnstile.clear())
        orders.append(order + passing(turnstile))
    assert orders[0] == orders[1]
    assert orders[0][:2] == ["4", "3"]
    assert orders[0][2:] == (["0", "1", "2", "5"] if kind is FifoQueue else ["1", "5", "0", "2"])
