"""aioengine by hand: before its controller, with it, and after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from programs import PATIENCE, answer, command, end, environment, processes, run, running, wait_gone

from aioparallel import client
from aioparallel.capability import capability_path

CONTROLLER = "Ctrl-C ends it"
JOINED = "joined 'default'; Ctrl-C ends them"


def test_engines_wait_for_their_controller_and_end_with_it(state_directory: Path) -> None:
    with running("-n", "2", program="aioengine", until="waiting for a controller") as engines:
        with running(program="aiocontroller", until=CONTROLLER) as controller:
            assert engines.stdout is not None
            assert "engines 0, 1 joined 'default'" in engines.stdout.readline()
            with client.MultiEngineClient() as mec:
                assert mec.apply(abs, -1) == [1, 1]
            assert end(controller) == 0
        assert engines.wait(PATIENCE) == 0
    assert not processes(state_directory)


def test_killed_controller_or_host_leaves_nothing(state_directory: Path) -> None:
    with running(program="aiocontroller", until=CONTROLLER) as controller:
        with running("-n", "2", program="aioengine", until=JOINED) as first:
            kernels = [pid for pid in processes(state_directory) if pid not in (controller.pid, first.pid)]
            assert len(kernels) == 2
            first.kill()
            assert wait_gone([first.pid, *kernels], 2)
        with running("-n", "2", program="aioengine", until=JOINED) as second:
            others = list(processes(state_directory))
            controller.kill()
            assert wait_gone(others, 2)
            assert second.wait(PATIENCE) == 1
            assert second.stdout is not None
            assert "the controller is gone" in second.stdout.read()


def test_ctrl_c_ends_engines_whatever_they_do(state_directory: Path) -> None:
    with running(program="aiocontroller", until=CONTROLLER):
        with running("-n", "2", program="aioengine", until=JOINED) as engines, client.MultiEngineClient() as mec:
            mec.execute("import time\nwhile True: time.sleep(1)", block=False)
            assert end(engines) == 0
            assert len(processes(state_directory)) == 1
            assert answer("engines") == []


def test_what_engines_have_is_shown(state_directory: Path) -> None:
    with running(program="aiocontroller", until=CONTROLLER):
        with running("--resource", "mem=16", "--resource", "gpu=0.5", program="aioengine", until=JOINED):
            assert answer("engines", "-n", "1", "--resource", "gpu") == {"added": [1]}
            assert [engine["resources"] for engine in answer("engines")] == [{"gpu": 0.5, "mem": 16.0}, {"gpu": 1.0}]
            shown = run("engines").stdout
            assert "engine 0 has gpu=0.5, mem=16\nengine 1 has gpu=1\n" in shown
            answer("engines", "--stop", "1")


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("aioengine", ["--resource", "gpu=many"], "a name and a number, such as gpu=1, not 'gpu=many'"),
        ("aioengine", ["--resource", "gpu=-1"], "resource 'gpu' is a finite number from 0 up, not -1.0"),
        ("aiocluster", ["engines", "--resource", "gpu=1"], "say how many, -n 2"),
    ],
)
def test_resources_that_are_none_are_refused_in_words(program: str, arguments: list[str], message: str) -> None:
    done = run(*arguments, program=program)
    assert (done.returncode, message in done.stderr) == (2, True)


def test_path_is_importable_on_engines(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("value = 42\n")
    with running(program="aiocontroller", until=CONTROLLER):
        with running("--path", str(tmp_path), program="aioengine", until="engine 0 joined"):
            with client.MultiEngineClient() as mec:
                mec.execute("from beside import value")
                assert mec.pull("value") == [42]


@pytest.mark.parametrize("kind", ["missing", "FIFO", "world-readable", "no JSON", "other interface"])
def test_bad_capability_file(kind: str, state_directory: Path) -> None:
    file = capability_path("engine")
    file.parent.mkdir(parents=True, mode=0o700)
    words = {
        "missing": "engine.cap; start one with: aiocluster start -n 4",
        "FIFO": "engine.cap is not a regular file",
        "world-readable": "engine.cap can be read by others (mode 0644): chmod 600 it",
        "no JSON": "engine.cap is not a capability file: it holds no JSON",
        "other interface": "is for the interface 'task', not 'engine'",
    }[kind]
    if kind == "FIFO":
        os.mkfifo(file, 0o600)
    elif kind == "other interface":
        with running(program="aiocontroller", until=CONTROLLER) as controller:
            file = file.with_name("task.cap")
            assert end(controller) == 0
    elif kind != "missing":
        file.write_text("}")
        file.chmod(0o644 if kind == "world-readable" else 0o600)
    done = run("--wait", "0", "--capability", str(file), program="aioengine")
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not processes(state_directory)


def test_stale_capability_file(state_directory: Path) -> None:
    with running(program="aiocontroller", until=CONTROLLER) as controller:
        assert end(controller, signal.SIGKILL) == -signal.SIGKILL
    done = run("--wait", "0", program="aioengine")
    assert done.returncode == 1
    assert "no controller answers" in done.stderr


def test_managed_one_announces_its_engines(state_directory: Path) -> None:
    with running(program="aiocontroller", until=CONTROLLER):
        with subprocess.Popen(
            command("--managed", "-n", "2", program="aioengine"),
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as engines:
            assert engines.stdout is not None
            said = json.loads(engines.stdout.readline())
            assert (said["ready"], said["engines"], said["pid"]) == (True, [0, 1], engines.pid)
            assert engines.stdin is not None
            engines.stdin.close()
            assert engines.wait(PATIENCE) == 0
        assert len(processes(state_directory)) == 1
