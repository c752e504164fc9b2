"""Settings of a sandbox with the identities that an operator names, and names and ports of every sandbox. No I/O."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from podidentity.exits import StartError
from podidentity.resources import IdentityType
from podidentity_sandbox.azure import DEMO_CLIENT_ID, DEMO_IDENTITY, RESOURCE_GROUP, SUBSCRIPTION

NAMESPACE: Final = "default"
"""The namespace of the pods of MIC and NMI."""
SCALE_SET: Final = "pool"
NMI_PORT: Final = 2579
NMI_PROBE_PORT: Final = 8085
NMI_METRICS_PORT: Final = 9090
AZURE_JSON: Final = "/etc/kubernetes/azure.json"
"""The path on a node of MIC's credentials."""
CLOUD_JSON: Final = "/etc/kubernetes/cloud.json"
"""The path on a node of the description of the sandbox's cloud, for AZURE_ENVIRONMENT_FILEPATH."""
CHART_VALUES: Final[Mapping[str, Mapping[str, object]]] = {
    "image": {"repository": "localhost/aad-pod-identity"},
    "mic": {"customCloud": {"enabled": True, "configPath": CLOUD_JSON}},
    "test": {
        "selector": DEMO_IDENTITY,
        "clientID": DEMO_CLIENT_ID,
        "subscriptionID": SUBSCRIPTION,
        "resourceGroup": RESOURCE_GROUP,
    },
}
"""The chart values for the sandbox's cloud and for the identity of `helm test`. The kubelet here pulls no image."""
# The inherited variables: enough to find programs and Python's modules, no settings.
INHERITED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR")
TRUST_VARIABLES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
"""The variables that name the file of trusted CA certificates to OpenSSL and Go, requests, curl and Node.js."""
USUAL_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

FEDERATED_FLAGS: Final = ("--federated-identities",)
"""NMI's flags for identities of type 3 and federated credentials."""
BINDING_FLAGS: Final = (*FEDERATED_FLAGS, "--federated-exchange=identityBindings")
"""NMI's flags for AKS identity bindings."""
FEDERATED: Final = "federated"
"""Name and selector of the federated identity, and name of the service account that it trusts."""
IDENTITIES_MAX: Final = 50
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SELECTOR: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class GivenIdentity:
    """One identity; of type SECRET it is a service principal."""

    name: str
    selector: str
    type: IdentityType = IdentityType.USER_ASSIGNED


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """Settings of a sandbox."""

    nodes: int = 1
    scale_set: bool = False
    """Whether the nodes are instances of one scale set, which share identities, or VMs by themselves."""
    kubeconfig: Path | None = None
    """The kubeconfig of an existing API server on 127.0.0.1; None: the emulator."""
    schedule: bool = True
    """Whether the sandbox schedules pods; False if another scheduler does."""
    run_pods: bool = True
    """Whether the sandbox runs pods; False if another program such as kwok does."""
    namespaces: bool | None = None
    """Network namespaces (True), loopback addresses (False), or namespaces if this process may create them (None)."""
    programs: bool = True
    """Whether the sandbox runs MIC and NMI; False if another program or a chart starts them."""
    daemon_pods: bool = False
    """Whether MIC and NMI have pod objects, and service accounts with the permissions of an installation."""
    rbac: bool = False
    """Whether the emulated API server authorizes by RBAC; with *daemon_pods* it always does."""
    kinds: bool = True
    """Whether the sandbox installs the custom resources; False if a chart does."""
    operation_seconds: float = 0.2
    """The duration of ARM's operations on a VM."""
    lag_seconds: float = 0.0
    """The delay until IMDS knows an identity that ARM has attached."""
    federated_flags: Sequence[str] = ()
    """FEDERATED_FLAGS, or BINDING_FLAGS with a binding of the demo's identity; NMI has the permissions for them."""
    identities: Sequence[GivenIdentity] = ()
    """Identities that the sandbox creates in Azure and in the cluster."""
    system_assigned: bool = False
    """Whether each VM or scale set has a system-assigned identity."""
    nmi_flags: Sequence[str] = ()
    mic_flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """This process's environment. The programs inherit the variables in INHERITED."""


def given_identities(
    identities: Iterable[str], principals: Iterable[str], *, federated: bool = False
) -> tuple[GivenIdentity, ...]:
    """Return the identities that `NAME[=SELECTOR]` texts describe, and the federated one. Raise StartError."""
    given: dict[str, GivenIdentity] = {}
    kinds = {IdentityType.USER_ASSIGNED: identities, IdentityType.SECRET: principals}
    kinds[IdentityType.FEDERATED] = [FEDERATED] if federated else ()
    for kind, text in ((kind, text) for kind, texts in kinds.items() for text in texts):
        name, equals, selector = text.partition("=")
        if not _NAME.fullmatch(name) or (equals and not _SELECTOR.fullmatch(selector)):
            raise StartError(
                f"{text[:80]!a} is not NAME or NAME=SELECTOR; use lower-case letters, digits and hyphens for the name, "
                "and a value of a Kubernetes label for the selector"
            )
        if name == DEMO_IDENTITY:
            raise StartError(f"the identity {DEMO_IDENTITY!r} belongs to the demo; use another name")
        if name in given:
            raise StartError(f"the identity {name!r} is named twice; use a different name for each identity")
        given[name] = GivenIdentity(name, selector or name, kind)
    if len(given) > IDENTITIES_MAX:
        raise StartError(f"{len(given)} identities are named; name at most {IDENTITIES_MAX}")
    return tuple(given.values())
