"""The interface, installed, on a cluster of its own: equal to one process, on both faces, also when engines die."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aioparallel
from aioparallel import client

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from count_words import serial  # noqa: E402
from mapreduce import MapReduce  # noqa: E402
from mapreduce_jobs import map_one, part_of  # noqa: E402

PATHS = [str(path) for package in (json, asyncio) for path in sorted(Path(package.__file__).parent.glob("*.py"))]
SERIAL = serial(PATHS)
JOB = ("count_words:words", "count_words:total")

#: Jobs during which a kernel dies: once for each input, or always.
MORTAL = """
import os, signal

def once(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return [("survived", 1)]
    return always(path)

def always(path):
    os.kill(os.getpid(), signal.SIGKILL)

def count(key, values):
    return len(values)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[client.Cluster]:
    with client.Cluster(n=4) as cluster:
        yield cluster


def test_it_equals_the_serial_count(cluster: client.Cluster) -> None:
    mapreduce = cluster.client("mapreduce")
    assert mapreduce.mapreduce(*JOB, PATHS) == SERIAL
    assert mapreduce.mapreduce(*JOB, []) == {}
    assert mapreduce.mapreduce(*JOB, PATHS[:1]) == serial(PATHS[:1])


def test_both_faces_and_several_at_once(cluster: client.Cluster) -> None:
    async def several() -> list[Any]:
        async with (
            aioparallel.client_of(MapReduce)(cluster.capability("mapreduce")) as mapreduce,
            aioparallel.TaskClient(cluster.capability("task")) as tc,
        ):
            jobs = [mapreduce.mapreduce(*JOB, PATHS) for _ in range(3)]
            squares = [tc.submit(pow, i, 2) for i in range(100)]
            assert await asyncio.gather(*squares) == [i * i for i in range(100)]
            return list(await asyncio.gather(*jobs))

    pending = cluster.client("mapreduce").mapreduce(*JOB, PATHS, block=False)
    assert asyncio.run(several()) == [SERIAL] * 3
    assert pending.r == SERIAL


def test_functions_that_clients_have_defined(cluster: client.Cluster) -> None:
    with cluster.multiengine() as mec:
        mec.execute(
            "def letters(text):\n for letter in text: yield letter, 1\n"
            "def places(letter, ones): return len(ones)\n"
            "def numbered(text): return [(1, 1)]\n"
        )
        mapreduce = cluster.client("mapreduce")
        assert mapreduce.mapreduce("__main__:letters", "__main__:places", ["abba", "b"]) == {"a": 2, "b": 3}
        with pytest.raises(client.RemoteError, match="__main__:numbered gave the key 1; keys are strings"):
            mapreduce.mapreduce("__main__:numbered", "__main__:places", ["abba"] * 10)
        with pytest.raises(client.RemoteError, match="No module named 'nowhere'"):
            mapreduce.mapreduce("nowhere:f", "__main__:places", ["abba"])


def test_a_job_whose_engine_dies_is_done_again(cluster: client.Cluster, tmp_path: Path) -> None:
    (ROOT / "mortal.py").write_text(MORTAL)
    mapreduce = cluster.client("mapreduce")
    paths = [str(tmp_path / str(number)) for number in range(3)]
    assert mapreduce.mapreduce("mortal:once", "mortal:count", paths) == {"survived": 3}
    with pytest.raises(client.EngineDied, match="SIGKILL"):
        mapreduce.mapreduce("mortal:always", "mortal:count", ["it"])


def test_what_goes_between_engines_does_not_depend_on_how_python_hashes() -> None:
    code = "from mapreduce_jobs import map_one; print(map_one('count_words:words', 'count_words.py', 4))"
    seen = set()
    for seed in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        seen.add(subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True).stdout)
    assert len(seen) == 1
    for number, part in enumerate(map_one("count_words:words", str(ROOT / "count_words.py"), 4)):
        assert {part_of(key, 4) for key in json.loads(part)} == {number}


def test_a_kernel_does_not_load_the_interface(cluster: client.Cluster) -> None:
    with cluster.multiengine() as mec:
        mec.restart()
        cluster.client("mapreduce").mapreduce(*JOB, PATHS)
        loaded = mec.apply(lambda: [name for name in __import__("sys").modules if "mapreduce" in name])
        assert loaded == [["mapreduce_jobs"]] * 4


def test_the_program_counts_the_standard_library(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "count_words.py")]
    done = subprocess.run([*command, "-n", "4"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(r"\d{3,} files, \d{5,} words on 4 engines", done.stdout)
    empty = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert empty.returncode == 2
    assert f"there is no Python file in {tmp_path}" in empty.stderr
