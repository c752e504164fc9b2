"""All settings of NMI as one frozen value. `nmi.flag_table` maps flags to settings.

`parse` reads a command line: a function of its arguments only. The package that uses a setting implements its effect.
This module checks each setting and their combination.
"""

import dataclasses
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nmi.flag_table import (
    FLAG_OF,
    FLAGS,
    BootGuardAction,
    OperationMode,
    RedirectMode,
    RedirectTarget,
    RouteLocalnetMode,
    StaleIdentity,
)
from podidentity.azure.clouds import parse_endpoint
from podidentity.flags import UsageError, namespaced_by, quoted, read_flags, settings_text
from podidentity.telemetry.logs import LogFormat

ANY_ADDRESS = "0.0.0.0"  # noqa: S104  it is compared with, and only listened on when the operator asks for it
LOOPBACK = "127.0.0.1"
_NODE_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
"""A DNS subdomain, as the API server requires. A "$(NODE_NAME)" without such a variable does not match."""
_PROXY: Final = re.compile(r"(?:https?://)?(?:[^\s/@]+@)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
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
    max_head_bytes: int = 16 * 1024
    """Request line and header fields. SDKs send under 1.5 kB; tracing and cookies of a service mesh need under 8."""
    max_header_fields: int = 64
    """Header fields of one request; SDKs send about ten."""
    max_target_bytes: int = 4096
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
    ca_bundle: Path | None = None
    """File with PEM certificates of private authorities, which are trusted for Azure AD in addition to the image's; NMI
    reads it again when it changes."""
    azure_environment_file: Path | None = None
    """Description of a custom cloud (environment AZURE_ENVIRONMENT_FILEPATH)."""
    https_proxy: str = dataclasses.field(default="", metadata={"secret": True})
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
    """The node's own IPv4 address (environment NODE_IP, from status.hostIP of NMI's pod); the kernel's route determines
    it if it is empty or not an address of this node."""

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
        if self.version:
            return
        for name in ("listen_address", "metadata_ip"):
            self._check_address(name)
        for name in ("listen_port", "metadata_port", "probe_port", "metrics_port"):
            _demand(
                1 <= getattr(self, name) <= 65535, f"--{FLAG_OF[name]} is {getattr(self, name)}; ports are 1 to 65535"
            )
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            _demand(least <= value <= most, f"--{FLAG_OF[name]} is {value:g}; it may be {least:g} to {most:g}")
        self._check_together()
        self._check_texts()

    def _check_address(self, name: str) -> None:
        text = getattr(self, name)
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            raise UsageError(
                f"--{FLAG_OF[name]} is {quoted(text)}; it must be an IPv4 address (IMDS, and with it the redirect, "
                f"is IPv4 only)"
            ) from None

    @property
    def _without_node(self) -> bool:
        return self.cleanup or self.boot_guard is not BootGuardAction.NONE

    def _check_together(self) -> None:
        _demand(
            self._without_node or self.node_name != "",
            "--node is missing: give the name of the node NMI runs on, in a pod --node=$(NODE_NAME) with NODE_NAME "
            "from spec.nodeName",
        )
        _demand(
            self.operation_mode is not OperationMode.MANAGED or self.force_namespaced,
            "--operation-mode=managed needs --forceNamespaced: without MIC nothing else separates namespaces",
        )
        listening = {"listen_port": self.listen_port, "probe_port": self.probe_port, "metrics_port": self.metrics_port}
        for name, port in listening.items():
            other = next((o for o, p in listening.items() if p == port and o != name), None)
            _demand(
                other is None, f"--{FLAG_OF[name]} and --{FLAG_OF[other or name]} are both {port}; give each its own"
            )
        _demand(
            not self.redirect.changes_rules or self.metadata_ip != self.listen_address,
            f"--metadata-ip and --nmi-listen-address are both {self.metadata_ip}: the redirect would target "
            f"itself; use --redirect=none where pods connect to NMI directly",
        )
        _demand(
            not self.fail_closed or self.redirect.changes_rules,
            f"--fail-closed needs a redirect by rules, such as --redirect=auto: it is a rule, and "
            f"--redirect={self.redirect} changes no rule",
        )
        _demand(
            self.redirect_target is not RedirectTarget.NODE
            or (self.redirect is not RedirectMode.NONE and self.listen_address.startswith("127.")),
            "--redirect-target=node needs a redirect and a listener on loopback, since NMI opens a second one on the "
            "node's address; remove --redirect=none and --nmi-listen-address, or use --redirect-target=loopback",
        )
        _demand(
            not self.require_redirected or self.redirect is not RedirectMode.CILIUM,
            "--require-redirected would refuse every request with --redirect=cilium: Cilium's redirect leaves no "
            "original destination in the kernel; remove one of the two flags",
        )
        _demand(
            self.systemd_directory.startswith("/"),
            f"--systemd-directory is {quoted(self.systemd_directory)}; give the whole path, as /etc/systemd/system",
        )
        _demand(
            self.handover_socket == "" or (self.handover_socket.startswith("/") and len(self.handover_socket) <= 80),
            f"--handover-socket is {quoted(self.handover_socket)}; give the whole path, of at most 80 characters",
        )
        _demand(
            self.start_signal == "" or (self.start_signal.startswith("/") and len(self.start_signal) <= 80),
            f"--start-signal is {quoted(self.start_signal)}; give the whole path, of at most 80 characters",
        )
        _demand(
            self.max_connections_per_pod <= self.max_connections or self.max_connections == 0,
            f"--max-connections-per-pod ({self.max_connections_per_pod}) is more than --max-connections "
            f"({self.max_connections}): one pod could use all connections",
        )

    def _check_texts(self) -> None:
        _demand(
            self._without_node
            or self.node_name == ""
            or (len(self.node_name) <= 253 and _NODE_NAME.fullmatch(self.node_name) is not None),
            f"--node is {quoted(self.node_name)}, not a valid node name; in a pod write --node=$(NODE_NAME) and set "
            f"NODE_NAME in its env from spec.nodeName",
        )
        _demand(self.log_to_stderr, "--logtostderr=false is not supported: logs go to stderr only; remove the flag")
        unknown = self.host_token_types - {0, 1, 2}
        _demand(
            not unknown,
            f"--host-token-types has {', '.join(map(str, sorted(unknown)))}; it may hold 0, 1 and 2 only",
        )
        for path in self.allowed_metadata_paths:
            plain = path.startswith("/") and not any(part in path for part in ("//", "\\", "%", ";", "?", "#", "/."))
            _demand(
                plain and path.isascii() and path.isprintable(),
                f"--allow-metadata-path has {quoted(path)}; write a plain path such as /metadata/versions",
            )
            folded = path.lower().rstrip("/")
            _demand(
                not _overlaps(folded, "/metadata/identity") and not _overlaps(folded, "/host"),
                f"--allow-metadata-path has {quoted(path)}; that would forward /metadata/identity, which holds the "
                f"node's own tokens",
            )
        for endpoint in self.allowed_ad_endpoints:
            _demand(
                parse_endpoint(endpoint) is not None,
                f"--allowed-ad-endpoints has {quoted(endpoint)}; write it as https://host/",
            )
        audience = self.federated_audience
        _demand(
            0 < len(audience) <= 253 and audience.isascii() and audience.isprintable() and " " not in audience,
            f"--federated-audience is {quoted(audience)}; write it as the federated credentials in Azure have it, like "
            f"api://AzureADTokenExchange",
        )
        _demand(
            self.https_proxy == "" or _PROXY.fullmatch(self.https_proxy) is not None,
            # Without its value, which may contain a password.
            "HTTPS_PROXY in NMI's environment is not a proxy address; write it as http://host:port",
        )
        agent = self.custom_user_agent
        _demand(
            len(agent) <= 200 and agent.isascii() and (agent == "" or agent.isprintable()),
            "--custom-user-agent must be printable ASCII of at most 200 characters, since it becomes an HTTP header",
        )

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

    def describe(self) -> dict[str, str]:
        """Return every setting that differs from its default, for the log line at the start; secrets as ***."""
        shown = {}
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if value != one.default:
                shown[one.name] = "***" if one.metadata.get("secret") else _words(value)
        return shown

    def text(self) -> str:
        """Return the same as a command line, with the names of flags and environment variables."""
        return settings_text(FLAGS, self.describe(), VARIABLES)


def _words(value: object) -> str:
    if isinstance(value, tuple | frozenset):
        return ",".join(sorted(map(str, value)))
    return str(value)


def _demand(holds: bool, sentence: str) -> None:
    if not holds:
        raise UsageError(sentence)


def _overlaps(prefix: str, kept: str) -> bool:
    """Return whether one of the two prefixes contains the other."""
    return kept.startswith(prefix) or prefix.startswith(kept)


_RANGES: Mapping[str, tuple[float, float]] = {
    "max_connections": (0, 1_000_000),
    "max_connections_per_pod": (0, 1_000_000),
    "max_connection_bytes": (0, 1 << 40),
    # The minimum is the fast lane's limit (_native/scan.pxd): it must not accept what the general lane rejects.
    "max_head_bytes": (4096, 1 << 20),
    "max_header_fields": (32, 1024),
    "max_target_bytes": (2048, 1 << 16),
    "max_body_bytes": (0, 1 << 20),
    "first_byte_seconds": (0.1, 3600),
    "head_seconds": (0.1, 3600),
    "idle_seconds": (0.1, 86_400),
    "write_seconds": (0.1, 3600),
    "drain_seconds": (0, 600),
    "attempts_for_created": (0, 1000),
    "attempts_for_assigned": (0, 1000),
    "find_interval_seconds": (1, 600),
    "max_hold_seconds": (1, 600),  # fetching is part of it, so 0 would prevent every token
    "metadata_cache_seconds": (0, 300),
    "redirect_interval_seconds": (1, 86_400),
    "verbosity": (0, 2**31 - 1),  # klog takes any, and charts have been seen with 100
}


VARIABLES: Final[Mapping[str, str]] = {
    "https_proxy": "HTTPS_PROXY",
    "no_proxy": "NO_PROXY",
    "azure_environment_file": "AZURE_ENVIRONMENT_FILEPATH",
    "service_host": "KUBERNETES_SERVICE_HOST",
    "service_port": "KUBERNETES_SERVICE_PORT",
    "node_ip": "NODE_IP",
}
"""The environment variable of each setting that has no flag."""


DEFAULTS: Final = {
    each.name: each.default for each in dataclasses.fields(Settings) if each.default is not dataclasses.MISSING
}


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
    found: dict[str, Any] = {
        "https_proxy": environ.get("HTTPS_PROXY") or environ.get("https_proxy", ""),
        "no_proxy": environ.get("NO_PROXY") or environ.get("no_proxy", ""),
        "kubeconfig": environ.get("KUBECONFIG", ""),
        "service_host": environ.get("KUBERNETES_SERVICE_HOST", ""),
        "service_port": environ.get("KUBERNETES_SERVICE_PORT", ""),
        "node_ip": environ.get("NODE_IP", ""),
    }
    if file := environ.get("AZURE_ENVIRONMENT_FILEPATH"):
        found["azure_environment_file"] = Path(file)
    return found
