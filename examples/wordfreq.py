"""Count the words of a folder of Python files on all engines, and check the counts against one process's.

    aiocluster run -n 4 examples/wordfreq.py           # the standard library of the running Python
    aiocluster run -n 4 examples/wordfreq.py FOLDER

The work is a plain function of this file: it is sent to the engines with the name of each engine's share of
the files, and each sends back the counts of its share.
"""

import re
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path

from aioparallel import client

WORD = re.compile(r"[a-z]+", re.IGNORECASE)
NOT_OURS = {"site-packages", "dist-packages"}


def count_words(names):
    """Return how often each word occurs in the named files, as a Counter."""
    counts = Counter()
    for name in names:
        text = Path(name).read_text(encoding="utf-8", errors="replace")
        counts.update(word.lower() for word in WORD.findall(text))
    return counts


def python_files(folder):
    """Return the names of the Python files in `folder`, largest first; each is read once, so that all are cached."""
    paths = [path for path in Path(folder).rglob("*.py") if not NOT_OURS.intersection(path.parts)]
    sizes = {str(path): len(path.read_bytes()) for path in paths}
    return sorted(sizes, key=sizes.get, reverse=True), sum(sizes.values())


def count_on_engines(mec, names):
    """Deal the names out, largest first, so that the shares weigh about the same; add up what comes back."""
    engines = mec.get_ids()
    shares = [names[i :: len(engines)] for i in range(len(engines))]
    pending = []
    for engine, share in zip(engines, shares, strict=True):
        pending.append(mec[engine].apply(count_words, share, block=False))
    total = Counter()
    for each in pending:
        total.update(each.r)
    return total


def timed(f, *args):
    """Return f(*args) and the seconds it took."""
    start = time.perf_counter()
    value = f(*args)
    return value, time.perf_counter() - start


def main():
    """Count twice, compare, and print; return the exit status."""
    folder = sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib")
    names, size = python_files(folder)
    print(f"{len(names):,} files, {size / 1e6:.1f} MB in {folder}")

    with client.MultiEngineClient() as mec:
        engines = len(mec)
        parallel, together = timed(count_on_engines, mec, names)
    serial, alone = timed(count_words, names)

    for word, count in parallel.most_common(10):
        print(f"{count:9,}  {word}")
    print(f"one process {alone:.2f} s, {engines} engines {together:.2f} s: {alone / together:.2f} times as fast")
    if parallel != serial:
        print("the counts differ", file=sys.stderr)
        return 1
    print(f"equal: {serial.total():,} words, {len(serial):,} of them different")
    return 0


if __name__ == "__main__":
    sys.exit(main())
