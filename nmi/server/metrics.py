"""Metrics of the token server: the Go implementation's request histogram, refusals, and the lane's counters.

Label values come from closed sets, so that no request can create a new series: the canonical path, NMI's status codes,
a known audience or `other`, and the namespaces of known pods up to a limit. Observations go to C arrays
(`_native.histogram`), which the collector reads at each scrape.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from _native.histogram import Counter, Histogram, Series
from nmi.refusal import Limit, Reason

BUCKETS_SECONDS: Final = (
    *(0.000_05, 0.000_1, 0.000_25, 0.000_5),  # ready responses
    *(0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1),  # the token cache; a fast IMDS
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 45.0, 60.0),  # upstream, and waiting up to --max-hold
)
SERIES_MAX: Final = 2048
"""A scrape writes about twenty lines per series and must be short. Beyond it, namespace and resource are `other`."""

OTHER: Final = "other"
_HOSTS: Final = (
    "management.azure.com",
    "management.core.windows.net",
    "management.usgovcloudapi.net",
    "management.core.usgovcloudapi.net",
    "management.chinacloudapi.cn",
    "management.core.chinacloudapi.cn",
    "management.microsoftazure.de",
    "management.core.cloudapi.de",
    "graph.microsoft.com",
    "graph.microsoft.us",
    "graph.windows.net",
    "vault.azure.net",
    "vault.usgovcloudapi.net",
    "vault.azure.cn",
    "managedhsm.azure.net",
    "storage.azure.com",
    "database.windows.net",
    "ossrdbms-aad.database.windows.net",
    "servicebus.azure.net",
    "eventhubs.azure.net",
    "eventgrid.azure.net",
    "cognitiveservices.azure.com",
    "search.azure.com",
    "cosmos.azure.com",
    "redis.azure.com",
    "azconfig.io",
    "containerregistry.azure.net",
    "batch.core.windows.net",
    "datalake.azure.net",
    "monitor.azure.com",
    "api.loganalytics.io",
    "dev.azuresynapse.net",
    "digitaltwins.azure.net",
    "iothubs.azure.net",
)
_AUDIENCES: Final = {host: f"https://{host}/" for host in _HOSTS}


def audience(resource: str) -> str:
    """Return the label value for *resource*: a known audience in one spelling, else `other`."""
    host = resource.lower().removeprefix("https://").removesuffix("/.default").rstrip("/")
    return _AUDIENCES.get(host, OTHER)


class ServerMetrics:
    """Collector with the histogram and the counters. The constructor registers it with *registry*, if given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.histogram = Histogram(BUCKETS_SECONDS)
        self._series: dict[tuple[str, str, str, str], Series] = {}
        self._refusals = {reason: Counter() for reason in Reason}
        self._limits = dict.fromkeys(Limit, 0)
        self._lane: Callable[[], Mapping[str, int]] = dict
        self._pending: Callable[[], int] = int
        if registry is not None:
            registry.register(self)

    def watch(self, *, lane: Callable[[], Mapping[str, int]], pending: Callable[[], int]) -> None:
        """Expose the lane's counters and the number of waiting requests."""
        self._lane, self._pending = lane, pending

    def series(self, operation: str, status: int, namespace: str, resource: str) -> Series:
        """Return the series of a response. *namespace* is a known pod's or empty, *resource* an `audience` or empty."""
        labels = (operation, str(status), namespace, resource)
        series = self._series.get(labels)
        if series is None:
            if len(self._series) >= SERIES_MAX:
                return self.histogram.series((operation, str(status), OTHER, OTHER))
            series = self._series[labels] = self.histogram.series(labels)
        return series

    def refused(self, reason: Reason) -> None:
        self._refusals[reason].add()

    def refusals(self, reason: Reason) -> int:
        return self._refusals[reason].value

    def refusal_counter(self, reason: Reason) -> Counter:
        """Return the counter of refusals for *reason*, which ready refusals increase too."""
        return self._refusals[reason]

    def limit_hit(self, limit: Limit) -> None:
        """Count that *limit* took effect. The lane counts its own limits."""
        self._limits[limit] += 1

    def limits_hit(self) -> dict[Limit, int]:
        """Return how often each limit took effect, including the lane's limits."""
        lane = self._lane()
        return {limit: count + lane.get(_LANE_LIMITS.get(limit, ""), 0) for limit, count in self._limits.items()}

    def state(self) -> dict[str, object]:
        """Return the counts of refusals and limits, and the number of series."""
        return {
            "refusals": {reason.value: count.value for reason, count in self._refusals.items() if count.value},
            "limits_hit": {limit.value: count for limit, count in self.limits_hit().items() if count},
            "series": len(self._series),
        }

    def describe(self) -> list[Metric]:
        """Return nothing, so that the registration does not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield self._durations()
        refusals = CounterMetricFamily(
            "aadpodidentity_nmi_refusals", "Requests refused by the token server, by reason.", labels=["reason"]
        )
        for reason, counter in self._refusals.items():
            refusals.add_metric([reason.value], counter.value)
        yield refusals
        limits = CounterMetricFamily(
            "aadpodidentity_nmi_limits_hit", "How often a limit of the token server took effect.", labels=["limit"]
        )
        for limit, count in self.limits_hit().items():
            limits.add_metric([limit.value], count)
        yield limits
        yield GaugeMetricFamily(
            "aadpodidentity_nmi_pending_requests", "Requests that wait for their answer.", value=self._pending()
        )
        yield from self._connections()

    def _durations(self) -> Metric:
        family = HistogramMetricFamily(
            "aadpodidentity_nmi_operations_duration_seconds",
            "Time from a whole request to its answer, in seconds.",
            labels=["operation_type", "status_code", "namespace", "resource"],
        )
        bounds = [*(str(bound) for bound in self.histogram.bounds_seconds), "+Inf"]
        for series in self.histogram.all_series():
            cumulative = accumulate(series.counts())
            buckets = list(zip(bounds, map(float, cumulative), strict=True))
            family.add_metric(list(series.labels), buckets, series.sum_nanoseconds / 1e9)
        return family

    def _connections(self) -> Iterator[Metric]:
        for name, value in self._lane().items():
            if name == "open":
                yield GaugeMetricFamily("aadpodidentity_nmi_connections_open", "Open connections.", value=value)
            elif name in _LANE_COUNTERS:
                yield CounterMetricFamily(f"aadpodidentity_nmi_lane_{name}", _LANE_COUNTERS[name], value=value)


_LANE_COUNTERS: Final = {
    "accepted": "Connections accepted.",
    "closed_unread": (
        "Connections to the node's address that no rule had redirected, closed before a byte was read "
        "(--redirect-target=node)."
    ),
    "refused_total": "Connections refused because all connection slots were in use.",
    "refused_peer": "Connections refused because all slots of the peer were in use.",
    "timed_out": "Connections closed at a deadline.",
    "fast_answers": "Requests answered from ready responses, refusals included.",
    "handed_over": "Requests handed to the general lane.",
    "failed": "Connections closed because of a defect.",
}
_LANE_LIMITS: Final = {
    Limit.CONNECTIONS: "refused_total",
    Limit.CONNECTIONS_PER_PEER: "refused_peer",
    Limit.IDLE_EVICTED: "evicted_idle",
    Limit.SLOW_EVICTED: "evicted_slow",
    Limit.MEMORY_NARROWED: "narrowed",
    Limit.MEMORY_REFUSED: "refused_memory",
    Limit.MEMORY_EVICTED: "evicted_memory",
    Limit.FIRST_BYTE: "timed_out_first_byte",
    Limit.HEAD: "timed_out_head",
    Limit.IDLE: "timed_out_idle",
    Limit.WRITE: "timed_out_write",
}
"""The lane's counter of each limit."""
