"""Service accounts of MIC and NMI with the permissions of an installation, and kubeconfigs with their tokens.

MIC and NMI of a sandbox use them where they have pods, so that `podidctl doctor` checks the permissions that they have.
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


class DaemonAccounts:
    """The service accounts and roles in one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._created: list[tuple[Kind[Resource], str, str]] = []

    async def create(self) -> None:
        """Create the objects that do not exist. Raise ApiError."""
        for document in await asyncio.to_thread(lambda: list(_documents())):
            kind, metadata = kind_of(document), document["metadata"]
            namespace = metadata.get("namespace", "")
            try:
                await self._cluster.client.create(kind, namespace, document)
            except AlreadyExists:
                continue  # of an installation, which keeps it
            self._created.append((kind, namespace, metadata["name"]))

    async def write_kubeconfigs(self, folder: Path) -> dict[str, Path]:
        """Write a kubeconfig for each program, readable by this user alone. Return their paths. Raise ApiError."""
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
                    "an object of the sandbox is left on the API server; delete it",
                    extra={"object": f"{kind.name} {name}", "error": error},
                )


def _documents() -> Iterator[dict[str, Any]]:
    """Yield the accounts and roles. NMI may get Secrets of its own namespace only, as with `rbac.secretNamespaces`."""
    for document in read_documents(INSTALLATION):
        if document["kind"] in _KINDS:
            if rules := document.get("rules"):
                document["rules"] = [rule for rule in rules if rule["resources"] != ["secrets"]]
            yield document
    rbac = "rbac.authorization.k8s.io"
    head = {"apiVersion": f"{rbac}/v1", "metadata": {"name": _SECRETS, "namespace": NAMESPACE}}
    yield {**head, "kind": "Role", "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]}
    yield {
        **head,
        "kind": "RoleBinding",
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNTS["nmi"], "namespace": NAMESPACE}],
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": _SECRETS},
    }


def _write_kubeconfig(path: Path, administrators: Path, token: str) -> None:
    """Write a kubeconfig for the cluster of the *administrators* one, with *token*. JSON, which is YAML too."""
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
