"""Every method of MultiEngine, as data: how to call it, what it gives, what it leaves on engines, how it fails.

`test_table.py` makes cells of this: method × targets × face × outcome. Where a cell does not exist, the method's
`without` says why.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
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

NOTHING = Reference("nothing")


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
        name: What it is called.
        args: Its arguments, besides `targets` and `block`.
        wrong: Arguments with which it fails on every target.
        through: How it is called, if not plainly: with the client or view, the arguments, and `targets` and `block`
            where the cell gives them.
        each: The value of one engine: such methods give a list in target order, and a view of one engine the bare one.
        whole: The value for these targets, `bare` or not, of methods that give one value whatever the targets.
        kind: The type of the list.
        seen: What of a value, or of an engine's, is compared.
        effect: What the call leaves.
        prepare: Done first, by another client.
        error, text: What `wrong` raises, and the beginning of what it says of an engine.
        by: The method that the error names; by default the last part of the name.
        at_once: Whether that error is raised by the call itself, before anything is sent.
        single: Whether several targets raise that as one does, since it is not user code that raises it.
        without: Why there are no cells with that target, face or outcome.
    """

    name: str
    args: tuple[Any, ...] = ()
    wrong: tuple[Any, ...] = ()
    through: Callable[..., Any] | None = None
    each: Callable[[int], Any] | None = None
    whole: Callable[[Sequence[int], bool], Any] = lambda ids, bare: None
    kind: type = list
    seen: Callable[[Any], Any] = lambda value: value
    effect: Effect | None = None
    prepare: Callable[[Any], Any] = lambda control: None
    error: type[Exception] = ZeroDivisionError
    text: Callable[[int], str] = lambda engine: "division by zero"
    by: str = ""
    at_once: bool = False
    single: bool = False
    without: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def call(self, mec: Any, **how: Any) -> Any:
        """Call it on a client or a view."""
        return self._called(mec, self.args, how)

    def fail(self, mec: Any, **how: Any) -> Any:
        """Call it so that every target fails."""
        return self._called(mec, self.wrong, how)

    def _called(self, mec: Any, args: tuple[Any, ...], how: dict[str, Any]) -> Any:
        if self.through is not None:
            return self.through(mec, *args, **how)
        return operator.attrgetter(self.name)(mec)(*args, **how)


# What is sent about.


def scale_x(x: int) -> int:
    return x * me


def scaled_by(x: Any, scale: int) -> Any:
    return x * scale


def same(value: Any) -> Any:
    return value


def over_nothing(x: int) -> float:
    return x / 0


def with_a_default(x: Any = NOTHING) -> Any:
    return x


# What is expected.


def part(engine: int) -> list[int]:
    return list(range(3 * engine, 3 * engine + 3))


def executed(result: Any) -> tuple[int, str, str | None]:
    return result.id, result.input, result.value


def ran(result: Any) -> tuple[int, str, str | None]:
    return result.id, result.input.rpartition("/")[2], result.value


def dealt(seq: Any, ids: Sequence[int]) -> list[Any]:
    """Return how a sequence is cut for these targets, in blocks."""
    size, more = divmod(len(seq), len(ids))
    ends = [size * place + min(place, more) for place in range(len(ids) + 1)]
    return [seq[start:end] for start, end in itertools.pairwise(ends)]


def mapped(ids: Sequence[int], bare: bool) -> list[int]:
    """Return `map(scaled, range(7))`, each engine scaling its part by what it has."""
    return [10 * engine * x for engine, xs in zip(ids, dealt(range(7), ids), strict=True) for x in xs]


def transposed(ids: Sequence[int], bare: bool) -> Any:
    rows = [[10 * engine, part(engine)] for engine in ids]
    return rows[0] if bare else list(zip(*rows, strict=True))


def gathered(ids: Sequence[int], bare: bool) -> list[int]:
    return [item for engine in ids for item in part(engine)]


# How what is not called plainly is called.


def through_mapper(mec: Any, *args: Any, **how: Any) -> Any:
    return mec.mapper(**how).map(*args)


def through_parallel(mec: Any, f: Any, *seqs: Any, **how: Any) -> Any:
    return mec.parallel(**how)(f)(*seqs)


def waited(mec: Any) -> Any:
    return mec.barrier([mec.push({"x": 7}, block=False), mec.execute("1/0", block=False)], timeout=60)


def flushed(mec: Any) -> Any:
    """Return what becomes of a result that was flushed."""
    lost = mec.pull("me", block=False)
    return then(mec.flush(), lambda _: type(lost.exception()).__name__)


def measured(mec: Any, **how: Any) -> Any:
    return mec.benchmark(rounds=1, size=1, **how)


