"""The transport follows the rules, carries a cluster, and finds its way through a proxy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from aioparallel_websocket import WebSocketTransport

import aioparallel
from aioparallel.testing import check_transport


@pytest.mark.parametrize("address", ["wss://127.0.0.1:0", "wss://127.0.0.1:0/some/path"])
def test_it_follows_the_rules(address: str) -> None:
    rules = asyncio.run(check_transport(address))
    assert len(rules) == 18


def test_a_cluster_runs_over_it() -> None:
    async def main() -> None:
        async with aioparallel.Cluster(2, listen="wss://127.0.0.1:0") as cluster:
            for role in ("engine", "task", "multiengine"):
                [address] = cluster.capability(role).addresses
                assert address.startswith("wss://127.0.0.1:")
            async with cluster.multiengine() as mec, cluster.task() as tasks:
                text = "a large message " * 2**19
                assert await mec.apply(len, text) == [len(text)] * 2
                assert await tasks.submit(text.__add__, "!") == text + "!"

    asyncio.run(main())


@contextlib.asynccontextmanager
async def http_proxy() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Pass connections on, as HTTP's CONNECT asks for; yield where, and what was asked for."""
    asked: list[bytes] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.partition(b"\r\n")[0])
        host, _, port = head.split()[1].decode().rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}", asked


def test_it_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with http_proxy() as (proxy, asked), aioparallel.Controller() as controller:
            monkeypatch.setenv("https_proxy", proxy)
            monkeypatch.delenv("no_proxy", raising=False)
            address = await controller.listen("wss://127.0.0.1:0")
            await controller.add("monitor")
            async with aioparallel.MonitorClient(controller.capability("monitor")) as monitor:
                assert (await monitor.status())["addresses"] == [address]
            assert asked == [b"CONNECT " + address.removeprefix("wss://").encode() + b" HTTP/1.1"]

    asyncio.run(main())


def test_a_proxy_that_answers_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def main() -> None:
        async with aioparallel.Controller() as controller:
            await controller.listen("wss://127.0.0.1:0")
            await controller.add("monitor")
            server = await asyncio.start_server(refuse, "127.0.0.1", 0)
            async with server:
                host, port = server.sockets[0].getsockname()
                monkeypatch.setenv("https_proxy", f"http://{host}:{port}")
                with pytest.raises(aioparallel.ControllerGone, match=r"no WebSocket at wss://.*407"):
                    await aioparallel.MonitorClient.connect(controller.capability("monitor"))

    asyncio.run(main())


@pytest.mark.parametrize("address", ["wss://host", "wss://host:many", "wss://", "wss://host:1?query", "ws://host:80"])
def test_what_is_no_address(address: str) -> None:
    async def main() -> None:
        with pytest.raises(aioparallel.AddressError, match="wss://host:port"):
            await WebSocketTransport().connect(address, asyncio.Protocol, peer=None)  # type: ignore[arg-type]

    asyncio.run(main())


def test_another_path_leads_nowhere() -> None:
    async def main() -> None:
        async with aioparallel.Controller() as controller:
            address = await controller.listen("wss://127.0.0.1:0/hidden")
            await controller.add("monitor")
            wrong = controller.capability("monitor", addresses=(address.removesuffix("hidden") + "open",))
            with pytest.raises(aioparallel.ControllerGone, match="HTTP 404"):
                await aioparallel.MonitorClient.connect(wrong)

    asyncio.run(main())
