"""Pods in other namespaces than their AzureIdentity, and the objects that they need before it is federated. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mic.decisions.assignments import DesiredAssignment
from podidctl.migration.bindings import BindingIndex
from podidctl.migration.workload_identity import WorkloadState
from podidctl.migration.workloads import Key
from podidentity.resources import (
    BEHAVIOR_ANNOTATION,
    BINDING_LABEL,
    BINDINGS,
    IDENTITIES,
    AzureIdentity,
    Custom,
    IdentityType,
    Kind,
)


class OtherNamespaces:
    """Stores the names of the copies, so that they stay unique."""

    def __init__(self, state: WorkloadState, bound: BindingIndex) -> None:
        self._state = state
        self._bound = bound
        self._taken = {each.key for each in state.identities}
        self._bindings = {each.key for each in state.bindings}
        self._labels = _labels(state)

    def namespaces(self, identity: AzureIdentity, used_in: Collection[str]) -> list[str]:
        """Return the namespaces of *used_in*, other than the identity's, whose pods have no equal AzureIdentity in
        their namespace.
        """
        return [
            namespace
            for namespace in sorted({*used_in} - {identity.metadata.namespace})
            if any(
                _lacks_own_identity(identity, namespace, self._bound.desired_for(namespace, label))
                for label in self._labels.get(namespace, ())
            )
        ]

    def copies(self, identity: AzureIdentity, namespace: str) -> Iterator[dict[str, Any]]:
        """Yield copies of the identity (of type 0) and its bindings for *namespace*, which can be switched there
        later.
        """
        name = _free_name(self._taken, namespace, identity)
        spec: dict[str, Any] = {
            "type": int(IdentityType.USER_ASSIGNED),
            "resourceID": identity.spec.resource_id,
            "clientID": identity.spec.client_id,
        }
        if identity.spec.ad_endpoint:
            spec["adEndpoint"] = identity.spec.ad_endpoint
        yield _manifest(IDENTITIES, namespace, name, spec, {"annotations": {BEHAVIOR_ANNOTATION: "namespaced"}})
        for binding in self._state.bindings:
            named = (binding.metadata.namespace, binding.spec.azure_identity)
            if named == identity.key and binding.spec.selector in self._labels.get(namespace, ()):
                free = _free_name(self._bindings, namespace, binding)
                yield _manifest(
                    BINDINGS, namespace, free, {"azureIdentity": name, "selector": binding.spec.selector}, {}
                )


def _labels(state: WorkloadState) -> Mapping[str, Collection[str]]:
    """Return the label values of pods by namespace."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for workload in state.inventory.workloads():
        found[workload.namespace].add(workload.labels.get(BINDING_LABEL, ""))
    for pod in state.inventory.pods:
        found[pod.metadata.namespace].add(pod.metadata.label(BINDING_LABEL))
    return found


def _lacks_own_identity(identity: AzureIdentity, namespace: str, desired: list[DesiredAssignment]) -> bool:
    """Return whether *identity* is among *desired*, and no identity in *namespace* has the same client id."""
    client_id = identity.spec.client_id.strip().lower()
    same = [each.identity for each in desired if each.identity.spec.client_id.strip().lower() == client_id]
    keys = {each.key for each in same}
    return identity.key in keys and namespace not in {each.metadata.namespace for each in same}


def _free_name(taken: set[Key], namespace: str, wanted: Custom) -> str:
    """Return a free name in *namespace*: the wanted one, or with its namespace, or also with a number."""
    name, number = wanted.metadata.name, 1
    while (namespace, name) in taken:
        behind = f"-{wanted.metadata.namespace}{'' if number == 1 else f'-{number}'}"
        name, number = f"{wanted.metadata.name[: 253 - len(behind)]}{behind}", number + 1
    taken.add((namespace, name))
    return name


def _manifest(kind: Kind[Any], namespace: str, name: str, spec: Any, meta: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {"name": name, "namespace": namespace, **meta},
        "spec": spec,
    }
