"""`python -m aioparallel` is `aiocluster`."""

import sys

from aioparallel.cli.aiocluster import main

if __name__ == "__main__":
    sys.exit(main())
