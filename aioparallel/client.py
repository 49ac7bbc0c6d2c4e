"""The same clients without async, for scripts and prompts."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from aioparallel.capability import Capability
from aioparallel.channel import Channel, Finish, find_capability, plain_value
from aioparallel.cluster import Cluster as AsyncCluster
from aioparallel.errors import *  # noqa: F403  (every exception is importable from here)
from aioparallel.errors import ConfigurationError
from aioparallel.errors import __all__ as _errors
from aioparallel.interfaces.multiengine import MultiEngineCalls, View
from aioparallel.interfaces.task import Mapping, TaskCalls
from aioparallel.portal import Portal, portal
from aioparallel.wire import Limits

__all__ = ["Cluster", "Limits", "MonitorClient", "MultiEngineClient", "PendingResult", "TaskClient", *_errors]


_PENDING, _CANCELLED, _FINISHED = "PENDING", "CANCELLED", "FINISHED"
#: Held for the few instructions in which a result finds out whether anybody uses its condition.
_settling = threading.Lock()


class PendingResult(concurrent.futures.Future[Any]):
    """A result that is on its way: a `concurrent.futures.Future`, and what the lineage had besides.

    It keeps its value or its error and gives it again each time.
    """

    # A condition takes longer to make than all the rest of a call, and nobody needs it who waits through the portal:
    # it is made when first asked for, by `wait`, `as_completed` or `add_done_callback`.

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self._state = _PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self._made: threading.Condition | None = None
        self._watcher: Callable[[], object] | None = None
        self._channel: Channel | None = None
        self._number = 0

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        with _settling:
            if self._made is None:
                self._made = threading.Condition()
            return self._made

    @property
    def r(self) -> Any:
        """The value; waits for it.

        Raises:
            BaseException: What the call raised, each time.
            RuntimeError: This is a callback, which can't wait.
        """
        return self.result()

    def get_result(self, default: Any = None, block: bool = True) -> Any:
        """Return the value; without `block`, `default` if it is not there yet.

        Raises:
            BaseException: What the call raised.
        """
        if not block and not self.done():
            return default
        return self.result()

    def result(self, timeout: float | None = None) -> Any:
        """Return the value; waits for it, at most `timeout` seconds.

        Raises:
            TimeoutError: It took longer.
            CancelledError: It was cancelled.
            BaseException: What the call raised.
        """
        error = self.exception(timeout)
        if error is None:
            return self._result
        try:
            raise error
        finally:
            # The traceback refers to this frame, which must not refer to the error.
            del error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, or None; waits for it, at most `timeout` seconds.

        Raises:
            TimeoutError: It took longer.
            CancelledError: It was cancelled.
        """
        if self._state == _PENDING:
            if timeout is None:
                self._portal.wait_for(self)
            elif not self._portal.wait([self], timeout):
                raise TimeoutError
        if self._state != _FINISHED:
            raise concurrent.futures.CancelledError
        return self._exception

    def done(self) -> bool:
        """Whether it has its value or its error, or was cancelled."""
        return self._state != _PENDING

    def cancel(self) -> bool:
        """Withdraw the work: it is dropped where it waits, or interrupted where it runs."""
        if not super().cancel():
            return False
        self._tell()
        channel, self._channel = self._channel, None
        if channel is not None:
            with contextlib.suppress(ConnectionError):
                channel.withdraw(self._number)
        return True

    def set_result(self, result: Any) -> None:
        """Take the value (for whoever made this)."""
        if not self._finish(result, None):
            super().set_result(result)
        self._tell()

    def set_exception(self, exception: BaseException | None) -> None:
        """Take the error (for whoever made this)."""
        if not self._finish(None, exception):
            super().set_exception(exception)
        self._tell()

    def watch(self, watcher: Callable[[], object]) -> None:
        """Call `watcher` when it is done, in the thread that makes it so; there is one watcher at most."""
        self._watcher = watcher
        if self._state != _PENDING:
            watcher()

    def read_here(self, seconds: float) -> bool:
        """Read what arrives for it in the calling thread, while nobody runs the loop."""
        channel = self._channel
        return channel is not None and channel.read_here(seconds)

    def sent(self, channel: Channel, number: int) -> None:
        """Note which call this is the result of."""
        self._channel = channel
        self._number = number

    def _finish(self, result: Any, exception: BaseException | None) -> bool:
        """Settle it if nobody uses the condition; say whether that is so."""
        with _settling:
            if self._made is not None:
                return False
            if self._state != _PENDING:
                raise concurrent.futures.InvalidStateError(f"{self._state}: {self!r}")
            self._result = result
            self._exception = exception
            self._state = _FINISHED
            return True

    def _tell(self) -> None:
        watcher = self._watcher
        if watcher is not None:
            watcher()


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

    def _begin(
        self, operation: str, finish: Finish, *, header: bytes = b"", buffers: Sequence[Any] = ()
    ) -> PendingResult:
        channel = self._channel
        if channel.congested:
            self._portal.run(channel.drained())
        pending = PendingResult(self._portal)
        pending.sent(channel, channel.call(operation, pending, finish, header=header, buffers=buffers))
        return pending

    def _deliver(self, pending: PendingResult, block: bool | None) -> Any:
        if not (self.block if block is None else block):
            return pending
        try:
            return pending.result()
        except BaseException:
            # Ctrl-C in the middle of a blocking call withdraws the work that nobody will ask for.
            pending.cancel()
            raise

    def _operate(
        self, operation: str, block: bool | None = None, finish: Finish = plain_value, **arguments: Any
    ) -> Any:
        return self._deliver(self._begin(operation, finish, header=json.dumps(arguments).encode()), block)


