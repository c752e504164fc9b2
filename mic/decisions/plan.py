"""Steps that bring one VM or scale set to its desired state, from the cluster state and Azure's response. Pure.

A reconcile pass plans three times, each time from the current state: `prepare` (objects to create, update, annotate and
revoke before Azure is changed), `azure_change` (one merged update of the host), `finish` (statuses to set and objects
to release after it). Nothing is remembered between them, so an interrupted pass is simply repeated. Two rules make the
order safe: MIC attaches an identity only after an object records it, and detaches it only after every object that
represents it has been revoked.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from mic.azure.identities import GONE, MOST_IN_ONE_UPDATE, Change, HostIdentities, change
from mic.decisions import client_ids
from mic.decisions.assignments import AttachedBy, DesiredAssignment, ExistingAssignment, Key, PendingDetach, unchanged
from mic.decisions.documents import MESSAGE_MAX, distinct_name, free_name, plain_name
from mic.decisions.identity_usage import HostView, IdentityUsage
from podidentity.resources import ASSIGNED, CREATED, FINALIZER


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's settings for detaching identities."""

    immutable: frozenset[str] = frozenset()
    """Client ids (or resource ids), lower-case, that MIC never detaches: `--immutable-user-msis` and the cluster's own
    identity."""
    adopt_existing: bool = False
    """Treat identities that were attached before MIC as if MIC had attached them."""


@dataclass(frozen=True, slots=True)
class Restraint:
    """Changes of a host that are due but must wait. Identities are given by their keys."""

    quarantined: Collection[str] = ()
    """Not attached or detached, because Azure has refused this recently."""
    retry_due: Collection[str] = ()
    """Attempted only if no other change is due: Azure has refused them before, and other changes must not fail with
    them."""
    warm: Collection[str] = ()
    """Not detached yet: the grace period since their last use has not passed."""
    most: int = MOST_IN_ONE_UPDATE
    """Maximum of identities in one update: fewer while it is unknown which one Azure refuses."""


UNRESTRAINED: Final = Restraint()


@dataclass(frozen=True, slots=True)
class Create:
    """Create an object for *desired*."""

    desired: DesiredAssignment
    name: str
    status: str
    attached_by: AttachedBy


@dataclass(frozen=True, slots=True)
class Update:
    """Update *existing* in place to *desired*."""

    existing: ExistingAssignment
    desired: DesiredAssignment
    status: str
    attached_by: AttachedBy
    pending_detaches: tuple[PendingDetach, ...]


@dataclass(frozen=True, slots=True)
class SetAttachedBy:
    """Record who attached the identity."""

    existing: ExistingAssignment
    attached_by: AttachedBy


@dataclass(frozen=True, slots=True)
class Revoke:
    """Delete *existing*: NMI stops serving it immediately, and MIC's finalizer keeps the object until the detach is
    done."""

    existing: ExistingAssignment


@dataclass(frozen=True, slots=True)
class Confirm:
    """Set the status Assigned: the identity is attached."""

    existing: ExistingAssignment


@dataclass(frozen=True, slots=True)
class Explain:
    """Record on *existing* why its status is Created."""

    existing: ExistingAssignment
    message: str
    identity_at_fault: bool = False
    """Whether its AzureIdentity must be corrected, so that MIC writes an Event on that object too."""


@dataclass(frozen=True, slots=True)
class Release:
    """Set the status Unassigned and remove the finalizer, so that the API server deletes the object."""

    existing: ExistingAssignment


@dataclass(frozen=True, slots=True)
class CompleteDetaches:
    """Remove *pending_detaches*, which are done, from the object."""

    existing: ExistingAssignment
    pending_detaches: frozenset[PendingDetach]

    @property
    def remaining(self) -> tuple[PendingDetach, ...]:
        """The pending detaches that remain."""
        return tuple(
            pending_detach
            for pending_detach in self.existing.pending_detaches
            if pending_detach not in self.pending_detaches
        )


PrepareStep: TypeAlias = Create | Update | SetAttachedBy | Revoke
FinishStep: TypeAlias = Confirm | Explain | Release | CompleteDetaches


OnFault: TypeAlias = Callable[[Key, Exception], None]
"""Called with the namespace and name of a pod or an object for which planning raised, and the exception. The other
steps of the host are planned nevertheless."""


