"""The same clients without async, for scripts and prompts."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from aioparallel.arrivals import Arrivals, BlockingStream
from aioparallel.calls import MultiEngineCalls
from aioparallel.capability import Capability, find_capability
from aioparallel.channel import Channel
from aioparallel.conditions import Dependency, Properties, depend, require
from aioparallel.errors import *  # noqa: F403  (every exception is importable from here)
from aioparallel.errors import __all__ as _errors
from aioparallel.joint import call_each
from aioparallel.mapping import Mapping
from aioparallel.output import Output, Watch
from aioparallel.pending import PendingResult, PendingTask, Values
from aioparallel.portal import portal
from aioparallel.progress import Progress
from aioparallel.receipt import Receipt
from aioparallel.reducers import register_reducer
from aioparallel.reference import Reference
from aioparallel.reply import CallInfo, Unread
from aioparallel.settling import Finish, plain_value
from aioparallel.taskcalls import TaskCalls
from aioparallel.tasks import MapTask, StringTask, Task, TaskResult
from aioparallel.views import OnJoin, View
from aioparallel.wire import Buffer, Limits

__all__ = [
    "BlockingStream",
    "CallInfo",
    "Cluster",
    "Dependency",
    "Limits",
    "MapTask",
    "MonitorClient",
    "MultiEngineClient",
    "Output",
    "PendingResult",
    "Properties",
    "Progress",
    "Receipt",
    "Reference",
    "StringTask",
    "Task",
    "TaskClient",
    "TaskResult",
    "client_of",
    "depend",
    "register_reducer",
    "require",
    *_errors,
]


class Client:
    """The blocking face of an interface; connected from the start, closed by `close` or `with`.

    Any thread may use it.

    Args:
        capability: What to prove: a capability, the path of its file, or None for the cluster's own.
        cluster: Which cluster, when no capability is given.
        limits: The bounds of the connection.

    Raises:
        NoClusterError: There is no capability file; the text says which was looked for.
        ConnectionFailed: The controller is gone, or refuses.

    Attributes:
        interface: The name of the interface.
        block: Whether calls wait for their value (True) or return a `PendingResult`.
    """

    interface: ClassVar[str]
    block: bool = True

    def __init__(
        self,
        capability: Capability | str | Path | None = None,
        *,
        cluster: str = "default",
        limits: Limits | None = None,
    ) -> None:
        found = find_capability(capability, self.interface, cluster=cluster)
        self._portal = portal()
        self._unread = Unread()
        self._channel = self._portal.run(Channel.open(found, limits=limits, post=self._portal.post))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, '_channel', 'not connected')!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way fail with `ConnectionLost`. Safe to call twice."""
        if self._channel.is_open and not self._channel.loop.is_closed():
            self._portal.run(self._channel.aclose())

    def notices(self, timeout: float | None = None) -> BlockingStream[Any]:
        """Return what the interface tells this client unasked: iterate over it with `for`.

        It ends when the client is closed, and with `ConnectionLost` when the connection is. The first who asks is told
        what came before, too. Who takes them too slowly misses the oldest: 1,024 are kept.

        Args:
            timeout: Seconds after which waiting for the next one ends with `TimeoutError`; None: never.
        """
        opened: list[Arrivals] = []
        self._portal.call(lambda: opened.append(self._channel.notices.open()))
        return BlockingStream(opened[0], self._portal, timeout=timeout)

    def on_notice(self, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Call `callback` with each thing the interface tells this client unasked; return what ends that.

        It is called in the thread that takes in what arrives and must be quick; an exception in it is logged.

        Raises:
            TypeError: `callback` can't be called.
        """
        endings: list[Callable[[], None]] = []
        self._portal.call(lambda: endings.append(self._channel.notices.listen(callback)))
        return endings[0]

    def _stream(self, operation: str, header: bytes, make: Callable[[Any], Any]) -> BlockingStream[Any]:
        return BlockingStream(self._channel.stream(operation, header=header), self._portal, make)

    def _begin(
        self,
        operation: str,
        finish: Finish,
        *,
        header: bytes = b"",
        buffers: Sequence[Any] = (),
        watch: Watch | None = None,
        targets: str | Sequence[int] | None = None,
        behind: Sequence[int] = (),
        future: PendingResult | None = None,
    ) -> PendingResult:
        """Call an operation (`Channel.call`); return the result of its answer, which is `future` if that is given."""
        channel = self._channel
        if buffers and channel.congested:
            self._portal.run(channel.drained())
        pending = PendingResult(self._portal) if future is None else future
        number = channel.call(
            operation, pending, finish, header=header, buffers=buffers, watch=watch, targets=targets, behind=behind
        )
        pending.sent(channel, number)
        return pending

    def _check_block(self, block: bool | None) -> None:
        """Both will do."""

    def _deliver(self, pending: PendingResult, block: bool | None) -> Any:
        if not (self.block if block is None else block):
            pending.unread = self._unread
            return pending
        try:
            return pending.result()
        except BaseException:
            # Ctrl-C in the middle of a blocking call withdraws the work that nobody will ask for.
            pending.cancel()
            raise

    def _conduct(self, steps: Generator[Any, Any, Any]) -> Any:
        with contextlib.closing(steps):
            try:
                pending = next(steps)
                while True:
                    pending = steps.send(self._deliver(pending, True))
            except StopIteration as end:
                return end.value

    def _now(self) -> float:
        return self._channel.loop.time()

    def _forget(self) -> None:
        """Forget what nobody has asked for."""
        unread, self._unread = self._unread, Unread()
        self._channel.forget(unread)

    def _plain_future(self) -> PendingResult:
        return PendingResult(self._portal)

    def _given(self, value: Any, block: bool | None) -> Any:
        """Return a value that is known as if it had been asked for."""
        pending = self._plain_future()
        pending.set_result(value)
        return self._deliver(pending, block)

    def _wait_for_all(self, pending: list[Any], timeout: float | None, asked: PendingResult | None = None) -> None:
        """Wait for results, whatever they are, and for `asked`, whose error is told."""
        for one in pending:
            if not isinstance(one, concurrent.futures.Future):
                raise TypeError(f"barrier waits for the results of calls made with block=False, not for {one!r}")
        try:
            self._portal.wait_for_all(pending if asked is None else [*pending, asked], timeout)
        except BaseException:
            if asked is not None:
                asked.cancel()
            raise
        if asked is not None:
            asked.result()

    def _operate(
        self, operation: str, block: bool | None = None, finish: Finish = plain_value, **arguments: Any
    ) -> Any:
        return self._deliver(self._begin(operation, finish, header=json.dumps(arguments).encode()), block)


class MultiEngineClient(MultiEngineCalls, Client):
    """Address engines directly: values at once, or a `PendingResult` with `block=False`."""

    interface: ClassVar[str] = "multiengine"
    _view = View
    _on_join = OnJoin

    @property
    def channel(self) -> Channel:  # type: ignore[override]
        """The connection."""
        return self._channel

    def _known_ids(self) -> list[int]:
        ids: list[int] = self._begin("get_ids", plain_value, header=b"{}").result()
        return ids

    def _begin_each(
        self,
        operation: str,
        finish: Finish,
        calls: Sequence[tuple[int, bytes, Sequence[Buffer]]],
        watch: Watch | None = None,
    ) -> PendingResult:
        """Call an operation several times as one; return the result of all the answers."""
        channel = self._channel
        if channel.congested:
            self._portal.run(channel.drained())
        pending = PendingResult(self._portal)
        pending.sent(channel, call_each(channel, operation, pending, finish, calls, watch))
        return pending

    def _known_steps(self) -> int:
        steps: list[str] = self._begin("set_up_list", plain_value, header=b"{}").result()
        return len(steps)


class TaskClient(TaskCalls, Client):
    """Give work to whichever engine is free: `submit` returns a `PendingResult`, `map` an iterator."""

    interface: ClassVar[str] = "task"

    _shows = True

    @property
    def channel(self) -> Channel:  # type: ignore[override]
        """The connection."""
        return self._channel

    def _task_future(self) -> PendingTask:
        return PendingTask(self._portal)

    def _make_room(self) -> None:
        if self._channel.congested:
            self._portal.run(self._channel.drained())

    def _engine_count(self) -> int:
        return len(self._channel.engines)

    def _values_of(self, mapping: Mapping, ordered: bool) -> Values:
        return Values(self._portal, mapping, ordered)

    def _list_of(self, values: Iterator[Any]) -> list[Any]:
        return list(values)

    def _in_order_of_ends(self, pending: list[Any], timeout: float | None) -> Iterator[Any]:
        for one in pending:
            if not isinstance(one, PendingResult):
                raise TypeError(f"as_completed is for results on their way, not for {one!r}")
        deadline = None if timeout is None else self._now() + timeout
        ended: deque[Any] = deque()
        #: What is waited for: a result that whoever ends next gives a value. The callbacks come in another thread.
        more = [self._plain_future()]

        def one_ended(result: Any) -> None:
            ended.append(result)
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                more[0].set_result(None)

        for one in pending:
            one.add_done_callback(one_ended)
        for given in range(len(pending)):
            while not ended:
                if more[0].done():
                    more[0] = self._plain_future()
                    continue
                left = None if deadline is None else deadline - self._now()
                if not self._portal.wait(more, left) and not ended:
                    missing = len(pending) - given
                    raise TimeoutError(f"{missing} of {len(pending)} calls have not ended after {timeout} s")
            yield ended.popleft()


class Cluster:
    """A controller and engines, started by `with` and ended by its end, by an exception, or with this process.

    The arguments are those of `aioparallel.Cluster`.
    """

    def __init__(self, n: int | None = None, **options: Any) -> None:
        # Imported when a cluster is wanted: it takes a third of the time in which this module is imported.
        from aioparallel.cluster import Cluster as AsyncCluster

        self._portal = portal()
        self._cluster = AsyncCluster(n, **options)
        self._clients: list[Client] = []

    def __repr__(self) -> str:
        return f"<blocking {self._cluster!r}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start it, and return when every engine is ready.

        Raises:
            ClusterError: It did not start; the text is that of the process which failed.
        """
        self._portal.run(self._cluster.start())

    def close(self) -> None:
        """End every process and close every client. Safe to call twice."""
        clients, self._clients = self._clients, []
        for made in clients:
            made.close()
        self._portal.run(self._cluster.aclose())

    @property
    def engine_ids(self) -> list[int]:
        """The ids of the engines that were started here."""
        return self._cluster.engine_ids

    def add_engines(self, n: int) -> list[int]:
        """Start `n` more engines, and return their ids when they are ready.

        Raises:
            ClusterError: They did not start; what was there before goes on.
        """
        return self._portal.run(self._cluster.add_engines(n))

    def wait_for_engines(self, n: int, timeout: float | None = 60.0) -> None:
        """Wait until the controller has at least `n` engines, wherever they were started.

        Raises:
            TimeoutError: It does not after `timeout` seconds.
        """
        self._portal.run(self._cluster.wait_for_engines(n, timeout))

    def capability(self, interface: str) -> Capability:
        """Return the capability of an interface.

        Raises:
            ClusterError: The cluster does not run.
            NoClusterError: No such interface is hosted.
        """
        return self._cluster.capability(interface)

    def client(self, interface: str | type) -> Any:
        """Return a client of an interface: of its name, or of its class.

        Raises:
            PluginError: No such interface is installed, or no client can be made for it.
            NoClusterError: It is not hosted.
        """
        kind = _WRITTEN.get(interface) if isinstance(interface, str) else None
        if kind is None:
            kind = client_of(self._cluster.interface_class(interface))
        made = kind(self.capability(kind.interface))
        self._clients.append(made)
        return made

    def multiengine(self) -> MultiEngineClient:
        """Return a `MultiEngineClient`."""
        made: MultiEngineClient = self.client("multiengine")
        return made

    def task(self) -> TaskClient:
        """Return a `TaskClient`."""
        made: TaskClient = self.client("task")
        return made


class MonitorClient(Client):
    """Look, and touch nothing."""

    interface: ClassVar[str] = "monitor"

    def status(self, block: bool | None = None) -> Any:
        """Return everything a person would ask about the cluster (`interfaces.monitor.MonitorClient.status`)."""
        return self._operate("status", block)


#: The clients that are here, by interface.
_WRITTEN: dict[str, Any] = {kind.interface: kind for kind in (MonitorClient, MultiEngineClient, TaskClient)}


def client_of(interface: str | type) -> Any:
    """Return the blocking client class of an interface: the one that was written for it, or one made from annotations.

    Each operation is a method with the same parameters, docstring and annotations, and `block=`: it gives the value
    (or a `PendingResult`), or, if the operation is a stream, a `BlockingStream` for `for`.

    Args:
        interface: A subclass of `aioparallel.Interface`, the name of one that is installed, or "module:Class".

    Raises:
        PluginError: There is no such interface; or no client was written, and none can be made. The text says why.
    """
    # Imported by those who have an interface of their own.
    from aioparallel.generated import class_of, make_client

    interface = class_of(interface)
    written = getattr(interface, "blocking_client", None)
    if written is None and interface.__module__.startswith("aioparallel.interfaces."):
        written = _WRITTEN.get(interface.name)  # type: ignore[attr-defined]
    return make_client(interface, Client, blocking=True) if written is None else written
