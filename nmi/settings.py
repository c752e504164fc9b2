"""All settings of NMI as one frozen value. `nmi.flag_table` maps flags to settings.

`parse` reads a command line: a function of its arguments only. The package that uses a setting implements its effect.
`nmi.setting_rules` checks each setting and their combination.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from nmi.flag_table import (
    FLAGS,
    BootGuardAction,
    OperationMode,
    RedirectMode,
    RedirectTarget,
    RouteLocalnetMode,
    StaleIdentity,
)
from nmi.setting_rules import check
from podidentity.azure.federation import Exchange
from podidentity.flags import namespaced_by, read_flags, settings_text
from podidentity.telemetry.logs import LogFormat
from podidentity.version import VERSION

ANY_ADDRESS = "0.0.0.0"  # noqa: S104  it is compared with, and only listened on when the operator asks for it
LOOPBACK = "127.0.0.1"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings. Construction checks them: raises UsageError with one line that states the fix."""

    node_name: str
    """The Kubernetes node whose pods this NMI serves; required except for cleanup."""

    # The listener.
    listen_address: str = LOOPBACK
    """IPv4 address that the token server listens on; 0.0.0.0 means every address of the node."""
    listen_port: int = 2579
    """TCP port of the token server, and target of the nat rule."""
    max_connections: int = 0
    """Open connections in total; above it new ones are closed immediately. 0: as many as the container's memory limit
    allows, at most 8192."""
    max_connections_per_pod: int = 0
    """Open connections from one address; above it new ones are closed immediately, regardless of other addresses. 0: a
    sixteenth of the total, and 256 to 512."""
    max_connection_bytes: int = 0
    """Memory of all connections together, including the kernel's buffers; above it the peer that uses most loses
    connections. 0: a quarter of the container's memory limit, and 536870912 without a limit."""
    max_head_bytes: int = 8 * 1024
    """Request line and header fields. SDKs send under 1.5 kB; tracing and cookies of a service mesh need under 8."""
    max_header_fields: int = 64
    """Header fields of one request; SDKs send about ten."""
    max_target_bytes: int = 2048
    """Path and query. A token request with every slash of a full ARM id escaped is under 900."""
    max_body_bytes: int = 16 * 1024
    """Only proxied requests use a body, of a few hundred bytes."""
    first_byte_seconds: float = 10.0
    """How long a new connection may stay silent."""
    head_seconds: float = 10.0
    """From a request's first byte until its head is complete."""
    idle_seconds: float = 120.0
    """How long a kept-alive connection may stay silent between two requests."""
    write_seconds: float = 30.0
    """How long a peer may take to read a response."""
    drain_seconds: float = 10.0
    """After SIGTERM, how long open requests may continue; 0 closes them immediately."""
    metadata_header_required: bool = True
    """Refuse token requests without the header `Metadata: true`."""
    allow_x_forwarded_for: bool = False
    """Serve token requests that came through a proxy (X-Forwarded-For), which IMDS itself refuses."""
    require_redirected: bool = False
    """Serve only connections that the nat rule redirected."""
    block_instance_metadata: bool = False
    """Refuse `/metadata/instance` to pods instead of forwarding it to IMDS."""
    allowed_metadata_paths: tuple[str, ...] = ()
    """Further path prefixes that are forwarded to IMDS, none of them under /metadata/identity."""
    proxy_all_metadata: bool = False
    """Forward every path outside /metadata/identity with every method, as the Go implementation does."""
    host_token_types: frozenset[int] = frozenset()
    """Identity types (0, 1, 2) that /host/token serves; empty disables it."""

    # Which identity.
    operation_mode: OperationMode = OperationMode.STANDARD
    """Whether MIC assigns identities to pods (standard), or NMI itself uses the bindings in the pod's own namespace
    (managed, which needs force_namespaced)."""
    force_namespaced: bool = False
    """Identity and pod must be in one namespace."""
    mic_namespace: str = "default"
    """The namespace of MIC, whose pods get tokens of the node's own identities."""
    exception_namespaces: tuple[str, ...] = ()
    """Namespaces in which AzurePodIdentityException is effective; empty means all."""
    read_old_field_names: bool = False
    """Fields of custom resources that are spelled as before 1.6.0 count, too."""
    attempts_for_created: int = 16
    """With find_interval_seconds: how long a request waits for an identity that is not yet Created."""
    attempts_for_assigned: int = 4
    """With find_interval_seconds: how much longer it waits for an identity that is Created but not Assigned."""
    find_interval_seconds: int = 5
    """Seconds: the unit of the two above. NMI polls nothing at this interval."""
    max_hold_seconds: float = 45.0
    """The total time limit of a request: address lookup, waiting, upstream calls; SDKs time out an attempt at 60 s."""
    metadata_cache_seconds: float = 10.0
    """How long a GET below `/metadata/instance` gets IMDS's last answer; IMDS allows 5 calls a second. 0: no cache."""
    set_retry_after_header: bool = False
    """Respond with 503 and Retry-After instead of 404 to a request whose identity is missing yet."""
    scale_features: bool = True
    """Watch only this node's AzureAssignedIdentities (label nodename) instead of all of the cluster's."""
    stale_identity: StaleIdentity = StaleIdentity.SERVE
    """The response if neither watch nor API server can confirm that a pod still exists."""
    address_evidence: bool = True
    """Suspend a pod when an interface, route or link-layer address behind its address changes on this node."""

    # Tokens.
    token_cache: bool = True
    """Cache tokens and share fetches; without it each request fetches its own token as in the Go implementation."""
    allowed_ad_endpoints: tuple[str, ...] = ()
    """Further https endpoints to which the secrets of service principals may be sent."""
    allow_cross_namespace_secrets: bool = False
    """Let an AzureIdentity name a Secret of another namespace, as the Go implementation does."""
    federated_identities: bool = False
    """Serve AzureIdentities of type 3, for which NMI requests tokens of pods' service accounts from the API server."""
    federated_audience: str = "api://AzureADTokenExchange"
    """The audience of these tokens, as in the federated credentials in Azure; other clouds have their own."""
    federated_exchange: Exchange = Exchange.DIRECT
    """Where these tokens are exchanged: at Entra ID (`direct`), or at AKS's token proxy (`identityBindings`), for which
    they have the audience api://AKSIdentityBinding."""
    federated_exchange_annotation: bool = False
    """Let the annotation aadpodidentity.k8s.io/federated-exchange of an AzureIdentity choose the other exchange."""
    token_proxy: str = ""
    """URL of the token proxy for identity bindings (environment AZURE_KUBERNETES_TOKEN_PROXY)."""
    token_proxy_server_name: str = ""
    """The TLS server name of that proxy; empty is the URL's host (environment AZURE_KUBERNETES_SNI_NAME)."""
    token_proxy_ca_file: str = ""
    """File with the authority of that proxy, read again when it changes (environment AZURE_KUBERNETES_CA_FILE)."""
    token_proxy_ca_data: str = ""
    """The same as PEM text; exactly one of the two is needed (environment AZURE_KUBERNETES_CA_DATA)."""
    ca_bundle: Path | None = None
    """File with PEM certificates of private authorities, which are trusted for Azure AD in addition to the image's; NMI
    reads it again when it changes."""
    azure_environment_file: Path | None = None
    """Description of a custom cloud (environment AZURE_ENVIRONMENT_FILEPATH)."""
    https_proxy: str = ""
    """URL of the proxy for Azure AD (environment HTTPS_PROXY); not used for IMDS and the API server."""
    no_proxy: str = ""
    """Hosts that bypass the proxy, with their subdomains, separated by commas (environment NO_PROXY)."""
    custom_user_agent: str = ""
    """Added to the User-Agent sent to Azure; printable ASCII, at most 200 characters."""

    # The node.
    metadata_ip: str = "169.254.169.254"
    """IPv4 address of IMDS, for pods and for NMI."""
    metadata_port: int = 80
    """TCP port of IMDS."""
    redirect: RedirectMode = RedirectMode.AUTO
    """How requests reach NMI: by a rule of the node in a backend of netfilter (`auto` and its former name `nat` choose
    the backend), by a CiliumLocalRedirectPolicy (`cilium`), or directly (`none`). The last two change no rule."""
    redirect_target: RedirectTarget = RedirectTarget.AUTO
    """The address that the rule redirects to: `loopback` is the listener's and needs route_localnet, `node` is the
    node's own. `auto` chooses `loopback` where route_localnet is on or NMI may set it."""
    redirect_interval_seconds: int = 60
    """Seconds between two verifications of the nat rule."""
    fail_closed: bool = False
    """Block pods from the real IMDS while NMI is not running: both rules remain at exit. Needs a redirect by
    rules."""
    keep_redirect: bool = False
    """Leave the nat rule in place at exit."""
    delete_conntrack: bool = False
    """After the rule is in place, end tracked connections to the real IMDS, which would continue to bypass NMI."""
    route_localnet: RouteLocalnetMode = RouteLocalnetMode.CHECK
    """The action if route_localnet is 0, so that the kernel drops redirected packets: `check` reports it and is not
    ready, `set` switches it on and needs a writable /proc/sys, or the file of `all` mounted at /run/route_localnet."""
    allow_kubenet: bool = False
    """Run on a node with the kubenet network plugin although pods there can take each other's address."""
    kubelet_config: Path = Path("/etc/default/kubelet")
    """The file with the kubelet's flags, to detect kubenet; a missing file is not an error."""

    node_ip: str = ""
    """The IPv4 address to which the target `node` leads (environment NODE_IP): the node's own, from status.hostIP of
    NMI's pod, or the pod's, from status.podIP, if it has a network of its own. The kernel's route determines it if it
    is empty or not an address of this network."""

    # Operation.
    probe_port: int = 8080
    """/healthz and /readyz, on every address."""
    metrics_port: int = 9090
    """/metrics, on every address."""
    handover_socket: str = ""
    """Path of the Unix socket where this NMI passes its ports to its successor on this node, and gets them from its
    predecessor; empty disables it. Only NMI's user may write to its directory."""
    start_signal: str = ""
    """Path of a Unix socket that exists once /readyz answers for this NMI and no longer for its predecessor. The
    startup probe of its pod waits for it. Its directory must belong to this pod only; empty disables it."""
    profile: bool = False
    """Serve /debug/profile on the probe port, to processes on loopback only."""
    log_format: LogFormat = LogFormat.TEXT
    """Text lines, or one JSON object per line."""
    verbosity: int = 0
    """klog's scale: 0 decisions, 4 a line per request, more for debugging."""
    log_to_stderr: bool = True
    """klog's flag, used in many charts. Logs go to stderr only, so False is rejected."""
    kubeconfig: str = ""
    """Path of a kubeconfig; empty means the service account of this pod."""
    service_host: str = ""
    """Host of the API server in a pod (environment KUBERNETES_SERVICE_HOST)."""
    service_port: str = ""
    """Its port (environment KUBERNETES_SERVICE_PORT)."""

    # Instead of serving.
    cleanup: bool = False
    """Remove NMI's rules and files from this node, and exit."""
    boot_guard: BootGuardAction = BootGuardAction.NONE
    """`install` or `remove` the host's systemd unit that rejects pods' requests for IMDS until NMI runs, and exit."""
    systemd_directory: str = "/etc/systemd/system"
    """The host's directory of systemd units, for the boot guard and for --cleanup."""
    version: bool = False
    """Print the version, and exit."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def redirect_destination(self) -> tuple[str, int]:
        """The destination of a rule with the target `loopback`: an address that can be connected to, and the port of
        the token server."""
        return (LOOPBACK if self.listen_address == ANY_ADDRESS else self.listen_address, self.listen_port)

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment variables by which a pod finds its API server."""
        found = {"KUBERNETES_SERVICE_HOST": self.service_host, "KUBERNETES_SERVICE_PORT": self.service_port}
        return {name: value for name, value in found.items() if value}

    @property
    def user_agent(self) -> str:
        """The User-Agent of all requests that NMI sends."""
        return f"aad-pod-identity-nmi/{VERSION} {self.custom_user_agent}".rstrip()

    def describe(self) -> dict[str, str]:
        """Return every setting that differs from its default, for the log line at the start; secrets as ***."""
        shown = {}
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name not in DEFAULTS or value != DEFAULTS[name]:
                shown[name] = "***" if name in _SECRETS else _words(value)
        return shown

    def text(self) -> str:
        """Return the same as a command line, with the names of flags and environment variables."""
        return settings_text(FLAGS, self.describe(), VARIABLES)


