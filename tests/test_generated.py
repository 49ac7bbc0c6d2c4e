"""Clients made from annotations: both faces, what help() shows, and what comes and goes through them."""

from __future__ import annotations

import asyncio
import inspect
import pydoc
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from model import settle

from aioparallel import client
from aioparallel.capability import Capability
from aioparallel.controller import Controller
from aioparallel.errors import ConfigurationError, ConnectionLost, OperationError, PluginError
from aioparallel.face import Client
from aioparallel.interface import ClientProxy, Interface, client_of, remote
from aioparallel.interfaces.admin import AdminInterface
from aioparallel.interfaces.monitor import MonitorInterface
from aioparallel.interfaces.multiengine import MultiEngineInterface


@dataclass(frozen=True)
class Item:
    """Something on a shelf."""

    name: str
    price: float = 1.0


class Shop(Interface):
    """Sells."""

    name = "shop"

    async def start(self) -> None:
        self.shelf: dict[int, Item] = {}
        self.clients: list[ClientProxy] = []

    def client_joined(self, client: ClientProxy) -> None:
        self.clients.append(client)
        client.notify("welcome")

    def client_left(self, client: ClientProxy) -> None:
        self.clients.remove(client)

    @remote
    async def put(self, items: list[Item], *, first: int = 0) -> tuple[int, int]:
        """Put items on the shelf.

        Args:
            items: What.
            first: The number of the first.
        """
        self.shelf |= {first + i: item for i, item in enumerate(items)}
        for each in self.clients:
            each.notify({"put": len(items)})
        return first, first + len(items)

    @remote
    def shown(self) -> dict[int, Item]:
        """Return what is on the shelf."""
        return self.shelf

    @remote
    async def each(self, dearer_than: float | None = None) -> AsyncIterator[tuple[int, Item]]:
        """Give one after the other."""
        for number, item in sorted(self.shelf.items()):
            if dearer_than is None or item.price > dearer_than:
                await asyncio.sleep(0)
                yield number, item

    @remote
    async def wait(self) -> None:
        """Wait for ever."""
        await asyncio.get_running_loop().create_future()


ITEMS = [Item("bread"), Item("cheese", 4.5)]


def test_the_asyncio_face() -> None:
    async def main() -> None:
        async with Controller() as controller:
            await controller.listen("memory://x")
            shop = await controller.add(Shop)
            async with Shop.client(controller.capability("shop")) as c:
                assert await c.put(ITEMS, first=3) == (3, 5)
                assert await c.shown() == {3: ITEMS[0], 4: ITEMS[1]}
                assert [pair async for pair in c.each(dearer_than=2)] == [(4, ITEMS[1])]
                waiting = c.wait()
                assert isinstance(waiting, asyncio.Future)
                waiting.cancel()
                await settle()
                assert len(shop.clients[0]._answering) == 0
                with pytest.raises(TypeError, match=r"put: argument items\[0\]\.price is the str '1'; expected float"):
                    c.put([Item("bread", "1")])  # type: ignore[arg-type]
                with pytest.raises(TypeError, match="put: missing a required argument: 'items'"):
                    c.put()
                with pytest.raises(TypeError, match="put: got an unexpected keyword argument 'last'"):
                    c.put(ITEMS, last=4)
                with pytest.raises(ConfigurationError, match="block=True is for the blocking face"):
                    c.shown(block=True)

    asyncio.run(main())


def test_notices_reach_who_listens_and_wait_for_the_first_who_asks() -> None:
    async def main() -> None:
        async with Controller() as controller:
            await controller.listen("memory://x")
            shop = await controller.add(Shop)
            async with Shop.client(controller.capability("shop")) as c:
                await c.put(ITEMS)
                notices = c.notices()
                assert [await anext(notices), await anext(notices)] == ["welcome", {"put": 2}]
                seen: list[Any] = []
                stop = c.on_notice(seen.append)
                late = c.notices()
                await c.put(ITEMS[:1])
                assert seen == [{"put": 1}] == [await anext(late)] == [await anext(notices)]
                stop()
                stop()
                await late.aclose()
                await c.put([])
                assert seen == [{"put": 1}]
                with pytest.raises(TypeError, match="a notice is the bytes b''; expected a plain value"):
                    shop.clients[0].notify(b"")
                with pytest.raises(TypeError, match="can't be called"):
                    c.on_notice(3)
            assert [notice async for notice in notices] == [{"put": 0}]
            assert [notice async for notice in c.notices()] == []
            async with Shop.client(controller.capability("shop")) as c:
                notices = c.notices()
                assert await anext(notices) == "welcome"
                shop.clients[0].connection.abort()
                with pytest.raises(ConnectionLost):
                    await anext(notices)

    asyncio.run(main())


