"""What an engine has and a task needs: named numbers, such as gpu=1. Sans-I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aioparallel.errors import ConfigurationError

__all__ = ["checked_resources", "parse_resource"]

#: No amount is as large as this one.
LARGE = 2**63


def checked_resources(resources: Any) -> dict[str, float]:
    """Return resources by name, sorted, once it is certain that they are some.

    Args:
        resources: An amount from 0 up for each name.

    Raises:
        ConfigurationError: They are not; the text names the one that is wrong.
    """
    if not isinstance(resources, Mapping):
        raise ConfigurationError(f"resources are numbers by name, such as {{'gpu': 1}}, not {resources!r}"[:500])
    for name, amount in resources.items():
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"the name of a resource is a word, not {name!r}"[:500])
        number = isinstance(amount, int | float) and not isinstance(amount, bool)
        # Compared before it is turned into anything: an integer may be too large for a float, and even for a text.
        if not number or not 0 <= amount < LARGE:
            told = "one beyond 2**63" if isinstance(amount, int) and abs(amount) >= LARGE else repr(amount)
            raise ConfigurationError(f"resource {name!r} is a finite number from 0 up, not {told}"[:500])
    return {name: float(resources[name]) for name in sorted(resources)}


def parse_resource(text: str) -> tuple[str, float]:
    """Return name and amount of a resource as a person writes it: "gpu=1", or "gpu" for one.

    Raises:
        ConfigurationError: It isn't one.
    """
    name, given, amount = text.partition("=")
    try:
        number = float(amount) if given else 1.0
    except ValueError:
        raise ConfigurationError(f"a resource is a name and a number, such as gpu=1, not {text!r}") from None
    [(name, number)] = checked_resources({name: number}).items()
    return name, number
