"""The sandbox's cluster: the API server (the emulator, or an existing one), nodes, kubelets and scheduler.

Custom resource definitions, nodes and pods are written over HTTP, so most of this module does not depend on the kind of
API server.
"""

import asyncio
import json
import logging
import platform
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import yaml

from podidentity.exits import StartError
from podidentity.kube.access import ClusterAccess, from_kubeconfig
from podidentity.kube.client import MERGE_PATCH, Client
from podidentity.kube.errors import AlreadyExists, ApiError, NotFound, TooManyRequests
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, IDENTITIES, NODES, Kind, Resource
from podidentity.version import VERSION
from podidentity_sandbox.azure import AzureFiles
from podidentity_sandbox.kubeapi import KubeApi
from podidentity_sandbox.kubelet import Kubelet, PodObserver
from podidentity_sandbox.kubelet_server import KubeletServer, server_context
from podidentity_sandbox.launching import Launcher
from podidentity_sandbox.network import ExecutionContext, Network
from podidentity_sandbox.probes import becomes_true, read_page
from podidentity_sandbox.relay import Relay
from podidentity_sandbox.scheduler import Scheduler
from podidentity_sandbox.settings import AZURE_JSON, CLOUD_JSON, SandboxSettings
from podidentity_sandbox.volumes import NodeFiles

log = logging.getLogger(__name__)

