"""Code as at a prompt: compiled, and run in an engine's names (the one module that does). Sans-I/O."""

from __future__ import annotations
import __future__

import ast
import functools
import linecache
from collections.abc import Callable, Coroutine
from types import CodeType
from typing import Any

__all__ = ["Prompt", "read_program"]

_MISSING: Any = object()
_CO_COROUTINE = 0x80
_FUTURES = 0
for _feature in __future__.all_feature_names:
    _FUTURES |= getattr(__future__, _feature).compiler_flag


class Prompt:
    """Where an engine's user types: code in, the value of its last expression out.

    Code may await anywhere, and what it imports from `__future__` holds for later code, as at Python's own prompt.

    Args:
        names: Where all code runs.
        run_coroutine: Runs a coroutine until it is done and returns its value.
    """

    def __init__(self, names: dict[str, Any], run_coroutine: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._names = names
        self._run_coroutine = run_coroutine
        self._compiler_flags = 0

    def __repr__(self) -> str:
        return f"<Prompt of {len(self._names)} names>"

    def forget(self) -> None:
        """Begin again: nothing has been imported from `__future__`."""
        self._compiler_flags = 0

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression.

        Raises:
            BaseException: Whatever it raises.
        """
        return eval(_reference(expression), self._names)

    def run(self, code: str, filename: str) -> Any:
        """Run an input; return its last statement's value if that is an expression, else None.

        Args:
            code: Its text.
            filename: What it is called in tracebacks.

        Raises:
            SyntaxError: It is not Python; nothing of it has run.
            BaseException: Whatever it raises.
        """
        return self._evaluate(*self._compiled(code, filename))

    def run_file(self, source: str, filename: str) -> None:
        """Run a file's text; while it runs, `__file__` is its name.

        Raises:
            SyntaxError: It is not Python; nothing of it has run.
            BaseException: Whatever it raises.
        """
        # Its own `from __future__` hold for it, those of the prompt don't.
        body = compile(source, filename, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        before = self._names.get("__file__", _MISSING)
        self._names["__file__"] = filename
        try:
            self._evaluate(body, None)
        finally:
            if before is _MISSING:
                self._names.pop("__file__", None)
            else:
                self._names["__file__"] = before

    def _compiled(self, code: str, filename: str) -> tuple[CodeType, CodeType | None]:
        """Compile an input: all but its last expression, and that."""
        flags = self._compiler_flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        try:
            tree = compile(code, filename, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            # Both halves before either runs: an error that only the compiler sees must not leave half an input done.
            body = compile(tree, filename, "exec", flags, dont_inherit=True)
            self._compiler_flags |= body.co_flags & _FUTURES
            flags |= self._compiler_flags
            if last is None:
                return body, None
            return body, compile(ast.Expression(last.value), filename, "eval", flags, dont_inherit=True)
        except SyntaxError as error:
            if error.text is not None or not error.lineno:
                raise
            # What the parser lets pass and the compiler does not: that one looks for the line in a file.
            line = linecache.getline(filename, error.lineno) or None
            place = filename, error.lineno, error.offset, line, error.end_lineno, error.end_offset
            raise SyntaxError(error.msg, place) from None

    def _evaluate(self, body: CodeType, tail: CodeType | None) -> Any:
        """Run an input; return its last expression's value. One that awaits anywhere is one coroutine."""
        # The flag, not the value: an expression may well be a coroutine without the input awaiting anything.
        if (body.co_flags | (tail.co_flags if tail else 0)) & _CO_COROUTINE:
            return self._run_coroutine(self._evaluate_in_loop(body, tail))
        eval(body, self._names)
        return None if tail is None else eval(tail, self._names)

    async def _evaluate_in_loop(self, body: CodeType, tail: CodeType | None) -> Any:
        value = None
        for code in (body, tail):
            if code is not None:
                value = eval(code, self._names)
                if code.co_flags & _CO_COROUTINE:
                    value = await value
        return None if tail is None else value


@functools.lru_cache(256)
def _reference(expression: str) -> CodeType:
    return compile(expression, f"<Reference {expression}>", "eval", dont_inherit=True)


def read_program(source: bytes, filename: str) -> str:
    """Return the text of a file, once it is certain that it is Python; nothing of it is run.

    Raises:
        SyntaxError: It isn't; the error shows the line.
    """
    # Only a client comes here, and a kernel is to start soon.
    from importlib.util import decode_source

    try:
        compile(source, filename, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        return decode_source(source)
    except (SyntaxError, ValueError) as error:
        # Of null bytes and a wrong encoding some Pythons don't say which file has them.
        if getattr(error, "filename", None) is not None:
            raise
        raise SyntaxError(str(error), (filename, None, None, None)) from None