def raised(_about: Key, error: Exception) -> None:
    """Raise *error*: the default `OnFault`."""
    raise error


def asks_azure(
    host_view: HostView, known: HostIdentities | None, policy: Policy, restraint: Restraint = UNRESTRAINED
) -> bool:
    """Return whether this pass must read the host from Azure. *known* is the last response in this process, if any.

    The owner of an identity that no object records is always read again: while no object of the cluster was on the
    host, the last response may have become outdated.
    """
    if host_view.host is None:
        return False
    if known is None:
        return bool(host_view.usages)
    if known.updating and _waits(host_view, known):
        return True
    return any(_needs_read(key, usage, known, policy, restraint) for key, usage in host_view.usages.items())


def _waits(host_view: HostView, known: HostIdentities) -> bool:
    """Return whether any step has to wait for the end of an operation."""
    owed = any(usage.pending_detaches for usage in host_view.usages.values())
    waiting = (
        desired is None or (desired.identity_id is not None and not client_ids.fault(desired, known))
        for desired, _ in host_view.out_of_sync_assignments()
    )
    return owed or bool(host_view.terminating) or any(waiting)


def _needs_read(key: str, usage: IdentityUsage, known: HostIdentities, policy: Policy, restraint: Restraint) -> bool:
    if key in restraint.quarantined:
        return False
    there = key in known.attached
    if usage.needed > 0:
        decided = usage.attached_by_mic or usage.foreign > 0
        return not (there and decided)
    return there and key not in restraint.warm and (_ours(usage, policy) or usage.undecided > 0)


def idle(host_view: HostView) -> list[str]:
    """Return the identities (keys) that no pod of this host uses: their grace period runs."""
    return [key for key, usage in host_view.usages.items() if usage.needed == 0 and not usage.active]


def independent(host_view: HostView, policy: Policy, on_fault: OnFault = raised) -> list[PrepareStep]:
    """Return the steps for pods whose identities need no host: service principals and federated ones. `prepare`
    includes these steps, but they never wait for Azure."""
    steps: list[PrepareStep] = []
    names: set[Key] = set()
    for desired, active in host_view.out_of_sync_assignments():
        if desired is not None and desired.identity_id is None:
            try:
                steps.extend(_objects_for(host_view, desired, active, None, policy, names=names))
            except Exception as error:  # noqa: BLE001 - one object must not keep others from their identities
                on_fault(desired.pod.key, error)
    return steps


def revocations(host_view: HostView) -> list[Revoke]:
    """Return the revocations of objects without a desired assignment. `prepare` includes these steps, but they never
    wait for Azure."""
    return [
        Revoke(existing)
        for desired, active in host_view.out_of_sync_assignments()
        if desired is None
        for existing in active
    ]


def left_on(host_view: HostView, azure: HostIdentities, policy: Policy) -> dict[str, bool]:
    """Return the identities (keys) on the host that no pod needs and MIC never detaches.

    True if MIC attached them (they are immutable), False if another client did.
    """
    return {
        key: _ours(usage, policy)
        for key, usage in host_view.usages.items()
        if usage.needed == 0
        and not usage.active
        and key in azure.attached
        and not _removable(key, usage, azure, policy)
    }


def prepare(
    host_view: HostView, azure: HostIdentities | None, policy: Policy, on_fault: OnFault = raised
) -> list[PrepareStep]:
    """Return the steps before Azure is changed. Without a response from Azure (None) no owner is decided."""
    steps: list[PrepareStep] = []
    recorded: set[str] = set()
    names: set[Key] = set()
    if host_view.host is None:
        azure = GONE
    steps.extend(revocations(host_view))
    lost = host_view.host is not None and azure is not None and azure.gone
    if lost:
        steps.extend(_revocations_of_lost_host(host_view))
    for desired, active in host_view.out_of_sync_assignments():
        if desired is None or (lost and desired.identity_id is not None):
            continue
        try:
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
    attached_by = _attached_by(usage, azure, policy)
    keeper = _keeper(desired, active)
    if keeper is None and (creation := _creation(host_view, desired, attached_by, azure, names)) is not None:
        yield creation
        return
    yield from (Revoke(existing) for existing in active if existing is not keeper)
    if keeper is None:
        return
    if not unchanged(desired, keeper):
        yield _update(host_view, desired, keeper, azure, policy)
    elif desired.identity_id is not None and keeper.attached_by == "" and attached_by:
        yield SetAttachedBy(keeper, attached_by)


