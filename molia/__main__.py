"""`python -m molia` is the `molia` command."""

import sys

from molia.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
