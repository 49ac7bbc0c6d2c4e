"""What may be an operation, what is refused and in which words, and how arguments are checked."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any

import pytest

from aioparallel import client
from aioparallel.errors import OperationError, PluginError
from aioparallel.face import Client
from aioparallel.interface import Interface
from aioparallel.operations import RESERVED, Kind, check_interface_name, check_makeable, declared, operations, remote

if TYPE_CHECKING:
    from nowhere import Unknown


class Whole(Interface):
    """One of each."""

    name = "whole"

    @remote
    async def count(self, texts: list[str], *, most: int | None = None) -> dict[str, int]:
        """Count."""
        return {}

    @remote
    def later(self, client: Unknown, seconds: float) -> asyncio.Future[int]:
        """Not now."""
        raise NotImplementedError

    @remote
    def promised(self) -> Awaitable[str]:
        """Some time."""
        raise NotImplementedError

    @remote
    async def each(self, n: int) -> AsyncIterator[tuple[int, str]]:
        """One after the other."""
        yield n, ""

    @remote(raw=True)
    def submit(self, client: Any, frame: Any) -> None:
        """By itself."""

    def hidden(self, anything) -> None:  # type: ignore[no-untyped-def]
        """Not an operation."""


def test_operations_are_read_from_their_methods() -> None:
    found = declared(Whole)
    assert tuple(found) == operations(Whole) == ("count", "each", "later", "promised", "submit")
    assert str(found["count"].signature) == "(texts: list[str], *, most: int | None = None) -> dict[str, int]"
    assert [found[name].kind for name in ("count", "each", "submit")] == [Kind.VALUE, Kind.STREAM, Kind.RAW]
    assert found["later"].annotation is int
    assert found["promised"].annotation is str
    assert found["each"].annotation == tuple[int, str]
    assert found["later"].wants_client
    assert [parameter.name for parameter in found["later"].parameters] == ["seconds"]
    assert found["count"].doc == "Count."
    assert declared(Whole) is found


def test_a_subclass_has_its_own() -> None:
    class More(Whole):
        @remote
        def another(self) -> None: ...

    assert tuple(declared(More)) == ("another", *declared(Whole))
    assert "another" not in declared(Whole)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        ([], "count: the arguments of a call are a JSON object"),
        ({}, "count: missing argument 'texts'; it takes texts, most"),
        ({"texts": "a"}, "count: argument texts is the str 'a'; expected list[str]"),
        ({"texts": ["a", 3]}, "count: argument texts[1] is the int 3; expected str"),
        ({"texts": [], "most": 2.5}, "count: argument most is the float 2.5; expected int | None"),
        ({"texts": [], "least": 1}, "count: unexpected keyword argument 'least'; it takes texts, most"),
    ],
)
def test_wrong_arguments_are_named(sent: Any, error: str) -> None:
    with pytest.raises(OperationError) as caught:
        declared(Whole)["count"].arguments(sent)
    assert str(caught.value) == error


def test_right_arguments_are_taken() -> None:
    count = declared(Whole)["count"]
    assert count.arguments({"texts": ["a"]}) == {"texts": ["a"]}
    assert count.arguments({"texts": [], "most": None}) == {"texts": [], "most": None}
    assert count.value({"a": 1}) == {"a": 1}
    with pytest.raises(OperationError, match=r"count: what it returned\['a'\] is the str 'b'; expected int"):
        count.value({"a": "b"})


def of(**methods: Any) -> type[Interface]:
    return type("Bad", (Interface,), {"name": "bad", **{name: remote(method) for name, method in methods.items()}})


def numbers(self: Any) -> Any:
    yield 1


async def unending(self: Any) -> list[int]:  # type: ignore[misc]
    yield 1


def no_parameter(self: Any, texts) -> int: ...  # type: ignore[no-untyped-def, empty-body]
def no_return(self: Any, n: int): ...  # type: ignore[no-untyped-def]
def strange(self: Any, b: bytes) -> None: ...
def strange_return(self: Any) -> set[int]: ...  # type: ignore[empty-body]
def strange_keys(self: Any, b: dict[float, int]) -> None: ...
def unknown(self: Any, b: Unknown) -> None: ...
def many(self: Any, *texts: str) -> None: ...
def options(self: Any, **texts: str) -> None: ...
def positional(self: Any, texts: str, /) -> None: ...
def default(self: Any, n: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013
def fine(self: Any) -> None: ...


@pytest.mark.parametrize(
    ("interface", "text"),
    [
        (of(numbers=numbers), r"numbers: an operation can't be a generator; a stream is an async one"),
        (of(unending=unending), r"unending: a stream is annotated AsyncIterator\[…\], not list\[int\]"),
        (of(no_parameter=no_parameter), r"no_parameter: parameter 'texts' has no annotation; .* texts: list\[str\]"),
        (of(no_return=no_return), r"no_return: its return has no annotation; expected .* -> dict\[str, int\]"),
        (of(strange=strange), r"strange: parameter 'b': bytes is not one of plain values; plain are str, int"),
        (of(strange_return=strange_return), r"strange_return: what it returns: set\[int\] is not one of plain values"),
        (of(strange_keys=strange_keys), r"'b': dict\[float, …\] can't travel: keys are str or int"),
        (of(unknown=unknown), r"unknown: parameter 'b' has an annotation that can't be resolved: 'Unknown' \(name"),
        (of(many=many), r"many: parameter 'texts' is variadic positional; arguments of operations are given by name"),
        (of(options=options), r"options: parameter 'texts' is variadic keyword; arguments"),
        (of(positional=positional), r"positional: parameter 'texts' is positional-only; arguments"),
        (of(default=default), r"default: parameter 'n': its default is None; expected int"),
        (of(**{"two words": fine}), r"Bad.two words: an operation's name is an identifier, not 'two words'"),
        (of(**{"class": fine}), r"Bad.class: an operation's name is an identifier, not 'class'"),
        (
            type("Bad", (Interface,), {"one": staticmethod(remote(fine))}),
            r"one: an operation is a method that takes self",
        ),
        (
            type("Bad", (Interface,), {"raw": remote(raw=True)(fine)}),
            r"raw: a raw operation takes \(self, client, frame",
        ),
    ],
)
def test_what_cannot_be_an_operation_is_refused_by_name(interface: type[Interface], text: str) -> None:
    with pytest.raises(PluginError, match=text) as caught:
        declared(interface)
    assert str(caught.value).startswith(f"{interface.__module__}.Bad.")


def test_what_clients_have_under_names_of_their_own() -> None:
    both = (dir(Client), dir(client.Client))
    own = {name for names in both for name in names if not name.startswith("_")}
    assert own | {"channel", "interface", "block"} <= RESERVED
    with pytest.raises(PluginError, match=r"Bad.close: clients have something else of that name; call it otherwise"):
        check_makeable(of(close=fine))
    with pytest.raises(PluginError, match=r"Bad.one: a parameter 'block' is the client's own"):
        check_makeable(of(one=_with_block))
    with pytest.raises(PluginError, match=r"Whole.submit is raw, so no client can be made for it: write one"):
        check_makeable(Whole)


def _with_block(self: Any, block: bool) -> None: ...


@pytest.mark.parametrize("name", [None, "", "two words", "a-b", "ü", "a" * 65, 3])
def test_names_of_interfaces(name: Any) -> None:
    with pytest.raises(PluginError, match=r"test_operations.Named is not an interface with a name"):
        check_interface_name(type("Named", (Interface,), {"name": name, "__module__": "test_operations"}))
    assert check_interface_name(Whole) == check_interface_name(Whole()) == "whole"


def test_remote_leaves_the_method_as_it_is() -> None:
    assert inspect.iscoroutinefunction(Whole.count)
    assert remote(fine) is fine
