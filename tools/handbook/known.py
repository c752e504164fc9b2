"""Flags and metrics of the Go implementation (v1.8.17), which this project's code does not state.

reference: cmd/nmi/main.go, cmd/mic/main.go, pkg/log, pkg/metrics/metrics.go; `v` and `logtostderr` are klog's, which
both programs accept.
"""

from collections.abc import Mapping
from typing import Final

_NMI: Final = (
    "node nmi-listen-address nmi-port metadata-ip metadata-port ipt-update-interval-sec forceNamespaced "
    "MICNamespace http-probe-port prometheus-port retry-attempts-for-created retry-attempts-for-assigned "
    "find-identity-retry-interval enableProfile enableScaleFeatures block-instance-metadata "
    "metadata-header-required operation-mode allow-network-plugin-kubenet kubelet-config set-retry-after-header "
    "enable-conntrack-deletion log-format v logtostderr version custom-user-agent kubeconfig"
)
_MIC: Final = (
    "cloudconfig kubeconfig forceNamespaced immutable-user-msis identity-assignment-reconcile-interval "
    "syncRetryDuration createDeleteBatch clientQps update-user-msi-max-retry update-user-msi-retry-interval "
    "custom-user-agent leader-election-instance leader-election-namespace leader-election-name "
    "leader-election-duration enable-type-upgrade config-map-name type-upgrade-status-key enableScaleFeatures "
    "http-probe-port prometheus-port enableProfile log-format logtostderr v version"
)
_METRICS: Final = (
    "assigned_identity_addition_duration_seconds assigned_identity_addition_count "
    "assigned_identity_deletion_duration_seconds assigned_identity_deletion_count "
    "assigned_identity_update_duration_seconds assigned_identity_update_count nmi_operations_duration_seconds "
    "mic_cycle_duration_seconds mic_cycle_count mic_new_leader_election_count "
    "cloud_provider_operations_errors_count cloud_provider_operations_duration_seconds "
    "kubernetes_api_operations_errors_count imds_operations_errors_count imds_operations_duration_seconds"
)

NMI_FLAGS: Final = frozenset(_NMI.split())
MIC_FLAGS: Final = frozenset(_MIC.split())
OTHER_DEFAULTS: Final[Mapping[str, str]] = {"clientQps": "5"}
"""Flags with another default in the Go implementation."""
METRICS: Final = frozenset(f"aadpodidentity_{name}" for name in _METRICS.split())
