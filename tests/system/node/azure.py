"""The sandbox's Azure in a network namespace outside of the nodes, with a log of all requests to IMDS."""

import asyncio
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from aiohttp import web
from typing_extensions import override

from nmi.server.loop_detection import FIELD
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity_sandbox import issuing
from podidentity_sandbox.azure import AzureEmulator, AzureFiles
from podidentity_sandbox.certificates import LOOPBACK, Authority
from podidentity_sandbox.directory import FederatedCredential
from podidentity_sandbox.imds import Imds
from podidentity_sandbox.machines import IdentityChange, Machine, Operation
from podidentity_sandbox.namespaces import Namespaces
from podidentity_sandbox.network import METADATA_ADDRESS, Loopback
from podidentity_sandbox.serving import listening
from podidentity_sandbox.settings import EXCHANGE_AUDIENCE
from podidentity_sandbox.tokens import TokenMint
from tests.system.node.options import AAD_PORT, API_PORT, ARM_PORT, OUTSIDE_ADDRESS, PROXY_PORT, NodeAddresses, is_pod
from tests.system.node.processes import BedError

T = TypeVar("T")
SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class ImdsRequest:
    """One request that reached the emulated IMDS. *at* is in Unix seconds."""

    at: float
    peer: str
    path: str
    status: int
    from_nmi: bool = False
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
        at = time.time()
        response = await super().respond(request)
        marked = FIELD in request.headers
        self.requests.append(ImdsRequest(at, request.remote or "", request.path, response.status, marked))
        return response


class _Network(Loopback):
    """The sources of the nodes' requests. Sockets are created in the namespace, where the event loop's thread runs."""

    redirects = True
    pod_facing_address = OUTSIDE_ADDRESS

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, int] = {}

    @override
    def metadata_socket(self, node: str) -> socket.socket | None:
        return listening(METADATA_ADDRESS, 80) if len(self.numbers) == 1 else None

    @override
    def metadata_sources(self, node: str) -> tuple[ipaddress.IPv4Network, ...]:
        return NodeAddresses(self.numbers[node]).networks


class _OutsideAzure(AzureEmulator):
    @override
    async def start(self) -> None:
        context = await asyncio.to_thread(self._authority.server_context, (OUTSIDE_ADDRESS, *LOOPBACK))
        await self.aad.start(OUTSIDE_ADDRESS, AAD_PORT, ssl_context=context)
        await self.arm.start(OUTSIDE_ADDRESS, ARM_PORT, ssl_context=context)
        await self.imds.start()
        await self.token_proxy.serve(self._authority)
        await self.token_proxy.listen(listening(OUTSIDE_ADDRESS, PROXY_PORT))


def _access(plane: Path) -> ClusterAccess:
    """Return the administrator's access to the API server, for programs of the namespace outside of the nodes."""
    authorization = f"Bearer {(plane / 'token').read_text()}"
    context = ssl.create_default_context(cadata=(plane / "ca.crt").read_text())

    async def authorize() -> str:
        return authorization

    return ClusterAccess(server=f"https://127.0.0.1:{API_PORT}", ssl=context, authorization=authorize)


class Azure:
    """The emulator, with its event loop in a thread of the namespace *outside*. `call` runs code in that loop."""

    def __init__(self, namespaces: Namespaces, outside: str) -> None:
        self._namespaces = namespaces
        self._outside = outside
        self._network = _Network()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: Exception | None = None
        self._client: Client | None = None
        self._imds = _LoggedImds(mint := TokenMint())
        self.authority = Authority("tests/system/node")
        self.emulator = _OutsideAzure(mint, self.authority, self._network)
        self.emulator.imds = self._imds

    def start(self) -> None:
        """Start AAD, ARM and IMDS. Raise BedError."""
        self._thread = threading.Thread(target=self._run, name="azure", daemon=True)
        self._thread.start()
        self._started.wait(SECONDS)
        if self._failure is not None or self._loop is None:
            raise BedError(f"the emulated Azure did not start: {self._failure}")

    def stop(self) -> None:
        """Stop the servers and the thread. Does nothing the second time."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._loop = None
        if self._thread is not None:
            self._thread.join(SECONDS)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the result of *coroutine*, run in Azure's event loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(SECONDS)

    def call(self, function: Callable[[AzureEmulator], T]) -> T:
        """Return the result of *function*, called in Azure's event loop with the emulator."""

        async def call() -> T:
            return function(self.emulator)

        return self.run(call())

    def add_node(self, name: str, number: int, *, scale_set: str = "") -> str:
        """Create the VM of a node, with a system-assigned identity that no pod may use. Return its resource id."""
        self._network.numbers[name] = number
        vm = self.run(self.emulator.add_vm(name, scale_set=scale_set, operation_seconds=1.0))
        machine = self.machine(vm)
        if machine.system_assigned is None:
            self.call(lambda emulator: machine.enable_system(emulator.directory.add_identity(machine.resource_id)))
        return vm

    def machine(self, vm: str) -> Machine:
        """Return the VM, or the scale set of the instance, of this resource id."""
        owner = vm.partition("/virtualMachines/")[0] if "/virtualMachineScaleSets/" in vm else vm
        found = self.call(lambda emulator: emulator.arm.find(owner))
        if found is None:
            raise BedError(f"no VM {vm}")
        return found

    def record_changes(self, machine: Machine) -> list[frozenset[str]]:
        """Return a list that gets the identities of each later change of the VM, which the emulator still executes."""
        changes: list[frozenset[str]] = []
        update = machine.update

        def recorded(change: IdentityChange) -> Operation:
            changes.append(frozenset(change.user_assigned))
            return update(change)

        self.call(lambda _: setattr(machine, "update", recorded))
        return changes

    def write_files(self, folder: Path) -> AzureFiles:
        """Write the files that describe this Azure. Only this user can read the one with the secret."""
        return self.emulator.write_files(folder)

    def trust_cluster(self, plane: Path) -> None:
        """Let AAD and the token proxy verify service account tokens at the API server whose directory is *plane*."""
        access = _access(plane)

        def trust(emulator: AzureEmulator) -> None:
            emulator.aad.issuers.fetch = lambda url: issuing.fetch(access, url)
            self._client = emulator.token_proxy.client = Client(access, user_agent="tests/system/node")

        self.call(trust)

    def federate(self, client_id: str, namespace: str, service_account: str, plane: Path) -> None:
        """Let an identity trust the pods of a service account of the cluster whose directory is *plane*."""
        issuer = self.run(issuing.issuer_of(_access(plane)))
        credential = FederatedCredential(
            issuer, f"system:serviceaccount:{namespace}:{service_account}", EXCHANGE_AUDIENCE
        )
        self.call(lambda emulator: emulator.directory.federate(client_id, credential))

    def requests(self, since: float = 0.0) -> list[ImdsRequest]:
        """Return the requests that reached IMDS from *since* on, in Unix seconds."""
        return self.call(lambda _: [each for each in self._imds.requests if each.at >= since])

    def _run(self) -> None:
        try:
            self._namespaces.call(self._outside, lambda: asyncio.run(self._serve()))
        except Exception as failure:  # noqa: BLE001 - raised again by `start`
            self._failure = failure
            self._started.set()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        await self.emulator.start()
        self._loop = asyncio.get_running_loop()
        self._started.set()
        await self._stop.wait()
        await self.emulator.stop()
        if self._client is not None:
            await self._client.aclose()
