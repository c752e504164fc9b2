"""The emulated Azure: directory, AAD, ARM and IMDS, the VMs of the nodes, and the files that describe it to programs.

The ids are constant, so that the demo's manifests can contain them. They do not exist elsewhere.
"""

import asyncio
import contextlib
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from podidentity_sandbox.aad import Aad
from podidentity_sandbox.arm import AUDIENCES, Arm
from podidentity_sandbox.certificates import LOOPBACK, Authority
from podidentity_sandbox.directory import Directory, ManagedIdentity, ServicePrincipal
from podidentity_sandbox.imds import Imds, ImdsVm
from podidentity_sandbox.network import Network
from podidentity_sandbox.public_names import AAD_NAMES, ARM_NAMES, DNS_PORT, HTTPS_PORT, NameServer, PublicNames
from podidentity_sandbox.token_proxy import TokenProxy
from podidentity_sandbox.tokens import TokenMint

SUBSCRIPTION: Final = "5a4db0c5-0000-4000-8000-000000000000"
RESOURCE_GROUP: Final = "MC_sandbox"
LOCATION: Final = "westeurope"
DEMO_IDENTITY: Final = "demo"
DEMO_CLIENT_ID: Final = "d3a0c11e-0000-4000-8000-000000000001"
CERTIFICATES: Final = "ca.pem"
"""The file with the authority to trust, in the sandbox's folder."""
USUAL_ROLES: Final = ("Reader",)
"""The roles of the demo's identity and of identities that an operator adds."""
PROVIDERS: Final = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}/providers"
COMPUTE: Final = f"{PROVIDERS}/Microsoft.Compute"


def identity_id(name: str) -> str:
    """Return the resource id of the user-assigned identity of this name in the sandbox's resource group."""
    return f"{PROVIDERS}/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"


@dataclass(frozen=True, slots=True)
class AzureFiles:
    """The files that describe this Azure to a program."""

    cloud_config: Path
    """azure.json: the controller's credentials and cloud."""
    environment: Path
    """The description of the cloud, for AZURE_ENVIRONMENT_FILEPATH."""
    certificates: Path
    """The authority to trust, for SSL_CERT_FILE."""


