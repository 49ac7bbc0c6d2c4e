"""Every method of MultiEngine, as data: how to call it, what it gives, what it leaves on engines, how it fails.

`test_table.py` makes cells of this: method × targets × face × outcome. Where a cell does not exist, the method's `without`
says why.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aioparallel.client import PendingResult, Reference
from aioparallel.errors import InvalidProperty
from aioparallel.results import QueueStatusList, ResultList

ENGINES = (0, 1, 2)

#: What every engine has when a cell begins.
SETUP = """
me = 10 * id
part = list(range(3 * id, 3 * id + 3))
def scaled(x):
    return x * me
"""
NAMES = ["me", "part", "scaled"]

#: The files that `run` is given, in the working directory.
FILES = {"good.py": "x = me + 1\n", "bad.py": "1 / 0\n"}

#: Never used: pushed functions leave it behind for the engine's.
me = -1


@dataclass(frozen=True)
class Effect:
    """What a call leaves on its targets, and nowhere else.

    Attributes:
        look: Returns what there is, for each of the engines, in order.
        after: Returns what there is then on each of the targets.
        before: Returns what there is on an engine that was no target.
    """

    look: Callable[[Any], list[Any]]
    after: Callable[[Sequence[int]], Sequence[Any]]
    before: Callable[[int], Any] = lambda engine: None


@dataclass(frozen=True)
class Method:
    """One method, and one way to call it.

    Attributes:
        call: Calls it, on a client or a view, with `targets` and `block` where the cell gives them.
        each: The value of one engine: such methods give a list in target order, and a view of one engine the bare value.
        whole: The value for these targets, `bare` or not, of methods that give one value whatever the targets.
        kind: The type of the list.
        seen: What of a value, or of an engine's, is compared.
        effect: What the call leaves.
        prepare: Done first, by another client.
        fail: Calls it so that every target fails.
        error, text: What that raises, and what it says of the engine.
        by: The method that the error names.
        at_once: Whether that error is raised by the call itself, before anything is sent.
        single: Whether several targets raise that as one does, since it is not user code that raises it.
        without: Why there are no cells with that target, face or outcome, or that face and outcome.
    """

    name: str
    call: Callable[..., Any]
    each: Callable[[int], Any] | None = None
    whole: Callable[[Sequence[int], bool], Any] = lambda ids, bare: None
    kind: type = list
    seen: Callable[[Any], Any] = lambda value: value
    effect: Effect | None = None
    prepare: Callable[[Any], Any] = lambda control: None
    fail: Callable[..., Any] | None = None
    error: type[Exception] = ZeroDivisionError
    text: Callable[[int], str] = lambda engine: "division by zero"
    by: str = ""
    at_once: bool = False
    single: bool = False
    without: Mapping[str, str] = field(default_factory=dict)


def calling(name: str, *args: Any) -> Callable[..., Any]:
    """Return what calls a method with these arguments."""
    return lambda mec, **how: operator.attrgetter(name)(mec)(*args, **how)


def name_on_engines(expression: str) -> Callable[[Any], list[Any]]:
    """Return what looks at the value of an expression on every engine."""
    return lambda control: control.apply(_same, Reference(expression), targets=list(ENGINES))


def _same(value: Any) -> Any:
    return value


def executed(result: Any) -> tuple[int, str, str | None]:
    return result.id, result.input, result.value


def dealt(seq: Any) -> Callable[[Sequence[int]], list[Any]]:
    """Return how a sequence is cut for these targets, in blocks."""

    def parts(ids: Sequence[int]) -> list[Any]:
        size, more = divmod(len(seq), len(ids))
        ends = [size * place + min(place, more) for place in range(len(ids) + 1)]
        return [seq[start:end] for start, end in zip(ends, ends[1:], strict=False)]

    return parts


def mapped(ids: Sequence[int], bare: bool) -> list[int]:
    """Return `map(scaled, range(7))`, each engine scaling its part by what it has."""
    return [10 * engine * x for engine, part in zip(ids, dealt(range(7))(ids), strict=True) for x in part]


def transposed(ids: Sequence[int], bare: bool) -> Any:
    rows = [[10 * engine, _part(engine)] for engine in ids]
    return rows[0] if bare else list(zip(*rows, strict=True))


def gathered(ids: Sequence[int], bare: bool) -> list[int]:
    return [item for engine in ids for item in _part(engine)]


def _part(engine: int) -> list[int]:
    return list(range(3 * engine, 3 * engine + 3))


def _scale_x(x: int) -> int:
    return x * me


def _with_a_missing_default(x: Any = Reference("nothing")) -> Any:
    return x


def through_mapper(f: Any, *seqs: Any) -> Callable[..., Any]:
    return lambda mec, **how: mec.mapper(**how).map(f, *seqs)


def through_parallel(f: Any, *seqs: Any) -> Callable[..., Any]:
    return lambda mec, **how: mec.parallel(**how)(f)(*seqs)


def _over_nothing(x: int) -> float:
    return x / 0


def _scaled_there(x: Any, scale: int) -> Any:
    return x * scale


X = name_on_engines("globals().get('x')")
SEVEN = Effect(X, lambda ids: [7] * len(ids))
PUSHED = Effect(name_on_engines("'g' in globals() and g(2)"), lambda ids: [20 * i for i in ids], lambda engine: False)
PROPERTIES = functools.partial(Effect, lambda control: control.get_properties(), before=lambda engine: {"n": engine})


def note(control: Any) -> None:
    """Have each engine's property `n` be its id."""
    control.clear_properties()
    for engine in ENGINES:
        control.set_properties({"n": engine}, targets=engine)


