"""What an engine remembers of what it has executed."""

from __future__ import annotations

import linecache

import pytest

from aioparallel import history as module
from aioparallel.history import History


def executed(history: History, code: str, *, out: bytes = b"", filename: str | None = None) -> None:
    entry = history.begin(code, filename)
    entry.stdout = out
    history.keep(entry)


def test_entries_are_numbered_from_one_and_found_again() -> None:
    history = History()
    for code in ("a", "b", "c"):
        executed(history, code)
    executed(history, "text", filename="/there/prog.py")
    assert [history.entry(number).input for number in (1, 2, 3, 4)] == ["a", "b", "c", "run('/there/prog.py')"]
    assert history.entry(None).number == 4
    assert repr(history) == "<History of 4 inputs, 4 kept>"
    assert repr(history.entry(1)) == "<Entry 1: 'a'>"


def test_what_is_not_there_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES", 2)
    history = History()
    for number in (None, 1):
        with pytest.raises(IndexError, match="nothing has been executed on this engine yet"):
            history.entry(number)
    for code in "abc":
        executed(history, code)
    with pytest.raises(IndexError, match=r"result 1 is gone: the last 2 are kept, up to 33,554,432 bytes"):
        history.entry(1)
    for number in (4, 0, -1):
        with pytest.raises(IndexError, match=f"no result {number}: results are numbered from 1, the last one is 3"):
            history.entry(number)


def test_results_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESULT_BYTES", 1000)
    history = History()
    for _ in range(10):
        executed(history, "x", out=bytes(299))
    assert [number for number in range(1, 11) if number in history._entries] == [8, 9, 10]
    entry = history.entry(9)
    entry.failed([bytes(600), memoryview(bytes(100))])
    assert entry.error == [bytes(600), bytes(100)]
    history.keep(entry)
    assert list(history._entries) == [10]
    executed(history, "x", out=bytes(1001))
    with pytest.raises(IndexError, match="result 11 is gone"):
        history.entry(None)
    assert (history._size, history._sizes) == (0, {})


def test_keeping_an_entry_again_counts_what_has_come_to_it() -> None:
    history = History()
    entry = history.begin("12345")
    history.keep(entry)
    assert history._size == 5
    entry.stdout, entry.stderr, entry.text = b"123", b"12", "1"
    history.keep(entry)
    assert history._size == 11


def test_source_lines_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES", 10)
    history = History()
    for number in range(25):
        executed(history, f"x = {number}")
    assert linecache.getline("<input-25>", 1) == "x = 24\n"
    assert [name for name, _ in history._sources] == [f"<input-{number}>" for number in range(16, 26)]
    assert linecache.getline("<input-15>", 1) == ""


def test_source_lines_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SOURCE_BYTES", 100)
    history = History()
    for number in range(1, 6):
        executed(history, f"{number}" * 40)
    assert [name for name, _ in history._sources] == ["<input-4>", "<input-5>"]
    # The newest stays, whatever its size: it is the one that runs.
    executed(history, "6" * 200)
    assert linecache.getline("<input-6>", 1) == "6" * 200 + "\n"
    assert history._source_size == 200


def test_a_file_that_is_run_again_keeps_its_newest_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES", 2)
    history = History()
    executed(history, "old", filename="/there/again.py")
    executed(history, "new", filename="/there/again.py")
    executed(history, "x")
    assert linecache.getline("/there/again.py", 1) == "new\n"
    executed(history, "y")
    assert linecache.getline("/there/again.py", 1) == ""


def test_lines_are_counted_as_python_does() -> None:
    history = History()
    executed(history, "a = '\x0c\x1c\u2028'\r\nb\rc")
    assert [linecache.getline("<input-1>", line) for line in (2, 3)] == ["b\n", "c\n"]
