"""From where this program imports, apart from Python itself and from what is installed."""

from __future__ import annotations

import site
import sys
import sysconfig
from pathlib import Path

__all__ = ["own_directories"]


def own_directories() -> list[str]:
    """Return the directories of `sys.path` that only this program looks into, absolute, in order.

    Another interpreter has the standard library and the installed packages of its own, and must not get ours.
    """
    installed = _installed()
    found: dict[str, None] = {}
    for entry in sys.path:
        place = Path(entry or ".").resolve()
        if place.is_dir() and not installed.intersection((place, *place.parents)) and not _is_packages(place):
            found[str(place)] = None
    return list(found)


def _installed() -> set[Path]:
    """Return where Python and what is installed lie: in a virtual environment, in the Python below it, in the home."""
    below = {"base": sys.base_prefix, "platbase": sys.base_prefix}
    schemes = [sysconfig.get_paths(), sysconfig.get_paths(vars=below)]
    if site.ENABLE_USER_SITE:
        schemes.append(sysconfig.get_paths(sysconfig.get_preferred_scheme("user")))
    # Not the whole of `sys.prefix`: that may be /usr, with a program in /usr/src.
    names = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    return {Path(scheme[name]).resolve() for scheme in schemes for name in names}


def _is_packages(place: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(place.parts)