DEFINITIONS: Final = Kind(
    "CustomResourceDefinition", "customresourcedefinitions", Resource, "apiextensions.k8s.io", namespaced=False
)
MANIFESTS: Final = Path(__file__).parent / "manifests"
"""Package data. In a checkout its entries are links to those of `deploy`."""
CRDS: Final = MANIFESTS / "crds"
DEMO: Final = MANIFESTS / "demo"
ROOM: Final = {"pods": "110", "cpu": "4", "memory": "8Gi"}  # a real scheduler needs it
SERVED_SECONDS: Final = 10.0  # a real API server serves a new kind within a quarter of a second
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""The names of Kubernetes for those of the kernel."""
AUTHENTICATION_CONFIGURATION: Final = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"


CLUSTER_SCOPED: Final = frozenset(
    {"Node", "Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
)


class Cluster:
    """An API server and nodes that exist on *network*. A task runs the kubelets and the scheduler.

    *settings* name an existing server, or the emulator runs. *on_pod_running* is called for each pod that runs.
    *files* describe Azure to the programs of every node. *relayed* are ports of this machine's loopback that pods of
    NMI and MIC reach. Both have an effect only if nodes are network namespaces.
    """

    def __init__(
        self,
        network: Network,
        folder: Path,
        settings: SandboxSettings,
        *,
        on_pod_running: PodObserver | None,
        files: AzureFiles,
        relayed: Sequence[int],
    ) -> None:
        self._files = files
        self._relayed = relayed
        self._network = network
        self._folder = folder
        self._settings = settings
        self._on_pod_running = on_pod_running
        self.kubeconfig = settings.kubeconfig or folder / "kubeconfig"
        rbac = settings.daemon_pods or settings.rbac
        self.api = KubeApi(rbac=rbac) if settings.kubeconfig is None else None
        """The emulator, where there is one."""
        self.kubelets: dict[str, Kubelet] = {}
        self._nodes = CreatedObjects(self)
        self._client: Client | None = None
        self._relay: Relay | None = None
        self._logs: KubeletServer | None = None
        self._tasks: asyncio.Task[None] | None = None

    @property
    def client(self) -> Client:
        """A client with administrator permissions. Raise RuntimeError before `start`."""
        if self._client is None:
            raise RuntimeError("the cluster has not been started")
        return self._client

    async def start(
        self, nodes: Mapping[str, tuple[ExecutionContext, str]], *, pod_environment: Mapping[str, Mapping[str, str]]
    ) -> None:
        """Serve or reach the API server, install the four kinds, add *nodes* (name -> execution context and
        providerID).

        *pod_environment* is the environment of the pods of each node. Raise StartError.
        """
        if self.api is not None:
            await self.api.start()
            await asyncio.to_thread(self.api.write_kubeconfig, self.kubeconfig)
            self.api.read_with(self._read_log, self._read_page)
            for node in nodes:
                for listener in self._network.node_sockets(node, self.api.port):
                    await self.api.listen(listener)
        access = await self._access()
        self._client = Client(access, user_agent=f"podidctl-sandbox/{VERSION}")
        if self.api is None:
            await self._lead_nodes_to(access.server, nodes)
        if self._settings.kinds:
            await self._install_kinds()
        where = urlsplit(access.server)
        server = {"KUBERNETES_SERVICE_HOST": where.hostname or "", "KUBERNETES_SERVICE_PORT": str(where.port or 443)}
        for name, (context, _) in nodes.items():
            launcher = Launcher(
                self.client,
                self._network,
                host=context,
                node=name,
                environment={**pod_environment[name], **server},
                files=self._files_of(name, access),
                relayed=(*self._relayed, where.port or 443),
            )
            self.kubelets[name] = Kubelet(self.client, launcher, logs=self._folder, on_pod_running=self._on_pod_running)
        if self.api is None:
            self._logs = KubeletServer(self.kubelets.values(), self.client)
            await self._logs.start(
                ssl_context=await asyncio.to_thread(server_context, await self._client_ca_certificates())
            )
        for name, (context, provider_id) in nodes.items():
            await self._add_node(name, context, provider_id)
        self._tasks = asyncio.create_task(self._run(tuple(nodes)), name="kubelets and scheduler")

    async def stop(self) -> None:
        """End the pods' programs, then the API server. Does nothing the second time."""
        if self._tasks is not None:
            self._tasks.cancel()
            await asyncio.wait({self._tasks})  # `failure` returns the exception that ended it
            self._tasks = None
        if self._client is not None:
            if self.api is None:  # no kubelet would end the pods on the nodes after the sandbox
                await self._nodes.remove()
            await self._client.aclose()
            self._client = None
        if self._logs is not None:
            await self._logs.stop()
            self._logs = None
        if self._relay is not None:
            await self._relay.stop()
            self._relay = None
        if self.api is not None:
            await self.api.stop()

    def failure(self) -> BaseException | None:
        """Return the exception that ended the kubelets or the scheduler, or None while they run."""
        tasks = self._tasks
        return tasks.exception() if tasks is not None and tasks.done() and not tasks.cancelled() else None

    async def apply(self, document: Mapping[str, Any]) -> None:
        """Create the object, or merge it into the existing one. Raise ApiError."""
        kind = kind_of(document)
        metadata = document["metadata"]
        namespace = metadata.get("namespace", "default") if kind.namespaced else ""
        try:
            await self.client.create(kind, namespace, document)
        except AlreadyExists:
            await self.client.patch_merge(kind, namespace, metadata["name"], document)

    async def pod_log(self, namespace: str, name: str) -> str:
        """Return the output of the pod's first container."""
        pieces = [
            piece
            for kubelet in self.kubelets.values()
            async for piece in kubelet.read_log(namespace, name, follow=False)
        ]
        return b"".join(pieces).decode(errors="replace")

    def _files_of(self, node: str, access: ClusterAccess) -> NodeFiles | None:
        """Return the node's files, or None if nodes are not network namespaces."""
        if not self._network.redirects:
            return None
        trusted = access.ssl.get_ca_certs(binary_form=True) if access.ssl is not None else []
        authority = "".join(map(ssl.DER_cert_to_PEM_cert, trusted))
        given = {AZURE_JSON: self._files.cloud_config, CLOUD_JSON: self._files.environment}
        return NodeFiles(self._folder / node, given, authority, self._files.certificates)

    async def _access(self) -> ClusterAccess:
        if self.api is None:
            return await from_kubeconfig(str(self.kubeconfig))
        bearer = f"Bearer {self.api.token}"

        async def authorization() -> str:
            return bearer

        context = await asyncio.to_thread(self.api.authority.client_context)
        return ClusterAccess(self.api.url, context, authorization)

    async def _run(self, nodes: Sequence[str]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for name, kubelet in self.kubelets.items() if self._settings.run_pods else ():
                tasks.create_task(kubelet.run(), name=f"kubelet of {name}")
            if self._settings.schedule:
                tasks.create_task(Scheduler(self.client, nodes).run(), name="scheduler")

    async def _lead_nodes_to(self, server: str, nodes: Iterable[str]) -> None:
        """Make the server that exists on this machine's loopback reachable at the same address inside the nodes."""
        if not self._network.redirects:
            return
        where = urlsplit(server)
        if where.hostname not in {"127.0.0.1", "localhost"}:
            raise StartError(f"the API server must listen on 127.0.0.1 to be reached from the nodes, not at {server}")
        self._relay = Relay("127.0.0.1", where.port or 443)
        for node in nodes:
            await self._relay.serve(self._network.node_sockets(node, where.port or 443))

    async def _install_kinds(self) -> None:
        definitions = await asyncio.to_thread(read_documents, CRDS)
        if not definitions:
            raise StartError(f"no custom resource definitions in {CRDS}; install the package again")
        for definition in definitions:
            await self.apply(definition)
        if not await becomes_true(self._served, SERVED_SECONDS):
            raise StartError("the API server does not serve the custom resources; see its log")

    async def _served(self) -> bool:
        """Return whether every kind is served: a real API server returns 404, then 429, until a new kind is ready."""
        try:
            for kind in (IDENTITIES, BINDINGS, ASSIGNED_IDENTITIES, EXCEPTIONS):
                await self.client.list(kind)
        except (NotFound, TooManyRequests):
            return False
        return True

    async def _client_ca_certificates(self) -> str:
        """Return the CA certificates of the API server's clients (PEM), or an empty text if it has none.

        The API server publishes them for servers that authenticate as it does, shortly after it is ready.
        """
        published: dict[str, str] = {}

        async def is_published() -> bool:
            try:
                body = await self.client.request("GET", AUTHENTICATION_CONFIGURATION)
            except NotFound:
                return False
            published.update(json.loads(body).get("data") or {})
            return True

        await becomes_true(is_published, SERVED_SECONDS)
        if "client-ca-file" not in published:
            log.warning("the API server has no --client-ca-file; kubectl logs and kubectl exec are refused")
        return published.get("client-ca-file", "")

    async def _add_node(self, name: str, context: ExecutionContext, provider_id: str) -> None:
        moment = "2000-01-01T00:00:00Z"  # nothing evaluates the heartbeats of the sandbox's nodes
        metadata = {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"providerID": provider_id}}
        await self.apply(node)
        self._nodes.add(node)
        status = {
            "status": {
                # A real API server requests logs from the host name, which it prefers to the address.
                "addresses": [
                    {"type": "Hostname", "address": "127.0.0.1"},
                    {"type": "InternalIP", "address": context.address},
                ],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": self._logs.port}} if self._logs is not None else {},
                "conditions": [
                    {"type": "Ready", "status": "True", "lastHeartbeatTime": moment, "lastTransitionTime": moment}
                ],
                "capacity": ROOM,
                "allocatable": ROOM,
                "nodeInfo": {
                    "kubeletVersion": f"sandbox-{VERSION}",
                    "operatingSystem": "linux",
                    "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
                },
            }
        }
        path = NODES.path(name=name, subresource="status")
        try:
            await self.client.request("PATCH", path, body=msgspec.json.encode(status), content_type=MERGE_PATCH)
        except ApiError as error:
            # It is only for users who list nodes.
            log.warning("a node's status could not be written", extra={"node": name, "error": error})

    async def _read_log(
        self, pod: dict[str, Any], container: str, follow: bool, tail: int | None
    ) -> AsyncIterator[bytes]:
        metadata = pod["metadata"]
        kubelet = self.kubelets.get((pod.get("spec") or {}).get("nodeName", ""))
        if kubelet is None:
            return
        pieces = kubelet.read_log(metadata["namespace"], metadata["name"], container, follow=follow, tail=tail)
        async for piece in pieces:
            yield piece

    async def _read_page(self, pod: dict[str, Any], port: int, path: str) -> tuple[int, str, bytes]:
        """Return status, content type and body of a page of a pod on its node's network. Raise OSError."""
        spec = pod.get("spec") or {}
        node = spec.get("nodeName", "")
        if node not in self.kubelets or not spec.get("hostNetwork"):
            raise OSError("the sandbox reaches only ports of pods on the network of a node")
        return await asyncio.to_thread(self._network.call_on_node, node, partial(read_page, "127.0.0.1", port, path))


