"""The WebSocket transport, a package of its own: its tests, run as its own, once it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from strangers import EXAMPLES, install

PACKAGE = "websocket_transport"


@pytest.mark.skipif(
    find_spec("websockets") is None, reason="NOT TESTED: there is no websockets (pip install websockets)"
)
def test_its_own_tests_pass_where_it_is_installed(tmp_path: Path) -> None:
    place = install(PACKAGE, tmp_path / "site")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
    # What else is installed for pytest takes longer to load than these tests do to run.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(place), environment.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(EXAMPLES / PACKAGE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_who_has_it_not_is_told_so(tmp_path: Path) -> None:
    code = "from aioparallel import transports; transports.get('wss://host0:443')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "no transport for 'wss://host0:443'; known: memory://, tls://, unix://" in done.stderr
    assert "is the package that brings wss:// installed here?" in done.stderr
