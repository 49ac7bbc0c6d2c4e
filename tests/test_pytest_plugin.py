"""The fixtures for pytest, in sessions of their own."""

from __future__ import annotations

import sys
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


@pytest.mark.parametrize("how", ["option", "file"])
def test_fixtures(pytester: pytest.Pytester, how: str) -> None:
    pytester.makepyfile(TESTS)
    pytester.makeini("[pytest]\nfilterwarnings = error\n" + ("aioparallel_engines = 3\n" if how == "file" else ""))
    options = ["--aioparallel-engines=3"] if how == "option" else []
    done = pytester.runpytest_subprocess("-p", "no:xdist", *options, timeout=60)
    done.assert_outcomes(passed=4)


def test_wrong_number(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing(memory_cluster): pass")
    done = pytester.runpytest_subprocess("--aioparallel-engines=many", timeout=60)
    done.stdout.fnmatch_lines(["*must be a whole number from 1 up, not 'many'*"])
    assert done.ret


def test_nothing_is_loaded_for_who_does_not_ask(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import sys\n"
        "def test_modules():\n"
        "    loaded = {name for name in sys.modules if name.startswith('aioparallel')}\n"
        "    assert loaded <= {'aioparallel', 'aioparallel.errors', 'aioparallel.testing',\n"
        "                      'aioparallel.testing.pytest_plugin'}\n"
    )
    pytester.runpytest_subprocess("-p", "no:xdist", timeout=60).assert_outcomes(passed=1)


def test_the_kits_need_no_pytest(pytester: pytest.Pytester) -> None:
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from aioparallel import testing\n"
        "for name in testing.__all__: getattr(testing, name)\n"
        "print(*testing.check_queue('fifo'))\n"
    )
    done = pytester.run(sys.executable, "-c", code)
    assert done.ret == 0, done.stderr.str()
