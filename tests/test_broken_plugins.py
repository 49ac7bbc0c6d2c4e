"""Twelve broken plug-ins, installed all at once: each is refused or contained by name, and everything else goes on."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import end, run, running, wait_gone

from aioparallel import client, plugins

READY = "Ctrl-C ends"

MODULE = """
import asyncio
import time

from aioparallel import Interface, remote
from aioparallel.launchers.local import LocalLauncher
from aioparallel.transports.memory import MemoryTransport


class Steady(Interface):
    name = "steady"

    @remote
    def ping(self) -> str:
        return "pong"


class Nameless(Interface):
    @remote
    def ping(self) -> str: ...


class Second(Interface):
    name = "task"


class Generator(Interface):
    name = "generator"

    @remote
    def count(self, n: int) -> int:
        yield n


class Unsaid(Interface):
    name = "unsaid"

    @remote
    async def count(self, texts) -> int: ...


class Baseless:
    name = "baseless"


class Startless(Interface):
    name = "startless"

    async def start(self) -> None:
        raise OSError("no disk")


class Holds(Interface):
    name = "holds"

    @remote
    async def hold(self, seconds: float) -> None:
        time.sleep(seconds)


class Leaks(Interface):
    name = "leaks"

    @remote
    def leak(self) -> None:
        self.task = asyncio.create_task(asyncio.Event().wait(), name="leaky")


class Words(Interface):
    name = "words"


setattr(Words, "two words", remote(lambda self: None))


class Lying(MemoryTransport):
    scheme = "lie"

    async def listen(self, address, *args, **options):
        listener = await super().listen("memory://liar", *args, **options)
        listener.address = "tls://127.0.0.1:10105"
        return listener


class Vain(LocalLauncher):
    name = "vain"

    async def start(self, command, count=1, **place):
        return await super().start(["true"], count, **place)
"""

REGISTERED = """
[aioparallel.interfaces]
steady = broken:Steady
nameless = broken:Nameless
second = broken:Second
generator = broken:Generator
unsaid = broken:Unsaid
baseless = broken:Baseless
raising = raising:Interface
startless = broken:Startless
holds = broken:Holds
leaks = broken:Leaks
words = broken:Words
multiengine = broken:Steady

[aioparallel.transports]
lie = broken:Lying

[aioparallel.launchers]
vain = broken:Vain
"""

#: What is said of those that are refused when the controller starts: plug-in, place, and what was expected.
REFUSED = {
    "nameless": 'broken.Nameless is not an interface with a name: give the class one, such as name = "wordcount"',
    "second": "interface 'second' (broken:Second) has the name 'task': it must be 'second', as its entry point's is",
    "generator": "broken.Generator.count: an operation can't be a generator; a stream is an async one: async def "
    "with yield",
    "unsaid": "broken.Unsaid.count: parameter 'texts' has no annotation; expected one of plain values, such as texts: "
    "list[str]",
    "baseless": "interface 'baseless' (broken:Baseless) must be a subclass of aioparallel.interface.Interface",
    "raising": "interface 'raising' (raising:Interface) can't be loaded: RuntimeError: no licence",
    "startless": "interface 'startless' (broken:Startless) can't start: OSError: no disk",
    "words": "broken.Words.two words: an operation's name is an identifier, not 'two words'",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the package, for this process and for the programs that a test starts."""
    (tmp_path / "broken.py").write_text(MODULE)
    (tmp_path / "raising.py").write_text("raise RuntimeError('no licence')\n")
    about = tmp_path / "broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(REGISTERED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(tmp_path)
    plugins._group.cache_clear()
    yield
    plugins._group.cache_clear()
    for name in ("broken", "raising"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("installed")
def test_interfaces(state_directory: Path) -> None:
    from broken import Holds, Leaks, Steady  # type: ignore[import-not-found]

    def all_is_well() -> None:
        assert client.client_of(Steady)().ping() == "pong"
        assert tc.submit(pow, 2, 10).r == 1024
        assert mec.apply(pow, 2, 10) == [1024, 1024]

    with running("-n", "2", until=READY) as cluster:
        with client.MultiEngineClient() as mec, client.TaskClient() as tc, client.MonitorClient() as monitor:
            log = _log(state_directory, "controller")
            for name, text in REFUSED.items():
                assert f"the interface {name!r} is not hosted: {text}\n" in log
                with pytest.raises(client.NoClusterError, match=f"hosts no interface '{name}'; it has admin, holds, "):
                    type("Client", (client.Client,), {"interface": name})()
            assert "interface 'multiengine' (broken:Steady) of broken is left out: that name is built in" in log
            # Whoever has started it is told as well.
            assert REFUSED["startless"] in _log(state_directory, "cluster")
            hosted = ["admin", "holds", "leaks", "monitor", "multiengine", "steady", "task"]
            assert monitor.status()["interfaces"] == hosted
            all_is_well()

            with client.client_of(Holds)() as holds, client.client_of(Leaks)() as leaks:
                holds.hold(1.0)
                leaks.leak()
                held = (
                    r"interface 'holds' \(broken:Holds\) held up the controller for 1\.\d s, in hold: what takes long "
                )
                assert re.search(held + "belongs on an engine", _log(state_directory, "controller"))
                all_is_well()
            pids = [monitor.status()["pid"]]
        assert end(cluster) == 0
        assert wait_gone(pids, 10)
    left = "interface 'leaks' (broken:Leaks) left a task behind, which is cancelled: leaky (Event.wait)\n"
    assert left in _log(state_directory, "controller")


@pytest.mark.usefixtures("installed")
def test_a_transport_that_lies_and_a_launcher_whose_command_exits(state_directory: Path) -> None:
    done = run("--listen", "lie://here", program="aiocontroller")
    assert done.returncode == 2
    assert (
        "transport 'lie' (broken:Lying), asked to listen on lie://here, says that it does on 'tls://127.0.0.1:10105': "
        "its listener's address must begin with lie://"
    ) in done.stderr

    done = run("-n", "1", "--launcher", "vain")
    assert done.returncode == 1
    assert "the engine host ended: true (process " in done.stderr
    assert (
        "launcher 'vain' (broken:Vain) is to keep it running, its standard input open, until the cluster" in done.stderr
    )
    assert not list((state_directory / "run" / "default").glob("*.sock"))


def _log(state: Path, role: str) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in (state / "log").glob(f"default-{role}-*.log"))
