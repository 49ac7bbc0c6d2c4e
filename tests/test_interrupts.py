"""Interrupting what runs, on real engines: the caller is told, and the namespace survives."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

import aioparallel
from aioparallel import client
from aioparallel.errors import CompositeError, RemoteError

#: MARK is where it has begun, and PIPE what tells of it: behind the imports, since one that is interrupted may not work
#: a second time.
RUNNING = {
    "python": "MARK\nwhile True: pass",
    "sleep": "import time\nMARK\ntime.sleep(1000)",
    "matmuls": "import numpy; a = numpy.ones((300, 300))\nMARK\nwhile True: a = a @ a / 300",
    "child": "import subprocess\nsubprocess.run(['sh', '-c', ': > PIPE; exec sleep 1000'])",
    "shell": "import subprocess\nsubprocess.run(': > PIPE; sleep 1000; true', shell=True)",
    "pipe": "import os\nMARK\nos.read(os.pipe()[0], 1)",
    "lock": "import threading; lock = threading.Lock(); lock.acquire()\nMARK\nlock.acquire()",
    "coroutine": "import asyncio\nMARK\nawait asyncio.sleep(1000)",
    "cleaned up": "try:\n    MARK\n    while True: pass\nfinally:\n    tidy = True",
}


@pytest.fixture
def mec(mec: client.MultiEngineClient) -> client.MultiEngineClient:
    """One whose engines have names already."""
    mec.push({"kept": [1, 2], "tidy": False})
    return mec


@pytest.mark.parametrize("what", RUNNING)
def test_the_namespace_survives_and_the_error_names_it(mec: client.MultiEngineClient, tmp_path: Path, what: str):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = RUNNING[what].replace("MARK", "open('PIPE', 'w').close()").replace("PIPE", str(pipe))
    running = mec.execute(code, targets=0, block=False)
    pipe.read_bytes()
    mec.interrupt(targets=0)
    with pytest.raises(RemoteError, match="KeyboardInterrupt") as caught:
        running.result(30)
    assert caught.value.type_name == "KeyboardInterrupt"
    assert caught.value.engine_id == 0
    assert running.metadata[0].completed is not None
    assert mec.pull("kept") == [[1, 2], [1, 2]]
    assert mec.pull("tidy", targets=0) == [what == "cleaned up"]
    # It was for that command: the next ones run.
    assert mec.apply(sum, [1, 2]) == [3, 3]


def test_one_long_call_into_c_ends_first(mec: client.MultiEngineClient, tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    mec.execute("import numpy; a = numpy.random.default_rng(1).random(6_000_000)", targets=0)
    # It looks at no signal, and holds the interpreter's lock or not: the interrupt comes when it is over. That it has
    # begun is seen by another thread.
    code = f"""
import threading
unsorted = a[:1000].copy()
def look():
    while (a[:1000] == unsorted).all(): pass
    open({str(pipe)!r}, "w").close()
threading.Thread(target=look).start()
a.sort(kind="stable")
while True: pass
"""
    running = mec.execute(code, targets=0, block=False)
    pipe.read_bytes()
    mec.interrupt(targets=0)
    with pytest.raises(RemoteError, match="KeyboardInterrupt"):
        running.result(60)
    assert mec[0].execute("bool((a[:-1] <= a[1:]).all())").value == "True"


def test_what_catches_it_goes_on(mec: client.MultiEngineClient, tmp_path: Path):
    pipes = [tmp_path / f"pipe {turn}" for turn in range(2)]
    for pipe in pipes:
        os.mkfifo(pipe)
    code = f"""
for pipe in {[str(pipe) for pipe in pipes]}:
    try:
        open(pipe, "w").close()
        while True: pass
    except KeyboardInterrupt:
        pass
"done"
"""
    running = mec.execute(code, targets=1, block=False)
    for pipe in pipes:
        pipe.read_bytes()
        mec.interrupt(targets=1)
    assert running.result(30)[0].value == "'done'"


def test_nothing_to_interrupt_is_no_error(mec: client.MultiEngineClient):
    mec.interrupt()
    assert mec.apply(sum, [1]) == [1, 1]


def test_from_asyncio(cluster: client.Cluster):
    async def main() -> None:
        async with aioparallel.MultiEngineClient(cluster.capability("multiengine")) as mec:
            await mec.push({"kept": 3})
            running = mec.execute("import time; time.sleep(1000)")
            while any(status["pending"] is None for status in await mec.queue_status()):
                pass
            await mec.interrupt()
            with pytest.raises(CompositeError, match=r"\[0:execute\]: KeyboardInterrupt") as caught:
                await running
            assert [error.type_name for error in caught.value.exceptions] == ["KeyboardInterrupt"] * 2
            assert await mec.pull("kept") == [3, 3]

    asyncio.run(main())
