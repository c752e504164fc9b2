"""The sandbox as a whole: Azure, cluster, nodes, and the real MIC and NMI, started and stopped in order.

`mic` and `nmi` run as separate processes. NMI runs inside its node's network namespace with the real nat rule if this
process may create namespaces, otherwise on loopback addresses without a rule.
"""

import asyncio
import http.client
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from podidentity_sandbox import fault_control, issuing, namespaces
from podidentity_sandbox.azure import (
    DEMO_CLIENT_ID,
    DEMO_IDENTITY,
    RESOURCE_GROUP,
    SUBSCRIPTION,
    AzureEmulator,
    AzureFiles,
)
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.cluster import Cluster
from podidentity_sandbox.daemon_pods import NAMESPACE, DaemonPod, DaemonPods
from podidentity_sandbox.directory import FederatedCredential
from podidentity_sandbox.fabric import Fabric
from podidentity_sandbox.fault_control import SOCKET_NAME, FaultControl, Service
from podidentity_sandbox.kubelet import PodObserver
from podidentity_sandbox.network import METADATA_ADDRESS, ExecutionContext, Loopback, Network
from podidentity_sandbox.processes import Program, python
from podidentity_sandbox.serving import free_ports
from podidentity_sandbox.tokens import TokenMint

ACTIVE_SECONDS: Final = 30.0  # both programs take about a second; a busy machine takes longer
POLL_SECONDS: Final = 0.05
PROBE_SECONDS: Final = 2.0
SCALE_SET: Final = "pool"
NMI_PORT: Final = 2579
NMI_PROBE_PORT: Final = 8085
NMI_METRICS_PORT: Final = 9090
EXCHANGE_AUDIENCE: Final = "api://AzureADTokenExchange"
"""The audience of a federated credential and its token in Azure's public cloud."""
AZURE_JSON: Final = "/etc/kubernetes/azure.json"
"""The path on a node of MIC's credentials."""
CLOUD_JSON: Final = "/etc/kubernetes/cloud.json"
"""The path on a node of the description of the sandbox's cloud, for AZURE_ENVIRONMENT_FILEPATH."""
CHART_VALUES: Final[Mapping[str, Mapping[str, object]]] = {
    "mic": {"customCloud": {"enabled": True, "configPath": CLOUD_JSON}},
    "test": {
        "selector": DEMO_IDENTITY,
        "clientID": DEMO_CLIENT_ID,
        "subscriptionID": SUBSCRIPTION,
        "resourceGroup": RESOURCE_GROUP,
    },
}
"""The chart values for the sandbox's cloud and for the identity of `helm test`."""
# The inherited variables: enough to find programs and Python's modules, no settings.
INHERITED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR")

USUAL_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class SandboxError(Exception):
    """The sandbox cannot start. The message is one line with the next action."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
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
    """Whether the emulator has pod objects for the processes of MIC and NMI."""
    kinds: bool = True
    """Whether the sandbox installs the custom resources; False if a chart does."""
    operation_seconds: float = 0.2
    """The duration of ARM's operations on a VM."""
    lag_seconds: float = 0.0
    """The delay until IMDS knows an identity that ARM has attached."""
    nmi_flags: Sequence[str] = ()
    mic_flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """This process's environment. The programs inherit the variables in INHERITED."""


@dataclass(slots=True)
class NodeProgram:
    """NMI on one node: its process and its addresses, as seen from the node."""

    program: Program
    url: str
    probe_port: int
    metrics_port: int


