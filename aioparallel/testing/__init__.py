"""Test what you build on aioparallel: kits for plug-ins, clusters for tests, one in virtual time.

* `check_queue`, `check_transport`, `check_launcher`, `check_interface`: does a plug-in do what its contract asks for?
* `MemoryCluster`: a whole cluster in the running event loop. For pytest there are fixtures (`pytest_plugin`).
* `simulate(scenario, seed=7)` runs an async function with a `Simulation`, which is a cluster: a real controller, real
  engine hosts and real clients, over the memory transport, in virtual time. Only kernels are played. `explore` runs
  many seeds.

Nothing here needs a test framework. What is named here is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioparallel.testing.exploring import Run as Run
    from aioparallel.testing.exploring import Scenario as Scenario
    from aioparallel.testing.exploring import explore as explore
    from aioparallel.testing.exploring import simulate as simulate
    from aioparallel.testing.faults import SimulatedHost as SimulatedHost
    from aioparallel.testing.interface_rules import check_interface as check_interface
    from aioparallel.testing.launcher_rules import check_launcher as check_launcher
    from aioparallel.testing.memory_cluster import MemoryCluster as MemoryCluster
    from aioparallel.testing.model import crash as crash
    from aioparallel.testing.model import work as work
    from aioparallel.testing.queue_rules import check_queue as check_queue
    from aioparallel.testing.rules import CheckFailed as CheckFailed
    from aioparallel.testing.simulation import Simulation as Simulation
    from aioparallel.testing.trace import Event as Event
    from aioparallel.testing.trace import Trace as Trace
    from aioparallel.testing.transport_rules import check_transport as check_transport

_HOMES = {
    "CheckFailed": "rules",
    "Event": "trace",
    "MemoryCluster": "memory_cluster",
    "Run": "exploring",
    "Scenario": "exploring",
    "SimulatedHost": "faults",
    "Simulation": "simulation",
    "Trace": "trace",
    "check_interface": "interface_rules",
    "check_launcher": "launcher_rules",
    "check_queue": "queue_rules",
    "check_transport": "transport_rules",
    "crash": "model",
    "explore": "exploring",
    "simulate": "exploring",
    "work": "model",
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
