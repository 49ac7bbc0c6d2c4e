"""aiocluster, command by command, as a person runs it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import answer, command, end, environment, processes, run, running, wait_gone

from aioparallel import client

READY = "Ctrl-C ends it"


# What is said about wrong arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", "0"], "argument -n: must be a whole number from 1 up, not '0'"),
        (["-n", "x"], "argument -n: must be a whole number from 1 up, not 'x'"),
        (["start", "--listen", "pigeon://roof"], "no transport for 'pigeon://roof'; known: memory://, tls://, unix://"),
        (["start", "--launcher", "moon"], "no launcher named 'moon'; known: "),
        (["start", "--cluster", "../x"], "'../x' can't name a cluster"),
        (["strat"], "there is no command 'strat'; did you mean 'start'?"),
        (["start", "--scheduler", "fastest"], "no scheduler named 'fastest'; known: least-loaded, lru,"),
        (["xyzzy"], "there is no command 'xyzzy'; known: start, stop"),
        (["run", "no-such-script.py"], "there is no script 'no-such-script.py'"),
        (["engines", "--stop", "x"], "must be engine ids such as 0,2,5, or all, not 'x'"),
    ],
)
def test_usage_is_one_line_and_status_2(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_help_and_version() -> None:
    assert "aiocluster -n 4" in run("--help").stdout
    assert "--daemonize" in run("start", "--help").stdout
    assert re.fullmatch(r"aiocluster \d+\.\d+\S*\n", run("--version").stdout)


def _broken_capability(kind: str, file: Path) -> None:
    file.parent.mkdir(parents=True)
    if kind == "FIFO":
        os.mkfifo(file, 0o600)
    elif kind == "world-readable":
        file.write_text("{}")
        file.chmod(0o644)
    elif kind == "no JSON":
        file.write_text("}")
        file.chmod(0o600)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "monitor.cap; start one with: aiocluster start -n 4"),
        ("FIFO", "monitor.cap is not a regular file"),
        ("world-readable", "monitor.cap can be read by others (mode 0644): chmod 600 it"),
        ("no JSON", "monitor.cap is not a capability file: it holds no JSON"),
    ],
)
def test_bad_capability_file_is_one_line_and_status_1(kind: str, words: str, state_directory: Path) -> None:
    if kind != "missing":
        _broken_capability(kind, state_directory / "security" / "default" / "monitor.cap")
    done = run("status")
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" in run("status", "--debug").stderr


def test_output_that_nobody_reads() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = run("logs", "--json", capture_output=False, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert done.returncode == 1
    assert done.stderr == ""


# A cluster's life


def test_start_is_ready_and_ctrl_c_ends_it_whatever_runs(state_directory: Path) -> None:
    with running("-n", "4", until=READY) as cluster:
        with client.MultiEngineClient() as mec:
            assert mec.get_ids() == [0, 1, 2, 3]
            mec.execute("import time\nwhile True:\n    time.sleep(1)", targets=0, block=False)
            # Holds the GIL, and takes no notice of SIGTERM.
            mec.execute(
                "import signal; signal.signal(15, signal.SIG_IGN); sorted(range(10**9))", targets=1, block=False
            )
            assert end(cluster) == 0
        assert not processes(state_directory)
    stale = run("status")
    assert stale.returncode == 1
    assert "no controller answers" in stale.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_it_too(number: int, state_directory: Path) -> None:
    with running("-n", "1", until=READY) as cluster:
        assert end(cluster, number) == 0
        assert not processes(state_directory)


def test_killed_aiocluster_leaves_nothing(state_directory: Path) -> None:
    with running("-n", "2", until=READY) as cluster:
        pids = list(processes(state_directory))
        assert len(pids) == 5
        cluster.kill()
        assert wait_gone(pids, 5)


def test_killed_controller_ends_it_and_is_named(state_directory: Path) -> None:
    with running("-n", "2", until=READY) as cluster:
        os.kill(answer("status")["pid"], signal.SIGKILL)
        assert cluster.stdout is not None
        said = cluster.stdout.read()
        assert cluster.wait() == 1
        assert "the controller ended: " in said
        assert "killed by SIGKILL" in said
        assert "Traceback" not in said
        assert not processes(state_directory)


def test_one_at_a_time(state_directory: Path) -> None:
    with running("-n", "1", until=READY):
        done = run("-n", "1")
        assert done.returncode == 1
        assert re.search(r"'default' runs already \(process \d+ on .*\): end it with aiocluster stop", done.stderr)
        assert len(answer("engines")) == 1
        assert run("-n", "1", "--cluster", "other", "--daemonize").returncode == 0
        assert {found["cluster"]: found["running"] for found in answer("list")} == {"default": True, "other": True}
        assert run("stop", "--cluster", "other").returncode == 0


def test_daemon_from_start_to_clean(state_directory: Path) -> None:
    started = answer("start", "-n", "2", "--daemonize")
    assert started["engines"] == [0, 1]
    assert Path(started["log"]).is_file()
    assert [found["running"] for found in answer("list")] == [True]

    assert answer("engines", "-n", "1") == {"added": [2]}
    assert answer("engines", "--stop", "0") == {"ended": [0]}
    assert [engine["id"] for engine in answer("engines")] == [1, 2]
    refused = run("engines", "--stop", "7")
    assert refused.returncode == 1
    assert "there is no engine 7; engines: 1, 2" in refused.stderr

    roles = [log["role"] for log in answer("logs") if log["running"]]
    assert sorted(roles) == ["cluster", "controller", "engine", "engine"]
    assert "engine 2 joined" in run("logs", "--role", "controller", "--tail", "20").stdout
    assert answer("clean") == []

    assert started["pid"] in answer("stop")["ended"]
    assert not processes(state_directory)
    again = run("stop")
    assert again.returncode == 1
    assert "does not run" in again.stdout
    assert [found["running"] for found in answer("list")] == [False]

    removed = answer("clean")
    assert str(state_directory / "run" / "default") in removed
    assert answer("logs") == []
    assert (state_directory / "security" / "default" / "task.cap").exists()
    answer("clean", "--all")
    assert answer("list") == []


def test_daemon_that_does_not_start_says_why(state_directory: Path) -> None:
    (state_directory / "security" / "default").mkdir(parents=True)
    (state_directory / "security" / "default" / "controller.json").mkdir()
    for arguments in (["--daemonize"], []):
        done = run("start", "-n", "1", *arguments)
        assert done.returncode == 1
        assert "controller.json" in done.stderr
        assert done.stderr.count("\n") == 1
        assert not processes(state_directory)


def test_status_while_engines_are_busy() -> None:
    with running("-n", "2", until=READY), client.MultiEngineClient() as mec:
        # Sorting holds the GIL for seconds, and then does it again.
        mec.execute("while True: sorted(range(5_000_000), key=lambda i: -i)", targets=0, block=False)
        busy, idle = answer("status")["engines"]
        assert (busy["state"], idle["state"]) == ("running", "idle")
        assert "sorted" in busy["doing"]
        assert idle["doing"] is None
        shown = run("status").stdout
        assert re.search(r"^0 +running +.*sorted", shown, re.MULTILINE)
        assert re.search(r"^1 +idle", shown, re.MULTILINE)


def test_tasks_that_run_wait_and_have_failed() -> None:
    with running("-n", "1", "--scheduler", "lru", until=READY), client.TaskClient() as tc:
        with pytest.raises(ZeroDivisionError):
            tc.submit(lambda: 1 // 0).result()
        running_one, waiting_one = tc.submit(time.sleep, 60), tc.submit(time.sleep, 61)
        while answer("tasks")["counts"]["pending"] != 1:
            pass
        report = answer("tasks")
        assert report["counts"] == {"scheduled": 1, "pending": 1, "succeeded": 0, "failed": 1}
        assert [task["id"] for task in report["running"] + report["waiting"] + report["failed"]] == [1, 2, 0]
        shown = run("tasks").stdout
        assert "1 at engines, 1 waiting, 0 succeeded, 1 failed; 0 results kept (0 bytes)" in shown
        assert re.search(r"^1 +sleep +at an engine +\d+\.\d s +0 ", shown, re.MULTILINE)
        assert re.search(r"^2 +sleep +waiting ", shown, re.MULTILINE)
        assert re.search(r"^0 +.*failed .*its code raised an exception$", shown, re.MULTILINE)
        waiting_one.cancel()
        running_one.cancel()


def test_long_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOPARALLEL_DIR", str(tmp_path / ("x" * 100)))
    with running("-n", "1", until=READY) as cluster:
        [found] = answer("list")
        socket = Path(found["addresses"][0].removeprefix("unix://"))
        assert len(os.fsencode(socket)) <= 100
        assert socket.is_socket()
        assert end(cluster) == 0
        assert not socket.parent.exists()


# run


def _script(place: Path, code: str) -> str:
    (place / "beside.py").write_text("def double(x):\n    return 2 * x\n")
    (place / "script.py").write_text(code)
    return str(place / "script.py")


def test_run_finds_its_cluster_and_gives_the_scripts_status(tmp_path: Path, state_directory: Path) -> None:
    code = """
