"""Flags of MIC: those of the Go implementation, with their spelling, and additional ones, each with its setting.

This module defines names and value parsers. `mic.startup.settings` defines defaults, meanings and checks.
"""

import argparse
from enum import StrEnum
from pathlib import Path
from typing import Final

from podidentity.azure.resource_ids import id_key
from podidentity.flags import Flag, comma_list, go_bool, go_duration, go_int, one_of, quoted
from podidentity.telemetry.logs import LogFormat


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


FLAGS: Final[tuple[Flag, ...]] = (
    Flag("cloudconfig", "cloud_config", str, "path of azure.json; if empty, the environment is used"),
    Flag("kubeconfig", "kubeconfig", str, "path of a kubeconfig; without it the pod's service account"),
    Flag(
        "forceNamespaced",
        "force_namespaced",
        go_bool,
        "identity, binding and pod in one namespace (env FORCENAMESPACED)",
    ),
    Flag(
        "immutable-user-msis",
        "immutable_client_ids",
        _lower_case_list,
        "client ids that are never detached, comma-separated",
    ),
    Flag(
        "allowed-resource-groups",
        "allowed_resource_groups",
        _resource_groups,
        "group or subscription/group of the VMs and scale sets that MIC may change, comma-separated; all if empty",
    ),
    Flag("adopt-existing", "adopt_existing", go_bool, "also detach identities that were attached before MIC"),
    Flag(
        "assign-cluster-identity",
        "assign_cluster_identity",
        go_bool,
        "also assign the cluster's own identity, the kubelet's or MIC's, to pods",
    ),
    Flag("detach-grace", "detach_grace_seconds", go_duration, "how long an unused identity stays attached"),
    Flag(
        "identity-assignment-reconcile-interval", "look_seconds", go_duration, "how often hosts are compared with Azure"
    ),
    Flag("syncRetryDuration", "resync_seconds", go_duration, "how often everything out of sync is tried again"),
    Flag("createDeleteBatch", "write_batch", go_int, "concurrent requests to the API server"),
    Flag("clientQps", "writes_per_second", _number, "average writes to the API server per second"),
    Flag(
        "client-burst",
        "burst_writes",
        go_int,
        "writes that may start immediately after an idle time; 0: 40 s of clientQps",
    ),
    Flag("update-user-msi-max-retry", "update_retries", go_int, "retries without the identities that Azure refused"),
    Flag("update-user-msi-retry-interval", "update_retry_seconds", go_duration, "pause before such a retry"),
    Flag("arm-api-version", "arm_api_version", str, "api-version of the Compute API; pinned for each cloud if empty"),
    Flag("ca-bundle", "ca_bundle", Path, "file with further certificate authorities to trust for Azure"),
    Flag("custom-user-agent", "custom_user_agent", str, "added to the User-Agent sent to Azure"),
    Flag("leader-election-instance", "lease_holder", str, "name of this process in the lease; the host name if empty"),
    Flag("leader-election-namespace", "lease_namespace", str, "namespace of the lease"),
    Flag("leader-election-name", "lease_name", str, "name of the lease"),
    Flag("leader-election-duration", "lease_seconds", go_duration, "how long a lease is held without a renewal"),
    Flag("enable-type-upgrade", "type_upgrade", go_bool, "rewrite objects in the old field names"),
    Flag("config-map-name", "upgrade_config_map", str, "ConfigMap that records the type upgrade"),
    Flag("type-upgrade-status-key", "upgrade_key", str, "key in that ConfigMap"),
    Flag("read-old-field-names", "read_old_field_names", go_bool, "read old field names after the upgrade, too"),
    Flag("enableScaleFeatures", "scale_features", go_bool, "deprecated, always on"),
    Flag("startup-taint", "startup_taint", str, "key of the taint that is removed from a node when its NMI is Ready"),
    Flag("startup-taint-nmi-selector", "nmi_selector", str, "label selector of NMI's pods in MIC's namespace"),
    Flag("http-probe-port", "probe_port", go_int, "port of /healthz, /readyz and, on loopback, /debug/state"),
    Flag("prometheus-port", "metrics_port", go_int, "port of /metrics"),
    Flag("enableProfile", "profile", go_bool, "serve profiles of the running program on loopback"),
    Flag("log-format", "log_format", one_of(LogFormat), "text or json"),
    Flag("logtostderr", "log_to_stderr", go_bool, "deprecated, always on"),
    Flag("v", "verbosity", go_int, "log verbosity, on klog's scale", ("--verbosity",)),
    Flag(
        "plan",
        "plan",
        go_bool,
        "print the changes that MIC would make, and exit: 0 nothing to do, 3 something to do, 1 (partly) unknown",
    ),
    Flag("plan-output", "plan_output", one_of(PlanOutput), "text or json"),
    Flag("plan-all", "plan_all", go_bool, "also print unchanged hosts, and every object"),
    Flag("version", "version", go_bool, "print the version, and exit"),
)

FLAG_OF: Final = {flag.field: flag.name for flag in FLAGS}
