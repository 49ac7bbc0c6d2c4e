"""Monitor: look, and touch nothing."""

from __future__ import annotations

from typing import Any, ClassVar

from aioparallel.face import Client
from aioparallel.interface import Interface, remote

__all__ = ["MonitorClient", "MonitorInterface"]


class MonitorInterface(Interface):
    """Says what the controller knows about itself, its engines and its clients."""

    name = "monitor"

    @remote
    def status(self) -> dict[str, Any]:
        """Return everything a person would ask, as plain values."""
        return self.host.status()


class MonitorClient(Client):
    """The asyncio face."""

    interface: ClassVar[str] = "monitor"

    def status(self) -> Any:
        """Return everything a person would ask about the cluster.

        Returns:
            A handle of a dict: "cluster", "controller", "pid", "epoch", "seconds" (running), "asyncio_tasks" (how many
            its event loop has; it stays as it is, whatever the work), "addresses", "interfaces", "clients" (how many of
            each), and "engines": for each "id", "state", "doing" (the label of what runs), "seconds" (for how long),
            "queued", "under_way", "host", "pid", "python", "resources" (what it has, by name), "deaths", "trouble"
            (what is not as it should be, in words, or None); and "reports": by the name of an interface what it tells.
            That of "task" has "counts", "held" (results), and tasks that are "running", "waiting", and have "failed".
        """
        return self._operate("status")


MonitorInterface.client = MonitorClient
