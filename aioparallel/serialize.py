"""Objects to buffers and back (the one module that imports pickle and cloudpickle).

`pack` gives a list of buffers: first a pickle (protocol 5), then what need not be copied into it: arrays and other
contiguous buffers from 16 KiB, `bytes` and `bytearray` from 64 KiB. `unpack` takes the like.

Functions and classes travel as their import path where there is one. Others are captured: a function that leads only
to what can't change is described by plain values (`capture`), which costs a few microseconds; for everything else the
whole object goes through cloudpickle in one go, so that what is shared inside it stays shared. Captured code is tied to
the version of Python that compiled it; another one refuses it in words, before it touches it.
"""

from __future__ import annotations

import functools
import marshal
import pickle
from collections.abc import Collection, Sequence
from contextlib import suppress
from types import CellType, CodeType, FunctionType
from typing import Any, TypeAlias

from aioparallel.capture import PYTHON, Codec, Description, Template, describe, importable
from aioparallel.errors import DeserializationError, SerializationError, text_of
from aioparallel.rebinding import Rebinding, make_function
from aioparallel.reducers import reducers
from aioparallel.reference import Outcome, Promise, Unresolved

__all__ = ["Buffer", "pack", "pack_error", "unpack", "unpack_error"]

Buffer: TypeAlias = bytes | bytearray | memoryview

OUT_OF_BAND = 16 * 1024
IDLE_PICKLERS = 4
#: Whose instances plain pickle must not take as they come: one question for both, as it is asked of every object.
_PARTICULAR = (type, Promise)


class _NeedsCapture(Exception):
    """Not an error: plain pickle would send this thing by a name that means nothing elsewhere."""


