"""Admission: where one can listen, whose a connection is, who is told of the refused, and how it ends."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest

from aioparallel.admission import Admission
from aioparallel.authority import ControllerState
from aioparallel.capability import Capability, Grant
from aioparallel.connection import Connection
from aioparallel.controller import Controller
from aioparallel.dial import connect
from aioparallel.errors import AccessDenied, AddressError, PluginError
from aioparallel.events import Event, Monitor, PeerRefused
from aioparallel.private import Secret
from aioparallel.source import SYSTEM
from aioparallel.transports.memory import MemoryTransport
from aioparallel.wire import Frame, Kind, Limits, encode

ADDRESS = "memory://here"


class Guest:
    """Whose a connection is."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.heard: list[bytes] = []

    def receive(self, frames: list[Frame]) -> None:
        self.heard += [bytes(frame.header) for frame in frames]


class Inn:
    """Lets in whoever has a capability of its one interface, and notes what it is told."""

    def __init__(self) -> None:
        self.state = ControllerState.in_memory(SYSTEM)
        self.events: list[Event] = []
        self.guests: list[Guest] = []
        self.left: list[tuple[Guest, BaseException | None]] = []
        monitor = Monitor()
        monitor.listen(self.events.append)
        self.admission: Admission[Guest] = Admission(
            self.state,
            Limits(),
            SYSTEM,
            monitor,
            interfaces=lambda: ["inn"],
            welcome=self.welcome,
            admit=self.admit,
            leave=lambda guest, error: self.left.append((guest, error)),
        )

    def welcome(self, session: str, grant: Grant) -> dict[str, Any]:
        return {"session": session, "asked for": grant.interface}

    def admit(self, connection: Connection, session: str) -> Guest:
        self.guests.append(Guest(connection))
        return self.guests[-1]

    def capability(self) -> Capability:
        return self.state.capability("inn", cluster="c", addresses=tuple(self.admission.addresses))

    async def close(self) -> None:
        self.admission.end()
        await self.admission.stop_listening()
        self.admission.goodbye()
        await self.admission.wait_empty()


class Caller:
    """One who has dialled; what it heard, and that it is lost."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, bytes]] = []
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def receive(self, frames: list[Frame]) -> None:
        self.heard += [(frame.kind, bytes(frame.header)) for frame in frames]

    async def dial(self, capability: Capability) -> Caller:
        self.connection, self.welcome = await connect(
            capability, role="client", on_frames=self.receive, on_lost=self.lost.set_result
        )
        return self


def test_who_has_proved_itself_gets_an_owner_who_hears_it_to_its_end() -> None:
    async def main() -> None:
        inn = Inn()
        assert await inn.admission.listen(ADDRESS) == ADDRESS
        caller = await Caller().dial(inn.capability())
        assert caller.welcome["asked for"] == "inn"
        [guest] = inn.guests
        assert len(inn.admission.gate) == 0
        assert repr(inn.admission) == f"<Admission on ['{ADDRESS}'], 1 connections, 0 unproven>"
        caller.connection.send(encode(Kind.CALL, 1, header=b"hello"))
        caller.connection.close()
        await caller.lost
        await inn.close()
        assert guest.heard == [b"hello"]
        assert [one for one, _ in inn.left] == [guest]
        assert inn.admission.connections == {}
        assert inn.events == []

    asyncio.run(main())


def test_who_is_refused_has_no_owner_and_is_told_of() -> None:
    async def main() -> None:
        inn = Inn()
        await inn.admission.listen(ADDRESS)
        with pytest.raises(AccessDenied):
            await Caller().dial(replace(inn.capability(), key=Secret(bytes(32))))
        await inn.close()
        assert (inn.guests, inn.left) == ([], [])
        assert [type(event) for event in inn.events] == [PeerRefused]

    asyncio.run(main())


def test_the_end_says_goodbye_and_waits_for_those_who_are_here() -> None:
    async def main() -> None:
        inn = Inn()
        await inn.admission.listen(ADDRESS)
        callers = [await Caller().dial(inn.capability()) for _ in range(2)]
        await inn.close()
        assert [guest for guest, _ in inn.left] == inn.guests
        for caller in callers:
            await caller.lost
            [(kind, said)] = caller.heard
            assert kind == Kind.GOODBYE
            assert b"the controller has ended" in said

    asyncio.run(main())


def test_who_listens_when_all_is_over_is_too_late_and_holds_no_address() -> None:
    async def main() -> None:
        inn = Inn()
        await inn.close()
        for _ in range(2):
            with pytest.raises(AddressError, match=f"{ADDRESS}: the controller has ended"):
                await inn.admission.listen(ADDRESS)
        assert inn.admission.addresses == []

    asyncio.run(main())


# Through the controller


@pytest.mark.parametrize(
    "address", ["carrier-pigeon://home", "nonsense", "tls://nohost", "unix://relative", "memory://"]
)
def test_bad_addresses_are_named(address: str):
    async def main() -> None:
        async with Controller() as controller:
            with pytest.raises(AddressError) as caught:
                await controller.listen(address)
            assert address in str(caught.value)
            if "pigeon" in address or address == "nonsense":
                assert "memory://, tls://, unix://" in str(caught.value)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"address": "tls://127.0.0.1:10105"},
            "asked to listen on memory://liar, says that it does on 'tls://127.0.0.1",
        ),
        ({"address": None}, "says that it does on None: its listener's address must begin with memory://"),
    ],
)
def test_a_transport_that_lies_about_its_address(change: Any, text: str, monkeypatch: pytest.MonkeyPatch):
    honest = MemoryTransport.listen

    async def listen(self: MemoryTransport, *arguments: Any, **options: Any) -> Any:
        listener = await honest(self, *arguments, **options)
        vars(listener).update(change)
        return listener

    async def main() -> None:
        async with Controller() as controller:
            monkeypatch.setattr(MemoryTransport, "listen", listen)
            with pytest.raises(PluginError, match=re.escape(text)) as caught:
                await controller.listen("memory://liar")
            assert str(caught.value).startswith("transport 'memory' (aioparallel.transports.memory:MemoryTransport)")
            monkeypatch.setattr(MemoryTransport, "listen", honest)
            # The place is free again, and the controller goes on.
            assert await controller.listen("memory://liar") == "memory://liar"

    asyncio.run(main())


def test_a_transport_of_another_name(monkeypatch: pytest.MonkeyPatch):
    async def main() -> None:
        async with Controller() as controller:
            monkeypatch.setattr(MemoryTransport, "scheme", "remembered")
            with pytest.raises(PluginError, match="has the scheme 'remembered': it must be 'memory', as its name is"):
                await controller.listen("memory://here")

    asyncio.run(main())
