"""The table of MIC's settings: flags, environment variables, types, ranges and defaults.

`mic.startup.setting_rules` has the rules that connect several settings.
"""

import argparse
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from podidentity.azure.resource_ids import id_key
from podidentity.flags import comma_list, quoted
from podidentity.settings import (
    PORT,
    VERBOSITY,
    GoSetting,
    ProgramSettings,
    Range,
    Setting,
)
from podidentity.telemetry.logs import LogFormat, redacted


class PlanOutput(StrEnum):
    """The output format of `--plan`."""

    TEXT = "text"
    JSON = "json"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a number") from None


def _lower_case_list(text: str) -> tuple[str, ...]:
    return comma_list(id_key(text))


def _resource_groups(text: str) -> tuple[str, ...]:
    groups = _lower_case_list(text)
    if text and not groups:  # no groups would mean all
        raise argparse.ArgumentTypeError(f"{quoted(text)} names no resource group")
    return groups


class SettingTable(ProgramSettings, frozen=True, kw_only=True):
    """The settings, not yet checked. Programs use `mic.startup.settings.Settings`."""

    namespace: Annotated[str, Setting(env="MIC_POD_NAMESPACE")]
    """The namespace MIC runs in (environment MIC_POD_NAMESPACE); required."""

    # Sources.
    cloud_config: Annotated[str, GoSetting("cloudconfig", "path of azure.json; if empty, the environment is used")] = ""
    """Path of azure.json, read again when it changes; if empty, the environment contains these values."""
    environment: Annotated[Mapping[str, str], Setting(env="CLOUD, TENANT_ID, …", secret=True)] = {}
    """The environment variables that replace azure.json."""
    kubeconfig: Annotated[
        str, GoSetting("kubeconfig", "path of a kubeconfig; without it the pod's service account", env="KUBECONFIG")
    ] = ""
    """Path of a kubeconfig; empty means the service account of this pod."""
    service_host: Annotated[str, Setting(env="KUBERNETES_SERVICE_HOST")] = ""
    """Host of the API server as seen in a pod (environment KUBERNETES_SERVICE_HOST)."""
    service_port: Annotated[str, Setting(env="KUBERNETES_SERVICE_PORT")] = ""
    """Its port (environment KUBERNETES_SERVICE_PORT)."""

    # Selection and detaching of identities.
    force_namespaced: Annotated[
        bool, GoSetting("forceNamespaced", "identity, binding and pod in one namespace (env FORCENAMESPACED)")
    ] = False
    """Identity, binding and pod must be in one namespace."""
    immutable_client_ids: Annotated[
        tuple[str, ...],
        GoSetting(
            "immutable-user-msis",
            "client ids that are never detached, comma-separated",
            read=_lower_case_list,
            redact=redacted,
        ),
    ] = ()
    """Client ids, lower-case, of identities that MIC never detaches."""
    allowed_resource_groups: Annotated[
        tuple[str, ...],
        Setting(
            "allowed-resource-groups",
            "group or subscription/group of the VMs and scale sets that MIC may change, comma-separated; all if empty",
            read=_resource_groups,
        ),
    ] = ()
    """Resource groups, as group or subscription/group, whose VMs and scale sets MIC reads and changes. Without any: all
    that a node names."""
    adopt_existing: Annotated[
        bool, Setting("adopt-existing", "also detach identities that were attached before MIC")
    ] = False
    """Treat identities that were attached before MIC as MIC's: detach them when no pod needs them."""
    assign_cluster_identity: Annotated[
        bool,
        Setting("assign-cluster-identity", "also assign the cluster's own identity, the kubelet's or MIC's, to pods"),
    ] = False
    """Assign also the cluster's own identity, which the cloud config names: the kubelet's, or MIC's."""
    detach_grace_seconds: Annotated[
        float, Setting("detach-grace", "how long an unused identity stays attached", Range(0, 86_400))
    ] = 0.0
    """How long an identity that no pod needs stays attached, although no pod is served it; a new leader starts it
    again."""

    # Intervals and rates.
    look_seconds: Annotated[
        float,
        GoSetting(
            "identity-assignment-reconcile-interval", "how often hosts are compared with Azure", Range(10, 86_400)
        ),
    ] = 180.0
    """Interval at which each VM or scale set is compared with Azure."""
    resync_seconds: Annotated[
        float, GoSetting("syncRetryDuration", "how often everything out of sync is tried again", Range(10, 604_800))
    ] = 3600.0
    """Interval at which everything out of sync is tried again, with or without an event."""
    write_batch: Annotated[
        int, GoSetting("createDeleteBatch", "concurrent requests to the API server", Range(1, 1000))
    ] = 20
    """Requests to the API server that create, change or delete assigned identities, in flight at once."""
    writes_per_second: Annotated[
        float,
        GoSetting(
            "clientQps", "average writes to the API server per second", Range(0.1, 10_000), read=_number, go_default="5"
        ),
    ] = 50.0
    """Such requests that start per second, on average."""
    burst_writes: Annotated[
        int,
        Setting(
            "client-burst",
            "writes that may start immediately after an idle time; 0: 40 s of clientQps",
            Range(0, 1_000_000),
        ),
    ] = 0
    """Unused requests that may start immediately; 0: 40 seconds' worth."""
    update_retries: Annotated[
        int, GoSetting("update-user-msi-max-retry", "retries without the identities that Azure refused", Range(0, 100))
    ] = 2
    """Retries of an update within one pass, without the identities that Azure refused."""
    update_retry_seconds: Annotated[
        float, GoSetting("update-user-msi-retry-interval", "pause before such a retry", Range(0, 3600))
    ] = 1.0
    """Seconds of pause before each of these retries."""

    # Requests to Azure.
    arm_api_version: Annotated[
        str, Setting("arm-api-version", "api-version of the Compute API; pinned for each cloud if empty")
    ] = ""
    """Version of the Compute API; empty means the one that is pinned for the cloud."""
    ca_bundle: Annotated[
        Path | None, Setting("ca-bundle", "file with further certificate authorities to trust for Azure")
    ] = None
    """File with PEM certificates of private authorities, which are trusted for Azure in addition to the image's; MIC
    reads it again when it changes."""
    azure_environment_file: Annotated[Path | None, Setting(env="AZURE_ENVIRONMENT_FILEPATH")] = None
    """Description of a custom cloud (environment AZURE_ENVIRONMENT_FILEPATH)."""
    custom_user_agent: Annotated[str, GoSetting("custom-user-agent", "added to the User-Agent sent to Azure")] = ""
    """Added to the User-Agent sent to Azure; printable ASCII, at most 200 characters."""

    # Leadership.
    lease_holder: Annotated[
        str, GoSetting("leader-election-instance", "name of this process in the lease; the host name if empty")
    ] = ""
    """This process's name in the lease, which MIC makes unique; empty means the host name."""
    lease_namespace: Annotated[str, GoSetting("leader-election-namespace", "namespace of the lease")] = "default"
    lease_name: Annotated[str, GoSetting("leader-election-name", "name of the lease")] = "aad-pod-identity-mic"
    lease_seconds: Annotated[
        float, GoSetting("leader-election-duration", "how long a lease is held without a renewal", Range(2, 3600))
    ] = 15.0
    """How long other replicas wait for a silent leader, which itself stops after half of that."""

    # Type upgrade.
    type_upgrade: Annotated[bool, GoSetting("enable-type-upgrade", "rewrite objects in the old field names")] = True
    """Rewrite objects whose fields are spelled as before 1.6.0, once."""
    upgrade_config_map: Annotated[str, GoSetting("config-map-name", "ConfigMap that records the type upgrade")] = (
        "aad-pod-identity-config"
    )
    """ConfigMap, in MIC's namespace, that records the upgrade."""
    upgrade_key: Annotated[str, GoSetting("type-upgrade-status-key", "key in that ConfigMap")] = "type-upgrade-status"
    """Key in it."""
    read_old_field_names: Annotated[
        bool, Setting("read-old-field-names", "read old field names after the upgrade, too")
    ] = False
    """Fields spelled as before 1.6.0 count also after the upgrade."""
    scale_features: Annotated[bool, GoSetting("enableScaleFeatures", "deprecated, always on")] = True
    """Deprecated: always on."""

    # Start-up taint.
    startup_taint: Annotated[
        str, Setting("startup-taint", "key of the taint that is removed from a node when its NMI is Ready")
    ] = ""
    """Key of a taint that MIC removes from a node when its NMI is Ready; empty: MIC changes no taints."""
    nmi_selector: Annotated[
        str, Setting("startup-taint-nmi-selector", "label selector of NMI's pods in MIC's namespace")
    ] = "app.kubernetes.io/component=nmi"
    """Label selector of NMI's pods, in MIC's namespace."""

    # Operation.
    probe_port: Annotated[
        int, GoSetting("http-probe-port", "port of /healthz, /readyz and, on loopback, /debug/state", PORT)
    ] = 8080
    """/healthz and /readyz on every address, /debug/state on loopback."""
    metrics_port: Annotated[int, GoSetting("prometheus-port", "port of /metrics", PORT)] = 8888
    """/metrics, on every address."""
    profile: Annotated[bool, GoSetting("enableProfile", "serve profiles of the running program on loopback")] = False
    log_format: Annotated[LogFormat, GoSetting("log-format", "text or json")] = LogFormat.TEXT
    """Text lines, or one JSON object per line."""
    log_to_stderr: Annotated[bool, GoSetting("logtostderr", "deprecated, always on")] = True
    """Deprecated: always on."""
    verbosity: Annotated[int, GoSetting("v", "log verbosity, on klog's scale", VERBOSITY, alias="--verbosity")] = 0
    """klog's scale: 0 logs actions, 4 and more is for debugging."""

    # Instead of running.
    plan: Annotated[
        bool,
        Setting(
            "plan",
            "print the changes that MIC would make, and exit: 0 nothing to do, 3 something to do, 1 (partly) unknown",
        ),
    ] = False
    """Print the changes that MIC would make, make none, and exit."""
    plan_output: Annotated[PlanOutput, Setting("plan-output", "text or json")] = PlanOutput.TEXT
    """Format of the plan: text, or one JSON object."""
    plan_all: Annotated[bool, Setting("plan-all", "also print unchanged hosts, and every object")] = False
    version: Annotated[bool, GoSetting("version", "print the version, and exit")] = False
