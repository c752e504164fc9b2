"""The table of MIC's settings: flags, environment variables, types, ranges and defaults.

`mic.startup.setting_rules` has the rules that connect several settings.
"""

import argparse
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from podidentity import daemon_settings as daemon
from podidentity.azure.resource_ids import id_key
from podidentity.flags import comma_list, quoted
from podidentity.settings import VERBOSITY, GoSetting, ProgramSettings, Range, Setting
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
    """The settings, not yet checked. Programs use `mic.startup.settings.MicSettings`."""

    # Cluster.
    namespace: Annotated[str, Setting(env=("MIC_POD_NAMESPACE",))]
    """Namespace of MIC; required."""
    kubeconfig: daemon.Kubeconfig = ""

    # Selection and detaching of identities.
    force_namespaced: daemon.ForceNamespaced = False
    immutable_client_ids: Annotated[
        tuple[str, ...], GoSetting("immutable-user-msis", read=_lower_case_list, redact=redacted)
    ] = ()
    """Client ids, lower-case, of identities that MIC never detaches."""
    allowed_resource_groups: Annotated[tuple[str, ...], Setting("allowed-resource-groups", read=_resource_groups)] = ()
    """Resource groups, as group or subscription/group, whose VMs and scale sets MIC reads and changes. Without any: all
    that a node names."""
    adopt_existing: Annotated[bool, Setting("adopt-existing")] = False
    """Treat identities that were attached before MIC as MIC's: detach them when no pod needs them."""
    assign_cluster_identity: Annotated[bool, Setting("assign-cluster-identity")] = False
    """Assign also the cluster's own identity, which the cloud config names: the kubelet's, or MIC's."""
    detach_grace_seconds: Annotated[float, Setting("detach-grace", Range(0, 86_400))] = 0.0
    """How long an identity that no pod needs stays attached, although no pod is served it; a new leader starts it
    again."""

    # Intervals and rates.
    look_seconds: Annotated[float, GoSetting("identity-assignment-reconcile-interval", Range(10, 86_400))] = 180.0
    """Interval at which each VM or scale set is compared with Azure."""
    resync_seconds: Annotated[float, GoSetting("syncRetryDuration", Range(10, 604_800))] = 3600.0
    """Interval at which everything out of sync is tried again, with or without an event."""
    write_batch: Annotated[int, GoSetting("createDeleteBatch", Range(1, 1000))] = 20
    """Requests to the API server that create, change or delete assigned identities, in flight at once."""
    # With the Go implementation's 5, 2,000 pods waited 13 minutes.
    writes_per_second: Annotated[float, GoSetting("clientQps", Range(0.1, 10_000), read=_number, go_default="5")] = 50.0
    """Such requests that start per second, on average."""
    burst_writes: Annotated[int, Setting("client-burst", Range(0, 1_000_000))] = 0
    """Such requests that may start immediately after an idle time; 0: 40 seconds of `--clientQps`."""
    update_retries: Annotated[int, GoSetting("update-user-msi-max-retry", Range(0, 100))] = 2
    """Retries of an update within one pass, without the identities that Azure refused."""
    update_retry_seconds: Annotated[float, GoSetting("update-user-msi-retry-interval", Range(0, 3600))] = 1.0
    """Pause before each of these retries."""

    # Azure.
    cloud_config: Annotated[str, GoSetting("cloudconfig")] = ""
    """Path of azure.json, read again when it changes; if empty, `CLIENT_ID` and others in the environment
    count."""
    # A mapping has no parser: `parse` reads these variables, and log lines name them like this.
    environment: Annotated[Mapping[str, str], Setting(env=("CLOUD, TENANT_ID, …",), secret=True)] = {}
    """The environment variables that replace azure.json."""
    arm_api_version: Annotated[str, Setting("arm-api-version")] = ""
    """Version of the Compute API; empty means the one that is pinned for the cloud."""
    ca_bundle: daemon.CaBundle = None
    custom_user_agent: daemon.CustomUserAgent = ""

    # Leadership.
    lease_holder: Annotated[str, GoSetting("leader-election-instance")] = ""
    """This process's name in the lease, which MIC makes unique; empty means the host name."""
    lease_namespace: Annotated[str, GoSetting("leader-election-namespace")] = "default"
    """Namespace of the lease."""
    lease_name: Annotated[str, GoSetting("leader-election-name")] = "aad-pod-identity-mic"
    """Name of the lease."""
    lease_seconds: Annotated[float, GoSetting("leader-election-duration", Range(2, 3600))] = 15.0
    """How long other replicas wait for a silent leader, which itself stops after half of that."""

    # Upgrade of old field names.
    type_upgrade: Annotated[bool, GoSetting("enable-type-upgrade")] = True
    """Rewrite objects whose fields are spelled as before 1.6.0, once."""
    upgrade_config_map: Annotated[str, GoSetting("config-map-name")] = "aad-pod-identity-config"
    """ConfigMap, in MIC's namespace, that records the upgrade."""
    upgrade_key: Annotated[str, GoSetting("type-upgrade-status-key")] = "type-upgrade-status"
    """Key in it."""
    read_old_field_names: Annotated[bool, Setting("read-old-field-names")] = False
    """Fields spelled as before 1.6.0 count also after the upgrade."""

    # Start-up taint.
    startup_taint: Annotated[str, Setting("startup-taint")] = ""
    """Key of a taint that MIC removes from a node when its NMI is Ready; empty: MIC changes no taints."""
    nmi_selector: Annotated[str, Setting("startup-taint-nmi-selector")] = "app.kubernetes.io/component=nmi"
    """Label selector of NMI's pods, in MIC's namespace."""

    # Telemetry.
    probe_port: daemon.ProbePort = 8080
    metrics_port: daemon.MetricsPort = 8888
    profile: daemon.Profile = False
    log_format: daemon.LogFormat = LogFormat.TEXT
    verbosity: Annotated[int, GoSetting("v", VERBOSITY, alias="--verbosity")] = 0
    """klog's scale: 0 logs actions, 4 and more is for debugging."""

    # Instead of running.
    plan: Annotated[bool, Setting("plan")] = False
    """Print the changes that MIC would make, make none, and exit: 0 nothing to do, 3 something to do, 1 (partly)
    unknown."""
    plan_output: Annotated[PlanOutput, Setting("plan-output")] = PlanOutput.TEXT
    """Format of the plan: text, or one JSON object."""
    plan_all: Annotated[bool, Setting("plan-all")] = False
    """Also print unchanged hosts, and every object."""
    version: daemon.Version = False

    # Without effect.
    # Command lines of the Go implementation have this flag and --logtostderr.
    scale_features: Annotated[bool, GoSetting("enableScaleFeatures")] = True
    """Deprecated: always on."""
    log_to_stderr: Annotated[bool, GoSetting("logtostderr")] = True
    """Deprecated: always on."""
