"""What an engine is inside: names, and the verbs that run in them. Sans-I/O.

A command's payload is a packed tuple `(verb, *arguments)`. `Namespace.run` does it and packs the outcome. The verbs are
the methods marked with `@verb` below; a verb is known here and in the client that offers it, nowhere else.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import linecache
import sys
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from types import CodeType, ModuleType
from typing import Any

from aioparallel.errors import OperationError
from aioparallel.serialize import Buffer, pack, pack_error, unpack

__all__ = ["VERBS", "Namespace"]

#: How many inputs keep their source lines for tracebacks.
SOURCES = 1000

_CO_COROUTINE = 0x80
_FUTURES = 0
for _feature in __future__.all_feature_names:
    _FUTURES |= getattr(__future__, _feature).compiler_flag

VERBS: dict[str, Callable[..., Any]] = {}


def verb(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method something that a command can ask for."""
    VERBS[method.__name__] = method
    return method


class Namespace:
    """The names of one engine and what may be done with them.

    Args:
        engine_id: What the name `id` is at first, and what errors carry.
        run_coroutine: Runs a coroutine until it is done and returns its value.
        interrupts: Entered while user code may run, again and again: only in there may KeyboardInterrupt come.

    Attributes:
        module: The engine's `__main__`.
        names: Its dict, where all code runs.
    """

    def __init__(
        self,
        engine_id: int,
        *,
        run_coroutine: Callable[[Coroutine[Any, Any, Any]], Any],
        interrupts: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.engine_id = engine_id
        self.module = ModuleType("__main__")
        self.names = self.module.__dict__
        self._run_coroutine = run_coroutine
        self._interrupts = nullcontext() if interrupts is None else interrupts
        self._number = 0
        self._sources: deque[str] = deque()
        self._compiler_flags = 0
        self._seed()

    def __repr__(self) -> str:
        return f"<Namespace of engine {self.engine_id}: {len(VERBS['keys'](self))} names, {self._number} inputs>"

    def run(self, buffers: Sequence[Buffer]) -> tuple[bool, list[Buffer]]:
        """Do a packed command.

        Whatever the user's code raises, also SystemExit and KeyboardInterrupt, is an outcome and goes no further.

        Returns:
            Whether it succeeded, and its packed value (`unpack`) or error (`unpack_error`).
        """
        try:
            with self._interrupts:
                name, *arguments = unpack(buffers)
                return True, pack(self._do(name, arguments), name="result")
        except BaseException as error:
            return False, pack_error(error, engine_id=self.engine_id)

    def _do(self, name: str, arguments: Sequence[Any]) -> Any:
        method = VERBS.get(name)
        if method is None:
            raise OperationError(f"unknown verb {name!r}: an engine knows {', '.join(sorted(VERBS))}")
        return method(self, *arguments)

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
        self._number += 1
        number = self._number
        filename = f"<input-{number}>"
        self._keep_source(filename, code)
        flags = self._compiler_flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree = compile(code, filename, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        # Both halves before either runs: an error that only the compiler sees must not leave half an input done.
        body = compile(tree, filename, "exec", flags, dont_inherit=True)
        self._compiler_flags |= body.co_flags & _FUTURES
        flags |= self._compiler_flags
        tail = None if last is None else compile(ast.Expression(last.value), filename, "eval", flags, dont_inherit=True)
        value = self._evaluate(body, tail)
        text = None
        if value is not None:
            text = repr(value)
            self.names["_"] = value
        return {"input": code, "number": number, "id": self.engine_id, "repr": text}

    @verb
    def apply(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call a function; if that gives a coroutine, return what it returns."""
        value = function(*args, **kwargs)
        return self._run_coroutine(value) if isinstance(value, Coroutine) else value

    @verb
    def map(self, function: Callable[..., Any], sequences: Sequence[Sequence[Any]]) -> list[Any]:
        """Call a function with the first items of all sequences, then the second ones …; await coroutines in turn.

        Raises:
            ValueError: The sequences differ in length.
        """
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
    def push(self, values: dict[str, Any]) -> None:
        """Set names.

        Raises:
            TypeError: A name that is not a string.
        """
        for name in values:
            if not isinstance(name, str):
                raise TypeError(f"names must be strings, not {type(name).__name__}: {name!r}")
        self.names.update(values)

    @verb
    def pull(self, names: str | Sequence[str]) -> Any:
        """Return the value of one name, or the list of the values of several.

        Raises:
            NameError: There is no such name.
        """
        return self._value(names) if isinstance(names, str) else [self._value(name) for name in names]

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
        self._compiler_flags = 0
        self._seed()

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

    def _evaluate(self, body: CodeType, tail: CodeType | None) -> Any:
        """Run an input; return its last expression's value. One that awaits anywhere is one coroutine."""
        # The flag, not the value: an expression may well be a coroutine without the input awaiting anything.
        if (body.co_flags | (tail.co_flags if tail else 0)) & _CO_COROUTINE:
            return self._run_coroutine(self._evaluate_in_loop(body, tail))
        eval(body, self.names)
        return None if tail is None else eval(tail, self.names)

    async def _evaluate_in_loop(self, body: CodeType, tail: CodeType | None) -> Any:
        value = None
        for code in (body, tail):
            if code is not None:
                value = eval(code, self.names)
                if code.co_flags & _CO_COROUTINE:
                    value = await value
        return None if tail is None else value

    def _keep_source(self, filename: str, code: str) -> None:
        # No modification time: linecache.checkcache then leaves the entry alone.
        linecache.cache[filename] = (len(code), None, [line + "\n" for line in code.splitlines()], filename)
        self._sources.append(filename)
        if len(self._sources) > SOURCES:
            linecache.cache.pop(self._sources.popleft(), None)


async def _await_each(first: Coroutine[Any, Any, Any], function: Callable[..., Any], rows: Iterable[Any]) -> list[Any]:
    return [await first, *[await function(*row) for row in rows]]
