"""Test what you build on aioparallel: a cluster in one process, in virtual time, with seeded faults.

`simulate(scenario, seed=7)` runs an async function with a `Simulation`, which is a cluster: a real controller, real
engine hosts and real clients, over the memory transport. Only kernels are played. `explore` runs many seeds. Nothing
here needs pytest.
"""

from aioparallel.testing.exploring import Run, Scenario, explore, simulate
from aioparallel.testing.faults import SimulatedHost
from aioparallel.testing.model import crash, work
from aioparallel.testing.simulation import Simulation
from aioparallel.testing.trace import Event, Trace

__all__ = ["Event", "Run", "Scenario", "SimulatedHost", "Simulation", "Trace", "crash", "explore", "simulate", "work"]