def measured(mec: Any, **how: Any) -> Any:
    return mec.benchmark(rounds=1, size=1, **how)


def heard(mec: Any, **how: Any) -> Any:
    """Return who was heard of while commands ran under `watching`."""
    pieces: list[Any] = []
    with mec.watching(pieces.append):
        answer = mec.execute("print(me)", **how)
    return _then(answer, lambda value: sorted((piece.engine, piece.text) for piece in pieces))


def forwarded(mec: Any, **how: Any) -> Any:
    """Return what became of the request, which ends with the `with`."""
    with mec.forward_logging("CRITICAL", "table", **how) as forwarding:
        installed = forwarding.installed
    return installed.r if isinstance(installed, PendingResult) and "block" not in how else installed


def _then(answer: Any, f: Callable[[Any], Any]) -> Any:
    if hasattr(answer, "add_callback"):
        answer.add_callback(f)
        return answer
    return f(answer)


def waited(mec: Any, **how: Any) -> Any:
    return mec.barrier([mec.execute("x = 7", block=False), mec.execute("1/0", block=False)], timeout=60)


NO_TARGETS = "it takes no targets: it is not about engines, or about all of them"
NOT_USERS = "it runs no user code"
WAITS = "it waits always"

_untargeted = {"one": NO_TARGETS, "list": NO_TARGETS, "missing": NO_TARGETS}
_global = {**_untargeted, "raises": NOT_USERS}
_on_join = {
    "one": NO_TARGETS,
    "list": NO_TARGETS,
    "view": "set-up is for every engine: a view refuses it",
    "slice": "set-up is for every engine: a view refuses it",
    "missing": NO_TARGETS,
    "none": "not an error there: it is for engines that come (another test)",
}
_kept = functools.partial(Method, prepare=lambda control: control.on_join.clear())

