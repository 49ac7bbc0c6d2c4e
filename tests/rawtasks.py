"""What a client says to the Task interface and hears from it, word by word, without what the faces make of that."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

from house import frame
from model import ModelHost, model_cluster, settle

import aioparallel
from aioparallel.errors import ParallelError, from_plain
from aioparallel.reference import Outcome
from aioparallel.serialize import pack, unpack, unpack_error
from aioparallel.taskstate import Task
from aioparallel.terms import Terms
from aioparallel.wire import TRIED, Frame, Kind, Status, encode

#: An answer: a value, one of our errors, or what user code raised.
Answer = Any


class FakeOwner:
    """Whom a task is counted for: keeps what it is told."""

    def __init__(self, reach: frozenset[int] | None = None) -> None:
        self.grant = SimpleNamespace(engines=reach, id="grant")
        self.session = "session 1"
        self.held = 0
        self.said: list[tuple[Any, ...]] = []

    def hold(self, size: int) -> None:
        self.held += size

    def release(self, size: int) -> None:
        self.held -= size

    def fault(self, number: int, error: ParallelError, *, engine: int, last: bool, tried: int) -> None:
        self.said.append((number, type(error).__name__, engine, last, tried))

    def forward(self, frame: Frame, number: int, *, code: int, flags: int, engine: int) -> None:
        self.said.append((number, Status(code % TRIED).name, engine, bool(flags), code // TRIED))


def made_task(owner: Any = None, *, buffers: Sequence[bytes] = (b"call",), label: bytes = b"", **terms: Any) -> Any:
    """Return a task that is nowhere yet, on terms as clients say them."""
    home: Any = SimpleNamespace(done=None, take_back=None)
    task = Task(home, 7, owner or FakeOwner(), frame(Kind.CALL, 3, buffers=buffers), label)
    if terms:
        task.agree(Terms.of(terms, len(buffers)))
    return task


def value_in(frame: Frame) -> Answer:
    """Return what an answer holds."""
    code = frame.code % TRIED
    if code == Status.FAULT:
        return from_plain(frame.json())
    if code == Status.OK:
        return unpack(frame.buffers) if frame.buffers else frame.json()
    return unpack_error(frame.buffers)


class Call(asyncio.Future[list[Answer]]):
    """The answers to a call, when the last of them has come.

    Attributes:
        number: Its number.
        tried: How often the task was tried before, as the last answer says.
        engine: Which engine the last answer names.
    """

    number = 0
    tried = 0
    engine = -1

    async def last(self) -> Answer:
        """Return the last answer, alone if it is the only one."""
        answers = await asyncio.wait_for(self, 10)
        return answers[0] if len(answers) == 1 else answers

    def __await__(self) -> Any:
        return super().__await__()


class Raw:
    """A client of the Task interface that says just what it is told to."""

    def __init__(self, tc: aioparallel.TaskClient) -> None:
        self.tc = tc
        self.channel = tc.channel
        self.controller: Any = None

    def call(self, operation: str, header: bytes, buffers: Any = ()) -> Call:
        """Call an operation."""
        call = Call(loop=asyncio.get_running_loop())

        def finish(frames: list[Frame]) -> list[Answer]:
            answers = call.answers  # type: ignore[attr-defined]
            _, code, _ = answers[-1] if isinstance(answers, list) else answers
            call.tried, call.engine = code // TRIED, frames[-1].engine
            return [value_in(frame) for frame in frames]

        call.number = self.channel.call(operation, call, finish, header=header, buffers=buffers)
        return call

    def submit(self, f: Callable[..., Any], *args: Any, operation: str = "submit_with", **terms: Any) -> Call:
        """Submit a call of a function on terms."""
        buffers = pack(("apply", f, args, {}))
        if (recovery := terms.pop("recovery", None)) is not None:
            more = pack(("apply", *recovery[:2], {}))
            terms["recovery"] = {"buffers": len(more), **(recovery[2] if len(recovery) > 2 else {})}
            buffers += more
        return self.call(operation, json.dumps({"label": f.__name__, **terms}).encode(), buffers)

    def cancel(self, call: Call) -> None:
        """Say that a call is no longer wanted, and go on listening."""
        self.channel._departures.post(encode(Kind.CANCEL, call.number))

    async def run(self, f: Callable[..., Any], *args: Any, **terms: Any) -> int:
        """Run a task that nobody waits for; return its id."""
        answer = await self.submit(f, *args, operation="run", **terms).last()
        if isinstance(answer, ParallelError):
            raise answer
        number: int = answer["task"]
        return number

    def result(self, task: int, *, block: bool = False) -> Call:
        """Ask for the result of a task."""
        return self.call("get_task_result", json.dumps({"task": task, "block": block}).encode())

    def ask(self, operation: str, **arguments: Any) -> Any:
        """Call a plain operation."""
        return asyncio.wait_for(self.tc._operate(operation, **arguments), 10)


def of(*calls: Call | int, **kind: Any) -> dict[str, Any]:
    """Return a relation to those calls, or to tasks by their ids."""
    return {"of": [{"task": c} if isinstance(c, int) else {"call": c.number} for c in calls]} | kind


def argument(place: int) -> Outcome:
    """Return what stands for a parent's value in a call."""
    return Outcome(place)


@contextlib.asynccontextmanager
async def raw_tasks(n: int = 2, *, eager: bool = True, **options: Any) -> AsyncIterator[tuple[Raw, ModelHost, Any]]:
    """Yield a raw client, the host of `n` model engines, and the dispatcher; afterwards nothing must be left."""
    async with model_cluster(n, eager=eager, **options) as (controller, host):
        tasks = controller.interfaces["task"]._tasks  # type: ignore[attr-defined]
        async with aioparallel.TaskClient(controller.capability("task")) as tc:
            raw = Raw(tc)
            raw.controller = controller
            yield raw, host, tasks
            await settle()
            host.eager, host.stubborn = True, False
            while host.waiting:
                host.step()
            await settle()
        await settle()
        check(tasks)
        assert tasks.scheduled == tasks.pending == 0, tasks
        for table in (tasks._waiters, tasks._refused, tasks.unattended, tasks.placing._choosy, tasks._graph._children):
            assert not table, table


def run(story: Any, *args: Any, loop: type[asyncio.AbstractEventLoop] | None = None, **options: Any) -> None:
    """Tell a story of a raw client, of its engines' host and of the dispatcher; on a loop of that kind."""

    async def main() -> None:
        async with raw_tasks(*args, **options) as (raw, host, tasks):
            await story(raw, host, tasks)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


def check(tasks: Any) -> None:
    """Every task is in exactly one place."""
    ledger = tasks.ledger
    over = ledger.succeeded + ledger.failed + ledger.cleared
    assert tasks.scheduled + tasks.pending + over == tasks.total, (tasks, ledger.cleared, tasks.total)
