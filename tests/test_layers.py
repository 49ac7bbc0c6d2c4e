"""Who imports whom: the walls of ARCHITECTURE.md, read from the source and tried in real processes."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "aioparallel"
#: The package itself is only a list of lazy names; `python -m aioparallel` is only the way into cli.
OUTSIDE = {"", "__main__"}


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _names(text: str) -> set[str]:
    return set(text.split())


SANS_IO = _names("""
    closed conditions deaths decoder errors events graph handshake history kinds ledger lines namespace needs
    operations order outbox partition plain plaincalls policies prompt proof queues reasons rebinding reducers
    reference resources room scheduler session stream tasks terms turnstile waiting wire
""")
IO = {"asyncio", "os", "random", "secrets", "select", "selectors", "signal", "socket", "ssl"}
IO |= {"subprocess", "threading", "time"}

#: The only modules that may import these, at whatever level.
ONLY_IN = {
    "_pickle": {"serialize"},
    "cloudpickle": {"serialize"},
    "copyreg": {"serialize"},
    "dill": set[str](),
    "marshal": {"capture", "serialize"},
    "pickle": {"serialize"},
    "pytest": {"testing.pytest_plugin"},
    "random": {"testing.luck"},
    "secrets": set[str](),
    "shelve": set[str](),
    "trustme": {"identity"},
    "uvloop": {"loops"},
}
#: These hand their environment on to the processes they start, and look for nothing in it.
HANDS_ON = {"commandline", "testing.launcher_rules", *(module for module in MODULES if module.startswith("cli."))}
#: Names of modules' contents that have one reader.
ONLY_READ_IN = {
    ("os", "environ"): {"capability", *HANDS_ON},
    ("os", "environb"): set[str](),
    ("os", "getenv"): {"capability"},
    ("os", "getrandom"): set[str](),
    ("os", "urandom"): {"source"},
    ("time", "time"): {"source"},
    ("time", "time_ns"): {"source"},
    ("uuid", "uuid1"): set[str](),
    ("uuid", "uuid4"): set[str](),
}
#: What can unpickle. The controller's modules never import these.
UNPICKLES = {"capture", "namespace", "rebinding", "serialize"}
#: The client's side of the interfaces, which is in the same files: these import serialize when it is first used.
CLIENT_SIDE = {"channel", "programs", "results"}


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement: of what, and when it happens."""

    name: str
    line: int
    loading: bool  # when the module is loaded, as opposed to inside a function
    typing: bool  # never: for the type checker only


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def _is_for_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(node: ast.AST, loading: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, loading, typing)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: imports are absolute"
            assert child.module
            for alias in child.names:
                yield Import(f"{child.module}.{alias.name}", child.lineno, loading, typing)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, loading and not inside, typing or _is_for_typing(child))


@cache
def imports(module: str) -> tuple[Import, ...]:
    return tuple(_imports(tree(module), loading=True, typing=False))


def ours(name: str) -> str | None:
    """Return which module of the package `name` is of, "" for the package itself, None for a stranger's."""
    top, _, rest = name.partition(".")
    if top != "aioparallel":
        return None
    while rest and rest not in MODULES:
        rest = rest.rpartition(".")[0]
    return rest


def _is_at(module: str, place: str) -> bool:
    if place.endswith("/*"):
        return module.startswith(place[:-1].replace("/", "."))
    return module == place


@cache
def places() -> list[str]:
    """Read the order of the modules, bottom first, from ARCHITECTURE.md."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    block = text.split("<!-- layers begin -->")[1].split("<!-- layers end -->")[0]
    lines = [line for line in block.splitlines() if line.strip() and not line.startswith("```")]
    return [place.strip() for line in lines for place in line.split(",") if place.strip()]


def height(module: str) -> int:
    found = [i for i, place in enumerate(places()) if _is_at(module, place)]
    assert len(found) == 1, f"{module} must be at one place in ARCHITECTURE.md's layers, and is at {len(found)}"
    return found[0]


def reads(module: str) -> Iterator[tuple[str, str, int]]:
    """Yield every (module, name, line) that is reached as an attribute of a module or imported from it."""
    local = {}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            local.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name, node.lineno) for alias in node.names)
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in local:
            yield local[node.value.id], node.attr, node.lineno


every_module = pytest.mark.parametrize("module", sorted(set(MODULES) - OUTSIDE))


@every_module
def test_imports_go_down_only(module: str) -> None:
    for each in imports(module):
        target = ours(each.name)
        if target is None or target == module:
            continue
        assert target != "", f"{module}:{each.line} imports the package itself, which is above everything"
        if module.startswith("cli.") and target.startswith("cli."):
            continue  # commands are one layer; Python itself refuses a circle among them
        assert height(target) < height(module), f"{module}:{each.line} imports {target}, which isn't below it"


def test_every_place_is_taken() -> None:
    empty = [place for place in places() if not any(_is_at(module, place) for module in MODULES)]
    assert not empty, f"ARCHITECTURE.md's layers name what does not exist: {empty}"


@pytest.mark.parametrize("module", sorted(SANS_IO))
def test_a_dry_module_touches_nothing_wet(module: str) -> None:
    wet = [f"{each.name} (line {each.line})" for each in imports(module) if each.name.split(".")[0] in IO]
    assert not wet, f"{module} is sans-I/O and imports {wet}"


@every_module
def test_what_has_one_importer(module: str) -> None:
    for each in imports(module):
        allowed = ONLY_IN.get(each.name.split(".")[0])
        assert allowed is None or module in allowed, f"{module}:{each.line} imports {each.name}"


@every_module
def test_what_has_one_reader(module: str) -> None:
    for owner, name, line in reads(module):
        allowed = ONLY_READ_IN.get((owner, name))
        assert allowed is None or module in allowed, f"{module}:{line} reads {owner}.{name}"


def below(*roots: str) -> set[str]:
    """Return `roots` and all modules that are loaded when they are."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        waiting += [ours(each.name) or "" for each in imports(module) if each.loading and not each.typing]
    return found


