"""MIC and NMI can run if all nodes have the start-up taint, so that they can remove it."""

from typing import Any

import pytest

from tools.chart.rendering import render

TAINT = "--set=mic.startupTaint=example.com/nmi-not-ready"
TOLERATED = {"key": "example.com/nmi-not-ready", "operator": "Exists"}
OWN = {"key": "CriticalAddonsOnly", "operator": "Exists"}


def tolerations(kind: str, *options: str) -> list[Any]:
    """Return the tolerations of MIC's or NMI's pods, without those of the cleanup pods."""
    objects = (each for each in render(options=options) if each["kind"] == kind)
    (found,) = (each for each in objects if not each["metadata"]["name"].endswith("-cleanup"))
    return list(found["spec"]["template"]["spec"].get("tolerations", []))


def given(part: str) -> str:
    return f'--set-json={part}.tolerations=[{{"key": "CriticalAddonsOnly", "operator": "Exists"}}]'


def test_mic_can_run_on_a_node_with_the_startup_taint() -> None:
    assert tolerations("Deployment", TAINT) == [TOLERATED]
    assert tolerations("Deployment") == []


def test_nmi_tolerates_all_taints() -> None:
    assert tolerations("DaemonSet", TAINT) == [{"operator": "Exists"}]


@pytest.mark.parametrize(("kind", "part"), [("Deployment", "mic"), ("DaemonSet", "nmi")])
def test_both_can_run_with_other_tolerations_too(kind: str, part: str) -> None:
    assert tolerations(kind, TAINT, given(part)) == [OWN, TOLERATED]
    assert tolerations(kind, given(part)) == [OWN]
