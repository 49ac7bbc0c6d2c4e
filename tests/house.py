"""A roster with an engine host's link, driven by hand: what is sent to the host is looked at, and answered."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

from pieces import flat

from aioparallel.decoder import Decoder
from aioparallel.engines import Engine
from aioparallel.errors import to_plain
from aioparallel.events import Event, Monitor
from aioparallel.queues import Command
from aioparallel.roster import EngineLink, Roster
from aioparallel.wire import EngineCall, Frame, Kind, Limits, Status, encode


def frame(kind: int, number: int = 0, **about: Any) -> Frame:
    [made] = Decoder(Limits()).feed(flat(encode(kind, number, **about)))
    return made


class FakeConnection:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.limits = Limits()
        self._decoder = Decoder(self.limits)
        self._streams = itertools.count()
        self.sent: list[Frame] = []
        #: Ids of what has not left, if anybody asks.
        self.leaving: set[int] = set()

    def withdraw(self, number: int) -> bool:
        return number in self.leaving

    def send(self, pieces: Any) -> None:
        self.sent += self._decoder.feed(flat(pieces, self._streams))

    def forward(self, frame: Frame, kind: int, number: int, **head: Any) -> Any:
        return frame.forward(kind, number, **head)

    def take(self) -> list[Frame]:
        sent, self.sent = self.sent, []
        return sent


class Client:
    """Whoever wants work done: the client of its commands, and its connection."""

    def __init__(self) -> None:
        self.connection = self
        self.congested = False


class Work(Command):
    """A command of a test, which may give it a limit."""

    limit: float | None = None


class House:
    """A roster, and one host's link to it."""

    def __init__(self, **options: Any) -> None:
        self.events: list[Event] = []
        self.told: list[tuple[str, int]] = []
        monitor = Monitor()
        monitor.listen(self.events.append)
        self.roster = Roster(
            monitor,
            on_join=lambda engine: self.told.append(("join", engine.id)),
            on_leave=lambda engine: self.told.append(("leave", engine.id)),
            on_kernel_lost=lambda engine: self.told.append((engine.state, engine.id)),
            on_properties=lambda engine: self.told.append((str(engine.properties), engine.id)),
            **options,
        )
        self.host, self.link = self.dial()
        self.results: list[tuple[str, Any]] = []
        self.client = Client()
        #: What the host was sent and has not answered, by label.
        self.under_way: dict[str, Frame] = {}

    def dial(self) -> tuple[FakeConnection, EngineLink]:
        host = FakeConnection()
        return host, EngineLink(host, self.roster, "3.11.7")  # type: ignore[arg-type]

    def join(self, link: EngineLink | None = None, **about: Any) -> Engine:
        header = json.dumps({"pid": 17, "host": "here"} | about).encode()
        before = set(self.roster.engines)
        (link or self.link).receive([frame(Kind.CALL, 5, code=EngineCall.JOIN, header=header)])
        [number] = set(self.roster.engines) - before
        return self.roster.engines[number]

    def ready(self, pid: int) -> int:
        """Have a fresh kernel on engine 0; return from which command on it is meant."""
        header = json.dumps({"engine": 0, "pid": pid}).encode()
        self.link.receive([frame(Kind.CALL, 7, code=EngineCall.READY, engine=0, header=header)])
        answer = next(sent for sent in self.host.sent if sent.kind == Kind.RESULT and sent.id == 7)
        assert (answer.json()["engine"], answer.json()["pid"]) == (0, pid)
        first: int = answer.json()["first"]
        return first

    def command(self, label: str, *, client: Client | None = None, **options: Any) -> Work:
        def done(command: Command, result: Any) -> None:
            self.results.append((command.label.decode(), result))

        payload = frame(Kind.CALL, 900, buffers=[label.encode()])
        return Work(payload, client or self.client, done, label=label.encode(), **options)

    def put(self, engine: Engine, *labels: str, **options: Any) -> list[Work]:
        commands = [self.command(label, **options) for label in labels]
        for command in commands:
            engine.put(command)
        return commands

    def arrived(self) -> list[str]:
        """Return the labels of what the host was sent to do."""
        new = [sent for sent in self.host.take() if sent.kind == Kind.COMMAND]
        self.under_way.update({bytes(sent.buffers[0]).decode(): sent for sent in new})
        return [bytes(sent.buffers[0]).decode() for sent in new]

    def answer(self, label: str, code: Status = Status.OK, error: Exception | None = None) -> None:
        sent = self.under_way.pop(label)
        header = json.dumps(to_plain(error)).encode() if error else b""
        self.link.receive([frame(Kind.RESULT, sent.id, code=code, engine=sent.engine, header=header)])

    def done(self) -> list[str]:
        done, self.results = [label for label, _ in self.results], []
        return done


Play = Callable[..., None]


def playing(run: Callable[[Any], None]) -> Play:
    """Return what tells a story, given a house in a loop of that kind."""

    def play(story: Callable[[House], None], **options: Any) -> None:
        async def main() -> None:
            story(House(**options))

        run(main())

    return play


def gone(house: House, event: str = "kernel_died") -> None:
    house.link.receive([frame(Kind.NOTICE, header=json.dumps({"engine": 0, "event": event}).encode())])
