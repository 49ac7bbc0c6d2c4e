"""What every test lives under (asyncio's debug mode, no state outside its own directories), and what many ask for."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runners import LOOPS, Run

from aioparallel import client
from aioparallel.identity import Identity

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


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a coroutine on each kind of loop, for 10 seconds at most, or as many as the module's RUN_SECONDS says."""
    seconds = getattr(request.module, "RUN_SECONDS", 10)
    with asyncio.Runner(loop_factory=LOOPS[request.param], debug=True) as runner:
        yield lambda work: runner.run(asyncio.wait_for(work, seconds))


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for sockets: nobody else may enter, and its path is short, since that of a Unix socket is bounded."""
    made = Path(tempfile.mkdtemp(prefix="aio-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(params=["unix", "tls", "memory"])
def address(request: pytest.FixtureRequest, directory: Path) -> str:
    """Where to listen, on each built-in transport."""
    found: str = {"unix": f"unix://{directory}/s", "tls": "tls://127.0.0.1:0", "memory": "memory://here"}[request.param]
    return found


@pytest.fixture(scope="module")
def identity() -> Identity:
    """A controller's key and certificate, made now."""
    return Identity.new("c0ffee", time.time())


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
