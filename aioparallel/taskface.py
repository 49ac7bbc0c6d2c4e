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

__all__ = ["TaskClient"]


class TaskClient(TaskCalls, Client):
    """Give work to whichever engine is free: `submit` returns an awaitable handle, `map` an async iterator."""

    interface: ClassVar[str] = "task"

    def _task_future(self) -> TaskHandle:
        return TaskHandle(loop=self.channel.loop)

    def _make_room(self) -> None:
        """A loop does not wait."""

    def _engine_count(self) -> int:
        return len(self.channel.engines)

    async def _values_of(self, mapping: Mapping, ordered: bool) -> AsyncIterator[Any]:
        try:
            while mapping.pending:
                if ordered:
                    ready = [mapping.pending.popleft()]
                else:
                    done, _ = await asyncio.wait(mapping.pending, return_when=asyncio.FIRST_COMPLETED)
                    ready = [handle for handle in mapping.pending if handle in done]
                    for handle in ready:
                        mapping.pending.remove(handle)
                while ready:
                    handle = ready.pop(0)
                    try:
                        answer = await handle
                    except BaseException:
                        mapping.pending.extend(ready)
                        raise
                    for value in mapping.settled(handle, answer):
                        yield value
        finally:
            mapping.cancel()

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
