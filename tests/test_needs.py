"""needs: which amounts of resources are taken, and that their order makes no difference."""

from __future__ import annotations

import pytest

from aioparallel.needs import Needs


@pytest.mark.parametrize("amount", [0, -1.0, float("nan"), float("inf")])
def test_what_is_no_amount_is_refused(amount: float) -> None:
    with pytest.raises(ValueError, match="resource 'gpu': a task needs a number above 0"):
        Needs(resources=(("gpu", amount),))


def test_resources_are_put_in_order() -> None:
    assert Needs(resources=(("mem", 2.0), ("gpu", 1.0))) == Needs(resources=(("gpu", 1.0), ("mem", 2.0)))
    with pytest.raises(ValueError, match="named twice"):
        Needs(resources=(("gpu", 1.0), ("gpu", 2.0)))
