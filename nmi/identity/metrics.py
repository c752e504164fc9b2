"""Metrics of pods and identities, collected at each scrape. A pod cannot choose any label value."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from nmi.identity.address_evidence import EvidenceKind
from podidentity.telemetry.watches import Watch, WatchMetrics

PREFIX: Final = "aadpodidentity_nmi_"


class IdentityMetrics:
    """Counters of the cluster cache and of held requests; registers itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.held = 0
        """Requests that wait now for a change of their pod, mostly for an assignment."""
        self.unverified = 0
        """Grants while a watch was silent, or the pod was ending, and the API server did not respond."""
        self.retired_by_read = 0
        """Removed pods that a read noticed before the watch reported it."""
        self.failed_secret_reads = 0
        """Failed reads of Secrets of service principals."""
        self.failed_token_requests = 0
        """Failed requests for tokens of pods' service accounts."""
        self._watches = WatchMetrics(registry, PREFIX)
        self._gauges: Mapping[str, Callable[[], float]] = {}
        self._suspensions: Mapping[EvidenceKind, int] = {}
        registry.register(self)

    def watch(
        self,
        watches: Mapping[str, Watch],
        gauges: Mapping[str, Callable[[], float]],
        suspensions: Mapping[EvidenceKind, int] = MappingProxyType({}),
    ) -> None:
        """Set the sources of the other metrics.

        Keys of *gauges*: index_size, parked, stale, exceptions, assignments_beyond_limit, suspended_pods, and the
        counts failed_reads and exceptions_seen.
        """
        self._watches.watch(watches)
        self._gauges = gauges
        self._suspensions = suspensions

    def secret_not_read(self) -> None:
        """Count a failed read of a Secret."""
        self.failed_secret_reads += 1

    def token_not_made(self) -> None:
        """Count a failed token request."""
        self.failed_token_requests += 1

    def collect(self) -> Iterator[Metric]:
        """Return the metrics; the registry calls it at each scrape."""
        gauges = dict(self._gauges)
        for name, text in (
            ("index_size", "Addresses with a pod record."),
            ("parked", "Requests that wait because their address has no pod record yet."),
            ("stale", "1 while a watch is silent past its deadline."),
            (
                "assignments_beyond_limit",
                "Bindings or assigned identities that are ignored because others fill a limit.",
            ),
            ("exceptions", "AzurePodIdentityExceptions that give pods the node's own identities."),
            (
                "suspended_pods",
                "Pods that get no token because local evidence shows that their address changed its owner.",
            ),
        ):
            yield GaugeMetricFamily(f"{PREFIX}{name}", text, value=_value(gauges, name))
        # CounterMetricFamily would append `_total`, which the Go implementation's name does not have.
        errors = Metric(
            "aadpodidentity_kubernetes_api_operations_errors_count",
            "Reads and token requests without a response from the API server.",
            "counter",
        )
        errors.add_sample(errors.name, {"operation_type": "get_pod_list"}, _value(gauges, "failed_reads"))
        errors.add_sample(errors.name, {"operation_type": "get_secret"}, self.failed_secret_reads)
        errors.add_sample(errors.name, {"operation_type": "create_token"}, self.failed_token_requests)
        yield errors
        yield CounterMetricFamily(
            f"{PREFIX}exceptions_seen",
            "Exceptions that became effective, or changed what they match.",
            value=_value(gauges, "exceptions_seen"),
        )
        suspensions = CounterMetricFamily(
            f"{PREFIX}suspensions",
            "Suspensions of pods by local evidence that their address changed its owner.",
            labels=["evidence"],
        )
        for kind in EvidenceKind:
            suspensions.add_metric([kind], self._suspensions.get(kind, 0))
        yield suspensions
        yield GaugeMetricFamily(f"{PREFIX}held_requests", "Requests waiting for an assignment.", value=self.held)
        yield CounterMetricFamily(
            f"{PREFIX}unverified_grants", "Grants while the API server could not confirm them.", value=self.unverified
        )
        yield CounterMetricFamily(
            f"{PREFIX}pods_retired_by_read",
            "Removed pods that a read noticed before the watch reported it.",
            value=self.retired_by_read,
        )


def _value(gauges: Mapping[str, Callable[[], float]], name: str) -> float:
    return float(gauges[name]()) if name in gauges else 0.0
