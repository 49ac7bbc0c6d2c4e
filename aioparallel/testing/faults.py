"""What can befall a simulation: by hand, on whom one likes, and when."""

from __future__ import annotations

import contextlib
import signal as signals
from collections.abc import Iterator
from typing import TypeAlias

from aioparallel.engine import EngineHost
from aioparallel.errors import ConfigurationError
from aioparallel.face import Client
from aioparallel.testing.links import Link
from aioparallel.testing.luck import Luck
from aioparallel.testing.model import ModelKernel
from aioparallel.testing.trace import Trace
from aioparallel.testing.witness import Witness

__all__ = ["Faults", "Party", "SimulatedHost"]


class SimulatedHost:
    """An engine host of a simulation.

    Attributes:
        name: What it is called in the trace.
        host: The real `EngineHost`.
    """

    def __init__(self, name: str, host: EngineHost, kernels: list[ModelKernel]) -> None:
        self.name = name
        self.host = host
        self._kernels = kernels

    def __repr__(self) -> str:
        return f"<SimulatedHost {self.name!r} of engines {self.engine_ids}>"

    @property
    def engine_ids(self) -> list[int]:
        """The ids of its engines, ascending."""
        return self.host.engine_ids

    @property
    def kernels(self) -> list[ModelKernel]:
        """Its kernels that live."""
        self._kernels[:] = [kernel for kernel in self._kernels if kernel.alive]
        return list(self._kernels)


#: Whom a fault can hit by its connection.
Party: TypeAlias = "SimulatedHost | Client"


class Faults:
    """The faults of a `Simulation`.

    Attributes:
        hosts: The engine hosts that are there.
        trace: What has happened.
    """

    def __init__(self, luck: Luck, trace: Trace, witness: Witness) -> None:
        self.hosts: list[SimulatedHost] = []
        self.trace = trace
        self._luck = luck
        self._witness = witness
        self._links: dict[str, Link] = {}
        self._clients: list[tuple[str, Client]] = []

    def kill_kernel(self, engine: int, signal: int = signals.SIGKILL) -> bool:
        """Have the kernel of an engine end by a signal; return whether it had one."""
        for host in self.hosts:
            for kernel in host.kernels:
                if kernel.engine == engine:
                    self.trace.add("fault", "the kernel of engine {0} is killed", engine)
                    kernel.die(signal)
                    return True
        return False

    def kill_host(self, host: SimulatedHost) -> None:
        """Have an engine host end at once, with its kernels and without a word."""
        self.trace.add("fault", "{0} is killed", host.name)
        for kernel in host.kernels:
            kernel.vanish()
        self._links[host.name].cut()

    def cut(self, party: Party) -> None:
        """Cut somebody's connection, which both ends see; what is on its way is lost."""
        name, link = self._link(party)
        self.trace.add("fault", "the connection of {0} is cut", name)
        link.cut()

    @contextlib.contextmanager
    def black_hole(self, party: Party) -> Iterator[None]:
        """Let nothing through between somebody and the controller, which neither sees; after the `with` it arrives.

        An engine host is given up after `Limits.dead` seconds of silence.
        """
        with self._fault(party, "is in a black hole") as link, link.black_hole():
            yield

    @contextlib.contextmanager
    def slowed(self, party: Party, seconds: float = 0.0, *, rate: float = 0.0) -> Iterator[None]:
        """Let all that somebody sends and is sent take longer.

        Args:
            party: Whose connection.
            seconds: By so much …
            rate: … and at so many bytes a second; 0: no bound.
        """
        what = f"has a slow connection ({seconds:g} s, {rate:g} B/s)"
        with self._fault(party, what) as link, link.slowed(seconds, rate):
            yield

    @contextlib.contextmanager
    def stopped_reading(self, party: Party) -> Iterator[None]:
        """Have somebody read nothing from the controller."""
        with self._fault(party, "reads nothing") as link, link.not_read():
            yield

    def repeat_answer(self, host: SimulatedHost) -> bool:
        """Have the controller get a host's last answer again; return whether there was one."""
        name, link = self._link(host)
        data = self._witness.echo(name) if link.is_open else None
        if data is None:
            return False
        self.trace.add("fault", "the last answer of {0} comes twice", name)
        link.send_up(data)
        return True

    @contextlib.contextmanager
    def _fault(self, party: Party, what: str) -> Iterator[Link]:
        name, link = self._link(party)
        self.trace.add("fault", "{0} {1}", name, what)
        try:
            yield link
        finally:
            self.trace.add("fault", "… {0} no longer {1}", name, what)

    def _link(self, party: Party) -> tuple[str, Link]:
        """Return whose connection it is, and the connection.

        Raises:
            ConfigurationError: Nobody of this simulation.
        """
        for name, link in self._links.items():
            if isinstance(party, SimulatedHost) and name == party.name:
                return name, link
            if any(name == known and client is party for known, client in self._clients):
                return name, link
        raise ConfigurationError(f"{party!r} is neither a host nor a client of this simulation")
