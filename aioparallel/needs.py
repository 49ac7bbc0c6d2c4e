"""Where a task may run: engines, resources, and where it had better not. Sans-I/O."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

__all__ = ["Needs"]


@dataclass(frozen=True, slots=True)
class Needs:
    """Where a task may run.

    Attributes:
        engines: Only there; None: anywhere.
        resources: What it holds while it is at an engine: names and amounts, kept in the order of the names.
        not_on: Never there: they rejected it.
        rather_not: Only if no other engine may take it: it failed or ended a kernel there.

    Raises:
        ValueError: An amount is not a number above 0, or a resource is named twice.
    """

    engines: frozenset[int] | None = None
    resources: tuple[tuple[str, float], ...] = ()
    not_on: frozenset[int] = frozenset()
    rather_not: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Put the resources in order."""
        for name, amount in self.resources:
            if not (isfinite(amount) and amount > 0):
                raise ValueError(f"resource {name!r}: a task needs a number above 0 of it, not {amount!r}")
        if len(dict(self.resources)) < len(self.resources):
            raise ValueError(f"a resource is named twice in {self.resources!r}")
        object.__setattr__(self, "resources", tuple(sorted(self.resources)))
