"""What can be asked of engines directly: the same methods for both faces and for views."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from aioparallel.addressing import no_such_engine
from aioparallel.forwarding import LogForwarding
from aioparallel.output import Listener, Printer, Watching
from aioparallel.programs import ProgramCalls, named
from aioparallel.properties import PropertyCalls
from aioparallel.records import as_level
from aioparallel.reference import Reference
from aioparallel.results import QueueStatusList, Targets, name_of, names_asked
from aioparallel.sequences import SequenceCalls
from aioparallel.wire import Frame

__all__ = ["MultiEngineCalls"]


class MultiEngineCalls(SequenceCalls, ProgramCalls, PropertyCalls):
    """What can be asked of engines; the same for the asyncio face, the blocking face and their views.

    Every method takes `targets` (an engine id, "all", or a sequence of ids; the attribute `targets` is the
    default) and, on the blocking face, `block`. A call is submitted at once; on the asyncio face it gives an
    awaitable handle. Values come as a list in the order of the targets, also for a single one; a view of a
    single engine gives the bare value.

    Errors, unless a method says more: `InvalidEngineID`, `NoEnginesRegistered`, `ValueError` for targets of
    a wrong type; `SerializationError` for an argument that can't be sent; what user code raised, as itself
    (one target) or in a `CompositeError` (several); `QueueCleared`; `EngineDied`; `ConnectionLost`.
    """

    # What a face provides besides.
    _forget: Callable[[], Any]
    _wait_for_all: Callable[..., Any]
    _known_steps: Callable[[], int]
    _view: Callable[..., Any]
    _on_join: Callable[[Any], Any]
    _conduct: Callable[..., Any]
    _now: Callable[[], float]

    def get_ids(self, block: bool | None = None) -> Any:
        """Return the engines' ids, ascending."""
        return self._operate("get_ids", block)

    def execute(self, code: str, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Run code as at a prompt; return a `ResultList` of `ExecuteResult`.

        Raises:
            SyntaxError: The code is not Python; the error shows the line.
        """
        if not isinstance(code, str):
            raise TypeError(f"code is a str, not {type(code).__name__}")
        return self._command("execute", (code,), targets, block, label=code.strip().partition("\n")[0])

    def apply(
        self,
        f: Callable[..., Any] | Reference,
        /,
        *args: Any,
        targets: Targets | None = None,
        block: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call `f(*args, **kwargs)` on each target and return the values; `async def` functions are awaited there.

        `f` may be a `Reference` to a function that is on the engines.
        """
        if not callable(f) and not isinstance(f, Reference):
            raise TypeError(f"{f!r} can't be called")
        return self._command("apply", (f, args, kwargs), targets, block, label=name_of(f))

    def push(
        self,
        names: Mapping[str, Any],
        *,
        readonly: bool = False,
        targets: Targets | None = None,
        block: bool | None = None,
    ) -> Any:
        """Set names in the targets' namespaces.

        Engines of one machine share the memory of large arrays until one of them changes its own; what is changed is
        copied there, page by page.

        Args:
            names: The values by name.
            readonly: Values that are arrays (numpy's, and what has its `setflags`) can't be changed in place, so that
                they stay one copy for all. Arrays inside other values are not looked for.
            targets: Which engines.
            block: Whether to wait.

        Raises:
            TypeError: `names` is not a dict.
            ValueError: A key is not an identifier.
        """
        names = named(names)
        return self._command("push", (names, readonly), targets, block, label=f"push {', '.join(names)}")

    def pull(self, names: str | Sequence[str], *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Return the values of a name, or of several, from each target.

        Raises:
            NameError: An engine does not have one of the names.
            TypeError: A name is not a str.
        """
        return self._command("pull", (names_asked(names),), targets, block, label=f"pull {names}")

    def benchmark(self, *, rounds: int = 200, size: int = 10_000_000, targets: Targets | None = None) -> Any:
        """Measure how long a call takes that does nothing, and how fast data reaches one engine and all of them.

        Nothing stays on the engines. What they are busy with counts: let them be idle. The blocking face waits always.

        Args:
            rounds: How many calls to measure.
            size: How much to send to each engine, bytes; a few times.
            targets: Which engines.

        Returns:
            A `Benchmark`, which prints as a table.

        Raises:
            ValueError: `rounds` or `size` is not a number from 1 on.
        """
        # Imported by the few who ask for it.
        from aioparallel.benchmark import measure

        for name, value in (("rounds", rounds), ("size", size)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is a number from 1 on, not {value!r}")
        chosen_ones = self._plain(targets)
        call = functools.partial(self.apply, block=False)

        def ids() -> list[int]:
            return self._known_ids() if isinstance(chosen_ones, str) else chosen_ones

        return self._conduct(measure(functools.partial(call, targets=chosen_ones), ids, rounds, size, self._now))

    def keys(self, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Return the names in each target's namespace, sorted."""
        return self._command("keys", (), targets, block)

    def reset(self, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Clear the targets' queues and namespaces, and seed `id` again."""
        self._check_block(block)
        chosen_ones = self._plain(targets)
        header = json.dumps({"targets": chosen_ones}).encode()
        # Nobody asks for that answer: what is wrong with the targets is told by the reset itself.
        self.channel.call("clear_queue", concurrent.futures.Future(), _whatever, header=header)
        return self._command("reset", (), targets, block)

    def queue_status(self, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Return, for each target, its id, what runs (`pending`) and what waits (`queue`)."""
        return self._operate(
            "queue_status", block, self._listed(QueueStatusList, targets), targets=self._plain(targets)
        )

    def clear_queue(self, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Fail what waits on the targets with `QueueCleared`, and return how many; what runs is not touched."""
        return self._operate("clear_queue", block, self._listed(list, targets), targets=self._plain(targets))

    def interrupt(self, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Raise KeyboardInterrupt in what runs on the targets; its caller gets a `RemoteError` that names it."""
        return self._operate("interrupt", block, targets=self._plain(targets))

    def restart(self, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Give each target a fresh kernel under the same id; returns when they are ready."""
        return self._operate("restart", block, targets=self._plain(targets))

    def kill(self, *, controller: bool = False, targets: Targets | None = None, block: bool | None = None) -> Any:
        """End the targets; with `controller=True` the whole cluster."""
        return self._operate("kill", block, targets=self._plain(targets), controller=controller)

    def watching(self, callback: Listener | None = None) -> Watching:
        """Return a context manager: what the commands that are submitted inside it write is shown while they run.

        Each is watched until it has ended, also after the `with`. A view shows what its engines write.

        Args:
            callback: Called with each piece, an `Output`, in order, and with the last one before the call has its
                value; it is for short work, and an exception in it is logged. None prints to this program's own stdout
                and stderr, each line behind `[engine] `.

        Raises:
            TypeError: `callback` can't be called.
        """
        if callback is not None and not callable(callback):
            raise TypeError(f"{callback!r} can't be called")
        engines = self._plain(None)
        return Watching(self.channel, callback or Printer(), None if isinstance(engines, str) else engines)

    def forward_logging(
        self,
        level: int | str = "INFO",
        logger: str = "",
        *,
        targets: Targets | None = None,
        block: bool | None = None,
    ) -> LogForwarding:
        """Have the log records that user code makes on the targets handled here, by the logger of the same name.

        Each is a `logging.LogRecord` with the attribute `engine`, the engine's id; its arguments are merged into its
        message, and of an exception there is the formatted text. Records made in a command are here before its result.
        What comes faster than it can be passed on is left out, the oldest first, and a record says how many that were.
        Engines that join or restart are asked as soon as this client hears of them.

        Args:
            level: Records below it stay where they are: a number or a name. The engines' logger is set to it while
                it would let fewer through.
            logger: Whose records, and those of the loggers below it; "" is the root.
            targets: Which engines.
            block: On the blocking face: whether to return only when all targets do so.

        Returns:
            What ends it: `close()`, or its `with`. The end of this client ends it too.

        Raises:
            ValueError: There is no such level.
            TypeError: `logger` is not a name.
        """
        self._check_block(block)
        forwarding = LogForwarding(self.channel, as_level(level), logger, self._plain(targets))
        try:
            forwarding.installed = self._submit(*forwarding.request, targets, kept=True)
            self._deliver(forwarding.installed, block)
        except BaseException:
            forwarding.close()
            raise
        return forwarding

    @property
    def on_join(self) -> Any:
        """What engines do before everything else when they join later or restart: `OnJoin`.

        Raises:
            ConfigurationError: This is a view.
        """
        return self._on_join(self)

    def flush(self) -> Any:
        """Forget the results of this client's calls that nobody has asked for.

        That is of calls that did not wait, also those under way: they go on, and what they answer is dropped. To read
        such a result later raises `InvalidDeferredID`. To wait for one, to read it and to give it a callback is to
        ask for it; it is kept then.
        """
        return self._forget()

    def barrier(self, pending: Any, *, timeout: float | None = None) -> Any:
        """Wait until all of the calls have ended, well or badly; it does not count as reading them.

        Args:
            pending: The result of a call that did not wait, or an iterable of them; they may be of other clients.
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: They took longer. They go on.
            TypeError: One of them is not the result of a call of this face.
        """
        one = not isinstance(pending, Iterable) or isinstance(pending, asyncio.Future)
        return self._wait_for_all([pending] if one else list(pending), timeout)

    def __getitem__(self, key: str | int | slice | Sequence[int]) -> Any:
        if isinstance(key, str):
            return self.pull(key)
        if isinstance(key, slice):
            return self._view(self, self._known_ids()[key], bare=False)
        if isinstance(key, int) and not isinstance(key, bool):
            ids = self._known_ids()
            if key < 0 and -key <= len(ids):
                key = ids[key]
            if key not in ids:
                raise no_such_engine(key, ids)
            return self._view(self, [key], bare=True)
        return self._view(self, self._plain(key), bare=False)

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is not a name that can be pushed; names of some engines: mec[0]['a'] = 1")
        self.push({name: value})

    def __iter__(self) -> Iterator[Any]:
        """A client is not a sequence: iterate over `get_ids()`."""
        raise TypeError("iterate over get_ids(); a client is not a sequence")

    def __len__(self) -> int:
        return len(self._known_ids())

    def __bool__(self) -> bool:
        return True


def _whatever(frames: list[Frame]) -> None:
    """Take an answer, whatever it says."""
