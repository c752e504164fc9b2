"""The hand-written table of platforms: its words, its dates, and the versions that the tests use."""

import re
from datetime import date
from typing import Final

import yaml

from tests.support.checkout import ROOT
from tests.support.testplane import up
from tools.chart.rendering import CHART

PAGE: Final = (ROOT / "docs" / "compatibility.md").read_text()
STATUS: Final = re.compile(r"(?:tested|fails) (\d{4}-\d{2}-\d{2})|expected|not supported")


def rows(text: str = PAGE) -> list[list[str]]:
    """Return subject, value, status and remark of each row."""
    section = text.partition("## Platforms")[2].partition("\n## ")[0].partition("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def values(subject: str, status: str) -> list[str]:
    return [value for of, value, status_of_row, _ in rows() if of == subject and status_of_row.startswith(status)]


def test_each_row_has_one_of_the_four_words_and_what_was_tested_has_a_date_before_the_last_change() -> None:
    (changed,) = re.findall(r"^Last change: (\S+)\.$", PAGE, re.MULTILINE)
    assert len(rows()) > 20
    for subject, value, status, _ in rows():
        match = STATUS.fullmatch(status)
        assert match, (subject, value, status)
        if match[1]:
            assert date.fromisoformat(match[1]) <= date.fromisoformat(changed)


def test_the_chart_refuses_what_is_older_than_the_expected_versions() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (expected,) = values("Kubernetes", "expected")
    oldest, newest = expected.split(" to ")
    assert chart["kubeVersion"] == f">={oldest}.0-0"
    major, minor, _ = up.VERSION.split(".")
    assert newest == f"{major}.{int(minor) - 1}"
    assert values("Kubernetes", "not supported") == [f"older than {oldest}"]


def test_the_tested_versions_are_those_of_the_control_plane_and_the_pinned_ones_of_helm() -> None:
    assert values("Kubernetes", "tested") == [up.VERSION]
    pinned = re.findall(r"helm (\d+\.\d+\.\d+) \+", (ROOT / "tests/support/testplane/up.py").read_text())
    assert values("helm", "tested") == [", ".join(sorted(pinned))]


def test_nmi_does_not_run_on_windows() -> None:
    chart_values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert chart_values["nmi"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert values("nodes' system", "not supported") == ["Windows"]