import sys
import time
from aioparallel import client
import beside
with client.MultiEngineClient() as mec:
    print(mec.apply(beside.double, 21), len(mec), sys.argv[1:])
sys.exit(7)
"""
    done = run("run", "-n", "2", "--scheduler", "lru", _script(tmp_path, code), "-n", "5", "--x", cwd=state_directory)
    assert done.stdout == "[42, 42] 2 ['-n', '5', '--x']\n"
    assert done.stderr == ""
    assert done.returncode == 7
    assert not processes(state_directory)


WAITS = """
from aioparallel import client
with client.MultiEngineClient() as mec:
    mec.execute("import time\\nwhile True: time.sleep(1)", block=False)
    try:
        print("under way", flush=True)
        mec.apply(print)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_is_ended_in_the_middle(number: int, tmp_path: Path, state_directory: Path) -> None:
    with running("run", "-n", "2", _script(tmp_path, WAITS), until="under way") as program:
        assert end(program, number) == 128 + number
        assert program.stdout is not None
        assert ("interrupted" in program.stdout.read()) == (number == signal.SIGINT)
        assert not processes(state_directory)


def test_prompt_lines_work_as_printed(state_directory: Path, tmp_path: Path) -> None:
    started = run("start", "-n", "2", "--cluster", "mine", "--directory", str(tmp_path), "--daemonize")
    try:
        lines = "\n".join(re.findall(r"^    >>> (.*)$", started.stdout, re.MULTILINE))
        lines = lines.replace("mec.get_ids()", "print(mec.get_ids()); mec.close()")
        typed = subprocess.run(
            [sys.executable, "-c", lines], env=environment(), capture_output=True, text=True, check=False
        )
        assert typed.stdout.strip() == "[0, 1]", typed.stderr
        assert f"aiocluster stop --cluster mine --directory {tmp_path}" in started.stdout
    finally:
        assert run("stop", "--cluster", "mine", "--directory", str(tmp_path)).returncode == 0


