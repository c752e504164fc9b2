"""What somebody wrote into an object is shown as text, and nothing of it styles or steers the reader's terminal."""

import io

import pytest
from rich.console import Console

from podidctl.migration import show
from podidctl.migration.findings import Finding, Level
from podidctl.migration.workload_identity import AUDIENCE
from podidctl.printing import Output
from tests.migration.objects import binding, identity
from tests.migration.workloads import planned, workload

EVIL = "\x1b]0;owned\x07[bold]x[/bold]\x9b2J"
SHOWN = "?]0;owned?[bold]x[/bold]?2J"


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=400, color_system=None)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_report_of_differences(console: Console) -> None:
    show.report([Finding(Level.LOOK, EVIL, EVIL, EVIL)], Output.TABLE, console)
    assert said(console).count(SHOWN) == 3
    assert "\x1b" not in said(console)


def test_a_plan_for_workload_identity(console: Console) -> None:
    principal = identity(type=1, tenantID=EVIL, clientPassword={"name": "n"})
    made = planned(workload(), workload("lost", label=EVIL), objects=[principal, binding()])
    show.workload_identity(made, "https://oidc.example.org/", AUDIENCE, console)
    assert SHOWN in said(console)
    assert not {"\x1b", "\x07", "\x9b"} & set(said(console))