class _Elsewhere(threading.Thread):
    """A controller on a loop of its own, in a thread."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.ready = threading.Event()
        self.capability: Capability

    def run(self) -> None:
        asyncio.run(self.serve())

    async def serve(self) -> None:
        async with Controller() as controller:
            await controller.listen(f"unix://{self.directory}/s")
            await controller.add(Shop)
            self.capability = controller.capability("shop")
            self.controller, self.loop = controller, asyncio.get_running_loop()
            self.ready.set()
            await controller.wait_closed()


@pytest.fixture
def elsewhere(directory: Path) -> Iterator[Capability]:
    thread = _Elsewhere(directory)
    thread.start()
    assert thread.ready.wait(30)
    yield thread.capability
    thread.loop.call_soon_threadsafe(thread.controller.shut_down)
    thread.join()


def test_the_blocking_face(elsewhere: Capability) -> None:
    made = client.client_of(Shop)
    with made(elsewhere) as c:
        assert c.put(ITEMS, first=3) == (3, 5)
        assert c.shown() == {3: ITEMS[0], 4: ITEMS[1]}
        pending = c.shown(block=False)
        assert isinstance(pending, client.PendingResult)
        assert pending.r == {3: ITEMS[0], 4: ITEMS[1]}
        assert list(c.each()) == [(3, ITEMS[0]), (4, ITEMS[1])]
        c.put([Item(str(i), i) for i in range(1000)])
        with c.each() as stream:
            assert next(stream) == (0, Item("0", 0.0))
        assert list(stream) == []
        for number, _ in c.each():
            if number == 100:
                break
        assert len(list(c.each(dearer_than=499.5))) == 500
        with pytest.raises(OperationError, match="each: argument"):
            next(c._ask_for_stream("each", {"dearer_than": ("a", str)}, str))
        seen: list[Any] = []
        notices = c.notices(timeout=0.01)
        stop = c.on_notice(seen.append)
        assert [next(notices), next(notices), next(notices)] == ["welcome", {"put": 2}, {"put": 1000}]
        with pytest.raises(TimeoutError, match=r"nothing has come for 0.01 s"):
            next(notices)
        c.put([])
        assert next(notices) == {"put": 0} == seen[0]
        stop()
        c.block = False
        waiting = c.wait()
        assert waiting.cancel()
    assert list(notices) == []


def test_a_blocking_stream_in_another_thread(elsewhere: Capability) -> None:
    with client.client_of(Shop)(elsewhere) as c:
        c.put([Item(str(i)) for i in range(500)])
        counts: list[int] = []
        threads = [threading.Thread(target=lambda: counts.append(len(list(c.each())))) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert len(list(c.each())) == 500
        for thread in threads:
            thread.join()
        assert counts == [500, 500, 500]


def test_help_shows_what_the_interface_says() -> None:
    made, blocking = Shop.client, client.client_of(Shop)
    assert Shop.client is made is client_of(Shop)
    assert blocking is client.client_of(Shop)
    assert issubclass(made, Client)
    assert issubclass(blocking, client.Client)
    assert (made.__name__, made.interface, blocking.interface) == ("ShopClient", "shop", "shop")
    assert str(inspect.signature(made.put)).endswith("*, first: int = 0) -> _asyncio.Future[tuple[int, int]]")
    assert str(inspect.signature(blocking.put)).endswith(
        "first: int = 0, block: bool | None = None) -> tuple[int, int]"
    )
    assert inspect.signature(made.each).return_annotation.__origin__.__name__ == "Stream"
    assert inspect.signature(blocking.each).return_annotation.__origin__.__name__ == "BlockingStream"
    for interface in (Interface, Shop, MultiEngineInterface):
        assert interface.__name__ in pydoc.plain(pydoc.render_doc(interface))
    shown = pydoc.plain(pydoc.render_doc(blocking))
    assert "Sells." in shown
    assert "Put items on the shelf." in shown
    assert "shown(self, *, block: bool | None = None) -> dict[int, test_generated.Item]" in shown


def test_a_client_that_was_written_wins() -> None:
    class Written(Shop):
        name = "written"
        client = object
        blocking_client = str

    class Derived(Shop):
        name = "derived"

    assert client_of(Written) is object
    assert client.client_of(Written) is str
    assert client_of(Derived) is not client_of(Shop)
    assert client_of(Derived).interface == "derived"
    assert client_of(MonitorInterface).__module__ == "aioparallel.interfaces.monitor"
    assert client.client_of(MultiEngineInterface) is client.MultiEngineClient
    assert client.client_of(AdminInterface).__mro__[-2] is client.Client


def test_an_interface_is_found_by_its_name_or_place() -> None:
    assert client_of("monitor") is client_of(MonitorInterface)
    assert client.client_of("multiengine") is client.MultiEngineClient
    assert client_of(f"{__name__}:Shop") is Shop.client
    for made in (client_of, client.client_of):
        with pytest.raises(PluginError, match="no interface named 'nothing'; known: admin, monitor, multiengine, task"):
            made("nothing")
        with pytest.raises(PluginError, match="3 is not an interface: expected a class, or a name"):
            made(3)  # type: ignore[arg-type]
        with pytest.raises(PluginError, match=r"builtins.dict is not an interface with a name"):
            made(dict)


def test_a_raw_operation_needs_a_client_that_was_written() -> None:
    class Raw(Interface):
        name = "raw"

        @remote(raw=True)
        def submit(self, client: ClientProxy, frame: Any) -> None:
            """By itself."""

    with pytest.raises(PluginError, match=r"Raw.submit is raw, so no client can be made for it"):
        _ = Raw.client
