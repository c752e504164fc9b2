"""`podidctl access -o html` as a process, and its refusals."""

import asyncio
import io
import sys

import pytest
from rich.console import Console

from podidctl.access.html.document import MISSING
from podidctl.access.outputs import AccessOutput, render
from podidctl.cli import main
from podidentity.exits import StartError
from tests.mic.emulated_cloud import EmulatedCloud
from tests.mic.preview.run_programs import run
from tests.podidctl.access.small_cluster import reviewed


async def test_the_command_writes_the_whole_file(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    cloud.pod("web", "n0")
    answer = await run(cloud.folder, "podidctl", "access", "-o", "html", cloudconfig=False)
    assert answer.out.startswith("<!DOCTYPE html>\n")
    assert answer.out.rstrip().endswith("</html>")
    assert "default/web" in answer.out
    assert "default/demo" in answer.out
    assert answer.err == ""


def test_a_terminal_is_refused_with_the_next_action() -> None:
    with pytest.raises(StartError) as raised:
        render(reviewed(), AccessOutput.HTML, Console(file=io.StringIO(), force_terminal=True))
    assert "podidctl access -o html > access.html" in str(raised.value)


async def test_without_the_extra_the_command_prints_one_line(
    cloud: EmulatedCloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cloud.folder / "kubeconfig"))
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert await asyncio.to_thread(main, ["access", "-o", "html"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"podidctl: {MISSING}\n")