class MultiEngineClient(MultiEngineCalls, Client):
    """Address engines directly: values at once, or a `PendingResult` with `block=False`."""

    interface: ClassVar[str] = "multiengine"
    _view = View

    def _known_ids(self) -> list[int]:
        ids: list[int] = self._begin("get_ids", plain_value, header=b"{}").result()
        return ids


class TaskClient(TaskCalls, Client):
    """Give work to whichever engine is free: `submit` returns a `PendingResult`, `map` an iterator."""

    interface: ClassVar[str] = "task"

    def map(
        self, f: Callable[..., Any], *iterables: Iterable[Any], chunksize: int | None = None, ordered: bool = True
    ) -> Iterator[Any]:
        """Call `f` on the items of the iterables, many at a time; return an iterator over the values.

        Work starts at once. Input is consumed within a bounded window, so it may be infinite. Dropping the
        iterator withdraws the rest.

        Args:
            f: What to call.
            iterables: As for the builtin `map`.
            chunksize: Items to a message; None adapts to how long they take.
            ordered: Whether values come in the order of the input, or as they are ready.

        Raises:
            ValueError: `chunksize` is not a number from 1 on.
        """
        return self._mapped(Mapping(self, f, iterables, chunksize), ordered)

    def _mapped(self, mapping: Mapping, ordered: bool) -> Iterator[Any]:
        try:
            while mapping.pending:
                pending = mapping.pending[0]
                if not ordered:
                    self._portal.wait(mapping.pending)
                    pending = next(p for p in mapping.pending if p.done())
                mapping.pending.remove(pending)
                yield from mapping.settled(pending, pending.result())
        finally:
            mapping.cancel()

    def _engine_count(self) -> int:
        return len(self._channel.engines)


class Cluster:
    """A controller and engines, started by `with` and ended by its end, by an exception, or with this process.

    The arguments are those of `aioparallel.Cluster`.
    """

    def __init__(self, n: int | None = None, **options: Any) -> None:
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

    def client(self, interface: str) -> Any:
        """Return a client of an interface.

        Raises:
            ConfigurationError: That interface has no blocking client.
        """
        kinds = {kind.interface: kind for kind in (MonitorClient, MultiEngineClient, TaskClient)}
        if interface not in kinds:
            raise ConfigurationError(f"no blocking client for {interface!r}; there are {', '.join(kinds)}")
        made = kinds[interface](self.capability(interface))
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
