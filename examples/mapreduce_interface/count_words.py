"""Count the words of a directory's Python files, by default the standard library's, on a cluster of one's own.

    python count_words.py [-n 4] [directory]

The counts are compared with those of one process.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from aioparallel import client


def words(path: str) -> Iterable[tuple[str, int]]:
    """Return the words of a file, and how often each is there; this is the mapper."""
    return Counter(re.findall(r"[a-z]+", Path(path).read_text(encoding="utf-8", errors="replace").lower())).items()


def total(word: str, counts: list[int]) -> int:
    """Return how often a word is in all files; this is the reducer."""
    return sum(counts)


def serial(paths: list[str]) -> dict[str, int]:
    """Count in this process."""
    counts: Counter[str] = Counter()
    for path in paths:
        counts.update(dict(words(path)))
    return counts


def main() -> None:
    """Count in parallel, then serially; fail if the two differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=4, help="how many engines")
    parser.add_argument("directory", nargs="?", default=os.path.dirname(os.__file__), type=Path)
    options = parser.parse_args()
    # What is installed besides is another library.
    found = (path for path in options.directory.rglob("*.py") if "site-packages" not in path.parts)
    paths = sorted(map(str, found))
    if not paths:
        parser.error(f"there is no Python file in {options.directory}")

    with client.Cluster(n=options.n, path=[Path(__file__).parent, *sys.path]) as cluster:
        began = time.perf_counter()
        counts = cluster.client("mapreduce").mapreduce("count_words:words", "count_words:total", paths)
        parallel = time.perf_counter() - began
    began = time.perf_counter()
    same = counts == serial(paths)
    print(f"{len(paths)} files, {len(counts)} words on {options.n} engines: {parallel:.1f} s", end="")
    print(f"; in one process {time.perf_counter() - began:.1f} s")
    print(", ".join(f"{word} {count}" for word, count in Counter(counts).most_common(5)))
    sys.exit(0 if same else "the counts differ from those of one process")


if __name__ == "__main__":
    main()
