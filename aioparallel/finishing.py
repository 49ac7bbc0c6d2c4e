"""What has to be done to its end once it was begun: a cancel waits for that."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["finished"]


async def finished(work: asyncio.Future[Any]) -> None:
    """Wait until `work` is done; a cancel of the waiting neither ends it nor leaves it behind.

    So an `async with` that is cancelled, also while it is left, leaves nothing running. For work that ends by itself,
    soon: who cancels has to wait for that.

    Args:
        work: A task, or another future.

    Raises:
        asyncio.CancelledError: The waiting was cancelled, and `work` is done.
        BaseException: What `work` raised.
    """
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    work.result()
