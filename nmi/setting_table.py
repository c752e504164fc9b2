"""The table of NMI's settings: flags, environment variables, types, ranges and defaults.

The package that uses a setting implements its effect. `nmi.setting_rules` has the rules that connect several settings.
"""

from pathlib import Path
from typing import Annotated, Final

from nmi.choices import BootGuardAction, OperationMode, RedirectMode, RedirectTarget, RouteLocalnetMode, StaleIdentity
from podidentity import daemon_settings as daemon
from podidentity.azure.federation import DIRECT_AUDIENCE, Exchange
from podidentity.flags import comma_list, go_int
from podidentity.settings import PORT, VERBOSITY, GoSetting, ProgramSettings, Range, Setting
from podidentity.telemetry.logs import LogFormat

ANY_ADDRESS = "0.0.0.0"  # noqa: S104  it is compared with, and only listened on when the operator asks for it
LOOPBACK = "127.0.0.1"
HEAD_BYTES: Final = 8 * 1024


def _numbers(text: str) -> frozenset[int]:
    return frozenset(go_int(part) for part in comma_list(text))


class SettingTable(ProgramSettings, frozen=True, kw_only=True):
    """The settings, not yet checked. Programs use `nmi.settings.NmiSettings`."""

    # Cluster.
    node_name: Annotated[str, GoSetting("node")]
    """The Kubernetes node whose pods this NMI serves; required except with `--cleanup` and
    `--boot-guard`."""
    kubeconfig: daemon.Kubeconfig = ""

    # Serving.
    listen_address: Annotated[str, GoSetting("nmi-listen-address")] = LOOPBACK
    """IPv4 address that the token server listens on; 0.0.0.0 means every address of the node."""
    listen_port: Annotated[int, GoSetting("nmi-port", PORT)] = 2579
    """TCP port of the token server, and target of the nat rule."""
    max_connections_per_pod: Annotated[int, Setting("max-connections-per-pod", Range(0, 1_000_000))] = 0
    """Open connections from one address; above it new ones are closed immediately, regardless of other addresses. 0: a
    sixteenth of the total, and 256 to 512."""
    # The minimum is the fast lane's limit (_native/scan.pxd): it must not accept what the general lane rejects.
    max_head_bytes: Annotated[int, Setting("max-head-bytes", Range(4096, 1 << 20))] = HEAD_BYTES
    """Request line and header fields. SDKs send under 1.5 kB; tracing and cookies of a service mesh need under 8."""
    # Fetching is part of it, so that 0 would prevent every token.
    max_hold_seconds: Annotated[float, Setting("max-hold", Range(1, 600))] = 45.0
    """The total time limit of a request: address lookup, waiting, upstream calls; SDKs time out an attempt at 60 s."""
    drain_seconds: Annotated[float, Setting("drain-timeout", Range(0, 600))] = 10.0
    """After SIGTERM, how long open requests may continue; 0 closes them immediately."""
    metadata_header_required: Annotated[bool, GoSetting("metadata-header-required")] = True
    """Refuse token requests without the header `Metadata: true`."""
    allow_x_forwarded_for: Annotated[bool, Setting("allow-x-forwarded-for")] = False
    """Serve token requests that came through a proxy (X-Forwarded-For), which IMDS itself refuses."""
    require_redirected: Annotated[bool, Setting("require-redirected")] = False
    """Serve only connections that the nat rule redirected."""
    set_retry_after_header: Annotated[bool, GoSetting("set-retry-after-header")] = False
    """Respond with 503 and Retry-After instead of 404 to a request whose identity is missing yet."""
    handover_socket: Annotated[str, Setting("handover-socket")] = ""
    """Path of the Unix socket where this NMI passes its ports to its successor on this node, and gets them from its
    predecessor; empty disables it. Only NMI's user may write to its directory."""
    start_signal: Annotated[str, Setting("start-signal")] = ""
    """Path of a Unix socket that exists once /readyz answers for this NMI and no longer for its predecessor. The
    startup probe of its pod waits for it. Its directory must belong to this pod only; empty disables it."""

    # Paths other than tokens.
    block_instance_metadata: Annotated[bool, GoSetting("block-instance-metadata")] = False
    """Refuse `/metadata/instance` to pods instead of forwarding it to IMDS."""
    metadata_cache_seconds: Annotated[float, Setting("metadata-cache", Range(0, 300))] = 10.0
    """How long a GET below `/metadata/instance` gets IMDS's last answer; IMDS allows 5 calls a second. 0: no cache."""
    allowed_metadata_paths: Annotated[tuple[str, ...], Setting("allow-metadata-path")] = ()
    """Further path prefixes that are forwarded to IMDS, none of them under /metadata/identity."""
    proxy_all_metadata: Annotated[bool, Setting("proxy-all-metadata")] = False
    """Forward every path outside /metadata/identity with every method, as the Go implementation does."""
    host_token_types: Annotated[frozenset[int], Setting("host-token-types", read=_numbers)] = frozenset()
    """Identity types (0, 1, 2) that /host/token serves; empty disables it."""

    # Identity decisions.
    operation_mode: Annotated[OperationMode, GoSetting("operation-mode")] = OperationMode.STANDARD
    """Whether MIC assigns identities to pods (standard), or NMI itself uses the bindings in the pod's own namespace
    (managed, which needs `--forceNamespaced`)."""
    force_namespaced: daemon.ForceNamespaced = False
    """Identity and pod must be in one namespace; MIC's flag covers the binding, too. `FORCENAMESPACED=true` in the
    environment has the same effect."""
    mic_namespace: Annotated[str, GoSetting("MICNamespace")] = "default"
    """The namespace of MIC, whose pods get tokens of the node's own identities."""
    exception_namespaces: Annotated[tuple[str, ...], Setting("exception-namespaces")] = ()
    """Namespaces in which AzurePodIdentityException is effective; empty means all."""
    read_old_field_names: Annotated[bool, Setting("read-old-field-names")] = False
    """Fields of custom resources that are spelled as before 1.6.0 count, too."""
    scale_features: Annotated[bool, GoSetting("enableScaleFeatures")] = True
    """Watch only this node's AzureAssignedIdentities (label nodename) instead of all of the cluster's."""
    attempts_for_created: Annotated[int, GoSetting("retry-attempts-for-created", Range(0, 1000))] = 16
    """With `--find-identity-retry-interval`: how long a request waits for an identity that is not yet Created."""
    attempts_for_assigned: Annotated[int, GoSetting("retry-attempts-for-assigned", Range(0, 1000))] = 4
    """With `--find-identity-retry-interval`: how much longer it waits for an identity that is Created but not
    Assigned."""
    find_interval_seconds: Annotated[int, GoSetting("find-identity-retry-interval", Range(1, 600))] = 5
    """Seconds: the unit of the two above. NMI polls nothing at this interval."""
    stale_identity: Annotated[StaleIdentity, Setting("stale-identity")] = StaleIdentity.SERVE
    """The response if neither watch nor API server can confirm that a pod still exists."""
    address_evidence: Annotated[bool, Setting("address-evidence")] = True
    """Suspend a pod when an interface, route or link-layer address behind its address changes on this node."""

    # Tokens and Azure.
    token_cache: Annotated[bool, Setting("token-cache")] = True
    """Cache tokens and share fetches; without it each request fetches its own token as in the Go implementation."""
    allowed_ad_endpoints: Annotated[tuple[str, ...], Setting("allowed-ad-endpoints")] = ()
    """Further https endpoints to which the secrets of service principals may be sent."""
    allow_cross_namespace_secrets: Annotated[bool, Setting("allow-cross-namespace-secrets")] = False
    """Let an AzureIdentity name a Secret of another namespace, as the Go implementation does."""
    ca_bundle: daemon.CaBundle = None
    https_proxy: Annotated[str, Setting(env=("HTTPS_PROXY", "https_proxy"), secret=True)] = ""
    """URL of the proxy for calls to Azure AD; calls to IMDS and the API server never use it."""
    no_proxy: Annotated[str, Setting(env=("NO_PROXY", "no_proxy"))] = ""
    """Hosts, with their subdomains, for which NMI does not use that proxy, separated by commas."""
    custom_user_agent: daemon.CustomUserAgent = ""

    # Federated identities.
    federated_identities: Annotated[bool, Setting("federated-identities")] = False
    """Serve AzureIdentities of type 3, for which NMI requests tokens of pods' service accounts from the API server."""
    federated_audience: Annotated[str, Setting("federated-audience")] = DIRECT_AUDIENCE
    """The audience of these tokens, as in the federated credentials in Azure; other clouds have their own."""
    federated_exchange: Annotated[Exchange, Setting("federated-exchange")] = Exchange.DIRECT
    """Where these tokens are exchanged: at Entra ID (`direct`), or at AKS's token proxy (`identityBindings`), for which
    they have the audience api://AKSIdentityBinding."""
    federated_exchange_annotation: Annotated[bool, Setting("federated-exchange-annotation")] = False
    """Let the annotation aadpodidentity.k8s.io/federated-exchange of an AzureIdentity choose the other exchange."""
    token_proxy: Annotated[str, Setting(env=("AZURE_KUBERNETES_TOKEN_PROXY",))] = ""
    """URL of the token proxy for AKS identity bindings, which AKS's webhook or the chart sets; calls to it never use
    `HTTPS_PROXY`."""
    token_proxy_server_name: Annotated[str, Setting(env=("AZURE_KUBERNETES_SNI_NAME",))] = ""
    """TLS server name of that proxy; the URL's host if it is empty."""
    token_proxy_ca_file: Annotated[str, Setting(env=("AZURE_KUBERNETES_CA_FILE",))] = ""
    """File with the authority of that proxy, read again when it changes."""
    token_proxy_ca_data: Annotated[str, Setting(env=("AZURE_KUBERNETES_CA_DATA",), secret=True)] = ""
    """The same as PEM text; exactly one of the two is needed."""

    # Rules of the node.
    metadata_ip: Annotated[str, GoSetting("metadata-ip")] = "169.254.169.254"
    """IPv4 address of IMDS, for pods and for NMI."""
    metadata_port: Annotated[int, GoSetting("metadata-port", PORT)] = 80
    """TCP port of IMDS."""
    redirect: Annotated[RedirectMode, Setting("redirect")] = RedirectMode.AUTO
    """How requests reach NMI: by a rule of the node in a backend of netfilter (`auto` and its former name `nat` choose
    the backend), by a CiliumLocalRedirectPolicy (`cilium`), or directly (`none`). The last two change no rule."""
    redirect_target: Annotated[RedirectTarget, Setting("redirect-target")] = RedirectTarget.AUTO
    """The address that the rule redirects to: `loopback` is the listener's and needs route_localnet, `node` is the
    node's own. `auto` chooses `loopback` where route_localnet is on or NMI may set it."""
    redirect_interval_seconds: Annotated[int, GoSetting("ipt-update-interval-sec", Range(1, 86_400))] = 60
    """Seconds between two verifications of the nat rule."""
    # The chart sets it. The default is the Go implementation's behaviour: no rule remains at exit.
    fail_closed: Annotated[bool, Setting("fail-closed")] = False
    """Block pods from the real IMDS while NMI is not running: both rules remain at exit. Needs a redirect by
    rules."""
    keep_redirect: Annotated[bool, Setting("keep-iptables-rules")] = False
    """Leave the nat rule in place at exit."""
    delete_conntrack: Annotated[bool, GoSetting("enable-conntrack-deletion")] = False
    """After the rule is in place, end tracked connections to the real IMDS, which would continue to bypass NMI."""
    route_localnet: Annotated[RouteLocalnetMode, Setting("route-localnet")] = RouteLocalnetMode.CHECK
    """The action if route_localnet is 0, so that the kernel drops redirected packets: `check` reports it and is not
    ready, `set` switches it on and needs a writable /proc/sys, or the file of `all` mounted at /run/route_localnet."""
    allow_kubenet: Annotated[bool, GoSetting("allow-network-plugin-kubenet")] = False
    """Run on a node with the kubenet network plugin although pods there can take each other's address."""
    kubelet_config: Annotated[Path, GoSetting("kubelet-config")] = Path("/etc/default/kubelet")
    """The file with the kubelet's flags, to detect kubenet; a missing file is not an error."""
    node_ip: Annotated[str, Setting(env=("NODE_IP",))] = ""
    """The IPv4 address to which `--redirect-target=node` leads: the node's own, from status.hostIP of NMI's pod, or the
    pod's, from status.podIP, if it has a network of its own. The kernel's route determines it if it is empty or not an
    address of this network."""

    # Telemetry.
    probe_port: daemon.ProbePort = 8080
    metrics_port: daemon.MetricsPort = 9090
    profile: daemon.Profile = False
    log_format: daemon.LogFormat = LogFormat.TEXT
    verbosity: Annotated[int, GoSetting("v", VERBOSITY, alias="-v")] = 0
    """klog's scale: 0 decisions, 4 a line per request, more for debugging."""

    # Instead of serving.
    cleanup: Annotated[bool, Setting("cleanup")] = False
    """Remove NMI's rules and files from this node, and exit."""
    boot_guard: Annotated[BootGuardAction, Setting("boot-guard")] = BootGuardAction.NONE
    """`install` or `remove` the host's systemd unit that rejects pods' requests for IMDS until NMI runs, and exit."""
    systemd_directory: Annotated[str, Setting("systemd-directory")] = "/etc/systemd/system"
    """The host's directory of systemd units, for the boot guard and for --cleanup."""
    version: daemon.Version = False

    # Without effect.
    log_to_stderr: Annotated[bool, GoSetting("logtostderr")] = True
    """klog's flag, used in many charts. Logs go to stderr only, so `false` is rejected."""

    former_flags: tuple[str, ...] = ()
    """The given flags of `FORMER_FLAGS`. They are no settings."""
