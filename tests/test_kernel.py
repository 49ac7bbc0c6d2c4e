"""The process that runs user code: output, interrupts, endings, and what comes back whatever that code does."""

from __future__ import annotations

import asyncio
import itertools
import json
import operator
import os
import signal
import subprocess
import sys
from operator import mul
from pathlib import Path
from typing import Any

import numpy
import pytest
from driven import ENGINE, Driven, driven
from programs import wait_gone

from aioparallel.errors import MessageTooLarge, ProtocolError, RemoteError, TaskRejectError
from aioparallel.memory import Segment, span
from aioparallel.reference import Outcome
from aioparallel.serialize import pack
from aioparallel.wire import JOINED, Buffer, KernelCall, Kind, Limits, Status, encode, encode_shared

# What it is


def test_ready_says_who() -> None:
    async def main() -> None:
        async with driven() as one:
            ready = await one.ready
            assert ready == {"ready": True, "pid": one.kernel.pid, "python": sys.version.split()[0]}
            assert (await one.do("id")).value["repr"] == str(ENGINE)
            assert (await one.do("__name__, __import__('sys').argv")).value["repr"] == "('__main__', [''])"
            assert (await one.do("import sys; sys.modules['__main__'].id")).value["repr"] == str(ENGINE)

    asyncio.run(main())


def test_modules_that_a_kernel_does_without() -> None:
    async def main() -> None:
        async with driven() as one:
            heavy = ["asyncio", "cloudpickle", "logging", "socket", "ssl", "subprocess", "threading", "trustme"]
            loaded = await one.do(f"import sys; [name for name in {heavy} if name in sys.modules]")
            assert loaded.value["repr"] == "[]"

    asyncio.run(main())


def test_path_comes_first_and_nothing_here_hides_our_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "signal", "aioparallel", "mine"):
        (tmp_path / f"{name}.py").write_text("WHO = 'the user'")
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        async with driven(path=[str(tmp_path)]) as one:
            assert (await one.do("import mine, sys; mine.WHO, sys.path[0]")).value[
                "repr"
            ] == f"('the user', '{tmp_path}')"

    asyncio.run(main())


def test_commands_run_in_order_also_a_great_many() -> None:
    async def main() -> None:
        async with driven() as one:
            answers = [one.submit("apply", mul, (2, i), {})[1] for i in range(5000)]
            assert [outcome.value for outcome in await asyncio.gather(*answers)] == [2 * i for i in range(5000)]
            assert one.order == sorted(one.order)

    asyncio.run(main())


def test_answers_do_not_wait_for_a_long_command() -> None:
    async def main() -> None:
        async with driven() as one:
            for _ in range(3):
                short = [one.submit("apply", mul, (2, i), {})[1] for i in range(100)]
                number, long = one.execute("import time; time.sleep(1000)")
                await asyncio.gather(*short)  # gathered answers leave while the long one sleeps
                await one.running(number)
                one.kernel.interrupt(number)
                assert (await long).value.type_name == "KeyboardInterrupt"

    asyncio.run(main())


def test_meta_tells_how_long() -> None:
    async def main() -> None:
        async with driven() as one:
            assert 0.05 <= (await one.do("import time; time.sleep(0.05)")).seconds < 2

    asyncio.run(main())


# Log records


def test_records_come_before_the_answer_also_of_gathered_ones() -> None:
    async def main() -> None:
        async with driven() as one:
            number, done = one.submit("forward_logging", 77, 1, "", 20)
            await done
            await one.do("import logging; log = logging.getLogger('x').info")
            answers = [one.execute(f"log({i})")[1] for i in range(300)]
            await asyncio.gather(*answers)
            assert one.records == [(number + 1 + i, 77, str(i)) for i in range(300)]
            await one.do("import threading; threading.Timer(0.02, log, ['late']).start()")
            await one.told(lambda: len(one.records) > 300)
            assert one.records[-1][1:] == (77, "late")

    asyncio.run(main())


