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
from mic.decisions.assignments import Debt, Held, Key, Record, Want, unchanged
from mic.decisions.documents import MESSAGE_MAX, distinct_name, free_name, plain_name
from mic.decisions.identity_usage import Picture, Stake
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
    on_trial: Collection[str] = ()
    """To be tried when nothing else is: Azure has refused them before, and nobody else's update is to fail again."""
    warm: Collection[str] = ()
    """Not to be taken off: the grace since they were needed last goes on."""
    most: int = MOST_IN_ONE_UPDATE
    """How many one update may name: fewer while it is not known whom Azure refuses."""


UNRESTRAINED: Final = Restraint()


@dataclass(frozen=True, slots=True)
class Create:
    """Write a new object for *want*."""

    want: Want
    name: str
    status: str
    record: Record


@dataclass(frozen=True, slots=True)
class Update:
    """Make *held* stand for *want* in place."""

    held: Held
    want: Want
    status: str
    record: Record
    debts: tuple[Debt, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """Write down who put the identity on the host."""

    held: Held
    record: Record


@dataclass(frozen=True, slots=True)
class Revoke:
    """Delete *held*: NMI stops serving it at once, our finalizer keeps the object until the host is clean."""

    held: Held


@dataclass(frozen=True, slots=True)
class Confirm:
    """The identity is there: status Assigned."""

    held: Held


@dataclass(frozen=True, slots=True)
class Explain:
    """Say on *held* why it is still, or again, Created."""

    held: Held
    message: str
    identity_at_fault: bool = False
    """Whether its AzureIdentity has to be corrected, so that people are told there too."""


@dataclass(frozen=True, slots=True)
class Release:
    """Status Unassigned and the finalizer off: the object goes."""

    held: Held


@dataclass(frozen=True, slots=True)
class Settle:
    """*debts* are paid: take them off the object's list."""

    held: Held
    debts: frozenset[Debt]

    @property
    def left(self) -> tuple[Debt, ...]:
        """What is owed still."""
        return tuple(debt for debt in self.held.debts if debt not in self.debts)


Before: TypeAlias = Create | Update | Mark | Revoke
After: TypeAlias = Confirm | Explain | Release | Settle


OnFault: TypeAlias = Callable[[Key, Exception], None]
"""Called with the namespace and name of a pod or an object for which no step could be planned, and the exception. The
other steps of the host are planned all the same."""


def raised(_about: Key, error: Exception) -> None:
    """An `OnFault` for callers that know of no better one."""
    raise error


def asks_azure(
    picture: Picture, known: HostIdentities | None, policy: Policy, restraint: Restraint = UNRESTRAINED
) -> bool:
    """Whether this round needs a fresh look at Azure, *known* being the last one of this process, if any.

    Whose an identity without any record is, is always asked anew: where nothing of the cluster was on the host, the
    last look may be old.
    """
    if picture.host is None:
        return False
    if known is None:
        return bool(picture.stakes)
    if known.updating and _waits(picture, known):
        return True
    return any(_questionable(key, stake, known, policy, restraint) for key, stake in picture.stakes.items())


def _waits(picture: Picture, known: HostIdentities) -> bool:
    """Whether anything here may be said or let go of only when an operation has ended."""
    owed = any(stake.debtors for stake in picture.stakes.values())
    waiting = (
        want is None or (want.identity_id is not None and not client_ids.fault(want, known))
        for want, _ in picture.open_claims()
    )
    return owed or bool(picture.dying) or any(waiting)


def _questionable(key: str, stake: Stake, known: HostIdentities, policy: Policy, restraint: Restraint) -> bool:
    if key in restraint.quarantined:
        return False
    there = key in known.attached
    if stake.wanted > 0:
        decided = stake.claimed_by_mic or stake.foreign > 0
        return not (there and decided)
    return there and key not in restraint.warm and (_ours(stake, policy) or stake.undecided > 0)


def idle(picture: Picture) -> list[str]:
    """The identities (keys) that nobody here is served any more: for these a grace is counted."""
    return [key for key, stake in picture.stakes.items() if stake.wanted == 0 and not stake.holders]


def independent(picture: Picture, policy: Policy, on_fault: OnFault = raised) -> list[Before]:
    """What is to be written for pods whose identities no host has to have: service principals and federated ones. Part
    of `prepare` too, but it needs nothing of Azure and never waits for it."""
    steps: list[Before] = []
    names: set[Key] = set()
    for want, living in picture.open_claims():
        if want is not None and want.identity_id is None:
            try:
                steps.extend(_objects_for(picture, want, living, None, policy, names=names))
            except Exception as error:  # noqa: BLE001 - one object must not keep others from their identities
                on_fault(want.pod.key, error)
    return steps


def revocations(picture: Picture) -> list[Revoke]:
    """The objects that stand for nothing any more. Part of `prepare` too, but these need nothing of Azure and never
    wait for it."""
    return [Revoke(held) for want, living in picture.open_claims() if want is None for held in living]


def left_on(picture: Picture, azure: HostIdentities, policy: Policy) -> dict[str, bool]:
    """The identities (keys) on the host that the objects here stood for, nobody needs any more and are never taken off.

    True where MIC put them there: then they are immutable. False: they are somebody else's.
    """
    return {
        key: _ours(stake, policy)
        for key, stake in picture.stakes.items()
        if stake.wanted == 0
        and not stake.holders
        and key in azure.attached
        and not _removable(key, stake, azure, policy)
    }


def prepare(picture: Picture, azure: HostIdentities | None, policy: Policy, on_fault: OnFault = raised) -> list[Before]:
    """What to write before Azure is changed. Without an answer from Azure (None) nobody's ownership is decided."""
    steps: list[Before] = []
    marked: set[str] = set()
    names: set[Key] = set()
    if picture.host is None:
        azure = GONE
    steps.extend(revocations(picture))
    lost = picture.host is not None and azure is not None and azure.gone
    if lost:
        steps.extend(_forsaken(picture))
    for want, living in picture.open_claims():
        if want is None or (lost and want.identity_id is not None):
            continue
        try:
            planned = [*_objects_for(picture, want, living, azure, policy, names=names)]
        except Exception as error:  # noqa: BLE001 - as in `independent`
            on_fault(want.pod.key, error)
            continue
        for step in planned:
            steps.append(step)
            if not isinstance(step, Revoke) and step.record == "mic" and want.identity_id:
                marked.add(want.identity_id.key)
    if azure is not None and not azure.gone:
        steps.extend(_marks(picture, azure, policy, marked))
    return steps


def _objects_for(
    picture: Picture,
    want: Want,
    living: tuple[Held, ...],
    azure: HostIdentities | None,
    policy: Policy,
    *,
    names: set[Key],
) -> Iterator[Before]:
    """What makes one object, and no other, stand for *want*. *names*: those of the objects that are to be created.

    What cannot go on standing for it (an identity that serves only its own namespace now has its objects there) is
    revoked when the new object is there, and not before: the pod is not to be without.
    """
    stake = picture.stakes.get(want.identity_id.key) if want.identity_id else None
    record = _record(stake, azure, policy)
    keeper = _keeper(want, living)
    if keeper is None and (creation := _creation(picture, want, record, azure, names)) is not None:
        yield creation
        return
    yield from (Revoke(held) for held in living if held is not keeper)
    if keeper is None:
        return
    if not unchanged(want, keeper):
        yield _update(picture, want, keeper, azure, policy)
    elif want.identity_id is not None and keeper.record == "" and record:
        yield Mark(keeper, record)


def azure_change(
    picture: Picture, azure: HostIdentities, policy: Policy, restraint: Restraint = UNRESTRAINED
) -> Change | None:
    """The one merged change that the host needs now, as far as *restraint* lets it be made."""
    if picture.host is None or azure.gone:
        return None
    adds: list[str] = []
    removes: list[str] = []
    for key, stake in sorted(picture.stakes.items()):
        if key in restraint.quarantined:
            continue
        if stake.wanted > 0:
            if key not in azure.attached and stake.owned > 0:
                adds.append(stake.identity_id.text)
        elif key in azure.attached and key not in restraint.warm and _removable(key, stake, azure, policy):
            removes.append(key)
    untried = [[text for text in each if text.lower() not in restraint.on_trial] for each in (adds, removes)]
    adds, removes = untried if any(untried) else (adds, removes)
    return change(azure, adds, removes, most=restraint.most)


def settle(
    picture: Picture,
    azure: HostIdentities | None,
    policy: Policy,
    failures: Mapping[str, str] | None = None,
    on_fault: OnFault = raised,
) -> list[After]:
    """What may be said and let go of, by what is really there. *failures*: why an identity (key) is not."""
    failures = failures or {}
    if picture.host is None:
        azure = GONE
    steps: list[After] = []
    for want, living in picture.open_claims():
        if want is None or len(living) != 1:
            continue
        try:
            step = _outcome(want, living[0], azure, failures) if unchanged(want, living[0]) else None
        except Exception as error:  # noqa: BLE001 - as in `independent`
            on_fault(want.pod.key, error)
            continue
        if step is not None:
            steps.append(step)
    steps.extend(_withdrawals(picture, azure, failures))
    if azure is not None:
        steps.extend(Explain(held, why, identity_at_fault=True) for held, why in client_ids.faulty(picture, azure))
    for held in picture.dying.values():
        try:
            if _releasable(held, picture, azure, policy):
                steps.append(Release(held))
        except Exception as error:  # noqa: BLE001 - as in `independent`
            on_fault(held.key, error)
    steps.extend(_settlements(picture, azure, policy))
    return steps


def _settlements(picture: Picture, azure: HostIdentities | None, policy: Policy) -> Iterator[Settle]:
    """One step for each object, whatever it owes here: each is written as a whole list."""
    paid: dict[Key, tuple[Held, set[Debt]]] = {}
    for key, stake in picture.stakes.items():
        if stake.debtors and _paid(key, stake, azure, policy):
            for held, debt in stake.debtors.values():
                paid.setdefault(held.key, (held, set()))[1].add(debt)
    return (Settle(held, frozenset(debts)) for held, debts in paid.values())


def _forsaken(picture: Picture) -> list[Revoke]:
    """What stands for identities on a host that Azure has lost. The node may live on, but no pod can run there; its
    pods get new objects when the host is back."""
    standing = {held.key: held for stake in picture.stakes.values() for held in stake.holders.values()}
    for want, living in picture.open_claims():
        if want is None or want.identity_id is None:
            for held in living:
                standing.pop(held.key, None)  # revoked in any case, or made to stand for what needs no host
        else:
            standing |= {held.key: held for held in living}
    return [Revoke(held) for held in standing.values()]


def _record(stake: Stake | None, azure: HostIdentities | None, policy: Policy) -> Record:
    """Who put, or will have put, the identity on the host: decided before the first update, from what is there."""
    if stake is None:
        return ""
    if stake.claimed_by_mic or policy.adopt_existing:
        return "mic"
    if azure is None or azure.gone:
        return "foreign" if stake.foreign else ""
    return "foreign" if stake.identity_id.key in azure.attached else "mic"


def _keeper(want: Want, living: tuple[Held, ...]) -> Held | None:
    """Which of the objects goes on standing for *want*: the first that can, names of ours before others."""
    names = (plain_name(want.claim), distinct_name(want.claim))
    usable = [held for held in living if held.object.metadata.namespace == want.namespace]
    return min(usable, key=lambda held: (held.key[1] not in names, held.key), default=None)


def _creation(
    picture: Picture, want: Want, record: Record, azure: HostIdentities | None, names: set[Key]
) -> Create | None:
    if azure is not None and azure.gone and want.identity_id is not None:
        return None
    name = free_name(want, lambda key: key in names or picture.taken(key, want))
    names.add((want.namespace, name))
    return Create(want, name, ASSIGNED if _present(want, record, azure) else CREATED, record)


def _update(picture: Picture, want: Want, held: Held, azure: HostIdentities | None, policy: Policy) -> Update:
    host = picture.host
    stays = (
        want.identity_id is not None
        and held.identity_id is not None
        and want.identity_id.key == held.identity_id.key
        and picture.holds(held)
    )
    stake = picture.stakes.get(want.identity_id.key) if want.identity_id else None
    record = (held.record if stays else "") or _record(stake, azure, policy)
    debts = list(held.debts)
    if not stays and (held.record == "mic" or policy.adopt_existing):
        debts.extend(debt for debt in picture.debts_of(held) if debt not in debts)
    if host is not None and want.identity_id is not None:
        # What is owed to the very place where it is wanted again is owed no more.
        here = (host.key, want.identity_id.key)
        debts = [debt for debt in debts if (debt.host.lower(), debt.identity.lower()) != here]
    # A client id that is new is believed only where Azure tells whose it is.
    same_client = client_ids.same(held.object.spec.azure_identity_ref, want.identity)
    was_true = stays and same_client and held.object.status.status == ASSIGNED and azure is None
    status = ASSIGNED if was_true or _present(want, record, azure) else CREATED
    return Update(held, want, status, record, tuple(debts))


def _present(want: Want, record: Record, azure: HostIdentities | None) -> bool:
    """Whether what is wanted needs nothing of Azure, or is known to be there and whose it is."""
    if want.identity_id is None:
        return True
    if azure is None or client_ids.fault(want, azure):
        return False
    return bool(record) and azure.certain(want.identity_id.key)


def _marks(picture: Picture, azure: HostIdentities, policy: Policy, marked: Collection[str]) -> list[Mark]:
    """Records to pass on, so that what MIC put or is about to put on the host never goes without one.

    Needed where somebody took off what was there before us and we put it back, and where the last object that has the
    record goes while others still need the identity. One holder of it is enough.
    """
    marks = []
    for key, stake in picture.stakes.items():
        if stake.wanted == 0 or stake.owned > 0 or key in marked or not stake.holders:
            continue
        if stake.owned_leaving > 0 or key not in azure.attached or policy.adopt_existing:
            marks.append(Mark(next(iter(stake.holders.values())), "mic"))
    return marks


def _ours(stake: Stake, policy: Policy) -> bool:
    return stake.claimed_by_mic or (policy.adopt_existing and bool(stake.holders or stake.leaving))


def _immutable(key: str, stake: Stake, azure: HostIdentities, policy: Policy) -> bool:
    """Whether the identity goes by an id that must stay, in any object's words or in Azure's own."""
    attached = azure.attached.get(key)
    names = stake.client_ids.keys() | {key} | ({attached.client_id.lower()} if attached else set())
    return not policy.immutable.isdisjoint(names)


def _removable(key: str, stake: Stake, azure: HostIdentities, policy: Policy) -> bool:
    """Whether nobody is served it any more, MIC put it there, and it may go."""
    leaving = stake.owned_leaving > 0 or (policy.adopt_existing and stake.leaving > 0)
    return stake.wanted == 0 and not stake.holders and leaving and not _immutable(key, stake, azure, policy)


def _stays(key: str, stake: Stake, azure: HostIdentities | None, policy: Policy) -> bool | None:
    """Whether a record that goes may go: the identity is off, or stays for good, or another object keeps the record.

    None where that cannot be told without Azure.
    """
    if stake.owned > 0:
        return True
    if azure is None:
        return None
    if stake.wanted == 0 and _immutable(key, stake, azure, policy):
        return True
    return azure.gone or (key not in azure.attached and not azure.updating)


def _releasable(held: Held, picture: Picture, azure: HostIdentities | None, policy: Policy) -> bool:
    if held.debts or FINALIZER not in (held.object.metadata.finalizers or ()):
        return False
    if held.identity_id is None or picture.host is None:
        return True
    if held.record != "mic" and not policy.adopt_existing:
        return True
    stake = picture.stakes.get(held.identity_id.key)
    return stake is None or _stays(held.identity_id.key, stake, azure, policy) is True


def _withdrawals(picture: Picture, azure: HostIdentities | None, failures: Mapping[str, str]) -> Iterator[Explain]:
    """What says Assigned of an identity that somebody has taken off, where Azure does not take it again."""
    if azure is None or azure.gone or azure.updating:
        return
    for key, why in failures.items():
        stake = picture.stakes.get(key)
        if stake is not None and stake.wanted > 0 and key not in azure.attached:
            assigned = (held for held in stake.holders.values() if held.object.status.status == ASSIGNED)
            yield from (Explain(held, why[:MESSAGE_MAX]) for held in assigned)


def _paid(key: str, stake: Stake, azure: HostIdentities | None, policy: Policy) -> bool:
    return _stays(key, stake, azure, policy) is True


def _outcome(
    want: Want, held: Held, azure: HostIdentities | None, failures: Mapping[str, str]
) -> Confirm | Explain | None:
    if held.object.status.status != ASSIGNED and _present(want, held.record, azure):
        return Confirm(held)
    if want.identity_id is None or held.object.status.status == ASSIGNED:
        return None
    fault = client_ids.fault(want, azure)
    why = fault or failures.get(want.identity_id.key, "")[:MESSAGE_MAX]
    if not why or client_ids.tells(held, why):
        return None
    return Explain(held, why, identity_at_fault=bool(fault))
