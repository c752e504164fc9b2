"""Record the demo and draw it: `python -m tools.recording` (as root, for the real nat rule). `--draw` only draws."""

import sys

from tools.recording.drawing import CAST, PICTURE, drawn
from tools.recording.terminal import record

COMMAND = ("sh", "-c", "echo '$ podidctl sandbox demo'; exec .venv/bin/podidctl sandbox demo")
COLUMNS, ROWS = 100, 33
LONGEST_PAUSE = 1.5

if __name__ == "__main__":
    if "--draw" not in sys.argv[1:]:
        CAST.write_text(record(COMMAND, COLUMNS, ROWS, LONGEST_PAUSE))
    PICTURE.write_text(drawn(CAST))
