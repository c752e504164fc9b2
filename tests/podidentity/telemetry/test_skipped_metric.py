"""Metrics of the objects that a program skips."""

from prometheus_client import CollectorRegistry

from podidentity.kube.decoding import TooLarge
from podidentity.kube.skipped import SkippedObjects
from podidentity.resources import EXCEPTIONS, PODS, BareMeta
from podidentity.telemetry.metrics import expose
from podidentity.telemetry.skipped import SkippedMetrics


def test_each_kind_and_reason_has_a_series_and_no_other_kind_has_one() -> None:
    registry, skipped = CollectorRegistry(), SkippedObjects()
    SkippedMetrics(registry, "aadpodidentity_nmi_", (EXCEPTIONS,)).watch(skipped.counts)
    skipped.report(EXCEPTIONS, BareMeta(name="a"), TooLarge("it is too large"))
    skipped.report(PODS, BareMeta(name="a"), TooLarge("it is too large"))
    lines = [line for line in expose(registry).decode().splitlines() if not line.startswith("#")]
    name = "aadpodidentity_nmi_objects_skipped_total"
    kind = "azurepodidentityexceptions"
    assert f'{name}{{kind="{kind}",reason="size"}} 1.0' in lines
    assert f'{name}{{kind="{kind}",reason="handler"}} 0.0' in lines
    assert len(lines) == 5
