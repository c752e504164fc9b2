"""Tables of all metrics, from registries that are filled as `nmi.app` and `mic.app` fill theirs.

A test scrapes both programs and compares their names and labels with these registries.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from unittest.mock import MagicMock

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from mic import app as mic_app
from mic.endpoints import Endpoints
from mic.metrics import MicMetrics
from mic.startup.settings import MicSettings
from nmi import app as nmi_app
from nmi.handover.metrics import HandoverMetrics
from nmi.identity.metrics import PREFIX as NMI_PREFIX
from nmi.identity.metrics import IdentityMetrics
from nmi.node.metrics import NodeMetrics
from nmi.node.network_monitor import NetworkMonitor
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.server.metrics import _HOSTS, _LANE_COUNTERS, OTHER, ServerMetrics
from nmi.server.target import CanonicalPath
from nmi.settings import NmiSettings
from nmi.tokens.governor import Governor
from nmi.tokens.metrics import AUDIENCE_START, IDENTITIES_MAX, PER_NAMESPACE_MAX, ApplicationCredentials, TokenMetrics
from podidentity.resources import AzureIdentity, Meta
from podidentity.telemetry.loop_lag import LoopLag
from podidentity.telemetry.metrics import expose, new_registry
from podidentity.telemetry.skipped import SkippedMetrics
from tools.handbook.tables import table

NMI_WATCHES: Final = ("pods", "exceptions", "assigned_identities", "identities", "bindings")
"""The last two in managed mode, in which there are no assigned identities."""
MIC_WATCHES: Final = ("pods", "nodes", "identities", "bindings", "assigned_identities")

_GO_METRICS: Final = (
    "assigned_identity_addition_duration_seconds assigned_identity_addition_count "
    "assigned_identity_deletion_duration_seconds assigned_identity_deletion_count "
    "assigned_identity_update_duration_seconds assigned_identity_update_count nmi_operations_duration_seconds "
    "mic_cycle_duration_seconds mic_cycle_count mic_new_leader_election_count "
    "cloud_provider_operations_errors_count cloud_provider_operations_duration_seconds "
    "kubernetes_api_operations_errors_count imds_operations_errors_count imds_operations_duration_seconds"
)
GO_METRICS: Final = frozenset(f"aadpodidentity_{name}" for name in _GO_METRICS.split())
"""The metrics of the Go implementation (v1.8.17), from its pkg/metrics/metrics.go."""

OPEN: Final[Mapping[str, str]] = {
    "status_code": "the answer's status code",
    "namespace": f"of a pod that NMI knows, empty where none is known, `{OTHER}` past 2,048 series",
    "resource": f"one of {len(_HOSTS)} known audiences, else `{OTHER}`; empty where none was asked for",
    "identity": f"namespace and name of an AzureIdentity, at most {PER_NAMESPACE_MAX} of a namespace and "
    f"{IDENTITIES_MAX} in all",
    "version": "the program's",
    "python": "the interpreter's version",
}
"""Labels whose values no table can list, and what bounds them."""


@dataclass
class Shown:
    """One metric of a scrape."""

    name: str
    """Name in the TYPE line of the text format."""
    kind: str
    help: str
    labels: dict[str, set[str]] = field(default_factory=dict)


class _Watch:
    restarts = 0

    def staleness_seconds(self) -> float:
        return 0.0


def nmi_registry() -> CollectorRegistry:
    """Return a registry with all metrics of NMI, and a series for each value of a label with a closed set of values."""
    registry = new_registry()
    HandoverMetrics(registry)
    NodeMetrics(registry, TrafficRedirect(NmiSettings(node_name="n")), NetworkMonitor())
    SkippedMetrics(registry, NMI_PREFIX, nmi_app.READ_KINDS)
    LoopLag(registry, NMI_PREFIX)
    IdentityMetrics(registry).watch({name: _Watch() for name in NMI_WATCHES}, {})
    applications = ApplicationCredentials()
    applications.record(AzureIdentity(metadata=Meta(namespace="n", name="n")), AUDIENCE_START)
    TokenMetrics(registry).watch(tokens=int, governor=Governor(), application_credentials=applications)
    measures = ServerMetrics(registry)
    measures.watch(lane=lambda: dict.fromkeys(("open", *_LANE_COUNTERS), 0), pending=int)
    for canonical_path in CanonicalPath:
        measures.series(canonical_path, 200, "", "")
    return registry


def mic_registry() -> CollectorRegistry:
    """Return a registry with all metrics of MIC. Mocks replace the objects that the endpoints read at a scrape."""
    registry = new_registry()
    SkippedMetrics(registry, mic_app.PREFIX, mic_app.READ_KINDS)
    LoopLag(registry, mic_app.PREFIX)
    settings = MicSettings(namespace="default")
    watches = {name: _Watch() for name in MIC_WATCHES}
    others = ("lease_client", "lease", "contact", "view", "host_reconciler", "controller", "compute", "recorder")
    mocks = {name: MagicMock(**{"remaining_seconds.return_value": 0.0}) for name in others}
    Endpoints(settings, registry, MicMetrics(registry), watches=watches, **mocks)
    return registry


def shown(exposed: str) -> Iterator[Shown]:
    """Yield the metrics in *exposed*, the text of a scrape."""
    kinds = dict(line.split()[2:4] for line in exposed.splitlines() if line.startswith("# TYPE "))
    for family in text_string_to_metric_families(exposed):
        # The parser removes the suffix that the format adds.
        name = family.name if family.name in kinds else f"{family.name}_total"
        metric = Shown(name, kinds[name], family.documentation)
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label != "le":
                    metric.labels.setdefault(label, set()).add(value)
        yield metric


def made() -> str:
    """Return the generated part of docs/metrics.md."""
    return "\n\n".join(
        f"## {title}\n\n{_table(expose(registry).decode())}"
        for title, registry in (("NMI", nmi_registry()), ("MIC", mic_registry()))
    )


def _table(exposed: str) -> str:
    rows = [
        [
            f"`{metric.name}`",
            metric.kind,
            _labels(metric),
            _sentence(metric.help),
            "yes" if metric.name in GO_METRICS else "",
        ]
        for metric in sorted(shown(exposed), key=lambda metric: (not metric.name.startswith("aad"), metric.name))
    ]
    return table(["metric", "type", "labels", "meaning", "Go implementation"], rows)


def _labels(metric: Shown) -> str:
    return "<br>".join(
        f"`{name}`: {OPEN.get(name) or ', '.join(f'`{value}`' for value in sorted(values))}"
        for name, values in metric.labels.items()
    )


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
