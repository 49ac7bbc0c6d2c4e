"""What every test lives under (asyncio's debug mode, no state outside its own directories), and clusters to work on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aioparallel import client

# Every loop made from here on is in debug mode, in this process and in those that tests start.
os.environ["PYTHONASYNCIODEBUG"] = "1"


@pytest.fixture(scope="session", autouse=True)
def no_state_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep fixtures that outlive a test away from the user's own clusters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIOPARALLEL_DIR", str(tmp_path_factory.mktemp("state")))
        patch.delenv("AIOPARALLEL_CAP", raising=False)
        yield


@pytest.fixture(autouse=True)
def state_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a state directory of its own, so that none finds another's cluster."""
    directory = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("AIOPARALLEL_DIR", str(directory))
    return directory


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[client.Cluster]:
    """A cluster of this module's own: of two engines, or as many as its ENGINES says."""
    with client.Cluster(n=getattr(request.module, "ENGINES", 2)) as cluster:
        yield cluster


@pytest.fixture
def mec(cluster: client.Cluster) -> Iterator[client.MultiEngineClient]:
    """A client of all engines, whose names are cleared after each test."""
    with client.MultiEngineClient(cluster.capability("multiengine")) as mec:
        yield mec
        mec.reset(block=True)


@pytest.fixture
def tc(cluster: client.Cluster) -> Iterator[client.TaskClient]:
    """A client that gives tasks to the engines."""
    with client.TaskClient(cluster.capability("task")) as tc:
        yield tc
