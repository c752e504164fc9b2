"""The recording and the picture of the demo show the output of the present demo."""

import json
import re
import subprocess
import sys
from typing import Final

import pytest

from tests.support.checkout import ROOT
from tools import recording

CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TIMES: Final = re.compile(r"\d+\.\d s")
DEMO_SECONDS: Final = 100


def lines_of(cast: str) -> list[str]:
    """Return the lines that remain on the terminal, without colours and times."""
    events = map(json.loads, cast.splitlines()[1:])
    text = CONTROL.sub("", "".join(data for _, kind, data in events if kind == "o")).replace("\r\n", "\n")
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
    recorded = lines_of(recording.CAST.read_text())
    assert recorded == ["$ podidctl sandbox demo", *printed], "run as root: .venv/bin/python -m tools.recording"


@pytest.mark.tools
def test_the_picture_is_drawn_from_the_recording() -> None:
    assert recording.PICTURE.read_text() == recording.drawn(recording.CAST), (
        "run: .venv/bin/python -m tools.recording --draw"
    )


def test_the_picture_has_a_description_and_stands_still_on_request() -> None:
    text = recording.PICTURE.read_text()
    assert f'<title id="title">{recording.TITLE}</title><desc id="description">{recording.DESCRIPTION}</desc>' in text
    assert "@media (prefers-reduced-motion: reduce) {#screen_view {animation: none; transform:translateY(" in text
    assert "<script" not in text
    assert re.findall(r"(?:href=|url\()[\"']?(?!#)[^\"')]+", text) == []
