"""Targets and how a call is made of them, on a face that only notes what it is asked to send."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aioparallel.addressing import Addressing
from aioparallel.errors import InvalidEngineID, NoEnginesRegistered, OperationError
from aioparallel.serialize import pack, unpack
from aioparallel.wire import LAST, Frame, Kind, Status


class Channel:
    """Stands in for a connection whose output nobody watches."""

    loop: Any = None


class Pending:
    targets: Any = None
    bare: Any = None


class Noting(Addressing):
    """A face: what would have been sent, as operation, header, payload and targets, in order."""

    def __init__(self, *ids: int, targets: Any = "all", bare: bool = False) -> None:
        self.channel = Channel()  # type: ignore[assignment]
        self.targets = targets
        self._bare = bare
        self.sent: list[tuple[Any, ...]] = []
        self.finish: Any = None
        self._known_ids = lambda: [*ids]
        self._check_block = lambda block: None
        self._deliver = lambda pending, block: pending

    def _begin(self, operation: str, finish: Any, *, header: bytes, buffers: Any = (), **about: Any) -> Pending:  # type: ignore[override]
        self.finish = finish
        self.sent.append((operation, json.loads(header), unpack(buffers) if buffers else None, about.get("targets")))
        return Pending()

    def _begin_each(self, operation: str, finish: Any, calls: Any, watch: Any) -> Pending:  # type: ignore[override]
        self.finish = finish
        self.sent += [(operation, json.loads(header), unpack(buffers), engine) for engine, header, buffers in calls]
        return Pending()


def answer(engine: int, value: Any) -> Frame:
    payload = bytes(pack(value)[0])
    return Frame(len(payload), Kind.RESULT, LAST, Status.OK, 1, engine, 1, 0, [payload])


def numbered(n: int) -> list[tuple[Any, ...]]:
    return [(place,) for place in range(n)]


@pytest.mark.parametrize(
    ("targets", "plain"), [("all", "all"), (3, [3]), ([2, 0], [2, 0]), ((1,), [1]), (range(2), [0, 1]), ([], [])]
)
def test_targets_travel_as_all_or_as_a_list(targets: Any, plain: Any) -> None:
    assert Noting()._plain(targets) == plain
    assert Noting(targets=targets)._plain(None) == plain


@pytest.mark.parametrize("targets", ["some", True, 1.5, [True], ["0"], {0}, [0, None]])
def test_targets_of_a_wrong_type_are_refused_before_anything_is_sent(targets: Any) -> None:
    face = Noting(0, 1)
    with pytest.raises(ValueError, match="targets are an engine id, 'all', or a sequence of ids, not"):
        face._command("keys", (), targets, None)
    with pytest.raises(ValueError, match="targets are"):
        face._command_each("push", numbered, targets, None, label="", method="scatter")
    assert face.sent == []


def test_all_are_asked_the_same_by_one_call() -> None:
    face = Noting(0, 1, 2)
    pending = face._command("pull", ("a",), [2, 0], None, label="pull a")
    assert face.sent == [("submit", {"targets": [2, 0], "label": "pull a"}, ("pull", "a"), [2, 0])]
    assert (pending.targets, pending.bare) == ([2, 0], False)
    # The values are in the order of the targets, whoever answers first.
    assert face.finish([answer(0, "first"), answer(2, "second")]) == ["second", "first"]


def test_what_is_kept_says_so_and_a_long_label_is_cut() -> None:
    face = Noting(0)
    face._submit("keys", (), None, label="x" * 100, kept=True)
    assert face.sent == [("submit", {"targets": "all", "label": "x" * 80, "kept": True}, ("keys",), "all")]


def test_each_is_asked_something_of_its_own() -> None:
    face = Noting(4, 7)
    pending = face._command_each("push", numbered, None, None, label="scatter", method="scatter", then=sum)
    assert face.sent == [
        ("submit", {"targets": [4], "label": "scatter"}, ("push", 0), 4),
        ("submit", {"targets": [7], "label": "scatter"}, ("push", 1), 7),
    ]
    assert (pending.targets, pending.bare) == (None, False)
    assert face.finish([answer(7, 10), answer(4, 1)]) == 11


@pytest.mark.parametrize(
    ("targets", "error", "text"),
    [
        ([0, 9], InvalidEngineID, "there is no engine 9; engines: 0, 1"),
        ([0, 0], OperationError, r"targets name an engine twice: \[0, 0\]"),
        ([], NoEnginesRegistered, "targets are an empty list, which names no engine; engines: 0, 1"),
    ],
)
def test_what_targets_do_not_name_is_told_with_the_answer(targets: Any, error: type[Exception], text: str) -> None:
    face = Noting(0, 1)
    face._command_each("push", numbered, targets, None, label="", method="scatter")
    assert face.sent == [("get_ids", {}, None, None)]
    with pytest.raises(error, match=text):
        face.finish([])


def test_a_single_target_is_left_to_the_controller_to_refuse() -> None:
    face = Noting(0, 1)
    face._command_each("push", numbered, [9], None, label="", method="scatter")
    assert [engine for *_, engine in face.sent] == [9]


def test_the_view_of_one_engine_gives_the_bare_value_unless_told_otherwise() -> None:
    face = Noting(0, 1, targets=1, bare=True)
    assert face._command("keys", (), None, None).bare
    assert face.finish([answer(1, "value")]) == "value"
    assert not face._command("keys", (), [1], None).bare
    assert face.finish([answer(1, "value")]) == ["value"]