class _Parts:
    """What a pickler writes to: every piece as it is, in order, with the buffers that stay out of the stream."""

    __slots__ = ("pieces", "write")

    def __init__(self) -> None:
        self.pieces: list[Any] = []
        self.write = self.pieces.append

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out of the stream; return True for one so small that it goes along in it."""
        if memoryview(buffer).nbytes < OUT_OF_BAND:
            return True
        self.write(buffer)
        return False


class _Packer(pickle.Pickler):
    """Plain pickle in C, except for functions and classes without an import path."""

    __slots__ = ("captured", "outcomes", "parts")

    def __init__(self) -> None:
        self.parts = _Parts()
        self.outcomes: list[Promise] | None = None
        self.captured: list[Description] = []
        super().__init__(self.parts, 5, buffer_callback=self.parts.keep)

    def reducer_override(self, obj: Any) -> Any:
        """Capture a function without an import path; refuse what only cloudpickle can do."""
        kind = type(obj)
        if reducers and kind in reducers:
            return reducers[kind](obj)
        if kind is FunctionType:
            if obj is _make or importable(obj):
                return NotImplemented
            description = describe(obj, _CODEC)
            if description is None:
                raise _NeedsCapture(f"it needs {_called(obj)}, which has no import path")
            # Two that have a function in common must arrive having it in common.
            if self.captured and any(not known.members.isdisjoint(description.members) for known in self.captured):
                raise _NeedsCapture(f"it needs {_called(obj)}, which has no import path")
            self.captured.append(description)
            return _make, (description.blob,)
        if kind is type or issubclass(kind, _PARTICULAR):
            if issubclass(kind, Promise):
                return _promised(obj, self.outcomes)
            if obj.__module__ != "builtins" and not importable(obj):
                raise _NeedsCapture(f"it needs {_called(obj)}, which has no import path")
        return NotImplemented


class _Rebinder(_Packer):
    """Plain pickle for functions that leave their globals behind."""

    __slots__ = ("_rebinding",)

    def __init__(self, rebinding: Rebinding) -> None:
        super().__init__()
        self._rebinding = rebinding

    def reducer_override(self, obj: Any) -> Any:
        """Take functions and their cells apart; the rest as ever."""
        reduced = self._rebinding.reduce(obj, _rebound)
        return super().reducer_override(obj) if reduced is NotImplemented else reduced


_idle: list[_Packer] = []

# Opcodes: GLOBAL, what makes a function of a description; BINBYTES.
_MAKE = b"caioparallel.serialize\n_make\nB"
_CODEC = Codec(functools.partial(pickle.dumps, protocol=5), pickle.loads, marshal.dumps, marshal.loads)


def pack(
    obj: Any,
    *,
    name: str | Sequence[str] = "value",
    rebind: Collection[FunctionType] = (),
    outcomes: list[Promise] | None = None,
) -> list[Buffer]:
    """Turn an object into buffers that `unpack` takes.

    Buffers after the first may be views of memory that belongs to `obj`: change nothing there until they are sent.

    Args:
        obj: What to pack.
        name: What to call it in an error; or one name for each of its items, if it is a tuple.
        rebind: Functions in it that take on the names of the engine they arrive in as their globals (`Rebinding`).
        outcomes: An empty list, for a call that may wait for futures: takes each that is met anywhere in it, once, and
            `Outcome(i)` goes in the place of the i-th. One whose value is there already is left out, and that goes.

    Raises:
        SerializationError: It, or something in it, can't be sent; the text names the path to it.
    """
    if rebind:
        return _pack_rebound(obj, name, Rebinding(rebind, marshal.dumps))
    if type(obj) is tuple and len(obj) == 4 and obj[3] == {} and type(obj[1]) is FunctionType:
        call = _pack_call(*obj[:3], outcomes)
        if call is not None:
            return [call]
    packer = _idle.pop() if _idle else _Packer()
    parts = packer.parts.pieces
    if outcomes is not None:
        outcomes.clear()
        packer.outcomes = outcomes
    try:
        packer.dump(obj)
    except Exception as error:
        return _pack_whole(obj, name, error, outcomes=outcomes)
    buffers = parts[:] if len(parts) == 1 else _assemble(parts)
    _reuse(packer)
    return buffers


def _pack_rebound(obj: Any, name: str | Sequence[str], rebinding: Rebinding) -> list[Buffer]:
    packer = _Rebinder(rebinding)
    try:
        packer.dump(obj)
    except Exception as error:
        return _pack_whole(obj, name, error, rebinding)
    return _assemble(packer.parts.pieces)


def _pack_call(verb: Any, function: FunctionType, args: Any, outcomes: list[Promise] | None) -> bytes | None:
    """Pack `(verb, function, args, {})`, or return None if that takes more than small arguments and a description.

    The first two are the same from call to call, so their part of the stream is kept; it memoizes nothing, so the
    arguments' part may follow as the pickler writes it, without its protocol, frame and stop.
    """
    if type(verb) is not str or importable(function):
        return None
    description = describe(function, _CODEC)
    if description is None:
        return None
    head = description.heads.get(verb)
    if head is None:
        name, blob = verb.encode(), description.blob
        head = description.heads[verb] = b"".join(
            (
                b"\x80\x05(X",
                len(name).to_bytes(4, "little"),
                name,
                _MAKE,
                len(blob).to_bytes(4, "little"),
                blob,
                b"\x85R",
            )
        )
    packer = _idle.pop() if _idle else _Packer()
    parts = packer.parts.pieces
    if outcomes is not None:
        packer.outcomes = outcomes
    try:
        packer.dump(args)
    except Exception:
        return None
    if len(parts) != 1 or packer.captured:
        return None
    stream = parts[0]
    call = b"".join((head, stream[11 if stream[2] == 0x95 else 2 : -1], b"}t."))
    _reuse(packer)
    return call


def _reuse(packer: _Packer) -> None:
    parts = packer.parts.pieces
    if len(_idle) < IDLE_PICKLERS and len(parts) == 1:
        packer.outcomes = None
        packer.clear_memo()
        packer.captured.clear()
        parts.clear()
        _idle.append(packer)


def unpack(buffers: Sequence[Buffer]) -> Any:
    """Rebuild what `pack` packed; arrays and bytearrays use the buffers' own memory where it is writable.

    Raises:
        DeserializationError: It can't be rebuilt here; the text holds the original reason.
        SerializationError: It holds code captured by another version of Python.
        Unresolved: It holds a `Reference` or an `Outcome`, and that raised (in an engine only).
    """
    try:
        if len(buffers) == 1:
            return pickle.loads(buffers[0])
        first, *others = buffers
        return pickle.loads(first, buffers=map(_writable, others))
    except (SerializationError, Unresolved, KeyboardInterrupt):
        raise
    except BaseException as error:
        # Also SystemExit and its like: what arrives must not end the program it arrives in.
        raise DeserializationError(f"cannot rebuild what arrived: {type(error).__name__}: {text_of(error)}") from error


def _writable(buffer: Buffer) -> Buffer:
    return bytearray(buffer) if type(buffer) is bytes or memoryview(buffer).readonly else buffer


# What stands in the stream instead of large `bytes` (66 is BINBYTES, 142 BINBYTES8) and `bytearray` (150, BYTEARRAY8):
# a call with the next buffer as its argument. MEMOIZE follows and fits, for the result is on top of the stack as well.
_CALL = {
    66: b"cbuiltins\nbytes\n\x97\x85R",
    142: b"cbuiltins\nbytes\n\x97\x85R",
    150: b"caioparallel.serialize\n_bytearray\n\x97\x85R",
}


def _bytearray(buffer: Buffer) -> bytearray:
    return buffer if type(buffer) is bytearray else bytearray(buffer)


def _assemble(parts: list[Any], prefix: bytes = b"") -> list[Buffer]:
    """Join the stream's pieces, and move large bytes out of it instead of copying them into it.

    The C pickler writes bytes from 64 KiB as a piece of their own, the original object. The piece before ends with the
    opcode and length, outside any frame; without such bytes a piece has at most 3 bytes outside its frame. So it is
    certain which is which.
    """
    stream: list[Buffer] = []
    buffers: list[Buffer] = []
    opcode = 0
    for part in parts:
        if type(part) is pickle.PickleBuffer:
            buffers.append(part.raw())
            continue
        if opcode:
            if opcode in _CALL:
                # A bytearray is copied once, here, for its owner may change its size while it is on its way.
                buffers.append(bytes(part))
                header = stream.pop()
                stream += (memoryview(header)[: -5 if opcode == 66 else -9], _CALL[opcode])
            else:
                stream.append(part)
            opcode = 0
            continue
        start = 0 if stream else 2
        framed = part[start : start + 1] == b"\x95"
        outside = len(part) - start - (9 + int.from_bytes(part[start + 1 : start + 9], "little") if framed else 0)
        opcode = 0 if outside < 5 else part[-9 if outside >= 9 else -5]
        stream.append(part)
    return [b"".join((prefix, *stream)), *buffers]


# --- futures in a call ----------------------------------------------------------------------------------------------


def _promised(promise: Promise, outcomes: list[Promise] | None) -> tuple[Any, ...]:
    """Return how a pickler is to write a future."""
    if outcomes is None:
        raise SerializationError(
            "it is a result on its way: await it (or ask for its `.r`) and send the value; or give it to a task, which "
            "waits for it: tc.submit(f, result)"
        )
    arrived = promise.arrived()
    if arrived is not None:
        return _itself, arrived
    outcomes.append(promise)
    return Outcome(len(outcomes) - 1).__reduce__()


def _itself(value: Any) -> Any:
    return value


# --- captured code --------------------------------------------------------------------------------------------------


def _make(blob: bytes) -> FunctionType:
    return _template(blob).make()


def _rebound(blob: bytes, name: str, cells: tuple[CellType, ...], home: str) -> FunctionType:
    _require_python(blob[0], blob[1])
    return make_function(marshal.loads(blob[2:]), name, cells, home)


@functools.lru_cache(256)
def _template(blob: bytes) -> Template:
    _require_python(blob[0], blob[1])
    return Template(blob, _CODEC)


def _require_python(major: int, minor: int) -> None:
    if (major, minor) != PYTHON:
        raise SerializationError(
            f"cannot rebuild a function or class captured by Python {major}.{minor} in Python {PYTHON[0]}.{PYTHON[1]}: "
            "put it in a module that both can import"
        )


@functools.cache
def _capturer() -> Any:
    """Return cloudpickle's pickler, made to notice when it captures code; imported when first needed.

    Raises:
        ImportError: cloudpickle is not installed.
    """
    import cloudpickle

    class Capturer(cloudpickle.Pickler):  # type: ignore[misc]
        tied = False
        rebinding: Rebinding | None = None
        outcomes: list[Promise] | None = None

        def reducer_override(self, obj: Any) -> Any:
            if reducers and type(obj) in reducers:
                return reducers[type(obj)](obj)
            if issubclass(type(obj), Promise):
                return _promised(obj, self.outcomes)
            if self.rebinding is not None:
                reduced = self.rebinding.reduce(obj, _rebound)
                if reduced is not NotImplemented:
                    return reduced
            reduced = super().reducer_override(obj)
            # Six items: made empty, then given its state, as captured functions and classes are.
            if type(obj) is CodeType or (reduced is not NotImplemented and len(reduced) == 6):
                self.tied = True
            return reduced

    return Capturer


def _capture(obj: Any, error: Exception, rebinding: Rebinding | None, outcomes: list[Promise] | None) -> list[Buffer]:
    """Pack with everything captured what failed with `error` without."""
    if isinstance(error, RecursionError):
        raise error
    try:
        capturer_class = _capturer()
    except ImportError:
        if isinstance(error, _NeedsCapture):
            advice = "put it in a module that both sides can import, or pip install cloudpickle"
            raise _NeedsCapture(f"{error}: {advice}") from None
        raise error from None
    parts = _Parts()
    capturer = capturer_class(parts, 5, buffer_callback=parts.keep)
    capturer.rebinding = rebinding
    if outcomes is not None:
        outcomes.clear()
        capturer.outcomes = outcomes
    capturer.dump(obj)
    # Code runs or crashes before anyone can look at it, so its version is checked by the very first opcodes.
    check = b"\x80\x05caioparallel.serialize\n_require_python\nK%cK%c\x86R0" % PYTHON if capturer.tied else b""
    return _assemble(parts.pieces, check)


def _called(obj: Any) -> str:
    kind = "function" if isinstance(obj, FunctionType) else "class"
    return f"{kind} {obj.__qualname__!r} of {obj.__module__}"


# --- what to say of an object that can't be sent --------------------------------------------------------------------


def _pack_whole(
    obj: Any,
    name: str | Sequence[str],
    error: Exception,
    rebinding: Rebinding | None = None,
    outcomes: list[Promise] | None = None,
) -> list[Buffer]:
    """Pack with cloudpickle what plain pickle can't, or say which part of it nobody can."""
    try:
        return _capture(obj, error, rebinding, outcomes)
    except Exception as reason:
        # Not before it is needed: kernels start without it.
        from aioparallel.culprit import culprit

        path, text = culprit(obj, name, reason, functools.partial(_refusal, rebinding, outcomes))
        raise SerializationError(f"cannot send {path}: {text}") from reason


