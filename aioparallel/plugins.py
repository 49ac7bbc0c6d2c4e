"""Entry points, the same way for every group."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

from aioparallel.errors import PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "INTERFACES",
    "LAUNCHERS",
    "QUEUES",
    "SCHEDULERS",
    "TRANSPORTS",
    "check",
    "describe",
    "load",
    "made",
    "make",
    "names",
]

logger = logging.getLogger(__name__)

INTERFACES = "aioparallel.interfaces"
TRANSPORTS = "aioparallel.transports"
LAUNCHERS = "aioparallel.launchers"
QUEUES = "aioparallel.queues"
SCHEDULERS = "aioparallel.schedulers"


@cache
def _group(group: str) -> dict[str, list[EntryPoint]]:
    # Imported when it is first needed: that takes a fifth of the time in which a client's modules are imported.
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, []).append(entry)
    for name, entries in found.items():
        # Nobody takes what comes with aioparallel away, be it by mistake.
        built_in = [entry for entry in entries if entry.value.startswith("aioparallel.")]
        if built_in:
            for entry in entries:
                if entry not in built_in:
                    text = describe(group, name, entry.value)
                    logger.warning("%s of %s is left out: that name is built in; it needs another", text, _owner(entry))
            found[name] = built_in
    return found


def names(group: str) -> list[str]:
    """Return the names that installed packages registered in `group`, sorted."""
    return sorted(_group(group))


def load(group: str, name: str, base: type | None = None) -> Any:
    """Import and return what `name` stands for in `group`.

    Args:
        group: An entry-point group, such as `INTERFACES`.
        name: The entry point's name; or, for what is not installed as one, its place: `module:Class`.
        base: The class it must be a subclass of.

    Raises:
        PluginError: There is none of that name, or more than one; it can't be imported, it isn't a `base`, or it lacks
            methods.
    """
    entry = _entry(group, name)
    text = describe(group, name, entry.value)
    try:
        plugin = entry.load()
    except Exception as error:
        way_out = ""
        if isinstance(error, ModuleNotFoundError) and name.startswith(f"{error.name}:"):
            way_out = "; say in which directory it is (--path, or path=)"
        raise PluginError(f"{text} can't be loaded: {type(error).__name__}: {error}{way_out}") from error
    if base is not None:
        check(plugin, base, text)
    return plugin


def make(group: str, name: str, base: type) -> Any:
    """Load a plug-in that is a class, and return an object of it.

    Raises:
        PluginError: As `load`; or it can't be made.
    """
    return made(load(group, name, base), describe(group, name, _entry(group, name).value))


def made(plugin: type, text: str) -> Any:
    """Return an object of a plug-in's class: it is made without arguments. `text` says which plug-in it is.

    Raises:
        PluginError: It can't be made.
    """
    try:
        return plugin()
    except Exception as error:
        raise PluginError(f"{text} can't be made without arguments: {type(error).__name__}: {error}") from error


def check(plugin: object, base: type, text: str) -> None:
    """Check that `plugin` is a class derived from `base` that lacks nothing; `text` says which plug-in it is.

    Raises:
        PluginError: It is not.
    """
    if not (isinstance(plugin, type) and issubclass(plugin, base)):
        raise PluginError(f"{text} must be a subclass of {base.__module__}.{base.__name__}")
    lacking = sorted(getattr(plugin, "__abstractmethods__", ()))
    if lacking:
        raise PluginError(f"{text} lacks {', '.join(lacking)}, which {base.__module__}.{base.__name__} asks for")


def describe(group: str, name: str, value: str) -> str:
    """Say which plug-in is meant, and where it is: `transport 'tls' (aioparallel.transports.tls:TlsTransport)`."""
    return f"{_kind(group)} {name!r}" + ("" if name == value else f" ({value})")


def _kind(group: str) -> str:
    return group.rpartition(".")[2].removesuffix("s")


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown package"


def _entry(group: str, name: str) -> EntryPoint:
    module, separator, attribute = name.partition(":")
    if separator and module and attribute:
        from importlib.metadata import EntryPoint

        return EntryPoint(name, name, group)
    entries = _group(group).get(name, [])
    if not entries:
        known = ", ".join(names(group)) or "none; is aioparallel installed (pip install aioparallel)?"
        raise PluginError(f"no {_kind(group)} named {name!r}; known: {known}")
    if len({entry.value for entry in entries}) > 1:
        # Which of them sys.path happens to show first must not decide who carries the bytes.
        who = ", ".join(sorted(f"{_owner(entry)} ({entry.value})" for entry in entries))
        raise PluginError(
            f"{_kind(group)} {name!r} is registered by more than one package: {who}; uninstall all but one"
        )
    return entries[0]
