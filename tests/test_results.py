"""What MultiEngine calls give back, and how it prints."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from aioparallel import serialize
from aioparallel.decoder import Decoder
from aioparallel.errors import CompositeError, EngineDied, InvalidEngineID, QueueCleared, to_plain
from aioparallel.results import ExecuteResult, QueueStatusList, ResultList, collect, outputs
from aioparallel.wire import LAST, RESULT_META, Frame, Kind, Limits, Status, encode


def frame(engine: int, value: Any = None, *, error: BaseException | None = None, out: bytes = b"", err: bytes = b""):
    buffers = serialize.pack(value) if error is None else serialize.pack_error(error, engine_id=engine)
    header = RESULT_META.pack(10.0, 0.5, len(out)) + out + err
    code = Status.OK if error is None else Status.ERROR
    return _decoded(encode(Kind.RESULT, 1, code=code, flags=LAST, engine=engine, header=header, buffers=buffers))


def fault(error: Exception, engine: int = 0xFFFF) -> Frame:
    header = json.dumps(to_plain(error)).encode()
    return _decoded(encode(Kind.RESULT, 1, code=Status.FAULT, flags=LAST, engine=engine, header=header))


def _decoded(pieces: Any) -> Frame:
    [decoded] = Decoder(Limits()).feed(b"".join(pieces))
    return decoded


def executed(engine: int, code: str, out: bytes = b"", err: bytes = b"", value: str | None = None) -> Frame:
    return frame(engine, {"id": engine, "number": 1, "input": code, "repr": value}, out=out, err=err)


def test_a_result_list_prints_as_in_the_transcript():
    code = 'print("Hello World")'
    results = collect(
        [executed(1, code, b"Hello World\n"), executed(0, code, b"Hello World\n")],
        method="execute",
        targets=None,
        bare=False,
    )
    assert isinstance(results, ResultList)
    assert repr(results) == (
        "<Results List>\n"
        '[0] In [1]: print("Hello World")\n'
        "[0] Out[1]: Hello World\n"
        "\n"
        '[1] In [1]: print("Hello World")\n'
        "[1] Out[1]: Hello World\n"
    )


@pytest.mark.parametrize(
    ("stdout", "stderr", "value", "shown"),
    [
        ("", "", None, "[3] In [2]: x"),
        ("", "", "7", "[3] In [2]: x\n[3] Out[2]: 7"),
        ("a", "", "7", "[3] In [2]: x\n[3] Out[2]: a\n7"),
        ("a\nb\n", "", None, "[3] In [2]: x\n[3] Out[2]: a\nb"),
        ("", "oh\n", None, "[3] In [2]: x\n[3] Err[2]: oh"),
        ("a\n", "oh\n", "7", "[3] In [2]: x\n[3] Out[2]: a\n7\n[3] Err[2]: oh"),
    ],
)
def test_one_result_prints_its_output_its_value_and_its_errors(stdout, stderr, value, shown):
    assert str(ExecuteResult(3, 2, "x\n", stdout, stderr, value)) == shown


def test_a_queue_status_list_prints_an_engine_at_a_time():
    shown = repr(QueueStatusList([{"id": 0, "pending": None, "queue": ["a", "b"]}]))
    assert shown == "<Queue Status List>\n[0] pending: None\n[0] queue: ['a', 'b']"


def test_values_follow_the_targets():
    frames = [frame(2, "two"), frame(0, "zero")]
    assert collect(frames, method="apply", targets=[2, 0], bare=False) == ["two", "zero"]
    assert collect(frames, method="apply", targets=None, bare=False) == ["zero", "two"]
    assert collect([frame(2, "two")], method="apply", targets=[2], bare=True) == "two"
    assert collect([frame(2, "two")], method="apply", targets=[2], bare=False) == ["two"]


def test_errors_of_several_engines_are_a_group_that_names_each():
    frames = [frame(0, error=ZeroDivisionError("no")), fault(QueueCleared("cleared"), 1), frame(2, 5)]
    with pytest.raises(CompositeError) as caught:
        collect(frames, method="apply", targets=None, bare=False)
    text = str(caught.value)
    assert "[0:apply]: ZeroDivisionError: no" in text
    assert "[1:apply]: QueueCleared: cleared" in text
    assert [error.engine_id for error in caught.value.exceptions] == [0, 1]


def test_a_refusal_by_the_controller_is_raised_as_itself():
    with pytest.raises(InvalidEngineID, match="no engine 7"):
        collect([fault(InvalidEngineID("no engine 7"))], method="execute", targets=[7, 8], bare=False)
    with pytest.raises(EngineDied) as caught:
        collect([fault(EngineDied("dead", engine_id=4, reason="exit status 3"), 4)], method="x", targets=[4], bare=True)
    assert (caught.value.engine_id, caught.value.reason) == (4, "exit status 3")


def test_a_refusal_counts_more_than_what_the_others_say():
    frames = [frame(0, 1), fault(InvalidEngineID("no engine 1")), frame(2, error=ZeroDivisionError("no"))]
    with pytest.raises(InvalidEngineID, match="no engine 1"):
        collect(frames, method="scatter", targets=[0, 1, 2], bare=False)


def test_a_withdrawn_call_is_a_cancellation():
    cancelled = _decoded(encode(Kind.RESULT, 1, code=Status.CANCELLED, flags=LAST, engine=0))
    with pytest.raises(asyncio.CancelledError):
        collect([cancelled], method="apply", targets=[0], bare=True)


def test_outputs_are_there_also_when_there_are_none():
    assert outputs(frame(0, 1, out=b"a\xff", err=b"b")) == (10.0, 0.5, "a\ufffd", "b")
    assert outputs(fault(QueueCleared("x"))) == (0.0, 0.0, "", "")
