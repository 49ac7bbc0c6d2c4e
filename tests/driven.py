"""A real kernel with nothing above it: commands in, answers out, each under its id."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from aioparallel.kernels import KernelOptions, ProcessKernel
from aioparallel.serialize import pack, unpack, unpack_error
from aioparallel.testing.rules import until
from aioparallel.wire import RESULT_META, Frame, KernelCall, Kind, Limits, News, Status, encode

ENGINE = 7


@dataclass
class Outcome:
    """What came back for one command."""

    status: Status
    value: Any
    stdout: str
    stderr: str
    seconds: float

    @classmethod
    def of(cls, frame: Frame) -> Outcome:
        status = Status(frame.code)
        if status is Status.CANCELLED:
            return cls(status, None, "", "", 0.0)
        header = frame.header
        _, seconds, length = RESULT_META.unpack_from(header)
        output = header[RESULT_META.size :]
        value = unpack(frame.buffers) if status is Status.OK else unpack_error(frame.buffers)
        return cls(status, value, output[:length].decode(), output[length:].decode(), seconds)


class Driven:
    """A kernel, and what it says."""

    def __init__(self, options: KernelOptions | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.kernel = ProcessKernel(self._receive, self._ended, options=options)
        self.ready: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.ended: asyncio.Future[tuple[int, str, int | None]] = loop.create_future()
        self.order: list[int] = []
        #: Log records: how many answers came before, the session, the message.
        self.records: list[tuple[int, int, str]] = []
        self._answers: dict[int, asyncio.Future[Outcome]] = {}
        self._number = 0
        self._told = asyncio.Event()

    async def start(self, path: list[str] | None = None) -> None:
        self.kernel.start()
        await self.ready
        header = json.dumps({"engine": ENGINE, "path": path or []}).encode()
        self.kernel.send(encode(Kind.CALL, code=KernelCall.SETUP, header=header))

    def expect(self) -> tuple[int, asyncio.Future[Outcome]]:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        return self._number, answer

    def submit(self, verb: str, *arguments: Any) -> tuple[int, asyncio.Future[Outcome]]:
        number, answer = self.expect()
        self.kernel.send(encode(Kind.COMMAND, number, buffers=pack((verb, *arguments))))
        return number, answer

    def execute(self, code: str) -> tuple[int, asyncio.Future[Outcome]]:
        return self.submit("execute", code)

    async def do(self, code: str) -> Outcome:
        return await self.execute(code)[1]

    def cancel(self, number: int) -> None:
        """Withdraw a command; one that runs is interrupted."""
        self.kernel.withdraw(number)
        if self.kernel.running == number:
            self.kernel.interrupt(number)

    async def running(self, number: int) -> None:
        """Wait until that command runs."""
        await until(lambda: self.kernel.running == number)

    async def printed(self, text: str, stream: int = 0) -> None:
        """Wait until the command that runs has written that."""
        await printed(self.kernel, text, stream)

    async def told(self, condition: Callable[[], object]) -> None:
        """Wait until what the kernel has told makes that so."""
        while not condition():
            self._told.clear()
            await self._told.wait()

    def _receive(self, frames: list[Frame]) -> None:
        self._told.set()
        for frame in frames:
            if frame.kind == Kind.NOTICE and frame.code == News.RECORD:
                self.records.append((len(self.order), frame.id, frame.json()["record"]["msg"]))
            elif frame.kind == Kind.NOTICE:
                self.ready.set_result(frame.json())
            else:
                self.order.append(frame.id)
                if frame.id in self._answers:
                    self._answers.pop(frame.id).set_result(Outcome.of(frame))

    def _ended(self, returncode: int, output: str) -> None:
        self.ended.set_result((returncode, output, self.kernel.running))


@contextlib.asynccontextmanager
async def driven(limits: Limits | None = None, path: list[str] | None = None) -> AsyncIterator[Driven]:
    """Yield a kernel that is ready, and end it."""
    one = Driven(KernelOptions(limits=limits or Limits()))
    try:
        async with asyncio.timeout(30):
            await one.start(path)
            yield one
    finally:
        await one.kernel.aclose()


async def printed(kernel: Any, text: str, stream: int = 0) -> None:
    """Wait until the command that runs has written that, to memory that the kernel shares."""
    await until(lambda: text.encode() in kernel._outputs[stream].tail(10_000))
