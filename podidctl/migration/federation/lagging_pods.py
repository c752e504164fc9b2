"""Which pods' AzureAssignedIdentities do not yet say what an AzureIdentity says. Pure."""

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
    """Pods, as `namespace/name`, that want *identity* and have it not, or not as it is now."""
    return lagging_among(situation.inventory.pods, situation.bindings, identity, assigned)


def lagging_among(
    pods: Iterable[RunningPod],
    bindings: Iterable[AzureIdentityBinding],
    identity: AzureIdentity,
    assigned: Iterable[AzureAssignedIdentity],
) -> list[str]:
    """The same, of these *pods*. One that is on no node yet, or on its way out, keeps nobody waiting.

    An object on its way out counts for nothing: MIC keeps it until Azure has taken the identity off its host, which
    pods are not waiting for.
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


def _in_sync(held: Sequence[AzureAssignedIdentity], identity: AzureIdentity) -> bool:
    return bool(held) and all(
        each.spec.azure_identity_ref.spec.type == identity.spec.type and each.status.status == ASSIGNED for each in held
    )
