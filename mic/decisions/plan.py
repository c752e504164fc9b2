"""What one VM or scale set needs, given what the cluster wants and what Azure has: steps as values. Pure.

A round asks three times, each time of the picture as it then is: `prepare` (objects to create, update, mark, revoke,
before Azure is touched), `azure_change` (one merged update of the host), `settle` (what may be said and let go of now).
Nothing is remembered between them, so a round that was cut short anywhere is simply begun again. Two rules give the
order its safety: an identity is added only when a record of it is written, and removed only when everything that stood
for it has been revoked.
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
    """What the operator decided about taking identities off."""

    immutable: frozenset[str] = frozenset()
    """Client ids (or resource ids), lower-case, that are never taken off: `--immutable-user-msis` and the cluster's own
    identity."""
    adopt_existing: bool = False
    """Treat what was on a host before MIC as if MIC had put it there."""


@dataclass(frozen=True, slots=True)
class Restraint:
    """What is not to be done to a host just now, though it is due. Identities by their keys."""

    quarantined: Collection[str] = ()
    """Not to be added or taken off: Azure has just refused that."""
    retry_due: Collection[str] = ()
    """To be tried when nothing else is: Azure has refused them before, and nobody else's update is to fail again."""
    warm: Collection[str] = ()
    """Not to be taken off: the grace since they were needed last goes on."""
    most: int = MOST_IN_ONE_UPDATE
    """How many one update may name: fewer while it is not known whom Azure refuses."""


UNRESTRAINED: Final = Restraint()


@dataclass(frozen=True, slots=True)
class Create:
    """Write a new object for *want*."""

    desired: DesiredAssignment
    name: str
    status: str
    attached_by: AttachedBy


@dataclass(frozen=True, slots=True)
class Update:
    """Make *held* stand for *want* in place."""

    existing: ExistingAssignment
    desired: DesiredAssignment
    status: str
    attached_by: AttachedBy
    pending_detaches: tuple[PendingDetach, ...]


@dataclass(frozen=True, slots=True)
class SetAttachedBy:
    """Write down who put the identity on the host."""

    existing: ExistingAssignment
    attached_by: AttachedBy


@dataclass(frozen=True, slots=True)
class Revoke:
    """Delete *held*: NMI stops serving it at once, our finalizer keeps the object until the host is clean."""

    existing: ExistingAssignment


@dataclass(frozen=True, slots=True)
class Confirm:
    """The identity is there: status Assigned."""

    existing: ExistingAssignment


@dataclass(frozen=True, slots=True)
class Explain:
    """Say on *held* why it is still, or again, Created."""

    existing: ExistingAssignment
    message: str
    identity_at_fault: bool = False
    """Whether its AzureIdentity has to be corrected, so that people are told there too."""


@dataclass(frozen=True, slots=True)
class Release:
    """Status Unassigned and the finalizer off: the object goes."""

    existing: ExistingAssignment


@dataclass(frozen=True, slots=True)
class CompleteDetaches:
    """*debts* are paid: take them off the object's list."""

    existing: ExistingAssignment
    pending_detaches: frozenset[PendingDetach]

    @property
    def remaining(self) -> tuple[PendingDetach, ...]:
        """What is owed still."""
        return tuple(
            pending_detach
            for pending_detach in self.existing.pending_detaches
            if pending_detach not in self.pending_detaches
        )


PrepareStep: TypeAlias = Create | Update | SetAttachedBy | Revoke
FinishStep: TypeAlias = Confirm | Explain | Release | CompleteDetaches


OnFault: TypeAlias = Callable[[Key, Exception], None]
"""Called with the namespace and name of a pod or an object for which no step could be planned, and the exception. The
other steps of the host are planned all the same."""


def raised(_about: Key, error: Exception) -> None:
    """An `OnFault` for callers that know of no better one."""
    raise error


def asks_azure(
    host_view: HostView, known: HostIdentities | None, policy: Policy, restraint: Restraint = UNRESTRAINED
) -> bool:
    """Whether this round needs a fresh look at Azure, *known* being the last one of this process, if any.

    Whose an identity without any record is, is always asked anew: where nothing of the cluster was on the host, the
    last look may be old.
    """
    if host_view.host is None:
        return False
    if known is None:
        return bool(host_view.usages)
    if known.updating and _waits(host_view, known):
        return True
    return any(_needs_read(key, usage, known, policy, restraint) for key, usage in host_view.usages.items())


def _waits(host_view: HostView, known: HostIdentities) -> bool:
    """Whether anything here may be said or let go of only when an operation has ended."""
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
    """The identities (keys) that nobody here is served any more: for these a grace is counted."""
    return [key for key, usage in host_view.usages.items() if usage.needed == 0 and not usage.active]


def independent(host_view: HostView, policy: Policy, on_fault: OnFault = raised) -> list[PrepareStep]:
    """What is to be written for pods whose identities no host has to have: service principals and federated ones. Part
    of `prepare` too, but it needs nothing of Azure and never waits for it."""
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
    """The objects that stand for nothing any more. Part of `prepare` too, but these need nothing of Azure and never
    wait for it."""
    return [
        Revoke(existing)
        for desired, active in host_view.out_of_sync_assignments()
        if desired is None
        for existing in active
    ]


