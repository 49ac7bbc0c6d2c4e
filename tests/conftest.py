"""What every test lives under: asyncio's debug mode, and no state outside the test's own directories."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

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