TABLE = [
    Method(
        "get_ids",
        lambda mec, **how: mec.get_ids(**how),
        whole=lambda ids, bare: sorted(ids),
        without=_global | {"none": "no engines is what it answers then (another test)"},
    ),
    Method(
        "execute",
        calling("execute", "me + 1"),
        each=lambda i: (i, "me + 1", str(10 * i + 1)),
        kind=ResultList,
        seen=executed,
        effect=Effect(name_on_engines("globals().get('_')"), lambda ids: [10 * i + 1 for i in ids]),
        fail=calling("execute", "1/0"),
    ),
    Method(
        "apply",
        calling("apply", _scaled_there, 3, Reference("me")),
        each=lambda i: 30 * i,
        fail=calling("apply", operator.truediv, 1, 0),
    ),
    Method(
        "push",
        calling("push", {"x": 7}),
        each=lambda i: None,
        effect=SEVEN,
        fail=calling("push", {"x": Reference("nothing")}),
        error=NameError,
        text=lambda i: "name 'nothing' is not defined",
    ),
    Method(
        "pull",
        calling("pull", ("me", "part")),
        each=lambda i: [10 * i, _part(i)],
        fail=calling("pull", "nothing"),
        error=NameError,
        text=lambda i: "name 'nothing' is not defined",
    ),
    Method(
        "zip_pull",
        calling("zip_pull", ("me", "part")),
        whole=transposed,
        fail=calling("zip_pull", ["me", "nothing"]),
        error=NameError,
        text=lambda i: "name 'nothing' is not defined",
    ),
    Method(
        "push_function",
        calling("push_function", {"g": _scale_x}),
        each=lambda i: None,
        effect=PUSHED,
        fail=calling("push_function", {"g": _with_a_missing_default}),
        error=NameError,
        text=lambda i: "name 'nothing' is not defined",
    ),
    Method(
        "pull_function",
        calling("pull_function", "scaled"),
        each=lambda i: 20 * i,
        seen=lambda f: f(2),
        fail=calling("pull_function", "me"),
        error=TypeError,
        text=lambda i: "'me' is not a Python function but of type int; `pull` gets values of any kind",
    ),
    Method(
        "scatter",
        calling("scatter", "x", "abcdefg"),
        each=lambda i: None,
        effect=Effect(X, dealt("abcdefg")),
        fail=calling("scatter", "x", [Reference("nothing")] * 3),
        error=NameError,
        text=lambda i: "name 'nothing' is not defined",
    ),
    Method(
        "gather",
        calling("gather", "part"),
        whole=gathered,
        fail=calling("gather", "nothing"),
        error=NameError,
        text=lambda i: "name 'nothing' is not defined",
    ),
    Method("map", calling("map", "scaled", range(7)), whole=mapped, fail=calling("map", _over_nothing, [1] * 3)),
    Method(
        "raw_map",
        calling("raw_map", "scaled", [range(7)]),
        whole=mapped,
        fail=calling("raw_map", _over_nothing, [[1] * 3]),
        by="map",
    ),
    Method(
        "mapper",
        through_mapper("scaled", range(7)),
        whole=mapped,
        fail=through_mapper(_over_nothing, [1] * 3),
        by="map",
    ),
    Method(
        "parallel",
        through_parallel("scaled", range(7)),
        whole=mapped,
        fail=through_parallel(_over_nothing, [1] * 3),
        by="map",
    ),
    Method(
        "run",
        calling("run", "good.py"),
        each=lambda i: (i, "good.py", None),
        kind=ResultList,
        seen=lambda result: (result.id, result.input.rpartition("/")[2].rstrip("')"), result.value),
        effect=Effect(X, lambda ids: [10 * i + 1 for i in ids]),
        fail=calling("run", "bad.py"),
    ),
    Method(
        "get_result",
        calling("get_result"),
        each=lambda i: (i, SETUP, None),
        kind=ResultList,
        seen=executed,
        fail=calling("get_result", 0),
        error=IndexError,
        text=lambda i: "there is no result 0: results are numbered from 1",
    ),
    Method("keys", calling("keys"), each=lambda i: NAMES, without={"raises": NOT_USERS}),
    Method(
        "reset",
        calling("reset"),
        each=lambda i: None,
        effect=Effect(
            name_on_engines("('me' in globals(), id)"), lambda ids: [(False, i) for i in ids], lambda i: (True, i)
        ),
        without={"raises": NOT_USERS},
    ),
    Method(
        "queue_status",
        calling("queue_status"),
        each=lambda i: {"id": i, "pending": None, "queue": []},
        kind=QueueStatusList,
        without={"raises": NOT_USERS},
    ),
    Method("clear_queue", calling("clear_queue"), each=lambda i: 0, without={"raises": NOT_USERS}),
    Method("interrupt", calling("interrupt"), without={"raises": NOT_USERS}),
    Method("restart", calling("restart"), without={"raises": NOT_USERS}),
    Method("kill", calling("kill"), without={"raises": NOT_USERS}),
    Method(
        "set_properties",
        calling("set_properties", {"gpu": True}),
        effect=PROPERTIES(after=lambda ids: [{"n": i, "gpu": True} for i in ids]),
        prepare=note,
        fail=calling("set_properties", {"gpu": object}),
        error=TypeError,
        text=lambda i: "property 'gpu' is a type; properties are None, bool, int, float, str",
        at_once=True,
    ),
    Method(
        "get_properties",
        calling("get_properties"),
        each=lambda i: {"n": i},
        prepare=note,
        fail=calling("get_properties", "gpu"),
        error=InvalidProperty,
        text=lambda i: f"engine {i} has no property 'gpu'; it has n",
        single=True,
    ),
    Method(
        "has_properties",
        calling("has_properties", ["n", "gpu"]),
        each=lambda i: [True, False],
        prepare=note,
        fail=calling("has_properties", 3),
        error=TypeError,
        text=lambda i: "names of properties are strings, not 3",
        at_once=True,
    ),
    Method(
        "del_properties",
        calling("del_properties", "n"),
        effect=PROPERTIES(after=lambda ids: [{} for i in ids]),
        prepare=note,
        fail=calling("del_properties", ["n", "gpu"]),
        error=InvalidProperty,
        text=lambda i: f"engine {i} has no property 'gpu'; it has n",
        single=True,
    ),
    Method(
        "clear_properties",
        calling("clear_properties"),
        effect=PROPERTIES(after=lambda ids: [{} for i in ids]),
        prepare=note,
        without={"raises": NOT_USERS},
    ),
    Method(
        "barrier",
        waited,
        effect=SEVEN,
        without=_untargeted
        | {"pending": WAITS, "raises": "it swallows what calls raise", "none": "that is what the calls raise"},
    ),
    Method("flush", calling("flush"), without=_global | {"pending": WAITS, "none": "it asks no engines"}),
    Method(
        "benchmark",
        measured,
        whole=lambda ids, bare: len(ids),
        seen=lambda result: result.engines,
        without={"pending": WAITS, "raises": "the functions it calls are its own"},
    ),
    Method(
        "watching",
        heard,
        whole=lambda ids, bare: [(i, f"{10 * i}\n") for i in sorted(ids)],
        without={"raises": "nothing is called but `execute`", "missing": "that is for `execute` to say"}
        | {"none": "that is for `execute` to say"},
    ),
    Method(
        "forward_logging", forwarded, each=lambda i: None, without={"raises": "records of user code, not its values"}
    ),
    _kept(
        "on_join.execute",
        calling("on_join.execute", "x = 7"),
        each=lambda i: (i, "x = 7", None),
        kind=ResultList,
        seen=executed,
        effect=SEVEN,
        fail=calling("on_join.execute", "1/0"),
        by="execute",
        without=_on_join,
    ),
    _kept(
        "on_join.apply",
        calling("on_join.apply", _scaled_there, 3, Reference("me")),
        each=lambda i: 30 * i,
        fail=calling("on_join.apply", operator.truediv, 1, 0),
        by="apply",
        without=_on_join,
    ),
    _kept(
        "on_join.push",
        calling("on_join.push", {"x": 7}),
        each=lambda i: None,
        effect=SEVEN,
        fail=calling("on_join.push", {"x": Reference("nothing")}),
        error=NameError,
        text=lambda i: "name 'nothing' is not defined",
        by="push",
        without=_on_join,
    ),
    _kept(
        "on_join.push_function",
        calling("on_join.push_function", {"g": _scale_x}),
        each=lambda i: None,
        effect=PUSHED,
        fail=calling("on_join.push_function", {"g": _with_a_missing_default}),
        error=NameError,
        text=lambda i: "name 'nothing' is not defined",
        by="push_function",
        without=_on_join,
    ),
    _kept(
        "on_join.run",
        calling("on_join.run", "good.py"),
        each=lambda i: (i, None),
        kind=ResultList,
        seen=lambda result: (result.id, result.value),
        effect=Effect(X, lambda ids: [10 * i + 1 for i in ids]),
        fail=calling("on_join.run", "bad.py"),
        by="run",
        without=_on_join,
    ),
    _kept(
        "on_join.list", calling("on_join.list"), whole=lambda ids, bare: [], without=_on_join | {"raises": NOT_USERS}
    ),
    _kept(
        "on_join.clear", calling("on_join.clear"), whole=lambda ids, bare: 0, without=_on_join | {"raises": NOT_USERS}
    ),
]
