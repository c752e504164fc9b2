"""Change of one host on Azure: whether MIC reads the host now, and which identities it attaches and detaches. Pure."""

from mic.azure.identities import Change, HostIdentities, change
from mic.decisions import client_ids, ownership
from mic.decisions.identity_usage import HostView, IdentityUsage
from mic.decisions.policy import UNRESTRAINED, Policy, Restraint
from podidentity.azure.resource_ids import id_key


def needs_read(
    host_view: HostView, azure: HostIdentities | None, policy: Policy, restraint: Restraint = UNRESTRAINED
) -> bool:
    """Return whether this pass must read the host from Azure. *azure* is the last response in this process, if any.

    The owner of an identity that no object records is always read again: while no object of the cluster was on the
    host, the last response may have become outdated.
    """
    if host_view.host is None or not policy.allows(host_view.host):
        return False
    if azure is None:
        return bool(host_view.usages)
    if azure.updating and _waits(host_view, azure, policy):
        return True
    return any(_identity_needs_read(key, usage, azure, policy, restraint) for key, usage in host_view.usages.items())


def _waits(host_view: HostView, azure: HostIdentities, policy: Policy) -> bool:
    """Return whether any step has to wait for the end of an operation."""
    pending = any(usage.pending_detaches for usage in host_view.usages.values())
    waiting = (
        desired is None or (desired.identity_id is not None and not client_ids.fault(desired, azure, policy))
        for desired, _ in host_view.out_of_sync_assignments()
    )
    return pending or bool(host_view.terminating) or any(waiting)


def _identity_needs_read(
    key: str, usage: IdentityUsage, azure: HostIdentities, policy: Policy, restraint: Restraint
) -> bool:
    # MIC changes nothing for it before its retry, whatever Azure shows.
    if key in restraint.quarantined:
        return False
    there = key in azure.attached
    if usage.needed > 0:
        decided = usage.attached_by_mic or usage.foreign > 0
        return not (there and decided) and not ownership.is_refused(key, usage, policy)
    return there and key not in restraint.in_grace_period and (ownership.is_owned(usage, policy) or usage.undecided > 0)


def idle(host_view: HostView) -> list[str]:
    """Return the identities (keys) that no pod of this host uses: their grace period runs."""
    return [key for key, usage in host_view.usages.items() if usage.needed == 0 and not usage.active]


def azure_change(
    host_view: HostView, azure: HostIdentities, policy: Policy, restraint: Restraint = UNRESTRAINED
) -> Change | None:
    """Return the merged change that the host needs now, as far as *restraint* allows it."""
    if host_view.host is None or azure.gone or not policy.allows(host_view.host):
        return None
    adds: list[str] = []
    removes: list[str] = []
    for key, usage in sorted(host_view.usages.items()):
        if key in restraint.quarantined:
            continue
        if usage.needed > 0:
            # Not before an object records MIC as the owner: after an interruption no other record would exist.
            if key not in azure.attached and usage.owned > 0 and not ownership.is_refused(key, usage, policy):
                adds.append(usage.identity_id.text)
        elif (
            key in azure.attached
            and key not in restraint.in_grace_period
            and ownership.is_removable(key, usage, azure, policy)
        ):
            removes.append(key)
    # One refused identity fails the whole update, so those that Azure has refused before are sent apart.
    untried = [[text for text in texts if id_key(text) not in restraint.retry_due] for texts in (adds, removes)]
    adds, removes = untried if any(untried) else (adds, removes)
    return change(azure, adds, removes, most=restraint.most)


def left_on(host_view: HostView, azure: HostIdentities, policy: Policy) -> dict[str, bool]:
    """Return the identities (keys) on the host that no pod needs and MIC never detaches.

    True if MIC attached them (they are immutable), False if another client did.
    """
    return {
        key: ownership.is_owned(usage, policy)
        for key, usage in host_view.usages.items()
        if usage.needed == 0
        and not usage.active
        and key in azure.attached
        and not ownership.is_removable(key, usage, azure, policy)
    }