def _refusal(rebinding: Rebinding | None, outcomes: list[Promise] | None, obj: Any) -> Exception | None:
    """Return why an object can't be packed, or None if it can."""
    packer = _Packer() if rebinding is None else _Rebinder(rebinding)
    packer.outcomes = outcomes
    try:
        packer.dump(obj)
    except Exception as error:
        try:
            _capture(obj, error, rebinding, outcomes)
        except Exception as reason:
            return reason
    return None


# --- exceptions -----------------------------------------------------------------------------------------------------

# What can be said of an exception, and how it is rebuilt, is in `failures`: not loaded before it is needed, for kernels
# start without it.


def pack_error(error: BaseException, *, engine_id: int | None = None) -> list[Buffer]:
    """Turn an exception into buffers for `unpack_error`: a description in JSON, and itself if it can be sent.

    Whatever the exception's own methods do, this raises nothing.

    Args:
        error: What was raised.
        engine_id: Where.
    """
    from aioparallel.failures import can_be_raised, described, taken_apart

    buffers: list[Buffer] = [described(error, engine_id)]
    if can_be_raised(type(error)):
        with suppress(BaseException):
            buffers += pack(taken_apart(error))
    return buffers


def unpack_error(buffers: Sequence[Buffer]) -> Exception:
    """Return the exception that `pack_error` packed, with the remote traceback as a note and `engine_id` on it.

    It is the original, of its original class, if that can be rebuilt here; else a `RemoteError`. Whatever arrives, this
    raises nothing.
    """
    from aioparallel.failures import rebuilt, with_description

    error: Exception | None = None
    if len(buffers) > 1:
        with suppress(BaseException):
            error = rebuilt(*unpack(buffers[1:]))
    return with_description(error, buffers[0] if buffers else b"")
