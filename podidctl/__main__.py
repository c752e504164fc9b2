"""`python -m podidctl` is `podidctl`."""

import sys

from podidctl.cli import main

sys.exit(main())
