"""What a client may note about engines: small JSON values, kept at the controller."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from aioparallel.addressing import Addressing
from aioparallel.results import Targets

__all__ = ["PropertyCalls", "plain_properties", "property_names"]

#: How deep lists and dicts may be nested in a property.
DEPTH = 32


class PropertyCalls(Addressing):
    """The five methods about properties, for `MultiEngineCalls`.

    Properties are small JSON values about an engine: what it has, what it is for. They are kept at the controller, so
    these calls don't wait for what engines do; an engine keeps them over a restart of its kernel, and they are gone
    when it leaves.
    """

    def set_properties(
        self, properties: Mapping[str, Any], *, targets: Targets | None = None, block: bool | None = None
    ) -> Any:
        """Set properties of each target; others that it has stay.

        Args:
            properties: Values by name: None, bool, int, float, str, and lists and dicts of these (a tuple becomes
                a list).
            targets: Which engines.
            block: Whether to wait (blocking face).

        Raises:
            TypeError: A value is not JSON; the text names the key.
            OperationError: An engine's would take too much room (64 KiB); then nothing was set on any.
        """
        plain = plain_properties(properties)
        return self._operate("set_properties", block, targets=self._plain(targets), properties=plain)

    def get_properties(
        self, names: str | Sequence[str] | None = None, *, targets: Targets | None = None, block: bool | None = None
    ) -> Any:
        """Return, for each target, a dict of its properties: all of them, or those named; for a single name its value.

        Raises:
            InvalidProperty: An engine does not have one of them.
        """
        asked = None if names is None else property_names(names)
        return self._about("get_properties", asked, targets, block)

    def has_properties(
        self, names: str | Sequence[str], *, targets: Targets | None = None, block: bool | None = None
    ) -> Any:
        """Return, for each target, whether it has the property; for several names a list of that."""
        return self._about("has_properties", property_names(names), targets, block)

    def del_properties(
        self, names: str | Sequence[str], *, targets: Targets | None = None, block: bool | None = None
    ) -> Any:
        """Remove properties of each target.

        Raises:
            InvalidProperty: An engine does not have one of them; then nothing was removed from any.
        """
        asked = property_names(names)
        return self._operate("del_properties", block, targets=self._plain(targets), names=asked)

    def clear_properties(self, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Remove all properties of each target."""
        return self._operate("clear_properties", block, targets=self._plain(targets))

    def _about(self, operation: str, names: Any, targets: Targets | None, block: bool | None) -> Any:
        finish = self._listed(list, targets)
        return self._operate(operation, block, finish, targets=self._plain(targets), names=names)


def plain_properties(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return properties as they travel.

    Raises:
        TypeError: They are no mapping, a name is not a string, or a value is not JSON.
    """
    if not isinstance(properties, Mapping):
        raise TypeError(f"properties are a dict of values by name, not {type(properties).__name__}")
    plain = dict(properties)
    property_names(list(plain))
    for name, value in plain.items():
        wrong = _not_json(value, f"property {name!r}", DEPTH)
        if wrong:
            raise TypeError(f"{wrong}; properties are None, bool, int, float, str, and lists and dicts of these")
    return plain


def _not_json(value: Any, path: str, depth: int) -> str:
    """Return what of a value is not JSON, or ""."""
    if value is None or isinstance(value, bool | str):
        return ""
    if isinstance(value, int):
        try:
            json.dumps(value)
        except ValueError:
            return f"{path} is an int of more digits than Python prints"
        return ""
    if isinstance(value, float):
        return "" if isfinite(value) else f"{path} is {value}, which JSON does not have"
    if not isinstance(value, list | tuple | dict):
        return f"{path} is a {type(value).__name__}"
    if not depth:
        return f"{path.partition('[')[0]} is nested more than {DEPTH} deep"
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                return f"{path} has the key {key!r}, which is not a str"
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return next(filter(None, (_not_json(item, f"{path}[{key!r}]", depth - 1) for key, item in items)), "")


def property_names(names: str | Sequence[str]) -> str | list[str]:
    """Return names as they travel: one, or a list of several.

    Raises:
        TypeError: They are anything else.
    """
    if isinstance(names, str):
        return names
    listed = list(names) if isinstance(names, Sequence | set | frozenset) else [names]
    for name in listed:
        if not isinstance(name, str):
            raise TypeError(f"names of properties are strings, not {name!r}")
    return listed
