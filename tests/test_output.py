"""Output of commands while they run: put together from pieces, complete before the result, on both faces."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from model import connect, model_cluster, settle

import aioparallel
from aioparallel import client
from aioparallel.decoder import Decoder
from aioparallel.errors import EngineDied, OperationError
from aioparallel.output import Output, Printer, Watch, Watching, watch_of
from aioparallel.wire import OUTPUT_META, RESULT_META, Frame, HostCall, Kind, Limits, News, Status, encode

TEXT = "zwölf Boxkämpfer 🥊 jagen Viktor quer über den großen Sylter Deich …\n"


class Loop:
    """What a watch asks of its loop, where nobody waits."""

    def __init__(self) -> None:
        self.reported: list[dict[str, Any]] = []

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.reported.append(context)


def watch() -> Watch:
    made = Watch(Loop())  # type: ignore[arg-type]
    made.begin(9)
    return made


def wrote(data: bytes, offset: int, *, engine: int = 3, stream: News = News.STDOUT) -> Frame:
    header = OUTPUT_META.pack(offset)
    pieces = encode(Kind.NOTICE, 9, code=stream, engine=engine, header=header, buffers=[data])
    [frame] = Decoder(Limits()).feed(b"".join(pieces))
    return frame


def answer(stdout: bytes, stderr: bytes = b"", *, engine: int = 3, code: int = Status.OK) -> tuple[int, int, bytes]:
    return engine, code, RESULT_META.pack(1.0, 2.0, len(stdout)) + stdout + stderr


def texts(pieces: list[Output], stream: str = "stdout", engine: int = 3) -> list[str]:
    return [piece.text for piece in pieces if (piece.stream, piece.engine) == (stream, engine)]


# A watch


@pytest.mark.parametrize("seed", range(20))
def test_pieces_cut_anywhere_and_the_rest_make_the_whole(seed: int) -> None:
    dice, data, told = random.Random(seed), TEXT.encode() * 3, watch()
    cuts = sorted(dice.choices(range(len(data) + 1), k=dice.randrange(9)))
    for start, end in zip([0, *cuts], cuts, strict=False):
        told.wrote(wrote(data[start:end], start))
    told.answered(*answer(data, b"\xff\xfe"))
    assert "".join(texts(told.pieces)) == TEXT * 3
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(texts(told.pieces))
    assert texts(told.pieces, "stderr") == ["\N{REPLACEMENT CHARACTER}" * 2]


def test_a_character_at_the_end_of_a_piece_waits_for_its_rest() -> None:
    told = watch()
    told.wrote(wrote("aä".encode()[:2], 0))
    assert texts(told.pieces) == ["a"]
    told.wrote(wrote("aä".encode()[2:], 2))
    assert texts(told.pieces) == ["a", "ä"]
    told.wrote(wrote("ö".encode()[:1], 3))
    told.answered(3, Status.FAULT, b"{}")
    assert texts(told.pieces) == ["a", "ä", "\N{REPLACEMENT CHARACTER}"]


def test_pieces_that_were_left_out_on_the_way_come_with_the_result() -> None:
    told = watch()
    told.wrote(wrote(b"one ", 0))
    told.wrote(wrote(b"three ", 8))
    assert texts(told.pieces) == ["one "]
    told.answered(*answer(b"one two three "))
    assert texts(told.pieces) == ["one ", "two three "]
    told.answered(*answer(b"one two three "))
    assert len(told.pieces) == 2


def test_the_middle_of_a_runaway_is_left_out_as_in_the_result() -> None:
    told = watch()
    told.wrote(wrote(b"head", 0))
    told.answered(*answer("head\n… 9 bytes left out …\ntail".encode()))
    assert texts(told.pieces) == ["head", "\n… 9 bytes left out …\ntail"]


def test_what_begins_anew_is_shown_anew() -> None:
    told = watch()
    told.wrote(wrote(b"first try", 0))
    told.wrote(wrote(b"second", 0))
    told.answered(*answer(b"second try"))
    assert texts(told.pieces) == ["first try", "second", " try"]
    # Also when it was too quick for a piece of it.
    told = watch()
    told.wrote(wrote(b"first try", 0))
    told.answered(*answer(b"second try"))
    assert texts(told.pieces) == ["first try", "second try"]


def test_engines_and_streams_are_kept_apart() -> None:
    told = watch()
    told.wrote(wrote("ä".encode()[:1], 0))
    told.wrote(wrote(b"err", 0, stream=News.STDERR))
    told.wrote(wrote(b"other", 0, engine=4))
    told.wrote(wrote("ä".encode()[1:], 1))
    told.answered(*answer("ä".encode(), b"error"))
    told.answered(*answer(b"others", engine=4))
    assert [(piece.engine, piece.stream, piece.text) for piece in told.pieces] == [
        (3, "stderr", "err"),
        (4, "stdout", "other"),
        (3, "stdout", "ä"),
        (3, "stderr", "or"),
        (4, "stdout", "s"),
    ]
    assert {piece.command for piece in told.pieces} == {9}


def test_the_controllers_own_answers_hold_no_output_nor_does_nonsense() -> None:
    told = watch()
    told.answered(0xFFFF, Status.OK, b'[1, 2, "a plain answer that is long enough"]')
    told.answered(3, Status.CANCELLED, b"")
    told.answered(4, Status.OK, b"too short")
    for code, header in ((News.STDOUT, b"short"), (7, OUTPUT_META.pack(0))):
        told.wrote(
            Decoder(Limits()).feed(b"".join(encode(Kind.NOTICE, 9, code=code, header=header, buffers=[b"x"])))[0]
        )
    assert told.pieces == []
    assert repr(told) == "<Watch of 0 pieces>"


def test_a_listener_that_raises_is_told_of_and_harms_nobody() -> None:
    loop = Loop()
    told = Watch(loop)  # type: ignore[arg-type]
    told.begin(9)
    got: list[Output] = []
    told.listen(lambda piece: 1 / 0)
    told.listen(got.append)
    told.wrote(wrote(b"a", 0))
    told.answered(*answer(b"ab"))
    assert texts(got) == ["a", "b"]
    assert [type(context["exception"]) for context in loop.reported] == [ZeroDivisionError] * 2
    assert "call 9" in loop.reported[0]["message"]
    late: list[Output] = []
    told.listen(late.append)
    assert late == got


# The printer


def printed(capsys: pytest.CaptureFixture[str], *pieces: tuple[int, str]) -> str:
    printer = Printer()
    for engine, text in pieces:
        printer(Output(engine, 1, "stdout", text))
    return capsys.readouterr().out


def test_lines_are_printed_behind_their_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, (0, "a\nb\n"), (1, "c\n")) == "[0] a\n[0] b\n[1] c\n"
    Printer()(Output(2, 1, "stderr", "oops\n"))
    assert capsys.readouterr().err == "[2] oops\n"


def test_a_line_that_has_no_end_yet_is_printed_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, (0, "1 "), (0, "2 "), (0, "3\n"), (0, "4\n")) == "[0] 1 2 3\n[0] 4\n"


def test_another_begins_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, (0, "half "), (1, "whole\n"), (0, "a line\n")) == "[0] half \n[1] whole\n[0] a line\n"
    assert printed(capsys, (0, "line"), (1, "other\n"), (0, "\n")) == "[0] line\n[1] other\n"
    assert printed(capsys, (0, "line"), (1, "other\n"), (0, "\nnext\n")) == "[0] line\n[1] other\n[0] next\n"


def test_only_what_is_submitted_inside_is_watched() -> None:
    loop: Any = Loop()
    got: list[Output] = []
    watching = Watching("me", got.append, None)
    assert watch_of("me", loop) is None
    with watching:
        assert watch_of("somebody else", loop) is None
        inside = watch_of("me", loop)
        with Watching("me", got.append, [4]):
            twice = watch_of("me", loop)
    assert watch_of("me", loop) is None
    assert inside is not None
    assert twice is not None
    inside.wrote(wrote(b"a", 0))
    assert texts(got) == ["a"]
    twice.wrote(wrote(b"b", 0))
    twice.wrote(wrote(b"c", 0, engine=4))
    assert [piece.text for piece in got] == ["a", "b", "c", "c"]
    seen: list[Watch | None] = []
    with watching:
        thread = threading.Thread(target=lambda: seen.append(watch_of("me", loop)))
        thread.start()
        thread.join()
    assert seen == [None]


# Through a controller, with model engines


def test_nobody_is_asked_when_nobody_watches() -> None:
    async def main() -> None:
        async with model_cluster(2) as (controller, host), connect(controller) as mec:
            await mec.execute("1")
            assert host.told == []
            assert mec.channel._watched == {}

    asyncio.run(main())


def test_pieces_come_while_it_runs_and_the_rest_before_the_result() -> None:
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, host), connect(controller) as mec:
            handle = mec.execute("1")
            await settle()
            got: list[Output] = []

            async def follow() -> None:
                async for piece in handle.output():
                    assert not handle.done() or piece.text == "!"
                    got.append(piece)

            following = asyncio.create_task(follow())
            await settle()
            assert sorted(host.told) == [(HostCall.WATCH, engine, host.waiting[engine].id) for engine in (0, 1)]
            host.write(b"one ")
            host.write(b"uno ", place=1)
            await settle()
            assert [(piece.engine, piece.text) for piece in got] == [(0, "one "), (1, "uno ")]
            assert {piece.command for piece in got} == {handle.number}
            host.step(stdout=b"one two")
            await settle()
            assert texts(got, engine=0) == ["one ", "two"]
            host.step(stdout=b"uno ")
            await settle()
            host.step(0, stdout=b"") if host.waiting else None
            await handle
            await following
            assert texts(got, engine=1) == ["uno "]
            # Whoever comes late sees it all.
            assert [piece async for piece in handle.output()] == got
            assert mec.channel._watched == {}

    asyncio.run(main())


def test_who_asks_after_the_end_is_told_everything() -> None:
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, host), connect(controller) as mec:
            handle = mec.apply(abs, -1)
            await settle()
            host.step(stdout=b"0 out", stderr=b"0 err")
            await settle()
            first: list[Output] = []
            waiting = asyncio.create_task(_collect(handle, first))
            await settle()
            assert [piece.text for piece in first] == ["0 out", "0 err"]
            host.step(stdout=b"1 out")
            await handle
            await waiting
            assert [piece.text for piece in first] == ["0 out", "0 err", "1 out"]
            plain = mec.get_ids()
            await plain
            assert [piece async for piece in plain.output()] == []

    asyncio.run(main())


async def _collect(handle: Any, pieces: list[Output]) -> None:
    async for piece in handle.output():
        pieces.append(piece)  # noqa: PERF401  (as they come)


def test_iteration_ends_when_the_call_does_however_that_is() -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host):
            mec = await connect(controller).__aenter__()
            cancelled, died, lost = [mec.execute("1", targets=0) for _ in range(3)]
            pieces: list[list[Output]] = [[], [], []]
            tasks = [
                asyncio.create_task(_collect(handle, into))
                for handle, into in zip((cancelled, died, lost), pieces, strict=True)
            ]
            await settle()
            host.write(b"first")
            await settle()
            cancelled.cancel()
            await asyncio.wait_for(tasks[0], 5)
            await settle()
            host.write(b"second")
            host.die(0)
            with pytest.raises(EngineDied):
                await died
            await asyncio.wait_for(tasks[1], 5)
            await settle()
            host.connection.abort()
            await asyncio.wait([lost], timeout=5)
            await asyncio.wait_for(tasks[2], 5)
            assert [texts(each, engine=0) for each in pieces][:2] == [["first"], ["second"]]
            assert lost.exception() is not None
            await mec.aclose()

    asyncio.run(main())


def test_a_connection_that_is_lost_ends_the_iteration() -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, _):
            mec = await connect(controller).__aenter__()
            handle = mec.execute("1")
            following = asyncio.create_task(_collect(handle, []))
            await settle()
            await mec.aclose()
            await asyncio.wait_for(following, 5)
            assert isinstance(handle.exception(), ConnectionError)

    asyncio.run(main())


def test_a_client_that_does_not_read_gets_its_pieces_with_the_result() -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller) as mec:
            got: list[Output] = []
            with mec.watching(got.append):
                handle = mec.execute("1")
            await settle()
            [proxy] = controller._clients
            host.write(b"one ")
            await settle()
            proxy.connection.congested = True
            host.write(b"two ", offset=4)
            await settle()
            proxy.connection.congested = False
            host.write(b"three ", offset=8)
            await settle()
            assert texts(got, engine=0) == ["one "]
            host.step(stdout=b"one two three four")
            await handle
            assert texts(got, engine=0) == ["one ", "two three four"]

    asyncio.run(main())


def test_watching_shows_a_view_its_engines() -> None:
    async def main() -> None:
        async with model_cluster(3, eager=False) as (controller, host), connect(controller) as mec:
            assert await mec.get_ids() == [0, 1, 2]
            got: list[Output] = []
            with mec[1:].watching(got.append):
                handle = mec.execute("1")
                view = mec[0].execute("2")
            await settle()
            for stdout in (b"a", b"b", b"c", b"d"):
                host.step(stdout=stdout)
                await settle()
            await asyncio.gather(handle, view)
            assert sorted((piece.engine, piece.text) for piece in got) == [(1, "b"), (2, "c")]
            with pytest.raises(TypeError, match="can't be called"):
                mec.watching("me")

    asyncio.run(main())


def test_a_task_is_followed_to_where_it_runs() -> None:
    async def main() -> None:
        async with model_cluster(2, eager=False) as (controller, host), connect(controller, "task") as tc:
            handle = tc.submit(abs, -1)
            got: list[Output] = []
            following = asyncio.create_task(_collect(handle, got))
            await settle()
            [frame] = host.waiting
            assert host.told == [(HostCall.WATCH, frame.engine, frame.id)]
            host.write(b"first try")
            await settle()
            host.die(frame.engine)
            await settle()
            [again] = host.waiting
            assert host.told[1:] == [(HostCall.WATCH, again.engine, again.id)]
            host.step(stdout=b"second try")
            assert await handle == 1
            await following
            assert [piece.text for piece in got] == ["first try", "second try"]

    asyncio.run(main())


@pytest.mark.parametrize("call", [10**9, -1])
def test_to_watch_a_call_that_is_not_there_does_nothing(call: Any) -> None:
    async def main() -> None:
        async with (
            model_cluster(1) as (controller, host),
            connect(controller) as mec,
            connect(controller, "task") as tc,
        ):
            assert await mec._operate("watch_output", call=call) is None
            assert await tc._operate("watch_output", call=call) is None
            for what in (None, [1], "x"):
                for client in (mec, tc):
                    with pytest.raises(OperationError, match=r"argument call is .*; expected int"):
                        await client._operate("watch_output", call=what)
            assert host.told == []

    asyncio.run(main())


# Real engines


class Seen:
    """What a watcher was told, and a way to wait for it."""

    def __init__(self) -> None:
        self.pieces: list[Output] = []
        self._more = threading.Condition()

    def __call__(self, piece: Output) -> None:
        with self._more:
            self.pieces.append(piece)
            self._more.notify_all()

    def wait_for(self, text: str, engine: int) -> None:
        with self._more:
            assert self._more.wait_for(lambda: text in self.text(engine), 30), self.pieces

    def text(self, engine: int, stream: str = "stdout") -> str:
        return "".join(texts(self.pieces, stream, engine))


def pipes(directory: Path, *names: str) -> list[Path]:
    """Make pipes: whoever opens one to read it waits until something was written there, and the other way round."""
    made = [directory / name for name in names]
    for pipe in made:
        os.mkfifo(pipe)
    return made


#: Goes on when its pipe is opened: so what came before was told while it ran.
STEPS = """
import os, subprocess, sys
print("python", id)
print("complaint", file=sys.stderr)
open(f"{place}/first of {id}").close()
os.write(1, b"descriptor\\n")
subprocess.run(["echo", "child"], check=True)
open(f"{place}/second of {id}").close()
print("last", end="")
"""


def test_two_engines_are_watched_while_they_run(mec: client.MultiEngineClient, tmp_path: Path) -> None:
    first = pipes(tmp_path, "first of 0", "first of 1")
    second = pipes(tmp_path, "second of 0", "second of 1")
    mec.push({"place": str(tmp_path)})
    seen = Seen()
    pending = mec.execute(STEPS, block=False)
    pending.on_output(seen)
    for engine in (0, 1):
        seen.wait_for(f"python {engine}\n", engine)
    assert not pending.done()
    for pipe in first:
        pipe.write_bytes(b"")
    for engine in (0, 1):
        seen.wait_for("descriptor\nchild\n", engine)
    assert not pending.done()
    for pipe in second:
        pipe.write_bytes(b"")
    for result in pending.r:
        assert seen.text(result.id) == result.stdout == f"python {result.id}\ndescriptor\nchild\nlast"
        assert seen.text(result.id, "stderr") == result.stderr == "complaint\n"
    assert {piece.command for piece in seen.pieces} == {pending.number}
    late = Seen()
    pending.on_output(late)
    assert late.pieces == seen.pieces
    with pytest.raises(TypeError, match="5 can't be called"):
        pending.on_output(5)  # type: ignore[arg-type]


def test_it_is_complete_before_the_result_is_there(mec: client.MultiEngineClient) -> None:
    for count in range(40):
        got: list[Output] = []
        if count % 2:
            with mec.watching(got.append):
                results = mec.execute(f"for i in range({count}): print(i, 'ä' * i)")
        else:
            pending = mec.execute(f"for i in range({count}): print(i, 'ä' * i)", block=False)
            pending.on_output(got.append)
            results = pending.r
        for result in results:
            assert "".join(texts(got, engine=result.id)) == result.stdout


def test_characters_that_are_written_in_two_parts(mec: client.MultiEngineClient, tmp_path: Path) -> None:
    [pipe] = pipes(tmp_path, "pipe")
    mec.push({"pipe": str(pipe)})
    seen = Seen()
    with mec.watching(seen):
        pending = mec.execute(
            "import os\nos.write(1, 'aä'.encode()[:2])\nopen(pipe).close()\nos.write(1, 'äb'.encode()[1:])\n",
            targets=0,
            block=False,
        )
    seen.wait_for("a", 0)
    pipe.write_bytes(b"")
    assert pending.r[0].stdout == "aäb"
    assert texts(seen.pieces, engine=0) == ["a", "äb"]


def test_watching_prints_here_unless_told_otherwise(
    mec: client.MultiEngineClient, capsys: pytest.CaptureFixture[str]
) -> None:
    with mec.watching():
        mec.execute("import sys; print('one\\ntwo'); print('err', file=sys.stderr)")
    mec.execute("print('unwatched')")
    out, err = capsys.readouterr()
    assert sorted(out.splitlines()) == ["[0] one", "[0] two", "[1] one", "[1] two"]
    assert sorted(err.splitlines()) == ["[0] err", "[1] err"]


def test_a_flood_is_bounded_and_ends_as_in_the_result(mec: client.MultiEngineClient) -> None:
    seen = Seen()
    code = "import os\nfor i in range(200): os.write(1, f'{i:10}'.encode() * 10_000)"
    with mec.watching(seen):
        [result] = mec.execute(code, targets=0)
    assert "bytes left out" in result.stdout
    assert seen.text(0) == result.stdout


def test_the_last_words_of_a_kernel_are_told(mec: client.MultiEngineClient) -> None:
    got: list[Output] = []
    with mec.watching(got.append), pytest.raises(EngineDied):
        mec.execute("import os; print('last words'); os._exit(3)", targets=0)
    assert "".join(texts(got, engine=0)) == "last words\n"
    cancelled = mec.execute("import time; print('begun'); time.sleep(1000)", targets=0, block=False)
    seen = Seen()
    cancelled.on_output(seen)
    seen.wait_for("begun", 0)
    assert cancelled.cancel()
    assert mec.execute("id", targets=0)[0].value == "0"


def test_a_watcher_that_raises_does_no_harm(mec: client.MultiEngineClient, caplog: pytest.LogCaptureFixture) -> None:
    with mec.watching(lambda piece: 1 / 0):
        assert mec.execute("print('x')", targets=0)[0].stdout == "x\n"
    assert "who watches the output of call" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_waiting_in_a_watcher_raises_and_to_watch_there_works(mec: client.MultiEngineClient) -> None:
    errors: list[str] = []
    again: list[Output] = []

    def watcher(piece: Output) -> None:
        pending.on_output(again.append)
        try:
            mec.execute("1", targets=0)
        except RuntimeError as error:
            errors.append(str(error))

    pending = mec.execute("print('x')", targets=0, block=False)
    pending.on_output(watcher)
    assert pending.r[0].stdout == "x\n"
    assert errors
    assert "callback can't wait" in errors[0]
    assert texts(again, engine=0)[0] in ("x", "x\n")


def test_tasks_are_watched_as_well(cluster: client.Cluster, tmp_path: Path) -> None:
    def work(pipe: str) -> None:
        print("begun")
        open(pipe).close()
        print("done")

    [pipe] = pipes(tmp_path, "pipe")

    with client.TaskClient(cluster.capability("task")) as tc:
        pending = tc.submit(work, str(pipe))
        seen, begun = Seen(), threading.Event()
        pending.on_output(seen)
        pending.on_output(lambda piece: begun.set())
        assert begun.wait(30)
        assert not pending.done()
        pipe.write_bytes(b"")
        pending.result()
        assert "".join(piece.text for piece in seen.pieces) == "begun\ndone\n"


def test_the_asyncio_face(cluster: client.Cluster) -> None:
    async def main() -> None:
        async with aioparallel.MultiEngineClient(cluster.capability("multiengine")) as mec:
            handle = mec.execute("import time\nfor i in range(5): print(i); time.sleep(0.03)")
            got = defaultdict(str)
            async for piece in handle.output():
                got[piece.engine] += piece.text
                if len(got) == 1:
                    assert not handle.done()
            assert got == {result.id: result.stdout for result in await handle}

    asyncio.run(main())
