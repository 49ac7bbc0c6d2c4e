"""How `map` cuts its input into chunks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aioparallel.mapping import Chunks


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
