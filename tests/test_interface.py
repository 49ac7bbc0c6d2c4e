"""How interfaces are written: operations, refusals, and how calls reach them."""

from __future__ import annotations

import asyncio
import gc
from inspect import Parameter
from typing import Any

import pytest

from aioparallel.controller import Controller
from aioparallel.errors import OperationError, PluginError
from aioparallel.face import Client
from aioparallel.interface import ClientProxy, Interface, operations, remote
from aioparallel.operations import declared


class Counter(Interface):
    """Counts."""

    name = "counter"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.ended: list[str] = []

    async def start(self) -> None:
        self.total = 0

    async def stop(self) -> None:
        self.ended.append("stop")

    def client_joined(self, client: ClientProxy) -> None:
        self.client = client
        self.calls.append("joined")

    def client_left(self, client: ClientProxy) -> None:
        self.calls.append("left")

    @remote
    def add(self, n: int = 1) -> int:
        """Add and return the total."""
        self.total += n
        return self.total

    @remote
    async def wait(self) -> None:
        """Wait for ever."""
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.ended.append("wait")
            raise

    @remote
    def fail(self) -> None:
        """Fail in an unforeseen way."""
        raise KeyError("oops")

    @remote
    async def refuse(self) -> None:
        """Refuse in words."""
        raise OperationError("not today")

    def hidden(self) -> None:
        """Not an operation."""


class CounterClient(Client):
    """The asyncio face."""

    interface = "counter"

    def call(self, operation: str, **arguments: Any) -> Any:
        return self._operate(operation, **arguments)


def test_operations_are_those_that_are_marked():
    assert operations(Counter) == ("add", "fail", "refuse", "wait")


def test_plain_calls_give_values_or_errors_in_words(caplog: pytest.LogCaptureFixture):
    async def main() -> None:
        async with Controller() as controller:
            await controller.listen("memory://x")
            counter = await controller.add(Counter)
            async with CounterClient(controller.capability("counter")) as client:
                assert await client.call("add") == 1
                assert await client.call("add", n=5) == 6
                with pytest.raises(OperationError, match="fail: KeyError: 'oops'"):
                    await client.call("fail")
                with pytest.raises(OperationError, match="not today"):
                    await client.call("refuse")
                with pytest.raises(OperationError, match="unexpected keyword argument 'm'"):
                    await client.call("add", m=1)
                with pytest.raises(OperationError, match="no operation 'hidden'; it has add, fail, refuse, wait"):
                    client.call("hidden")
                waiting = client.call("wait")
                await asyncio.sleep(0)
                assert await client.call("add", n=0) == 6
                waiting.cancel()
                assert await client.call("add", n=0) == 6
                forgotten = client.call("wait")
                assert await client.call("add", n=0) == 6
            with pytest.raises(ConnectionError):
                await forgotten
        assert counter.calls == ["joined", "left"]
        assert counter.ended == ["wait", "wait", "stop"] or sorted(counter.ended) == ["stop", "wait", "wait"]

    asyncio.run(main())
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "operation 'fail' of interface 'counter' failed"
    ]


def test_a_call_that_is_withdrawn_before_it_began_leaves_nothing():
    async def main() -> None:
        async with Controller() as controller:
            await controller.listen("memory://x")
            counter = await controller.add(Counter)
            async with CounterClient(controller.capability("counter")) as client:
                for _ in range(10):
                    client.call("wait").cancel()
                assert await client.call("add") == 1
                assert await client.call("add") == 2
                assert len(counter.client._answering) == 0
                gc.collect()  # a coroutine that nobody had awaited would warn
        assert counter.ended == ["stop"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("interface", "text"),
    [
        (object(), "is not an interface: expected a subclass of aioparallel.Interface"),
        (dict, "<class 'dict'> is not an interface: expected a subclass"),
        (type("NoName", (Interface,), {}), "is not an interface with a name"),
        (
            type("BadName", (Interface,), {"name": "two words"}),
            "BadName is not .* will do: 'two words'; expected an ident",
        ),
        (type("Engine", (Interface,), {"name": "engine"}), "here already"),
        ("no-such-thing", "no interface named 'no-such-thing'; known: .*monitor, multiengine, task"),
    ],
)
def test_a_bad_interface_is_refused_by_name(interface: Any, text: str):
    async def main() -> None:
        async with Controller() as controller:
            with pytest.raises(PluginError, match=text):
                await controller.add(interface)

    asyncio.run(main())


def test_one_that_can_not_start_is_refused_and_the_others_go_on():
    class Broken(Interface):
        name = "broken"

        async def start(self) -> None:
            raise RuntimeError("no disk")

    async def main() -> None:
        async with Controller() as controller:
            await controller.listen("memory://x")
            await controller.add(Counter)
            with pytest.raises(
                PluginError, match=r"interface 'broken' \(.*Broken\) can't start: RuntimeError: no disk"
            ):
                await controller.add(Broken)
            with pytest.raises(PluginError, match="'counter' is here already"):
                await controller.add(Counter)
            async with CounterClient(controller.capability("counter")) as client:
                assert await client.call("add") == 1

    asyncio.run(main())


#: What each capability opens. A new operation is written down here, too: so nobody opens one by mistake.
OPENS = {
    "admin": "shutdown stop_engines",
    "monitor": "status",
    "multiengine": "clear_properties clear_queue del_properties get_ids get_properties has_properties interrupt kill "
    "queue_status restart set_properties set_up set_up_clear set_up_list submit watch_output",
    "task": "abort barrier clear get_task_result queue_status run spin submit submit_with tasks watch_output why",
}


NEEDED = Parameter.empty
#: Something that fits, for what operations have to be given.
FITS: dict[str, Any] = {
    "Any": "all",
    "int": 1,
    "bool": False,
    "dict[str, Any]": {},
    "str | list[str]": [],
    "str | list[str] | None": None,
}


@pytest.mark.parametrize("name", OPENS)
def test_a_capability_opens_what_it_names_and_nothing_else(name: str) -> None:
    """Each operation of an interface is entered by the capability that allows it, and by no other."""
    wanted = OPENS[name].split()
    entered: list[str] = []

    def stub(operation: str) -> Any:
        def enter(*arguments: Any, **named: Any) -> None:
            entered.append(operation)
            raise OperationError("entered")

        return enter

    async def main() -> None:
        async with Controller() as controller:
            await controller.listen("memory://x")
            made = await controller.add(name)
            given = {
                operation: {each.name: FITS[each.shape.text] for each in about.parameters if each.default is NEEDED}
                for operation, about in declared(type(made)).items()
            }
            for operation in wanted:
                setattr(made, operation, stub(operation))
            whole = controller.capability(name)
            for only in (None, "nothing", *wanted):
                kind = type("Any", (Client,), {"interface": name})
                async with kind(whole.narrow(f"ops={only}") if only else whole) as client:
                    assert list(client.channel._codes) == wanted
                    for operation in wanted:
                        with pytest.raises(OperationError) as refused:
                            await client._operate(operation, **given[operation])
                        denied = f"this capability does not allow {operation!r} of {name!r}"
                        allowed = only in (None, operation)
                        assert str(refused.value) == ("entered" if allowed else denied)
                assert entered == [operation for operation in wanted if only in (None, operation)]
                entered.clear()

    asyncio.run(main())
