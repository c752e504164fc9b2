"""MIC's metrics: those of the Go implementation, with their names, and additional ones. The caller provides the
registry."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram

from mic.azure.compute import KINDS, POLL
from mic.azure.errors import OUTCOMES
from podidentity.telemetry.metrics import PREFIX, MetricCounter

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
"""From one write to the API server (milliseconds) to one update of a large scale set (minutes)."""

OBJECT_OPERATIONS: Final = {
    "assigned_identity_addition": ("assigned_identity_addition_duration_seconds", "assigned_identity_addition_count"),
    "assigned_identity_deletion": ("assigned_identity_deletion_duration_seconds", "assigned_identity_deletion_count"),
    "assigned_identity_update": ("assigned_identity_update_duration_seconds", "assigned_identity_update_count"),
}
FAULTS: Final = ("plan", "write", "pass")
"""The planning for one pod or object; one write; the reconcile pass of one host, or of one node's taint."""
STATUS_OPERATION: Final = "update_azure_assigned_identity_status"


class MicMetrics:
    """The metrics, with one method for each event."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._object_seconds: dict[str, Histogram] = {}
        self._object_counts: dict[str, MetricCounter] = {}
        for operation, (seconds, count) in OBJECT_OPERATIONS.items():
            what = operation.replace("_", " ")
            self._object_seconds[operation] = self._histogram(seconds, f"Seconds of one {what}")
            self._object_counts[operation] = self._counter(count, f"{what.capitalize()}s that succeeded")
        errors = self._counter(
            "kubernetes_api_operations_errors_count", "Failed requests to the API server", "operation_type"
        )
        self._object_errors = {
            operation: errors.labels(operation) for operation in (*OBJECT_OPERATIONS, STATUS_OPERATION)
        }
        cloud_seconds = self._histogram(
            "cloud_provider_operations_duration_seconds", "Seconds of calls to Resource Manager", "operation_type"
        )
        cloud_errors = self._counter(
            "cloud_provider_operations_errors_count", "Failed calls to Resource Manager", "operation_type"
        )
        self._cloud_seconds = {kind: cloud_seconds.labels(kind) for kind in KINDS if kind != POLL}
        self._cloud_errors = {kind: cloud_errors.labels(kind) for kind in KINDS if kind != POLL}
        calls = self._counter("mic_arm_calls_count", "Calls to Resource Manager", "operation_type", "outcome")
        self._arm_calls = {(kind, outcome): calls.labels(kind, outcome) for kind in KINDS for outcome in OUTCOMES}
        self._cycle_seconds = self._histogram("mic_cycle_duration_seconds", "Seconds of one reconcile pass of a host")
        self._cycles = self._counter("mic_cycle_count", "Reconcile passes, each of one VM or scale set")
        faults = self._counter("mic_faults_total", "Unexpected exceptions; the affected object is left out", "where")
        self._faults = {where: faults.labels(where) for where in FAULTS}
        self._ignored = self._counter(
            "mic_ignored_objects_total", "Identities and bindings that were ignored, each change of one counted again"
        )
        self._elections = self._counter("mic_new_leader_election_count", "Times this process became the leader")

    def ignored(self) -> None:
        """Count an identity or a binding that is new or has changed and is ignored."""
        self._ignored.inc()

    def faulted(self, where: str) -> None:
        """Count an unexpected exception in one of FAULTS, whose object MIC leaves out for some time."""
        self._faults[where].inc()

    def wrote(self, operation: str, seconds: float) -> None:
        """Count a successful write to the API server; changes of a status only have no metric."""
        if operation in self._object_seconds:
            self._object_seconds[operation].observe(seconds)
            self._object_counts[operation].inc()

    def failed(self, operation: str) -> None:
        """Count a failed write to the API server."""
        self._object_errors[operation].inc()

    def called_cloud(self, operation: str, seconds: float, outcome: str) -> None:
        """Count a call to Resource Manager, an update with its whole operation. Polls have no metric in the Go
        implementation and are only counted."""
        self._arm_calls[operation, outcome].inc()
        if operation == POLL:
            return
        self._cloud_seconds[operation].observe(seconds)
        if outcome != "ok":
            self._cloud_errors[operation].inc()

    def reconciled(self, seconds: float) -> None:
        """Count one reconcile pass of a host."""
        self._cycle_seconds.observe(seconds)
        self._cycles.inc()

    def became_leader(self) -> None:
        """Count an election as the leader."""
        self._elections.inc()

    def watch(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Register a gauge that reads *value* at each scrape."""
        Gauge(PREFIX + name, documentation, registry=self._registry).set_function(value)

    def _histogram(self, name: str, documentation: str, *labels: str) -> Histogram:
        return Histogram(PREFIX + name, documentation, labels, registry=self._registry, buckets=SECONDS)

    def _counter(self, name: str, documentation: str, *labels: str) -> MetricCounter:
        return MetricCounter(PREFIX + name, documentation, labels, registry=self._registry)
