"""The sandbox's Azure in a network namespace outside of the nodes, with a log of all requests to IMDS."""

import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from aiohttp import web
from typing_extensions import override

from nmi.server.loop_detection import FIELD
from podidentity.azure.federation import DIRECT_AUDIENCE
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity_sandbox import federation
from podidentity_sandbox.azure import AzureEmulator, identity_id
from podidentity_sandbox.certificates import LOOPBACK, Authority
from podidentity_sandbox.directory import FederatedCredential, ManagedIdentity
from podidentity_sandbox.imds import Imds
from podidentity_sandbox.machines import Machine
from podidentity_sandbox.namespaces import Namespaces
from podidentity_sandbox.network import METADATA_ADDRESS, Network
from podidentity_sandbox.serving import listening
from podidentity_sandbox.tokens import TokenMint
from tests.support.direct_access import direct_access
from tests.system.node.options import AAD_PORT, API_PORT, ARM_PORT, OUTSIDE_ADDRESS, PROXY_PORT, NodeAddresses, is_pod

T = TypeVar("T")
SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class ImdsRequest:
    """One request that reached the emulated IMDS. *at* is in Unix seconds."""

    at: float
    peer: str
    path: str
    from_nmi: bool
    """Whether it has the mark of NMI's own requests, which NMI sends from a pod's address with Cilium's redirect."""

    @property
    def leaked(self) -> bool:
        """Whether a pod sent it, past NMI."""
        return is_pod(self.peer) and not self.from_nmi


class _LoggedImds(Imds):
    def __init__(self, mint: TokenMint) -> None:
        super().__init__(mint)
        self.requests: list[ImdsRequest] = []

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(ImdsRequest(time.time(), request.remote or "", request.path, FIELD in request.headers))
        return await super().respond(request)


class _Network(Network):
    """The sources of the nodes' requests. Sockets are created in the namespace, where the event loop's thread runs."""

    redirects = True
    pod_facing_address = OUTSIDE_ADDRESS

    def __init__(self) -> None:
        super().__init__()
        self.addresses: dict[str, NodeAddresses] = {}

    @override
    def metadata_socket(self, node: str) -> socket.socket | None:
        return listening(METADATA_ADDRESS, 80) if len(self.addresses) == 1 else None

    @override
    def metadata_sources(self, node: str) -> tuple[ipaddress.IPv4Network, ...]:
        return self.addresses[node].networks


class _OutsideAzure(AzureEmulator):
    @override
    async def start(self) -> None:
        context = await asyncio.to_thread(self._authority.server_context, (OUTSIDE_ADDRESS, *LOOPBACK))
        await self.aad.start(OUTSIDE_ADDRESS, AAD_PORT, ssl_context=context)
        await self.arm.start(OUTSIDE_ADDRESS, ARM_PORT, ssl_context=context)
        await self.imds.start()
        await self.token_proxy.serve(self._authority)
        await self.token_proxy.listen(listening(OUTSIDE_ADDRESS, PROXY_PORT))


class Azure:
    """The emulator, with its event loop in a thread of the namespace *outside*. `call` runs code in that loop."""

    def __init__(self, namespaces: Namespaces, outside: str) -> None:
        self._network = _Network()
        self._imds = _LoggedImds(mint := TokenMint())
        self._access: ClusterAccess
        self._client: Client | None = None
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(
            target=lambda: namespaces.call(outside, self._loop.run_forever), name="azure", daemon=True
        )
        self.emulator = _OutsideAzure(mint, Authority("tests/system/node"), self._network)
        self.emulator.imds = self._imds

    def start(self) -> None:
        """Start AAD, ARM and IMDS."""
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        self.run(self.emulator.start())

    def stop(self) -> None:
        """Stop the servers and the thread."""
        self.run(self.emulator.stop())
        if self._client is not None:
            self.run(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the result of *coroutine*, run in Azure's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(SECONDS)

    def call(self, function: Callable[[AzureEmulator], T]) -> T:
        """Return the result of *function*, called in Azure's event loop with the emulator."""

        async def call() -> T:
            return function(self.emulator)

        return self.run(call())

    def add_node(self, name: str, addresses: NodeAddresses, scale_set: str) -> str:
        """Create the VM of a node, with a system-assigned identity that no pod may use. Return its resource id."""
        self._network.addresses[name] = addresses
        return self.run(self.emulator.add_vm(name, scale_set=scale_set, operation_seconds=1.0, system_assigned=True))

    def machine(self, vm: str) -> Machine:
        """Return the VM, or the scale set of the instance, of this resource id."""
        owner = vm.partition("/virtualMachines/")[0] if "/virtualMachineScaleSets/" in vm else vm
        host = self.call(lambda emulator: emulator.arm.find(owner))
        assert host is not None, vm
        return host

    def add_identity(self, name: str) -> ManagedIdentity:
        """Create a user-assigned identity in the sandbox's resource group."""
        return self.call(lambda emulator: emulator.directory.add_identity(identity_id(name)))

    def changes(self, machine: Machine) -> int:
        """Return how often the identities of a VM have been changed so far."""
        return self.call(lambda emulator: len(emulator.arm.writes(machine.resource_id)))

    def trust_cluster(self, plane: Path) -> None:
        """Let AAD and the token proxy verify service account tokens at the API server whose directory is *plane*."""
        ca, token = ((plane / name).read_text() for name in ("ca.crt", "token"))
        self._access = direct_access(f"https://127.0.0.1:{API_PORT}", ca, token)

        def trust(emulator: AzureEmulator) -> None:
            emulator.aad.issuers.fetch = lambda url: federation.fetch(self._access, url)
            self._client = emulator.token_proxy.client = Client(self._access, user_agent="tests/system/node")

        self.call(trust)

    def federate(
        self, client_id: str, namespace: str, *, account: str = "default", audience: str = DIRECT_AUDIENCE
    ) -> None:
        """Let an identity trust the pods of a service account of a namespace of the cluster."""
        issuer = self.run(federation.issuer_of(self._access))
        credential = FederatedCredential(issuer, f"system:serviceaccount:{namespace}:{account}", audience)
        self.call(lambda emulator: emulator.directory.federate(client_id, credential))

    def requests(self, since: float = 0.0) -> list[ImdsRequest]:
        """Return the requests that reached IMDS from *since* on, in Unix seconds."""
        return self.call(lambda _: [request for request in self._imds.requests if request.at >= since])

    def leaked(self, since: float) -> list[str]:
        """Return the paths of the requests that pods sent to IMDS past NMI, from *since* on."""
        return [request.path for request in self.requests(since) if request.leaked]
