"""Which engines a call is for, and how all of them are asked the same, or each something of its own."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

from aioparallel.channel import Channel, serializer
from aioparallel.errors import InvalidEngineID, NoEnginesRegistered, OperationError
from aioparallel.output import watch_of
from aioparallel.results import NAMES, Targets, collect
from aioparallel.settling import Finish, plain_value
from aioparallel.wire import Frame

__all__ = ["Addressing", "no_such_engine"]


class Addressing:
    """The part of `MultiEngineCalls` that its other parts stand on: a verb, its arguments and targets become a call.

    Attributes:
        targets: Which engines calls go to unless they say otherwise.
    """

    targets: Targets = "all"
    _bare = False
    #: How commands are submitted, and what goes before their verb.
    _operation = "submit"
    _before: tuple[str, ...] = ()

    # What a face provides.
    channel: Channel
    _begin: Callable[..., Any]
    _begin_each: Callable[..., Any]
    _check_block: Callable[[bool | None], None]
    _deliver: Callable[[Any, bool | None], Any]
    _operate: Callable[..., Any]
    _known_ids: Callable[[], list[int]]

    def _command(
        self,
        verb: str,
        arguments: tuple[Any, ...],
        targets: Targets | None,
        block: bool | None,
        *,
        label: str = "",
        method: str = "",
        then: Callable[[list[Any]], Any] | None = None,
        rebind: Collection[Any] = (),
    ) -> Any:
        """Ask all targets the same; the value is the list of what they answer, or what `then` makes of it."""
        self._check_block(block)
        submitted = self._submit(verb, arguments, targets, label=label, method=method, then=then, rebind=rebind)
        return self._deliver(submitted, block)

    def _submit(
        self,
        verb: str,
        arguments: tuple[Any, ...],
        targets: Targets | None,
        *,
        label: str = "",
        method: str = "",
        then: Callable[[list[Any]], Any] | None = None,
        rebind: Collection[Any] = (),
        kept: bool = False,
    ) -> Any:
        """Submit a command; `kept` ones stay in a queue that is cleared."""
        chosen_ones = self._plain(targets)
        order = None if isinstance(chosen_ones, str) else chosen_ones
        bare = self._is_bare(targets)
        finish = _collected(method or verb, order, bare, then)
        call: dict[str, Any] = {"targets": chosen_ones, "label": (label or verb)[:80]}
        watch = watch_of(self.channel, self.channel.loop)
        if watch is not None:
            call["watched"] = True
        if kept:
            call["kept"] = True
        command, names = (*self._before, verb, *arguments), self._before + NAMES[verb]
        buffers = serializer().pack(command, name=names, rebind=rebind)
        header = json.dumps(call).encode()
        pending = self._begin(self._operation, finish, header=header, buffers=buffers, watch=watch, targets=chosen_ones)
        pending.targets, pending.bare = order, bare
        return pending

    def _command_each(
        self,
        verb: str,
        arguments: Callable[[int], list[tuple[Any, ...]]],
        targets: Targets | None,
        block: bool | None,
        *,
        label: str,
        method: str,
        then: Callable[[list[Any]], Any] | None = None,
    ) -> Any:
        """Ask each target something of its own, as one call; `arguments` gives them for so many targets."""
        self._check_block(block)
        chosen_ones = self._plain(targets)
        try:
            ids = self._resolved(chosen_ones)
        except OperationError as error:
            # Told when the answer is asked for, as the controller tells it of calls that it refuses.
            return self._deliver(self._begin("get_ids", functools.partial(_refuse, error), header=b"{}"), block)
        bare = self._is_bare(targets)
        watch = watch_of(self.channel, self.channel.loop)
        about = {"label": label[:80]} if watch is None else {"label": label[:80], "watched": True}
        pack = serializer().pack
        calls = [
            (
                target,
                json.dumps({"targets": [target]} | about).encode(),
                pack((verb, *each), name=NAMES[verb]),
            )
            for target, each in zip(ids, arguments(len(ids)), strict=True)
        ]
        # "all" stays what it was, also where it is one engine: its error comes in a group.
        order = None if isinstance(chosen_ones, str) else ids
        pending = self._begin_each("submit", _collected(method, order, bare, then), calls, watch)
        pending.targets, pending.bare = order, bare
        return self._deliver(pending, block)

    def _resolved(self, targets: str | list[int]) -> list[int]:
        """Return the ids that targets name among the engines of this moment.

        Raises:
            NoEnginesRegistered, InvalidEngineID, OperationError: As the controller would say it.
        """
        if isinstance(targets, list) and len(targets) == 1:
            return targets  # a single call, which the controller refuses as a whole
        known = self._present_ids()
        ids = known if isinstance(targets, str) else targets
        if not ids:
            raise NoEnginesRegistered.among(known)
        for target in ids:
            if target not in known:
                raise no_such_engine(target, known)
        if len(set(ids)) != len(ids):
            raise OperationError(f"targets name an engine twice: {ids!r}")
        return ids

    def _present_ids(self) -> list[int]:
        return self._known_ids()

    def _is_bare(self, targets: Targets | None) -> bool:
        return self._bare and targets is None

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

    def _listed(self, kind: type, targets: Targets | None) -> Finish:
        """Return how to make a list (or, for the view of one engine, its only item) of a plain answer."""
        bare = self._bare and targets is None

        def finish(frames: list[Frame]) -> Any:
            values = plain_value(frames)
            return values[0] if bare else kind(values)

        return finish


def no_such_engine(target: int, known: list[int]) -> InvalidEngineID:
    """Return the error for a target that is not among the engines that are there."""
    return InvalidEngineID(f"there is no engine {target}; engines: {', '.join(map(str, known)) or 'none'}")


def _collected(method: str, targets: list[int] | None, bare: bool, then: Callable[[list[Any]], Any] | None) -> Finish:
    """Return what makes a call's value of its answers; see `collect` and `_command`."""
    if then is None:
        return functools.partial(collect, method=method, targets=targets, bare=bare)
    return lambda frames: then(collect(frames, method=method, targets=targets, bare=False))


def _refuse(error: OperationError, frames: list[Frame]) -> Any:
    raise error
