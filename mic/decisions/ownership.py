"""Ownership of the identities on a host: who attached an identity, and whether MIC may detach it. Pure.

The objects of the host record the owner. MIC decides the owner of an identity without a record before its first update
of the host: another program attached the identities that are on the host by then.
"""

from mic.azure.identities import HostIdentities
from mic.decisions import client_ids
from mic.decisions.assignments import AttachedBy, DesiredAssignment
from mic.decisions.identity_usage import IdentityUsage
from mic.decisions.policy import Policy


def attached_by(usage: IdentityUsage | None, azure: HostIdentities | None, policy: Policy) -> AttachedBy:
    """Return who attached, or will attach, the identity, decided before the first update from the attached
    identities."""
    if usage is None:
        return ""
    if usage.attached_by_mic or policy.adopt_existing:
        return "mic"
    if azure is None or azure.gone:
        # Without identities on Azure to compare with, only another object's record counts.
        return "foreign" if usage.foreign else ""
    return "foreign" if usage.identity_id.key in azure.attached else "mic"


def is_ready(desired: DesiredAssignment, attached_by: AttachedBy, azure: HostIdentities | None, policy: Policy) -> bool:
    """Return whether the desired identity needs no host, or is known to be attached with a known owner."""
    if desired.identity_id is None:
        return True
    if azure is None or client_ids.fault(desired, azure, policy):
        return False
    return bool(attached_by) and azure.certain(desired.identity_id.key)


def is_owned(usage: IdentityUsage, policy: Policy) -> bool:
    """Return whether MIC attached the identity, or treats it so (`Policy.adopt_existing`)."""
    return usage.attached_by_mic or (policy.adopt_existing and bool(usage.active or usage.terminating))


def is_removable(key: str, usage: IdentityUsage, azure: HostIdentities, policy: Policy) -> bool:
    """Return whether no pod uses the identity, MIC attached it, and MIC may detach it."""
    terminating = usage.owned_terminating > 0 or (policy.adopt_existing and usage.terminating > 0)
    return usage.needed == 0 and not usage.active and terminating and not _immutable(key, usage, azure, policy)


def _immutable(key: str, usage: IdentityUsage, azure: HostIdentities, policy: Policy) -> bool:
    """Return whether any object or Azure names an immutable id for the identity."""
    attached = azure.attached.get(key)
    # Each source may lack the client id: some clouds report none, and objects need not name it.
    names = usage.client_ids.keys() | {key} | ({attached.client_id.lower()} if attached else set())
    return not policy.immutable.isdisjoint(names)


def is_record_deletable(key: str, usage: IdentityUsage, azure: HostIdentities | None, policy: Policy) -> bool:
    """Return whether an object's record may be deleted: the identity is detached, is never detached, or another object
    keeps the record. False while this is unknown because Azure has not responded."""
    if usage.owned > 0:
        return True
    if azure is None:
        return False
    if usage.needed == 0 and _immutable(key, usage, azure, policy):
        return True
    # During an operation Azure shows its intended result, and the detach may still fail.
    return azure.gone or (key not in azure.attached and not azure.updating)


def is_refused(key: str, usage: IdentityUsage, policy: Policy) -> bool:
    """Return whether the identity is the cluster's own, or all its objects on the host name that one's client id. One
    object that names it refuses no other pod the identity."""
    if policy.refuses(key):
        return True
    refused = sum(count for client_id, count in usage.client_ids.items() if policy.refuses(client_id))
    return 0 < refused == len(usage.active) + usage.terminating
