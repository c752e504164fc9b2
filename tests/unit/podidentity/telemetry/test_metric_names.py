"""Metrics: names, values and text; those of watches, of skipped objects and of the event loop's lag."""

import asyncio
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as ForcedCounter
from prometheus_client.parser import text_string_to_metric_families

from podidentity.kube.decoding import TooLarge
from podidentity.kube.skipped import SkippedObjects
from podidentity.resources import EXCEPTIONS, PODS, BareMeta
from podidentity.telemetry.loop_lag import LoopLag
from podidentity.telemetry.metrics import SERIES_MAX, MetricCounter, expose, new_registry
from podidentity.telemetry.skipped import SkippedMetrics
from podidentity.telemetry.watches import WatchMetrics

NAME = "aadpodidentity_imds_operations_errors_count"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry(auto_describe=True)


def test_a_counter_keeps_its_name(registry: CollectorRegistry) -> None:
    counter = MetricCounter(NAME, "Failed calls", ["operation_type"], registry=registry)
    counter.labels("adal_token_msi").inc()
    counter.labels("adal_token_msi").inc(2)
    assert expose(registry).decode() == (
        f'# HELP {NAME} Failed calls\n# TYPE {NAME} counter\n{NAME}{{operation_type="adal_token_msi"}} 3.0\n'
    )


def test_a_counter_without_labels_starts_at_zero_and_never_goes_down(registry: CollectorRegistry) -> None:
    counter = MetricCounter("aadpodidentity_mic_cycle_count", "Cycles", registry=registry)
    assert b"aadpodidentity_mic_cycle_count 0.0\n" in expose(registry)
    with pytest.raises(ValueError, match="never decreases"):
        counter.inc(-1)
    counter.inc()
    assert b"aadpodidentity_mic_cycle_count 1.0\n" in expose(registry)


def test_a_metric_name_is_unique_and_a_label_set_of_the_wrong_size_is_rejected(registry: CollectorRegistry) -> None:
    counter = MetricCounter("c", "", ["a"], registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        MetricCounter("c", "", registry=registry)
    with pytest.raises(ValueError, match="has the labels"):
        counter.labels()


def test_label_values_outside_a_closed_set_are_detected(registry: CollectorRegistry) -> None:
    counter = MetricCounter("c", "", ["a"], registry=registry)
    for number in range(SERIES_MAX):
        counter.labels(str(number))
    with pytest.raises(ValueError, match="not a closed set"):
        counter.labels("one more")
    counter.labels("0").inc()


def test_metrics_of_prometheus_client_are_exposed_as_it_would(registry: CollectorRegistry) -> None:
    ForcedCounter("forced", "a\nb", registry=registry).inc()
    Gauge("gauge", "", ["l"], registry=registry).labels('q"u\\o\nte').set(float("inf"))
    Histogram("seconds", "", buckets=[0.1, 1], registry=registry).observe(0.5)
    lines = expose(registry).decode().splitlines()
    assert "# HELP forced_total a\\nb" in lines
    assert "# TYPE forced_total counter" in lines
    assert 'gauge{l="q\\"u\\\\o\\nte"} +Inf' in lines
    assert not any("_created" in line for line in lines)
    assert {"# TYPE seconds histogram", 'seconds_bucket{le="0.1"} 0.0', "seconds_count 1.0"} <= set(lines)


def test_the_exposed_text_can_be_parsed() -> None:
    registry = new_registry()
    MetricCounter(NAME, "Failed calls", ["operation_type"], registry=registry).labels('a"\\\n').inc()
    families = {family.name: family for family in text_string_to_metric_families(expose(registry).decode())}
    assert families[NAME].samples[0].labels == {"operation_type": 'a"\\\n'}
    assert families["aadpodidentity_build_info"].samples[0].value == 1
    assert "process_resident_memory_bytes" in families


@dataclass
class Still:
    """A watch with this staleness and number of interruptions."""

    silent_seconds: float
    restarts: int

    def staleness_seconds(self) -> float:
        return self.silent_seconds


def test_each_watch_shows_its_silence_and_its_restarts_under_its_name() -> None:
    registry = CollectorRegistry()
    measures = WatchMetrics(registry, "aadpodidentity_mic_")
    assert "watch=" not in expose(registry).decode()
    measures.watch({"pods": Still(12.5, 3), "nodes": Still(0.0, 0)})
    lines = expose(registry).decode().splitlines()
    assert 'aadpodidentity_mic_watch_staleness_seconds{watch="pods"} 12.5' in lines
    assert 'aadpodidentity_mic_watch_restarts_total{watch="pods"} 3.0' in lines
    assert 'aadpodidentity_mic_watch_staleness_seconds{watch="nodes"} 0.0' in lines


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


LONGEST = "aadpodidentity_x_event_loop_lag_longest_seconds"


def samples(registry: CollectorRegistry) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in expose(registry).decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


async def test_each_stall_is_counted_once_and_is_the_longest_until_the_next_scrape() -> None:
    registry, loop, stalled = CollectorRegistry(), asyncio.get_running_loop(), 0.0
    lag = LoopLag(registry, "aadpodidentity_x_", interval_seconds=0.005, clock=lambda: loop.time() + stalled)
    task = asyncio.create_task(lag.run())
    await asyncio.sleep(0.012)
    stalled += 0.12
    await asyncio.sleep(0.012)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    seen = samples(registry)
    name = "aadpodidentity_x_event_loop_lag_seconds"
    assert seen[f'{name}_bucket{{le="+Inf"}}'] - seen[f'{name}_bucket{{le="0.1"}}'] == 1
    assert seen[LONGEST] == pytest.approx(0.12)
    assert samples(registry)[LONGEST] == 0
