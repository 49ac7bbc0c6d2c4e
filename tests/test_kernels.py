"""The host's side of a kernel: what it is started with, and what is left when that fails."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from driven import Driven, driven
from programs import wait_gone

from aioparallel.kernels import KernelOptions
from aioparallel.wire import Limits


def test_a_kernel_that_can_not_be_started_leaves_nothing() -> None:
    async def main() -> None:
        one = Driven(KernelOptions(executable="/no/such/python"))
        before = sorted(os.listdir("/proc/self/fd"))
        with pytest.raises(FileNotFoundError, match="/no/such/python"):
            one.kernel.start()
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert (one.kernel.pid, one.kernel.running) == (0, None)
        one.kernel.check_output()
        one.kernel.kill()
        await one.kernel.aclose()

    asyncio.run(main())


def test_directory_and_environment(tmp_path: Path) -> None:
    async def main() -> None:
        one = Driven(KernelOptions(cwd=tmp_path, env={**os.environ, "COLOUR": "blue"}))
        await one.start()
        assert (await one.do("import os; os.getcwd(), os.environ['COLOUR']")).value["repr"] == f"('{tmp_path}', 'blue')"
        await one.kernel.aclose()

    asyncio.run(main())


def test_a_kernel_has_no_descriptor_of_ours() -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        async with driven() as one:
            mine = {os.readlink(f"/proc/self/fd/{number}") for number in (reading, writing)}
            theirs = Path(f"/proc/{one.kernel.pid}/fd")
            names = {entry.name: os.readlink(entry) for entry in theirs.iterdir()}
            assert not mine & set(names.values())
            assert names["0"] == os.devnull
            assert len(names) == 7  # three, the socket, the page, and its own of 1 and 2
            seen = await one.do("import subprocess; subprocess.run(['ls', '/proc/self/fd'], close_fds=False)")
            assert len(seen.stdout.split()) == 4  # three, and the directory that `ls` has open
        os.close(reading)
        os.close(writing)

    asyncio.run(main())


def test_ending_is_polite_then_firm_and_takes_the_children() -> None:
    async def main() -> None:
        async with driven() as one:
            code = (
                "import signal, subprocess; signal.signal(15, signal.SIG_IGN); c = subprocess.Popen(['sleep', '1000'])"
            )
            child = int((await one.do(f"{code}; c.pid")).value["repr"])
            one.execute("while True: pass")
            await one.kernel.aclose(grace=0.05)
            assert (await one.ended)[0] == -9
            assert wait_gone([child], 10)

    asyncio.run(main())


def test_what_has_begun_last_is_known_when_it_is_done() -> None:
    async def main() -> None:
        async with driven() as one:
            assert (one.kernel.running, one.kernel.latest) == (None, None)
            await one.do("1")
            assert (one.kernel.running, one.kernel.latest) == (None, 1)
            number, done = one.execute("import time; time.sleep(1000)")
            await one.running(number)
            assert one.kernel.latest == number == 2
            withdrawn, other = one.execute("2")
            one.kernel.withdraw(withdrawn)
            one.kernel.interrupt(number)
            await asyncio.gather(done, other)
            assert (one.kernel.running, one.kernel.latest) == (None, 2)

    asyncio.run(main())


def test_what_is_sent_sigterm_begins_nothing_more() -> None:
    async def main() -> None:
        async with driven() as one:
            await one.do("import signal, time; signal.signal(15, lambda *_: print('told')); kept = 1")
            number, done = one.execute("while not time.sleep(0.001): pass")
            _, other = one.execute("kept")
            await one.running(number)
            assert not one.kernel.terminate(number - 1)
            assert one.kernel.terminate(number)
            await one.printed("told")
            one.kernel.interrupt(number)
            await done
            await one.running(number + 1)  # that is, it would like to
            one.kernel.kill()
            await one.ended
            assert not other.done()
        async with driven() as one:
            # It was not running: nothing has happened.
            assert not one.kernel.terminate(5)
            assert (await one.do("1")).value["repr"] == "1"
            assert not one.kernel.terminate(1)
            assert (await one.do("2")).value["repr"] == "2"

    asyncio.run(main())


def test_a_kernel_that_breaks_the_rules_is_killed() -> None:
    async def main() -> None:
        async with driven() as one:
            find = "import os; links = {n: f'/proc/self/fd/{n}' for n in range(3, 99)}\n"
            find += "next(n for n, link in links.items() if 'socket:' in os.path.realpath(link))"
            number = (await one.do(find)).value["repr"]
            one.execute(f"os.write({number}, b'\\xff' * 100); __import__('time').sleep(1000)")
            assert (await one.ended)[0] == -9

    asyncio.run(main())


def test_a_forked_child_that_stays_does_not_hold_up_the_report() -> None:
    async def main() -> None:
        async with driven(Limits()) as one:
            code = "import os, time\nif not os.fork():\n  os.setsid()\n  time.sleep(3)\n  os._exit(0)\nos._exit(4)"
            one.execute(code)
            assert (await one.ended)[0] == 4

    asyncio.run(main())


def test_an_interrupt_that_is_lost_is_sent_again() -> None:
    code = """
import signal, time
lost = []
ours = signal.signal(signal.SIGINT, lambda *_: lost.append(1))
print("deaf")
while not lost:
    pass
signal.signal(signal.SIGINT, ours)
time.sleep(1000)
"""

    async def main() -> None:
        async with driven() as one:
            number, answer = one.execute(code)
            await one.printed("deaf")
            one.kernel.interrupt(number)
            assert "KeyboardInterrupt" in str((await answer).value)
            assert (await one.do("sum(lost)")).value["repr"] == "1"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("stdout", "stderr", "reported"),
    [
        (11, 3_500, "o" * 11 + "e" * 3_500),
        (3_500, 11, "o" * 3_500 + "e" * 11),
        (9_000, 9_000, "o" * 2_000 + "e" * 2_000),
        (9_000, 0, "o" * 4_000),
        (11, 9_000, "o" * 11 + "e" * 3_989),
    ],
)
def test_last_output_is_shared_out_between_the_streams(stdout: int, stderr: int, reported: str) -> None:
    async def main() -> None:
        async with driven() as one:
            write = f"os.write(1, b'o' * {stdout}); os.write(2, b'e' * {stderr})"
            one.execute(f"import os; {write}; os._exit(3)")
            assert (await one.ended)[1] == reported

    asyncio.run(main())


def test_what_a_command_writes_is_read_while_it_runs_and_only_then() -> None:
    async def main() -> None:
        async with driven(Limits(output=20)) as one:
            await one.do("print('of the one before')")
            number, done = one.execute("print('0123456789'); import time; time.sleep(1000)")
            await one.printed("9\n")
            assert one.kernel.read_output(number, 0, 0) == b"0123456789"  # half of what a RESULT has room for
            assert one.kernel.read_output(number, 0, 7) == b"789"
            assert one.kernel.read_output(number, 0, 10) == b""
            assert one.kernel.read_output(number, 1, 0) == b""
            assert one.kernel.read_output(number - 1, 0, 0) == b""
            one.kernel.interrupt(number)
            await done
            assert one.kernel.read_output(number, 0, 0) == b""

    asyncio.run(main())
