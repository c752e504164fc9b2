"""The flags of NMI: those of the Go implementation with their spelling, and NMI's own, each with its setting.

Only names and parsers. Defaults, descriptions and dependencies are in `nmi.settings`.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from podidentity.azure.federation import Exchange
from podidentity.flags import Flag, comma_list, go_bool, go_duration, go_int, one_of
from podidentity.telemetry.logs import LogFormat


class OperationMode(StrEnum):
    """The source of a pod's identities: MIC's AzureAssignedIdentities, or NMI itself in the pod's namespace."""

    STANDARD = "standard"
    MANAGED = "managed"


class RedirectMode(StrEnum):
    """How requests reach NMI: by a rule of the node in one backend of netfilter, by a Cilium policy, or directly."""

    AUTO = "auto"
    NAT = "nat"
    """The former name of `auto`."""
    IPTABLES_LEGACY = "iptables-legacy"
    IPTABLES_NFT = "iptables-nft"
    NFTABLES = "nftables"
    CILIUM = "cilium"
    NONE = "none"

    @property
    def changes_rules(self) -> bool:
        """Return whether NMI writes rules of the node."""
        return self not in (RedirectMode.CILIUM, RedirectMode.NONE)


class RedirectTarget(StrEnum):
    """The address to which the node redirects pods' requests."""

    AUTO = "auto"
    LOOPBACK = "loopback"
    """The listener's address, 127.0.0.1 by default; it needs route_localnet."""
    NODE = "node"
    """The node's own address, which needs no route_localnet."""


class RouteLocalnetMode(StrEnum):
    """The handling of route_localnet, without which a nat rule cannot redirect to 127.0.0.1."""

    CHECK = "check"
    SET = "set"


class BootGuardAction(StrEnum):
    """The action on the host's boot guard, instead of serving."""

    NONE = "none"
    INSTALL = "install"
    REMOVE = "remove"


class StaleIdentity(StrEnum):
    """The response to a pod while neither the watch nor a read can confirm that it still exists."""

    SERVE = "serve"
    REFUSE = "refuse"


def _numbers(text: str) -> frozenset[int]:
    return frozenset(go_int(part) for part in comma_list(text))