def left_on(host_view: HostView, azure: HostIdentities, policy: Policy) -> dict[str, bool]:
    """The identities (keys) on the host that the objects here stood for, nobody needs any more and are never taken off.

    True where MIC put them there: then they are immutable. False: they are somebody else's.
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
    """What to write before Azure is changed. Without an answer from Azure (None) nobody's ownership is decided."""
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
    """What makes one object, and no other, stand for *want*. *names*: those of the objects that are to be created.

    What cannot go on standing for it (an identity that serves only its own namespace now has its objects there) is
    revoked when the new object is there, and not before: the pod is not to be without.
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
    """The one merged change that the host needs now, as far as *restraint* lets it be made."""
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
    """What may be said and let go of, by what is really there. *failures*: why an identity (key) is not."""
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
    """One step for each object, whatever it owes here: each is written as a whole list."""
    paid: dict[Key, tuple[ExistingAssignment, set[PendingDetach]]] = {}
    for key, usage in host_view.usages.items():
        if usage.pending_detaches and _is_detached(key, usage, azure, policy):
            for existing, pending_detach in usage.pending_detaches.values():
                paid.setdefault(existing.key, (existing, set()))[1].add(pending_detach)
    return (CompleteDetaches(existing, frozenset(pending_detaches)) for existing, pending_detaches in paid.values())


def _revocations_of_lost_host(host_view: HostView) -> list[Revoke]:
    """What stands for identities on a host that Azure has lost. The node may live on, but no pod can run there; its
    pods get new objects when the host is back."""
    standing = {existing.key: existing for usage in host_view.usages.values() for existing in usage.active.values()}
    for desired, active in host_view.out_of_sync_assignments():
        if desired is None or desired.identity_id is None:
            for existing in active:
                standing.pop(existing.key, None)  # revoked in any case, or made to stand for what needs no host
        else:
            standing |= {existing.key: existing for existing in active}
    return [Revoke(existing) for existing in standing.values()]


def _attached_by(usage: IdentityUsage | None, azure: HostIdentities | None, policy: Policy) -> AttachedBy:
    """Who put, or will have put, the identity on the host: decided before the first update, from what is there."""
    if usage is None:
        return ""
    if usage.attached_by_mic or policy.adopt_existing:
        return "mic"
    if azure is None or azure.gone:
        return "foreign" if usage.foreign else ""
    return "foreign" if usage.identity_id.key in azure.attached else "mic"


def _keeper(desired: DesiredAssignment, active: tuple[ExistingAssignment, ...]) -> ExistingAssignment | None:
    """Which of the objects goes on standing for *want*: the first that can, names of ours before others."""
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
        # What is owed to the very place where it is wanted again is owed no more.
        here = (host.key, desired.identity_id.key)
        pending_detaches = [
            pending_detach
            for pending_detach in pending_detaches
            if (pending_detach.host.lower(), pending_detach.identity.lower()) != here
        ]
    # A client id that is new is believed only where Azure tells whose it is.
    same_client = client_ids.same(existing.object.spec.azure_identity_ref, desired.identity)
    was_true = stays and same_client and existing.object.status.status == ASSIGNED and azure is None
    status = ASSIGNED if was_true or _present(desired, attached_by, azure) else CREATED
    return Update(existing, desired, status, attached_by, tuple(pending_detaches))


def _present(desired: DesiredAssignment, attached_by: AttachedBy, azure: HostIdentities | None) -> bool:
    """Whether what is wanted needs nothing of Azure, or is known to be there and whose it is."""
    if desired.identity_id is None:
        return True
    if azure is None or client_ids.fault(desired, azure):
        return False
    return bool(attached_by) and azure.certain(desired.identity_id.key)


def _attached_by_updates(
    host_view: HostView, azure: HostIdentities, policy: Policy, recorded: Collection[str]
) -> list[SetAttachedBy]:
    """Records to pass on, so that what MIC put or is about to put on the host never goes without one.

    Needed where somebody took off what was there before us and we put it back, and where the last object that has the
    record goes while others still need the identity. One holder of it is enough.
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
    """Whether the identity goes by an id that must stay, in any object's words or in Azure's own."""
    attached = azure.attached.get(key)
    names = usage.client_ids.keys() | {key} | ({attached.client_id.lower()} if attached else set())
    return not policy.immutable.isdisjoint(names)


def _removable(key: str, usage: IdentityUsage, azure: HostIdentities, policy: Policy) -> bool:
    """Whether nobody is served it any more, MIC put it there, and it may go."""
    terminating = usage.owned_terminating > 0 or (policy.adopt_existing and usage.terminating > 0)
    return usage.needed == 0 and not usage.active and terminating and not _immutable(key, usage, azure, policy)


def _stays(key: str, usage: IdentityUsage, azure: HostIdentities | None, policy: Policy) -> bool | None:
    """Whether a record that goes may go: the identity is off, or stays for good, or another object keeps the record.

    None where that cannot be told without Azure.
    """
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
    """What says Assigned of an identity that somebody has taken off, where Azure does not take it again."""
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