def test_the_controllers_modules_never_import_what_unpickles() -> None:
    hosted = [module for module in MODULES if module.startswith(("interfaces.", "transports."))]
    for module in below("controller", "authority", *hosted):
        for each in imports(module):
            if ours(each.name) in UNPICKLES and not each.typing:
                assert module in CLIENT_SIDE or module in hosted, f"{module}:{each.line} imports {each.name}"
                assert not each.loading, f"{module}:{each.line} imports {each.name} when it is loaded"


@every_module
def test_code_is_run_in_one_module(module: str) -> None:
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        assert module == "prompt" or called not in {"eval", "exec", "compile"}, f"{module}:{node.lineno}: {called}"
        shell = [k for k in node.keywords if k.arg == "shell" and getattr(k.value, "value", True) is not False]
        assert not shell, f"{module}:{node.lineno} starts a shell"


def loaded(source: str) -> set[str]:
    """Run `source` in a Python of its own; return the names of all the modules it has loaded then."""
    source += "\nimport sys; print(*(name for name, module in sys.modules.items() if module is not None))"
    done = subprocess.run([sys.executable, "-P", "-W", "error", "-c", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def of_ours(names: set[str]) -> set[str]:
    return {name.removeprefix("aioparallel.") for name in names if name.startswith("aioparallel.")}


def interfaces() -> list[str]:
    return [f"aioparallel.{module}" for module in MODULES if module.startswith("interfaces.")]


BAN = "import sys\nfor name in ('pickle', '_pickle', 'cloudpickle'): sys.modules[name] = None\n"


def test_a_controller_loads_with_pickle_banned() -> None:
    wanted = ["aioparallel.controller", *interfaces(), *(f"aioparallel.{m}" for m in MODULES if "transports" in m)]
    names = loaded(BAN + "\n".join(f"import {name}" for name in wanted))
    assert set(wanted) <= names
    assert not names & {"pickle", "_pickle", "cloudpickle", "aioparallel.serialize", "aioparallel.namespace"}


def test_the_controller_program_loads_with_pickle_banned() -> None:
    names = loaded(BAN + "import aioparallel.cli.controller")
    assert not names & {"aioparallel.serialize", "aioparallel.namespace"}


def test_a_kernel_loads_nothing_of_networks() -> None:
    names = loaded("import aioparallel.kernel")
    assert not names & {"asyncio", "ssl", "_ssl", "concurrent.futures", "trustme", "uvloop", "cloudpickle"}
    assert of_ours(names) <= KERNEL, sorted(of_ours(names) - KERNEL)


KERNEL = _names("""
    capture decoder errors history interrupts kernel kinds limits memory namespace native outlet prompt rebinding
    reducers reference serialize shared source stream wire
""")


@pytest.mark.parametrize("source", ["import aioparallel.client", *(f"import {name}" for name in interfaces())])
def test_a_client_loads_neither_controller_nor_engines(source: str) -> None:
    names = loaded(source)
    assert not of_ours(names) & {"controller", "engine", "engines", "kernel", "namespace", "roster"}
    assert not names & {"cryptography", "trustme"}


#: What takes long to load, and a client does without until it is needed. (asyncio itself loads ssl and subprocess.)
HEAVY = _names("""
    cloudpickle cryptography ctypes decimal email http importlib.metadata multiprocessing numpy pickle platform sqlite3
    tqdm trustme unittest uvloop xml zipfile
""")


@pytest.mark.parametrize("names", ["TaskClient", "MultiEngineClient", "Cluster", "client"])
def test_a_client_loads_nothing_heavy(names: str) -> None:
    assert not loaded(f"from aioparallel import {names}") & HEAVY


def test_the_blocking_face_leaves_for_later_what_few_ask_for() -> None:
    later = {"benchmark", "capture", "cluster", "generated", "operations", "plain", "serialize"}
    assert not of_ours(loaded("import aioparallel.client")) & later


def test_the_package_itself_loads_nothing() -> None:
    names = loaded("import aioparallel")
    assert not names & {"asyncio", "ssl"}
    assert of_ours(names) <= {"errors"}


@pytest.mark.parametrize("module", ["engine", "cli.engine"])
def test_an_engine_never_loads_trustme(module: str) -> None:
    names = loaded(f"import aioparallel.{module}")
    assert not names & {
        "trustme",
        "cryptography",
        "aioparallel.controller",
        "aioparallel.engines",
        "aioparallel.roster",
    }


def entry_points() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return sorted(
        value for group in [project["scripts"], *project["entry-points"].values()] for value in group.values()
    )


@pytest.mark.parametrize("value", entry_points())
def test_an_entry_point_leads_to_what_it_names(value: str) -> None:
    module, _, name = value.partition(":")
    found = importlib.import_module(module)
    assert not name or callable(getattr(found, name))


def test_these_rules_see_what_they_forbid() -> None:
    source = (
        "import os\nif TYPE_CHECKING:\n    import ssl\ndef f():\n    from pickle import loads\n    os.environ['a']\n"
    )
    found = {(each.name, each.loading, each.typing) for each in _imports(ast.parse(source), loading=True, typing=False)}
    assert found == {("os", True, False), ("ssl", True, True), ("pickle.loads", False, False)}
    assert ours("aioparallel.wire.Frame") == "wire"
    assert ours("aioparallel.MultiEngineClient") == ""
    assert ours("asyncio.Future") is None
