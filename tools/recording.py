"""The recording of the demo in the documentation: real output of `podidctl sandbox demo`, as an animated SVG.

`python -m tools.recording` in a terminal records the demo (as root, for the real nat rule) and draws it, `--draw` only
draws it. termtosvg does both; the SVG gets a title, and stands still for readers who prefer reduced motion.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CAST: Final = ROOT / "docs/recordings/demo.cast"
PICTURE: Final = CAST.with_suffix(".svg")
PROGRAM: Final = ROOT / ".venv/.site/bin/termtosvg-ng"
"""`make site` installs it."""
DEMO: Final = "sh -c \"echo '$ podidctl sandbox demo'; exec .venv/bin/podidctl sandbox demo\""
GEOMETRY: Final = "100x33"
LONGEST_PAUSE_MILLISECONDS: Final = 1500
TITLE: Final = "The demo in a terminal"
DESCRIPTION: Final = (
    "podidctl sandbox demo starts the sandbox, MIC and NMI, shows the nat rule, applies an identity, a binding and a "
    "pod, waits for the AzureAssignedIdentity, prints the pod's log with its tokens, and removes everything again."
)
PAUSE_MILLISECONDS: Final = 6000
"""The time between the end of the recording and its repetition."""
LAST: Final = re.compile(r"100\.000%\{(?P<last>transform:translateY\([^)]*\))\}")
DRAW_SECONDS: Final = 60


def record(cast: Path) -> None:
    """Run the demo and write its asciicast to the file *cast*. Raises CalledProcessError if termtosvg fails."""
    command = [str(PROGRAM), "record", str(cast), f"--screen-geometry={GEOMETRY}", f"--command={DEMO}"]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "TERM": "xterm-256color"})


def drawn(cast: Path) -> str:
    """Return the SVG of the asciicast in the file *cast*. Raises ValueError if termtosvg's result has another form."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "recording.svg")
        command = [
            str(PROGRAM),
            "render",
            str(cast),
            str(target),
            "--template=window_frame",
            f"--max-frame-duration={LONGEST_PAUSE_MILLISECONDS}",
            f"--loop-delay={PAUSE_MILLISECONDS}",
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=DRAW_SECONDS)
        return finished(target.read_text())


def finished(svg: str) -> str:
    """Return *svg* with a title, a description and a rule that shows the last frame where motion is unwanted."""
    last = LAST.search(svg)
    if last is None:
        raise ValueError("termtosvg wrote an animation of another form; change LAST in tools/recording.py")
    opening, rest = svg.split(">", 1)
    still = f"@media (prefers-reduced-motion: reduce) {{#screen_view {{animation: none; {last['last']}}}}}"
    described = f'<title id="title">{TITLE}</title><desc id="description">{DESCRIPTION}</desc>'
    body = rest.rstrip().removesuffix("</svg>")
    return f'{opening} role="img" aria-labelledby="title description">{described}{body}<style>{still}</style></svg>\n'


if __name__ == "__main__":
    if "--draw" not in sys.argv[1:]:
        record(CAST)
    PICTURE.write_text(drawn(CAST))
