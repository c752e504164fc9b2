"""Settings of MIC as one frozen value. `mic.startup.flag_table` maps flags to settings.

`parse` reads a command line and depends only on its arguments. This module checks that the settings are valid,
individually and together.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mic.startup.flag_table import FLAG_OF, FLAGS, PlanOutput
from podidentity.azure.resource_ids import is_group_reference
from podidentity.flags import UsageError, namespaced_by, quoted, read_flags, settings_text
from podidentity.telemetry.logs import LogFormat, redacted

BURST_SECONDS: Final = 40.0
"""Seconds of unused writes that may start immediately by default. Each object gets its last write, the status Assigned,
after its host's operation on Azure. At 50 writes per second, the objects of 2,000 pods that start after an idle time
are therefore written without waiting for the rate. With 30 s the last ones would wait for 10 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings. The constructor raises UsageError with one line that states what to change."""

    namespace: str
    """The namespace MIC runs in (environment MIC_POD_NAMESPACE); required."""

    # Azure.
    cloud_config: str = ""
    """Path of azure.json, read again when it changes; if empty, the environment contains these values."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False, metadata={"secret": True})
    """The environment variables that replace azure.json."""
    ca_bundle: Path | None = None
    """File with PEM certificates of private authorities, which are trusted for Azure in addition to the image's; MIC
    reads it again when it changes."""
    azure_environment_file: Path | None = None
    """Description of a custom cloud (environment AZURE_ENVIRONMENT_FILEPATH)."""
    arm_api_version: str = ""
    """Version of the Compute API; empty means the one that is pinned for the cloud."""
    custom_user_agent: str = ""
    """Added to the User-Agent sent to Azure; printable ASCII, at most 200 characters."""

    # Selection and detaching of identities.
    force_namespaced: bool = False
    """Identity, binding and pod must be in one namespace."""
    immutable_client_ids: tuple[str, ...] = ()
    """Client ids, lower-case, of identities that MIC never detaches."""
    adopt_existing: bool = False
    """Treat identities that were attached before MIC as MIC's: detach them when no pod needs them."""
    assign_cluster_identity: bool = False
    """Assign also the cluster's own identity, which the cloud config names: the kubelet's, or MIC's."""
    allowed_resource_groups: tuple[str, ...] = ()
    """Resource groups, as group or subscription/group, whose VMs and scale sets MIC reads and changes. Without any: all
    that a node names."""
    detach_grace_seconds: float = 0.0
    """How long an identity that no pod needs stays attached, although no pod is served it; a new leader starts it
    again."""

    # Intervals and rates.
    look_seconds: float = 180.0
    """Interval at which each VM or scale set is compared with Azure."""
    resync_seconds: float = 3600.0
    """Interval at which everything out of sync is tried again, with or without an event."""
    write_batch: int = 20
    """Requests to the API server that create, change or delete assigned identities, in flight at once."""
    writes_per_second: float = 50.0
    """Such requests that start per second, on average."""
    burst_writes: int = 0
    """Unused requests that may start immediately; 0: 40 seconds' worth."""
    update_retries: int = 2
    """Retries of an update within one pass, without the identities that Azure refused."""
    update_retry_seconds: float = 1.0
    """Seconds of pause before each of these retries."""

    # Leadership.
    lease_holder: str = ""
    """This process's name in the lease, which MIC makes unique; empty means the host name."""
    lease_namespace: str = "default"
    """Namespace of the lease."""
    lease_name: str = "aad-pod-identity-mic"
    """Name of the lease."""
    lease_seconds: float = 15.0
    """How long other replicas wait for a silent leader, which itself stops after half of that."""

    # Type upgrade.
    type_upgrade: bool = True
    """Rewrite objects whose fields are spelled as before 1.6.0, once."""
    upgrade_config_map: str = "aad-pod-identity-config"
    """ConfigMap, in MIC's namespace, that records the upgrade."""
    upgrade_key: str = "type-upgrade-status"
    """Key in it."""
    read_old_field_names: bool = False
    """Fields spelled as before 1.6.0 count also after the upgrade."""

    # Start-up taint.
    startup_taint: str = ""
    """Key of a taint that MIC removes from a node when its NMI is Ready; empty: MIC changes no taints."""
    nmi_selector: str = "app.kubernetes.io/component=nmi"
    """Label selector of NMI's pods, in MIC's namespace."""

    # Operation.
    probe_port: int = 8080
    """/healthz and /readyz on every address, /debug/state on loopback."""
    metrics_port: int = 8888
    """/metrics, on every address."""
    profile: bool = False
    """Serve profiles of the running program on loopback."""
    log_format: LogFormat = LogFormat.TEXT
    """Text lines, or one JSON object per line."""
    verbosity: int = 0
    """klog's scale: 0 logs actions, 4 and more is for debugging."""
    kubeconfig: str = ""
    """Path of a kubeconfig; empty means the service account of this pod."""
    service_host: str = ""
    """Host of the API server as seen in a pod (environment KUBERNETES_SERVICE_HOST)."""
    service_port: str = ""
    """Its port (environment KUBERNETES_SERVICE_PORT)."""

    # Accepted for old command lines, without effect.
    scale_features: bool = True
    """Deprecated: always on."""
    log_to_stderr: bool = True
    """Deprecated: always on."""

    # Instead of running.
    plan: bool = False
    """Print the changes that MIC would make, make none, and exit."""
    plan_output: PlanOutput = PlanOutput.TEXT
    """Format of the plan: text, or one JSON object."""
    plan_all: bool = False
    """Also print unchanged hosts, and every object."""
    version: bool = False
    """Print the version, and exit."""

    def __post_init__(self) -> None:
        if self.version:
            return
        problems = [sentence for holds, sentence in self._demands() if not holds]
        if problems:
            raise UsageError("; ".join(problems))

    def _demands(self) -> Iterator[tuple[bool, str]]:
        """Yield each condition, and the sentence for the case that it does not hold."""
        yield (
            self.namespace != "" or self.plan,
            "MIC_POD_NAMESPACE is not set: set it to the namespace MIC runs in, in a pod from metadata.namespace",
        )
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            unit = "s" if name.endswith("_seconds") else ""
            problem = f"--{FLAG_OF[name]} is {value:g}{unit}; it may be {least:g}{unit} to {most:.12g}{unit}"
            yield (least <= value <= most, problem)
        yield (
            self.probe_port != self.metrics_port,
            f"--http-probe-port and --prometheus-port are both {self.probe_port}; give each its own",
        )
        for name in ("lease_namespace", "lease_name", "upgrade_config_map"):
            text = getattr(self, name)
            yield (
                _DNS.fullmatch(text) is not None,
                f"--{FLAG_OF[name]} is {quoted(text)}; it must be a Kubernetes name (a-z, 0-9, - and .)",
            )
        for text in self.allowed_resource_groups:
            yield (
                is_group_reference(text),
                f"--allowed-resource-groups names {quoted(text)}; write group or subscription/group, by comma",
            )
        yield (
            self.arm_api_version == ""
            or re.fullmatch(r"\d{4}-\d{2}-\d{2}(-preview)?", self.arm_api_version) is not None,
            f"--arm-api-version is {quoted(self.arm_api_version)}; write one like 2024-07-01",
        )
        yield (
            re.fullmatch(r"[A-Za-z0-9._-]{1,253}", self.upgrade_key) is not None,
            (
                f"--type-upgrade-status-key is {quoted(self.upgrade_key)}; it must be a ConfigMap's key (letters, "
                "digits, -, _ and .)"
            ),
        )
        yield (
            self.startup_taint == "" or _QUALIFIED.fullmatch(self.startup_taint) is not None,
            (
                f"--startup-taint is {quoted(self.startup_taint)}; it must be a taint's key alone, like "
                "aadpodidentity.k8s.io/nmi-not-ready, without value and effect"
            ),
        )
        yield (
            self.startup_taint == "" or _SELECTOR.fullmatch(self.nmi_selector) is not None,
            f"--startup-taint-nmi-selector is {quoted(self.nmi_selector)}; write labels as name=value, by comma",
        )
        agent = self.custom_user_agent
        yield (
            len(agent) <= 200 and agent.isascii() and (agent == "" or agent.isprintable()),
            "--custom-user-agent must be printable ASCII of at most 200 characters, since it becomes an HTTP header",
        )

    @property
    def writes_at_once(self) -> float:
        """Return the writes that may start immediately after an idle time."""
        return self.burst_writes or BURST_SECONDS * self.writes_per_second

    @property
    def cluster_environment(self) -> Mapping[str, str]:
        """Return the environment variables by which a pod finds its API server."""
        found = {"KUBERNETES_SERVICE_HOST": self.service_host, "KUBERNETES_SERVICE_PORT": self.service_port}
        return {name: value for name, value in found.items() if value}

    def describe(self) -> dict[str, str]:
        """Return each setting that differs from its default, for the log line at the start; secrets as ***, client ids
        cut."""
        shown = {}
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            default = one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
            if value != default:
                shown[one.name] = "***" if one.metadata.get("secret") else _words(one.name, value)
        return shown

    def text(self) -> str:
        """Return the same as a command line, with the names of flags and environment variables."""
        return settings_text(FLAGS, self.describe(), VARIABLES)


