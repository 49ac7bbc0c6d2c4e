"""Entry points, the same way for every group."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from aioparallel.errors import PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["INTERFACES", "LAUNCHERS", "SCHEDULERS", "TRANSPORTS", "load", "names"]

INTERFACES = "aioparallel.interfaces"
TRANSPORTS = "aioparallel.transports"
LAUNCHERS = "aioparallel.launchers"
SCHEDULERS = "aioparallel.schedulers"


@cache
def _group(group: str) -> dict[str, EntryPoint]:
    # When something is first looked for: it takes a fifth of the time in which a client's modules are imported.
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=group)}


def names(group: str) -> list[str]:
    """Return the names that installed packages registered in `group`, sorted."""
    return sorted(_group(group))


def load(group: str, name: str, base: type | None = None) -> Any:
    """Import and return what `name` stands for in `group`.

    Args:
        group: An entry-point group, such as `INTERFACES`.
        name: The entry point's name, or "module:Class" for what no package has registered.
        base: The class it must be a subclass of.

    Raises:
        PluginError: There is none of that name, it can't be imported, or it isn't a `base`.
    """
    entry = _group(group).get(name)
    if entry is None and ":" in name:
        from importlib.metadata import EntryPoint

        entry = EntryPoint(name, name, group)
    kind = group.rpartition(".")[2].removesuffix("s")
    if entry is None:
        known = ", ".join(names(group)) or "none; is aioparallel installed (pip install aioparallel)?"
        raise PluginError(f"no {kind} named {name!r}; known: {known}")
    called = repr(name) if name == entry.value else f"{name!r} ({entry.value})"
    try:
        plugin = entry.load()
    except Exception as error:
        raise PluginError(f"{kind} {called} can't be loaded: {type(error).__name__}: {error}") from error
    if base is not None and not (isinstance(plugin, type) and issubclass(plugin, base)):
        raise PluginError(f"{kind} {called} must be a subclass of {base.__module__}.{base.__name__}")
    return plugin
