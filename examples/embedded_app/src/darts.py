"""What the service has its engines do; apart from the service, which they need not load."""

from __future__ import annotations

import random


def hits(seed: int, darts: int) -> int:
    """Throw darts at a square; return how many lie in the quarter of a circle."""
    throw = random.Random(seed).random
    return sum(throw() ** 2 + throw() ** 2 < 1 for _ in range(darts))
