"""Schedulers by name: the built-in ones, a plug-in's, a user's own class, which must not do harm."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from aioparallel import plugins
from aioparallel.errors import PluginError
from aioparallel.policies import NAMES, Candidate, LeastLoaded, Policy, named
from aioparallel.source import Source

__all__ = ["find_policy"]

logger = logging.getLogger(__name__)

INSTEAD = "from now on the least loaded engine takes a task"


class Guarded(Policy):
    """A stranger's policy, as long as it works; when it fails, `LeastLoaded` goes on in its place.

    Args:
        policy: The stranger's.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._policy = policy
        # As a class attribute this is the same for all instances of a policy, and these here are of one class.
        self.lifo = policy.lifo  # type: ignore[misc]

    def __repr__(self) -> str:
        return repr(self._policy)

    def choose(self, engines: Sequence[Candidate]) -> Candidate:
        """Return the one that the policy chooses, if it chooses one of them."""
        try:
            chosen = self._policy.choose(engines)
        except Exception:
            logger.exception("scheduler %r failed; %s", self._policy, INSTEAD)
        else:
            if any(chosen is engine for engine in engines):
                return chosen
            logger.error("scheduler %r chose %r, which it was not offered; %s", self._policy, chosen, INSTEAD)
        self._policy = LeastLoaded()
        return self._policy.choose(engines)


def find_policy(name: str, source: Source) -> Policy:
    """Return the policy that a name stands for.

    Args:
        name: One of `policies.NAMES`, an entry point of the group `aioparallel.schedulers`, or "module:Class".
        source: Where random numbers come from.

    Raises:
        PluginError: There is none of that name, or it can't be made.
    """

    def randbelow(limit: int) -> int:
        return int.from_bytes(source.token(16)) % limit

    if name in NAMES:
        return named(name, randbelow)
    if ":" not in name and name not in plugins.names(plugins.SCHEDULERS):
        known = ", ".join([*NAMES, *plugins.names(plugins.SCHEDULERS)])
        raise PluginError(f"no scheduler named {name!r}; known: {known}; or module:Class for one of your own")
    try:
        made = plugins.load(plugins.SCHEDULERS, name, Policy)
    except PluginError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        # So that no file that happens to lie there can get into a controller.
        places = "a controller imports what is installed or on PYTHONPATH, and nothing from its working directory"
        raise PluginError(f"{error}; {places}") from error.__cause__
    try:
        return Guarded(made(randbelow))
    except Exception as error:
        raise PluginError(f"scheduler {name!r} can't be made: {type(error).__name__}: {error}") from error
