"""The chart's copy of the canary's program: helm reads only files of the chart."""

from pathlib import Path
from typing import Final

from podidctl.verify.pod import program
from tools.chart.rendering import CHART

COPY: Final[Path] = CHART / "files" / "canary.py"


def update() -> None:
    """Write the copy."""
    COPY.write_text(program())
