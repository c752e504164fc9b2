"""The recording of the demo is the output of the present demo, drawn without loss."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.docs.sentences import ROOT
from tools.recording import drawing
from tools.recording.terminal import record, text_of

CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TIMES: Final = re.compile(r"\d+\.\d s")
DEMO_SECONDS: Final = 100


def lines_of(cast: str) -> list[str]:
    """Return the lines that remain on the terminal, without colours and times."""
    text = CONTROL.sub("", text_of(cast)).replace("\r\n", "\n")
    remaining = (line.rpartition("\r")[2] for line in text.splitlines())
    return [TIMES.sub("0.0 s", line.rstrip()) for line in remaining if line.strip() and not line.endswith("under way")]


@pytest.mark.root
@pytest.mark.programs
def test_the_recording_shows_what_the_demo_prints_now() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "podidctl", "sandbox", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        check=True,
    )
    printed = [TIMES.sub("0.0 s", line) for line in done.stdout.splitlines()]
    recorded = lines_of(drawing.CAST.read_text())
    assert recorded == ["$ podidctl sandbox demo", *printed], "run as root: .venv/bin/python -m tools.recording"


@pytest.mark.tools
def test_the_picture_is_drawn_from_the_recording() -> None:
    assert drawing.PICTURE.read_text() == drawing.drawn(drawing.CAST), "run: .venv/bin/python -m tools.recording --draw"


def test_the_picture_has_a_description_and_stands_still_on_request() -> None:
    text = drawing.PICTURE.read_text()
    assert f'<title id="title">{drawing.TITLE}</title><desc id="description">{drawing.DESCRIPTION}</desc>' in text
    assert "@media (prefers-reduced-motion: reduce) {#screen_view {animation: none; transform:translateY(" in text
    assert "<script" not in text
    assert re.findall(r"(?:href=|url\()[\"']?(?!#)[^\"')]+", text) == []


def test_an_animation_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="another form"):
        drawing.finished("<svg><style>@keyframes roll {}</style></svg>")


def test_a_program_is_recorded_with_its_pauses_cut(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\nprint(sys.stdout.isatty(), '✓')\nsys.stdout.flush()\ntime.sleep(0.3)\nprint('end')\n"
    )
    cast = record([sys.executable, str(program)], columns=40, rows=5, longest_pause=0.05)
    head, *events = map(json.loads, cast.splitlines())
    assert head == {"version": 2, "width": 40, "height": 5}
    assert text_of(cast) == "True ✓\r\nend\r\n"
    assert events[-1][0] <= 0.05 * len(events)


def test_a_program_that_fails_is_not_recorded() -> None:
    with pytest.raises(RuntimeError, match="ended with code 3"):
        record([sys.executable, "-c", "raise SystemExit(3)"], columns=40, rows=5, longest_pause=1)
