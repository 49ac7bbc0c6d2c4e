"""A client's connection, on model engines: calls out, answers in, and what becomes of those that get none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import gc
import json
import platform
import warnings
from pathlib import Path
from typing import Any

import pytest
from model import ModelHost, model_cluster, settle
from runners import RUNNERS

import aioparallel
from aioparallel import channel as channel_module
from aioparallel.capability import Capability, find_capability
from aioparallel.channel import Channel
from aioparallel.controller import Controller
from aioparallel.errors import (
    ConfigurationError,
    ConnectionLost,
    InvalidEngineID,
    MessageTooLarge,
    NoClusterError,
    OperationError,
    PythonVersionWarning,
)
from aioparallel.handle import Handle
from aioparallel.interface import ClientProxy, Interface, remote
from aioparallel.results import value_of
from aioparallel.serialize import pack
from aioparallel.settling import plain_value
from aioparallel.source import SYSTEM
from aioparallel.wire import Frame, Kind, Limits, encode


def value(frames: list[Frame]) -> Any:
    return value_of(frames[-1])


def ask(channel: Channel, future: Any, *command: Any) -> int:
    """Submit a task the way a client does."""
    return channel.call("submit", future, value, header=b"a task", buffers=pack(command))


def future() -> asyncio.Future[Any]:
    return Handle()


async def opened(controller: Controller, interface: str = "task", **options: Any) -> Channel:
    return await Channel.open(controller.capability(interface), **options)


# Calls and answers


@RUNNERS
def test_a_call_is_answered(run: Any) -> None:
    async def main() -> None:
        async with model_cluster(1) as (controller, _):
            channel = await opened(controller)
            answers = [future() for _ in range(3)]
            numbers = [ask(channel, answer, "apply", abs, (-i,), {}) for i, answer in enumerate(answers)]
            assert numbers == [1, 2, 3]
            assert repr(channel) == "<Channel open to 'task', 3 calls under way>"
            assert await asyncio.gather(*answers) == [0, 1, 2]
            assert channel._pending == {}
            wrong = future()
            ask(channel, wrong, "apply", divmod, (1, 0), {})
            with pytest.raises(ZeroDivisionError):
                await wrong
            await channel.aclose()

    run(main())


def test_operations_are_those_of_the_interface_at_hand() -> None:
    async def main() -> None:
        async with model_cluster(1) as (controller, _):
            channel = await opened(controller, "monitor")
            answer = future()
            channel.call("status", answer, plain_value, header=b"{}")
            assert (await answer)["cluster"] == "default"
            with pytest.raises(OperationError, match="'monitor' has no operation 'submit'; it has status"):
                channel.call("submit", future(), plain_value)
            odd = future()
            channel.call("status", odd, plain_value, header=b'{"colour": "red"}')
            with pytest.raises(OperationError, match="unexpected keyword argument 'colour'"):
                await odd
            await channel.aclose()

    asyncio.run(main())


def test_the_answers_of_several_engines_end_with_the_last() -> None:
    async def main() -> None:
        async with model_cluster(3, eager=False) as (controller, host):
            channel = await opened(controller, "multiengine")
            answer = future()
            buffers = pack(("apply", abs, (-4,), {}))
            number = channel.call(
                "submit", answer, lambda frames: frames, header=b'{"targets": "all"}', buffers=buffers
            )
            await settle()
            host.step(2)
            host.step(0)
            await settle()
            assert not answer.done()
            assert len(channel._partial[number]) == 2
            host.step()
            assert [frame.engine for frame in await answer] == [2, 0, 1]
            assert channel._partial == {}
            await channel.aclose()

    asyncio.run(main())


def test_what_finishing_raises_is_the_calls_error() -> None:
    async def main() -> None:
        async with model_cluster(1) as (controller, _):
            channel = await opened(controller)

            def fail(frames: list[Frame]) -> Any:
                raise ZeroDivisionError

            answer, beside = future(), future()
            channel.call("submit", answer, fail, buffers=pack(("keys",)))
            ask(channel, beside, "keys")
            with pytest.raises(ZeroDivisionError):
                await answer
            assert await beside == []
            await channel.aclose()

    asyncio.run(main())


def test_what_is_above_the_limit_is_not_sent() -> None:
    async def main() -> None:
        async with model_cluster(1) as (controller, _):
            channel = await opened(controller, limits=Limits(message=10_000))
            with pytest.raises(MessageTooLarge, match="above the limit of 10,000 bytes"):
                ask(channel, future(), "apply", len, (bytes(10_000),), {})
            assert channel._pending == {}
            answer = future()
            ask(channel, answer, "apply", len, (bytes(9_000),), {})
            assert await answer == 9_000
            await channel.aclose()

    asyncio.run(main())


def test_a_header_above_its_limit_is_not_sent_and_no_answer_has_one() -> None:
    class Echo(Interface):
        name = "echo"

        @remote
        def echo(self, text: str, times: int) -> str:
            return text * times

    async def main() -> None:
        limits = Limits(header=2_000)
        async with Controller(limits=limits) as controller:
            await controller.listen("memory://echo")
            await controller.add(Echo)
            channel = await Channel.open(controller.capability("echo"), limits=limits)

            def echo(text: str, times: int) -> asyncio.Future[Any]:
                answer = future()
                channel.call("echo", answer, plain_value, header=json.dumps({"text": text, "times": times}).encode())
                return answer

            with pytest.raises(MessageTooLarge, match=r"arguments of a call take 3,\d+ bytes; the limit is 2,000"):
                echo("x" * 3_000, 1)
            assert channel._pending == {}
            assert await echo("x" * 1_000, 1) == "x" * 1_000
            with pytest.raises(MessageTooLarge, match="a plain answer of 5,002 bytes; the limit is 2,000"):
                await echo("x" * 1_000, 5)
            assert channel.is_open
            await channel.aclose()

    asyncio.run(main())


def test_a_payload_may_be_larger_than_a_header() -> None:
    async def main() -> None:
        limits = Limits(header=2_000)
        async with model_cluster(1, limits=limits) as (controller, _):
            async with aioparallel.MultiEngineClient(controller.capability("multiengine"), limits=limits) as mec:
                assert await mec.apply(len, bytes(50_000)) == [50_000]
                # What a person reads in `status` is only the beginning of it.
                assert (await mec.execute(f"len('{'x' * 5_000}')"))[0].value == "5000"

    asyncio.run(main())


# Withdrawing


def test_withdrawn_calls_are_forgotten_and_the_controller_is_told() -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host):
            channel = await opened(controller, "multiengine")
            answers = [future() for _ in range(3)]
            header, buffers = b'{"targets": [0]}', pack(("keys",))
            numbers = [channel.call("submit", answer, value, header=header, buffers=buffers) for answer in answers]
            await settle()
            assert len(host.waiting) == 1  # one at a time
            channel.withdraw(numbers[1])
            channel.withdraw(numbers[1])
            channel.withdraw(4711)
            assert set(channel._pending) == {numbers[0], numbers[2]}
            await settle()
            assert host.cancelled == []
            host.step()
            assert await answers[0] == []
            await settle()
            channel.withdraw(numbers[2])
            await settle()
            assert len(host.cancelled) == 1  # this one ran
            assert host.waiting == []
            assert not answers[1].done()
            assert not answers[2].done()
            assert channel._pending == {}
            await channel.aclose()

    asyncio.run(main())


def test_an_answer_that_crosses_a_withdrawal_is_nobodys() -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host):
            channel = await opened(controller)
            first, second = future(), future()
            number = ask(channel, first, "keys")
            await settle()
            host.step()
            channel.withdraw(number)
            await settle()
            assert not first.done()
            ask(channel, second, "keys")
            await settle()
            host.step()
            assert await second == []
            await channel.aclose()

    asyncio.run(main())


def test_cancelling_a_handle_withdraws_its_call() -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host):
            async with aioparallel.TaskClient(controller.capability("task")) as tc:
                handle = tc.submit(abs, -1)
                await settle()
                assert handle.cancel()
                assert not handle.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await handle
                await settle()
                assert len(host.ended) == 1
                assert tc.channel._pending == {}

    asyncio.run(main())


# The end


@RUNNERS
def test_a_lost_connection_fails_all_that_is_under_way(run: Any) -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, _):
            channel = await opened(controller)
            answers: list[Any] = [future() for _ in range(5)]
            answers += [concurrent.futures.Future() for _ in range(5)]
            for answer in answers:
                ask(channel, answer, "keys")
            cancelled = answers[2]
            cancelled.cancel()
            await settle()
            [connection] = controller._clients.values()
            connection.abort()
            await channel._closed
            for answer in answers:
                if answer is not cancelled:
                    assert isinstance(answer.exception(), ConnectionLost)
            # Each has an error of its own: a traceback must not be shared.
            errors = {id(answer.exception()) for answer in answers if answer is not cancelled}
            assert len(errors) == len(answers) - 1
            assert not channel.is_open
            assert not channel.congested
            with pytest.raises(ConnectionLost):
                ask(channel, future(), "keys")
            assert channel._pending == {}
            channel.withdraw(1)
            await channel.drained()
            await channel.aclose()

    run(main())


def test_closing_fails_what_is_under_way_and_can_be_done_twice() -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, _):
            channel = await opened(controller)
            answer = future()
            ask(channel, answer, "keys")
            await channel.aclose()
            await channel.aclose()
            with pytest.raises(ConnectionLost, match="this client was closed"):
                await answer

    asyncio.run(main())


def test_a_controller_that_ends_says_so() -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, _):
            channel = await opened(controller)
            answer = future()
            ask(channel, answer, "keys")
            await settle()
        with pytest.raises(ConnectionLost, match="the controller has ended"):
            await answer
        await channel._closed

    asyncio.run(main())


# What the controller says by itself


def test_a_controller_that_names_no_engines_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with model_cluster(1) as (controller, _):
            monkeypatch.setattr(ClientProxy, "tell", lambda *_: None)
            monkeypatch.setattr(channel_module, "HANDSHAKE", 0)
            with pytest.raises(ConnectionLost, match="the controller named no engines within 0 s"):
                await opened(controller)
            await settle()
            assert controller._clients == {}
            monkeypatch.setattr(ClientProxy, "tell", lambda client, _: client.connection.close())
            monkeypatch.setattr(channel_module, "HANDSHAKE", 10)
            with pytest.raises(ConnectionLost):
                await opened(controller)

    asyncio.run(main())


def test_engines_come_and_go() -> None:
    async def main() -> None:
        async with model_cluster(2) as (controller, _):
            channel = await opened(controller)
            python = platform.python_version()
            assert channel.engines == {0: python, 1: python}
            other = await ModelHost().dial(controller, 1)
            await settle()
            assert channel.engines == {0: python, 1: python, 2: python}
            other.connection.abort()
            await other.lost
            await settle()
            assert sorted(channel.engines) == [0, 1]
            assert channel.session
            await channel.aclose()

    asyncio.run(main())


def test_another_minor_version_is_warned_of_once() -> None:
    async def main() -> None:
        async with model_cluster(1) as (controller, host):
            channel = await opened(controller)
            await settle()
            words = r"engine 1 runs Python 3\.99\.1, this client 3\."
            with pytest.warns(PythonVersionWarning, match=words) as caught:  # noqa: PT031  (it comes with the notice)
                await host.join(python="3.99.1")
                await settle()
            assert len(caught) == 1
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                await host.join(python="3.99.1")
                # Another patch release is the same language.
                major, minor, _ = platform.python_version_tuple()
                await host.join(python=f"{major}.{minor}.999")
                await host.join(python="")
                await settle()
            assert sorted(channel.engines) == [0, 1, 2, 3, 4]
            await channel.aclose()

    asyncio.run(main())


def test_notices_of_a_later_version_are_no_matter() -> None:
    async def main() -> None:
        async with model_cluster(1) as (controller, _):
            channel = await opened(controller)
            await settle()
            [proxy] = controller._clients
            proxy.tell({"weather": "fine"})
            proxy.tell({"left": [77]})
            await settle()
            assert sorted(channel.engines) == [0]
            assert channel.is_open
            await channel.aclose()

    asyncio.run(main())


def test_a_controller_that_takes_no_more_is_waited_for(directory: Path) -> None:
    async def main() -> None:
        limits = Limits(outbox=2**16, share=0)
        async with model_cluster(1, eager=False, address=f"unix://{directory}/s") as (controller, _):
            channel = await opened(controller, limits=limits)
            await channel.drained()  # at once
            [server] = controller._clients.values()
            server.pause_reading()
            while not channel.congested:
                ask(channel, future(), "apply", len, (bytes(2**20),), {})
                await asyncio.sleep(0)
            waiting = [asyncio.ensure_future(channel.drained()) for _ in range(2)]
            await settle()
            assert not any(each.done() for each in waiting)
            waiting.pop().cancel()
            server.resume_reading()
            await asyncio.wait_for(waiting[0], 5)
            assert not channel.congested
            await channel.aclose()

    asyncio.run(main())


# Threads


@RUNNERS
def test_calls_from_many_threads(run: Any) -> None:
    def work(channel: Channel, place: int, answers: list[Any]) -> None:
        for number in range(50):
            answer: concurrent.futures.Future[Any] = concurrent.futures.Future()
            ask(channel, answer, "apply", divmod, (1000 * place + number, 1000), {})
            if number % 10 == 9:
                # Withdrawing is for any thread, too.
                unwanted: concurrent.futures.Future[Any] = concurrent.futures.Future()
                channel.withdraw(ask(channel, unwanted, "keys"))
            answers.append(answer)

    async def main() -> None:
        async with model_cluster(3) as (controller, _):
            channel = await opened(controller)
            answers: list[list[Any]] = [[] for _ in range(8)]
            loop = asyncio.get_running_loop()
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                working = [loop.run_in_executor(pool, work, channel, place, mine) for place, mine in enumerate(answers)]
                await asyncio.gather(*working)
            async with asyncio.timeout(10):
                for place, mine in enumerate(answers):
                    values = [await asyncio.wrap_future(answer) for answer in mine]
                    assert values == [(place, number) for number in range(50)]
            assert channel._pending == {}
            await channel.aclose()

    run(main())


def test_a_call_after_the_loop_has_ended_is_refused() -> None:
    async def main() -> Channel:
        async with model_cluster(1) as (controller, _):
            return await opened(controller)

    channel = asyncio.run(main())
    with pytest.raises(ConnectionLost):
        ask(channel, concurrent.futures.Future(), "keys")
    channel._error = None  # as if the loop had ended before anybody told it
    with pytest.raises(ConnectionLost, match="event loop is closed"):
        ask(channel, concurrent.futures.Future(), "keys")


# Client


def test_a_client_that_was_forgotten_warns() -> None:
    async def main() -> None:
        async with model_cluster(1) as (controller, _):
            client = await aioparallel.MonitorClient.connect(controller.capability("monitor"))
            with pytest.warns(ResourceWarning, match="was never closed"):
                client.__del__()
            await client.aclose()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                del client
                gc.collect()

    asyncio.run(main())


def test_block_is_for_the_blocking_face() -> None:
    async def main() -> None:
        async with model_cluster(1) as (controller, _):
            async with aioparallel.MultiEngineClient(controller.capability("multiengine")) as mec:
                with pytest.raises(ConfigurationError, match="block=True is for the blocking face"):
                    mec.get_ids(block=True)
                with pytest.raises(InvalidEngineID):
                    await mec.apply(abs, 1, targets=9)

    asyncio.run(main())


def test_capabilities_are_found_and_must_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> Capability:
        async with model_cluster(0) as (controller, _):
            return controller.capability("task")

    task = asyncio.run(main())
    assert find_capability(task, "task") is task
    with pytest.raises(ConfigurationError, match="this capability is for the interface 'task', not 'monitor'"):
        find_capability(task, "monitor")
    file = tmp_path / "some.cap"
    task.save(file, SYSTEM)
    assert find_capability(file, "task") == find_capability(str(file), "task") == task
    with pytest.raises(ConfigurationError, match=r"some\.cap is for the interface 'task', not 'monitor'"):
        find_capability(file, "monitor")
    with pytest.raises(NoClusterError, match=r"task\.cap"):
        find_capability(None, "task")
    monkeypatch.setenv("AIOPARALLEL_CAP", str(file))
    assert find_capability(None, "task") == task
    named = tmp_path / "security" / "mine" / "task.cap"
    dataclasses.replace(task, cluster="mine").save(named, SYSTEM)
    monkeypatch.delenv("AIOPARALLEL_CAP")
    assert find_capability(None, "task", cluster="mine", directory=tmp_path).cluster == "mine"


def test_frames_that_a_client_never_asked_for_are_dropped() -> None:
    async def main() -> None:
        async with model_cluster(1) as (controller, _):
            channel = await opened(controller)
            [connection] = controller._clients.values()
            connection.send(encode(Kind.RESULT, 4711, flags=1, header=b"{}"))
            connection.send(encode(Kind.RESULT, 4712, header=b"{}"))
            connection.send(encode(Kind.BEAT))
            answer = future()
            ask(channel, answer, "keys")
            assert await answer == []
            assert channel._partial == {}
            await channel.aclose()

    asyncio.run(main())
