"""Engines as interfaces use them: calls of plain values, and who goes before whom, on model engines."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from model import ModelHost, model_cluster, settle

import aioparallel
from aioparallel.controller import Controller
from aioparallel.errors import (
    EngineDied,
    EngineLost,
    MessageTooLarge,
    OperationError,
    Preempted,
    QueueCleared,
    RemoteError,
)
from aioparallel.interface import Interface
from aioparallel.limits import Limits

HERE = __name__
RAN: list[str] = []


def double(x: Any, *, times: int = 1) -> Any:
    for _ in range(times):
        x = x + x
    return x


def note(name: str) -> None:
    RAN.append(name)


def fail(text: str) -> None:
    raise LookupError(text)


def leave() -> None:
    sys.exit(3)


def odd() -> set[int]:
    return {1}


class Nested:
    """Something with a method."""

    @staticmethod
    def one() -> int:
        return 1


class User(Interface):
    """Uses engines."""

    name = "user"

    async def start(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def engine_joined(self, engine: Any) -> None:
        self.seen.append(("joined", engine.id))

    def engine_left(self, engine: Any) -> None:
        self.seen.append(("left", engine.id))

    def engine_reserved(self, engine: Any) -> None:
        self.seen.append(("reserved", engine.id))

    def engine_released(self, engine: Any) -> None:
        self.seen.append(("released", engine.id))


class Rude(User):
    """May interrupt others."""

    name = "rude"
    may_preempt = True


@asynccontextmanager
async def using(n: int = 1, *, eager: bool = True, **options: Any) -> AsyncIterator[tuple[Controller, ModelHost, Any]]:
    RAN.clear()
    async with model_cluster(n, eager=eager, **options) as (controller, host):
        yield controller, host, (await controller.add(User)).host.engines


def test_calls_give_plain_values() -> None:
    async def main() -> None:
        async with using(2) as (_, _, engines):
            assert list(engines) == [0, 1]
            assert len(engines) == 2
            assert await engines[0].call(f"{HERE}:double", 4) == 8
            assert await engines[1].call(f"{HERE}:double", [1], times=2) == [1, 1, 1, 1]
            assert await engines[1].call(f"{HERE}:Nested.one") == 1
            assert await engines[0].call("builtins:dict", a={"b": [None, 1.5, True]}) == {"a": {"b": [None, 1.5, True]}}
            calls = [engine.call("builtins:str", i) for i, engine in enumerate(engines.values())]
            assert await asyncio.gather(*calls) == ["0", "1"]
            assert (engines[0].id, engines[0].host, engines[0].pid, engines[0].state) == (0, "model", 1000, "idle")
            assert (engines[0].queued, engines[0].reserved, engines[0].properties) == (0, "", {})
            assert engines[0] is engines[0]
            assert engines[0]._calls == {}
            with pytest.raises(KeyError):
                engines[7]

    asyncio.run(main())


def test_what_is_raised_arrives_in_words() -> None:
    async def main() -> None:
        async with using() as (_, _, engines):
            engine = engines[0]
            with pytest.raises(RemoteError) as caught:
                await engine.call(f"{HERE}:fail", "not here")
            error = caught.value
            assert (error.type_name, error.text, error.engine_id) == ("LookupError", "not here", 0)
            assert "raise LookupError(text)" in error.traceback_text
            with pytest.raises(RemoteError, match="SystemExit: 3"):
                await engine.call(f"{HERE}:leave")
            with pytest.raises(
                RemoteError, match=rf"TypeError: what {HERE}:odd returned is the set .1.; expected a plain"
            ):
                await engine.call(f"{HERE}:odd")
            with pytest.raises(RemoteError, match="ModuleNotFoundError: No module named 'nowhere'"):
                await engine.call("nowhere:f")
            with pytest.raises(RemoteError, match=r"AttributeError: module '.*' has no attribute 'missing'"):
                await engine.call(f"{HERE}:missing")
            with pytest.raises(RemoteError, match=r"TypeError: .*argument"):
                await engine.call(f"{HERE}:double")

    asyncio.run(main())


def test_what_cannot_be_called_is_refused_at_once() -> None:
    async def main() -> None:
        async with using(limits=Limits(message=100_000)) as (_, _, engines):
            call = engines[0].call
            for wrong in ("double", ":f", "a b:c", "a:b()", 3):
                with pytest.raises(OperationError, match='names a function by its import path, "module:function"'):
                    call(wrong)
            with pytest.raises(TypeError, match=r"builtins:len: args\[0\] is the bytes b''; expected a plain value"):
                call("builtins:len", b"")
            with pytest.raises(TypeError, match=r"builtins:len: kwargs\['x'\]\[0\] is the object"):
                call("builtins:len", x=[object()])
            with pytest.raises(
                MessageTooLarge, match=r"builtins:len: arguments of 100,0.* bytes; the limit is 100,000"
            ):
                call("builtins:len", "a" * 100_000)
            with pytest.raises(
                OperationError, match="the interface 'user' may not pre-empt: its class has to say may_"
            ):
                call("builtins:len", "a", preempt="interrupt")
            with pytest.raises(OperationError, match="preempt is \"interrupt\" or None, not 'kill'"):
                call("builtins:len", "a", preempt="kill")
            assert engines[0].queued == 0

    asyncio.run(main())


def test_calls_wait_their_turn_and_are_withdrawn() -> None:
    async def main() -> None:
        async with using(eager=False) as (controller, host, engines):
            first, second, third = (engines[0].call(f"{HERE}:note", name) for name in "abc")
            await settle()
            assert len(host.waiting) == 1
            assert engines[0].queued == 2
            assert engines[0].status()["doing"] == f"{HERE}:note"
            second.cancel()
            assert engines[0].queued == 1
            host.step(stdout=b"said", stderr=b"warned")
            await settle()
            assert (await first, first.stdout, first.stderr) == (None, "said", "warned")
            third.cancel()
            await settle()
            assert len(host.cancelled) == 1
            assert engines[0]._calls == {}
            left = engines[0].call(f"{HERE}:note", "d")
            await controller.remove("user")
            assert left.cancelled()
            await settle()
            assert (RAN, host.waiting, len(host.cancelled)) == (["a"], [], 2)

    asyncio.run(main())


def test_a_call_shares_the_engine_with_both_built_ins() -> None:
    async def main() -> None:
        async with (
            using(eager=False) as (controller, host, engines),
            aioparallel.MultiEngineClient(controller.capability("multiengine")) as mec,
            aioparallel.TaskClient(controller.capability("task")) as tc,
        ):
            results = [mec.apply(note, "mec"), tc.submit(note, "task")]
            await settle()
            results += [engines[0].call(f"{HERE}:note", "call"), engines[0].call(f"{HERE}:note", "btw", between=True)]
            later = mec.apply(note, "later")
            host.eager = True
            host.step()
            await asyncio.gather(*results, later)
            assert RAN == ["mec", "btw", "task", "call", "later"]

    asyncio.run(main())


def test_a_reserved_engine_is_given_to_nobody_else() -> None:
    async def main() -> None:
        async with (
            using(2, eager=False) as (controller, host, engines),
            aioparallel.MultiEngineClient(controller.capability("multiengine")) as mec,
        ):
            user = controller.interfaces["user"]
            running = mec.apply(note, "before", targets=0)
            waiting = mec.apply(note, "waiting", targets=0)
            await settle()
            async with engines[0].reserve("tuning"):
                assert engines[0].reserved == "user: tuning"
                assert controller.status()["engines"][0]["reserved"] == "user: tuning"
                mine = engines[0].call(f"{HERE}:note", "mine")
                other = mec.apply(note, "other", targets=0)
                elsewhere = mec.apply(note, "elsewhere", targets=1)
                await settle()
                host.eager = True
                host.step()
                host.step()
                await asyncio.gather(running, mine, elsewhere)
                await settle()
                assert sorted(RAN[:3]) == ["before", "elsewhere", "mine"]
                assert engines[0].queued == 2
            await asyncio.gather(waiting, other)
            assert RAN[3:] == ["waiting", "other"]
            assert [step for step in user.seen if step[1] == 0][1:] == [("reserved", 0), ("released", 0)]
            assert (engines[0].reserved, engines[1].reserved) == ("", "")

    asyncio.run(main())


def test_reservations_are_given_in_turn() -> None:
    async def main() -> None:
        async with using() as (controller, _, engines):
            rude = (await controller.add(Rude)).host.engines
            order: list[str] = []

            async def take(engine: Any, name: str) -> None:
                async with engine.reserve(name):
                    order.append(name)
                    await engine.call(f"{HERE}:note", name)
                    await asyncio.sleep(0)
                    order.append(name)

            taking = [
                asyncio.create_task(take(engine, name))
                for engine, name in ((engines[0], "a"), (rude[0], "b"), (engines[0], "c"), (rude[0], "d"))
            ]
            await asyncio.sleep(0)
            taking[2].cancel()
            await asyncio.gather(*taking[:2], taking[3])
            assert order == ["a", "a", "b", "b", "d", "d"]
            assert RAN == ["a", "b", "d"]
            used = engines[0].reserve("once")
            async with used:
                pass
            with pytest.raises(OperationError, match="user: once> has been used; ask for another"):
                await used.__aenter__()

    asyncio.run(main())


def test_reservations_end_with_the_interface_and_the_engine() -> None:
    async def main() -> None:
        async with using(2) as (controller, host, engines):
            rude = await controller.add(Rude)
            other = rude.host.engines
            reserving = other[0].reserve("for ever")
            await reserving.__aenter__()

            async def wait(engine: Any) -> None:
                async with engine.reserve("mine"):
                    pass

            waiting = asyncio.create_task(wait(engines[0]))
            late = asyncio.create_task(wait(other[0]))
            await settle()
            assert not waiting.done()
            await controller.remove("rude")
            await waiting
            with pytest.raises(QueueCleared, match="the interface 'rude' has ended"):
                await late
            assert engines[0].reserved == ""
            held = engines[1].reserve("held")
            await held.__aenter__()
            waiting = asyncio.create_task(wait(engines[1]))
            await settle()
            gone, call = engines[1], engines[1].call(f"{HERE}:note", "x")
            await call
            host.connection.abort()
            with pytest.raises(EngineLost):
                await waiting
            held.release()
            with pytest.raises(EngineLost, match="engine 1 is gone"):
                gone.call(f"{HERE}:note", "y")
            with pytest.raises(EngineLost, match="engine 1 is gone"):
                await gone.reserve("late").__aenter__()
            assert list(engines) == []
            assert controller.interfaces["user"].seen[-2:] == [("left", 0), ("left", 1)]

    asyncio.run(main())


def test_what_may_pre_empt_does_and_others_are_told() -> None:
    async def main() -> None:
        async with (
            using(eager=False) as (controller, host, engines),
            aioparallel.MultiEngineClient(controller.capability("multiengine")) as mec,
        ):
            rude = (await controller.add(Rude)).host.engines
            running = mec.apply(note, "running", targets=0)
            await settle()
            waiting = engines[0].call(f"{HERE}:note", "waiting")
            assert len(host.waiting) == 1
            urgent = rude[0].call(f"{HERE}:note", "urgent", preempt="interrupt")
            host.eager = True
            assert await urgent is None
            with pytest.raises(Preempted, match=f"the interface 'rude' needed the engine for {HERE}:note"):
                await running
            await waiting
            assert RAN == ["urgent", "waiting"]
            # Nothing to pre-empt.
            assert await rude[0].call(f"{HERE}:note", "again", preempt="interrupt") is None
            # Not what somebody has reserved.
            host.eager = False
            async with engines[0].reserve("mine"):
                mine = engines[0].call(f"{HERE}:note", "mine")
                late = rude[0].call(f"{HERE}:note", "late", preempt="interrupt")
                await settle()
                assert len(host.waiting) == 1
                host.step()
                await mine
            await settle()
            host.step()
            await late
            assert RAN[-2:] == ["mine", "late"]

    asyncio.run(main())


def test_a_call_whose_kernel_dies_says_so() -> None:
    async def main() -> None:
        async with using(eager=False) as (_, host, engines):
            call = engines[0].call(f"{HERE}:note", "x")
            await settle()
            host.die(0)
            with pytest.raises(EngineDied, match="killed by SIGKILL"):
                await call

    asyncio.run(main())


def test_packed_commands_are_forwarded() -> None:
    class Forwarder(Interface):
        name = "forwarder"
        raw = False

        @aioparallel.remote(raw=True)
        def submit(self, client: Any, frame: Any) -> None:
            """Forward."""
            engine = self.host.engines[0]
            call = engine.apply(frame, label="forwarded")
            call.add_done_callback(
                lambda _: client.forward(call.result(), frame.id, code=call.result().code, flags=1, engine=engine.id)
            )

    class ForwarderClient(aioparallel.TaskClient):
        interface = "forwarder"

    async def main() -> None:
        async with using() as (controller, _, _):
            await controller.add(Forwarder)
            async with ForwarderClient(controller.capability("forwarder")) as client:
                assert await client.submit(double, 4) == 8
                with pytest.raises(LookupError, match="no"):
                    await client.submit(fail, "no")

    asyncio.run(main())


def test_tasks_go_where_no_engine_is_reserved_and_run_again_when_pre_empted() -> None:
    async def main() -> None:
        async with (
            using(2, eager=False) as (controller, host, engines),
            aioparallel.TaskClient(controller.capability("task")) as tc,
        ):
            rude = (await controller.add(Rude)).host.engines
            async with engines[0].reserve("mine"):
                tasks = [tc.submit(double, i) for i in range(3)]
                await settle()
                assert {frame.engine for frame in host.waiting} == {1}
                host.fall(0)
                host.rise(0)
                await settle()
                assert {frame.engine for frame in host.waiting} == {1}
            await settle()
            assert {frame.engine for frame in host.waiting} == {0, 1}
            urgent = [rude[i].call(f"{HERE}:note", "urgent", preempt="interrupt") for i in range(2)]
            once = tc.options(at_most_once=True).submit(double, 7)
            host.eager = True
            await asyncio.gather(*urgent)
            while host.waiting:
                host.step()
            assert await asyncio.gather(*tasks, once) == [0, 2, 4, 14]
            assert RAN == ["urgent", "urgent"]

    asyncio.run(main())
