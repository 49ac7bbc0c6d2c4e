"""aiocontroller by hand: where it listens, what it keeps, and that it can't unpickle."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from programs import PATIENCE, answer, command, end, environment, processes, run, running, wait_gone

from aioparallel.capability import Capability, capability_path
from aioparallel.cli.controller import _reached
from aioparallel.interfaces.admin import AdminClient

READY = "Ctrl-C ends it"


def _load(interface: str) -> Capability:
    return Capability.load(capability_path(interface))


def test_files_and_an_end_in_good_order(state_directory: Path) -> None:
    with running(program="aiocontroller", until=READY) as controller:
        names = {file.stem for file in (state_directory / "security" / "default").glob("*.cap")}
        assert names == {"admin", "engine", "monitor", "multiengine", "task"}
        assert _load("task").addresses == (f"unix://{state_directory}/run/default/controller.sock",)
        lock = state_directory / "run" / "default" / "controller.lock"
        held = json.loads(lock.read_text())
        assert held["pid"] == controller.pid
        assert len(held["nonce"]) == 16
        again = run(program="aiocontroller")
        assert again.returncode == 1
        assert f"runs already (process {controller.pid} on " in again.stderr
        assert end(controller) == 0
    assert not (state_directory / "run" / "default" / "controller.sock").exists()


def test_identity_and_port_are_kept(state_directory: Path) -> None:
    seen = []
    for _ in range(2):
        listen = ["--listen", "tls://127.0.0.1:0", "--location", "localhost"]
        with running(*listen, program="aiocontroller", until=READY) as controller:
            seen.append(_load("task"))
            assert run("status").returncode == 0
            assert end(controller) == 0
    first, second = seen
    assert first.addresses == second.addresses
    assert re.fullmatch(r"tls://localhost:\d+", first.addresses[0])
    assert (first.id, first.key, first.pins) == (second.id, second.key, second.pins)
    assert second.serial > first.serial


def test_port_of_last_time_is_taken() -> None:
    listen = ["--listen", "tls://127.0.0.1:0"]
    with running(*listen, program="aiocontroller", until=READY) as controller:
        [before] = _load("task").addresses
        assert end(controller) == 0
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(before.rpartition(":")[2])))
        other.listen()
        with running(*listen, program="aiocontroller", until=READY) as controller:
            assert _load("task").addresses != (before,)
            assert run("status").returncode == 0
            assert end(controller) == 0


def test_only_the_interfaces_that_were_asked_for(state_directory: Path) -> None:
    with running("--interface", "monitor", program="aiocontroller", until=READY) as controller:
        assert answer("status")["interfaces"] == ["monitor"]
        assert end(controller) == 0
    refused = run("--interface", "nothing", program="aiocontroller")
    assert refused.returncode == 2
    assert "no interface named 'nothing'; known: admin, " in refused.stderr


def test_an_interface_by_its_place_comes_besides_the_installed_ones(tmp_path: Path, state_directory: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from aioparallel.interface import Interface, remote\n\n\nclass Mine(Interface):\n    name = 'mine'\n\n"
        "    @remote\n    def one(self) -> int:\n        return 1\n"
    )
    wanted = ["--interface", "mine:Mine", "--path", str(tmp_path)]
    with running(*wanted, program="aiocontroller", until=READY) as controller:
        assert answer("status")["interfaces"] == ["admin", "mine", "monitor", "multiengine", "task"]
        assert _load("mine").interface == "mine"
        assert end(controller) == 0
    done = run(*wanted[:2], program="aiocontroller")
    assert done.returncode == 2
    missing = "interface 'mine:Mine' can't be loaded: ModuleNotFoundError: No module named 'mine'"
    assert f"{missing}; say in which directory it is (--path, or path=)\n" in done.stderr


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("pigeon://roof", "no transport for 'pigeon://roof'; known: memory://, tls://, unix://"),
        ("roof", "'roof' is not an address"),
        ("tls://127.0.0.1", "a TLS address is tls://host:port"),
        ("unix://here", "a Unix socket's address is unix:///absolute/path"),
    ],
)
def test_bad_address_is_usage(address: str, words: str, state_directory: Path) -> None:
    done = run("--listen", address, program="aiocontroller")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_ended_by_a_client(state_directory: Path) -> None:
    async def shut_down() -> None:
        async with AdminClient() as admin:
            await admin.shutdown()

    with running(program="aiocontroller", until=READY) as controller:
        asyncio.run(shut_down())
        assert controller.wait(PATIENCE) == 0


def _managed(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("--managed", *arguments, program="aiocontroller"),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_managed_one_lives_while_its_standard_input_is_open(state_directory: Path) -> None:
    with _managed() as controller:
        assert controller.stdout is not None
        said = json.loads(controller.stdout.readline())
        assert said["ready"] is True
        assert said["pid"] == controller.pid
        assert Path(said["log"]).is_file()
        assert controller.stdin is not None
        controller.stdin.close()
        assert controller.wait(PATIENCE) == 0


def test_managed_one_ends_with_its_parent_though_others_hold_its_standard_input(state_directory: Path) -> None:
    # The parent's own child, a fork, keeps the other end of the pipe open.
    code = f"""
