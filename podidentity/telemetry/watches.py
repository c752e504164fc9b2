"""How far behind a program's watches may be, read by a collector at each scrape."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


class Watch(Protocol):
    """What of an informer is exported."""

    @property
    def restarts(self) -> int: ...
    def staleness_seconds(self) -> float: ...


class WatchMeasures:
    """Registers itself with *registry*, which keeps it. *prefix* begins its metrics' names."""

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        self._prefix = prefix
        self._watches: Mapping[str, Watch] = {}
        registry.register(self)

    def watch(self, watches: Mapping[str, Watch]) -> None:
        """What to read from now on, by the value of the label `watch`."""
        self._watches = watches

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape."""
        staleness = GaugeMetricFamily(
            f"{self._prefix}watch_staleness_seconds", "Age of the watch's last sign of life.", labels=["watch"]
        )
        restarts = CounterMetricFamily(
            f"{self._prefix}watch_restarts", "Times that a watch failed or broke off.", labels=["watch"]
        )
        for name, watch in self._watches.items():
            staleness.add_metric([name], watch.staleness_seconds())
            restarts.add_metric([name], watch.restarts)
        yield staleness
        yield restarts