class CreatedObjects:
    """Objects in *cluster* that exist until the end of the sandbox: `remove` deletes them in reverse order."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._created: list[tuple[Kind[Resource], str, str]] = []

    async def create(self, document: Mapping[str, Any]) -> None:
        """Create the object. Raise AlreadyExists or another ApiError."""
        await self._cluster.client.create(kind_of(document), document["metadata"].get("namespace", ""), document)
        self.add(document)

    def add(self, document: Mapping[str, Any]) -> None:
        """Let `remove` delete this object too."""
        metadata = document["metadata"]
        self._created.append((kind_of(document), metadata.get("namespace", ""), metadata["name"]))

    async def remove(self) -> None:
        """Delete the objects that still exist. Log a warning for one that cannot be deleted."""
        while self._created:
            kind, namespace, name = self._created.pop()
            try:
                await self._cluster.client.delete(kind, namespace, name)
            except NotFound:
                continue
            except ApiError as error:
                log.warning(
                    "an object of the sandbox is left on the API server; delete it",
                    extra={"object": f"{kind.name} {namespace}/{name}", "error": error},
                )


def kind_of(document: Mapping[str, Any]) -> Kind[Resource]:
    """Return the kind of a manifest. Only kinds with a regular or known plural are supported."""
    group, _, version = str(document["apiVersion"]).rpartition("/")
    name = str(document["kind"])
    plural = name.lower() + "s" if not name.endswith("Identity") else name.lower().removesuffix("y") + "ies"
    return Kind(name, plural, Resource, group, version, namespaced=name not in CLUSTER_SCOPED)


def read_documents(path: Path) -> list[dict[str, Any]]:
    """Return the documents of a YAML file, or of every YAML file of a folder in order of name."""
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    documents = [document for file in files for document in yaml.safe_load_all(file.read_text()) if document]
    return json.loads(json.dumps(documents))  # type: ignore[no-any-return] # plain JSON types: YAML has more
