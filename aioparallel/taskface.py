"""The asyncio face of Task."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from aioparallel.face import Client
from aioparallel.handle import Handle, TaskHandle
from aioparallel.mapping import Mapping
from aioparallel.taskcalls import TaskCalls

__all__ = ["TaskClient", "Values"]


class Values:
    """The values of a `map`, for `async for`. Its end, or that of whoever has it, withdraws what is not done."""

    def __init__(self, loop: asyncio.AbstractEventLoop, mapping: Mapping, ordered: bool) -> None:
        self._loop = loop
        self._mapping = mapping
        self._ordered = ordered
        self._ready: deque[Any] = deque()

    def __repr__(self) -> str:
        return f"<Values of {self._mapping!r}>"

    def __aiter__(self) -> Values:
        return self

    async def __anext__(self) -> Any:
        pending = self._mapping.pending
        try:
            while not self._ready and pending:
                if not self._ordered:
                    await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                handle = pending[0] if self._ordered else next(handle for handle in pending if handle.done())
                answer = await handle
                pending.remove(handle)
                self._ready.extend(self._mapping.settled(handle, answer))
        except BaseException:
            await self.aclose()
            raise
        if self._ready:
            return self._ready.popleft()
        await self.aclose()
        raise StopAsyncIteration

    def __del__(self) -> None:
        if self._mapping.pending and not self._loop.is_closed():
            # Not here: who knows in the middle of what this is.
            self._loop.call_soon_threadsafe(self._mapping.cancel)

    async def aclose(self) -> None:
        """Withdraw what is not done. Safe to call twice."""
        self._ready.clear()
        self._mapping.cancel()


class TaskClient(TaskCalls, Client):
    """Give work to whichever engine is free: `submit` returns an awaitable handle, `map` an async iterator."""

    interface: ClassVar[str] = "task"

    def _task_future(self) -> TaskHandle:
        return TaskHandle(loop=self.channel.loop)

    def _make_room(self) -> None:
        """A loop does not wait."""

    def _engine_count(self) -> int:
        return len(self.channel.engines)

    def _values_of(self, mapping: Mapping, ordered: bool) -> Values:
        return Values(self.channel.loop, mapping, ordered)

    def _list_of(self, values: AsyncIterator[Any]) -> asyncio.Task[list[Any]]:
        async def collected() -> list[Any]:
            return [value async for value in values]

        return self.channel.loop.create_task(collected())

    async def _in_order_of_ends(self, handles: list[Any], timeout: float | None) -> AsyncIterator[Any]:
        for handle in handles:
            if not isinstance(handle, Handle):
                raise TypeError(f"as_completed is for handles of calls, not for {handle!r}")
        ended: deque[Any] = deque()
        more = asyncio.Event()

        def one_ended(handle: Any) -> None:
            ended.append(handle)
            more.set()

        for handle in handles:
            handle.add_done_callback(one_ended)
        deadline = None if timeout is None else self._now() + timeout
        try:
            for given in range(len(handles)):
                try:
                    async with asyncio.timeout_at(deadline):
                        while not ended:
                            more.clear()
                            await more.wait()
                except TimeoutError:
                    left = len(handles) - given
                    raise TimeoutError(f"{left} of {len(handles)} calls have not ended after {timeout} s") from None
                yield ended.popleft()
        finally:
            for handle in handles:
                handle.remove_done_callback(one_ended)