def _words(name: str, value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return ",".join(map(redacted, value) if name == "immutable_client_ids" else value)


_DNS: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

_NAME: Final = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_QUALIFIED: Final = re.compile(rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_NAME}")
_SELECTOR: Final = re.compile(rf"({_QUALIFIED.pattern})=({_NAME})?(,({_QUALIFIED.pattern})=({_NAME})?)*")

RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "detach_grace_seconds": (0, 86_400),
    "look_seconds": (10, 86_400),
    "resync_seconds": (10, 604_800),
    "write_batch": (1, 1000),
    "writes_per_second": (0.1, 10_000),
    "burst_writes": (0, 1_000_000),
    "update_retries": (0, 100),
    "update_retry_seconds": (0, 3600),
    "lease_seconds": (2, 3600),
    "probe_port": (1, 65_535),
    "metrics_port": (1, 65_535),
    "verbosity": (0, 2**31 - 1),  # klog accepts any value, and some charts set 100
}

CLOUD_VARIABLES: Final = (
    "CLOUD",
    "TENANT_ID",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "SUBSCRIPTION_ID",
    "RESOURCE_GROUP",
    "VM_TYPE",
    "USE_MSI",
    "USER_ASSIGNED_MSI_CLIENT_ID",
)


VARIABLES: Final[Mapping[str, str]] = {
    "namespace": "MIC_POD_NAMESPACE",
    "environment": "CLOUD, TENANT_ID, …",
    "azure_environment_file": "AZURE_ENVIRONMENT_FILEPATH",
    "service_host": "KUBERNETES_SERVICE_HOST",
    "service_port": "KUBERNETES_SERVICE_PORT",
}
"""The environment variable of each setting that has no flag."""


