"""How `map` cuts its input into chunks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioparallel.mapping import Chunks, check_chunksize


@settings(deadline=None)
@given(
    total=st.integers(0, 5000),
    engines=st.integers(1, 16),
    item=st.floats(1e-7, 10.0),
    chunksize=st.none() | st.integers(1, 100),
)
def test_chunks_lose_nothing_and_grow_only_as_far_as_they_have_learnt(
    total: int, engines: int, item: float, chunksize: int | None
):
    chunks = Chunks((range(total), range(total)), chunksize, engines)
    seen, largest = [], 1
    while rows := chunks.take():
        seen += rows
        if chunksize is not None:
            assert len(rows) <= chunksize
        else:
            assert len(rows) <= largest * 16
            assert len(rows) == 1 or len(rows) * item <= 0.06
        largest = max(largest, len(rows))
        chunks.learn(len(rows), len(rows) * item)
    assert seen == [(i, i) for i in range(total)]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2"])
def test_what_is_no_size_of_chunks_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="chunksize is a number of items from 1 on, or None"):
        check_chunksize(wrong)
