"""What only the C library can do: end a process when its parent does."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the system kill this process the moment its parent ends, also when that is killed itself.

    Linux watches the *thread* that started this process, so a parent must start it from one that lives as long as it
    should. Elsewhere nothing is done: there the end of a pipe or socket has to serve.

    Args:
        parent: The pid of the parent; one who has lost it already ends here and now.

    Raises:
        SystemExit: The parent is gone.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    # The parent may have ended before we asked: then nobody would ever tell us.
    if os.getppid() != parent:
        raise SystemExit(0)
