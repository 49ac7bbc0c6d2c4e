"""Names of an engine, in this very process: commands done there, and scripts with functions to send."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from aioparallel.namespace import Namespace
from aioparallel.serialize import Buffer, pack, unpack, unpack_error
from aioparallel.wire import Status


def do(engine: Namespace, *command: Any) -> Any:
    """Do a command as a client sees it: return its value, or raise its error."""
    return answer(engine, pack(command))


def answer(engine: Namespace, buffers: Sequence[Buffer]) -> Any:
    """Do a packed command."""
    status, payload = engine.run([bytes(buffer) for buffer in buffers])
    if status == Status.OK:
        return unpack(payload)
    raise unpack_error(payload)


def main_module(source: str, **names: Any) -> dict[str, Any]:
    """Run a script; its functions and classes have no import path."""
    space: dict[str, Any] = {"__name__": "__main__", "__package__": None, "__file__": "/script.py", **names}
    exec(compile(textwrap.dedent(source), "<script>", "exec", dont_inherit=True), space)
    return space


def described(function: Any) -> bool:
    """Whether a function travels without cloudpickle."""
    return b"_make_function" not in pack(function)[0]