def _words(value: object) -> str:
    if isinstance(value, tuple | frozenset):
        return ",".join(sorted(map(str, value)))
    return str(value)


VARIABLES: Final[Mapping[str, str]] = {
    "https_proxy": "HTTPS_PROXY",
    "no_proxy": "NO_PROXY",
    "azure_environment_file": "AZURE_ENVIRONMENT_FILEPATH",
    "service_host": "KUBERNETES_SERVICE_HOST",
    "service_port": "KUBERNETES_SERVICE_PORT",
    "node_ip": "NODE_IP",
    "token_proxy": "AZURE_KUBERNETES_TOKEN_PROXY",
    "token_proxy_server_name": "AZURE_KUBERNETES_SNI_NAME",
    "token_proxy_ca_file": "AZURE_KUBERNETES_CA_FILE",
    "token_proxy_ca_data": "AZURE_KUBERNETES_CA_DATA",
}
"""The environment variable of each setting that has no flag."""


_SECRETS: Final = frozenset({"https_proxy", "token_proxy_ca_data"})
"""The settings whose value no log line contains."""

DEFAULTS: Final[Mapping[str, Any]] = dict(
    zip(
        Settings.__struct_fields__[-len(Settings.__struct_defaults__) :],
        Settings.__struct_defaults__,
        strict=True,
    )
)
"""The defaults of the settings; a required setting has none."""


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the settings from *argv* (without the program's name) and *environ*: flag, then environment, then default.

    FORCENAMESPACED=true overrides the flag, as in the Go implementation. Raises UsageError with one line; SystemExit(0)
    after printing --help.
    """
    given = read_flags(
        FLAGS,
        argv,
        prog="nmi",
        description="Serves Azure access tokens to the pods of this node that may have them.",
        defaults=DEFAULTS,
    )
    values = _from_environment(environ) | given
    values["force_namespaced"] = given.get("force_namespaced", False) or namespaced_by(environ)
    return Settings(**{"node_name": "", **values})


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {name: environ.get(variable, "") for name, variable in VARIABLES.items()}
    found |= {name: found[name] or environ.get(VARIABLES[name].lower(), "") for name in ("https_proxy", "no_proxy")}
    file = found.pop("azure_environment_file")
    if file:
        found["azure_environment_file"] = Path(file)
    return found | {"kubeconfig": environ.get("KUBECONFIG", "")}
