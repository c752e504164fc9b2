"""Standard output for processes that use the legacy driver: python-iptables puts a pipe of its own in the place of
descriptor 1 while it reads a rule, in a thread, so that what others write there at that moment is lost or breaks."""

import os

OUT = os.fdopen(os.dup(1), "w")


def say(line: str) -> None:
    """Write *line* and its end at once."""
    OUT.write(line + "\n")
    OUT.flush()
