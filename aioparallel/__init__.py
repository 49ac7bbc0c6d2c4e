"""Interactive parallel computing on asyncio: a controller, engines that run your code, and clients.

`import aioparallel` gives the asyncio face; `from aioparallel import client` the blocking one. What is named
here is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aioparallel import errors as _errors

if TYPE_CHECKING:
    from aioparallel.arrivals import Stream as Stream
    from aioparallel.capability import Capability as Capability
    from aioparallel.cluster import Cluster as Cluster
    from aioparallel.conditions import Dependency as Dependency
    from aioparallel.conditions import Properties as Properties
    from aioparallel.conditions import depend as depend
    from aioparallel.conditions import require as require
    from aioparallel.controller import Controller as Controller
    from aioparallel.engine import EngineHost as EngineHost
    from aioparallel.errors import *  # noqa: F403
    from aioparallel.face import Client as Client
    from aioparallel.interface import ClientProxy as ClientProxy
    from aioparallel.interface import EngineProxy as EngineProxy
    from aioparallel.interface import Host as Host
    from aioparallel.interface import Interface as Interface
    from aioparallel.interface import client_of as client_of
    from aioparallel.interface import remote as remote
    from aioparallel.interfaces.admin import AdminClient as AdminClient
    from aioparallel.interfaces.monitor import MonitorClient as MonitorClient
    from aioparallel.interfaces.multiengine import MultiEngineClient as MultiEngineClient
    from aioparallel.output import Output as Output
    from aioparallel.progress import Progress as Progress
    from aioparallel.proxies import EngineCall as EngineCall
    from aioparallel.receipt import Receipt as Receipt
    from aioparallel.reducers import register_reducer as register_reducer
    from aioparallel.reference import Reference as Reference
    from aioparallel.reply import CallInfo as CallInfo
    from aioparallel.taskface import TaskClient as TaskClient
    from aioparallel.tasks import MapTask as MapTask
    from aioparallel.tasks import StringTask as StringTask
    from aioparallel.tasks import Task as Task
    from aioparallel.tasks import TaskResult as TaskResult
    from aioparallel.wire import Limits as Limits

__version__ = "0.1.0"

_HOMES = {
    "AdminClient": "interfaces.admin",
    "CallInfo": "reply",
    "Capability": "capability",
    "Client": "face",
    "ClientProxy": "interface",
    "Cluster": "cluster",
    "Controller": "controller",
    "EngineCall": "proxies",
    "EngineHost": "engine",
    "EngineProxy": "interface",
    "Host": "interface",
    "Interface": "interface",
    "Limits": "wire",
    "MonitorClient": "interfaces.monitor",
    "MultiEngineClient": "interfaces.multiengine",
    "Output": "output",
    "Progress": "progress",
    "Receipt": "receipt",
    "Reference": "reference",
    "Stream": "arrivals",
    "TaskClient": "taskface",
    "client_of": "interface",
    "register_reducer": "reducers",
    "remote": "interface",
    **dict.fromkeys(("Dependency", "Properties", "depend", "require"), "conditions"),
    **dict.fromkeys(("MapTask", "StringTask", "Task", "TaskResult"), "tasks"),
    **dict.fromkeys(_errors.__all__, "errors"),
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'aioparallel' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"aioparallel.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
