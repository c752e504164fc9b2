"""Standard output for processes that use the legacy driver.

While python-iptables reads a rule in a thread, it replaces descriptor 1 by a pipe, so that output of other threads is
lost or fails.
"""

import os

OUT = os.fdopen(os.dup(1), "w")


def say(line: str) -> None:
    """Write *line* with its line feed in one call."""
    OUT.write(line + "\n")
    OUT.flush()
