"""Fixtures for pytest: `aiocluster`, a cluster for the session; `memory_cluster`, one within a test.

pytest finds this by its entry point; nothing of aioparallel is loaded before a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aioparallel.client import Cluster
    from aioparallel.testing.memory_cluster import MemoryCluster

__all__ = ["aiocluster", "memory_cluster", "pytest_addoption"]

ENGINES = "aioparallel_engines"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--aioparallel-engines`, and `aioparallel_engines` for the configuration file."""
    parser.addini(ENGINES, "how many engines the fixtures of aioparallel start", default="2")
    group = parser.getgroup("aioparallel")
    group.addoption("--aioparallel-engines", metavar="N", dest=ENGINES, help="how many engines the fixtures start")


@pytest.fixture(scope="session")
def aiocluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """A running cluster, the same one for all tests of the session (`aioparallel.client.Cluster`).

    It is private: it knows nothing of this user's clusters, and ends with the session. What tests leave in the engines'
    names stays there for the next; `aiocluster.multiengine().reset()` clears them.
    """
    from aioparallel.client import Cluster

    with Cluster(_engines(pytestconfig)) as cluster:
        yield cluster


@pytest.fixture
def memory_cluster(pytestconfig: pytest.Config) -> Callable[..., MemoryCluster]:
    """Return what makes a cluster in the test's own event loop, for `async with`.

    The arguments are those of `aioparallel.testing.MemoryCluster`. It needs no plug-in for asynchronous tests, and
    works with any.
    """
    from aioparallel.testing.memory_cluster import MemoryCluster

    engines = _engines(pytestconfig)

    def make(n: int | None = None, **options: Any) -> MemoryCluster:
        return MemoryCluster(engines if n is None else n, **options)

    return make


def _engines(config: pytest.Config) -> int:
    text = str(config.getoption(ENGINES) or config.getini(ENGINES))
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise pytest.UsageError(f"aioparallel_engines must be a whole number from 1 up, not {text!r}")
    return int(text)
