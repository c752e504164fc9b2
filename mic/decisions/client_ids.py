"""AzureIdentities of type 0 that MIC assigns to no pod: with a wrong client id, or of the cluster's own identity. Pure.

In standard mode NMI requests tokens from IMDS by client id. An AzureIdentity with its author's own resource id and the
client id of another identity on the VM (the kubelet's, say) would get that identity's tokens. One that honestly names
the kubelet's would, too: it is attached to every VM, and no right on Azure is needed to name it.
"""

from collections.abc import Iterator
from typing import Final

from mic.azure.identities import Attached, HostIdentities
from mic.decisions.assignments import DesiredAssignment, ExistingAssignment
from mic.decisions.documents import MESSAGE_MAX
from mic.decisions.identity_usage import HostView
from mic.decisions.policy import Policy
from podidentity.resources import ASSIGNED, CREATED, MESSAGE_ANNOTATION, AzureIdentity

SHOWN_MAX: Final = 64
"""Characters of a clientID that are quoted: a client id has 36, and an object may hold a megabyte of anything."""


def mismatch(identity: AzureIdentity, attached: Attached | None) -> str:
    """Return why *identity*, whose resource id is *attached* to a host, is not assigned; empty if it may be.

    It may be if *identity* names no client id, or Azure reports none (yet, or never in this cloud). At most MESSAGE_MAX
    characters.
    """
    named, reported = _plain(identity.spec.client_id), _plain(attached.client_id if attached is not None else "")
    if attached is None or not named or not reported or named == reported:
        return ""
    return (
        f"AzureIdentity {'/'.join(identity.key)} names clientID {identity.spec.client_id.strip()[:SHOWN_MAX]!r}, "
        f"and Azure reports client id {attached.client_id[:SHOWN_MAX]!r} for its resourceID: set its clientID to that "
        "one, or correct its resourceID (az identity show)"
    )[:MESSAGE_MAX]


def of_cluster(identity: AzureIdentity, key: str, policy: Policy) -> str:
    """Return why *identity*, whose resource id has *key*, is not assigned: it is the cluster's own. Empty if it is
    another, or may be assigned."""
    if not policy.refuses(key, _plain(identity.spec.client_id)):
        return ""
    return (
        f"AzureIdentity {'/'.join(identity.key)} names the cluster's own identity, the kubelet's or MIC's, which MIC "
        "assigns to no pod: create an identity for these pods, or start MIC with --assign-cluster-identity"
    )[:MESSAGE_MAX]


def fault(desired: DesiredAssignment, azure: HostIdentities | None, policy: Policy) -> str:
    """Return why the desired identity is not assigned; a mismatch only if *azure* is known. Empty if it may be."""
    if desired.identity_id is None:
        return ""
    key = desired.identity_id.key
    # In this order, because the first reason needs no response of Azure.
    return of_cluster(desired.identity, key, policy) or (
        mismatch(desired.identity, azure.attached.get(key)) if azure is not None else ""
    )


def faulty(
    host_view: HostView, azure: HostIdentities | None, policy: Policy
) -> Iterator[tuple[ExistingAssignment, str]]:
    """Yield the Assigned objects of identities that are not assigned, and the reason.

    Each identity of the host costs one comparison. Its objects are read only if one of them names another client id
    than Azure, or the cluster's own identity.
    """
    for key, usage in host_view.usages.items():
        attached = azure.attached.get(key) if azure is not None else None
        consistent = (
            attached is None or not attached.client_id or usage.client_ids.keys() <= {_plain(attached.client_id)}
        )
        if consistent and not policy.refuses(key, *usage.client_ids):
            continue
        for existing in usage.active.values():
            identity = existing.object.spec.azure_identity_ref
            reason = of_cluster(identity, key, policy) or mismatch(identity, attached)
            if reason and existing.object.status.status == ASSIGNED:
                yield existing, reason


def is_news(host_view: HostView, azure: HostIdentities, policy: Policy) -> bool:
    """Return whether *azure* shows a mismatch that no object reports yet. MIC then reads the host again, because the
    identity may have been deleted and created again under its name since. The cluster's own identity is refused without
    a response of Azure."""
    return any(
        desired is not None
        and not fault(desired, None, policy)
        and (reason := fault(desired, azure, policy))
        and not any(states(existing, reason) for existing in active)
        for desired, active in host_view.out_of_sync_assignments()
    )


def states(existing: ExistingAssignment, reason: str) -> bool:
    """Return whether the object is Created and its message is *reason*."""
    return (
        existing.object.status.status == CREATED and existing.object.metadata.annotation(MESSAGE_ANNOTATION) == reason
    )


def same(first: AzureIdentity, second: AzureIdentity) -> bool:
    """Return whether both name the same client id."""
    return _plain(first.spec.client_id) == _plain(second.spec.client_id)


def _plain(client_id: str) -> str:
    return client_id.strip().lower()
