from __future__ import annotations

import functools
import math
import os.path
import sys
import textwrap
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import pytest
from spaces import described, main_module

from aioparallel import serialize
from aioparallel.errors import DeserializationError, SerializationError
from aioparallel.reference import Outcome, Promise
from aioparallel.serialize import Buffer, pack, unpack


def there_and_back(obj: Any) -> Any:
    return unpack(received(pack(obj)))


def received(buffers: list[Buffer]) -> list[Buffer]:
    """What a decoder hands out: the stream, and bytearrays."""
    return [bytes(buffers[0]), *map(bytearray, buffers[1:])]


# --- plain data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "é\ud800",
        b"",
        {"a": [1, (2.5, 3j)]},
        {1, 2},
        range(3),
        2**100,
        float,
        Ellipsis,
        len,
        math.sqrt,
    ],
)
def test_plain_values_come_back(value: Any) -> None:
    assert there_and_back(value) == value


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 65_535, 65_536, 65_537, 300_000])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_of_any_size_keep_their_type(kind: type, size: int) -> None:
    value = kind(os.urandom(size))
    assert there_and_back(value) == value
    assert type(there_and_back(value)) is kind


def test_large_pieces_leave_the_stream_in_order() -> None:
    array = numpy.arange(10_000.0)
    blob = bytes(range(256)) * 1000
    value = [
        "x",
        blob,
        array,
        bytearray(blob),
        "é" * 100_000,
        blob,
        [7] * 100_000,
        array,
        b"tail",
        {"k": bytearray(70_000)},
    ]
    buffers = pack(value)
    assert [memoryview(buffer).nbytes for buffer in buffers[1:]] == [256_000, 80_000, 256_000, 70_000]
    assert buffers[1] is blob
    result = unpack(received(buffers))
    assert result[1] is result[5]  # sent once, and the same again
    assert result[2] is result[7]
    for got, expected in zip(result, value, strict=True):
        assert type(got) is type(expected)
        assert numpy.array_equal(got, expected) if got is result[2] else got == expected


def test_lengths_that_look_like_headers_are_not_taken_for_them() -> None:
    header = b"B" + (70_000).to_bytes(4, "little")
    value = [header, b"\x95" * 9, header * 20_000, "x", b"y" * 70_000, header, bytearray(b"\x96" * 66_000)]
    assert there_and_back(value) == value


def test_every_position_of_large_bytes_in_its_frame() -> None:
    for count in (0, 1, 2, 3, 4, 5, 1000, 65_530, 65_536, 70_000):
        value = ["a" * count, *([1] * count), b"z" * 65_536, None]
        assert there_and_back(value) == value


def test_a_bytearray_may_change_after_it_was_packed() -> None:
    value = bytearray(100_000)
    buffers = pack(value)
    value.extend(b"more")
    value[0] = 1
    assert unpack(received(buffers)) == bytes(100_000)


def test_a_received_bytearray_is_used_in_place() -> None:
    buffers = received(pack(bytearray(100_000)))
    assert unpack(buffers) is buffers[1]


@pytest.mark.parametrize("size", [10, 2_047, 2_048, 100_000])
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_arrays_arrive_writable(size: int, wrap: Any) -> None:
    array = numpy.arange(float(size))
    first, *others = pack(array)
    result = unpack([first, *[wrap(bytes(buffer)) for buffer in others]])
    assert numpy.array_equal(result, array)
    result[0] = 7.0


def test_an_array_is_not_copied_on_either_side() -> None:
    array = numpy.zeros((500, 100), order="F")
    buffers = pack(array)
    assert numpy.shares_memory(numpy.frombuffer(buffers[1]), array)
    landed = received(buffers)
    result = unpack(landed)
    assert numpy.shares_memory(numpy.frombuffer(landed[1]), result)
    assert result.flags.f_contiguous


def test_a_read_only_array_stays_read_only_and_a_strided_one_arrives() -> None:
    array = numpy.arange(10_000)
    assert numpy.array_equal(there_and_back(array[::3]), array[::3])
    array.flags.writeable = False
    assert not there_and_back(array).flags.writeable


