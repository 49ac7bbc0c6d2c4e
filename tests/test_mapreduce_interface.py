"""The map-reduce example: installed as a stranger's package is, and its own tests run."""

from __future__ import annotations

from pathlib import Path

from test_example_packages import test_package as run_tests_of


def test_mapreduce(tmp_path: Path) -> None:
    run_tests_of("mapreduce_interface", tmp_path)
