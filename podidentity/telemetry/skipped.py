"""Number of objects that a program skips, read by a collector at each scrape."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric

from podidentity.kube.skipped import REASONS, Reason
from podidentity.resources import Kind


class SkippedMetrics:
    """Collector that registers itself with *registry*, which keeps it. *prefix* is the prefix of its metric name."""

    def __init__(self, registry: CollectorRegistry, prefix: str, kinds: Collection[Kind[Any]]) -> None:
        """*kinds* are the kinds that the program reads and tenants write."""
        self._prefix = prefix
        self._kinds = tuple(kind.plural for kind in kinds)
        self._counts: Mapping[tuple[str, Reason], int] = {}
        registry.register(self)

    def watch(self, counts: Mapping[tuple[str, Reason], int]) -> None:
        """Set the source of the values."""
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Return the metrics at each scrape."""
        skipped = CounterMetricFamily(
            f"{self._prefix}objects_skipped",
            "Versions of objects that were skipped and treated as absent.",
            labels=["kind", "reason"],
        )
        for kind in self._kinds:
            for reason in REASONS:
                skipped.add_metric([kind, reason], self._counts.get((kind, reason), 0))
        yield skipped
