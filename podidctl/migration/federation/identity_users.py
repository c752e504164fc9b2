"""Pods and service accounts that have an AzureIdentity: those that use it, those for which MIC has not updated it yet,
and those in other namespaces, with the objects that they need before it is federated. Pure.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mic.decisions.assignments import DesiredAssignment
from podidctl.migration.federation.schema import AccountUsage
from podidctl.migration.workloads import DEFAULT_ACCOUNT, Key, WorkloadState
from podidctl.report.text import grouped
from podidentity.resources import (
    ASSIGNED,
    BEHAVIOR_ANNOTATION,
    BINDING_LABEL,
    BINDINGS,
    IDENTITIES,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    BareMeta,
    Custom,
    IdentityType,
    Kind,
    ScheduledPod,
)


def account_usages(situation: WorkloadState) -> dict[Key, list[AccountUsage]]:
    """Return, by AzureIdentity, the service accounts whose pods have it, with their workloads and one pod."""
    users: defaultdict[tuple[Key, Key], set[str]] = defaultdict(set)
    pods: dict[tuple[Key, Key], BareMeta] = {}
    for workload in situation.workloads:
        for desired in situation.desired(workload):
            users[desired.identity.key, workload.account_key].add(workload.description)
    for pod in situation.pods:
        if pod.finished:
            continue
        account = (pod.metadata.namespace, pod.spec.service_account_name or DEFAULT_ACCOUNT)
        for desired in situation.desired_for(pod.metadata.namespace, pod.binding_label):
            descriptions = users[desired.identity.key, account]
            if not descriptions:
                descriptions.add(f"Pod {'/'.join(pod.key)}")
            # A terminating pod may have ended before its token is tested.
            if pod.metadata.deletion_timestamp is None:
                pods.setdefault((desired.identity.key, account), pod.metadata)
    usages: defaultdict[Key, list[AccountUsage]] = defaultdict(list)
    for (identity, account), descriptions in sorted(users.items()):
        meta = pods.get((identity, account), BareMeta())
        usage = AccountUsage(*account, workloads=sorted(descriptions), pod=meta.name, pod_uid=meta.uid)
        usages[identity].append(usage)
    return usages


def lagging_pods(
    pods: Iterable[ScheduledPod],
    bindings: Iterable[AzureIdentityBinding],
    identity: AzureIdentity,
    assigned: Iterable[AzureAssignedIdentity],
) -> list[str]:
    """Return the *pods*, as `namespace/name`, that need *identity* and do not have it in its current form. Unscheduled
    and terminating pods are not waited for.

    Terminating AzureAssignedIdentities are ignored: MIC keeps them until Azure has detached the identity from its host,
    which pods do not wait for.
    """
    own = identity.metadata.namespace
    selectors = {
        binding.spec.selector
        for binding in bindings
        if binding.metadata.namespace == own and binding.spec.azure_identity == identity.metadata.name
    }
    existing = grouped(
        ((assignment.spec.pod_namespace, assignment.spec.pod), assignment)
        for assignment in assigned
        if assignment.spec.azure_identity_ref.key == identity.key and assignment.metadata.deletion_timestamp is None
    )
    return sorted(
        "/".join(pod.key)
        for pod in pods
        if _wants(pod, own, selectors) and not _in_sync(existing.get(pod.key, ()), identity)
    )


def _wants(pod: ScheduledPod, namespace: str, selectors: set[str]) -> bool:
    label, lives = pod.binding_label, not pod.finished and pod.metadata.deletion_timestamp is None
    return (
        pod.metadata.namespace == namespace
        and bool(label)
        and label in selectors
        and lives
        and bool(pod.spec.node_name)
    )


def _in_sync(assigned: Sequence[AzureAssignedIdentity], identity: AzureIdentity) -> bool:
    return bool(assigned) and all(
        assignment.spec.azure_identity_ref.spec.type == identity.spec.type and assignment.status.status == ASSIGNED
        for assignment in assigned
    )


class OtherNamespaces:
    """Stores the names of the copies, so that they stay unique."""

    def __init__(self, state: WorkloadState) -> None:
        self._state = state
        self._taken = {identity.key for identity in state.identities}
        self._bindings = {binding.key for binding in state.bindings}
        self._labels = _labels(state)

    def copies(self, identity: AzureIdentity, used_in: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """Return, by namespace, copies of the identity (of type 0) and its bindings, which can be switched there later.

        The namespaces are those of *used_in*, other than the identity's, whose pods have no equal AzureIdentity in
        their namespace.
        """
        return {
            namespace: list(self._copies(identity, namespace))
            for namespace in sorted({*used_in} - {identity.metadata.namespace})
            if any(
                _lacks_own_identity(identity, namespace, self._state.desired_for(namespace, label))
                for label in self._labels.get(namespace, ())
            )
        }

    def _copies(self, identity: AzureIdentity, namespace: str) -> Iterator[dict[str, Any]]:
        name = _free_name(self._taken, namespace, identity)
        spec: dict[str, Any] = {
            "type": int(IdentityType.USER_ASSIGNED),
            "resourceID": identity.spec.resource_id,
            "clientID": identity.spec.client_id,
        }
        if identity.spec.ad_endpoint:
            spec["adEndpoint"] = identity.spec.ad_endpoint
        # Without the annotation the copy would serve pods of every namespace, too.
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
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for workload in state.workloads:
        labels[workload.namespace].add(workload.labels.get(BINDING_LABEL, ""))
    for pod in state.pods:
        labels[pod.metadata.namespace].add(pod.binding_label)
    return labels


def _lacks_own_identity(identity: AzureIdentity, namespace: str, desired: Sequence[DesiredAssignment]) -> bool:
    """Return whether *identity* is among *desired*, and no identity in *namespace* has the same client id."""
    client_id = identity.spec.client_id.strip().lower()
    same = [
        assignment.identity for assignment in desired if assignment.identity.spec.client_id.strip().lower() == client_id
    ]
    keys = {identity.key for identity in same}
    return identity.key in keys and namespace not in {identity.metadata.namespace for identity in same}


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
