"""What can be asked of engines directly: the same methods for both faces and for views."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from aioparallel.channel import Finish, plain_value, serializer
from aioparallel.errors import InvalidEngineID
from aioparallel.results import NAMES, QueueStatusList, collect, name_of
from aioparallel.wire import Frame

__all__ = ["MultiEngineCalls", "Targets", "View"]

Targets: TypeAlias = int | str | Sequence[int]


class MultiEngineCalls:
    """What can be asked of engines; the same for the asyncio face, the blocking face and their views.

    Every method takes `targets` (an engine id, "all", or a sequence of ids; the attribute `targets` is the
    default) and, on the blocking face, `block`. A call is submitted at once; on the asyncio face it gives an
    awaitable handle. Values come as a list in the order of the targets, also for a single one; a view of a
    single engine gives the bare value.

    Errors, unless a method says more: `InvalidEngineID`, `NoEnginesRegistered`, `ValueError` for targets of
    a wrong type; `SerializationError` for an argument that can't be sent; what user code raised, as itself
    (one target) or in a `CompositeError` (several); `QueueCleared`; `EngineDied`; `ConnectionLost`.

    Attributes:
        targets: Which engines calls go to unless they say otherwise.
    """

    targets: Targets = "all"
    _bare = False

    # What a face provides.
    _begin: Callable[..., Any]
    _deliver: Callable[[Any, bool | None], Any]
    _operate: Callable[..., Any]
    _known_ids: Callable[[], list[int]]
    _view: Callable[..., Any]

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
        f: Callable[..., Any],
        /,
        *args: Any,
        targets: Targets | None = None,
        block: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call `f(*args, **kwargs)` on each target and return the values; `async def` functions are awaited there."""
        if not callable(f):
            raise TypeError(f"{f!r} can't be called")
        return self._command("apply", (f, args, kwargs), targets, block, label=name_of(f))

    def push(self, names: Mapping[str, Any], *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Set names in the targets' namespaces.

        Raises:
            ValueError: A key is not an identifier.
        """
        names = dict(names)
        for name in names:
            if not isinstance(name, str) or not name.isidentifier():
                raise ValueError(f"{name!r} is not a name that can be pushed")
        return self._command("push", (names,), targets, block, label=f"push {', '.join(names)}")

    def pull(self, names: str | Sequence[str], *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Return the values of a name, or of several, from each target.

        Raises:
            NameError: An engine does not have one of the names.
        """
        asked = names if isinstance(names, str) else list(names)
        return self._command("pull", (asked,), targets, block, label=f"pull {names}")

    def keys(self, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Return the names in each target's namespace, sorted."""
        return self._command("keys", (), targets, block)

    def reset(self, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Clear the targets' queues and namespaces, and seed `id` again."""
        chosen_ones = self._plain(targets)
        self._begin("clear_queue", plain_value, header=json.dumps({"targets": chosen_ones}).encode())
        return self._command("reset", (), targets, block)

    def queue_status(self, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Return, for each target, its id, what runs (`pending`) and what waits (`queue`)."""
        return self._operate("queue_status", block, self._listed(QueueStatusList), targets=self._plain(targets))

    def clear_queue(self, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Fail what waits on the targets with `QueueCleared`, and return how many; what runs is not touched."""
        return self._operate("clear_queue", block, self._listed(list), targets=self._plain(targets))

    def interrupt(self, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Raise KeyboardInterrupt in what runs on the targets; its caller gets a `RemoteError` that names it."""
        return self._operate("interrupt", block, targets=self._plain(targets))

    def restart(self, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Give each target a fresh kernel under the same id; returns when they are ready."""
        return self._operate("restart", block, targets=self._plain(targets))

    def kill(self, *, controller: bool = False, targets: Targets | None = None, block: bool | None = None) -> Any:
        """End the targets; with `controller=True` the whole cluster."""
        return self._operate("kill", block, targets=self._plain(targets), controller=controller)

    def __getitem__(self, key: str | int | slice | Sequence[int]) -> Any:
        if isinstance(key, str):
            return self.pull(key)
        if isinstance(key, slice):
            return self._view(self, self._known_ids()[key], bare=False)
        if isinstance(key, int):
            ids = self._known_ids()
            if key < 0 and -key <= len(ids):
                key = ids[key]
            if key not in ids:
                raise InvalidEngineID(f"there is no engine {key}; engines: {', '.join(map(str, ids)) or 'none'}")
            return self._view(self, [key], bare=True)
        return self._view(self, self._plain(key), bare=False)

    def __setitem__(self, name: str, value: Any) -> None:
        self.push({name: value})

    def __iter__(self) -> Iterator[Any]:
        """A client is not a sequence: iterate over `get_ids()`."""
        raise TypeError("iterate over get_ids(); a client is not a sequence")

    def __len__(self) -> int:
        return len(self._known_ids())

    def __bool__(self) -> bool:
        return True

    def _command(
        self, verb: str, arguments: tuple[Any, ...], targets: Targets | None, block: bool | None, label: str = ""
    ) -> Any:
        chosen_ones = self._plain(targets)
        finish = functools.partial(
            collect,
            method=verb,
            targets=None if isinstance(chosen_ones, str) else chosen_ones,
            bare=self._bare and targets is None,
        )
        header = json.dumps({"targets": chosen_ones, "label": (label or verb)[:80]}).encode()
        buffers = serializer().pack((verb, *arguments), name=NAMES[verb])
        handle = self._begin("submit", finish, header=header, buffers=buffers, targets=chosen_ones)
        return self._deliver(handle, block)

    def _plain(self, targets: Targets | None) -> str | list[int]:
        """Return targets as they travel.

        Raises:
            ValueError: They are of a wrong type.
        """
        chosen_ones = self.targets if targets is None else targets
        if chosen_ones == "all":
            return "all"
        if isinstance(chosen_ones, int) and not isinstance(chosen_ones, bool):
            return [chosen_ones]
        if isinstance(chosen_ones, Sequence) and not isinstance(chosen_ones, str):
            ids = list(chosen_ones)
            if all(isinstance(target, int) and not isinstance(target, bool) for target in ids):
                return ids
        raise ValueError(f"targets are an engine id, 'all', or a sequence of ids, not {chosen_ones!r}")

    def _listed(self, kind: type) -> Finish:
        """Return how to make a list (or, for the view of one engine, its only item) of a plain answer."""
        bare = self._bare

        def finish(frames: list[Frame]) -> Any:
            values = plain_value(frames)
            return values[0] if bare else kind(values)

        return finish


class View(MultiEngineCalls):
    """Some engines of a client: the same methods, with those as targets."""

    def __init__(self, client: MultiEngineCalls, targets: Targets, *, bare: bool) -> None:
        self.targets = targets
        self._client = client
        self._bare = bare
        self._begin = client._begin
        self._deliver = client._deliver
        self._operate = client._operate
        self._view = client._view

    def __repr__(self) -> str:
        return f"<View of engines {self.targets} of {self._client!r}>"

    def _known_ids(self) -> list[int]:
        ids = self._client._known_ids()
        return ids if self.targets == "all" else [i for i in self._plain(None) if isinstance(i, int)]
