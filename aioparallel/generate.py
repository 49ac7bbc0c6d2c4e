"""Write a typed module of an interface's client: `python -m aioparallel.generate module:Class`."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Sequence

from aioparallel import plugins
from aioparallel.errors import PluginError
from aioparallel.interface import Interface
from aioparallel.operations import Kind, Operation, check_interface_name, check_makeable, declared

__all__ = ["main", "written"]


def main(argv: Sequence[str] | None = None) -> int:
    """Be the program; return the exit status.

    Raises:
        SystemExit: The arguments were wrong, or only help was wanted.
    """
    parser = argparse.ArgumentParser(
        prog="python -m aioparallel.generate",
        description="Write, on standard output, a module with a typed client of an interface: for type checkers and "
        "editors, and for programs that have only the client. It is to be written again when the interface changes.",
    )
    parser.add_argument("interface", help="the name of an installed interface, or module:Class")
    parser.add_argument("--blocking", action="store_true", help="the blocking face (default: asyncio's)")
    options = parser.parse_args(argv)
    try:
        interface = plugins.load(plugins.INTERFACES, options.interface, Interface)
        sys.stdout.write(written(interface, blocking=options.blocking))
    except PluginError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    return 0


def written(interface: type[Interface], *, blocking: bool = False) -> str:
    """Return the source of a module with a typed client.

    It needs aioparallel, and the modules of the dataclasses that travel, but not the interface's.

    Args:
        interface: The interface.
        blocking: Which face.

    Raises:
        PluginError: No client can be made for it, or one of its annotations can't be written.
    """
    name = check_interface_name(interface)
    check_makeable(interface)
    found = declared(interface)
    place = f"{interface.__module__}:{interface.__qualname__}"
    option = " --blocking" if blocking else ""
    code = [line for operation in found.values() for line in _method(operation, blocking=blocking)]
    lines = [
        f'"""A client of {name!r}, as `python -m aioparallel.generate{option} {place}` wrote it."""',
        "",
        "from __future__ import annotations",
        "",
        *_imports(interface, "\n".join(code), blocking=blocking),
        "",
        f'__all__ = ["{interface.__name__}Client"]',
        "",
        "",
        f"class {interface.__name__}Client(Asking, Client):",
        *_doc(inspect.getdoc(interface) or f"A client of {name!r}.", 4),
        "",
        f'    interface: ClassVar[str] = "{name}"',
    ]
    for operation in found.values():
        # The docstring stands before the first line of the call.
        *head, first, second, third, last = _method(operation, blocking=blocking)
        lines += [*head, *_doc(operation.doc, 8), first, second, third, last]
    return "\n".join(lines) + "\n"


#: Where each name comes from that a module may need: of which module, and which face.
_HOMES = (
    ("asyncio", "Future", False),
    ("collections.abc", "Mapping", None),
    ("collections.abc", "Sequence", None),
    ("typing", "Any", None),
    ("typing", "ClassVar", None),
    ("typing", "Literal", None),
    ("typing", "overload", True),
    ("aioparallel.arrivals", "Stream", False),
    ("aioparallel.client", "BlockingStream", True),
    ("aioparallel.client", "Client", True),
    ("aioparallel.client", "PendingResult", True),
    ("aioparallel.face", "Client", False),
    ("aioparallel.generated", "Asking", None),
)


def _imports(interface: type[Interface], code: str, *, blocking: bool) -> list[str]:
    """Return the imports that the code of a client needs."""
    words = {*re.findall(r"[A-Za-z_]\w*", code), "Asking", "Client", "ClassVar"}
    homes: dict[str, list[str]] = {}
    for module, name, face in _HOMES:
        if name in words and face in (None, blocking):
            homes.setdefault(module, []).append(name)
    lines = [f"from {module} import {', '.join(names)}" for module, names in homes.items()]
    first_of_ours = next(place for place, line in enumerate(lines) if "aioparallel" in line)
    shapes = [each.shape for operation in declared(interface).values() for each in operation.parameters]
    shapes += [operation.shape for operation in declared(interface).values() if operation.shape is not None]
    classes = sorted({f"from {kind.__module__} import {_importable(kind)}" for each in shapes for kind in each.classes})
    return [*lines[:first_of_ours], "", *lines[first_of_ours:], *([""] if classes else []), *classes]


def _doc(text: str | None, indent: int) -> list[str]:
    if text is None:
        return []
    quoted = text.replace("\\", "\\\\").replace('"""', r"\"\"\"")
    end = "\n" if "\n" in quoted else ""
    return [textwrap.indent(f'"""{quoted}{end}"""', " " * indent)]


def _importable(kind: type) -> str:
    if "." in kind.__qualname__:
        raise PluginError(f"{kind.__module__}.{kind.__qualname__} can't be imported by a client: put it in the module")
    return kind.__name__


def _method(operation: Operation, *, blocking: bool) -> list[str]:
    """Return a method without its docstring, as lines; the last four are the call."""
    assert operation.shape is not None
    gives = operation.shape.text
    arguments = ", ".join(f'"{each.name}": ({each.name}, {each.shape.text})' for each in operation.parameters)
    if operation.kind is Kind.STREAM:
        face = "BlockingStream" if blocking else "Stream"
        return [
            "",
            f"    def {operation.name}({_parameters(operation)}) -> {face}[{gives}]:",
            f"        stream: {face}[{gives}] = self._ask_for_stream(",
            f'            "{operation.name}", {{{arguments}}}, {gives}',
            "        )",
            "        return stream",
        ]
    if not blocking:
        return [
            "",
            f"    def {operation.name}({_parameters(operation)}) -> Future[{gives}]:",
            f"        handle: Future[{gives}] = self._ask(",
            f'            "{operation.name}", {{{arguments}}}, {gives}',
            "        )",
            "        return handle",
        ]
    waiting = _parameters(operation, "block: Literal[True] | None = None")
    pending = _parameters(operation, "block: Literal[False]")
    either = _parameters(operation, "block: bool | None = None")
    return [
        "",
        "    @overload",
        f"    def {operation.name}({waiting}) -> {gives}: ...",
        "    @overload",
        f"    def {operation.name}({pending}) -> PendingResult: ...",
        f"    def {operation.name}({either}) -> {gives} | PendingResult:",
        f"        value: {gives} | PendingResult = self._ask(",
        f'            "{operation.name}", {{{arguments}}}, {gives}, block',
        "        )",
        "        return value",
    ]


def _parameters(operation: Operation, *more: str) -> str:
    """Return the parameters of a method."""
    parts, keywords = ["self"], False
    for parameter, seen in zip(operation.parameters, operation.signature.parameters.values(), strict=True):
        if seen.kind is seen.KEYWORD_ONLY and not keywords:
            keywords = True
            parts.append("*")
        default = "" if seen.default is seen.empty else f" = {parameter.default!r}"
        parts.append(f"{parameter.name}: {parameter.shape.text}{default}")
    if more and not keywords:
        parts.append("*")
    return ", ".join([*parts, *more])


if __name__ == "__main__":
    sys.exit(main())
