"""Admin: end engines, and the controller."""

from __future__ import annotations

from typing import Any, ClassVar

from aioparallel.face import Client
from aioparallel.interface import ClientProxy, Interface, chosen, remote

__all__ = ["AdminClient", "AdminInterface"]


class AdminInterface(Interface):
    """Ends what runs."""

    name = "admin"

    @remote
    def shutdown(self) -> None:
        """End the controller, and with it every engine."""
        self.host.shut_down()

    @remote
    async def stop_engines(self, client: ClientProxy, targets: Any) -> list[int]:
        """End engines; return their ids."""
        engines = chosen(client, self.host.engines, targets)
        answers = [engine.stop() for engine in engines]
        for answer in answers:
            await answer
        return [engine.id for engine in engines]


class AdminClient(Client):
    """The asyncio face."""

    interface: ClassVar[str] = "admin"

    def shutdown(self) -> Any:
        """End the controller, and with it every engine; the handle is done when the controller has agreed."""
        return self._operate("shutdown")

    def stop_engines(self, targets: list[int] | str = "all") -> Any:
        """End engines; the handle gives their ids.

        Raises:
            InvalidEngineID: One of them does not exist.
        """
        return self._operate("stop_engines", targets=targets)


AdminInterface.client = AdminClient
