"""The sandbox as a whole: Azure, cluster, nodes, and the real MIC and NMI, started and stopped in order.

`mic` and `nmi` run as separate processes. NMI runs inside its node's network namespace with the real nat rule where
this machine permits both (`network_choice`), otherwise on loopback addresses without a rule.
"""

import asyncio
import contextlib
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from podidentity.azure.federation import DIRECT_AUDIENCE
from podidentity.exits import StartError
from podidentity.resources import IdentityType
from podidentity_sandbox import fault_control, federation
from podidentity_sandbox.azure import DEMO_CLIENT_ID, AzureEmulator, AzureFiles
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.cluster import Cluster
from podidentity_sandbox.command_lines import CommandLines, ProgramPorts
from podidentity_sandbox.daemons import ACCOUNTS, DaemonAccounts, DaemonPod, DaemonPods
from podidentity_sandbox.directory import FederatedCredential
from podidentity_sandbox.fabric import Fabric
from podidentity_sandbox.fault_control import SOCKET_NAME, FaultControl, Service
from podidentity_sandbox.folders import new_folder
from podidentity_sandbox.identity_objects import IdentityObjects
from podidentity_sandbox.kubelet import PodObserver
from podidentity_sandbox.network import METADATA_ADDRESS, ExecutionContext, Network
from podidentity_sandbox.network_choice import NetworkChoice, choose_network
from podidentity_sandbox.probes import is_active, until_active
from podidentity_sandbox.processes import Program, Restarts, python
from podidentity_sandbox.serving import free_ports
from podidentity_sandbox.settings import (
    BINDING_FLAGS,
    NMI_METRICS_PORT,
    NMI_PORT,
    NMI_PROBE_PORT,
    SCALE_SET,
    GivenIdentity,
    SandboxSettings,
)
from podidentity_sandbox.tokens import TokenMint


@dataclass(slots=True)
class NodeProgram:
    """NMI on one node: its process and its addresses, as seen from the node."""

    program: Program
    url: str
    probe_port: int
    metrics_port: int


