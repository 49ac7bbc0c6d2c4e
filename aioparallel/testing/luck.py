"""Everything random in a simulation, from one seed (the one module that imports random)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from aioparallel.source import Source

__all__ = ["Luck", "Random"]

#: The wall clock when a simulation begins, seconds since 1970.
BEGINNING = 1_700_000_000.0


class Luck:
    """What a seed decides. Each purpose has a stream of its own, so that one more draw here changes nothing there.

    Args:
        seed: The seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __repr__(self) -> str:
        return f"<Luck of seed {self.seed}>"

    def stream(self, purpose: str) -> Random:
        """Return random numbers for a purpose; the same ones whenever it is asked for."""
        return Random(f"{self.seed} {purpose}")  # noqa: S311  (they are to be repeated)

    def source(self, purpose: str, clock: Callable[[], float]) -> Source:
        """Return random bytes, and the wall clock.

        Args:
            purpose: What for.
            clock: Returns seconds since the simulation began.
        """
        return Source(self.stream(purpose).randbytes, lambda: BEGINNING + clock())
