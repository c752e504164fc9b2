"""`python -m podidentity_demo`."""

import sys

from podidentity_demo.launcher import main

if __name__ == "__main__":
    sys.exit(main())