FLAGS: tuple[Flag, ...] = (
    Flag("node", "node_name", str, "name of the node NMI runs on (required)"),
    Flag("nmi-listen-address", "listen_address", str, "IPv4 address to listen on"),
    Flag("nmi-port", "listen_port", go_int, "port to listen on"),
    Flag("max-connections", "max_connections", go_int, "open connections in total"),
    Flag("max-connections-per-pod", "max_connections_per_pod", go_int, "open connections from one address"),
    Flag("max-connection-bytes", "max_connection_bytes", go_int, "memory of all connections together"),
    Flag("max-head-bytes", "max_head_bytes", go_int, "length of a request's line and header fields together"),
    Flag("max-header-fields", "max_header_fields", go_int, "header fields of one request"),
    Flag("max-target-bytes", "max_target_bytes", go_int, "length of a request's path and query together"),
    Flag("max-body-bytes", "max_body_bytes", go_int, "length of a request's body"),
    Flag("first-byte-timeout", "first_byte_seconds", go_duration, "how long a new connection may stay silent"),
    Flag("head-timeout", "head_seconds", go_duration, "from a request's first byte to the end of its head"),
    Flag("idle-timeout", "idle_seconds", go_duration, "silence allowed between two requests"),
    Flag("write-timeout", "write_seconds", go_duration, "how long a peer may take to read an answer"),
    Flag("drain-timeout", "drain_seconds", go_duration, "how long open requests may go on after SIGTERM"),
    Flag("metadata-header-required", "metadata_header_required", go_bool, "demand the header Metadata: true"),
    Flag("allow-x-forwarded-for", "allow_x_forwarded_for", go_bool, "serve requests that came through a proxy"),
    Flag("require-redirected", "require_redirected", go_bool, "serve only connections that the nat rule redirected"),
    Flag("block-instance-metadata", "block_instance_metadata", go_bool, "refuse /metadata/instance to pods"),
    Flag(
        "allow-metadata-path", "allowed_metadata_paths", comma_list, "further path prefixes passed on to IMDS, by comma"
    ),
    Flag("proxy-all-metadata", "proxy_all_metadata", go_bool, "pass on every path outside /metadata/identity"),
    Flag("host-token-types", "host_token_types", _numbers, "identity types that /host/token gives out, by comma"),
    Flag("operation-mode", "operation_mode", one_of(OperationMode), "standard or managed"),
    Flag("forceNamespaced", "force_namespaced", go_bool, "identity and pod in one namespace (env FORCENAMESPACED)"),
    Flag("MICNamespace", "mic_namespace", str, "namespace MIC runs in"),
    Flag(
        "exception-namespaces",
        "exception_namespaces",
        comma_list,
        "namespaces in which exceptions are effective, by comma; all if empty",
    ),
    Flag("read-old-field-names", "read_old_field_names", go_bool, "read custom resources with old field names, too"),
    Flag(
        "retry-attempts-for-created", "attempts_for_created", go_int, "intervals to wait for an identity to be Created"
    ),
    Flag("retry-attempts-for-assigned", "attempts_for_assigned", go_int, "intervals more to wait until it is Assigned"),
    Flag("find-identity-retry-interval", "find_interval_seconds", go_int, "length of this interval in seconds"),
    Flag("max-hold", "max_hold_seconds", go_duration, "maximum total time of a request"),
    Flag(
        "metadata-cache", "metadata_cache_seconds", go_duration, "how long instance metadata is cached; 0: not at all"
    ),
    Flag(
        "set-retry-after-header", "set_retry_after_header", go_bool, "503 with Retry-After while an identity is missing"
    ),
    Flag("enableScaleFeatures", "scale_features", go_bool, "watch only this node's assigned identities"),
    Flag(
        "stale-identity",
        "stale_identity",
        one_of(StaleIdentity),
        "serve or refuse pods that neither watch nor API server can confirm",
    ),
    Flag("address-evidence", "address_evidence", go_bool, "suspend pods whose address changed its owner on this node"),
    Flag("token-cache", "token_cache", go_bool, "keep tokens and share fetches"),
    Flag("allowed-ad-endpoints", "allowed_ad_endpoints", comma_list, "further https endpoints for secrets, by comma"),
    Flag("allow-cross-namespace-secrets", "allow_cross_namespace_secrets", go_bool, "secrets of other namespaces"),
    Flag("federated-identities", "federated_identities", go_bool, "serve identities of type 3"),
    Flag("federated-audience", "federated_audience", str, "audience of the service account tokens for type 3"),
    Flag("federated-exchange", "federated_exchange", one_of(Exchange), "direct or identityBindings, for type 3"),
    Flag(
        "federated-exchange-annotation",
        "federated_exchange_annotation",
        go_bool,
        "let an AzureIdentity's annotation choose the other exchange",
    ),
    Flag("ca-bundle", "ca_bundle", Path, "file with further certificate authorities to trust for Azure"),
    Flag("custom-user-agent", "custom_user_agent", str, "added to the User-Agent sent to Azure"),
    Flag("metadata-ip", "metadata_ip", str, "IPv4 address of IMDS"),
    Flag("metadata-port", "metadata_port", go_int, "port of IMDS"),
    Flag("redirect", "redirect", one_of(RedirectMode), "backend of the redirect; cilium and none change no rule"),
    Flag("redirect-target", "redirect_target", one_of(RedirectTarget), "auto, loopback, or node"),
    Flag(
        "ipt-update-interval-sec", "redirect_interval_seconds", go_int, "seconds between verifications of the nat rule"
    ),
    Flag("fail-closed", "fail_closed", go_bool, "block pods from the real IMDS while NMI is not running"),
    Flag("keep-iptables-rules", "keep_redirect", go_bool, "leave the nat rule in place at exit"),
    Flag("enable-conntrack-deletion", "delete_conntrack", go_bool, "end connections that bypass NMI"),
    Flag("route-localnet", "route_localnet", one_of(RouteLocalnetMode), "check, or set"),
    Flag("allow-network-plugin-kubenet", "allow_kubenet", go_bool, "run although pods can spoof addresses"),
    Flag("kubelet-config", "kubelet_config", Path, "file with the kubelet's flags"),
    Flag("http-probe-port", "probe_port", go_int, "port of /healthz and /readyz"),
    Flag("prometheus-port", "metrics_port", go_int, "port of /metrics"),
    Flag("handover-socket", "handover_socket", str, "path of the Unix socket for an upgrade without interruption"),
    Flag("start-signal", "start_signal", str, "path of the Unix socket for the startup probe"),
    Flag("enableProfile", "profile", go_bool, "serve /debug/profile on loopback"),
    Flag("log-format", "log_format", one_of(LogFormat), "text or json"),
    Flag("v", "verbosity", go_int, "how much to log; 4 is a line per request", aliases=("-v",)),
    Flag("logtostderr", "log_to_stderr", go_bool, "klog's; logs go nowhere else"),
    Flag("kubeconfig", "kubeconfig", str, "path of a kubeconfig (env KUBECONFIG); empty is in-cluster"),
    Flag("cleanup", "cleanup", go_bool, "remove what NMI left on this node, and exit"),
    Flag("boot-guard", "boot_guard", one_of(BootGuardAction), "install or remove the host's boot guard, and exit"),
    Flag("systemd-directory", "systemd_directory", str, "the host's directory of units, for the boot guard"),
    Flag("version", "version", go_bool, "print the version, and exit"),
)
"""All flags, each with the field that it sets."""

FLAG_OF: Mapping[str, str] = {flag.field: flag.name for flag in FLAGS}
"""Field to flag, so that an error names the flag that the operator used."""
