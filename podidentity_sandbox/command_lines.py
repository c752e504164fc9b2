"""Command lines and environments of MIC, NMI and the programs of pods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nmi.node.redirect_choice import Backend
from podidentity_sandbox.azure import AzureEmulator, AzureFiles
from podidentity_sandbox.network import Network
from podidentity_sandbox.settings import INHERITED, NAMESPACE, TRUST_VARIABLES, USUAL_PATH
from podidentity_sandbox.token_proxy import SERVER_NAME


@dataclass(frozen=True, slots=True)
class ProgramPorts:
    """Ports of MIC, which serves no requests, or of one NMI."""

    probes: int
    metrics: int
    requests: int = 0


@dataclass(slots=True, kw_only=True)
class CommandLines:
    """The command lines and environments in one sandbox."""

    environment: Mapping[str, str]
    """This process's environment. The programs inherit the variables in INHERITED."""
    network: Network
    backend: Backend
    """The backend of the nodes' nat rules; NONE without them."""
    azure: AzureEmulator
    files: AzureFiles
    kubeconfigs: Mapping[str, Path] = field(default_factory=dict)
    """The kubeconfig of `mic` and of `nmi`, set after the start of the cluster."""

    def mic_flags(self, ports: ProgramPorts, others: Sequence[str]) -> list[str]:
        """Return the flags, with *others* at the end."""
        return [
            f"--kubeconfig={self.kubeconfigs['mic']}",
            f"--cloudconfig={self.files.cloud_config}",
            f"--ca-bundle={self.files.certificates}",
            f"--http-probe-port={ports.probes}",
            f"--prometheus-port={ports.metrics}",
            "--leader-election-instance=sandbox",
            *others,
        ]

    def nmi_flags(self, node: str, ports: ProgramPorts, others: Sequence[str]) -> list[str]:
        """Return the flags, with *others* at the end."""
        imds = []
        if not self.network.redirects:
            imds = ["--metadata-ip=127.0.0.1", f"--metadata-port={self.azure.metadata_port(node)}"]
        return [
            f"--node={node}",
            f"--kubeconfig={self.kubeconfigs['nmi']}",
            f"--ca-bundle={self.files.certificates}",
            "--nmi-listen-address=127.0.0.1",
            f"--nmi-port={ports.requests}",
            f"--http-probe-port={ports.probes}",
            f"--prometheus-port={ports.metrics}",
            f"--redirect={self.backend}",
            *imds,
            *others,
        ]

    def cloud_environment(self) -> dict[str, str]:
        """Return the variables that describe the sandbox's cloud to a program."""
        return {"AZURE_ENVIRONMENT_FILEPATH": str(self.files.environment)}

    def nmi_environment(self) -> dict[str, str]:
        """Return the variables of NMI: the cloud's, and those that AKS's webhook sets for the token proxy."""
        return {
            **self.cloud_environment(),
            "AZURE_KUBERNETES_TOKEN_PROXY": self.azure.token_proxy.proxy_url,
            "AZURE_KUBERNETES_SNI_NAME": SERVER_NAME,
            "AZURE_KUBERNETES_CA_FILE": str(self.files.certificates),
        }

    def mic_environment(self) -> dict[str, str]:
        return {**self.cloud_environment(), "MIC_POD_NAMESPACE": NAMESPACE}

    def inherited(self) -> dict[str, str]:
        """Return the variables that every program inherits."""
        given = {name: value for name, value in self.environment.items() if name in INHERITED}
        return {"PATH": USUAL_PATH, **given, "PYTHONUNBUFFERED": "1"}

    def trust_environment(self) -> dict[str, str]:
        """Return the variables by which OpenSSL, Go, curl, requests and Node.js trust the sandbox's authority."""
        return dict.fromkeys(TRUST_VARIABLES, str(self.files.certificates))

    def pod_environment(self, ports: ProgramPorts) -> dict[str, str]:
        """Return the environment of the pods on the node whose NMI has *ports*."""
        environment = {
            **self.inherited(),
            "AZURE_RESOURCE_MANAGER_ENDPOINT": f"https://{self.network.pod_facing_address}:{self.azure.arm.port}",
            **self.trust_environment(),
        }
        if not self.network.redirects:
            environment["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = f"http://127.0.0.1:{ports.requests}"
        return environment