def test_a_session_that_is_gone_is_forgotten_also_before_there_was_any() -> None:
    async def main() -> None:
        forget = encode(Kind.CALL, 77, code=KernelCall.FORGET)
        one = Driven()
        one.kernel.start()
        await one.ready
        one.kernel.send(forget)
        await one.told(lambda: one.order == [77])
        await one.kernel.aclose()
        async with driven() as one:
            await one.submit("forward_logging", 77, 1, "a", 20)[1]
            await one.submit("forward_logging", 77, 2, "b", 20)[1]
            await one.submit("forward_logging", 78, 2, "a", 20)[1]
            one.kernel.send(forget)
            await one.do("import logging; logging.getLogger('a').info('a'); logging.getLogger('b').error('b')")
            assert [record[1:] for record in one.records] == [(78, "a")]

    asyncio.run(main())


# Output

OUTPUT = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None)
print("python")
libc.printf(b"C, no newline;")
os.system("echo shell")
print("half", end="")
subprocess.run(["echo", " child"])
os.write(1, b"raw\\n")
print("error", file=sys.stderr)
libc.perror(b"C")
os.system("echo shell error >&2")
"""


def test_output_of_python_c_and_children_in_order() -> None:
    async def main() -> None:
        async with driven() as one:
            outcome = await one.do(OUTPUT)
            assert outcome.stdout == "python\nC, no newline;shell\nhalf child\nraw\n"
            assert outcome.stderr.splitlines()[0] == "error"
            assert outcome.stderr.splitlines()[1].startswith("C: ")
            assert outcome.stderr.splitlines()[2] == "shell error"
            assert (await one.do("print('Grüße \\udc80')")).stdout == "Grüße \\udc80\n"
            assert (await one.do("1")).stdout == ""
            assert (await one.do("print('x'); 1/0")).stdout == "x\n"

    asyncio.run(main())


def test_output_is_bounded_in_the_middle() -> None:
    async def main() -> None:
        async with driven(Limits(output=1000)) as one:
            outcome = await one.do("print('a' * 600 + 'b' * 5000 + 'c' * 600)")
            assert outcome.stdout == "a" * 500 + "\n… 5,201 bytes left out …\n" + "c" * 499 + "\n"
            assert (await one.do("print('next')")).stdout == "next\n"

    asyncio.run(main())


def test_a_lot_of_output_is_handed_over_and_let_go() -> None:
    async def main() -> None:
        async with driven() as one:
            for _ in range(3):
                assert len((await one.do("print('x' * 3_000_000)")).stdout) == 3_000_001
                assert os.fstat(one.kernel._outputs[0].number).st_size == 0
            assert (await one.do("print('next')")).stdout == "next\n"

    asyncio.run(main())


def test_runaway_output_is_cut_while_it_runs() -> None:
    async def main() -> None:
        async with driven(Limits(output=1_000_000)) as one:
            number, answer = one.execute("print('begin')\nwhile True: print('x' * 1_000_000)")
            cuts = 0
            while cuts < 3:
                await asyncio.sleep(0.01)
                size = os.fstat(one.kernel._outputs[0].number).st_size
                one.kernel.check_output()
                cuts += os.fstat(one.kernel._outputs[0].number).st_size < size
            one.kernel.interrupt(number)
            stdout = (await answer).stdout
            assert stdout.startswith("begin\nx")
            assert "bytes left out" in stdout
            assert 500_000 <= len(stdout) < 1_000_100
            assert (await one.do("print('next')")).stdout == "next\n"

    asyncio.run(main())


def test_output_of_a_thread_goes_to_the_next_command() -> None:
    async def main() -> None:
        async with driven() as one:
            await one.do(
                "import threading; go = threading.Event()\n"
                "t = threading.Thread(target=lambda: (go.wait(), print('late'))); t.start()"
            )
            assert (await one.do("go.set(); t.join()")).stdout == "late\n"

    asyncio.run(main())


# Interrupts

TASK = """
import asyncio
async def spin():
    print('on')
    while True: pass
async def main():
    task = asyncio.create_task(spin())
    await asyncio.sleep(1000)
