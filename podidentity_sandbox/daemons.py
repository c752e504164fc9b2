"""MIC and NMI of a sandbox as an installation has them: service accounts, kubeconfigs with their tokens, and pods.

The service accounts have the permissions of an installation. MIC and NMI use these kubeconfigs if the sandbox shows
them as pods; `podidctl doctor` then checks the permissions that MIC and NMI really have.

The processes are not started by a kubelet. Their pods, for `podidctl explain` and `podidctl doctor`, correspond to
static pods: the kubelet of the node serves their logs and does not run them.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import yaml

from podidentity.kube.client import MERGE_PATCH
from podidentity.kube.errors import AlreadyExists, ApiError, NotFound
from podidentity.resources import PODS
from podidentity.version import VERSION
from podidentity_sandbox.cluster import MANIFESTS, Cluster, CreatedObjects, read_documents
from podidentity_sandbox.kubeapi.server import kubeconfig
from podidentity_sandbox.pod_projection import pod_status
from podidentity_sandbox.settings import NAMESPACE
from podidentity_sandbox.volumes import SERVICE_ACCOUNTS

log = logging.getLogger(__name__)

INSTALLATION: Final = MANIFESTS / "deployment-rbac.yaml"
ACCOUNTS: Final = {"mic": "aad-pod-identity-mic", "nmi": "aad-pod-identity-nmi"}
"""The service account of each program in INSTALLATION."""
TOKEN_SECONDS: Final = 30 * 86_400
_KINDS: Final = frozenset({"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"})
POLL_SECONDS: Final = 1.0
_SECRETS: Final = "aad-pod-identity-secrets"
_TOKENS: Final = "aad-pod-identity-tokens"


class DaemonAccounts:
    """The service accounts, roles and role bindings in one cluster. `objects` removes those that `create` has added."""

    def __init__(self, cluster: Cluster, *, tokens: bool = False) -> None:
        """If *tokens*, NMI may request tokens of the service accounts in its namespace, for federated identities."""
        self._cluster = cluster
        self._resources = {_SECRETS: ("secrets", "get")} | (
            {_TOKENS: ("serviceaccounts/token", "create")} if tokens else {}
        )
        self.objects = CreatedObjects(cluster)

    async def create(self) -> None:
        """Create the objects that do not exist. Raise ApiError."""
        for document in await asyncio.to_thread(lambda: list(_documents(self._resources))):
            try:
                await self.objects.create(document)
            except AlreadyExists:
                continue  # it belongs to an installation in this cluster, so `remove` must not delete it

    async def write_kubeconfigs(self, folder: Path) -> dict[str, Path]:
        """Write a kubeconfig for each program into *folder*, for this user alone. Return the paths. Raise ApiError."""
        paths = {}
        for program, account in ACCOUNTS.items():
            path = SERVICE_ACCOUNTS.path(NAMESPACE, account, "token")
            spec = {"expirationSeconds": TOKEN_SECONDS}
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
            response = await self._cluster.client.request("POST", path, body=msgspec.json.encode(body))
            token = json.loads(response)["status"]["token"]
            paths[program] = folder / f"{program}.kubeconfig"
            await asyncio.to_thread(_write_kubeconfig, paths[program], self._cluster.kubeconfig, token)
        return paths


def _documents(own: Mapping[str, tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Yield the service accounts, roles and role bindings as documents.

    NMI gets permissions for some resources only in its own namespace, as with the chart's `rbac.secretNamespaces`.
    *own* has these permissions: a resource and a verb by the name of their role.
    """
    for document in read_documents(INSTALLATION):
        if document["kind"] in _KINDS:
            yield document
    rbac = "rbac.authorization.k8s.io"
    for name, (resource, verb) in own.items():
        head = {"apiVersion": f"{rbac}/v1", "metadata": {"name": name, "namespace": NAMESPACE}}
        yield {**head, "kind": "Role", "rules": [{"apiGroups": [""], "resources": [resource], "verbs": [verb]}]}
        yield {
            **head,
            "kind": "RoleBinding",
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNTS["nmi"], "namespace": NAMESPACE}],
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
        }


