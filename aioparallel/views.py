"""Some engines of a client as a client of their own, and all of them, now and later: View and OnJoin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aioparallel.calls import MultiEngineCalls
from aioparallel.errors import ConfigurationError
from aioparallel.results import Targets
from aioparallel.settling import plain_value
from aioparallel.wire import Frame

__all__ = ["OnJoin", "View"]


class View(MultiEngineCalls):
    """Some engines of a client: the same methods, with those as targets."""

    def __init__(self, client: MultiEngineCalls, targets: Targets, *, bare: bool) -> None:
        self.targets = targets
        self._client = client
        self.channel = client.channel
        self._bare = bare
        self._begin = client._begin
        self._begin_each = client._begin_each
        self._check_block = client._check_block
        self._deliver = client._deliver
        self._operate = client._operate
        self._forget = client._forget
        self._wait_for_all = client._wait_for_all
        self._view = client._view
        self._conduct = client._conduct
        self._now = client._now

    def __repr__(self) -> str:
        return f"<View of engines {self.targets} of {self._client!r}>"

    def get_ids(self, block: bool | None = None) -> Any:
        """Return the ids of those of its engines that are there, ascending."""
        chosen_ones = self._plain(None)

        def finish(frames: list[Frame]) -> list[int]:
            return [target for target in plain_value(frames) if chosen_ones == "all" or target in chosen_ones]

        return self._operate("get_ids", block, finish)

    def _present_ids(self) -> list[int]:
        # Those of the client: a call through a view may name others than its own.
        return self._client._present_ids()

    def _known_ids(self) -> list[int]:
        ids = self._client._known_ids()
        return ids if self.targets == "all" else [i for i in self._plain(None) if isinstance(i, int)]

    @property
    def on_join(self) -> OnJoin:
        """Not here: set-up is for every engine.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError("on_join is for every engine: use the client's own, not a view's")


class _SetUp(View):
    """All engines of a client, now and later: its commands are kept at the controller."""

    _operation = "set_up"
    _before = ("set_up",)


class OnJoin:
    """What engines do before everything else when they join later, or when their kernel restarts.

    Each step is done at once on all engines, and returns what the client's own method does (an empty list while there
    are no engines). It is kept at the controller, for all clients of MultiEngine, until it is cleared or the
    controller ends, and repeated in order on every engine that joins later, and on every fresh kernel: no command of
    any client comes before. A step that fails or is cancelled when it is first done raises as usual, and is not kept.
    One that fails when it is repeated is left out: the engine goes on without it, and `aiocluster status` and the log
    say so.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._all: Any = _SetUp(client, "all", bare=False)

    def __repr__(self) -> str:
        return f"<OnJoin of {self._client!r}>"

    def execute(self, code: str, *, block: bool | None = None) -> Any:
        """Have engines run code as at a prompt: imports, definitions.

        Raises:
            SyntaxError: The code is not Python.
        """
        return self._all.execute(code, block=block)

    def apply(self, f: Callable[..., Any], /, *args: Any, block: bool | None = None, **kwargs: Any) -> Any:
        """Have engines call `f(*args, **kwargs)`.

        Raises:
            TypeError: `f` can't be called.
        """
        return self._all.apply(f, *args, block=block, **kwargs)

    def push(self, names: Mapping[str, Any], *, block: bool | None = None) -> Any:
        """Have engines set names, to the values that they have now.

        Raises:
            ValueError: A key is not an identifier.
        """
        return self._all.push(names, block=block)

    def push_function(self, functions: Mapping[str, Callable[..., Any]], *, block: bool | None = None) -> Any:
        """Have engines set names to functions whose globals are the engine's namespace.

        Raises:
            TypeError: One of them is not a function.
        """
        return self._all.push_function(functions, block=block)

    def run(self, filename: Any, *, block: bool | None = None) -> Any:
        """Have engines run a file; it is read here, now.

        Raises:
            OSError: It can't be read.
            SyntaxError: It is not Python.
        """
        return self._all.run(filename, block=block)

    def list(self, *, block: bool | None = None) -> Any:
        """Return the steps, in order: of each what one reads of it in `status`."""
        return self._client._operate("set_up_list", block)

    def clear(self, *, block: bool | None = None) -> Any:
        """Keep no steps any more, and return how many there were; what they have done on engines stays.

        A client whose capability is narrowed to some engines clears only what reaches no others.
        """
        return self._client._operate("set_up_clear", block)

    def __len__(self) -> int:
        """Return how many steps there are; on the asyncio face as last heard of."""
        steps: int = self._client._known_steps()
        return steps

    def __bool__(self) -> bool:
        return True
