"""Steps of a reconcile pass before the update of the host: objects to create, update, annotate and revoke. Pure."""

from collections.abc import Collection, Iterator

from mic.azure.identities import GONE, HostIdentities
from mic.decisions import client_ids, ownership
from mic.decisions.assignments import AttachedBy, DesiredAssignment, ExistingAssignment, Key, unchanged
from mic.decisions.documents import distinct_name, free_name, plain_name
from mic.decisions.identity_usage import HostView
from mic.decisions.policy import Policy
from mic.decisions.steps import Create, OnFault, PrepareStep, Revoke, SetAttachedBy, Update, raised
from podidentity.azure.resource_ids import id_key
from podidentity.resources import ASSIGNED, CREATED


def prepare(
    host_view: HostView, azure: HostIdentities | None, policy: Policy, on_fault: OnFault = raised
) -> list[PrepareStep]:
    """Return the steps before Azure is changed. Without a response from Azure (None) no owner is decided."""
    steps: list[PrepareStep] = []
    recorded: set[str] = set()
    names: set[Key] = set()
    if host_view.host is None:
        # As on a lost host, no identity can be attached there, and no owner is decided.
        azure = GONE
    steps.extend(revocations(host_view))
    lost = host_view.host is not None and azure is not None and azure.gone
    if lost:
        steps.extend(_revocations_of_lost_host(host_view))
    for desired, active in host_view.out_of_sync_assignments():
        if desired is None or (lost and desired.identity_id is not None):
            continue
        try:
            # Complete before the first step counts: a failure leaves out the assignment as a whole.
            planned = [*_objects_for(host_view, desired, active, azure, policy, names=names)]
        except Exception as error:  # noqa: BLE001 - as in `independent`
            on_fault(desired.pod.key, error)
            continue
        for step in planned:
            steps.append(step)
            if not isinstance(step, Revoke) and step.attached_by == "mic" and desired.identity_id:
                recorded.add(desired.identity_id.key)
    if azure is not None and not azure.gone:
        steps.extend(_attached_by_updates(host_view, azure, policy, recorded))
    return steps


def independent(host_view: HostView, policy: Policy, on_fault: OnFault = raised) -> list[PrepareStep]:
    """Return the steps for pods whose identities need no host: service principals and federated ones. `prepare`
    includes these steps, but they never wait for Azure. Identities of another namespace are excepted for a pod that
    waits for one of its own namespace that needs the host."""
    steps: list[PrepareStep] = []
    names: set[Key] = set()
    waiting = _pods_that_wait_for_their_own(host_view)
    for desired, active in host_view.out_of_sync_assignments():
        if desired is not None and desired.identity_id is None:
            if desired.crosses_namespaces and desired.pod.key in waiting:
                continue
            try:
                steps.extend(_objects_for(host_view, desired, active, None, policy, names=names))
            except Exception as error:  # noqa: BLE001 - one object must not keep others from their identities
                on_fault(desired.pod.key, error)
    return steps


def _pods_that_wait_for_their_own(host_view: HostView) -> set[Key]:
    """Return the pods without an object for an identity of their own namespace that needs the host."""
    return {
        desired.pod.key
        for desired, active in host_view.out_of_sync_assignments()
        if desired is not None
        and desired.identity_id is not None
        and not desired.crosses_namespaces
        and not any(unchanged(desired, existing) for existing in active)
    }


def revocations(host_view: HostView) -> list[Revoke]:
    """Return the revocations of objects without a desired assignment. `prepare` includes these steps, but they never
    wait for Azure."""
    return [
        Revoke(existing)
        for desired, active in host_view.out_of_sync_assignments()
        if desired is None
        for existing in active
    ]


def _revocations_of_lost_host(host_view: HostView) -> list[Revoke]:
    """Return revocations of all objects on a host that Azure no longer has. Its node may still exist, but no pod can
    run there. Its pods get new objects when the host is back."""
    standing = {existing.key: existing for usage in host_view.usages.values() for existing in usage.active.values()}
    for desired, active in host_view.out_of_sync_assignments():
        if desired is None or desired.identity_id is None:
            for existing in active:
                # Another step revokes it, or updates it to an identity that needs no host.
                standing.pop(existing.key, None)
        else:
            standing |= {existing.key: existing for existing in active}
    return [Revoke(existing) for existing in standing.values()]


