"""State of a program's watches, read by a collector at each scrape."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


class Watch(Protocol):
    """Properties of an informer that are exported."""

    @property
    def restarts(self) -> int: ...
    def staleness_seconds(self) -> float: ...


class WatchMetrics:
    """Collector that registers itself with *registry*, which keeps it. *prefix* is the prefix of its metric names."""

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        self._prefix = prefix
        self._watches: Mapping[str, Watch] = {}
        registry.register(self)

    def watch(self, watches: Mapping[str, Watch]) -> None:
        """Set the sources of the values, by the value of the label `watch`."""
        self._watches = watches

    def collect(self) -> Iterator[Metric]:
        """Return the metrics at each scrape."""
        staleness = GaugeMetricFamily(
            f"{self._prefix}watch_staleness_seconds", "Age of the watch's last message.", labels=["watch"]
        )
        restarts = CounterMetricFamily(
            f"{self._prefix}watch_restarts", "Number of times that a watch failed or was interrupted.", labels=["watch"]
        )
        for name, watch in self._watches.items():
            staleness.add_metric([name], watch.staleness_seconds())
            restarts.add_metric([name], watch.restarts)
        yield staleness
        yield restarts
