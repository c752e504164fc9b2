"""A cluster all of whose nodes begin with the start-up taint opens by itself, as MIC may run on nodes that have it."""

from typing import Any

from tools.chart.rendering import render

TAINT = "--set=mic.startupTaint=example.com/nmi-not-ready"
TOLERATED = {"key": "example.com/nmi-not-ready", "operator": "Exists"}
OWN = {"key": "CriticalAddonsOnly", "operator": "Exists"}


def tolerations(kind: str, *options: str) -> list[Any]:
    (found,) = (each for each in render(options=options) if each["kind"] == kind)
    return list(found["spec"]["template"]["spec"].get("tolerations", []))


def test_mic_may_run_on_a_node_that_is_not_open_yet() -> None:
    assert tolerations("Deployment", TAINT) == [TOLERATED]
    assert tolerations("Deployment") == []


def test_the_tolerations_that_somebody_gives_mic_are_kept() -> None:
    given = '--set-json=mic.tolerations=[{"key": "CriticalAddonsOnly", "operator": "Exists"}]'
    assert tolerations("Deployment", TAINT, given) == [OWN, TOLERATED]
    assert tolerations("Deployment", given) == [OWN]


def test_nmi_tolerates_it_as_it_does_all() -> None:
    assert tolerations("DaemonSet", TAINT) == [{"operator": "Exists"}]