await main()
"""
STUCK = {
    "python": "print('on')\nwhile True: pass",
    "sleep": "import time; print('on'); time.sleep(1000)",
    "child": "import subprocess; print('on'); subprocess.run(['sleep', '1000'])",
    "shell": "import os; print('on'); os.system('sleep 1000'); import time; time.sleep(1000)",
    "await": "import asyncio; print('on'); await asyncio.sleep(1000)",
    "await python": "async def f():\n  print('on')\n  while True: pass\nawait f()",
    "task": TASK,
    "lock": "import threading; print('on'); threading.Event().wait()",
}


@pytest.mark.parametrize("code", STUCK.values(), ids=STUCK.keys())
def test_interrupt(code: str) -> None:
    async def main() -> None:
        async with driven() as one:
            number, answer = one.execute(code)
            await one.printed("on\n")
            one.kernel.interrupt(number)
            while "system" in code and not (await asyncio.wait([answer], timeout=0.02))[0]:
                # C's system() hides SIGINT from its caller: the first ends the child, the next one is ours.
                one.kernel.interrupt(number)
            outcome = await answer
            assert outcome.status is Status.ERROR
            assert isinstance(outcome.value, RemoteError)
            assert outcome.value.type_name == "KeyboardInterrupt"
            assert outcome.stdout == "on\n"
            assert (await one.do("await __import__('asyncio').sleep(0, 5)")).value["repr"] == "5"

    asyncio.run(main())


def test_interrupt_runs_the_users_cleanup() -> None:
    async def main() -> None:
        async with driven() as one:
            for wait in ("time.sleep(1000)", "await asyncio.sleep(1000)"):
                code = f"import asyncio, time\ntry:\n  print('on'); {wait}\nfinally:\n  print('cleaned up')"
                number, answer = one.execute(code)
                await one.printed("on\n")
                one.kernel.interrupt(number)
                assert (await answer).stdout == "on\ncleaned up\n"

    asyncio.run(main())


def test_interrupt_that_user_code_catches_and_a_second_one() -> None:
    async def main() -> None:
        async with driven() as one:
            code = "import time\ntry: print('one'); time.sleep(1000)\n"
            code += "except KeyboardInterrupt: print('two'); time.sleep(1000)"
            number, answer = one.execute(code)
            for text in ("one", "two"):
                await one.printed(text)
                one.kernel.interrupt(number)
            assert (await answer).value.type_name == "KeyboardInterrupt"

    asyncio.run(main())


def test_interrupt_reaches_only_the_command_it_was_meant_for() -> None:
    async def main() -> None:
        async with driven() as one:
            first, answer = one.execute("'first'")
            await answer
            _, answer = one.execute("print('on')\nfor _ in range(20): __import__('time').sleep(0.005)\n'second'")
            await one.printed("on\n")
            for _ in range(5):
                one.kernel.interrupt(first)
                await asyncio.sleep(0.002)
            assert (await answer).value["repr"] == "'second'"
            # Sent before it begins, the word waits for it.
            blocking, blocker = one.execute("print('on'); __import__('time').sleep(0.05)")
            meant, answer = one.execute("while True: pass")
            await one.printed("on\n")
            one.kernel.interrupt(meant)
            assert (await blocker).status is Status.OK
            assert (await answer).value.type_name == "KeyboardInterrupt"
            assert blocking < meant
            os.kill(one.kernel.pid, signal.SIGINT)  # between commands: nothing
            assert (await one.do("1")).status is Status.OK

    asyncio.run(main())


def test_interrupt_racing_with_completion() -> None:
    """Either the value or KeyboardInterrupt comes back, never to another command, and the kernel lives on."""

    async def main() -> None:
        async with driven() as one:
            seen = {Status.OK: 0, Status.ERROR: 0}
            for i in itertools.count():
                # How often an interrupt wins is the machine's affair; that each side does now and then is ours.
                if i >= 600 and seen[Status.OK] > 100 and seen[Status.ERROR] > 20:
                    break
                assert i < 20_000
                number, answer = one.submit("apply", sum, (range(1 + i % 50 * 40),), {})
                _, neighbour = one.submit("apply", mul, (2, i), {})
                while i % 3 == 0 and one.kernel.running != number and not answer.done():
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
                for _ in range(i % 4):
                    one.kernel.interrupt(number)
                outcome = await answer
                seen[outcome.status] += 1
                if outcome.status is Status.ERROR:
                    assert outcome.value.type_name == "KeyboardInterrupt"
                assert (await neighbour).value == 2 * i
            assert not one.ended.done()

    asyncio.run(main())


def test_user_code_that_takes_the_signal_for_itself() -> None:
    async def main() -> None:
        async with driven() as one:
            await one.do("import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)")
            number, answer = one.execute("import time; print('on'); time.sleep(1000)")
            await one.printed("on\n")
            one.kernel.interrupt(number)
            assert (await answer).value.type_name == "KeyboardInterrupt"

    asyncio.run(main())


# Withdrawing


def test_cancel_of_what_waits_and_of_what_runs() -> None:
    async def main() -> None:
        async with driven() as one:
            running, first = one.execute("import time; print('on'); time.sleep(1000)")
            waiting = [one.execute(f"print({i})") for i in range(5)]
            await one.printed("on\n")
            for number, _ in waiting[1:4]:
                one.cancel(number)
            one.cancel(running)
            assert (await first).value.type_name == "KeyboardInterrupt"
            outcomes = [await answer for _, answer in waiting]
            assert [outcome.status for outcome in outcomes] == [Status.OK, *[Status.CANCELLED] * 3, Status.OK]
            assert outcomes[4].stdout == "4\n"
            one.cancel(running)  # long answered: nothing
            assert (await one.do("1")).status is Status.OK

    asyncio.run(main())


# Endings


@pytest.mark.parametrize(
    ("code", "returncode"),
    [
        ("import os; print('last words'); os._exit(3)", 3),
        ("import os; print('last words'); os.kill(os.getpid(), 9)", -9),
        ("import os; print('last words'); os.kill(os.getpid(), 15)", -15),
        ("import ctypes; print('last words'); ctypes.string_at(0)", -11),
        ("import os; print('last words'); os.abort()", -6),
        ("import os; print('last words'); os.closerange(3, 100)", 74),
    ],
)
def test_kernel_that_ends(code: str, returncode: int) -> None:
    async def main() -> None:
        async with driven() as one:
            done = one.execute("1")[1]
            number, _ = one.execute(code)
            status, output, running = await one.ended
            assert (await done).value["repr"] == "1"
            assert status == returncode
            assert "last words" in output
            assert running == number
            if returncode == -11:
                assert "Segmentation fault" in output

    asyncio.run(main())


def test_sys_exit_is_an_outcome() -> None:
    async def main() -> None:
        async with driven() as one:
            assert (await one.do("import sys; sys.exit(3)")).value.type_name == "SystemExit"
            assert (await one.do("raise KeyboardInterrupt")).value.type_name == "KeyboardInterrupt"
            assert (await one.do("1")).status is Status.OK

    asyncio.run(main())


def test_closed_and_redirected_descriptors_harm_only_the_output() -> None:
    async def main() -> None:
        async with driven() as one:
            assert (await one.do("import os; saved = os.dup(1); os.close(1)")).status is Status.OK
            assert isinstance((await one.do("print('x')")).value, OSError)
            assert (await one.do("os.dup2(saved, 1); print('back')")).stdout == "back\n"

    asyncio.run(main())


def test_a_forked_child_has_no_voice() -> None:
    async def main() -> None:
        async with driven() as one:
            outcome = await one.do("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nid if pid else 1/0")
            assert outcome.value["repr"] == str(ENGINE)
            code = "import multiprocessing as m; q = m.get_context('fork').SimpleQueue()\n"
            code += "p = m.get_context('fork').Process(target=q.put, args=(5,)); p.start(); p.join(); q.get()"
            assert (await one.do(code)).value["repr"] == "5"

    asyncio.run(main())


def test_end_of_the_socket_is_the_end_whatever_runs_elsewhere() -> None:
    async def main() -> None:
        async with driven() as one:
            await one.do("import threading, time; threading.Thread(target=time.sleep, args=(1000,)).start()")
            assert one.kernel._socket is not None
            one.kernel._socket._end(None)
            assert (await one.ended)[0] == 0

    asyncio.run(main())


HOST = """
import asyncio, sys
from driven import driven