def heard(mec: Any, **how: Any) -> Any:
    """Return who was heard of while commands ran under `watching`."""
    pieces: list[Any] = []
    with mec.watching(pieces.append):
        answer = mec.execute("print(me)", **how)
    return then(answer, lambda _: sorted((piece.engine, piece.text) for piece in pieces))


def forwarded(mec: Any, **how: Any) -> Any:
    """Return what became of the request, which ends with the `with`."""
    with mec.forward_logging("CRITICAL", "table", **how) as forwarding:
        installed = forwarding.installed
    return installed.r if isinstance(installed, PendingResult) and "block" not in how else installed


def then(answer: Any, f: Callable[[Any], Any]) -> Any:
    """Make something of a value that is there, or on its way."""
    if not hasattr(answer, "add_callback"):
        return f(answer)
    answer.add_callback(f)
    return answer


def note(control: Any) -> None:
    """Have each engine's property `n` be its id."""
    control.clear_properties()
    for engine in ENGINES:
        control.set_properties({"n": engine}, targets=engine)


def evaluated(expression: str) -> Callable[[Any], list[Any]]:
    """Return what looks at the value of an expression on every engine."""
    return lambda control: control.apply(same, Reference(expression), targets=list(ENGINES))


X = evaluated("globals().get('x')")
SEVEN = Effect(X, lambda ids: [7] * len(ids))
FILE = Effect(X, lambda ids: [10 * i + 1 for i in ids])
LAST = Effect(evaluated("globals().get('_')"), lambda ids: [10 * i + 1 for i in ids])
PUSHED = Effect(evaluated("'g' in globals() and g(2)"), lambda ids: [20 * i for i in ids], lambda engine: False)
CLEARED = Effect(
    evaluated("('me' in globals(), id)"), lambda ids: [(False, i) for i in ids], lambda engine: (True, engine)
)
PROPERTIES = partial(Effect, lambda control: control.get_properties(), before=lambda engine: {"n": engine})

NO_TARGETS = "it takes no targets: it is about all engines, or about none"
OF_ALL = "set-up is for every engine: a view refuses it (another test)"
NOT_USERS = {"raises": "it runs no user code, and has no argument that could be wrong"}
WAITS = {"pending": "it waits always"}
UNTARGETED = {"one": NO_TARGETS, "list": NO_TARGETS, "missing": NO_TARGETS}
LATER = {"none": "not an error: it is also for engines that come (another test)"}
EXECUTES = {"missing": "that is for `execute` to say", "none": "that is for `execute` to say"}

no_name = partial(Method, error=NameError, text=lambda engine: "name 'nothing' is not defined")
noted = partial(Method, prepare=note)
kept: dict[str, Any] = {
    "prepare": lambda control: control.on_join.clear(),
    "without": UNTARGETED | LATER | {"view": OF_ALL, "slice": OF_ALL},
}

