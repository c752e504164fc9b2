"""Pods whose AzureAssignedIdentities do not match the current AzureIdentity yet. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from podidctl.migration.projections import RunningPod
from podidctl.migration.workload_identity import WorkloadState
from podidentity.resources import (
    ASSIGNED,
    BINDING_LABEL,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
)


def lagging_pods(
    situation: WorkloadState, identity: AzureIdentity, assigned: Iterable[AzureAssignedIdentity]
) -> list[str]:
    """Return the pods, as `namespace/name`, that need *identity* and do not have it in its current form."""
    return lagging_among(situation.inventory.pods, situation.bindings, identity, assigned)


def lagging_among(
    pods: Iterable[RunningPod],
    bindings: Iterable[AzureIdentityBinding],
    identity: AzureIdentity,
    assigned: Iterable[AzureAssignedIdentity],
) -> list[str]:
    """Return the lagging pods among *pods*. Unscheduled and terminating pods are not waited for.

    Terminating AzureAssignedIdentities are ignored: MIC keeps them until Azure has detached the identity from its host,
    which pods do not wait for.
    """
    own = identity.metadata.namespace
    selectors = {
        each.spec.selector
        for each in bindings
        if each.metadata.namespace == own and each.spec.azure_identity == identity.metadata.name
    }
    existing = _active_assignments(identity, assigned)
    return sorted(
        "/".join(pod.key)
        for pod in pods
        if _wants(pod, own, selectors) and not _in_sync(existing.get(pod.key, ()), identity)
    )


def _active_assignments(
    identity: AzureIdentity, assigned: Iterable[AzureAssignedIdentity]
) -> dict[tuple[str, str], list[AzureAssignedIdentity]]:
    found: defaultdict[tuple[str, str], list[AzureAssignedIdentity]] = defaultdict(list)
    for each in assigned:
        named = each.spec.azure_identity_ref.metadata
        if (named.namespace, named.name) == identity.key and each.metadata.deletion_timestamp is None:
            found[each.spec.pod_namespace, each.spec.pod].append(each)
    return found


def _wants(pod: RunningPod, namespace: str, selectors: set[str]) -> bool:
    meta = pod.metadata
    label = meta.label(BINDING_LABEL)
    lives = pod.status.phase not in {"Succeeded", "Failed"} and meta.deletion_timestamp is None
    return meta.namespace == namespace and bool(label) and label in selectors and lives and bool(pod.spec.node_name)


def _in_sync(assigned: Sequence[AzureAssignedIdentity], identity: AzureIdentity) -> bool:
    return bool(assigned) and all(
        each.spec.azure_identity_ref.spec.type == identity.spec.type and each.status.status == ASSIGNED
        for each in assigned
    )
