"""Below the standard library's front doors: prctl, and signal handlers at their own price."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["SIGINT", "die_with_parent", "get_handler", "set_handler"]

_PR_SET_PDEATHSIG = 1

# `signal.signal` makes an enum member of every number and handler, which takes 20 times as long as its work.
SIGINT = int(signal.SIGINT)
get_handler: Callable[[int], Any] = importlib.import_module("_signal").getsignal
set_handler: Callable[[int, Any], Any] = importlib.import_module("_signal").signal


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
