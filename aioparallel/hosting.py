"""An interface in its controller: the Host that it sees, and the walls around what it does."""

from __future__ import annotations

import asyncio
import gc
import logging
import types
from collections.abc import Collection, Coroutine, Generator, Mapping
from contextvars import Context, ContextVar, Token
from typing import TYPE_CHECKING, Any

from aioparallel import plugins
from aioparallel.errors import PluginError
from aioparallel.events import LoopHeldUp, Monitor
from aioparallel.limits import Limits
from aioparallel.proxies import EngineProxies
from aioparallel.source import Source

if TYPE_CHECKING:
    from aioparallel.capability import Capability
    from aioparallel.engines import Engine

__all__ = ["HELD_UP", "Hosting", "described"]

logger = logging.getLogger(__name__)

#: Seconds from which on it is told that an interface has kept the loop to itself.
HELD_UP = 0.5
#: Seconds that an interface may take to start, and to stop; and its tasks to end.
START, STOP = 60.0, 5.0

#: Whose code runs. Tasks inherit it, so it is known whose they are.
_owner: ContextVar[Hosting | None] = ContextVar("aioparallel interface", default=None)


def described(kind: type, name: str) -> str:
    """Say which interface is meant, and where it is, for people: `interface 'wordcount' (wordcount:WordCount)`."""
    return plugins.describe(plugins.INTERFACES, name, f"{kind.__module__}:{kind.__qualname__}")


