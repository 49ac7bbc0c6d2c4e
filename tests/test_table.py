"""Every method of MultiEngine × how its targets are named × face × outcome; what there is to call is in `table.py`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import queue
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from model import ModelHost, model_cluster
from table import ENGINES, FILES, NAMES, SETUP, TABLE, Method

import aioparallel
from aioparallel import client
from aioparallel.calls import MultiEngineCalls
from aioparallel.capability import Capability
from aioparallel.errors import CompositeError, ConfigurationError, InvalidEngineID, NoEnginesRegistered, QueueCleared
from aioparallel.views import OnJoin

#: Methods that end kernels: their cells are of model engines, and a real cluster has a test of its own.
ENDING = {"kill", "restart"}
NOBODY = str(NoEnginesRegistered())
FACES = ("blocking", "pending", "asyncio")


@dataclass(frozen=True)
class Targets:
    """One way of naming engines: an argument, or a view.

    Attributes:
        ids: Which of three engines it names, in which order.
        of: Returns what the method is called on.
        how: The argument.
        bare: Whether an engine's value comes bare.
    """

    ids: tuple[int, ...] = ()
    of: Callable[[Any], Any] = lambda mec: mec
    how: dict[str, Any] = field(default_factory=dict)
    bare: bool = False


PRESENT = {
    "all": Targets(ENGINES),
    "one": Targets((1,), how={"targets": 1}),
    "list": Targets((2, 0), how={"targets": [2, 0]}),
    "view": Targets((1,), lambda mec: mec[1], bare=True),
    "slice": Targets((0, 2), lambda mec: mec[::2]),
}
MISSING = {
    "one": Targets(how={"targets": 7}),
    "list": Targets(how={"targets": [0, 7]}),
    "view": Targets(of=lambda mec: mec[7]),
    "slice": Targets(of=lambda mec: mec[7:]),
}
UNNAMED = "targets are an empty list, which names no engine; engines: 0, 1, 2"
NO_7 = "there is no engine 7; engines: 0, 1, 2"

#: What such targets raise, by outcome.
REFUSALS: dict[tuple[str, str], tuple[type[Exception], str]] = {
    ("missing", "one"): (InvalidEngineID, NO_7),
    ("missing", "list"): (InvalidEngineID, NO_7),
    ("missing", "view"): (InvalidEngineID, NO_7),
    ("missing", "slice"): (NoEnginesRegistered, UNNAMED),
    ("none", "all"): (NoEnginesRegistered, NOBODY),
    ("none", "one"): (InvalidEngineID, "there is no engine 1; engines: none"),
    ("none", "list"): (InvalidEngineID, "there is no engine 2; engines: none"),
    ("none", "view"): (InvalidEngineID, "there is no engine 1; engines: none"),
    ("none", "slice"): (NoEnginesRegistered, NOBODY),
}
OUTCOMES = {"value": PRESENT, "raises": PRESENT, "missing": MISSING, "none": PRESENT}


def cells(outcome: str) -> list[Any]:
    """Return the cells of an outcome that exist."""
    return [
        pytest.param(method, targets, face, id=f"{method.name}-{targets}-{face}")
        for method in TABLE
        for targets in OUTCOMES[outcome]
        for face in FACES
        if not {outcome, targets, face} & set(method.without)
    ]


class Models(threading.Thread):
    """Controllers with model engines, in a thread with a loop of its own, for clients of both faces."""

    def __init__(self, directory: Path) -> None:
        super().__init__(name="models")
        self._directory = directory
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.hosts: dict[int, ModelHost] = {}

    def __enter__(self) -> dict[int, Capability]:
        self.start()
        capabilities = self._said.get(timeout=30)
        if isinstance(capabilities, BaseException):
            raise capabilities
        return capabilities

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self.join(30)
        assert not self.is_alive()

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._said.put(error)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            capabilities = {}
            for n in (3, 0):
                made = model_cluster(n, address=f"unix://{self._directory}/{n}")
                controller, self.hosts[n] = await stack.enter_async_context(made)
                capabilities[n] = controller.capability("multiengine")
            self._said.put(capabilities)
            await self._over.wait()


@dataclass
class Stage:
    """Where cells are played: clients of both faces, for engines that are real, models, or not there."""

    blocking: dict[str, Any]
    asynchronous: dict[str, Any]
    hosts: dict[int, ModelHost]
    runner: asyncio.Runner
    complaints: list[dict[str, Any]]

    def play(self, targets: Targets, face: str, where: str, call: Callable[..., Any]) -> Any:
        """Make a call of a cell, and return its value, or raise what it raises."""
        if face == "asyncio":
            return self.runner.run(self._awaited(targets, where, call))
        mec = targets.of(self.blocking[where])
        if face == "blocking":
            return call(mec, **targets.how)
        pending = call(mec, **targets.how, block=False)
        assert isinstance(pending, client.PendingResult)
        error = pending.exception(30)
        if error is not None:
            assert pending.exception() is error
            raise error
        assert pending.r is pending.get_result()
        return pending.r

    async def _awaited(self, targets: Targets, where: str, call: Callable[..., Any]) -> Any:
        handle = call(targets.of(self.asynchronous[where]), **targets.how)
        assert isinstance(handle, asyncio.Future)
        return await handle


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("table")
    for name, text in FILES.items():
        (directory / name).write_text(text)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).chdir(directory)
        models = Models(directory)
        capabilities = stack.enter_context(models)
        cluster = stack.enter_context(client.Cluster(n=len(ENGINES)))
        found = {"real": cluster.capability("multiengine"), "model": capabilities[3], "empty": capabilities[0]}
        runner = stack.enter_context(asyncio.Runner())
        complaints: list[dict[str, Any]] = []
        runner.get_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        blocking, asynchronous = {}, {}
        for name, capability in found.items():
            blocking[name] = stack.enter_context(client.MultiEngineClient(capability))
            asynchronous[name] = runner.run(aioparallel.MultiEngineClient.connect(capability))
            stack.callback(lambda mec: runner.run(mec.aclose()), asynchronous[name])
        yield Stage(blocking, asynchronous, models.hosts, runner, complaints)
        gc.collect()
        assert complaints == []


@pytest.fixture
def control(stage: Stage) -> Iterator[client.MultiEngineClient]:
    """A client that sets every engine up, and sees what is left there."""
    mec: client.MultiEngineClient = stage.blocking["real"]
    mec.reset()
    mec.execute(SETUP)
    yield mec
    assert stage.complaints == []


def check_effect(method: Method, control: client.MultiEngineClient, ids: tuple[int, ...]) -> None:
    """See that a call has done what it does on these engines, and nothing on others."""
    effect = method.effect
    if effect is not None:
        there = dict(zip(ids, effect.after(ids) if ids else (), strict=True))
        expected = [there[engine] if engine in there else effect.before(engine) for engine in ENGINES]
        assert effect.look(control) == expected


@pytest.mark.parametrize(("method", "name", "face"), cells("value"))
def test_success(stage: Stage, control: client.MultiEngineClient, method: Method, name: str, face: str):
    targets = PRESENT[name]
    method.prepare(control)
    value = stage.play(targets, face, "model" if method.name in ENDING else "real", method.call)
    if method.each is None:
        seen = None if value is None else method.seen(value)
        assert seen == method.whole(targets.ids, targets.bare)
    elif targets.bare:
        assert method.seen(value) == method.each(targets.ids[0])
    else:
        assert type(value) is method.kind
        assert [method.seen(each) for each in value] == [method.each(engine) for engine in targets.ids]
    check_effect(method, control, targets.ids)


@pytest.mark.parametrize(("method", "name", "face"), cells("raises"))
def test_user_exception(stage: Stage, control: client.MultiEngineClient, method: Method, name: str, face: str):
    ids, by = PRESENT[name].ids, method.by or method.name.rpartition(".")[2]
    method.prepare(control)
    # What is wrong before anybody runs anything is raised as one error.
    alone = method.at_once or method.single
    one = len(ids) == 1 or alone
    with pytest.raises(method.error if one else CompositeError) as caught:
        stage.play(PRESENT[name], face, "real", method.fail)
    errors = [caught.value] if one else caught.value.exceptions
    assert [type(error) for error in errors] == [method.error] * len(errors)
    assert all(str(error).startswith(method.text(engine)) for engine, error in zip(ids, errors, strict=False))
    if not alone:
        assert [(error.engine_id, error.method) for error in errors] == [(engine, by) for engine in ids]
    if not one:
        headline, *lines = str(caught.value).splitlines()
        assert headline == f"{len(ids)} of {len(ids)} engines raised"
        for engine, line in zip(ids, lines, strict=True):
            assert line.startswith(f"[{engine}:{by}]: {method.error.__name__}: {method.text(engine)}")
    assert inside(caught.value, method.error) == list(errors)
    check_effect(method, control, ())


def inside(error: Exception, kind: type[Exception]) -> list[Exception]:
    """Return what `except*` finds of that class."""
    found: list[Exception] = []
    try:
        raise error
    except* kind as group:
        found += group.exceptions
    return found


@pytest.mark.parametrize(("method", "name", "face"), cells("missing"))
def test_no_such_engine(stage: Stage, control: client.MultiEngineClient, method: Method, name: str, face: str):
    method.prepare(control)
    refused(stage, method, MISSING[name], face, "real", *REFUSALS["missing", name])
    # Nor has it been done on those that are there.
    check_effect(method, control, ())


@pytest.mark.parametrize(("method", "name", "face"), cells("none"))
def test_no_engines(stage: Stage, method: Method, name: str, face: str):
    refused(stage, method, PRESENT[name], face, "empty", *REFUSALS["none", name])


def refused(
    stage: Stage, method: Method, targets: Targets, face: str, where: str, error: type[Exception], text: str
) -> None:
    """Play a cell whose engines are not there."""
    with pytest.raises(error) as caught:
        stage.play(targets, face, where, method.call)
    assert type(caught.value) is error
    assert str(caught.value) == text
    assert not hasattr(caught.value, "engine_id")
    assert stage.complaints == []


def test_targets_that_are_not_there_are_told_by_the_result_not_by_the_call(stage: Stage):
    for method in TABLE:
        if not {"missing", "pending", "one"} & set(method.without) and method.name != "forward_logging":
            pending = method.call(stage.blocking["real"], targets=7, block=False)
            assert isinstance(pending.exception(30), InvalidEngineID), method.name


@pytest.mark.parametrize("face", FACES)
def test_what_is_no_error_where_there_are_no_engines(stage: Stage, face: str):
    def play(name: str) -> Any:
        (method,) = [each for each in TABLE if each.name == name]
        return stage.play(PRESENT["all"], face, "empty", method.call)

    assert play("get_ids") == []
    steps = [method for method in TABLE if method.name.startswith("on_join.") and method.each is not None]
    for method in steps:
        value = play(method.name)
        assert (type(value), value) == (method.kind, [])
    assert len(play("on_join.list")) == len(steps)
    assert play("on_join.clear") == len(steps)
    if face != "pending":
        assert play("flush") == "InvalidDeferredID"


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("name", PRESENT)
def test_engines_that_are_busy(stage: Stage, control: client.MultiEngineClient, name: str, face: str):
    targets, code = PRESENT[name], "import time; time.sleep(600)"
    running = [control.execute(code, targets=engine, block=False) for engine in ENGINES]
    waiting = [control.push({"x": 1}, targets=engine, block=False) for engine in ENGINES]
    while not all(status["pending"] and status["queue"] for status in control.queue_status()):
        pass

    def play(method: str) -> Any:
        return stage.play(targets, face, "real", lambda mec, **how: getattr(mec, method)(**how))

    statuses = [{"id": engine, "pending": code, "queue": ["push x"]} for engine in targets.ids]
    assert play("queue_status") == (statuses[0] if targets.bare else statuses)
    assert play("clear_queue") == (1 if targets.bare else [1] * len(targets.ids))
    assert play("interrupt") is None
    for engine in targets.ids:
        assert isinstance(waiting[engine].exception(30), QueueCleared)
        assert str(running[engine].exception(30)) == "KeyboardInterrupt"
    others = set(ENGINES) - set(targets.ids)
    assert not any(pending.done() for engine in others for pending in (running[engine], waiting[engine]))
    for engine in others:
        assert running[engine].cancel()
        assert waiting[engine].exception(30) is None


def test_the_asyncio_face_does_not_block(stage: Stage, control: client.MultiEngineClient):
    for method in TABLE:
        if not {"pending"} & set(method.without):
            method.prepare(control)
            with pytest.raises(ConfigurationError, match="block=True is for the blocking face"):
                stage.play(Targets(how={"block": True}), "asyncio", "real", method.call)
            check_effect(method, control, ())
    assert stage.complaints == []


def test_a_view_has_no_set_up(stage: Stage):
    for mec in (stage.blocking["real"], stage.blocking["model"]):
        for view in (mec[0], mec[::2], mec[[0, 1]]):
            with pytest.raises(ConfigurationError, match="use the client's own, not a view's"):
                _ = view.on_join


def test_ending_kernels_reaches_those_that_were_named(stage: Stage):
    host = stage.hosts[3]
    for method, name in [(method, name) for method in TABLE if method.name in ENDING for name in PRESENT]:
        for face in FACES:
            before = len(host.asked)
            stage.play(PRESENT[name], face, "model", method.call)
            word = {"kill": "STOP", "restart": "RESTART"}[method.name]
            assert [(call.name, engine) for call, engine in host.asked[before:]] == [
                (word, engine) for engine in PRESENT[name].ids
            ]


def test_real_kernels_that_end():
    with client.Cluster(n=2) as cluster, cluster.multiengine() as mec:
        mec.push({"x": 1})
        assert mec.restart(targets=0) is None
        assert mec.keys() == [[], ["x"]]
        assert mec[1].kill() is None
        assert mec.get_ids() == [0]
        with pytest.raises(InvalidEngineID, match="no engine 1; engines: 0"):
            mec.keys(targets=[0, 1])
        assert mec.restart(block=False).r is None
        assert mec.kill(targets=[0], block=False).r is None
        with pytest.raises(NoEnginesRegistered, match=re.escape(NOBODY)):
            mec.keys()


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_") and name not in ("targets",)}


def test_the_table_names_every_method():
    names = {method.name for method in TABLE}
    assert public(MultiEngineCalls) == {name.partition(".")[0] for name in names}
    assert public(OnJoin) == {name.partition(".")[2] for name in names} - {""}
    assert len(names) == len(TABLE)
    assert sorted(NAMES) == NAMES


def test_what_is_left_out_of_the_table_is_left_out_for_a_reason():
    known = set(FACES) | set(PRESENT) | set(OUTCOMES)
    for method in TABLE:
        assert set(method.without) <= known, method.name
        assert all(method.without.values()), method.name
        assert bool(method.wrong) != ("raises" in method.without), method.name
