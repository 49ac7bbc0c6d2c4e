"""A controller, engine hosts and clients as parts of one program: they work together, and nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import itertools
import threading
import types
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from model import model_cluster, settle
from runners import RUNNERS

import aioparallel
from aioparallel.kernels import MakeKernel
from aioparallel.testing.model import ModelKernel, Pipe
from aioparallel.transports import memory
from aioparallel.wire import Limits

#: Kernels of an engine host: played in this process, or real ones.
Kernels = Callable[[], MakeKernel | None]


class Counting(aioparallel.Interface):
    """Counts, and has work under way whenever anybody looks."""

    name = "counting"

    async def start(self) -> None:
        self.ended = asyncio.Event()
        self.host.create_task(self.ended.wait())
        await asyncio.sleep(0)

    async def stop(self) -> None:
        await asyncio.sleep(0)

    @aioparallel.remote
    async def power(self, base: int, exponent: int) -> int:
        """Return a power, computed on an engine."""
        engine = self.host.engines[min(self.host.engines)]
        value: int = await engine.call("builtins:pow", base, exponent)
        return value

    @aioparallel.remote
    async def count(self) -> AsyncIterator[int]:
        """Yield numbers for ever."""
        for number in itertools.count():
            yield number

    @aioparallel.remote
    async def wait(self) -> None:
        """Wait for ever."""
        await self.ended.wait()


class Idle(aioparallel.Interface):
    """Has a task under way, and nothing else."""

    name = "idle"

    async def start(self) -> None:
        self.host.create_task(asyncio.Event().wait())


class Stage:
    """What model kernels need."""

    def __init__(self) -> None:
        self.pipe = Pipe(Limits())
        self._pids = itertools.count(1000)

    def new_pid(self) -> int:
        return next(self._pids)

    def boot_time(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0

    def kernel_event(self, kernel: ModelKernel, what: str) -> None: ...

    def kernel_ended(self, kernel: ModelKernel) -> None: ...


def models() -> MakeKernel:
    stage = Stage()
    return lambda on_frames, on_exit: ModelKernel(on_frames, on_exit, stage)


@dataclass(frozen=True)
class Belongings:
    """What a process has that must not grow."""

    threads: int
    descriptors: int
    children: int
    listeners: int

    @classmethod
    def now(cls) -> Belongings:
        children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
        return cls(
            threading.active_count(),
            len(list(Path("/proc/self/fd").iterdir())),
            sum(map(len, children)),
            len(memory._listeners),
        )


def real() -> None:
    """Let a host have the kernels that it has by itself."""


async def life(address: str, kernels: Kernels = models) -> None:
    """Start everything that an application might have, use it, and end it."""
    async with aioparallel.Controller() as controller:
        await controller.add("task")
        await controller.listen(address)
        await controller.add(Counting)
        await controller.add(Idle)
        host = aioparallel.EngineHost(controller.capability("engine"), n=2, make_kernel=kernels())
        async with host, Counting.client(controller.capability("counting")) as counting:
            await host.wait_ready()
            async with aioparallel.TaskClient(controller.capability("task")) as tc:
                assert await tc.submit(pow, 2, 10) == 1024
                waiting = counting.wait()
                # Its error is looked at below, or never.
                waiting.add_done_callback(lambda call: call.cancelled() or call.exception())
                assert await counting.power(2, 5) == 32
                async for number in counting.count():
                    if number == 3:
                        break
        assert isinstance(waiting.exception(), aioparallel.ConnectionLost)


def objects() -> Counter[str]:
    """Count what there is of ours in memory, by class."""
    gc.collect()
    kinds = (type(each) for each in gc.get_objects())
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith("aioparallel."))


async def nothing_left(directory: Path, before: Belongings) -> None:
    """Hold that all is as before, but for the turns of the loop in which sockets close."""
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert list(directory.iterdir()) == []
    assert Belongings.now() == before


def addressed(scheme: str, directory: Path) -> str:
    return "memory://app" if scheme == "memory" else f"unix://{directory}/app"


def lives(run: Any, rounds: int, address: str, directory: Path, kernels: Kernels = models) -> None:
    async def main() -> None:
        await life(address, kernels)
        await settle()
        before, held = Belongings.now(), objects()
        for _ in range(rounds):
            await life(address, kernels)
        await nothing_left(directory, before)
        # Not even in the loop's timers, for a while: who is started and ended often would grow by that.
        assert objects() == held

    run(main(), debug=False)


@pytest.mark.parametrize(("run", "scheme"), [(asyncio.run, "memory"), (uvloop.run, "unix")])
def test_two_hundred_lives_leave_nothing(run: Any, scheme: str, directory: Path) -> None:
    lives(run, 200, addressed(scheme, directory), directory)


@RUNNERS
def test_lives_with_real_kernels_leave_nothing(run: Any, directory: Path) -> None:
    lives(run, 5, addressed("unix", directory), directory, real)


@types.coroutine
def cancelled_at(step: int, work: Coroutine[Any, Any, None]) -> Generator[Any, Any, bool]:
    """Do `work`, but be cancelled while it waits for the `step`-th time; return whether it got through before."""
    task, error = asyncio.current_task(), None
    assert task is not None
    for count in itertools.count(1):
        try:
            waited = work.send(None) if error is None else work.throw(error)
        except StopIteration:
            return count <= step
        if count == step:
            task.cancel()
        error = None
        try:
            yield waited
        except BaseException as thrown:
            error = thrown
    raise AssertionError


async def cancelled_after(turns: int, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work`, but be cancelled after so many turns of the loop; return whether it got through before."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    later: asyncio.Handle

    def turn(left: int) -> None:
        nonlocal later
        if left:
            later = loop.call_soon(turn, left - 1)
        else:
            task.cancel()

    later = loop.call_soon(turn, turns)
    try:
        await work
    finally:
        later.cancel()
    return True


def cancel(run: Any, how: Any, address: str, directory: Path, kernels: Kernels = models, every: int = 1) -> int:
    """Cancel a life at each moment, one after the other, until it gets through; return how many there are."""

    async def main() -> int:
        await life(address, kernels)
        await settle()
        before = Belongings.now()
        for moment in itertools.count(1, every):
            try:
                through = await asyncio.ensure_future(how(moment, life(address, kernels)))
            except asyncio.CancelledError:
                through = False
            await nothing_left(directory, before)
            if through:
                return moment
        raise AssertionError

    moments: int = run(main(), debug=False)
    return moments


@RUNNERS
@pytest.mark.parametrize("scheme", ["memory", "unix"])
def test_cancelled_at_any_await_it_leaves_nothing(run: Any, scheme: str, directory: Path) -> None:
    assert cancel(run, cancelled_at, addressed(scheme, directory), directory) > 10


@RUNNERS
@pytest.mark.parametrize("scheme", ["memory", "unix"])
def test_cancelled_in_any_turn_it_leaves_nothing(run: Any, scheme: str, directory: Path) -> None:
    assert cancel(run, cancelled_after, addressed(scheme, directory), directory) > 50


def test_cancelled_at_any_await_it_leaves_no_process(directory: Path) -> None:
    assert cancel(asyncio.run, cancelled_at, addressed("unix", directory), directory, real) > 10


def test_two_side_by_side_do_not_meet(directory: Path) -> None:
    async def one(name: str) -> None:
        async with aioparallel.Controller(cluster=name) as controller:
            await controller.listen(f"memory://{name}")
            await controller.listen(f"unix://{directory}/{name}")
            await controller.add(Counting)
            await controller.add("multiengine")
            met.append(controller)
            async with aioparallel.EngineHost(controller.capability("engine"), n=2, make_kernel=models()) as host:
                await host.wait_ready()
                async with aioparallel.MultiEngineClient(controller.capability("multiengine")) as mec:
                    await mec.push({"where": name})
                    await asyncio.wait_for(barrier.wait(), 20)
                    assert await mec.pull("where") == [name, name]
                    other = next(each for each in met if each is not controller)
                    stolen = dataclasses.replace(
                        controller.capability("counting"), addresses=tuple(reversed(other.addresses))
                    )
                    with pytest.raises(aioparallel.AccessDenied):
                        await Counting.client.connect(stolen)
                    await asyncio.wait_for(barrier.wait(), 20)

    async def main() -> None:
        await asyncio.gather(one("left"), one("right"))

    met: list[aioparallel.Controller] = []
    barrier = asyncio.Barrier(2)
    asyncio.run(main())
    assert list(directory.iterdir()) == []


def test_closed_while_clients_wait() -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, _):
            await controller.add(Counting)
            async with (
                aioparallel.TaskClient(controller.capability("task")) as tc,
                aioparallel.MultiEngineClient(controller.capability("multiengine")) as mec,
                Counting.client(controller.capability("counting")) as counting,
            ):
                waiting = [tc.submit(pow, 2, 10), mec.execute("1"), counting.wait(), anext(counting.notices())]
                await settle()
                await controller.aclose()
                for outcome in await asyncio.gather(*waiting, return_exceptions=True):
                    assert isinstance(outcome, aioparallel.ConnectionLost), outcome
                    assert "the controller has ended" in str(outcome)

    asyncio.run(main())


def test_whoever_closes_it_second_waits_for_its_end_too() -> None:
    class Slow(aioparallel.Interface):
        name = "slow"

        async def stop(self) -> None:
            await settle(10)
            order.append("stopped")

    async def close(controller: aioparallel.Controller) -> None:
        await controller.aclose()
        order.append("closed")

    async def main() -> None:
        controller = aioparallel.Controller()
        await controller.add(Slow)
        impatient = asyncio.ensure_future(close(controller))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.gather(close(controller), close(controller), impatient, return_exceptions=True)
        assert impatient.cancelled()

    order: list[str] = []
    asyncio.run(main())
    assert order == ["stopped", "closed", "closed"]


def test_an_interface_that_closes_its_controller_does_not_wait_for_itself() -> None:
    class Last(aioparallel.Interface):
        name = "last"

        def __init__(self, controller: aioparallel.Controller) -> None:
            self.controller = controller

        async def stop(self) -> None:
            await self.controller.aclose()

        @aioparallel.remote
        async def turn_off(self) -> None:
            """End the controller."""
            await self.controller.aclose()

    async def main() -> None:
        controller = aioparallel.Controller()
        await controller.listen("memory://last")
        await controller.add(Last(controller))
        async with Last.client(controller.capability("last")) as last:
            with pytest.raises(aioparallel.ConnectionLost, match="the controller has ended"):
                await last.turn_off()
            await controller.aclose()
            assert not last.channel.is_open

    asyncio.run(main())


def test_what_comes_too_late_is_refused_and_put_away(directory: Path) -> None:
    async def main() -> None:
        controller = aioparallel.Controller()
        # On their way when it ends, and after that.
        adding = asyncio.ensure_future(controller.add(Counting))
        await asyncio.sleep(0)
        await controller.aclose()
        with pytest.raises(aioparallel.PluginError, match="'counting' comes too late: the controller has ended"):
            await adding
        with pytest.raises(aioparallel.PluginError, match="'idle' comes too late: the controller has ended"):
            await controller.add(Idle)
        for address in ("memory://late", f"unix://{directory}/late"):
            with pytest.raises(aioparallel.AddressError, match="late: the controller has ended"):
                await controller.listen(address)
        assert not controller.interfaces
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert list(directory.iterdir()) == []


def test_in_a_starlette_application() -> None:
    applications = pytest.importorskip("starlette.applications", reason="NOT TESTED: there is no starlette here")
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        async with aioparallel.Controller() as controller:
            await controller.listen("memory://starlette")
            await controller.add("task")
            async with (
                aioparallel.EngineHost(controller.capability("engine"), n=2, make_kernel=models()) as engines,
                aioparallel.TaskClient(controller.capability("task")) as tasks,
            ):
                await engines.wait_ready()
                yield {"tasks": tasks}

    async def power(request: Any) -> Any:
        return PlainTextResponse(str(await request.state.tasks.submit(pow, 2, int(request.query_params["n"]))))

    async def served(app: Any) -> list[bytes]:
        """Be its server, for its life and two requests."""
        inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        living = asyncio.ensure_future(app(scope, inbox.get, told.put))
        await inbox.put({"type": "lifespan.startup"})
        assert await told.get() == {"type": "lifespan.startup.complete"}
        bodies = []
        for n in (5, 10):
            request: dict[str, Any] = {
                "type": "http",
                "method": "GET",
                "path": "/power",
                "query_string": f"n={n}".encode(),
                "headers": [],
                "state": dict(scope["state"]),
            }
            await app(request, inbox.get, told.put)
            assert (await told.get())["status"] == 200
            bodies.append((await told.get())["body"])
        await inbox.put({"type": "lifespan.shutdown"})
        assert await told.get() == {"type": "lifespan.shutdown.complete"}
        await living
        return bodies

    async def main() -> None:
        for _ in range(3):
            app = applications.Starlette(routes=[Route("/power", power)], lifespan=lifespan)
            assert await served(app) == [b"32", b"1024"]
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
