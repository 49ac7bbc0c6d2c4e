"""What stands for a value in a call: a Reference, an Outcome, and a Promise on its way out. Sans-I/O.

While an engine unpacks a command it is the `place`: a Reference that arrives is evaluated there, and an Outcome becomes
the value that came along from another task. Both cost nothing for a command that holds none, however deep one sits.
Anywhere else they stay what they are.
"""

from __future__ import annotations

import ast
from typing import Any, Protocol

__all__ = ["Outcome", "Place", "Promise", "Reference", "Unresolved"]


class Place(Protocol):
    """An engine, as what arrives there sees it."""

    names: dict[str, Any]

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression there."""
        ...

    def outcome(self, number: int) -> Any:
        """Return the value of that one of the tasks whose values came along."""
        ...


#: The engine that unpacks a command at this moment.
place: Place | None = None


class Unresolved(Exception):
    """What stands for a value raised where it arrived; its cause is what the engine has to tell."""


class Promise:
    """A value that is on its way: the base of what calls give back at once."""

    __slots__ = ()

    def arrived(self) -> tuple[Any] | None:
        """Return the value, in a tuple; None if it is not there, or never will be."""
        return None


class Reference:
    """A value that is on the engines already: given as an argument, each engine puts its own in its place.

    It may stand anywhere in the arguments of a call, also inside lists, dicts and other objects. An engine evaluates it
    when the call's turn has come, and raises what that raises: `NameError`, if it has no such name. A result may hold
    one, too: outside an engine it stays a Reference.

    Args:
        name: A name on the engines, or an expression of names: `"a"`, `"a.b[0]"`.

    Raises:
        TypeError: `name` is not a string.
        ValueError: `name` is not a Python expression.

    Attributes:
        name: What was given.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a Reference needs a name as a str, not {type(name).__name__}")
        try:
            ast.parse(name.strip(), mode="eval")
        except (SyntaxError, ValueError):
            raise ValueError(f"{name!r} is not a name, nor an expression of names such as 'a.b[0]'") from None
        self.name = name.strip()

    def __repr__(self) -> str:
        return f"Reference({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return other.name == self.name if isinstance(other, Reference) else NotImplemented

    def __hash__(self) -> int:
        return hash((Reference, self.name))

    def __reduce__(self) -> tuple[Any, ...]:
        return _resolve, (self.name,)


class Outcome:
    """What another task came to, in a call that is given that task's future as an argument.

    It takes the future's place when the call is packed. The value goes to the engine together with the call, and never
    passes through the client.

    Args:
        number: Which of the call's futures, from 0, in the order in which they were met.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"Outcome({self.number})"

    def __eq__(self, other: object) -> bool:
        return other.number == self.number if isinstance(other, Outcome) else NotImplemented

    def __hash__(self) -> int:
        return hash((Outcome, self.number))

    def __reduce__(self) -> tuple[Any, ...]:
        return _outcome, (self.number,)


def _resolve(name: str) -> Any:
    """Be a Reference that arrives."""
    if place is None:
        return Reference(name)
    try:
        return place.evaluate(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise Unresolved from error


def _outcome(number: int) -> Any:
    """Be an Outcome that arrives."""
    if place is None:
        return Outcome(number)
    try:
        return place.outcome(number)
    except (KeyboardInterrupt, Unresolved):
        raise
    except BaseException as error:
        raise Unresolved from error
