"""For those who write plug-ins, or test what they built on aioparallel. Needs no test framework.

What is named here is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioparallel.testing.interface_rules import check_interface as check_interface
    from aioparallel.testing.launcher_rules import check_launcher as check_launcher
    from aioparallel.testing.memory_cluster import MemoryCluster as MemoryCluster
    from aioparallel.testing.queue_rules import check_queue as check_queue
    from aioparallel.testing.rules import CheckFailed as CheckFailed
    from aioparallel.testing.transport_rules import check_transport as check_transport

_HOMES = {
    "CheckFailed": "rules",
    "MemoryCluster": "memory_cluster",
    "check_interface": "interface_rules",
    "check_launcher": "launcher_rules",
    "check_queue": "queue_rules",
    "check_transport": "transport_rules",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'aioparallel.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"aioparallel.testing.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