def test_object_arrays_and_dtypes() -> None:
    array = numpy.array([{"a": 1}, None, "x"], dtype=object)
    assert list(there_and_back(array)) == list(array)
    assert there_and_back(numpy.dtype("f4")) == numpy.dtype("f4")
    assert there_and_back(numpy.float32(1.5)) == 1.5


def test_packing_inside_packing_and_in_threads() -> None:
    class Inner:
        def __reduce__(self) -> Any:
            return bytes, (bytes(pack([1, 2])[0]),)

    def work() -> None:
        for number in range(200):
            assert there_and_back(["x", number, math.sqrt]) == ["x", number, math.sqrt]
        done.append(True)

    assert unpack([there_and_back(Inner())]) == [1, 2]
    done: list[bool] = []
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4


def test_nothing_stays_alive_after_packing() -> None:
    class Thing(set[int]):
        pass

    import gc
    import weakref

    thing = numpy.zeros(3).view()
    gone = weakref.ref(thing)
    pack(("apply", math.sqrt, (thing,), {}))
    del thing
    gc.collect()
    assert gone() is None


# --- functions and classes ------------------------------------------------------------------------------------------


def test_importable_things_travel_by_name() -> None:
    for thing in (
        textwrap.dedent,
        os.path.join,
        dataclass,
        numpy.linalg.norm,
        types.SimpleNamespace,
        functools.partial,
    ):
        assert there_and_back(thing) is thing
    assert len(pack(textwrap.dedent)[0]) < 60


def test_a_function_that_is_no_longer_what_its_name_says_is_captured() -> None:
    module = types.ModuleType("changing")
    exec("def f(): return 1", module.__dict__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "changing", module)
        old = module.f
        assert there_and_back(old) is old
        module.f = None  # type: ignore[attr-defined]
        assert there_and_back(old) is not old
        assert there_and_back(old)() == 1


def test_mutable_things_are_captured_as_they_are_each_time() -> None:
    space = main_module("LOG = []\ndef f(): return LOG")
    assert not described(space["f"])
    assert there_and_back(space["f"])() == []
    space["LOG"].append(1)
    buffers = pack(space["f"])
    assert unpack(buffers)() == [1]
    assert unpack(buffers)() is not unpack(buffers)()


def test_functions_that_share_something_arrive_sharing_it() -> None:
    space = main_module(
        """
        def default(x): return x
        def uses(f): return f is default
        count = 0
        def bump():
            global count
            count += 1
        def read(): return count
        """
    )
    uses, default = there_and_back((space["uses"], space["default"]))
    assert uses(default)
    bump, read = there_and_back((space["bump"], space["read"]))
    bump()
    assert read() == 1
    twice = there_and_back([space["default"]] * 2)
    assert twice[0] is twice[1]
    items: list[int] = []
    append, arrived = there_and_back(((lambda: items.append(1)), items))
    append()
    assert arrived == [1]


def test_classes_of_a_script_and_their_instances() -> None:
    space = main_module(
        "class Point:\n  def __init__(self, x): self.x = x\n  def double(self): return Point(2 * self.x)"
    )
    point = there_and_back(space["Point"](4))
    assert point.double().x == 8
    assert isinstance(there_and_back(space["Point"](1)), space["Point"])  # back where it came from, it is itself


def test_another_python_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    simple = pack(main_module("def other_python(): return 1")["other_python"])
    complicated = pack(main_module("L = []\ndef f(): return L")["f"])
    plain = pack(memoryview(b"needs cloudpickle, holds no code"))
    monkeypatch.setattr(serialize, "PYTHON", (3, 99))
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for buffers in (simple, complicated):
        with pytest.raises(SerializationError, match=rf"captured by Python {here} in Python 3\.99: put it in a module"):
            unpack(buffers)
    assert unpack(plain) == b"needs cloudpickle, holds no code"