class AzureEmulator:
    """One tenant, one resource group, a VM for each node, and the demo's identity, which may read the VMs."""

    def __init__(self, mint: TokenMint, authority: Authority, network: Network) -> None:
        self._authority = authority
        self._network = network
        self.directory = Directory()
        self.aad = Aad(self.directory, mint)
        self.arm = Arm(self.directory, mint)
        self.imds = Imds(mint)
        self.token_proxy = TokenProxy(self.directory, self.aad)
        self.names = PublicNames({ARM_NAMES: self.arm, AAD_NAMES: self.aad})
        self._name_server = NameServer(network.pod_facing_address, self.names.knows)
        self.controller: ServicePrincipal = self.directory.add_principal()
        self.directory.grant(self.controller.object_id, "Contributor")
        self.demo: ManagedIdentity = self.directory.add_identity(identity_id(DEMO_IDENTITY), client_id=DEMO_CLIENT_ID)
        self.directory.grant(self.demo.object_id, *USUAL_ROLES)

    async def start(self) -> None:
        """Start the services on this machine, and where pods reach them by name. IMDS has no VM yet."""
        hosts = (*LOOPBACK, self._network.pod_facing_address)
        context = await asyncio.to_thread(self._authority.server_context, dict.fromkeys(hosts))
        await self.aad.start(ssl_context=context)
        await self.arm.start(ssl_context=context)
        self.arm.login_url = self.aad.url
        await self.token_proxy.serve(self._authority)
        for listener in self._network.pod_sockets(self.arm.port):
            await self.arm.listen(listener)
        await self.names.start(ssl_context=await asyncio.to_thread(self.names.context, self._authority))
        for listener in self._network.pod_sockets(HTTPS_PORT):
            await self.names.listen(listener)
        for bound in self._network.name_server_sockets(DNS_PORT):
            await self._name_server.start(bound)
        await self.imds.start()

    async def add_vm(
        self, node: str, *, scale_set: str = "", operation_seconds: float = 0.2, system_assigned: bool = False
    ) -> str:
        """Create the VM of a node that the network already has; IMDS serves it from now on. Return its resource id.

        With *scale_set* it is the next instance of the set of this name, and identities are the set's. With
        *system_assigned* the VM or the set has a system-assigned identity.
        """
        if scale_set:
            set_id = f"{COMPUTE}/virtualMachineScaleSets/{scale_set}"
            machine = self.arm.find(set_id) or self.arm.add_vmss(set_id, operation_seconds=operation_seconds)
            resource_id = f"{set_id}/virtualMachines/{len(self.imds.hosts)}"
        else:
            resource_id = f"{COMPUTE}/virtualMachines/{node}"
            machine = self.arm.add_vm(resource_id, operation_seconds=operation_seconds)
        if system_assigned and machine.system_assigned is None:
            ids = (str(uuid.uuid4()), str(uuid.uuid4()))
            identity = ManagedIdentity(machine.resource_id, *ids, self.directory.tenant_id)
            self.directory.grant(identity.object_id, *USUAL_ROLES)
            machine.enable_system(identity)
        listener = self._network.metadata_socket(node)
        port = 0
        if listener is not None:
            port = listener.getsockname()[1]
            await self.imds.listen(listener)
        self.imds.hosts.append(
            ImdsVm(
                node,
                self._network.metadata_sources(node),
                lambda: self.arm.identities_seen_by_imds(machine.resource_id),
                compute={
                    "name": node,
                    "resourceId": resource_id,
                    "resourceGroupName": RESOURCE_GROUP,
                    "subscriptionId": SUBSCRIPTION,
                    "location": LOCATION,
                    "osType": "Linux",
                    "vmId": node,
                },
                # On loopback all VMs have equal source addresses, so the port identifies the VM.
                port=0 if self._network.redirects else port,
            )
        )
        for service in (self.aad, self.token_proxy):
            for listener in self._network.node_sockets(node, service.port):
                await service.listen(listener)
        return resource_id

    def metadata_port(self, node: str) -> int:
        """Return the port at which the node reaches IMDS."""
        return next(host.port for host in self.imds.hosts if host.name == node) or 80

    def write_files(self, folder: Path) -> AzureFiles:
        """Write the files for the programs into *folder*. Only this user can read the file with the secret."""
        files = AzureFiles(folder / "azure.json", folder / "cloud.json", folder / CERTIFICATES)
        files.certificates.write_text(self._authority.pem)
        files.cloud_config.touch(mode=0o600)
        controller = {
            "cloud": "AzureStackCloud",
            "tenantId": self.directory.tenant_id,
            "aadClientId": self.controller.client_id,
            "aadClientSecret": self.controller.secret,
            "subscriptionId": SUBSCRIPTION,
            "resourceGroup": RESOURCE_GROUP,
            "vmType": "standard",
            "useManagedIdentityExtension": False,
        }
        audience = f"{AUDIENCES[0]}/"
        cloud = {
            "name": "AzureStackCloud",
            "activeDirectoryEndpoint": f"{self.aad.url}/",
            "resourceManagerEndpoint": f"{self.arm.url}/",
            "serviceManagementEndpoint": audience,
            "tokenAudience": audience,
            "resourceManagerVMDNSSuffix": "cloudapp.invalid",
        }
        for path, document in ((files.cloud_config, controller), (files.environment, cloud)):
            path.write_text(json.dumps(document, indent=2))
        return files

    async def stop(self) -> None:
        """Close every listener, also if another one cannot be closed. Does nothing the second time."""
        async with contextlib.AsyncExitStack() as listeners:
            for service in (self.aad, self.token_proxy, self.arm, self.imds, self.names):
                listeners.push_async_callback(service.stop)
            listeners.callback(self._name_server.stop)
