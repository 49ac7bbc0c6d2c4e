"""What an operation is, read from its method: kind, parameters, value; refused in words. Sans-I/O."""

from __future__ import annotations

import collections.abc
import enum
import inspect
import keyword
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin, overload

from aioparallel.errors import OperationError, PluginError
from aioparallel.plain import Shape, hints_of, shape_of

__all__ = [
    "RESERVED",
    "Kind",
    "Operation",
    "Parameter",
    "check_interface_name",
    "check_makeable",
    "declared",
    "operations",
    "remote",
]

F = TypeVar("F", bound=Callable[..., Any])

#: What clients have under names of their own; an operation that a client is made for is called otherwise.
RESERVED = frozenset(
    {"aclose", "block", "channel", "close", "connect", "interface", "mro", "notices", "on_notice", "operations"}
)
#: What a plain method may give instead of its value: the value follows.
LATER = (collections.abc.Awaitable, collections.abc.Coroutine)
_MARK = "__aioparallel__"
_MISSING: Any = inspect.Parameter.empty


class Kind(enum.Enum):
    """How an operation answers."""

    VALUE = "value"  # with one plain value, now or later
    STREAM = "stream"  # with one after the other, as an async generator yields them
    RAW = "raw"  # by itself


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of an operation.

    Attributes:
        name: What it is called.
        annotation: What it is annotated with, resolved.
        shape: What that asks for.
        default: What it is when it is not given; `inspect.Parameter.empty` if it must be.
    """

    name: str
    annotation: Any
    shape: Shape
    default: Any


@dataclass(frozen=True, slots=True)
class Operation:
    """What clients may call by name.

    Attributes:
        name: The name.
        kind: How it answers.
        parameters: What a client gives, in order; nothing is known of a raw operation's.
        signature: The same with what it gives, as `inspect` has it; without `self` and `client`.
        annotation: What it gives, resolved; of a stream, what one value is.
        shape: What that asks for; None for a raw operation.
        wants_client: Whether it is told who calls.
        doc: Its docstring.
    """

    name: str
    kind: Kind
    parameters: tuple[Parameter, ...]
    signature: inspect.Signature
    annotation: Any
    shape: Shape | None
    wants_client: bool
    doc: str | None

    def arguments(self, plain: Any) -> dict[str, Any]:
        """Return what to call the method with, of what a client has sent.

        Raises:
            OperationError: It does not fit; the text names the argument, what it is and what was expected.
        """
        if not isinstance(plain, dict):
            raise OperationError(f"{self.name}: the arguments of a call are a JSON object")
        given = dict(plain)
        arguments = {}
        for parameter in self.parameters:
            if parameter.name not in given:
                if parameter.default is _MISSING:
                    raise OperationError(f"{self.name}: missing argument {parameter.name!r}; it takes {self._takes}")
                continue
            try:
                value = given.pop(parameter.name)
                arguments[parameter.name] = parameter.shape.inward(value, f"argument {parameter.name}")
            except TypeError as error:
                raise OperationError(f"{self.name}: {error}") from None
        if given:
            raise OperationError(
                f"{self.name}: unexpected keyword argument {next(iter(given))!r}; it takes {self._takes}"
            )
        return arguments

    def value(self, value: Any) -> Any:
        """Return a value that the method gave as it is sent.

        Raises:
            OperationError: It is not what the annotation says.
        """
        assert self.shape is not None
        try:
            return self.shape.outward(value, "what it " + ("yielded" if self.kind is Kind.STREAM else "returned"))
        except TypeError as error:
            raise OperationError(f"{self.name}: {error}") from None

    @property
    def _takes(self) -> str:
        return ", ".join(parameter.name for parameter in self.parameters) or "none"


@overload
def remote(method: F) -> F: ...
@overload
def remote(*, raw: bool = False) -> Callable[[F], F]: ...
def remote(method: F | None = None, *, raw: bool = False) -> F | Callable[[F], F]:
    """Mark a method of an `Interface` as an operation that clients may call by name.

    It takes and gives plain values, and says by its annotations which; a parameter `client` is not the client's to
    give: it is the `ClientProxy` of whoever calls. It may be

    * `async def`: the client's call ends when it returns, and it is cancelled when the call is;
    * a plain method that returns a value, or an asyncio future of one (`asyncio.shield` it if others wait for it too:
      when the call is cancelled, it is);
    * an async generator: a stream. It is asked for the next value when the client has room for it, and closed when the
      client wants no more or is gone.

    A raw operation takes `(client, frame)`, returns None, and answers itself, now or later, through the client.

    Args:
        method: The method, when used without parentheses.
        raw: Whether it is a raw one.
    """

    def mark(function: F) -> F:
        setattr(function, _MARK, raw)
        return function

    return mark if method is None else mark(method)


def operations(interface: type) -> tuple[str, ...]:
    """Return the names of an interface's operations, sorted; their places are their codes on the wire."""
    return tuple(name for name in sorted(dir(interface)) if _is_marked(inspect.getattr_static(interface, name, None)))


def _is_marked(member: Any) -> bool:
    return hasattr(getattr(member, "__func__", member), _MARK) and not isinstance(member, type)


def check_interface_name(interface: Any) -> str:
    """Return the name of an interface (a class or an instance).

    Raises:
        PluginError: It has none that will do.
    """
    kind = interface if isinstance(interface, type) else type(interface)
    place = f"{kind.__module__}.{kind.__qualname__}"
    name = getattr(interface, "name", None)
    if name is None:
        raise PluginError(f'{place} is not an interface with a name: give the class one, such as name = "wordcount"')
    if not isinstance(name, str) or not name.isidentifier() or not name.isascii() or len(name) > 64:
        raise PluginError(
            f"{place} is not an interface with a name that will do: {name!r}; expected an identifier (letters, digits, "
            "_; at most 64)"
        )
    return name