def test_as_a_module() -> None:
    done = subprocess.run(command("list", "--json"), env=environment(), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_start_is_interrupted(state_directory: Path) -> None:
    with subprocess.Popen(
        command("-n", "4"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as cluster:
        # The controller has been started; nothing is ready yet.
        while not any("cli.controller" in line for line in processes(state_directory).values()):
            assert cluster.poll() is None
        pids = list(processes(state_directory))
        assert end(cluster) in (0, 130)
        assert wait_gone(pids, 5)
        assert not processes(state_directory)
        assert cluster.stdout is not None
        assert "Traceback" not in cluster.stdout.read()


def test_ctrl_c_at_a_terminal_reaches_the_script_once(tmp_path: Path, state_directory: Path) -> None:
    code = """
import time
from aioparallel import client
mec = client.MultiEngineClient()
try:
    print("under way", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.3)
    print("tidied up", flush=True)
"""
    script = _script(tmp_path, code)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, command("run", "-n", "1", script), environment())
    try:
        shown = b""
        while b"under way" not in shown:
            shown += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        with contextlib.suppress(OSError):  # how a terminal says that nobody has it open any more
            while data := os.read(terminal, 1000):
                shown += data
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert b"tidied up" in shown
    assert b"Traceback" not in shown
    assert os.waitstatus_to_exitcode(status) == 0
    assert not processes(state_directory)


def test_second_signal_is_in_a_hurry(state_directory: Path) -> None:
    with running("-n", "1", until=READY) as cluster, client.MultiEngineClient() as mec:
        [host] = [pid for pid, line in processes(state_directory).items() if "cli.engine" in line]
        assert len(mec) == 1
        # It can't end in good order: it is stopped.
        os.kill(host, signal.SIGSTOP)
        cluster.send_signal(signal.SIGINT)
        [controller] = [pid for pid, line in processes(state_directory).items() if "cli.controller" in line] or [0]
        assert not controller or wait_gone([controller], 5)
        began = time.monotonic()
        assert end(cluster) == 0
        assert time.monotonic() - began < 3
        assert not processes(state_directory)
