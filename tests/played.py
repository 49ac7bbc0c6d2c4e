"""An engine host with real kernels, and a controller that is played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import driven
from pieces import flat

from aioparallel.capability import Capability, Secret
from aioparallel.decoder import Decoder
from aioparallel.engine import EngineHost
from aioparallel.serialize import pack, unpack
from aioparallel.wire import NO_ENGINE, SECONDS, EngineCall, Frame, HostCall, Kind, Limits, Sendable, Status, encode

NOWHERE = Capability(
    id="00",
    interface="engine",
    controller="c0ffee",
    cluster="default",
    addresses=("unix:///nonexistent/socket",),
    server_name="",
    pins=(),
    certificates=(),
    key=Secret(bytes(32)),
    caveats=(),
    issued=0.0,
    serial=1,
    note="",
)


class Played:
    """The controller's part: gives ids, asks, keeps what it is told; what is returned it sends again, if `patient`."""

    congested = False

    def __init__(self) -> None:
        self.on_drained: Callable[[], None] = lambda: None
        self.joined: dict[int, dict[str, Any]] = {}
        self.notices: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.closed = False
        self.patient = True
        self.received = 0
        self._decoder = Decoder(Limits())
        self._streams = itertools.count()
        self._answers: dict[int, asyncio.Future[Frame]] = {}
        self.number = 100
        self._commands: dict[int, list[Sendable]] = {}
        self._returned: list[int] = []

    async def dial(self, on_frames: Callable[[list[Frame]], None], on_lost: Callable[[Any], None]) -> Played:
        self._on_frames, self.lose = on_frames, on_lost
        return self

    def send(self, pieces: Iterable[Sendable]) -> None:
        for frame in self._decoder.feed(flat(pieces, self._streams)):
            self.received += 1
            if frame.kind == Kind.CALL:
                if frame.code == EngineCall.READY:
                    self._ready(frame)
                    continue
                assert frame.code == EngineCall.JOIN
                engine = 10 + len(self.joined)
                self.joined[engine] = frame.json()
                self.say(encode(Kind.RESULT, frame.id, header=json.dumps({"engine": engine}).encode()))
            elif frame.kind == Kind.NOTICE:
                self.notices.put_nowait(frame.json())
                if frame.json()["event"] == "kernel_broken":
                    self._send_again()
            elif frame.code == Status.RETURNED and self.patient:
                self._returned.append(frame.id)
            else:
                self._answers.pop(frame.id).set_result(frame)

    def forward(self, frame: Frame, kind: int, number: int, **head: Any) -> Any:
        return frame.forward(kind, number, shares=False, **head)

    def _ready(self, frame: Frame) -> None:
        self.notices.put_nowait({"event": "ready"} | frame.json())
        self.say(encode(Kind.RESULT, frame.id, header=json.dumps({"first": 0} | frame.json()).encode()))
        self._send_again()

    def _send_again(self) -> None:
        returned, self._returned = self._returned, []
        for number in returned:
            self.say(self._commands[number])

    def close(self, error: BaseException | None = None) -> None:
        self.closed = True
        asyncio.get_running_loop().call_soon(self.lose, error)

    def say(self, pieces: Iterable[Sendable]) -> None:
        self._on_frames(Decoder(Limits()).feed(flat(pieces)))

    def _ask(self, kind: Kind, before: Iterable[Sendable] = (), **parts: Any) -> asyncio.Future[Frame]:
        self.number += 1
        answer = self._answers[self.number] = asyncio.get_running_loop().create_future()
        pieces = self._commands[self.number] = [*before, *encode(kind, self.number, **parts)]
        self.say(pieces)
        return answer

    def execute(self, engine: int, code: str) -> asyncio.Future[Frame]:
        return self._ask(Kind.COMMAND, engine=engine, buffers=pack(("execute", code)))

    def tell(self, operation: HostCall, number: int, engine: int, header: bytes = b"") -> None:
        """Say something about a command that is not answered by itself."""
        self.say(encode(Kind.CALL, number, code=operation, engine=engine, header=header))

    def limited(self, engine: int, code: str, seconds: float) -> asyncio.Future[Frame]:
        """Have a command done that may run for so long."""
        header = SECONDS.pack(seconds)
        limit = encode(Kind.CALL, self.number + 1, code=HostCall.LIMIT, engine=engine, header=header)
        return self._ask(Kind.COMMAND, limit, engine=engine, buffers=pack(("execute", code)))

    def call(self, operation: HostCall, engine: int = NO_ENGINE) -> asyncio.Future[Frame]:
        return self._ask(Kind.CALL, code=operation, engine=engine)

    async def value(self, engine: int, code: str) -> Any:
        frame = await self.execute(engine, code)
        assert frame.code == Status.OK, frame.header
        assert frame.engine == engine
        return unpack(frame.buffers)["repr"]


@contextlib.asynccontextmanager
async def hosted(n: int = 1, **options: Any) -> AsyncIterator[tuple[EngineHost, Played]]:
    played = Played()
    async with asyncio.timeout(40), EngineHost(NOWHERE, n=n, dial=played.dial, **options) as host:
        await host.wait_ready()
        yield host, played


async def printed(host: EngineHost, engine: int, text: str) -> None:
    await driven.printed(host._engines[engine]._kernel, text)
