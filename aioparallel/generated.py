"""Clients made from an interface's annotations: the same methods on either face."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from aioparallel import plugins
from aioparallel.arrivals import BlockingStream, Stream
from aioparallel.errors import PluginError
from aioparallel.face import Client
from aioparallel.operations import Kind, Operation, check_interface_name, check_makeable, declared
from aioparallel.plain import shape_of
from aioparallel.settling import Finish, plain_value
from aioparallel.wire import Frame

__all__ = ["Asking", "OnDemand", "class_of", "client_of", "made_by_us", "make_client"]

C = TypeVar("C")


class Asking:
    """Calls operations of plain values, checked by annotations; a base of clients, with that of a face beside it."""

    # What a face provides.
    _begin: Callable[..., Any]
    _check_block: Callable[[bool | None], None]
    _deliver: Callable[[Any, bool | None], Any]
    _stream: Callable[[str, bytes, Callable[[Any], Any]], Any]

    def _ask(
        self, operation: str, arguments: Mapping[str, tuple[Any, Any]], gives: Any, block: bool | None = None
    ) -> Any:
        """Call an operation that answers with a value.

        Args:
            operation: Its name.
            arguments: By name, each with its annotation.
            gives: The annotation of its value.
            block: Whether to wait for it (blocking face).

        Raises:
            TypeError: An argument is not what its annotation says; nothing was sent.
        """
        self._check_block(block)
        shape = shape_of(gives)

        def finish(frames: list[Frame]) -> Any:
            return shape.inward(plain_value(frames), f"what {operation} returned")

        return self._deliver(self._begin(operation, cast(Finish, finish), header=_header(operation, arguments)), block)

    def _ask_for_stream(self, operation: str, arguments: Mapping[str, tuple[Any, Any]], gives: Any) -> Any:
        """Call an operation that answers with a stream; as `_ask`, `gives` is the annotation of one value."""
        shape = shape_of(gives)

        def make(header: bytes) -> Any:
            return shape.inward(json.loads(header), f"what {operation} yielded")

        return self._stream(operation, _header(operation, arguments), make)


def _header(operation: str, arguments: Mapping[str, tuple[Any, Any]]) -> bytes:
    plain = {}
    for name, (value, annotation) in arguments.items():
        try:
            plain[name] = shape_of(annotation).outward(value, f"argument {name}")
        except TypeError as error:
            raise TypeError(f"{operation}: {error}") from None
    return json.dumps(plain).encode()


def make_client(interface: type, face: type[C], *, blocking: bool) -> type[C]:
    """Return a client class of a face for an interface; the same one each time.

    Raises:
        PluginError: None can be made.
    """
    mark = "_blocking_client" if blocking else "_asyncio_client"
    made: type[C] | None = interface.__dict__.get(mark)
    if made is None:
        name = check_interface_name(interface)
        check_makeable(interface)
        face_name = "blocking" if blocking else "asyncio"
        doc = f"{inspect.getdoc(interface) or f'A client of {name!r}.'}\n\nThe {face_name} face of {name!r}."
        body: dict[str, Any] = {
            operation.name: _method(operation, f"{interface.__name__}Client", interface.__module__, blocking)
            for operation in declared(interface).values()
        }
        body |= {"interface": name, "__doc__": doc, "__module__": interface.__module__}
        made = cast("type[C]", type(f"{interface.__name__}Client", (Asking, face), body))
        setattr(interface, mark, made)
    return made


def _method(operation: Operation, owner: str, module: str, blocking: bool) -> Callable[..., Any]:
    """Return the method of a client that calls an operation."""
    name, gives = operation.name, operation.annotation
    annotations = {parameter.name: parameter.annotation for parameter in operation.parameters}
    signature = operation.signature

    def bound(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        return {key: (value, annotations[key]) for key, value in given.items()}

    def stream(self: Asking, *args: Any, **kwargs: Any) -> Any:
        return self._ask_for_stream(name, bound(args, kwargs), gives)

    def value(self: Asking, *args: Any, block: bool | None = None, **kwargs: Any) -> Any:
        return self._ask(name, bound(args, kwargs), gives, block)

    method: Any = stream if operation.kind is Kind.STREAM else value
    shown = _shown(operation, blocking)
    method.__name__, method.__qualname__, method.__module__ = name, f"{owner}.{name}", module
    method.__doc__ = operation.doc
    method.__signature__ = shown
    method.__annotations__ = {each.name: each.annotation for each in shown.parameters.values() if each.name != "self"}
    method.__annotations__["return"] = shown.return_annotation
    return cast("Callable[..., Any]", method)


def _shown(operation: Operation, blocking: bool) -> inspect.Signature:
    """Return the signature of a client's method."""
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += operation.signature.parameters.values()
    if operation.kind is Kind.STREAM:
        gives: Any = (BlockingStream if blocking else Stream)[operation.annotation]
    elif blocking:
        gives = operation.annotation
        parameters.append(
            inspect.Parameter("block", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=bool | None)
        )
    else:
        gives = asyncio.Future[operation.annotation]  # type: ignore[name-defined]
    return inspect.Signature(parameters, return_annotation=gives)


def client_of(interface: str | type) -> Any:
    """Return the asyncio client class of an interface: the one that was written for it, or one made from annotations.

    Each operation is a method with the same parameters, docstring and annotations: it gives an awaitable handle, or,
    if the operation is a stream, a `Stream` for `async for`.

    Args:
        interface: A subclass of `aioparallel.Interface`, the name of one that is installed, or "module:Class".

    Raises:
        PluginError: There is no such interface; or no client was written, and none can be made. The text says why.
    """
    interface = class_of(interface)
    written = _written(interface, "client")
    return make_client(interface, Client, blocking=False) if written is None else written


def class_of(interface: str | type) -> type:
    """Return the class of an interface, given that, the name of one that is installed, or "module:Class".

    Raises:
        PluginError: There is none, or it can't be imported.
    """
    if isinstance(interface, str):
        interface = plugins.load(plugins.INTERFACES, interface)
    if not isinstance(interface, type):
        raise PluginError(f"{interface!r} is not an interface: expected a class, or a name")
    return interface


def made_by_us(interface: type) -> bool:
    """Whether nobody has written a client for an interface."""
    return _written(interface, "client") is None


def _written(interface: type, attribute: str) -> Any:
    written = inspect.getattr_static(interface, attribute, None)
    return None if isinstance(written, OnDemand) else written


class _NoClient(PluginError, AttributeError):
    """An interface without a client. To who looks for attributes, as `help` does, it is a missing one."""


class OnDemand:
    """The attribute `client` of an interface for which nobody has written one."""

    def __get__(self, instance: object, owner: type) -> Any:
        try:
            return client_of(owner)
        except PluginError as error:
            raise _NoClient(str(error)) from None
