"""What an engine is inside: names, and the verbs that run in them. Sans-I/O.

A command's payload is a packed tuple `(verb, *arguments)`. `Namespace.run` does it and packs the outcome. The verbs are
the methods marked with `@verb` below; a verb is known here and in the client that offers it, nowhere else.

A task's command may come with what other tasks came to, and with what is noted about this engine (`JOINED`); the
controller puts these together, unread.

What an interface calls is no verb: such a payload is a JSON array (`plaincalls`), and is answered with JSON. It begins
with `[`, as no packed tuple does.
"""

from __future__ import annotations

import builtins
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from types import FunctionType, MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, cast

from aioparallel import reference
from aioparallel.errors import DeserializationError, OperationError, TaskRejectError
from aioparallel.history import Entry, History
from aioparallel.prompt import Prompt
from aioparallel.serialize import Buffer, pack, pack_error, unpack
from aioparallel.wire import Status

if TYPE_CHECKING:
    from aioparallel.outlet import Outlet
    from aioparallel.records import Forwarders

__all__ = ["VERBS", "Namespace"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})
#: Looked up once: members of an enum are not attributes like others.
_OK = Status.OK

VERBS: dict[str, Callable[..., Any]] = {}


def verb(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method something that a command can ask for."""
    VERBS[method.__name__] = method
    return method


class _Again(Exception):
    """An error that was packed before, to be answered once more."""

    def __init__(self, payload: list[bytes]) -> None:
        self.payload = payload


class Namespace:
    """The names of one engine and what may be done with them.

    Args:
        engine_id: What the name `id` is at first, and what errors carry.
        run_coroutine: Runs a coroutine until it is done and returns its value.
        interrupts: Entered while user code may run, again and again: only in there may KeyboardInterrupt come.
        outlet: Where log records leave.

    Attributes:
        module: The engine's `__main__`.
        names: Its dict, where all code runs.
        history: What has been executed.
        properties: What is noted about this engine, while a command runs that wants to know.
    """

    def __init__(
        self,
        engine_id: int,
        *,
        run_coroutine: Callable[[Coroutine[Any, Any, Any]], Any],
        interrupts: AbstractContextManager[Any] | None = None,
        outlet: Outlet | None = None,
    ) -> None:
        self.engine_id = engine_id
        self.module = ModuleType("__main__")
        self.names = self.module.__dict__
        self._run_coroutine = run_coroutine
        self._interrupts = nullcontext() if interrupts is None else interrupts
        self._outlet = outlet
        self._forwarders: Forwarders | None = None
        self.history = History()
        #: The entry of the input that runs, or ran last, if the last command was one.
        self._entry: Entry | None = None
        self.properties = _NOTHING
        #: What came along with the command that is unpacked: packed values of other tasks; unpacked ones, in a tuple.
        self._parents: list[Any] = []
        #: Whether the names are to be cleared once the outcome is packed, which may need them.
        self._clears = False
        self._prompt = Prompt(self.names, run_coroutine)
        self._seed()

    def __repr__(self) -> str:
        return f"<Namespace of engine {self.engine_id}: {len(VERBS['keys'](self))} names, {self.history.number} inputs>"

    def run(self, buffers: Sequence[Buffer], about: Mapping[str, Any] | None = None) -> tuple[Status, list[Buffer]]:
        """Do a packed command.

        Whatever the user's code raises, also SystemExit and KeyboardInterrupt, is an outcome and goes no further.

        Args:
            buffers: The command; after it, of a joined one, the packed values of other tasks.
            about: What the header of a joined one says: "parts", how many buffers each of these values has, in order;
                "properties", what is noted about this engine. Either may be left out.

        Returns:
            How it ended, and its packed value (OK: `unpack`) or error (ERROR, REJECTED: `unpack_error`).
        """
        self._entry, self.properties = None, _NOTHING
        if buffers and buffers[0][:1] == b"[":
            return self._call_plain(buffers[0])
        try:
            with self._interrupts:
                name, *arguments = self._arrived(buffers) if about is None else self._joined(buffers, about)
                return _OK, pack(self._do(name, arguments), name="result")
        except _Again as again:
            return Status.ERROR, [*again.payload]
        except BaseException as error:
            return self.failed(error)
        finally:
            if self._clears:
                self._clears = False
                self.reset()

    def _call_plain(self, payload: Buffer) -> tuple[Status, list[Buffer]]:
        """Do what an interface calls; of an error it is told what can be said in words."""
        # Not before it is needed: kernels start without it.
        from aioparallel.plaincalls import call_plain

        try:
            with self._interrupts:
                return _OK, [call_plain(bytes(payload), self._run_coroutine)]
        except BaseException as error:
            return Status.ERROR, pack_error(error, engine_id=self.engine_id)[:1]

    def failed(self, error: BaseException) -> tuple[Status, list[Buffer]]:
        """Pack what the command that ran last has raised; return also how that ended it."""
        payload = pack_error(error, engine_id=self.engine_id)
        if self._entry is not None:
            self._entry.failed(payload)
            self.history.keep(self._entry)
        return Status.REJECTED if isinstance(error, TaskRejectError) else Status.ERROR, payload

    def printed(self, stdout: bytes, stderr: bytes) -> None:
        """Hear what the command that ran last has written."""
        if self._entry is not None:
            self._entry.stdout, self._entry.stderr = stdout, stderr
            self.history.keep(self._entry)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression over the names; what a `Reference` that arrives stands for."""
        return self._prompt.evaluate(expression)

    def outcome(self, number: int) -> Any:
        """Return what one of the tasks came to whose values came along; what an `Outcome` that arrives stands for.

        Raises:
            DeserializationError: It can't be rebuilt here, or did not come along.
        """
        if not 0 <= number < len(self._parents):
            raise DeserializationError(f"the value of future {number} among the arguments did not come along")
        value = self._parents[number]
        if type(value) is not tuple:
            try:
                value = self._parents[number] = (unpack(value),)
            except DeserializationError as error:
                text = f"the value of future {number} among the arguments: {error}"
                raise DeserializationError(text) from error.__cause__
        return value[0]

    def _joined(self, buffers: Sequence[Buffer], about: Mapping[str, Any]) -> Any:
        """Unpack a command that something came along with."""
        parts = about.get("parts", ())
        first = len(buffers) - sum(parts)
        if first < 1 or any(count < 1 for count in parts):
            raise DeserializationError(f"a command in {len(buffers)} buffers can't hold parts of {parts}")
        place = first
        for count in parts:
            self._parents.append([*buffers[place : place + count]])
            place += count
        self.properties = about.get("properties") or _NOTHING
        try:
            return self._arrived(buffers[:first])
        finally:
            self._parents.clear()

    def _arrived(self, buffers: Sequence[Buffer]) -> Any:
        """Unpack a command; what arrives in it may look at our names."""
        reference.place = self
        try:
            return unpack(buffers)
        except reference.Unresolved as unresolved:
            cause = unresolved.__cause__
        finally:
            reference.place = None
        assert cause is not None
        raise cause

    def _do(self, name: str, arguments: Sequence[Any]) -> Any:
        method = VERBS.get(name)
        if method is None:
            raise OperationError(f"unknown verb {name!r}: an engine knows {', '.join(sorted(VERBS))}")
        return method(self, *arguments)

    @verb
    def attempt(self, checks: Sequence[tuple[Callable[..., Any], Sequence[Any]]], name: str, *arguments: Any) -> Any:
        """Do another verb if this engine will do for it.

        Args:
            checks: Each a function and what it is given besides this engine's properties. What it returns must be true;
                a property that it asks for and that is not there counts as "no".
            name: The other verb.
            arguments: What that is given.

        Raises:
            TaskRejectError: This engine will not do; the text names the check.
            BaseException: What a check raises besides KeyError, or the other verb.
        """
        # Only who asks pays for what asking takes.
        from aioparallel.conditions import called, reject_unless

        for function, args in checks:
            known = dict(self.properties)
            try:
                answer = self.apply(function, (known, *args), {})
            except KeyError as missing:
                text = f"{called(function)} asks for {missing}, which is no property of engine {self.engine_id}"
                raise TaskRejectError(text) from missing
            reject_unless(answer, function, (known, *args), {})
        return self._do(name, arguments)

    @verb
    def perform(self, task: Any) -> Any:
        """Run a `Task` as a whole: clear the names before, and when it has ended, if it asks for that.

        Raises:
            BaseException: Whatever it raises.
        """
        # It happens when the outcome is packed: functions in that need their names until then.
        self._clears = bool(task.clear_after)
        if task.clear_before:
            self.reset()
        return self.apply(task.run_on, (self,), {})

    @verb
    def set_up(self, name: str, *arguments: Any) -> Any:
        """Do another verb, and say also on stderr what it raises: whoever repeats it later can't unpack the error."""
        try:
            return self._do(name, arguments)
        except BaseException as error:
            # Whatever the user has put in the place of stderr, the error goes on.
            with suppress(Exception):
                sys.stderr.write("".join(traceback.format_exception_only(error)))
            raise

    @verb
    def execute(self, code: str) -> dict[str, Any]:
        """Run code as at a prompt; the last statement's value is kept as its repr, if it is an expression.

        Returns:
            The keys "input", "number" (from 1, failing inputs counted), "id" (of the engine), and "repr" (or None).

        Raises:
            SyntaxError: It is not Python.
            BaseException: Whatever the code raises.
        """
        entry = self._entry = self.history.begin(code)
        value = self._prompt.run(code, entry.filename)
        if value is not None:
            entry.text = repr(value)
            self.names["_"] = value
        self.history.keep(entry)
        return self._outcome(entry)

    @verb
    def run_file(self, source: str, filename: str) -> dict[str, Any]:
        """Run a file's code in the namespace; while it runs, `__file__` is its name.

        Args:
            source: Its text.
            filename: Where it was read, maybe on another machine.

        Returns:
            As `execute`; the "repr" is always None.

        Raises:
            SyntaxError: This Python can't compile it.
            BaseException: Whatever the code raises.
        """
        entry = self._entry = self.history.begin(source, filename)
        self._prompt.run_file(source, filename)
        self.history.keep(entry)
        return self._outcome(entry)

    @verb
    def get_result(self, number: int | None) -> dict[str, Any]:
        """Return once more what `execute` or `run_file` gave, the last time or that one; or raise it.

        Returns:
            As `execute`, with the output as "stdout" and "stderr".

        Raises:
            IndexError: There is no such result, or none any more.
            BaseException: What that input raised.
        """
        entry = self.history.entry(number)
        if entry.error is not None:
            raise _Again(entry.error)
        stdout, stderr = entry.stdout.decode("utf-8", "replace"), entry.stderr.decode("utf-8", "replace")
        return self._outcome(entry) | {"stdout": stdout, "stderr": stderr}

    def _outcome(self, entry: Entry) -> dict[str, Any]:
        return {"input": entry.input, "number": entry.number, "id": self.engine_id, "repr": entry.text}

    @verb
    def apply(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call a function; if that gives a coroutine, return what it returns."""
        value = function(*args, **kwargs)
        return self._run_coroutine(value) if isinstance(value, Coroutine) else value

    @verb
    def map(self, function: Callable[..., Any] | str, sequences: Sequence[Sequence[Any]]) -> list[Any]:
        """Call a function with the first items of all sequences, then the second ones …; await coroutines in turn.

        Args:
            function: A function, or the name of one that is here or built in.
            sequences: Its arguments.

        Raises:
            NameError: There is nothing of that name.
            TypeError: What has that name can't be called.
            ValueError: The sequences differ in length.
        """
        if isinstance(function, str):
            function = self._function(function)
        if len({len(sequence) for sequence in sequences}) > 1:
            raise ValueError(f"sequences of different lengths: {', '.join(str(len(items)) for items in sequences)}")
        rows = iter(zip(*sequences, strict=True))
        # No builtin map: a StopIteration from the user's function would end it quietly, with some of the values.
        for row in rows:
            value = function(*row)
            break
        else:
            return []
        if isinstance(value, Coroutine):
            values: list[Any] = self._run_coroutine(_await_each(value, function, rows))
            return values
        if len(sequences) == 1:
            return [value, *[function(item) for (item,) in rows]]
        return [value, *[function(*row) for row in rows]]

    @verb
    def push(self, values: dict[str, Any], readonly: bool = False) -> None:
        """Set names; with `readonly` arrays among the values can't be changed in place.

        Raises:
            TypeError: A name that is not a string.
        """
        for name in values:
            if not isinstance(name, str):
                raise TypeError(f"names must be strings, not {type(name).__name__}: {name!r}")
        if readonly:
            for value in values.values():
                if hasattr(value, "setflags"):
                    value.setflags(write=False)
        self.names.update(values)

    @verb
    def push_function(self, functions: dict[str, FunctionType]) -> None:
        """Set names to functions that were rebound when they arrived: their globals are the names here."""
        self.push(functions)

    @verb
    def pull(self, names: str | Sequence[str]) -> Any:
        """Return the value of one name, or the list of the values of several.

        Raises:
            NameError: There is no such name.
        """
        return self._value(names) if isinstance(names, str) else [self._value(name) for name in names]

    @verb
    def pull_function(self, names: str | Sequence[str]) -> Any:
        """Return the function of that name, or the list of several.

        Raises:
            NameError: There is no such name.
            TypeError: It is not that of a Python function.
        """
        for name in [names] if isinstance(names, str) else names:
            if type(self._value(name)) is not FunctionType:
                kind = type(self._value(name)).__name__
                raise TypeError(f"{name!r} is not a Python function but of type {kind}; `pull` gets values of any kind")
        return self.pull(names)

    @verb
    def keys(self) -> list[str]:
        """Return the user's names, sorted."""
        return sorted(
            name
            for name in self.names
            if isinstance(name, str) and name not in ("id", "_") and not (name[:2] == "__" == name[-2:])
        )

    @verb
    def reset(self) -> None:
        """Forget all names and begin with `id` again; inputs are numbered on."""
        self.names.clear()
        self._prompt.forget()
        self._seed()

    @verb
    def forward_logging(self, session: int, request: int, logger: str, level: int) -> None:
        """Send the records of a logger, from a level on, to the client of that session, until that is ended."""
        # Nobody pays for logging who does not ask for it.
        from aioparallel.records import Forwarders

        if self._outlet is None:
            raise OperationError("this engine has no way out for log records")
        if self._forwarders is None:
            self._forwarders = Forwarders(self._outlet.send)
        self._outlet.open()
        self._forwarders.begin(session, request, logger, level)

    @verb
    def end_forwarding(self, session: int, request: int | None = None) -> None:
        """End one request of a session for log records, or all."""
        if self._forwarders is not None:
            self._forwarders.end(session, request)
            if not self._forwarders and self._outlet is not None:
                self._outlet.shut()

    def _seed(self) -> None:
        # What a script's module has, so that code which looks at it does not stumble.
        self.names.update(__name__="__main__", __doc__=None, __package__=None, __loader__=None, __spec__=None)
        self.names["__builtins__"] = builtins
        self.names["id"] = self.engine_id

    def _value(self, name: str) -> Any:
        try:
            return self.names[name]
        except KeyError:
            raise NameError(f"name {name!r} is not defined", name=name) from None

    def _function(self, name: str) -> Callable[..., Any]:
        here = name in self.names or not hasattr(builtins, name)
        found: Any = self._value(name) if here else getattr(builtins, name)
        if not callable(found):
            raise TypeError(f"{name!r} is no function here but of type {type(found).__name__!r}")
        return cast("Callable[..., Any]", found)


async def _await_each(first: Coroutine[Any, Any, Any], function: Callable[..., Any], rows: Iterable[Any]) -> list[Any]:
    return [await first, *[await function(*row) for row in rows]]
