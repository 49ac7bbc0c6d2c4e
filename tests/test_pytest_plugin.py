"""The fixtures for pytest, in sessions of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import entry_points

import pytest

pytest_plugins = ["pytester"]

#: Both fixtures, in one session: a started cluster takes a second.
TESTS = """
import asyncio

def test_a_cluster_for_the_session(aiocluster):
    with aiocluster.multiengine() as mec:
        assert mec.apply(pow, 2, 10) == [1024] * 3
        mec["kept"] = 1

def test_the_same_one(aiocluster):
    with aiocluster.multiengine() as mec:
        assert mec["kept"] == [1] * 3
        mec.reset()

def test_a_cluster_in_the_loop(memory_cluster):
    async def main():
        async with memory_cluster() as cluster, cluster.task() as tasks:
            assert cluster.engine_ids == [0, 1, 2]
            assert await tasks.submit(pow, 2, 10) == 1024

    asyncio.run(main())

def test_arguments(memory_cluster):
    async def main():
        async with memory_cluster(n=1, queue="priority", interfaces=["monitor"]) as cluster:
            monitor = await cluster.client("monitor")
            assert len((await monitor.status())["engines"]) == 1

    asyncio.run(main())
"""


def test_pytest_finds_it() -> None:
    [found] = [entry for entry in entry_points(group="pytest11") if entry.name == "aioparallel"]
    assert found.value == "aioparallel.testing.pytest_plugin"


@pytest.fixture
def alone(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Run pytest without the plug-ins that happen to be installed: they take longer than our tests."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(*options: str) -> pytest.RunResult:
        return pytester.runpytest_subprocess("-p", "aioparallel.testing.pytest_plugin", *options, timeout=60)

    return run


def test_fixtures(pytester: pytest.Pytester, alone: Callable[..., pytest.RunResult]) -> None:
    pytester.makepyfile(TESTS)
    pytester.makeini("[pytest]\nfilterwarnings = error\naioparallel_engines = 3\n")
    alone().assert_outcomes(passed=4)


@pytest.mark.parametrize(("file", "option", "number"), [("", [], 2), ("3", ["4"], 4)])
def test_number_of_engines(
    pytester: pytest.Pytester,
    alone: Callable[..., pytest.RunResult],
    file: str,
    option: list[str],
    number: int,
) -> None:
    pytester.makepyfile(f"def test_number(memory_cluster): assert memory_cluster()._n == {number}")
    pytester.makeini("[pytest]\n" + (f"aioparallel_engines = {file}\n" if file else ""))
    alone(*(f"--aioparallel-engines={text}" for text in option)).assert_outcomes(passed=1)


def test_wrong_number(pytester: pytest.Pytester, alone: Callable[..., pytest.RunResult]) -> None:
    pytester.makepyfile("def test_nothing(memory_cluster): pass")
    done = alone("--aioparallel-engines=many")
    done.stdout.fnmatch_lines(["*must be a whole number from 1 up, not 'many'*"])
    assert done.ret


def test_nothing_is_loaded_for_who_does_not_ask(
    pytester: pytest.Pytester, alone: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        "import sys\n"
        "def test_modules():\n"
        "    loaded = {name for name in sys.modules if name.startswith('aioparallel')}\n"
        "    assert loaded <= {'aioparallel', 'aioparallel.errors', 'aioparallel.testing',\n"
        "                      'aioparallel.testing.pytest_plugin'}\n"
    )
    alone().assert_outcomes(passed=1)


def test_the_kits_need_no_pytest(pytester: pytest.Pytester) -> None:
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from aioparallel import testing\n"
        "for name in testing.__all__: getattr(testing, name)\n"
        "print(*testing.check_queue('fifo'))\n"
    )
    done = pytester.run(sys.executable, "-c", code)
    assert done.ret == 0, done.stderr.str()