class Sandbox:
    """Emulators and programs of one sandbox. Use `async with`, or `start` and `stop`; `stop` also cleans up after a
    failed start.
    """

    def __init__(self, settings: Settings | None = None, *, on_pod_running: PodObserver | None = None) -> None:
        self.settings = settings or Settings()
        self.instance = uuid.uuid4().hex[:6]
        self.folder = Path()
        self.node_names = [f"node-{number}" for number in range(self.settings.nodes)]
        self.network: Network
        self.azure: AzureEmulator
        self.cluster: Cluster
        self.files: AzureFiles
        self.faults: FaultControl
        self.mic: Program | None = None
        self.mic_probe_port = 0
        self.mic_metrics_port = 0
        self.nmis: dict[str, NodeProgram] = {}
        self.contexts: dict[str, ExecutionContext] = {}
        self._on_pod_running = on_pod_running
        self._daemon_pods: asyncio.Task[None] | None = None
        self._vms: dict[str, str] = {}
        self._ports: dict[str, tuple[int, int, int]] = {}

    @property
    def redirects(self) -> bool:
        """Whether pods use 169.254.169.254 and a nat rule redirects them to NMI."""
        return self.network.redirects

    @property
    def loopback_reason(self) -> str:
        """The reason why there are no network namespaces, if there are none."""
        if self.settings.namespaces is False:
            return "--loopback"
        if os.geteuid() != 0:
            return "not root"
        if shutil.which("ip") is None:
            return "the program ip is missing (package iproute2)"
        return "this system does not permit network namespaces"

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start everything, and wait until MIC and every NMI are Active.

        Raise SandboxError, ClusterError, NamespaceError, ProgramError, ApiError or AccessError, each with one line that
        names the next action.
        """
        self.folder = await asyncio.to_thread(_new_folder)
        mint, authority, real = await asyncio.gather(
            asyncio.to_thread(TokenMint), asyncio.to_thread(Authority), asyncio.to_thread(self._may_make_namespaces)
        )
        self.network = Fabric(self.instance) if real else Loopback()
        await asyncio.to_thread(self.network.start)
        self.azure = AzureEmulator(mint, authority, self.network)
        self.azure.arm.lag_seconds = self.settings.lag_seconds
        await self.azure.start()
        self.files = await asyncio.to_thread(self.azure.write_files, self.folder)
        for node in self.node_names:
            self.contexts[node] = await asyncio.to_thread(self.network.add_node, node)
            self._vms[node] = await self.azure.add_vm(
                node,
                scale_set=SCALE_SET if self.settings.scale_set else "",
                operation_seconds=self.settings.operation_seconds,
            )
        self._ports = {node: self._nmi_ports() for node in self.node_names}
        self.cluster = Cluster(
            self.network,
            self.folder,
            kubeconfig=self.settings.kubeconfig,
            schedule=self.settings.schedule,
            run_pods=self.settings.run_pods,
            on_pod_running=self._on_pod_running,
            install_kinds=self.settings.kinds,
            node_files={AZURE_JSON: self.files.cloud_config, CLOUD_JSON: self.files.environment},
            trusted=self.files.certificates,
            relayed=(self.azure.arm.port, self.azure.aad.port),
        )
        self.azure.aad.issuers.fetch = lambda url: issuing.fetch(self.cluster.client.access, url)
        await self.cluster.start(
            {node: (self.contexts[node], f"azure://{self._vms[node]}") for node in self.node_names},
            pod_environment={node: self._pod_environment(self._ports[node][0]) for node in self.node_names},
        )
        if self.settings.programs:
            await self.start_mic()
            for node in self.node_names:
                await self.start_nmi(node)
            await asyncio.gather(self.mic_active(), *(self.nmi_active(node) for node in self.node_names))
            if self.settings.daemon_pods and self.cluster.api is not None:
                pods = DaemonPods(self.cluster, self._describe_daemons())
                await pods.publish()
                self._daemon_pods = asyncio.create_task(pods.run(), name="pods of MIC and NMI")
        self.faults = FaultControl(self._services())
        await self.faults.start(self.folder / SOCKET_NAME)

    async def stop(self) -> None:
        """Stop everything, programs first. It is safe after a failed start and a second time."""
        if hasattr(self, "faults"):
            await self.faults.stop()
        if self._daemon_pods is not None:
            self._daemon_pods.cancel()
            await asyncio.wait({self._daemon_pods})
        await asyncio.gather(*(nmi.program.stop() for nmi in self.nmis.values()))
        if self.mic is not None:
            await self.mic.stop()
        if hasattr(self, "cluster"):
            await self.cluster.stop()
        if hasattr(self, "azure"):
            await self.azure.stop()
        if hasattr(self, "network"):
            await asyncio.to_thread(self.network.stop)
        if self.folder != Path():
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    def vm_id(self, node: str) -> str:
        """Return the resource id of the node's host: its VM, or its scale set."""
        vm = self._vms[node]
        return vm.rpartition("/virtualMachines/")[0] if self.settings.scale_set else vm

    async def trust(
        self,
        service_account: str,
        *,
        namespace: str = "default",
        client_id: str = DEMO_CLIENT_ID,
        audience: str = EXCHANGE_AUDIENCE,
        delay_seconds: float = 0.0,
    ) -> FederatedCredential:
        """Let an identity or application trust the pods of a service account; AAD knows it after the delay."""
        credential = FederatedCredential(
            await issuing.issuer_of(self.cluster.client.access),
            f"system:serviceaccount:{namespace}:{service_account}",
            audience,
            time.time() + delay_seconds,
        )
        self.azure.directory.federate(client_id, credential)
        return credential

    def failure(self) -> str:
        """Return a line on the first program that has ended unexpectedly; empty if there is none."""
        programs = [] if self.mic is None else [self.mic]
        programs += [nmi.program for nmi in self.nmis.values()]
        ended = next((program for program in programs if program.returncode is not None), None)
        if ended is not None:
            return str(ended.exit_error())
        failure = self.cluster.failure()
        return f"the sandbox's kubelets ended: {failure!r}" if failure is not None else ""

    async def restart_ended(self) -> list[str]:
        """Start the programs that ended because of a fault, as a kubelet does. Return a line on each.

        Do nothing if no fault was set: then an ended program is a failure of the sandbox.
        """
        if not self.faults.used:
            return []
        lines = []
        if self.mic is not None and self.mic.returncode is not None:
            lines.append(str(self.mic.exit_error()))
            await self.start_mic()
        for node, nmi in tuple(self.nmis.items()):
            if nmi.program.returncode is not None:
                lines.append(str(nmi.program.exit_error()))
                await self.start_nmi(node)
        return lines

    async def start_mic(self) -> None:
        """Start the real MIC on this machine, also after it ended; the ports stay the same."""
        if not self.mic_probe_port:
            self.mic_probe_port, self.mic_metrics_port = free_ports(2)
        self.mic = await Program.start(
            "mic",
            python("mic", *self._mic_flags()),
            context=ExecutionContext("127.0.0.1"),
            log=self.folder / "mic.log",
            environment={**self.inherited(), **self._mic_environment()},
        )

    async def start_nmi(self, node: str) -> None:
        """Start the real NMI on the node, also after it was stopped or killed; the ports stay the same."""
        port, probe_port, metrics_port = self._ports[node]
        program = await Program.start(
            f"nmi on {node}",
            python("nmi", *self._nmi_flags(node)),
            context=self.contexts[node],
            log=self.folder / f"nmi-{node}.log",
            environment={**self.inherited(), **self._cloud_environment()},
        )
        self.nmis[node] = NodeProgram(program, f"http://127.0.0.1:{port}", probe_port, metrics_port)

    def _mic_flags(self) -> list[str]:
        return [
            f"--kubeconfig={self.cluster.kubeconfig}",
            f"--cloudconfig={self.files.cloud_config}",
            f"--http-probe-port={self.mic_probe_port}",
            f"--prometheus-port={self.mic_metrics_port}",
            "--leader-election-instance=sandbox",
            *self.settings.mic_flags,
        ]

    def _nmi_flags(self, node: str) -> list[str]:
        port, probe_port, metrics_port = self._ports[node]
        redirected = (
            ["--redirect=nat"]
            if self.redirects
            else ["--redirect=none", "--metadata-ip=127.0.0.1", f"--metadata-port={self.azure.metadata_port(node)}"]
        )
        return [
            f"--node={node}",
            f"--kubeconfig={self.cluster.kubeconfig}",
            "--nmi-listen-address=127.0.0.1",
            f"--nmi-port={port}",
            f"--http-probe-port={probe_port}",
            f"--prometheus-port={metrics_port}",
            *redirected,
            *self.settings.nmi_flags,
        ]

    def _cloud_environment(self) -> dict[str, str]:
        """Return the variables that describe the sandbox's cloud to a program."""
        return {
            "AZURE_ENVIRONMENT_FILEPATH": str(self.files.environment),
            "SSL_CERT_FILE": str(self.files.certificates),
        }

    def _mic_environment(self) -> dict[str, str]:
        return {**self._cloud_environment(), "MIC_POD_NAMESPACE": NAMESPACE}

    def _describe_daemons(self) -> list[DaemonPod]:
        """Return the pods of MIC, which is on no node and is shown on the first one, and of each NMI."""
        first = self.node_names[0]
        mic_log = self.folder / "mic.log"
        mic = DaemonPod(
            name="mic",
            program="mic",
            node=first,
            address=self.contexts[first].address,
            flags=self._mic_flags(),
            environment=self._mic_environment(),
            log=mic_log,
            is_ready=lambda: _probe(self.mic_probe_port),
        )
        return [mic, *(self._describe_nmi(node) for node in self.node_names)]

    def _describe_nmi(self, node: str) -> DaemonPod:
        return DaemonPod(
            name=f"nmi-{node}",
            program="nmi",
            node=node,
            address=self.contexts[node].address,
            flags=self._nmi_flags(node),
            environment=self._cloud_environment(),
            log=self.folder / f"nmi-{node}.log",
            is_ready=lambda: self.network.call_on_node(node, lambda: _probe(self._ports[node][1])),
        )

    def _services(self) -> dict[str, Service]:
        """Return the services whose responses `podidctl sandbox fault` replaces."""
        services = {
            "imds": Service(self.azure.imds.faults, fault_control.imds_error),
            "arm": Service(self.azure.arm.faults, fault_control.azure_error),
            "aad": Service(self.azure.aad.faults, fault_control.aad_error),
        }
        if self.cluster.api is not None:
            api = self.cluster.api
            services["api"] = Service(api.faults, fault_control.api_error, on_change=api.drop_watches)
        return services

    def shell_environment(self) -> dict[str, str]:
        """Return the variables by which kubectl and the commands of podidctl find this sandbox."""
        directory, controller = self.azure.directory, self.azure.controller
        return {
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "PODIDENTITY_SANDBOX": str(self.folder),
            **self._cloud_environment(),
            "CLOUD": "AzureStackCloud",
            "TENANT_ID": directory.tenant_id,
            "CLIENT_ID": controller.client_id,
            "CLIENT_SECRET": controller.secret,
        }

    async def mic_active(self) -> None:
        """Wait until MIC leads and its loop runs. Raise SandboxError or ProgramError."""
        if self.mic is not None:
            await self._active(self.mic, lambda: _probe(self.mic_probe_port))

    async def nmi_active(self, node: str) -> None:
        """Wait until NMI serves on the node. Raise SandboxError or ProgramError."""
        nmi = self.nmis[node]
        await self._active(nmi.program, lambda: self.network.call_on_node(node, lambda: _probe(nmi.probe_port)))

    def inherited(self) -> dict[str, str]:
        """Return the variables that every program inherits."""
        given = {name: value for name, value in self.settings.environment.items() if name in INHERITED}
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            **given,
            "PYTHONUNBUFFERED": "1",
        }

    async def _active(self, program: Program, probe: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(ACTIVE_SECONDS):
                while True:
                    if program.returncode is not None:
                        raise program.exit_error()
                    if await asyncio.to_thread(probe):
                        return
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as late:
            last = (program.output().strip().splitlines() or ["no output"])[-1][-300:]
            raise SandboxError(
                f"{program.name} is not Active after {ACTIVE_SECONDS:g} s; its last line: {last}"
            ) from late

    def _pod_environment(self, nmi_port: int) -> dict[str, str]:
        environment = {
            **self.inherited(),
            "AZURE_RESOURCE_MANAGER_ENDPOINT": (f"https://{self.network.pod_facing_address}:{self.azure.arm.port}"),
            "SSL_CERT_FILE": str(self.files.certificates),
        }
        if not self.redirects:
            environment["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = f"http://127.0.0.1:{nmi_port}"
        return environment

    def metadata_url(self, node: str) -> str:
        """Return the URL at which a pod of the node requests its token."""
        return f"http://{METADATA_ADDRESS}" if self.redirects else self.nmis[node].url

    def _nmi_ports(self) -> tuple[int, int, int]:
        """Return the ports of NMI, its probes and its metrics: the defaults if each node has its own network."""
        if self.redirects:
            return NMI_PORT, NMI_PROBE_PORT, NMI_METRICS_PORT
        port, probe_port, metrics_port = free_ports(3)
        return port, probe_port, metrics_port

    def _may_make_namespaces(self) -> bool:
        if self.settings.namespaces is None:
            return namespaces.available()
        if self.settings.namespaces and not namespaces.available():
            raise SandboxError("network namespaces need root and the program ip; use sudo, or omit the option")
        return self.settings.namespaces


def running_folders() -> list[Path]:
    """Return the folders of this user's running sandboxes that accept faults. Blocks."""
    return [
        folder for folder in _own_folders() if (folder / SOCKET_NAME).exists() and not namespaces.orphaned(folder.name)
    ]


def _own_folders() -> list[Path]:
    found = sorted(Path(tempfile.gettempdir()).glob(f"{namespaces.PREFIX}-*"))
    return [folder for folder in found if folder.is_dir() and folder.stat().st_uid == os.geteuid()]


def _new_folder() -> Path:
    """Create a folder for this user alone. Remove the folders, with secrets, of this user's killed sandboxes."""
    for left in _own_folders():
        if namespaces.orphaned(left.name):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{namespaces.owner()}-"))


def _probe(port: int) -> bool:
    """Return whether a program's /healthz returns Active."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().read(100).strip() == b"Active"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
