"""When a kernel that died is followed by another: at once, later, or never. Sans-I/O."""

from __future__ import annotations

from collections import deque

__all__ = ["Deaths"]


class Deaths:
    """How long to wait before the next kernel: not at all, then longer and longer, and in the end for ever.

    Only kernels that never answered a command count, and only within `window`: one that works and is killed now and
    then is not broken. Nor is one that died of a command: of that the next one may know nothing, and who sent it
    is told; the wait grows all the same, up to `patience`.

    Args:
        first: Seconds to wait after the second death in a row; doubled at each further one.
        longest: Seconds to wait at most.
        many: So many in a row …
        window: … within so many seconds, and the seat is broken.
        patience: Seconds to wait at most after a death of a command.
    """

    def __init__(
        self,
        *,
        first: float = 0.1,
        longest: float = 30.0,
        many: int = 5,
        window: float = 60.0,
        patience: float = 2.0,
    ) -> None:
        self._first = first
        self._longest = longest
        self._window = window
        self._patience = patience
        self._times: deque[float] = deque(maxlen=many)
        self._row = 0

    def __repr__(self) -> str:
        return f"<Deaths: {self._row} in a row>"

    def died(self, now: float, *, worked: bool, began: bool = False) -> float | None:
        """Take note of a death; return the seconds to wait, or None if it is broken.

        Args:
            now: When it was.
            worked: Whether the kernel had answered a command.
            began: Whether it ran one when it died.
        """
        if worked:
            self.forget()
        self._row += 1
        if began:
            return min(self._patience, self._wait())
        self._times.append(now)
        if len(self._times) == self._times.maxlen and now - self._times[0] <= self._window:
            return None
        return min(self._longest, self._wait())

    def _wait(self) -> float:
        return 0.0 if self._row == 1 else self._first * 2.0 ** min(self._row - 2, 30)

    def forget(self) -> None:
        """Begin again."""
        self._times.clear()
        self._row = 0