async def main():
    async with driven() as one:
        one.execute(sys.argv[1])
        await one.printed("on\\n")
        print(one.kernel.pid, flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.mark.parametrize("code", ["print('on')\nwhile True: pass", "print('on'); sum(range(10**12))"])
def test_killing_the_host_leaves_no_kernel(code: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", HOST, code], stdout=subprocess.PIPE, env=environment) as host:
        assert host.stdout
        kernel = int(host.stdout.readline())
        os.kill(kernel, 0)
        host.kill()
    assert wait_gone([kernel], 2), "the kernel outlives its host"


# Tasks


def join(*values: object) -> tuple[bytes, list[Buffer]]:
    """Return header and payload of a command that adds up what came along with it."""
    packed = [pack(value) for value in values]
    call = ("attempt", [(operator.contains, ("gpu",))], "apply", add_up, tuple(map(Outcome, range(len(values)))), {})
    header = json.dumps({"parts": [len(each) for each in packed], "properties": {"gpu": 1}}).encode()
    return header, [bytes(buffer) for each in [pack(call), *packed] for buffer in each]


def add_up(*values: Any) -> Any:
    return sum(values[1:], values[0])


@pytest.mark.parametrize("size", [1, 10_000, 1_000_000])
def test_values_come_along_with_a_command(size: int) -> None:
    async def main() -> None:
        arrays = [numpy.full(size, 2.0 * i) for i in range(4)]
        header, buffers = join(*arrays)
        async with driven(path=[str(Path(__file__).parent)]) as one:
            number, answer = one.expect()
            one.kernel.send(encode(Kind.COMMAND, number, code=JOINED, header=header, buffers=buffers))
            outcome = await answer
            assert numpy.array_equal(outcome.value, arrays[-1] * 2)
            if one.kernel.shares:
                lengths = [len(buffer) for buffer in buffers]
                segment = Segment.make(span(lengths))
                segment.write(buffers)
                number, answer = one.expect()
                one.kernel.send(encode_shared(Kind.COMMAND, number, segment, lengths, code=JOINED, header=header))
                assert numpy.array_equal((await answer).value, arrays[-1] * 2)
            number, answer = one.expect()
            one.kernel.send(encode(Kind.COMMAND, number, code=JOINED, header=b"{", buffers=buffers))
            assert isinstance((await answer).value, ProtocolError)
            assert (await one.do("1")).value["repr"] == "1"

    asyncio.run(main())


def test_a_rejection_has_a_status_of_its_own() -> None:
    async def main() -> None:
        async with driven() as one:
            code = "from aioparallel import TaskRejectError\nprint('look')\nraise TaskRejectError('not here')"
            outcome = await one.do(code)
            assert outcome.status is Status.REJECTED
            assert type(outcome.value) is TaskRejectError
            assert outcome.stdout == "look\n"

    asyncio.run(main())


# Size


def test_a_hundred_megabytes_there_and_back() -> None:
    """The kernel holds them once as they come in, and needs no second copy to send them out."""

    async def main() -> None:
        async with driven() as one:
            before = int(
                (await one.do("import resource; resource.getrusage(resource.RUSAGE_SELF).ru_maxrss")).value["repr"]
            )
            data = bytearray(b"0123456789" * 10_000_000)
            outcome = await one.submit("apply", bytearray.__iadd__, (data, b"!"), {})[1]
            assert outcome.value == data + b"!"
            after = int((await one.do("resource.getrusage(resource.RUSAGE_SELF).ru_maxrss")).value["repr"])
            # A bytearray that grows may move, and then is there twice.
            assert after - before < 230_000

    asyncio.run(main())


def test_a_result_above_the_limit_is_an_error_in_words() -> None:
    async def main() -> None:
        async with driven(Limits(message=1_000_000)) as one:
            outcome = await one.submit("apply", bytes, (2_000_000,), {})[1]
            assert isinstance(outcome.value, MessageTooLarge)
            assert "above the limit" in str(outcome.value)
            assert (await one.do("1")).status is Status.OK

    asyncio.run(main())


def test_output_never_makes_a_header_too_large() -> None:
    async def main() -> None:
        # The host reads with these limits as well: a header above would be the end of the kernel.
        async with driven(Limits(header=4096, output=2**20)) as kernel:
            outcome = await kernel.do("import sys\nprint('o' * 100_000)\nprint('e' * 100_000, file=sys.stderr)\n7")
            assert outcome.value["repr"] == "7"
            for text in (outcome.stdout, outcome.stderr):
                assert 1900 < len(text.encode()) <= 2048
                assert "left out" in text
            assert (await kernel.do("8")).value["repr"] == "8"

    asyncio.run(main())


def test_a_result_above_the_limit_is_an_error_in_words_whatever_was_printed() -> None:
    async def main() -> None:
        async with driven(Limits(message=10_000)) as kernel:
            outcome = await kernel.do("print('o' * 100_000)\n'v' * 20_000")
            assert isinstance(outcome.value, MessageTooLarge)
            assert "bytes left out" in outcome.stdout
            assert (await kernel.do("8")).value["repr"] == "8"

    asyncio.run(main())