def azure_change(
    host_view: HostView, azure: HostIdentities, policy: Policy, restraint: Restraint = UNRESTRAINED
) -> Change | None:
    """Return the merged change that the host needs now, as far as *restraint* allows it."""
    if host_view.host is None or azure.gone:
        return None
    adds: list[str] = []
    removes: list[str] = []
    for key, usage in sorted(host_view.usages.items()):
        if key in restraint.quarantined:
            continue
        if usage.needed > 0:
            if key not in azure.attached and usage.owned > 0:
                adds.append(usage.identity_id.text)
        elif key in azure.attached and key not in restraint.warm and _removable(key, usage, azure, policy):
            removes.append(key)
    untried = [[text for text in each if text.lower() not in restraint.retry_due] for each in (adds, removes)]
    adds, removes = untried if any(untried) else (adds, removes)
    return change(azure, adds, removes, most=restraint.most)


def finish(
    host_view: HostView,
    azure: HostIdentities | None,
    policy: Policy,
    failures: Mapping[str, str] | None = None,
    on_fault: OnFault = raised,
) -> list[FinishStep]:
    """Return the steps after Azure is changed, given the attached identities. *failures*: why an identity (key) is
    not."""
    failures = failures or {}
    if host_view.host is None:
        azure = GONE
    steps: list[FinishStep] = []
    for desired, active in host_view.out_of_sync_assignments():
        if desired is None or len(active) != 1:
            continue
        try:
            step = _outcome(desired, active[0], azure, failures) if unchanged(desired, active[0]) else None
        except Exception as error:  # noqa: BLE001 - as in `independent`
            on_fault(desired.pod.key, error)
            continue
        if step is not None:
            steps.append(step)
    steps.extend(_withdrawals(host_view, azure, failures))
    if azure is not None:
        steps.extend(
            Explain(existing, why, identity_at_fault=True) for existing, why in client_ids.faulty(host_view, azure)
        )
    for existing in host_view.terminating.values():
        try:
            if _releasable(existing, host_view, azure, policy):
                steps.append(Release(existing))
        except Exception as error:  # noqa: BLE001 - as in `independent`
            on_fault(existing.key, error)
    steps.extend(_completed_detaches(host_view, azure, policy))
    return steps


def _completed_detaches(
    host_view: HostView, azure: HostIdentities | None, policy: Policy
) -> Iterator[CompleteDetaches]:
    """Yield one step per object with completed detaches, because its list is written as a whole."""
    paid: dict[Key, tuple[ExistingAssignment, set[PendingDetach]]] = {}
    for key, usage in host_view.usages.items():
        if usage.pending_detaches and _is_detached(key, usage, azure, policy):
            for existing, pending_detach in usage.pending_detaches.values():
                paid.setdefault(existing.key, (existing, set()))[1].add(pending_detach)
    return (CompleteDetaches(existing, frozenset(pending_detaches)) for existing, pending_detaches in paid.values())


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


def _attached_by(usage: IdentityUsage | None, azure: HostIdentities | None, policy: Policy) -> AttachedBy:
    """Return who attached, or will attach, the identity, decided before the first update from the attached
    identities."""
    if usage is None:
        return ""
    if usage.attached_by_mic or policy.adopt_existing:
        return "mic"
    if azure is None or azure.gone:
        return "foreign" if usage.foreign else ""
    return "foreign" if usage.identity_id.key in azure.attached else "mic"


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
    names: set[Key],
) -> Create | None:
    if azure is not None and azure.gone and desired.identity_id is not None:
        return None
    name = free_name(desired, lambda key: key in names or host_view.taken(key, desired))
    names.add((desired.namespace, name))
    return Create(desired, name, ASSIGNED if _present(desired, attached_by, azure) else CREATED, attached_by)


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
    attached_by = (existing.attached_by if stays else "") or _attached_by(usage, azure, policy)
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
            if (pending_detach.host.lower(), pending_detach.identity.lower()) != here
        ]
    # A new client id is accepted only after Azure has reported it.
    same_client = client_ids.same(existing.object.spec.azure_identity_ref, desired.identity)
    was_true = stays and same_client and existing.object.status.status == ASSIGNED and azure is None
    status = ASSIGNED if was_true or _present(desired, attached_by, azure) else CREATED
    return Update(existing, desired, status, attached_by, tuple(pending_detaches))


