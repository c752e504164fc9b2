"""A cluster all of whose nodes begin with the start-up taint opens by itself: MIC and NMI may run on such nodes."""

from typing import Any

import pytest

from tools.chart.rendering import render

TAINT = "--set=mic.startupTaint=example.com/nmi-not-ready"
TOLERATED = {"key": "example.com/nmi-not-ready", "operator": "Exists"}
OWN = {"key": "CriticalAddonsOnly", "operator": "Exists"}


def tolerations(kind: str, *options: str) -> list[Any]:
    """Of MIC's or NMI's pods; not of those that clean nodes after the release."""
    objects = (each for each in render(options=options) if each["kind"] == kind)
    (found,) = (each for each in objects if not each["metadata"]["name"].endswith("-cleanup"))
    return list(found["spec"]["template"]["spec"].get("tolerations", []))


def given(part: str) -> str:
    return f'--set-json={part}.tolerations=[{{"key": "CriticalAddonsOnly", "operator": "Exists"}}]'


def test_mic_may_run_on_a_node_that_is_not_open_yet() -> None:
    assert tolerations("Deployment", TAINT) == [TOLERATED]
    assert tolerations("Deployment") == []


def test_nmi_may_as_it_tolerates_all() -> None:
    assert tolerations("DaemonSet", TAINT) == [{"operator": "Exists"}]


@pytest.mark.parametrize(("kind", "part"), [("Deployment", "mic"), ("DaemonSet", "nmi")])
def test_so_they_may_where_somebody_gives_them_other_tolerations(kind: str, part: str) -> None:
    assert tolerations(kind, TAINT, given(part)) == [OWN, TOLERATED]
    assert tolerations(kind, given(part)) == [OWN]