DESCRIPTION: Final = "Attaches the Azure identities that pods are bound to to their VMs."
DEFAULTS: Final = {
    each.name: each.default for each in dataclasses.fields(Settings) if each.default is not dataclasses.MISSING
}


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the settings in *argv* (without the program's name) and *environ*: flag, then environment, then default.

    FORCENAMESPACED=true overrides the flag, as in the Go implementation. Raise UsageError in one line with all wrong
    flags and variables, and SystemExit(0) after printing --help.
    """
    problems: list[str] = []
    given: dict[str, Any] = {}
    forced = False
    try:
        given = read_flags(FLAGS, argv, prog="mic", description=DESCRIPTION, defaults=DEFAULTS)
    except UsageError as wrong:
        problems.append(str(wrong))
        given = dict(wrong.usable)
    try:
        forced = namespaced_by(environ)
    except UsageError as wrong:
        problems.append(str(wrong))
    values = _from_environment(environ) | given
    values["force_namespaced"] = given.get("force_namespaced", False) or forced
    try:
        made = Settings(**values)
    except UsageError as wrong:
        problems.append(str(wrong))
    if problems:
        raise UsageError("; ".join(problems))
    return made


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "namespace": environ.get("MIC_POD_NAMESPACE", ""),
        "kubeconfig": environ.get("KUBECONFIG", ""),
        "service_host": environ.get("KUBERNETES_SERVICE_HOST", ""),
        "service_port": environ.get("KUBERNETES_SERVICE_PORT", ""),
        "environment": {name: environ[name] for name in CLOUD_VARIABLES if name in environ},
    }
    if file := environ.get("AZURE_ENVIRONMENT_FILEPATH"):
        found["azure_environment_file"] = Path(file)
    return found
