"""Service accounts of the sandbox's MIC and NMI, and kubeconfigs with their tokens.

The service accounts have the permissions of an installation. MIC and NMI use these kubeconfigs if the sandbox shows
them as pods; `podidctl doctor` then checks the permissions that MIC and NMI really have.
"""

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from podidentity.kube.errors import AlreadyExists, ApiError, NotFound
from podidentity.resources import Kind, Resource
from podidentity_sandbox.cluster import MANIFESTS, Cluster, kind_of, read_documents
from podidentity_sandbox.settings import NAMESPACE

log = logging.getLogger(__name__)

INSTALLATION: Final = MANIFESTS / "deployment-rbac.yaml"
ACCOUNTS: Final = {"mic": "aad-pod-identity-mic", "nmi": "aad-pod-identity-nmi"}
"""The service account of each program in INSTALLATION."""
TOKEN_SECONDS: Final = 30 * 86_400
_KINDS: Final = frozenset({"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"})
_SERVICE_ACCOUNTS: Final = Kind("ServiceAccount", "serviceaccounts", Resource)
_SECRETS: Final = "aad-pod-identity-secrets"
_TOKENS: Final = "aad-pod-identity-tokens"


class DaemonAccounts:
    """The service accounts, roles and role bindings in one cluster. `create` adds them, `remove` deletes them."""

    def __init__(self, cluster: Cluster, *, tokens: bool = False) -> None:
        """If *tokens*, NMI may request tokens of the service accounts in its namespace, for federated identities."""
        self._cluster = cluster
        self._resources = {_SECRETS: ("secrets", "get")} | (
            {_TOKENS: ("serviceaccounts/token", "create")} if tokens else {}
        )
        self._created: list[tuple[Kind[Resource], str, str]] = []

    async def create(self) -> None:
        """Create the objects that do not exist. Raise ApiError."""
        for document in await asyncio.to_thread(lambda: list(_documents(self._resources))):
            kind, metadata = kind_of(document), document["metadata"]
            namespace = metadata.get("namespace", "")
            try:
                await self._cluster.client.create(kind, namespace, document)
            except AlreadyExists:
                continue  # it belongs to an installation in this cluster, so `remove` must not delete it
            self._created.append((kind, namespace, metadata["name"]))

    async def write_kubeconfigs(self, folder: Path) -> dict[str, Path]:
        """Write a kubeconfig for each program into *folder*, and return their paths. Raise ApiError.

        Only this user can read the files.
        """
        paths = {}
        for program, account in ACCOUNTS.items():
            path = _SERVICE_ACCOUNTS.path(NAMESPACE, account, "token")
            spec = {"expirationSeconds": TOKEN_SECONDS}
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
            answer = await self._cluster.client.request("POST", path, body=msgspec.json.encode(body))
            token = json.loads(answer)["status"]["token"]
            paths[program] = folder / f"{program}.kubeconfig"
            await asyncio.to_thread(_write_kubeconfig, paths[program], self._cluster.kubeconfig, token)
        return paths

    async def remove(self) -> None:
        """Delete the objects that `create` has created."""
        while self._created:
            kind, namespace, name = self._created.pop()
            try:
                await self._cluster.client.delete(kind, namespace, name)
            except NotFound:
                continue
            except ApiError as error:
                log.warning(
                    "an object of the sandbox was not deleted from the API server; delete it",
                    extra={"object": f"{kind.name} {name}", "error": error},
                )


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
    """Write a kubeconfig with *token* to *path*, for the same cluster as the kubeconfig *administrators*.

    The file is JSON, which is also YAML.
    """
    given = yaml.safe_load(administrators.read_text())
    context = _named(given["contexts"], given["current-context"])["context"]
    cluster = dict(_named(given["clusters"], context["cluster"])["cluster"])
    if authority := cluster.get("certificate-authority"):
        cluster["certificate-authority"] = str(administrators.resolve().parent / authority)
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sandbox", "cluster": cluster}],
        "users": [{"name": "sandbox", "user": {"token": token}}],
        "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": "sandbox"}}],
        "current-context": "sandbox",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(document) + "\n")


def _named(entries: list[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)