def _write_kubeconfig(path: Path, administrators: Path, token: str) -> None:
    """Write a kubeconfig with *token* to *path*, for the same cluster as the kubeconfig *administrators*."""
    given = yaml.safe_load(administrators.read_text())
    context = _named(given["contexts"], given["current-context"])["context"]
    cluster = dict(_named(given["clusters"], context["cluster"])["cluster"])
    if authority := cluster.get("certificate-authority"):
        cluster["certificate-authority"] = str(administrators.resolve().parent / authority)
    path.touch(mode=0o600)
    path.write_text(kubeconfig(cluster, token))


def _named(entries: list[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonPod:
    """One process, described as a pod. `is_ready` blocks while it probes the process."""

    name: str
    program: str
    node: str
    address: str
    flags: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    is_ready: Callable[[], bool]

    def document(self) -> dict[str, Any]:
        """Return the pod's manifest."""
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": NAMESPACE,
                "labels": {
                    "app.kubernetes.io/name": "aad-pod-identity",
                    "app.kubernetes.io/component": self.program,
                },
            },
            "spec": {
                "nodeName": self.node,
                "hostNetwork": True,
                "serviceAccountName": ACCOUNTS[self.program],
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                "tolerations": [{"operator": "Exists"}],
                "containers": [
                    {
                        "name": self.program,
                        "image": f"aad-pod-identity/{self.program}:{VERSION}",
                        "args": list(self.flags),
                        "env": [{"name": name, "value": value} for name, value in self.environment.items()],
                    }
                ],
            },
        }


class DaemonPods:
    """Keeps the pod objects of *pods* in the API server, with their readiness, from `start` to `stop`."""

    def __init__(self, cluster: Cluster, pods: Sequence[DaemonPod]) -> None:
        self._cluster = cluster
        self._pods = pods
        self._objects = CreatedObjects(cluster)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Create the pods. Raise ApiError."""
        for pod in self._pods:
            self._objects.add(pod.document())
        await self._publish()
        self._task = asyncio.create_task(self._run(), name="pods of MIC and NMI")

    async def stop(self) -> None:
        """Delete the pods, also after a failed start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        await self._objects.remove()

    async def _publish(self) -> None:
        """Create the pods that are missing, and write each status that differs. Raise ApiError."""
        for pod in self._pods:
            ready = await asyncio.to_thread(pod.is_ready)
            published = await self._readiness(pod)
            if published is None:
                # Before the pod exists: its kubelet does not run the pods of which it has static logs.
                self._cluster.kubelets[pod.node].static_logs[NAMESPACE, pod.name] = pod.log
                await self._cluster.apply(pod.document())
            elif published == ready:
                continue
            image = pod.document()["spec"]["containers"][0]["image"]
            status = pod_status(
                {pod.program: image}, host=pod.address, address=pod.address, ready=ready, now=time.time()
            )
            body = msgspec.json.encode({"status": status})
            path = PODS.path(NAMESPACE, pod.name, "status")
            await self._cluster.client.request("PATCH", path, body=body, content_type=MERGE_PATCH)

    async def _run(self) -> NoReturn:
        """Publish every second until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self._publish()
            except ApiError as error:
                log.warning("cannot write the pods of NMI and MIC; they are written again", extra={"error": error})

    async def _readiness(self, pod: DaemonPod) -> bool | None:
        """Return whether the pod is ready; None if there is none. Complete a deletion that a client has requested."""
        try:
            document = msgspec.json.decode(await self._cluster.client.request("GET", PODS.path(NAMESPACE, pod.name)))
            if not document["metadata"].get("deletionTimestamp"):
                conditions = document.get("status", {}).get("conditions") or ()
                return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
            body = msgspec.json.encode({"gracePeriodSeconds": 0})
            path = PODS.path(NAMESPACE, pod.name)
            await self._cluster.client.request("DELETE", path, body=body, content_type="application/json")
        except NotFound:
            pass
        return None