def test_without_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    serialize._capturer.cache_clear()
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    space = main_module("L = []\ndef f(): return L\ndef g(): return 1")
    assert there_and_back(textwrap.dedent) is textwrap.dedent
    assert there_and_back([1, "a", numpy.zeros(2)])[0] == 1
    assert there_and_back(space["g"])() == 1
    with pytest.raises(
        SerializationError, match=r"args\[0\]: it needs function 'f' of __main__.*pip install cloudpickle"
    ):
        pack(("apply", textwrap.dedent, (space["f"],)), name=("verb", "function", "args"))
    with pytest.raises(SerializationError, match=r"cannot pickle '_thread\.lock' object"):
        pack(threading.Lock())


# --- what can't be sent or rebuilt ----------------------------------------------------------------------------------


class Slotted:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()


CULPRITS = [
    (lambda lock: lock, "value"),
    (lambda lock: [1, {"lock": lock}], "value[1]['lock']"),
    (lambda lock: (1, ({2: [lock]},)), "value[1][0][2][0]"),
    (lambda lock: types.SimpleNamespace(inner=[lock]), "value.inner[0]"),
    (lambda lock: [Slotted()], "value[0].lock"),
    (lambda lock: functools.partial(print, lock), "value.args[0]"),
    (lambda lock: [lambda: lock], "variable 'lock' of value[0]"),
    (lambda lock: {lock: 1}, "key <"),
]


@pytest.mark.parametrize(("make", "path"), CULPRITS)
def test_what_cannot_be_sent_is_named(make: Callable[[Any], Any], path: str) -> None:
    with pytest.raises(SerializationError) as caught:
        pack(make(threading.Lock()))
    assert str(caught.value).startswith(f"cannot send {path}")
    assert str(caught.value).endswith("cannot pickle '_thread.lock' object")
    assert there_and_back([1]) == [1]


def test_a_global_is_named_and_items_have_their_names() -> None:
    function = main_module("def f(): return lock", lock=threading.Lock())["f"]
    names = ("verb", "function", "args", "kwargs")
    with pytest.raises(SerializationError, match="cannot send global 'lock' of function: cannot pickle"):
        pack(("apply", function, (), {}), name=names)
    with pytest.raises(SerializationError, match=r"cannot send args\[1\]\['lock'\]: cannot pickle"):
        pack(("apply", len, (0, {"lock": threading.Lock()}), {}), name=names)


def test_deep_and_endless_things() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match="cannot send value: it is nested too deeply"):
        pack(deep)
    ring: list[Any] = [threading.Lock()]
    ring.insert(0, ring)
    with pytest.raises(SerializationError, match=r"cannot pickle '_thread\.lock' object"):
        pack(ring)
    while deep:
        deep = deep[0]


class Hostile:
    """Raises wherever it is touched."""

    def __reduce__(self) -> Any:
        raise ValueError("no reducing")

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no looking")

    def __repr__(self) -> str:
        raise RuntimeError("no showing")


def test_hostile_objects_are_named_all_the_same() -> None:
    with pytest.raises(SerializationError, match=r"cannot send value\[0\]: no reducing"):
        pack([Hostile()])


class Unbuildable:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return _raise, (self.error,)


def _raise(error: type[BaseException]) -> None:
    raise error("while rebuilding")


@pytest.mark.parametrize("error", [ValueError, SystemExit, GeneratorExit, ModuleNotFoundError])
def test_what_cannot_be_rebuilt(error: type[BaseException]) -> None:
    buffers = pack(Unbuildable(error))
    with pytest.raises(DeserializationError, match=f"{error.__name__}: while rebuilding"):
        unpack(buffers)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x80\x05", pack([1, 2, "x"])[0][:-3]])
def test_garbage(data: bytes) -> None:
    with pytest.raises(DeserializationError):
        unpack([data])


def test_a_missing_buffer_is_an_error() -> None:
    first, *_ = pack(numpy.zeros(10_000))
    with pytest.raises(DeserializationError):
        unpack([first])
    with pytest.raises(DeserializationError):
        unpack([])


# --- futures in a call ----------------------------------------------------------------------------------------------


class Coming(Promise):
    """A future, as far as packing goes."""

    def __init__(self, *value: Any) -> None:
        self.value = value
        self.channel = threading.Lock()  # not what is told when it can't be sent

    def arrived(self) -> tuple[Any] | None:
        return self.value or None  # type: ignore[return-value]


