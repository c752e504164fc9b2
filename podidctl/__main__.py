"""`python -m podidctl` is `podidctl`."""

import sys

from podidctl.launcher import main

sys.exit(main())
