"""Tasks on their way, as the controller sees them: parents, tries, deaths, refusals, ends."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from typing import Any

import pytest
from model import ModelHost, settle
from rawtasks import argument, check, of, raw_tasks, run, value_in

from aioparallel import placing
from aioparallel.errors import (
    DependencyError,
    EngineLost,
    OperationError,
    ParentsDelivered,
    TaskAborted,
    TaskPoisoned,
    TaskRejectError,
    TaskTimeout,
)
from aioparallel.serialize import pack
from aioparallel.testing.clock import VirtualLoop
from aioparallel.wire import Kind, encode


def double(x: Any) -> Any:
    return 2 * x


def fail(text: str = "no") -> None:
    raise ValueError(text)


def add(*values: Any) -> Any:
    return sum(values)


def reject() -> None:
    raise TaskRejectError("not here")


async def warm_up(raw: Any, host: ModelHost, **terms: Any) -> None:
    """Show the scheduler that such tasks are short, so that it lets several wait at an engine."""
    host.seconds = 0.0001
    warm = raw.submit(double, 0, **terms)
    await settle()
    host.step()
    await warm


@pytest.mark.parametrize("follow", [False, True], ids=["after", "follow"])
@pytest.mark.parametrize("every", [True, False], ids=["all", "any"])
@pytest.mark.parametrize("kind", ["success", "failure", "both"])
def test_after_and_follow(follow: bool, every: bool, kind: str):
    accepted = {"all": every, "success": kind != "failure", "failure": kind != "success"}
    name = "follow" if follow else "after"

    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        for good in ((True, True), (True, False), (False, True), (False, False)):
            parents = [raw.submit(double if ok else fail, 3, engines=[1]) for ok in good]
            child = raw.submit(double, 5, **{name: of(*parents, **accepted)})
            await settle()
            # Nothing of the child has been sent before what it waits for.
            expected = [ok if kind == "success" else not ok if kind == "failure" else True for ok in good]
            enough = all(expected) if every else any(expected)
            steps = 0
            while host.waiting:
                assert all(frame.engine == 1 for frame in host.waiting) or not follow
                host.step()
                steps += 1
                await settle()
                check(tasks)
            answer = await child
            assert steps == 2 + enough
            if enough:
                assert answer == [10]
                assert child.engine == 1 or not follow
            elif kind == "success":
                assert type(answer[0]) is DependencyError
                assert [type(a) for a in answer] == [DependencyError, ValueError]
            else:
                assert [type(a) for a in answer] == [DependencyError]
                assert "was to fail before, and has succeeded" in str(answer[0])
            await asyncio.gather(*parents)

    run(story, 3, eager=False)


def test_values_go_from_task_to_task():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        first, second = raw.submit(double, 3), raw.submit(double, "ab")
        child = raw.submit(lambda *v: list(v), argument(1), argument(0), argument(1), arguments=of(first, second)["of"])
        grandchild = raw.submit(lambda v: v[0] + "!", argument(0), arguments=of(child)["of"])
        host.eager = True
        while host.waiting:
            host.step()
        await settle()
        assert await child == [["abab", 6, "abab"]]
        assert await grandchild == ["abab!"]
        await first
        await second

    run(story, 2, eager=False)


def test_a_failed_parent_is_the_cause_all_the_way_down():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        first = raw.submit(fail, "root")
        chain = [first]
        for _ in range(3):
            chain.append(raw.submit(double, argument(0), arguments=of(chain[-1])["of"]))
        await settle()
        host.step()
        for number, call in enumerate(chain[1:]):
            dependency, cause = await call
            assert f"task {number} (" in str(dependency)
            assert isinstance(dependency, DependencyError)
            assert isinstance(cause, ValueError)
        await first
        assert tasks.ledger.failed == 4
        assert [failure.id for failure in tasks.failures] == [0, 1, 2, 3]

    run(story, 2, eager=False)


def test_a_child_of_a_call_that_was_answered_is_told_so():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        first, other = raw.submit(double, 3), raw.submit(double, 3)
        await first
        await other
        for terms in ({"after": of(first, other)}, {"arguments": of(first, other)["of"]}):
            error = await raw.submit(double, argument(0), **terms).last()
            assert type(error) is ParentsDelivered
            assert error.calls == (first.number, other.number)
        assert tasks.total == 2

    run(story)


class Heard:
    """What settles a call, if an asyncio future (in debug mode) is too much."""

    answers: Any = None
    value: Any = None

    def set_result(self, value: Any) -> None:
        self.value = value


def quietly(raw: Any, parents: list[int], *call: Any, way: str = "after") -> tuple[int, Heard]:
    """Submit a task that comes after others, or is given their values; return its number, and what will be heard."""
    named = [{"call": number} for number in parents]
    header = json.dumps({way: {"of": named} if way == "after" else named}).encode()
    heard = Heard()
    answers = lambda frames: [value_in(frame) for frame in frames]  # noqa: E731
    buffers = pack(("apply", *call, {}))
    return raw.channel.call("submit_with", heard, answers, header=header, buffers=buffers), heard


def test_a_diamond_of_ten_thousand():
    many = 10_000

    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        number, top = quietly(raw, [], double, (1,))
        middle = [quietly(raw, [number], add, (argument(0), i), way="arguments") for i in range(many)]
        places = tuple(argument(i) for i in range(many))
        _, bottom = quietly(raw, [number for number, _ in middle], add, places, way="arguments")
        await settle()
        assert tasks.scheduled == many + 1
        host.eager = True
        host.step()
        async with asyncio.timeout(30):
            while bottom.value is None:
                await settle()
        assert [heard.value for _, heard in middle] == [[2 + i] for i in range(many)]
        assert (top.value, bottom.value) == ([2], [2 * many + sum(range(many))])
        check(tasks)

    run(story, 3, eager=False)


def test_a_failed_diamond_of_ten_thousand_and_a_long_chain():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        def submit(parents: list[int]) -> tuple[int, Heard]:
            return quietly(raw, parents, abs, (-1,))

        number, top = submit([])
        middle = [submit([number]) for _ in range(10_000)]
        _, bottom = submit([number for number, _ in middle])
        chain = [(number, top)]
        for _ in range(1000):
            chain.append(submit([chain[-1][0]]))
        await settle()
        assert tasks.scheduled == 11_001
        raw.channel._departures.post(encode(Kind.CANCEL, number))
        async with asyncio.timeout(30):
            while bottom.value is None or chain[-1][1].value is None:
                await settle()
        values = [heard.value for _, heard in (*middle, *chain[1:])] + [bottom.value]
        assert {tuple(map(type, value)) for value in values} == {(DependencyError, TaskAborted)}

    run(story, 1, eager=False)


@pytest.mark.parametrize("seed", range(3))
def test_no_child_of_a_random_graph_of_three_hundred_starts_before_its_parents_are_done(seed: int):
    source = random.Random(seed)

    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        host.seconds = 0.0005
        calls: list[Any] = []
        parents: list[list[int]] = []
        for number in range(300):
            chosen = sorted(source.sample(range(number), min(number, source.randrange(5))))
            parents.append(chosen)
            kind = {"arguments": of(*(calls[p] for p in chosen))["of"]} if number % 2 else {}
            kind |= {} if number % 2 else {"after": of(*(calls[p] for p in chosen))}
            values = [argument(place) for place in range(len(chosen))] if number % 2 else []
            calls.append(raw.submit(add, number, *values, label=str(number), **kind))
        done: set[int] = set()
        for number, call in enumerate(calls):
            call.add_done_callback(lambda _, number=number: done.add(number))
        await settle()
        while host.waiting:
            labels = [int(c.label) for engine in raw.controller.engines.values() for c in engine._under_way.values()]
            for number in labels:
                assert done.issuperset(parents[number])
            for _ in range(source.randrange(1, 4)):
                if host.waiting:
                    host.step(source.randrange(len(host.waiting)))
            await settle()
            check(tasks)
        values = []
        for number, call in enumerate(calls):
            values.append(number + (sum(values[p] for p in parents[number]) if number % 2 else 0))
            assert await call == [values[number]]

    run(story, 3, eager=False)


def test_the_memory_of_many_tasks_is_let_go_of(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placing, "MANY", 100)

    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        host.seconds = 1e-6
        (proxy,) = tasks.clients
        calls = proxy.calls
        many = [raw.submit(abs, -1, operation="submit") for _ in range(110)]
        await settle()
        assert len(proxy.calls) == 110
        host.eager = True
        while host.waiting:
            host.step()
        await asyncio.gather(*many)
        await raw.submit(abs, -1)
        assert proxy.calls is not calls

    run(story, 1, eager=False)


def test_a_parent_that_is_cancelled_fails_its_children():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        running, waiting = raw.submit(double, 1), raw.submit(double, 2)
        child = raw.submit(double, 3, after=of(waiting))
        other = raw.submit(double, 3, after=of(waiting, success=False, failure=True))
        await settle()
        raw.cancel(waiting)
        (aborted,) = await waiting
        assert (aborted.step, aborted.seconds) == ("waiting", 0.0)
        dependency, cause = await child
        assert isinstance(dependency, DependencyError)
        assert isinstance(cause, TaskAborted)
        host.step()
        await settle()
        host.step()
        assert await other == [6]
        await running

    run(story, 1, eager=False)


def test_retries_prefer_another_engine_and_end_with_the_error():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        call = raw.submit(fail, retries=4)
        engines = []
        while not call.done():
            await settle()
            engines += [frame.engine for frame in host.waiting]
            if host.waiting:
                host.step()
        (error,) = await call
        assert isinstance(error, ValueError)
        assert len(engines) == 5
        assert all(a != b for a, b in itertools.pairwise(engines))
        assert call.tried == 4

    run(story, 3, eager=False)


def test_more_retries_than_engines_do_not_wait_for_ever():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        call = raw.submit(fail, retries=300)
        assert isinstance(await call.last(), ValueError)
        assert call.tried == 255

    run(story, 1)


def test_a_recovery_task_runs_when_retries_are_spent():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        call = raw.submit(fail, retries=2, recovery=(double, (21,)))
        assert await call == [42]
        assert call.tried == 3
        assert tasks.total == 1
        bad = raw.submit(fail, "first", recovery=(fail, ("second",), {"retries": 1}))
        assert str(await bad.last()) == "second"
        assert bad.tried == 2

    run(story)


def test_poison_is_found_on_two_engines():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        call = raw.submit(double, 1)
        engines = []
        for _ in range(3):
            await settle()
            (frame,) = host.waiting
            engines.append(frame.engine)
            host.fall(frame.engine)
            await settle()
            host.rise(frame.engine)
        (poisoned,) = await call
        assert type(poisoned) is TaskPoisoned
        assert [death.engine for death in poisoned.deaths] == engines
        assert len(set(engines)) == 2
        assert poisoned.deaths[0].reason == "killed by SIGKILL"

    run(story, 2, eager=False)


def test_only_the_running_task_of_a_dead_kernel_gets_a_strike():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        await warm_up(raw, host)
        poison = raw.submit(double, 1)
        innocent = [raw.submit(double, 2) for _ in range(5)]
        await settle()
        for _ in range(3):
            assert len(host.waiting) == 6
            # Whoever is first in line is struck; put the poison there each time.
            host.waiting.sort(key=lambda frame: b"\x01\x85" not in bytes(frame.buffers[0]))
            host.fall(0)
            await settle()
            host.rise(0)
            await settle()
        assert type(await poison.last()) is TaskPoisoned
        while host.waiting:
            host.step()
        assert await asyncio.gather(*innocent) == [[4]] * 5
        assert [call.tried for call in innocent] == [0] * 5

    run(story, 1, eager=False)


def test_at_most_once():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        await warm_up(raw, host, label="x")
        once = [raw.submit(double, i, label="x", at_most_once=True) for i in range(2)]
        await settle()
        assert len(host.waiting) == 2
        host.fall(0)
        await settle()
        lost = await once[0].last()
        assert type(lost) is EngineLost
        assert (lost.engine_id, lost.reason, lost.running) == (0, "killed by SIGKILL", True)
        host.rise(0)
        await settle()
        host.step()
        assert await once[1] == [2]
        failing = raw.submit(fail, at_most_once=True)
        await settle()
        host.step()
        assert isinstance(await failing.last(), ValueError)

    run(story, 1, eager=False)


def test_a_lost_host_strikes_one_and_fails_what_may_have_begun_at_most_once():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        await warm_up(raw, host, label="x")
        first, second = raw.submit(double, 1, label="x"), raw.submit(double, 2, label="x")
        once = raw.submit(double, 3, label="x", at_most_once=True)
        await settle()
        assert len(host.waiting) == 3
        host.connection.abort()
        assert type(await once.last()) is EngineLost
        await settle()
        assert tasks.scheduled == 2
        other = await ModelHost().dial(raw.controller, 1)
        assert await asyncio.gather(first, second) == [[2], [4]]
        assert (first.tried, second.tried) == (1, 0)
        other.connection.abort()
        await other.lost

    async def main() -> None:
        async with raw_tasks(1, eager=False) as (raw, host, tasks):
            await story(raw, host, tasks)

    asyncio.run(main())


def test_a_refusal_moves_a_task_and_is_no_failure():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        call = raw.submit(reject)
        engines = []
        for _ in range(3):
            await settle()
            (frame,) = host.waiting
            engines.append(frame.engine)
            host.step()
        await settle()
        assert sorted(engines) == [0, 1, 2]
        assert host.waiting == []
        assert "engines 0, 1 and 2 rejected it, and there is no other" in await raw.ask("why", call=call.number)
        # What an engine is like has changed: it is asked again, and no other.
        raw.controller.engines[1].properties = {"gpu": True}
        await settle()
        (frame,) = host.waiting
        assert frame.engine == 1
        host.step()
        await settle()
        raw.cancel(call)
        assert type(await call.last()) is TaskAborted

    run(story, 3, eager=False)


def test_what_is_refused_everywhere_fails_in_time():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        busy = raw.submit(double, 1, engines=[1])
        await settle()
        call = raw.submit(reject, depend_timeout=0.02)
        await settle()
        host.step(1)
        dependency, cause = await call
        assert type(dependency) is DependencyError
        assert "engine 0 refused it; engine 1 had no room for it in that time" in str(dependency)
        assert type(cause) is TaskRejectError
        assert call.tried == 0
        # No time at all: the first refusal is the last.
        at_once = raw.submit(reject, depend_timeout=0)
        await settle()
        host.step(1)
        assert type((await at_once)[0]) is DependencyError
        host.step()
        await busy

    run(story, 2, eager=False)


def test_properties_go_along_if_a_task_asks_for_them():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        raw.controller.engines[0].properties = {"a": [1]}
        call = raw.submit(double, 4, properties=True)
        await settle()
        (frame,) = host.waiting
        assert frame.json() == {"parts": [], "properties": {"a": [1]}}
        host.step()
        assert await call == [8]

    run(story, 1, eager=False)


def test_a_limit_goes_along_and_a_timeout_is_a_failure():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        call = raw.submit(double, 4, timeout=0.5, retries=1)
        for _ in range(2):
            await settle()
            (frame,) = host.waiting
            assert host.limits[frame.id] == 0.5
            host.time_out()
        error = await call.last()
        assert type(error) is TaskTimeout
        assert (error.step, error.seconds) == ("terminate", 2.5)
        assert call.tried == 1

    run(story, 1, eager=False)


def test_cancel_tells_how_the_work_ended():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        running, waiting = raw.submit(double, 1), raw.submit(double, 2)
        await settle()
        for call in (waiting, running, running):
            raw.cancel(call)
        assert (await waiting.last()).step == "waiting"
        ended = await running.last()
        assert (ended.step, ended.seconds) == ("interrupt", 0.25)
        assert len(host.ended) == 1

    run(story, 1, eager=False)


def test_a_result_that_races_with_a_cancel_is_told():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        host.stubborn = True
        call = raw.submit(double, 1)
        await settle()
        raw.cancel(call)
        await settle()
        check(tasks)
        assert await raw.ask("queue_status") == {"scheduled": 0, "pending": 1, "succeeded": 0, "failed": 0}
        host.step()
        assert await call == [2]
        # One that fails just then is not tried again; one whose kernel dies has ended.
        failing, dying = raw.submit(fail, retries=3, engines=[0]), raw.submit(double, 2, engines=[1])
        await settle()
        raw.cancel(failing)
        raw.cancel(dying)
        await settle()
        host.step()
        host.fall(1)
        assert isinstance(await failing.last(), ValueError)
        aborted = await dying.last()
        assert type(aborted) is TaskAborted
        assert aborted.step == "kill"
        host.rise(1)

    run(story, 2, eager=False)


def test_abort_answers_when_the_work_has_ended():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        host.stubborn = True
        running, waiting, number = raw.submit(double, 1), raw.submit(double, 2), await raw.run(double, 3)
        assert await raw.ask("abort", call=waiting.number) == {"step": "waiting", "seconds": 0.0}
        assert type(await waiting.last()) is TaskAborted
        assert await raw.ask("abort", task=number) == {"step": "waiting", "seconds": 0.0}
        asked = asyncio.ensure_future(raw.ask("abort", call=running.number))
        await settle()
        assert not asked.done()
        host.stubborn = False
        host.fault(TaskAborted("ended", step="kill", seconds=4.5))
        assert await asked == {"step": "kill", "seconds": 4.5}
        assert type(await running.last()) is TaskAborted
        assert await raw.ask("abort", call=running.number) == {"step": "finished", "seconds": 0.0}
        with pytest.raises(OperationError, match="a task is named as"):
            await raw.ask("abort")

    run(story, 1, eager=False)


def test_a_task_asked_back_runs_on_an_idle_engine():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        await warm_up(raw, host)
        # Engine 1 has no room for these, and is free a moment later.
        blocker = raw.submit(double, 0, engines=[1], label="blocker")
        calls = [raw.submit(double, i) for i in range(4)]
        await settle()
        assert [frame.engine for frame in host.waiting] == [1, 0, 0, 0, 0]
        host.step()
        await blocker
        async with asyncio.timeout(10):
            while not host.recalled:
                await asyncio.sleep(0.001)
        await settle()
        assert {frame.engine for frame in host.waiting} == {0, 1}
        host.eager = True
        while host.waiting:
            host.step()
        assert await asyncio.gather(*calls) == [[0], [2], [4], [6]]
        assert [call.tried for call in calls] == [0] * 4

    run(story, 2, eager=False, loop=VirtualLoop)


def test_followers_of_an_engine_that_is_gone_fail():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        parent, busy = raw.submit(double, 1, engines=[0]), raw.submit(double, 2, engines=[0])
        follower = raw.submit(double, 3, follow=of(parent))
        await settle()
        host.step()
        await parent
        await settle()
        assert follower.done() is False
        host.tell("engine_left", 0)
        error = await follower.last()
        assert type(error) is DependencyError
        assert "engine 0, where the tasks ran that it follows, is gone" in str(error)
        raw.cancel(busy)
        await busy

    run(story, 2, eager=False)


def test_following_parents_on_several_engines_is_impossible():
    async def story(raw: Any, host: ModelHost, tasks: Any) -> None:
        parents = [raw.submit(double, i, engines=[i]) for i in range(2)]
        call = raw.submit(double, 3, follow=of(*parents))
        await settle()
        while host.waiting:
            host.step()
        error = await call.last()
        assert "ran on several engines: 0, 1" in str(error)
        await asyncio.gather(*parents)

    run(story, 2, eager=False)


def test_a_client_that_leaves_takes_its_tasks_along_but_for_those_of_nobody():
    async def main() -> None:
        from model import model_cluster
        from rawtasks import Raw

        import aioparallel

        async with model_cluster(1, eager=False) as (controller, host):
            tasks = controller.interfaces["task"]._tasks  # type: ignore[attr-defined]
            async with aioparallel.TaskClient(controller.capability("task")) as tc:
                raw = Raw(tc)
                calls = [raw.submit(double, i) for i in range(3)]
                child = raw.submit(double, 1, after=of(calls[2]))
                number = await raw.run(double, 21)
            for call in (*calls, child):
                with pytest.raises(aioparallel.ConnectionLost):
                    await call
            await settle()
            assert (tasks.scheduled, tasks.pending, tasks.ledger.failed) == (0, 1, 4)
            check(tasks)
            host.eager = True
            while host.waiting:
                host.step()
            async with aioparallel.TaskClient(controller.capability("task")) as tc:
                about, value = await Raw(tc).result(number, block=True)
                assert (about["task"], value) == (number, 42)

    asyncio.run(main())