class Sandbox:
    """Emulators and programs of one sandbox. Use `async with`, or `start` and, also after its failure, `stop`."""

    azure_type: type[AzureEmulator] = AzureEmulator

    def __init__(self, settings: SandboxSettings | None = None, *, on_pod_running: PodObserver | None = None) -> None:
        self.settings = settings or SandboxSettings()
        self.instance = uuid.uuid4().hex[:6]
        self.folder = Path()
        self.node_names = [f"node-{number}" for number in range(self.settings.nodes)]
        self.network: Network
        self.network_choice: NetworkChoice
        self.azure: AzureEmulator
        self.cluster: Cluster
        self.files: AzureFiles
        self.faults: FaultControl
        self.mic: Program | None = None
        self.nmis: dict[str, NodeProgram] = {}
        self.contexts: dict[str, ExecutionContext] = {}
        self._on_pod_running = on_pod_running
        self.identities: Mapping[GivenIdentity, str] = {}
        """The identities of the settings, with their client ids."""
        self._started = contextlib.AsyncExitStack()
        """What `stop` ends, the last one first."""
        self._restarts: dict[str, Restarts] = {}
        self._vms: dict[str, str] = {}
        self.mic_ports = ProgramPorts(0, 0)
        self._ports: dict[str, ProgramPorts] = {}
        self.commands: CommandLines

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

        Raise StartError, NamespaceError, ProgramError, ApiError or AccessError, each with one line that names the next
        action.
        """
        # Each end is registered before its part starts: a start that fails may have begun something.
        ending = self._started.push_async_callback
        self.folder = await asyncio.to_thread(new_folder)
        ending(asyncio.to_thread, shutil.rmtree, self.folder, ignore_errors=True)
        mint, authority, self.network_choice = await asyncio.gather(
            asyncio.to_thread(TokenMint), asyncio.to_thread(Authority), self._choose_network()
        )
        self.network = Fabric(self.instance) if self.network_choice.redirects else Network()
        ending(asyncio.to_thread, self.network.stop)
        await asyncio.to_thread(self.network.start)
        self.azure = self.azure_type(mint, authority, self.network)
        self.azure.arm.lag_seconds = self.settings.lag_seconds
        ending(self.azure.stop)
        await self.azure.start()
        self.files = await asyncio.to_thread(self.azure.write_files, self.folder)
        for node in self.node_names:
            self.contexts[node] = await asyncio.to_thread(self.network.add_node, node)
            self._vms[node] = await self.azure.add_vm(
                node,
                scale_set=SCALE_SET if self.settings.scale_set else "",
                operation_seconds=self.settings.operation_seconds,
                system_assigned=self.settings.system_assigned,
            )
        self.mic_ports = ProgramPorts(*free_ports(2))
        self._ports = {node: self._nmi_ports() for node in self.node_names}
        self.commands = CommandLines(
            environment=self.settings.environment,
            network=self.network,
            backend=self.network_choice.backend,
            azure=self.azure,
            files=self.files,
        )
        self.cluster = Cluster(
            self.network,
            self.folder,
            self.settings,
            on_pod_running=self._on_pod_running,
            files=self.files,
            relayed=(self.azure.arm.port, self.azure.aad.port, self.azure.token_proxy.port),
        )
        ending(self.cluster.stop)
        self.azure.aad.issuers.fetch = lambda url: federation.fetch(self.cluster.client.access, url)
        await self.cluster.start(
            {node: (self.contexts[node], f"azure://{self._vms[node]}") for node in self.node_names},
            pod_environment={node: self.commands.pod_environment(self._ports[node]) for node in self.node_names},
        )
        self.azure.token_proxy.client = self.cluster.client
        if self.settings.federated_flags == BINDING_FLAGS:
            self.azure.token_proxy.bind(DEMO_CLIENT_ID)
        identities = IdentityObjects(self.azure, self.cluster, self.settings.identities)
        ending(identities.objects.remove)
        await identities.create()
        self.identities = identities.client_ids
        for given, client_id in self.identities.items():
            if given.type == IdentityType.FEDERATED:
                await self.trust(given.name, client_id=client_id)
        self.commands.kubeconfigs = dict.fromkeys(ACCOUNTS, self.cluster.kubeconfig)
        if self.settings.programs and self.settings.daemon_pods:
            accounts = DaemonAccounts(self.cluster, tokens=bool(self.settings.federated_flags))
            ending(accounts.objects.remove)
            await accounts.create()
            self.commands.kubeconfigs = await accounts.write_kubeconfigs(self.folder)
        ending(self._stop_programs)  # also those that the caller starts
        if self.settings.programs:
            await self.start_mic()
            for node in self.node_names:
                await self.start_nmi(node)
            await asyncio.gather(self.mic_active(), *(self.nmi_active(node) for node in self.node_names))
            if self.settings.daemon_pods:
                daemons = [self._describe_mic(), *(self._describe_nmi(node) for node in self.node_names)]
                pods = DaemonPods(self.cluster, daemons)
                ending(pods.stop)
                await pods.start()
        self.faults = FaultControl(self._services())
        ending(self.faults.stop)
        await self.faults.start(self.folder / SOCKET_NAME)

    async def stop(self) -> None:
        """Stop everything, programs first. It is safe after a failed start and a second time."""
        await self._started.aclose()

    async def _stop_programs(self) -> None:
        """Stop each NMI, then MIC. If an NMI cannot be stopped, raise its error after the end of the others."""
        try:
            results = await asyncio.gather(*(nmi.program.stop() for nmi in self.nmis.values()), return_exceptions=True)
        finally:
            if self.mic is not None:
                await self.mic.stop()
        for result in results:
            if isinstance(result, BaseException):
                raise result

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
        audience: str = DIRECT_AUDIENCE,
        delay_seconds: float = 0.0,
    ) -> FederatedCredential:
        """Let an identity or application trust the pods of a service account; AAD knows it after the delay."""
        credential = FederatedCredential(
            await federation.issuer_of(self.cluster.client.access),
            f"system:serviceaccount:{namespace}:{service_account}",
            audience,
            time.time() + delay_seconds,
        )
        self.azure.directory.federate(client_id, credential)
        return credential

    def failure(self) -> str:
        """Return a line on the first program or task that has ended unexpectedly; empty if there is none."""
        ended = next((program for program in self.programs().values() if program.returncode is not None), None)
        return str(ended.exit_error()) if ended is not None else self.cluster_failure()

    def cluster_failure(self) -> str:
        """Return a line on the kubelets or the scheduler if they have ended, which nothing restarts; else empty."""
        failure = self.cluster.failure()
        return f"the sandbox's kubelets ended: {failure!r}" if failure is not None else ""

    async def restart_ended(self) -> list[str]:
        """Start the programs that ended, after a back-off, as a kubelet does. Return a line on each end and start.

        Call it about once a second. Raise ProgramError or OSError if a program cannot be started.
        """
        lines = []
        for name, program in self.programs().items():
            if program.returncode is None:
                continue
            restarts = self._restarts.setdefault(name, Restarts(time.monotonic))
            delay = restarts.ended()
            if delay is not None:
                lines.append(f"{program.exit_error()}; it starts again in {delay:g} s")
            elif restarts.is_due():
                await (self.start_nmi(name) if name in self.nmis else self.start_mic())
                restarts.started()
                lines.append(f"{program.name} runs again")
        return lines

    def programs(self) -> dict[str, Program]:
        """Return MIC under its name, and each NMI under the name of its node."""
        mic = {"mic": self.mic} if self.mic is not None else {}
        return {**mic, **{node: nmi.program for node, nmi in self.nmis.items()}}

    async def start_mic(self) -> None:
        """Start the real MIC on this machine, also after it ended; the ports stay the same."""
        self.mic = await self._start_program("mic", self._describe_mic(), ExecutionContext("127.0.0.1"))

    async def start_nmi(self, node: str) -> None:
        """Start the real NMI on the node, also after it was stopped or killed; the ports stay the same."""
        ports = self._ports[node]
        program = await self._start_program(f"nmi on {node}", self._describe_nmi(node), self.contexts[node])
        self.nmis[node] = NodeProgram(program, f"http://127.0.0.1:{ports.requests}", ports.probes, ports.metrics)

    async def _start_program(self, name: str, pod: DaemonPod, context: ExecutionContext) -> Program:
        environment = {**self.commands.inherited(), **pod.environment}
        argv = python(pod.program, *pod.flags)
        return await Program.start(name, argv, context=context, log=pod.log, environment=environment)

    def _describe_mic(self) -> DaemonPod:
        """Return the pod of MIC, which is on no node and is shown on the first one."""
        first = self.node_names[0]
        return DaemonPod(
            name="mic",
            program="mic",
            node=first,
            address=self.contexts[first].address,
            flags=self.commands.mic_flags(self.mic_ports, self.settings.mic_flags),
            environment=self.commands.mic_environment(),
            log=self.folder / "mic.log",
            is_ready=lambda: is_active(self.mic_ports.probes),
        )

    def _describe_nmi(self, node: str) -> DaemonPod:
        return DaemonPod(
            name=f"nmi-{node}",
            program="nmi",
            node=node,
            address=self.contexts[node].address,
            flags=self.commands.nmi_flags(
                node, self._ports[node], [*self.settings.federated_flags, *self.settings.nmi_flags]
            ),
            environment=self.commands.nmi_environment(),
            log=self.folder / f"nmi-{node}.log",
            is_ready=lambda: self.network.call_on_node(node, lambda: is_active(self._ports[node].probes)),
        )

    def _services(self) -> dict[str, Service]:
        """Return the services whose responses `podidctl sandbox fault` replaces."""
        services = {
            "imds": Service(self.azure.imds, fault_control.imds_error),
            "arm": Service(self.azure.arm, fault_control.azure_error),
            "aad": Service(self.azure.aad, fault_control.aad_error),
            "proxy": Service(self.azure.token_proxy, fault_control.proxy_error),
        }
        if self.cluster.api is not None:
            api = self.cluster.api
            services["api"] = Service(api, fault_control.api_error, on_change=api.drop_watches)
        return services

    def shell_environment(self) -> dict[str, str]:
        """Return the variables by which kubectl and the commands of podidctl find this sandbox."""
        directory, controller = self.azure.directory, self.azure.controller
        return {
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "PODIDENTITY_SANDBOX": str(self.folder),
            **self.commands.cloud_environment(),
            "SSL_CERT_FILE": str(self.files.certificates),
            "CLOUD": "AzureStackCloud",
            "TENANT_ID": directory.tenant_id,
            "CLIENT_ID": controller.client_id,
            "CLIENT_SECRET": controller.secret,
        }

    async def mic_active(self) -> None:
        """Wait until MIC leads and its loop runs. Raise StartError or ProgramError."""
        if self.mic is not None:
            await until_active(self.mic, lambda: is_active(self.mic_ports.probes))

    async def nmi_active(self, node: str) -> None:
        """Wait until NMI serves on the node. Raise StartError or ProgramError."""
        nmi = self.nmis[node]
        await until_active(nmi.program, lambda: self.network.call_on_node(node, lambda: is_active(nmi.probe_port)))

    def metadata_url(self, node: str) -> str:
        """Return the URL at which a pod of the node requests its token."""
        return f"http://{METADATA_ADDRESS}" if self.network.redirects else self.nmis[node].url

    def _nmi_ports(self) -> ProgramPorts:
        """Return the ports of NMI, its probes and its metrics: the defaults if each node has its own network."""
        if self.network.redirects:
            return ProgramPorts(NMI_PROBE_PORT, NMI_METRICS_PORT, NMI_PORT)
        return ProgramPorts(*free_ports(3))

    async def _choose_network(self) -> NetworkChoice:
        """Raise StartError if the settings require namespaces that are not possible."""
        if self.settings.namespaces is False:
            return NetworkChoice(reason="--loopback")
        choice = await choose_network()
        if self.settings.namespaces and not choice.redirects:
            raise StartError(
                f"nodes as network namespaces with a nat rule are not possible: {choice.reason}; run as root with the "
                "packages iproute2 and nftables, or omit the option"
            )
        return choice
