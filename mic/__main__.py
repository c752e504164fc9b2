"""`python -m mic`."""

import sys

from mic.cli import main

if __name__ == "__main__":
    sys.exit(main())