TABLE = [
    Method(
        "get_ids",
        whole=lambda ids, bare: sorted(ids),
        without=UNTARGETED | NOT_USERS | {"none": "no ids are no error (another test)"},
    ),
    Method(
        "execute",
        ("me + 1",),
        ("1/0",),
        each=lambda i: (i, "me + 1", str(10 * i + 1)),
        kind=ResultList,
        seen=executed,
        effect=LAST,
    ),
    Method("apply", (scaled_by, 3, Reference("me")), (operator.truediv, 1, 0), each=lambda i: 30 * i),
    no_name("push", ({"x": 7},), ({"x": NOTHING},), each=lambda i: None, effect=SEVEN),
    no_name("pull", (("me", "part"),), ("nothing",), each=lambda i: [10 * i, part(i)]),
    no_name("zip_pull", (("me", "part"),), (["me", "nothing"],), whole=transposed),
    no_name("push_function", ({"g": scale_x},), ({"g": with_a_default},), each=lambda i: None, effect=PUSHED),
    Method(
        "pull_function",
        ("scaled",),
        ("me",),
        each=lambda i: 20 * i,
        seen=lambda f: f(2),
        error=TypeError,
        text=lambda i: "'me' is not a Python function but of type int; `pull` gets values of any kind",
    ),
    no_name(
        "scatter",
        ("x", "abcdefg"),
        ("x", [NOTHING] * 3),
        each=lambda i: None,
        effect=Effect(X, lambda ids: dealt("abcdefg", ids)),
    ),
    no_name("gather", ("part",), ("nothing",), whole=gathered),
    Method("map", ("scaled", range(7)), (over_nothing, [1] * 3), whole=mapped),
    Method("raw_map", ("scaled", [range(7)]), (over_nothing, [[1] * 3]), whole=mapped, by="map"),
    Method("mapper", ("scaled", range(7)), (over_nothing, [1] * 3), through_mapper, whole=mapped, by="map"),
    Method("parallel", ("scaled", range(7)), (over_nothing, [1] * 3), through_parallel, whole=mapped, by="map"),
    Method(
        "run",
        ("good.py",),
        ("bad.py",),
        each=lambda i: (i, "good.py')", None),
        kind=ResultList,
        seen=ran,
        effect=FILE,
    ),
    Method(
        "get_result",
        (),
        (0,),
        each=lambda i: (i, SETUP, None),
        kind=ResultList,
        seen=executed,
        error=IndexError,
        text=lambda i: "there is no result 0: results are numbered from 1, the last one is ",
    ),
    Method("keys", each=lambda i: NAMES, without=NOT_USERS),
    Method("reset", each=lambda i: None, effect=CLEARED, without=NOT_USERS),
    Method(
        "queue_status",
        each=lambda i: {"id": i, "pending": None, "queue": []},
        kind=QueueStatusList,
        without=NOT_USERS,
    ),
    Method("clear_queue", each=lambda i: 0, without=NOT_USERS),
    Method("interrupt", without=NOT_USERS),
    Method("restart", without=NOT_USERS),
    Method("kill", without=NOT_USERS),
    noted(
        "set_properties",
        ({"gpu": True},),
        ({"gpu": object},),
        effect=PROPERTIES(after=lambda ids: [{"n": i, "gpu": True} for i in ids]),
        error=TypeError,
        text=lambda i: "property 'gpu' is a type; properties are None, bool, int, float, str",
        at_once=True,
    ),
    noted(
        "get_properties",
        (),
        ("gpu",),
        each=lambda i: {"n": i},
        error=InvalidProperty,
        text=lambda i: f"engine {i} has no property 'gpu'; it has n",
        single=True,
    ),
    noted(
        "has_properties",
        (["n", "gpu"],),
        (3,),
        each=lambda i: [True, False],
        error=TypeError,
        text=lambda i: "names of properties are strings, not 3",
        at_once=True,
    ),
    noted(
        "del_properties",
        ("n",),
        (["n", "gpu"],),
        effect=PROPERTIES(after=lambda ids: [{} for i in ids]),
        error=InvalidProperty,
        text=lambda i: f"engine {i} has no property 'gpu'; it has n",
        single=True,
    ),
    noted("clear_properties", effect=PROPERTIES(after=lambda ids: [{} for i in ids]), without=NOT_USERS),
    Method(
        "barrier",
        through=waited,
        effect=SEVEN,
        without=UNTARGETED | WAITS | {"raises": "it swallows what calls raise", "none": "that is what calls raise"},
    ),
    Method(
        "flush",
        through=flushed,
        whole=lambda ids, bare: "InvalidDeferredID",
        without=UNTARGETED | WAITS | NOT_USERS | {"none": "it asks no engine (another test)"},
    ),
    Method(
        "benchmark",
        through=measured,
        whole=lambda ids, bare: len(ids),
        seen=lambda result: result.engines,
        without=WAITS | {"raises": "the functions it calls are its own"},
    ),
    Method(
        "watching",
        through=heard,
        whole=lambda ids, bare: [(i, f"{10 * i}\n") for i in sorted(ids)],
        without=EXECUTES | {"raises": "that is for `execute` to say"},
    ),
    Method("forward_logging", through=forwarded, each=lambda i: None, without=NOT_USERS),
    Method(
        "on_join.execute",
        ("x = 7",),
        ("1/0",),
        each=lambda i: (i, "x = 7", None),
        kind=ResultList,
        seen=executed,
        effect=SEVEN,
        **kept,
    ),
    Method("on_join.apply", (scaled_by, 3, Reference("me")), (operator.truediv, 1, 0), each=lambda i: 30 * i, **kept),
    no_name("on_join.push", ({"x": 7},), ({"x": NOTHING},), each=lambda i: None, effect=SEVEN, **kept),
    no_name(
        "on_join.push_function", ({"g": scale_x},), ({"g": with_a_default},), each=lambda i: None, effect=PUSHED, **kept
    ),
    Method(
        "on_join.run",
        ("good.py",),
        ("bad.py",),
        each=lambda i: (i, "good.py')", None),
        kind=ResultList,
        seen=ran,
        effect=FILE,
        **kept,
    ),
    Method("on_join.list", whole=lambda ids, bare: [], **kept | {"without": kept["without"] | NOT_USERS}),
    Method("on_join.clear", whole=lambda ids, bare: 0, **kept | {"without": kept["without"] | NOT_USERS}),
]