import os, signal, subprocess, time
command = {command("--managed", program="aiocontroller")!r}
child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
if os.fork() == 0:
    signal.pause()
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.run([*command()[:1], "-c", code], env=environment(), timeout=PATIENCE, check=False)
    assert parent.returncode == -signal.SIGKILL
    left = processes(state_directory)
    try:
        assert wait_gone([pid for pid, line in left.items() if "-m aioparallel.cli.controller" in line], 5)
    finally:
        for pid in processes(state_directory):
            os.kill(pid, signal.SIGKILL)


def test_managed_one_says_its_error_as_json(state_directory: Path) -> None:
    with _managed("--listen", "pigeon://roof") as controller:
        out, err = controller.communicate(timeout=PATIENCE)
    assert controller.returncode == 2
    assert "no transport" in json.loads(out)["error"]
    assert "no transport" in err


def test_managed_one_needs_something_that_can_be_closed(state_directory: Path) -> None:
    done = run("--managed", program="aiocontroller", stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "--managed: standard input must be a pipe" in done.stderr


def test_it_can_not_unpickle(state_directory: Path) -> None:
    # What `-m aioparallel.cli.controller` does, with a look at what was imported just before the end.
    code = """
import sys
from aioparallel.cli import controller
status = controller.main(["--managed", "--listen", "tls://127.0.0.1:0"])
banned = ("pickle", "_pickle", "cloudpickle")
print(status, [sys.modules[name] for name in banned], "aioparallel.serialize" in sys.modules)
"""
    python = command()[0]
    done = subprocess.run(
        [python, "-c", code],
        env=environment(),
        input="",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "0 [None, None, None] False", done.stderr


@pytest.mark.parametrize(
    ("address", "location", "reached"),
    [
        ("unix:///run/s", "host0", "unix:///run/s"),
        ("tls://127.0.0.1:7", None, "tls://127.0.0.1:7"),
        ("tls://127.0.0.1:7", "host0", "tls://host0:7"),
        ("tls://[::]:7", "fe80::1", "tls://[fe80::1]:7"),
        ("wss://0.0.0.0:443/a/b:c", "host0", "wss://host0:443/a/b:c"),
        ("memory://here", "host0", "memory://here"),
    ],
)
def test_addresses_as_others_dial_them(address: str, location: str | None, reached: str) -> None:
    assert _reached(address, location) == reached


def test_queue_by_place(tmp_path: Path) -> None:
    (tmp_path / "my_queue.py").write_text("from aioparallel.queues import FifoQueue\nclass Mine(FifoQueue): ...\n")
    with running(
        "--queue", "my_queue:Mine", "--path", str(tmp_path), program="aiocontroller", until=READY
    ) as controller:
        assert end(controller) == 0
    with running("--queue", "my_queue:Mine", program="aiocontroller", until=READY, cwd=tmp_path) as controller:
        assert end(controller) == 0
    wrong = run("--queue", "my_queue:Yours", "--path", str(tmp_path), program="aiocontroller")
    assert wrong.returncode == 2
    assert "queue 'my_queue:Yours' can't be loaded: AttributeError" in wrong.stderr


def test_scheduler_by_place(tmp_path: Path) -> None:
    (tmp_path / "my_policy.py").write_text(
        "from aioparallel.policies import LeastLoaded\nclass Mine(LeastLoaded): ...\n"
    )
    with running(
        "--scheduler", "my_policy:Mine", "--path", str(tmp_path), program="aiocontroller", until=READY
    ) as controller:
        assert end(controller) == 0