class Hosting:
    """One interface in a controller, and its `Host`.

    What the interface's code raises where nobody waits for it is logged; how long it keeps the loop is measured; its
    tasks end with it.

    Args:
        controller: The controller.
        interface: The interface; it is told of this.
        name: Its name.
    """

    def __init__(self, controller: Any, interface: Any, name: str) -> None:
        self.interface = interface
        self.name = name
        self.text = described(type(interface), name)
        self._controller = controller
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._proxies = EngineProxies(self)
        interface.host = self

    def __repr__(self) -> str:
        return f"<Hosting of {self.interface!r}, {len(self._tasks)} tasks>"

    @staticmethod
    def runs_in(controller: Any) -> bool:
        """Whether the code that asks is that of one of a controller's interfaces."""
        hosting = _owner.get()
        return hosting is not None and hosting._controller is controller

    # What an interface sees (Host)

    @property
    def engines(self) -> Mapping[int, Any]:
        """The engines by id, ascending: as `EngineProxy`, or as they are for an interface that is `raw`."""
        engines: Mapping[int, Any] = self._controller.engines if self.interface.raw else self._proxies
        return engines

    @property
    def monitor(self) -> Monitor:
        """Who is told what happened."""
        monitor: Monitor = self._controller.monitor
        return monitor

    @property
    def limits(self) -> Limits:
        """The bounds in force."""
        limits: Limits = self._controller.limits
        return limits

    @property
    def source(self) -> Source:
        """Where random bytes and the wall clock come from."""
        source: Source = self._controller.source
        return source

    def create_task(self, work: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        """Run `work`; the task is kept, its failure is logged, and it is cancelled when the interface stops."""
        task = self.run(work, name or str(getattr(work, "__name__", "a task")))
        task.add_done_callback(self._failed_alone)
        return task

    def grant(self, *caveats: str) -> Capability:
        """Return a capability of this interface, narrowed by `caveats` (`Capability.narrow`).

        Raises:
            CapabilityError: A caveat can't be understood.
        """
        capability: Capability = self._controller.capability(self.name)
        return capability.narrow(*caveats) if caveats else capability

    def status(self) -> dict[str, Any]:
        """Everything a person would ask, as plain values."""
        status: dict[str, Any] = self._controller.status()
        return status

    def shut_down(self) -> None:
        """End the controller, in good order, soon."""
        self._controller.shut_down()

    # What the controller does with it

    def engine(self, number: int) -> Engine | None:
        """Return an engine as it is."""
        engine: Engine | None = self._controller.engines.get(number)
        return engine

    def ids(self) -> Collection[int]:
        """Return the ids of all engines, ascending."""
        ids: Collection[int] = self._controller.engines.keys()
        return ids

    def tell_of(self, hook: str, engine: Engine) -> None:
        """Call one of the interface's methods that are told what happens to an engine."""
        self.tell(hook, engine if self.interface.raw else self._proxies.of(engine))
        if hook == "engine_left":
            self._proxies.left(engine)

    async def start(self) -> None:
        """Let the interface begin; if it can't, nothing of it is left.

        Raises:
            PluginError: It can't; the text says why.
        """
        try:
            async with asyncio.timeout(START):
                await self.timed(self.interface.start(), "start")
        except BaseException as error:
            await self._end_tasks()
            if isinstance(error, Exception | SystemExit):
                late = f"it has not after {START:.0f} s" if isinstance(error, TimeoutError) else ""
                reason = late or f"{type(error).__name__}: {error}"
                raise PluginError(f"{self.text} can't start: {reason}") from error
            raise

    async def stop(self) -> None:
        """Let the interface end, and end what it has left."""
        try:
            async with asyncio.timeout(STOP):
                await self.timed(self.interface.stop(), "stop")
        except (Exception, SystemExit):
            logger.exception("%s failed to stop", self.text)
        finally:
            await self._end_tasks()

    def report(self) -> dict[str, Any]:
        """Return what people should know of the interface; if it fails at that, this."""
        with self.running("report"):
            try:
                report: dict[str, Any] = self.interface.report()
            except Exception as error:
                logger.exception("%s failed at report", self.text)
                return {"trouble": f"its report failed: {type(error).__name__}: {error}"}
            return report

    def tell(self, hook: str, *arguments: Any) -> None:
        """Call one of the interface's methods that are told what happens; what it raises is logged."""
        with self.running(hook):
            try:
                getattr(self.interface, hook)(*arguments)
            except Exception:
                logger.exception("%s failed at %s", self.text, hook)

    def run(self, work: Coroutine[Any, Any, Any], place: str) -> asyncio.Task[Any]:
        """Run `work` as a task that ends with the interface at the latest."""
        task = self._loop.create_task(self.timed(work, place), name=f"{self.name}: {place}")
        self._tasks[task] = None
        # One that was cancelled before its first step has never begun to wait for this.
        task.add_done_callback(lambda _: (self._tasks.pop(task, None), work.close()))
        return task

    def running(self, place: str) -> _Running:
        """Return a context manager: inside it the interface's code runs, at `place`."""
        return _Running(self, place)

    async def timed(self, work: Coroutine[Any, Any, Any], place: str) -> Any:
        """Wait for `work`, and measure each of its steps."""
        return await _stepped(self, work, place)

    def held_up(self, place: str, seconds: float) -> None:
        """Tell that the interface kept the loop for so long."""
        logger.warning(
            "%s held up the controller for %.1f s, in %s: what takes long belongs on an engine",
            self.text,
            seconds,
            place,
        )
        self.monitor.publish(LoopHeldUp(self.name, place, seconds))

    def _failed_alone(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s failed", task.get_name(), exc_info=task.exception())

    async def _end_tasks(self) -> None:
        """Cancel what the interface has left; what it was not to leave is named."""
        self._proxies.close()
        kept = list(self._tasks)
        here = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if _owner_of(task) is self and task not in self._tasks]
        left = sorted((task for task in others if task is not here), key=lambda task: task.get_name())
        for task in left:
            logger.warning("%s left a task behind, which is cancelled: %s", self.text, _named(task))
        tasks = kept + left
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, pending = await asyncio.wait(tasks, timeout=STOP)
        for task in tasks:
            if task in pending:
                logger.error("%s has a task that does not end when cancelled: %s", self.text, _named(task))


class _Running:
    """While the interface's code runs: whose it is, and for how long."""

    __slots__ = ("_hosting", "_place", "_since", "_token")

    def __init__(self, hosting: Hosting, place: str) -> None:
        self._hosting = hosting
        self._place = place

    def __enter__(self) -> None:
        self._token: Token[Hosting | None] = _owner.set(self._hosting)
        self._since = self._hosting._loop.time()

    def __exit__(self, *exc_info: object) -> None:
        _owner.reset(self._token)
        seconds = self._hosting._loop.time() - self._since
        if seconds >= HELD_UP:
            self._hosting.held_up(self._place, seconds)


@types.coroutine
def _stepped(hosting: Hosting, work: Coroutine[Any, Any, Any], place: str) -> Generator[Any, Any, Any]:
    """Pass everything between a coroutine and the loop, step by step."""
    running = _Running(hosting, place)
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            with running:
                waited = work.send(value) if error is None else work.throw(error)
        except StopIteration as end:
            return end.value
        value, error = None, None
        try:
            value = yield waited
        except GeneratorExit:
            work.close()
            raise
        except BaseException as thrown:
            error = thrown


def _owner_of(task: asyncio.Task[Any]) -> Hosting | None:
    get_context = getattr(task, "get_context", None)
    if get_context is not None:
        context: Context | None = get_context()
    else:  # Python 3.11 knows it, and does not tell
        context = next((each for each in gc.get_referents(task) if isinstance(each, Context)), None)
    return None if context is None else context.get(_owner)


def _named(task: asyncio.Task[Any]) -> str:
    work = task.get_coro()
    return f"{task.get_name()} ({getattr(work, '__qualname__', work)})"