def pack_call(*args: Any, function: Any = max, **kwargs: Any) -> tuple[Any, list[Promise]]:
    outcomes: list[Promise] = []
    call = unpack(received(pack(("apply", function, args, kwargs), outcomes=outcomes)))
    return call, outcomes


def test_futures_are_taken_out_wherever_they_stand() -> None:
    a, b, c = Coming(), Coming(), Coming()
    call, outcomes = pack_call(a, [b, {"k": (a, {1: c})}], key=b)
    assert outcomes == [a, b, c]
    assert call == (
        "apply",
        max,
        (Outcome(0), [Outcome(1), {"k": (Outcome(0), {1: Outcome(2)})}]),
        {"key": Outcome(1)},
    )
    assert pack_call(1) == (("apply", max, (1,), {}), [])


def test_futures_of_functions_without_an_import_path() -> None:
    a, b, c = Coming(), Coming(), Coming()
    simple = main_module("def f(x): return x")["f"]
    call, outcomes = pack_call(a, [b], a, function=simple)
    assert (call[2], outcomes) == ((Outcome(0), [Outcome(1)], Outcome(0)), [a, b])
    assert pack_call(a, function=simple)[0][1]("x") == "x"
    # What only cloudpickle can do begins again from the start: each future is there once.
    space = main_module("LOG = []\ndef f(x, y=default): return [LOG, x, y, waiting]", waiting=c, default=b)
    call, outcomes = pack_call(a, [b], function=space["f"])
    assert sorted(map(outcomes.index, (a, b, c))) == [0, 1, 2]
    numbers = [Outcome(outcomes.index(each)) for each in (a, b, c)]
    assert call[2] == (numbers[0], [numbers[1]])
    assert call[1](1) == [[], 1, numbers[1], numbers[2]]
    closing = (lambda future: lambda: future)(c)
    call, outcomes = pack_call(a, function=closing)
    assert (call[1](), call[2]) == (Outcome(outcomes.index(c)), (Outcome(outcomes.index(a)),))


def test_a_value_that_is_there_goes_in_the_place_of_its_future() -> None:
    array = numpy.arange(10_000.0)
    done, waiting = Coming(array), Coming()
    call, outcomes = pack_call(done, [waiting, done])
    assert outcomes == [waiting]
    assert numpy.array_equal(call[2][0], array)
    assert call[2][1][1] is call[2][0]
    assert call[2][1][0] == Outcome(0)
    assert pack_call(Coming(None), function=lambda x: x)[0][2] == (None,)


def test_a_future_is_no_argument_of_anything_but_a_task() -> None:
    names = ("verb", "function", "args", "kwargs")
    for value in (Coming(), Coming(3)):
        with pytest.raises(SerializationError, match=r"cannot send args\[1\]\['k'\]: it is a result on its way"):
            pack(("apply", max, (0, {"k": value}), {}), name=names)
        closing = (lambda future: lambda: future)(value)
        with pytest.raises(SerializationError, match=r"cannot send variable 'future' of function: it is a result"):
            pack(("apply", closing, (), {}), name=names)
    assert pack_call(Coming())[1]  # and nothing of it is left in the picklers
    with pytest.raises(SerializationError, match=r"tc\.submit\(f, result\)"):
        pack([Coming()])


def test_what_cannot_be_sent_beside_a_future_is_named() -> None:
    with pytest.raises(SerializationError, match=r"cannot send args\[1\]: cannot pickle '_thread.lock' object"):
        pack(("apply", max, (Coming(), threading.Lock()), {}), name=("verb", "f", "args", "kwargs"), outcomes=[])


def test_futures_are_not_kept_by_the_picklers() -> None:
    import gc
    import weakref

    waiting = Coming()
    gone = weakref.ref(waiting)
    pack(("apply", max, (waiting,), {}), outcomes=[])
    pack(("apply", lambda: 1, (waiting,), {}), outcomes=[])
    del waiting
    gc.collect()
    assert gone() is None


def test_ten_thousand_futures() -> None:
    futures = [Coming() for _ in range(10_000)]
    call, outcomes = pack_call(futures, *futures)
    assert outcomes == futures
    assert [outcome.number for outcome in call[2][1:]] == [*range(10_000)]
