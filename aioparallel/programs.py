"""Functions that live on engines, files that run there, and results once more: methods for clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

from aioparallel.addressing import Addressing
from aioparallel.results import Targets, names_asked

__all__ = ["ProgramCalls", "named"]


class ProgramCalls(Addressing):
    """The methods of `MultiEngineCalls` that send code, besides `execute` and `apply`."""

    def push_function(
        self, functions: Mapping[str, Callable[..., Any]], *, targets: Targets | None = None, block: bool | None = None
    ) -> Any:
        """Set names to functions whose globals are the engine's own names, as if they had been defined there.

        They see what is pushed or executed there later, too. Their globals here are left behind; their closures,
        defaults and attributes go along, with the functions inside these, which live in the engine's names as well
        unless the engine can import them. This goes also for a function of a module, which by `push` would go by its
        import path. A wrapper that a decorator from a module put around one goes on using that module.

        Raises:
            TypeError: A value is not a Python function; the text names the key.
            ValueError: A key is not an identifier.
        """
        functions = named(functions)
        for name, function in functions.items():
            if type(function) is not FunctionType:
                kind = type(function).__name__
                raise TypeError(
                    f"{name!r} is not a Python function but of type {kind}; `push` sends values of any kind"
                )
        label = f"push_function {', '.join(functions)}"
        return self._command("push_function", (functions,), targets, block, label=label, rebind=functions.values())

    def pull_function(
        self, names: str | Sequence[str], *, targets: Targets | None = None, block: bool | None = None
    ) -> Any:
        """Return the function of a name, or of several, from each target.

        It works here: it has copies of the globals that it uses, as they are on the engine at that moment. One that can
        be imported is imported here, as `pull` does it.

        Raises:
            NameError: An engine does not have one of the names.
            TypeError: It is not that of a Python function; or a name is not a str.
        """
        return self._command("pull_function", (names_asked(names),), targets, block, label=f"pull_function {names}")

    def run(self, filename: str | Path, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Run a file of Python on each target, in its namespace; return a `ResultList` as `execute` does.

        It is read and compiled here first, and travels as source: engines need not have it. While it runs, `__file__`
        is its absolute path here (which on another machine may lead nowhere), and `__name__` is "__main__", as ever on
        an engine. `await` may stand outside functions.

        Raises:
            OSError: It can't be read.
            SyntaxError: It is not Python; the error shows the line. Nothing was sent.
        """
        from aioparallel.prompt import read_program

        path = Path(filename).absolute()
        source = read_program(path.read_bytes(), str(path))
        return self._command("run_file", (source, str(path)), targets, block, label=f"run {path.name}", method="run")

    def get_result(self, i: int | None = None, *, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Return once more what each target's last `execute` or `run` gave, or that with number `i`.

        Inputs are numbered from 1 on each engine, also those that raise; such a one raises its error once more.
        An engine keeps the last thousand results, up to 32 MiB.

        Raises:
            IndexError: An engine has no such result, or none any more.
        """
        if i is not None and (not isinstance(i, int) or isinstance(i, bool)):
            raise TypeError(f"results have numbers; {i!r} is none")
        return self._command("get_result", (i,), targets, block)


def named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return names and values to be pushed.

    Raises:
        TypeError: They are not a mapping.
        ValueError: A key is not an identifier.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"what is pushed is a dict of values by name, not {type(values).__name__}")
    names = dict(values)
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"{name!r} is not a name that can be pushed")
    return names
