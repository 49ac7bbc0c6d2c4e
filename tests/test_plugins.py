"""Entry points: found by name, and refused in words."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from aioparallel import plugins
from aioparallel.errors import PluginError
from aioparallel.transports import Transport
from aioparallel.transports.unix import UnixTransport

GROUP = "aioparallel.things"
Register = Callable[..., None]


class Thing:
    """What things derive from."""


class GoodThing(Thing):
    """A thing."""


class HalfThing(Thing, ABC):
    """A thing that lacks something."""

    @abstractmethod
    def work(self) -> None: ...


class GreedyThing(Thing):
    """A thing that wants more than it gets."""

    def __init__(self, size: int) -> None: ...


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """Register entry points as an installed package would; their values are places in a module made up here."""
    module = ModuleType("strange_things")
    module.__dict__.update(
        Good=GoodThing, Half=HalfThing, Greedy=GreedyThing, instance=GoodThing(), function=len, Other=dict
    )
    monkeypatch.setitem(sys.modules, "strange_things", module)
    # The group is read once per process.
    plugins._group.cache_clear()

    def put(**values: str) -> None:
        found = [EntryPoint(name.rstrip("_"), value, GROUP) for name, value in values.items()]
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found if group == GROUP else [])
        plugins._group.cache_clear()

    yield put
    plugins._group.cache_clear()


def test_built_ins_are_found_like_a_strangers() -> None:
    assert {"tls", "unix", "memory"} <= set(plugins.names(plugins.TRANSPORTS))
    assert {"multiengine", "task", "monitor", "admin"} <= set(plugins.names(plugins.INTERFACES))
    assert "local" in plugins.names(plugins.LAUNCHERS)
    assert {"fifo", "priority"} <= set(plugins.names(plugins.QUEUES))
    assert plugins.load(plugins.TRANSPORTS, "unix", Transport) is UnixTransport


def test_names_are_sorted(register: Register) -> None:
    register(zebra="strange_things:Good", ant="strange_things:Good")
    assert plugins.names(GROUP) == ["ant", "zebra"]


def test_loads_a_class_and_anything_when_no_class_is_asked_for(register: Register) -> None:
    register(good="strange_things:Good", function="strange_things:function")
    assert plugins.load(GROUP, "good", Thing) is GoodThing
    assert plugins.load(GROUP, "function") is len


def test_unknown_name_says_which_are_known(register: Register) -> None:
    register(good="strange_things:Good", fine="strange_things:Good")
    with pytest.raises(PluginError, match=r"no thing named 'bad'; known: fine, good$"):
        plugins.load(GROUP, "bad")


def test_nothing_registered_says_what_may_be_wrong(register: Register) -> None:
    register()
    with pytest.raises(PluginError, match=r"is aioparallel installed \(pip install aioparallel\)"):
        plugins.load(GROUP, "good")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module_anywhere:Thing", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("strange_things:Missing", "AttributeError"),
    ],
)
def test_what_cannot_be_imported(register: Register, value: str, message: str) -> None:
    register(broken=value)
    with pytest.raises(PluginError, match=rf"thing 'broken' \({value}\) can't be loaded: {message}") as caught:
        plugins.load(GROUP, "broken")
    assert caught.value.__cause__ is not None


def test_module_that_fails_while_it_is_imported(
    register: Register, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path_factory.mktemp("package")
    (directory / "explosive_things.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(directory)
    register(bomb="explosive_things:Thing")
    with pytest.raises(PluginError, match="can't be loaded: ZeroDivisionError: division by zero"):
        plugins.load(GROUP, "bomb")


@pytest.mark.parametrize("place", ["instance", "function", "Other"])
def test_what_is_no_subclass(register: Register, place: str) -> None:
    register(strange=f"strange_things:{place}")
    with pytest.raises(PluginError, match=rf"'strange' .* must be a subclass of {__name__}.Thing"):
        plugins.load(GROUP, "strange", Thing)


def test_what_is_not_installed_is_found_by_its_place(register: Register) -> None:
    register()
    assert plugins.load(GROUP, "strange_things:Good", Thing) is GoodThing
    assert isinstance(plugins.make(GROUP, "strange_things:Good", Thing), GoodThing)
    with pytest.raises(PluginError, match=r"^thing 'strange_things:Bad' can't be loaded: AttributeError"):
        plugins.load(GROUP, "strange_things:Bad", Thing)
    with pytest.raises(PluginError, match=r"^thing 'nowhere:Thing' can't be loaded: ModuleNotFoundError: No module"):
        plugins.load(GROUP, "nowhere:Thing")
    for name in (":Good", "strange_things:"):
        with pytest.raises(PluginError, match=f"no thing named '{name}'"):
            plugins.load(GROUP, name, Thing)


def test_what_lacks_methods(register: Register) -> None:
    register(half="strange_things:Half")
    with pytest.raises(PluginError, match=rf"thing 'half' \(strange_things:Half\) lacks work, which {__name__}.Thing"):
        plugins.make(GROUP, "half", Thing)


def test_what_can_not_be_made(register: Register) -> None:
    register(greedy="strange_things:Greedy")
    with pytest.raises(PluginError, match=r"'greedy' .* can't be made without arguments: TypeError: .*'size'"):
        plugins.make(GROUP, "greedy", Thing)


def test_a_name_that_two_packages_take(register: Register) -> None:
    register(thing="strange_things:Good", thing_="strange_things:Other")
    text = r"thing 'thing' is registered by more than one package: .*strange_things:Good.*, .*strange_things:Other"
    with pytest.raises(PluginError, match=text):
        plugins.load(GROUP, "thing", Thing)
    register(thing="strange_things:Good", thing_="strange_things:Good")
    assert plugins.load(GROUP, "thing", Thing) is GoodThing


def test_nobody_takes_the_name_of_what_is_built_in(register: Register, caplog: pytest.LogCaptureFixture) -> None:
    for mine, theirs in (("thing", "thing_"), ("thing_", "thing")):
        register(**{mine: "aioparallel.errors:PluginError", theirs: "strange_things:Good"})
        caplog.clear()
        assert plugins.load(GROUP, "thing") is PluginError
        [warning] = [record.getMessage() for record in caplog.records]
        expected = "thing 'thing' (strange_things:Good) of an unknown package is left out: that name is built in"
        assert warning == f"{expected}; it needs another"