def declared(interface: type) -> Mapping[str, Operation]:
    """Return the operations of an interface by name, sorted.

    Raises:
        PluginError: One of them can't be an operation; the text names it, what is wrong and what was expected.
    """
    known: Mapping[str, Operation] | None = interface.__dict__.get("_declared")
    if known is None:
        found = {}
        for name in operations(interface):
            try:
                found[name] = _operation(name, inspect.getattr_static(interface, name))
            except TypeError as error:
                place = f"{interface.__module__}.{interface.__qualname__}.{name}"
                raise PluginError(f"{place}: {error}") from None
        known = found
        interface._declared = known  # type: ignore[attr-defined]
    return known


def check_makeable(interface: type) -> None:
    """Find out whether a client can be made for an interface.

    Raises:
        PluginError: It can't; the text names the operation and why.
    """
    for operation in declared(interface).values():
        place = f"{interface.__module__}.{interface.__qualname__}.{operation.name}"
        if operation.kind is Kind.RAW:
            raise PluginError(f"{place} is raw, so no client can be made for it: write one (client = …)")
        if operation.name in RESERVED or operation.name.startswith("_"):
            raise PluginError(
                f"{place}: clients have something else of that name; call it otherwise, or write a client (client = …)"
            )
        for parameter in operation.parameters:
            if parameter.name in ("self", "block"):
                raise PluginError(f"{place}: a parameter {parameter.name!r} is the client's own; call it otherwise")


def _operation(name: str, function: Any) -> Operation:
    """Understand a method.

    Raises:
        TypeError: It can't be an operation.
    """
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name):
        raise TypeError(f"an operation's name is an identifier, not {name!r}")
    if not inspect.isfunction(function):
        raise TypeError(f"an operation is a method that takes self, not a {type(function).__name__}")
    signature = inspect.signature(function)
    given = list(signature.parameters.values())[1:]
    doc = inspect.getdoc(function)
    if getattr(function, _MARK):
        if [parameter.name for parameter in given] != ["client", "frame"]:
            raise TypeError("a raw operation takes (self, client, frame)")
        return Operation(name, Kind.RAW, (), signature.replace(parameters=given), None, None, True, doc)
    if inspect.isgeneratorfunction(function):
        raise TypeError("an operation can't be a generator; a stream is an async one: async def with yield")
    names = inspect.unwrap(function).__globals__
    wants_client = any(parameter.name == "client" for parameter in given)
    parameters = tuple(_parameter(parameter, names) for parameter in given if parameter.name != "client")
    stream = inspect.isasyncgenfunction(function)
    annotation = _given(signature.return_annotation, names, stream)
    try:
        shape = shape_of(annotation)
    except TypeError as error:
        raise TypeError(f"what it {'yields' if stream else 'returns'}: {error}") from None
    seen = [
        inspect.Parameter(each.name, kept.kind, default=each.default, annotation=each.annotation)
        for each in parameters
        for kept in [signature.parameters[each.name]]
    ]
    kind = Kind.STREAM if stream else Kind.VALUE
    signature = inspect.Signature(seen, return_annotation=annotation)
    return Operation(name, kind, parameters, signature, annotation, shape, wants_client, doc)


def _parameter(parameter: inspect.Parameter, names: Mapping[str, Any]) -> Parameter:
    what = f"parameter {parameter.name!r}"
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise TypeError(f"{what} is {parameter.kind.description}; arguments of operations are given by name")
    if parameter.annotation is parameter.empty:
        raise TypeError(f"{what} has no annotation; expected one of plain values, such as {parameter.name}: list[str]")
    annotation = _resolved(parameter.annotation, names, what)
    try:
        shape = shape_of(annotation)
        if parameter.default is not parameter.empty:
            shape.outward(parameter.default, "its default")
    except TypeError as error:
        raise TypeError(f"{what}: {error}") from None
    return Parameter(parameter.name, annotation, shape, parameter.default)


def _given(annotation: Any, names: Mapping[str, Any], stream: bool) -> Any:
    """Return what an operation gives in the end: the annotation of its value, or of one value of its stream."""
    if annotation is inspect.Signature.empty:
        wanted = "AsyncIterator[int]" if stream else "dict[str, int]"
        raise TypeError(f"its return has no annotation; expected one of plain values, such as -> {wanted}")
    annotation = _resolved(annotation, names, "its return")
    origin, arguments = get_origin(annotation), get_args(annotation)
    if stream:
        streams = (collections.abc.AsyncIterator, collections.abc.AsyncGenerator, collections.abc.AsyncIterable)
        if origin not in streams or not arguments:
            raise TypeError(f"a stream is annotated AsyncIterator[…], not {annotation}")
        return arguments[0]
    if isinstance(origin, type) and issubclass(origin, LATER) and arguments:
        return arguments[-1]
    return annotation


def _resolved(annotation: Any, names: Mapping[str, Any], what: str) -> Any:
    try:
        [resolved] = hints_of({"it": annotation}, names).values()
    except Exception as error:
        raise TypeError(
            f"{what} has an annotation that can't be resolved: {annotation!r} ({error}); expected one whose names are "
            "there when the module has been imported"
        ) from None
    return resolved