def _present(desired: DesiredAssignment, attached_by: AttachedBy, azure: HostIdentities | None) -> bool:
    """Return whether the desired identity needs no host, or is known to be attached with a known owner."""
    if desired.identity_id is None:
        return True
    if azure is None or client_ids.fault(desired, azure):
        return False
    return bool(attached_by) and azure.certain(desired.identity_id.key)


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


def _ours(usage: IdentityUsage, policy: Policy) -> bool:
    return usage.attached_by_mic or (policy.adopt_existing and bool(usage.active or usage.terminating))


def _immutable(key: str, usage: IdentityUsage, azure: HostIdentities, policy: Policy) -> bool:
    """Return whether any object or Azure names an immutable id for the identity."""
    attached = azure.attached.get(key)
    names = usage.client_ids.keys() | {key} | ({attached.client_id.lower()} if attached else set())
    return not policy.immutable.isdisjoint(names)


def _removable(key: str, usage: IdentityUsage, azure: HostIdentities, policy: Policy) -> bool:
    """Return whether no pod uses the identity, MIC attached it, and MIC may detach it."""
    terminating = usage.owned_terminating > 0 or (policy.adopt_existing and usage.terminating > 0)
    return usage.needed == 0 and not usage.active and terminating and not _immutable(key, usage, azure, policy)


def _stays(key: str, usage: IdentityUsage, azure: HostIdentities | None, policy: Policy) -> bool | None:
    """Return whether an object's record may be deleted: the identity is detached, is never detached, or another object
    keeps the record. None if this is unknown without Azure."""
    if usage.owned > 0:
        return True
    if azure is None:
        return None
    if usage.needed == 0 and _immutable(key, usage, azure, policy):
        return True
    return azure.gone or (key not in azure.attached and not azure.updating)


def _releasable(
    existing: ExistingAssignment, host_view: HostView, azure: HostIdentities | None, policy: Policy
) -> bool:
    if existing.pending_detaches or FINALIZER not in (existing.object.metadata.finalizers or ()):
        return False
    if existing.identity_id is None or host_view.host is None:
        return True
    if existing.attached_by != "mic" and not policy.adopt_existing:
        return True
    usage = host_view.usages.get(existing.identity_id.key)
    return usage is None or _stays(existing.identity_id.key, usage, azure, policy) is True


def _withdrawals(host_view: HostView, azure: HostIdentities | None, failures: Mapping[str, str]) -> Iterator[Explain]:
    """Yield explanations for Assigned objects whose identity another client detached and Azure refuses to attach
    again."""
    if azure is None or azure.gone or azure.updating:
        return
    for key, why in failures.items():
        usage = host_view.usages.get(key)
        if usage is not None and usage.needed > 0 and key not in azure.attached:
            assigned = (existing for existing in usage.active.values() if existing.object.status.status == ASSIGNED)
            yield from (Explain(existing, why[:MESSAGE_MAX]) for existing in assigned)


def _is_detached(key: str, usage: IdentityUsage, azure: HostIdentities | None, policy: Policy) -> bool:
    return _stays(key, usage, azure, policy) is True


def _outcome(
    desired: DesiredAssignment, existing: ExistingAssignment, azure: HostIdentities | None, failures: Mapping[str, str]
) -> Confirm | Explain | None:
    if existing.object.status.status != ASSIGNED and _present(desired, existing.attached_by, azure):
        return Confirm(existing)
    if desired.identity_id is None or existing.object.status.status == ASSIGNED:
        return None
    fault = client_ids.fault(desired, azure)
    why = fault or failures.get(desired.identity_id.key, "")[:MESSAGE_MAX]
    if not why or client_ids.tells(existing, why):
        return None
    return Explain(existing, why, identity_at_fault=bool(fault))
