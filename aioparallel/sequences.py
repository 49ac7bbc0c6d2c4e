"""Sequences over engines: scatter, gather, map, and the forms in which a map is kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aioparallel.addressing import Addressing
from aioparallel.partition import check_dist, cut, is_sequence, join
from aioparallel.results import Targets, name_of, names_asked

__all__ = ["Mapper", "SequenceCalls"]


class SequenceCalls(Addressing):
    """The part of `MultiEngineCalls` that cuts sequences into one part an engine, and joins what comes back.

    `dist` says how (`partition`): 'b' in blocks, what is left over going to the first engines; 'r' round robin. Errors
    are those of `MultiEngineCalls`, and `ValueError` for another `dist`.
    """

    def scatter(
        self,
        key: str,
        seq: Any,
        dist: str = "b",
        flatten: bool = False,
        *,
        targets: Targets | None = None,
        block: bool | None = None,
    ) -> Any:
        """Push to each target its part of a sequence, under one name; `gather` is the inverse.

        Each engine is sent its part only, which may be empty. Cancelling drops the parts that still wait.

        Args:
            key: The name.
            seq: A list, tuple, str, bytes, bytearray, range, array, numpy array (cut along its first axis), or anything
                else that slices and concatenates.
            dist: The distribution.
            flatten: Whether a part of exactly one item is pushed as that item.
            targets: Which engines.
            block: Whether to wait (blocking face).

        Raises:
            TypeError: `seq` can't be cut.
            ValueError: `key` is not an identifier.
        """
        _check_key(key)
        check_dist(dist)

        def arguments(n: int) -> list[tuple[Any, ...]]:
            parts = cut(seq, n, dist)
            return [({key: part[0] if flatten and len(part) == 1 else part},) for part in parts]

        return self._command_each("push", arguments, targets, block, label=f"scatter {key}", method="scatter")

    def gather(self, key: str, dist: str = "b", *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Pull a name from each target and return the parts as one sequence, in the order of the targets.

        Parts of one type give that type: `gather(key, dist)` after `scatter(key, seq, dist)` is equal to `seq`. If some
        are single items, as after `scatter(…, flatten=True)`, or the types differ, it is a list of all items.

        Raises:
            NameError: An engine does not have the name.
            ValueError: `key` is not an identifier; or arrays have items of different shapes.
        """
        _check_key(key)
        check_dist(dist)
        joined = functools.partial(join, dist=dist)
        return self._command("pull", (key,), targets, block, label=f"gather {key}", method="gather", then=joined)

    def map(
        self,
        f: Callable[..., Any] | str,
        *seqs: Iterable[Any],
        dist: str = "b",
        targets: Targets | None = None,
        block: bool | None = None,
    ) -> Any:
        """Return the list of `f` of the first items, of the second ones, and so on, computed on the targets.

        Like the builtin, but a list, and everything is sent at once, one message an engine. `async def` functions are
        awaited there, one call after the other.

        Args:
            f: The function, or the name of one that the engines have.
            seqs: Its arguments, all of one length. What doesn't slice is made a list first.
            dist: The distribution.
            targets: Which engines.
            block: Whether to wait (blocking face).

        Raises:
            NameError: `f` is a name that an engine does not have.
            TypeError: `f` can't be called, there are no sequences, or one is none.
            ValueError: The sequences differ in length.
        """
        return self.raw_map(f, seqs, dist, targets=targets, block=block)

    def raw_map(
        self,
        f: Callable[..., Any] | str,
        seqs: Sequence[Iterable[Any]],
        dist: str = "b",
        *,
        targets: Targets | None = None,
        block: bool | None = None,
    ) -> Any:
        """Do what `map` does, with all sequences in one argument.

        Raises:
            NameError, TypeError, ValueError: As `map`.
        """
        _check_function(f)
        check_dist(dist)
        columns = _columns(seqs)

        def arguments(n: int) -> list[tuple[Any, ...]]:
            parts = [cut(column, n, dist) for column in columns]
            return [(f, each) for each in zip(*parts, strict=True)]

        name = f if isinstance(f, str) else name_of(f)
        joined = functools.partial(join, dist=dist)
        return self._command_each("map", arguments, targets, block, label=f"map {name}", method="map", then=joined)

    def mapper(self, dist: str = "b", targets: Targets | None = None, block: bool | None = None) -> Mapper:
        """Return an object whose `map(f, *seqs)` has these options; targets are the client's unless given.

        Raises:
            ValueError: There is no such distribution, or targets are of a wrong type.
        """
        check_dist(dist)
        self._plain(targets)
        return Mapper(self, dist, targets, block)

    def parallel(
        self, dist: str = "b", targets: Targets | None = None, block: bool | None = None
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Make a function of items one of sequences, with `@mec.parallel()`: `f(seq)` is then `map(f, seq)`.

        Raises:
            TypeError: It was used without the parentheses, or on what can't be called.
            ValueError: As `mapper`.
        """
        if callable(dist):
            raise TypeError("parallel is used with parentheses: @mec.parallel()")
        mapper = self.mapper(dist, targets, block)

        def decorate(f: Callable[..., Any]) -> Callable[..., Any]:
            _check_function(f)

            @functools.wraps(f)
            def elementwise(*seqs: Iterable[Any]) -> Any:
                return mapper.map(f, *seqs)

            return elementwise

        return decorate

    def zip_pull(self, names: str | Sequence[str], *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Pull names and return for each the tuple of its values: `[(a0, a1), (b0, b1)]`, the transpose of `pull`.

        Of a single name it is the list of its values. The view of a single engine gives what `pull` gives.

        Raises:
            NameError: An engine does not have one of the names.
            TypeError: A name is not a str.
        """
        asked = names_asked(names)
        transposed = None if isinstance(asked, str) or self._is_bare(targets) else _transposed
        return self._command(
            "pull", (asked,), targets, block, label=f"pull {names}", method="zip_pull", then=transposed
        )


@dataclass(frozen=True, slots=True)
class Mapper:
    """A `map` with its options chosen once; made by `mapper`.

    Attributes:
        client: The client, or the view, whose engines it uses.
        dist: The distribution.
        targets: Which engines; None for the client's.
        block: Whether to wait (blocking face); None for what the client does.
    """

    client: SequenceCalls
    dist: str = "b"
    targets: Targets | None = None
    block: bool | None = None

    def map(self, f: Callable[..., Any] | str, *seqs: Iterable[Any]) -> Any:
        """Do what the client's `map` does, with these options.

        Raises:
            NameError, TypeError, ValueError: As that.
        """
        return self.client.raw_map(f, seqs, self.dist, targets=self.targets, block=self.block)


def _check_key(key: str) -> None:
    if not isinstance(key, str) or not key.isidentifier():
        raise ValueError(f"{key!r} is not a name that can be pushed")


def _check_function(f: Any) -> None:
    if not callable(f) and not isinstance(f, str):
        raise TypeError(f"{f!r} can't be called")


def _columns(seqs: Iterable[Iterable[Any]]) -> list[Any]:
    """Return the arguments of a map as things that can be cut, all of one length."""
    if not isinstance(seqs, Iterable):
        raise TypeError(f"raw_map takes a list of sequences, one for each argument, not {type(seqs).__name__}")
    columns: list[Any] = []
    for place, seq in enumerate(seqs):
        if is_sequence(seq):
            columns.append(seq)
            continue
        try:
            items = iter(seq)
        except TypeError:
            raise TypeError(f"map goes over sequences; argument {place} is a single {type(seq).__name__!r}") from None
        columns.append(list(items))
    if not columns:
        raise TypeError("map needs at least one sequence")
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"sequences of different lengths: {', '.join(str(len(column)) for column in columns)}")
    return columns


def _transposed(rows: list[list[Any]]) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True))
