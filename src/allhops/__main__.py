"""`python -m allhops` is the command."""

import sys

from allhops.cli import main

if __name__ == "__main__":
    sys.exit(main())
