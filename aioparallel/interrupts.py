"""Where an interrupt may come: into the command that it is meant for, and into no code of ours."""

from __future__ import annotations

from collections.abc import Coroutine
from types import FrameType
from typing import Any

from aioparallel.shared import ANY, INTERRUPT, MET, NONE, Page

__all__ = ["Coroutines", "Interrupts"]


class Coroutines:
    """Runs coroutines on one event loop that is kept from one to the next (asyncio is imported for the first)."""

    def __init__(self) -> None:
        self._runner: Any = None
        self._task: Any = None
        self._asked = False

    def __repr__(self) -> str:
        return f"<Coroutines, {self._task or 'none running'}>"

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine until it is done and return its value.

        Raises:
            KeyboardInterrupt: It was interrupted; it has been cancelled and has ended.
            BaseException: Whatever it raises.
        """
        import asyncio

        if self._runner is None:
            self._runner = asyncio.Runner()
        loop = self._runner.get_loop()
        self._asked = False
        task = self._task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        except KeyboardInterrupt:
            if not task.done():
                task.cancel()
                loop.run_until_complete(asyncio.wait([task]))
            raise
        except asyncio.CancelledError as error:
            if self._asked:
                # With the frames that say where it waited.
                raise KeyboardInterrupt().with_traceback(error.__traceback__) from None
            raise
        finally:
            self._task = None

    def divert(self) -> bool:
        """Turn an interrupt into a cancellation if the loop waits; return False if it has to be raised.

        An exception thrown into the loop's own code would leave it in pieces. In a task's code, or when asked for a
        second time, it is raised where we are.
        """
        task = self._task
        if task is None or task.done() or self._asked:
            return False
        import asyncio

        loop = self._runner.get_loop()
        if asyncio.current_task(loop) is not None:
            return False
        self._asked = True
        task.cancel()
        loop.call_soon_threadsafe(lambda: None)  # wake it from its select
        return True


class Interrupts:
    """The stretch of a command in which KeyboardInterrupt may come: a context manager, and SIGINT's handler.

    The host writes the id of the command into the page, then sends the signal. Until that command runs the word waits
    there, and is seen when it begins; once it has ended nothing matches any more. So an interrupt is neither lost nor
    ever met by another command.

    Attributes:
        command: The id of the command that comes next, or runs.
    """

    def __init__(self, page: Page, coroutines: Coroutines) -> None:
        self.command = NONE
        self._running = NONE
        self._words = page.words
        self._coroutines = coroutines

    def __repr__(self) -> str:
        return f"<Interrupts {'shut' if self._running == NONE else f'open for {self._running}'}>"

    def __enter__(self) -> None:
        self._running = self.command
        if self._words[INTERRUPT] == self.command:
            self._running = NONE
            self._words[MET] = self.command
            raise KeyboardInterrupt

    def __exit__(self, *exc_info: object) -> None:
        self._running = NONE

    def shut(self) -> None:
        """Let none through any more."""
        self._running = NONE

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Be the handler of SIGINT.

        Raises:
            KeyboardInterrupt: It is meant for what runs.
        """
        running = self._running
        if running == NONE or self._words[INTERRUPT] not in (running, ANY):
            return
        # At the first line of `__exit__` the command is done: raised there, it would leave the door open.
        if frame is not None and frame.f_code is _EXIT:
            return
        self._words[MET] = running
        if not self._coroutines.divert():
            raise KeyboardInterrupt


_EXIT = Interrupts.__exit__.__code__
