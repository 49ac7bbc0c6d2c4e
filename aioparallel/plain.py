"""Plain values: what an annotation asks for, whether a value is that, and its form as JSON. Sans-I/O.

A `Shape` is an annotation that has been understood. `outward` makes of a value what is sent, `inward` makes the value
again of what has arrived; both check, and what does not fit is a `TypeError` that names the place, what is there and
what belongs there.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import operator
import reprlib
import sys
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

__all__ = ["Shape", "hints_of", "shape_of"]

#: How deep lists and dicts may be nested where an annotation leaves that open.
DEPTH = 64
WHICH = "plain are str, int, float, bool, None, Any, and list, dict, tuple, unions, Literal and dataclasses of these"

_shortly = reprlib.Repr()
_shortly.maxstring = _shortly.maxother = 60


class Shape(ABC):
    """What an annotation asks for.

    Attributes:
        text: The annotation, as a person reads and writes it.
        classes: The dataclasses in it.
    """

    def __init__(self, text: str, *parts: Shape) -> None:
        self.text = text
        self.classes: tuple[type, ...] = tuple(dict.fromkeys(found for part in parts for found in part.classes))

    def __repr__(self) -> str:
        return f"<Shape {self.text}>"

    @abstractmethod
    def outward(self, value: Any, place: str) -> Any:
        """Return what is sent for a value.

        Args:
            value: What is at hand.
            place: Where it is, for the error.

        Raises:
            TypeError: It is not of this shape.
        """

    @abstractmethod
    def inward(self, plain: Any, place: str) -> Any:
        """Return the value of what has arrived.

        Raises:
            TypeError: It is not of this shape.
        """

    def _misfit(self, value: Any, place: str) -> TypeError:
        return TypeError(f"{place} is {_described(value)}; expected {self.text}")


def _described(value: Any) -> str:
    return "None" if value is None else f"the {type(value).__name__} {_shortly.repr(value)}"


class _Scalar(Shape):
    """A str, an int, a bool, None."""

    def __init__(self, kind: type) -> None:
        super().__init__("None" if kind is type(None) else kind.__name__)
        self.kind = kind

    def outward(self, value: Any, place: str) -> Any:
        # To a type checker True is an int; to who reads a result it is not, and it is hardly ever meant.
        if not isinstance(value, self.kind) or (type(value) is bool and self.kind is int):
            raise self._misfit(value, place)
        return value

    def inward(self, plain: Any, place: str) -> Any:
        if type(plain) is not self.kind:
            raise self._misfit(plain, place)
        return plain


class _Float(Shape):
    """A float, or an int in its place."""

    def outward(self, value: Any, place: str) -> Any:
        if not isinstance(value, float | int) or type(value) is bool:
            raise self._misfit(value, place)
        return value

    def inward(self, plain: Any, place: str) -> Any:
        if type(plain) is float:
            return plain
        if type(plain) is not int:
            raise self._misfit(plain, place)
        try:
            return float(plain)
        except OverflowError:
            raise self._misfit(plain, place) from None


class _Anything(Shape):
    """Whatever JSON has."""

    def outward(self, value: Any, place: str) -> Any:
        return self._checked(value, place, DEPTH)

    def inward(self, plain: Any, place: str) -> Any:
        return plain

    def _checked(self, value: Any, place: str, depth: int) -> Any:
        if value is None or isinstance(value, str | int | float):
            return value
        if not depth:
            raise TypeError(f"{place} is nested more than {DEPTH} deep")
        if isinstance(value, list | tuple):
            return [self._checked(item, f"{place}[{i}]", depth - 1) for i, item in enumerate(value)]
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(f"{place} has the key {_shortly.repr(key)}; expected keys of str")
            return {key: self._checked(item, f"{place}[{key!r}]", depth - 1) for key, item in value.items()}
        raise TypeError(f"{place} is {_described(value)}; expected a plain value (JSON)")


class _List(Shape):
    def __init__(self, text: str, item: Shape, kinds: Any = (list,)) -> None:
        super().__init__(text, item)
        self.item = item
        self.kinds = kinds

    def outward(self, value: Any, place: str) -> Any:
        if not isinstance(value, self.kinds) or isinstance(value, str | bytes | bytearray):
            raise self._misfit(value, place)
        if self._is_simple(value):
            return value
        return [self.item.outward(item, f"{place}[{i}]") for i, item in enumerate(value)]

    def inward(self, plain: Any, place: str) -> Any:
        if type(plain) is not list:
            raise self._misfit(plain, place)
        if self._is_simple(plain):
            return plain
        return [self.item.inward(item, f"{place}[{i}]") for i, item in enumerate(plain)]

    def _is_simple(self, items: Any) -> bool:
        """Whether all items are the same scalars; to find that out at once is far quicker than one by one."""
        return (
            isinstance(self.item, _Scalar)
            and type(items) is list
            and all(map(functools.partial(operator.is_, self.item.kind), map(type, items)))
        )


class _Tuple(Shape):
    def __init__(self, text: str, items: Sequence[Shape]) -> None:
        super().__init__(text, *items)
        self.items = items

    def outward(self, value: Any, place: str) -> Any:
        return self._each(value, place, tuple, "outward", list)

    def inward(self, plain: Any, place: str) -> Any:
        return self._each(plain, place, list, "inward", tuple)

    def _each(self, value: Any, place: str, kind: Any, way: str, made: Callable[[Any], Any]) -> Any:
        if not isinstance(value, kind) or len(value) != len(self.items):
            raise self._misfit(value, place)
        pairs = zip(self.items, value, strict=True)
        return made([getattr(item, way)(each, f"{place}[{i}]") for i, (item, each) in enumerate(pairs)])


class _Tuples(_List):
    """A tuple of any length."""

    def inward(self, plain: Any, place: str) -> Any:
        return tuple(super().inward(plain, place))


class _Dict(Shape):
    def __init__(self, text: str, key: Shape, value: Shape, kind: Any = dict) -> None:
        super().__init__(text, key, value)
        self.key = key
        self.value = value
        self.kind = kind
        # JSON has no other keys than str: an int travels as its digits.
        self.numbers = isinstance(key, _Scalar) and key.kind is int

    def outward(self, value: Any, place: str) -> Any:
        if not isinstance(value, self.kind):
            raise self._misfit(value, place)
        sent = {}
        for key, item in value.items():
            key = self.key.outward(key, f"a key of {place}")
            sent[str(int(key)) if self.numbers else key] = self.value.outward(item, f"{place}[{key!r}]")
        return sent

    def inward(self, plain: Any, place: str) -> Any:
        if type(plain) is not dict:
            raise self._misfit(plain, place)
        try:
            made = {int(key): item for key, item in plain.items()} if self.numbers else plain
        except ValueError:
            raise self._misfit(plain, place) from None
        return {key: self.value.inward(item, f"{place}[{key!r}]") for key, item in made.items()}


class _Union(Shape):
    def __init__(self, members: Sequence[Shape]) -> None:
        super().__init__(" | ".join(member.text for member in members), *members)
        self.members = members

    def outward(self, value: Any, place: str) -> Any:
        return self._first(value, place, "outward")

    def inward(self, plain: Any, place: str) -> Any:
        return self._first(plain, place, "inward")

    def _first(self, value: Any, place: str, way: str) -> Any:
        """Return what the first member makes of it that it fits."""
        for member in self.members:
            try:
                return getattr(member, way)(value, place)
            except TypeError:
                continue
        raise self._misfit(value, place)


class _Literal(Shape):
    def __init__(self, values: Sequence[Any]) -> None:
        super().__init__(f"Literal[{', '.join(map(repr, values))}]")
        self.values = values

    def outward(self, value: Any, place: str) -> Any:
        # 1 == True == 1.0
        if not any(type(value) is type(known) and value == known for known in self.values):
            raise self._misfit(value, place)
        return value

    def inward(self, plain: Any, place: str) -> Any:
        return self.outward(plain, place)


class _Record(Shape):
    """A dataclass; it travels as a dict of its fields."""

    def __init__(self, kind: Any, fields: Mapping[str, Shape]) -> None:
        super().__init__(kind.__qualname__, *fields.values())
        self.kind = kind
        self.fields = fields
        self.classes = (kind, *self.classes)
        self.needed = [field.name for field in dataclasses.fields(kind) if _is_needed(field)]

    def outward(self, value: Any, place: str) -> Any:
        if not isinstance(value, self.kind):
            raise self._misfit(value, place)
        return {name: shape.outward(getattr(value, name), f"{place}.{name}") for name, shape in self.fields.items()}

    def inward(self, plain: Any, place: str) -> Any:
        if type(plain) is not dict or any(name not in self.fields for name in plain):
            raise self._misfit(plain, place)
        if any(name not in plain for name in self.needed):
            raise self._misfit(plain, place)
        return self.kind(**{name: self.fields[name].inward(each, f"{place}.{name}") for name, each in plain.items()})


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@functools.lru_cache(1024)
def shape_of(annotation: Any) -> Shape:
    """Return what an annotation asks for, which must be resolved (no string).

    Raises:
        TypeError: It is not one of plain values; the text says which are.
    """
    return _shape(annotation, ())


def _shape(annotation: Any, inside: tuple[Any, ...]) -> Shape:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation in (str, int, bool, type(None)):
        return _Scalar(type(None) if annotation is None else annotation)
    if annotation is float:
        return _Float("float")
    if annotation is Any or annotation is object:
        return _Anything("Any" if annotation is Any else "object")
    if origin is Literal and all(value is None or type(value) in (str, int, bool) for value in arguments):
        return _Literal(arguments)
    if origin in (Union, types.UnionType):
        return _Union([_shape(member, inside) for member in arguments])
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type) and annotation not in inside:
        return _record(annotation, inside)
    made = _container(origin or annotation, arguments, inside)
    if made is None:
        name = annotation.__qualname__ if isinstance(annotation, type) and not arguments else str(annotation)
        what = "a dataclass inside itself" if annotation in inside else "not one of plain values"
        raise TypeError(f"{name.replace('typing.', '')} is {what}; {WHICH}")
    return made


def _container(origin: Any, arguments: tuple[Any, ...], inside: tuple[Any, ...]) -> Shape | None:
    """Return the shape of an annotation that holds others; without any it holds `Any`."""
    sequences = {list: (list,), collections.abc.Sequence: (list, tuple, collections.abc.Sequence)}
    if origin in sequences:
        item = _shape(arguments[0] if arguments else Any, inside)
        return _List(f"{origin.__name__}[{item.text}]", item, sequences[origin])
    if origin in (dict, collections.abc.Mapping):
        key, value = (_shape(argument, inside) for argument in arguments or (str, Any))
        if not isinstance(key, _Scalar) or key.kind not in (str, int):
            raise TypeError(f"{origin.__name__}[{key.text}, …] can't travel: keys are str or int")
        return _Dict(f"{origin.__name__}[{key.text}, {value.text}]", key, value, origin)
    if origin is tuple and (not arguments or arguments[-1] is Ellipsis):
        item = _shape(arguments[0] if arguments else Any, inside)
        return _Tuples(f"tuple[{item.text}, ...]", item, (tuple,))
    if origin is tuple:
        items = [_shape(argument, inside) for argument in arguments]
        return _Tuple(f"tuple[{', '.join(item.text for item in items)}]", items)
    return None


def _record(kind: type, inside: tuple[Any, ...]) -> Shape:
    module = sys.modules.get(kind.__module__)
    annotations = {field.name: field.type for field in dataclasses.fields(kind) if field.init}
    fields = {}
    for name, annotation in annotations.items():
        try:
            [hint] = hints_of({name: annotation}, vars(module) if module else {}).values()
            fields[name] = _shape(hint, (*inside, kind))
        except (TypeError, NameError) as error:
            raise TypeError(f"field {name!r} of {kind.__qualname__}: {error}") from None
    return _Record(kind, fields)


class _Annotated:
    """Something that has annotations, as `typing.get_type_hints` wants it."""

    def __init__(self, annotations: Mapping[str, Any]) -> None:
        self.__annotations__ = dict(annotations)


def hints_of(annotations: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Return annotations resolved: those that are strings by what `names` has.

    Raises:
        NameError: A name in them is unknown.
        SyntaxError: One is not Python.
    """
    return typing.get_type_hints(_Annotated(annotations), dict(names), {})
