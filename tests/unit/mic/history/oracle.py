"""Expected state, computed from all stored objects independently of MIC's code, and slowly"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from podidentity_sandbox.kubeapi.store import Store
from tests.support.mic.emulated_cloud import BINDINGS, IDENTITIES

Document = dict[str, Any]
ClaimName = tuple[str, str, str, str]
"""Namespace and name of the pod, namespace and name of the identity."""

PREFIX: Final = "aadpodidentity.k8s.io"
ASSIGNED_STATUS: Final = "Assigned"
FINALIZER: Final = "azureassignedidentity.finalizers.aadpodidentity.k8s.io"
_RESOURCE: Final = re.compile(
    r"/subscriptions/[^/]+/resourcegroups/[^/]+/providers/Microsoft\.ManagedIdentity/userAssignedIdentities/[^/]+",
    re.IGNORECASE,
)
_SET: Final = re.compile(r"(?i)(?P<set>.*/virtualMachineScaleSets/[^/]+)/virtualMachines/[^/]+")


@dataclass(frozen=True)
class Need:
    """One pod needs one identity."""

    claim: ClaimName
    pod_uid: str
    node: str
    host: str
    """Lower-case id of the VM or scale set."""
    namespace: str
    """The namespace of its AzureAssignedIdentity."""
    identity: Document
    bindings: tuple[Document, ...]
    """The bindings that give the identity; the object may name any of them."""
    resource: str
    """Lower-case id of the identity that the host needs; empty if none."""

    @property
    def client(self) -> str:
        """Lower-case client id that the identity names."""
        return str(self.identity["spec"].get("clientID", "")).strip().lower()


def needs(store: Store) -> dict[ClaimName, Need]:
    """Return the needs of each scheduled pod that has not ended."""
    hosts = {node["metadata"]["name"]: host_of(node) for node in store.list("nodes")}
    found: dict[ClaimName, Need] = {}
    for pod in store.list("pods"):
        meta, node = pod["metadata"], pod["spec"].get("nodeName", "")
        label = meta.get("labels", {}).get("aadpodidbinding", "")
        if not label or node not in hosts or pod["status"].get("phase") in {"Succeeded", "Failed"}:
            continue
        for identity, bindings in _led_to(store, label):
            namespaced = _namespaced(identity)
            if namespaced and identity["metadata"]["namespace"] != meta["namespace"]:
                continue
            claim = (meta["namespace"], meta["name"], identity["metadata"]["namespace"], identity["metadata"]["name"])
            found[claim] = Need(
                claim,
                meta["uid"],
                node,
                hosts[node],
                identity["metadata"]["namespace"] if namespaced else "default",
                identity,
                bindings,
                resource_of(identity),
            )
    return found


def host_of(node: Document) -> str:
    bare = str(node["spec"]["providerID"]).removeprefix("azure://")
    instance = _SET.fullmatch(bare)
    return (instance["set"] if instance else bare).lower()


def resource_of(identity: Document) -> str:
    spec = identity["spec"]
    return str(spec.get("resourceID", "")).lower() if spec.get("type", 0) == 0 else ""


def assignment_key_of(assigned: Document) -> ClaimName:
    """Return the pod and the identity of an AzureAssignedIdentity."""
    spec = assigned["spec"]
    identity = spec["azureIdentityRef"]["metadata"]
    return spec["podNamespace"], spec["pod"], identity["namespace"], identity["name"]


def dying(assigned: Document) -> bool:
    return "deletionTimestamp" in assigned["metadata"]


def annotation(document: Document, name: str) -> str:
    return str(document["metadata"].get("annotations", {}).get(f"{PREFIX}/{name}", ""))


def wrong_object(need: Need, assigned: Document) -> str:
    """Return the fields of *assigned*, without its status, that differ from *need*; empty if there are none."""
    meta, spec = assigned["metadata"], assigned["spec"]
    name = f"{need.claim[1]}-{need.claim[0]}-{need.claim[3]}"
    right = {
        "namespace": meta["namespace"] == need.namespace,
        "name": meta["name"] == name or re.fullmatch(re.escape(name) + "-[0-9a-f]{10}", meta["name"]) is not None,
        "node": spec["nodename"] == need.node and meta["labels"]["nodename"] == need.node,
        "pod's uid": annotation(assigned, "pod-uid") == need.pod_uid,
        "finalizer": FINALIZER in meta.get("finalizers", []),
        "identity": _message(need.identity, spec["azureIdentityRef"]),
        "identity's mode": annotation(need.identity, "Behavior") == annotation(spec["azureIdentityRef"], "Behavior"),
        "binding": any(_message(binding, spec["azureBindingRef"]) for binding in need.bindings),
        "debts": annotation(assigned, "detach-pending") == "",
    }
    return ", ".join(part for part, is_right in right.items() if not is_right)


def _led_to(store: Store, label: str) -> Iterator[tuple[Document, tuple[Document, ...]]]:
    """The usable identities that bindings with this selector name, each with those bindings."""
    by_identity: dict[tuple[str, str], list[Document]] = {}
    for binding in store.list(BINDINGS):
        if binding["spec"].get("selector") == label:
            key = (binding["metadata"]["namespace"], binding["spec"]["azureIdentity"])
            by_identity.setdefault(key, []).append(binding)
    for (namespace, name), bindings in by_identity.items():
        identity = store.find(IDENTITIES, name, namespace)
        if identity is not None and (identity["spec"].get("type", 0) != 0 or _RESOURCE.fullmatch(_id(identity))):
            yield identity, tuple(bindings)


def _id(identity: Document) -> str:
    return str(identity["spec"].get("resourceID", ""))


def _namespaced(identity: Document) -> bool:
    return annotation(identity, "Behavior").lower() == "namespaced" or identity["spec"].get("type") == 3


def _message(stored: Document, embedded: Document) -> bool:
    same_meta = all(stored["metadata"].get(part) == embedded["metadata"].get(part) for part in ("name", "uid"))
    spec = {name: value for name, value in embedded["spec"].items() if value not in ("", 0, None)}
    return same_meta and spec == {name: value for name, value in stored["spec"].items() if value not in ("", 0, None)}
