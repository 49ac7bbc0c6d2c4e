"""A stranger's package as an installer leaves it: its modules and what it registers, in a directory for PYTHONPATH."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def install(example: str, directory: Path) -> Path:
    """Install an example that is a package of its own; needs no network and no build tools."""
    project = tomllib.loads((EXAMPLES / example / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shutil.copytree(EXAMPLES / example / "src", directory, dirs_exist_ok=True)
    about = directory / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project.get("entry-points", {})
    lines = [line for group in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in groups[group].items()))]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return directory
