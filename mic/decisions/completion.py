"""Steps of a reconcile pass after the update of the host: statuses to set and objects to release. Pure."""

from collections.abc import Iterator, Mapping

from mic.azure.identities import GONE, HostIdentities
from mic.decisions import client_ids, ownership
from mic.decisions.assignments import DesiredAssignment, ExistingAssignment, Key, PendingDetach, unchanged
from mic.decisions.documents import MESSAGE_MAX
from mic.decisions.identity_usage import HostView
from mic.decisions.policy import Policy
from mic.decisions.steps import CompleteDetaches, Confirm, Explain, FinishStep, OnFault, Release, raised
from podidentity.resources import ASSIGNED, FINALIZER


def finish(
    host_view: HostView,
    azure: HostIdentities | None,
    policy: Policy,
    failures: Mapping[str, str] | None = None,
    on_fault: OnFault = raised,
    *,
    delays: Mapping[str, str] | None = None,
) -> list[FinishStep]:
    """Return the steps after Azure is changed, given the attached identities.

    *failures* has the reason for each identity (key) that is not attached, *delays* the reason for each whose state MIC
    does not know yet. A delay explains a Created object without a failure, and does not withdraw an Assigned one.
    """
    failures = failures or {}
    refusal = policy.refusal(host_view.host)
    # A failure replaces the delay of the same identity: it names what must be corrected.
    reasons = dict.fromkeys(host_view.usages, refusal) if refusal else {**(delays or {}), **failures}
    if host_view.host is None or refusal:
        # MIC cannot detach there, so objects must not wait for it.
        azure = GONE
    steps: list[FinishStep] = []
    for desired, active in host_view.out_of_sync_assignments():
        # The first steps of the next pass leave exactly one object.
        if desired is None or len(active) != 1:
            continue
        try:
            # A status must not confirm content that the API server has not accepted yet.
            step = _outcome(desired, active[0], azure, policy, reasons) if unchanged(desired, active[0]) else None
        except Exception as error:  # noqa: BLE001 - as in `preparation.independent`
            on_fault(desired.pod.key, error)
            continue
        if step is not None:
            steps.append(step)
    steps.extend(_withdrawals(host_view, azure, failures))
    steps.extend(
        Explain(existing, reason, identity_at_fault=True)
        for existing, reason in client_ids.faulty(host_view, azure, policy)
    )
    for existing in host_view.terminating.values():
        try:
            if _releasable(existing, host_view, azure, policy):
                steps.append(Release(existing))
        except Exception as error:  # noqa: BLE001 - as in `preparation.independent`
            on_fault(existing.key, error)
    steps.extend(_completed_detaches(host_view, azure, policy))
    return steps


def _outcome(
    desired: DesiredAssignment,
    existing: ExistingAssignment,
    azure: HostIdentities | None,
    policy: Policy,
    failures: Mapping[str, str],
) -> Confirm | Explain | None:
    if existing.object.status.status != ASSIGNED and ownership.is_ready(desired, existing.attached_by, azure, policy):
        return Confirm(existing)
    if desired.identity_id is None or existing.object.status.status == ASSIGNED:
        return None
    fault = client_ids.fault(desired, azure, policy)
    reason = fault or failures.get(desired.identity_id.key, "")[:MESSAGE_MAX]
    # The same message again would be a write in each pass.
    if not reason or client_ids.states(existing, reason):
        return None
    return Explain(existing, reason, identity_at_fault=bool(fault))


def _withdrawals(host_view: HostView, azure: HostIdentities | None, failures: Mapping[str, str]) -> Iterator[Explain]:
    """Yield explanations for Assigned objects whose identity another client detached and Azure refuses to attach
    again."""
    # During an operation Azure shows its intended result, which is no proof of a detach.
    if azure is None or azure.gone or azure.updating:
        return
    for key, reason in failures.items():
        usage = host_view.usages.get(key)
        if usage is not None and usage.needed > 0 and key not in azure.attached:
            assigned = (existing for existing in usage.active.values() if existing.object.status.status == ASSIGNED)
            yield from (Explain(existing, reason[:MESSAGE_MAX]) for existing in assigned)


def _releasable(
    existing: ExistingAssignment, host_view: HostView, azure: HostIdentities | None, policy: Policy
) -> bool:
    # The object is the only record of its pending detaches.
    if existing.pending_detaches or FINALIZER not in (existing.object.metadata.finalizers or ()):
        return False
    # MIC detaches nothing for the following two, so they do not wait for Azure.
    if existing.identity_id is None or host_view.host is None:
        return True
    if existing.attached_by != "mic" and not policy.adopt_existing:
        return True
    usage = host_view.usages.get(existing.identity_id.key)
    return usage is None or ownership.is_record_deletable(existing.identity_id.key, usage, azure, policy)


def _completed_detaches(
    host_view: HostView, azure: HostIdentities | None, policy: Policy
) -> Iterator[CompleteDetaches]:
    """Yield one step per object with completed detaches, because its list is written as a whole."""
    completed: dict[Key, tuple[ExistingAssignment, set[PendingDetach]]] = {}
    for key, usage in host_view.usages.items():
        if usage.pending_detaches and ownership.is_record_deletable(key, usage, azure, policy):
            for existing, pending_detach in usage.pending_detaches.values():
                completed.setdefault(existing.key, (existing, set()))[1].add(pending_detach)
    return (
        CompleteDetaches(existing, frozenset(pending_detaches)) for existing, pending_detaches in completed.values()
    )