def _objects_for(
    host_view: HostView,
    desired: DesiredAssignment,
    active: tuple[ExistingAssignment, ...],
    azure: HostIdentities | None,
    policy: Policy,
    *,
    names: set[Key],
) -> Iterator[PrepareStep]:
    """Yield the steps after which exactly one object represents *desired*. *names*: names of objects that this pass
    creates.

    An object that can no longer represent it (an identity that now serves only its own namespace has its objects there)
    is revoked after the new object exists, so that the pod always has one.
    """
    usage = host_view.usages.get(desired.identity_id.key) if desired.identity_id else None
    attached_by = ownership.attached_by(usage, azure, policy)
    keeper = _keeper(desired, active)
    if (
        keeper is None
        and (creation := _creation(host_view, desired, attached_by, azure, policy, names=names)) is not None
    ):
        yield creation
        return
    yield from (Revoke(existing) for existing in active if existing is not keeper)
    if keeper is None:
        return
    if not unchanged(desired, keeper):
        yield _update(host_view, desired, keeper, azure, policy)
    elif desired.identity_id is not None and keeper.attached_by == "" and attached_by:
        yield SetAttachedBy(keeper, attached_by)


def _keeper(desired: DesiredAssignment, active: tuple[ExistingAssignment, ...]) -> ExistingAssignment | None:
    """Return the object that continues to represent *desired*: the first usable one, preferring MIC's names."""
    names = (plain_name(desired.assignment_key), distinct_name(desired.assignment_key))
    usable = [existing for existing in active if existing.object.metadata.namespace == desired.namespace]
    return min(usable, key=lambda existing: (existing.key[1] not in names, existing.key), default=None)


def _creation(
    host_view: HostView,
    desired: DesiredAssignment,
    attached_by: AttachedBy,
    azure: HostIdentities | None,
    policy: Policy,
    *,
    names: set[Key],
) -> Create | None:
    if azure is not None and azure.gone and desired.identity_id is not None:
        return None
    name = free_name(desired, lambda key: key in names or host_view.taken(key, desired))
    # Another pod of this pass may have the same plain name, and no object has it yet.
    names.add((desired.namespace, name))
    ready = ownership.is_ready(desired, attached_by, azure, policy)
    return Create(desired, name, ASSIGNED if ready else CREATED, attached_by)


def _update(
    host_view: HostView,
    desired: DesiredAssignment,
    existing: ExistingAssignment,
    azure: HostIdentities | None,
    policy: Policy,
) -> Update:
    host = host_view.host
    stays = (
        desired.identity_id is not None
        and existing.identity_id is not None
        and desired.identity_id.key == existing.identity_id.key
        and host_view.holds(existing)
    )
    usage = host_view.usages.get(desired.identity_id.key) if desired.identity_id else None
    # The record of an earlier host or identity states nothing about this one.
    attached_by = (existing.attached_by if stays else "") or ownership.attached_by(usage, azure, policy)
    pending_detaches = list(existing.pending_detaches)
    if not stays and (existing.attached_by == "mic" or policy.adopt_existing):
        pending_detaches.extend(
            pending_detach
            for pending_detach in host_view.pending_detaches_of(existing)
            if pending_detach not in pending_detaches
        )
    if host is not None and desired.identity_id is not None:
        # A detach from the host that needs the identity again is no longer pending.
        here = (host.key, desired.identity_id.key)
        pending_detaches = [
            pending_detach
            for pending_detach in pending_detaches
            if (id_key(pending_detach.host), id_key(pending_detach.identity)) != here
        ]
    # A new client id is accepted only after Azure has reported it.
    same_client = client_ids.same(existing.object.spec.azure_identity_ref, desired.identity)
    was_true = stays and same_client and existing.object.status.status == ASSIGNED and azure is None
    status = ASSIGNED if was_true or ownership.is_ready(desired, attached_by, azure, policy) else CREATED
    return Update(existing, desired, status, attached_by, tuple(pending_detaches))


def _attached_by_updates(
    host_view: HostView, azure: HostIdentities, policy: Policy, recorded: Collection[str]
) -> list[SetAttachedBy]:
    """Return updates that record MIC as the owner, so that each identity that MIC attached or will attach has a record.

    They are needed if another client detached a foreign identity and MIC attaches it again, and if the last object with
    the record is deleted while other objects still need the identity. One active object with the record is enough.
    """
    updates = []
    for key, usage in host_view.usages.items():
        if usage.needed == 0 or usage.owned > 0 or key in recorded or not usage.active:
            continue
        if usage.owned_terminating > 0 or key not in azure.attached or policy.adopt_existing:
            updates.append(SetAttachedBy(next(iter(usage.active.values())), "mic"))
    return updates
