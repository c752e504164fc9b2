"""`python -m nmi`."""

import sys

from nmi.cli import main

if __name__ == "__main__":
    sys.exit(main())
