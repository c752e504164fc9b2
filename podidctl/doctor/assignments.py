"""Checks on what is assigned against what pods want, by MIC's own judgement of that. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

from mic.cluster.bindings import indexed
from mic.decisions.assignments import ClaimKey, Held, Want
from podidctl.doctor.objects import live
from podidctl.doctor.shapes import Finding, Level, counted, found, listed
from podidctl.doctor.state import Objects, Which
from podidentity.azure.resource_ids import parse_provider_id
from podidentity.resources import (
    ASSIGNED,
    ASSIGNED_IDENTITIES,
    BINDINGS,
    CREATED,
    IDENTITIES,
    MESSAGE_ANNOTATION,
    POD_UID_ANNOTATION,
    PODS,
    Pod,
)

ALIVE = frozenset({"", ASSIGNED, CREATED})
GRACE_SECONDS: Final = 120.0
"""Azure takes up to a minute for an update of a VM or scale set, and one that is under way has to end before."""


def assignments(
    objects: Objects, now: datetime, exempt: Callable[[Pod], str] = lambda _: "", *, force_namespaced: bool = False
) -> Iterator[Finding]:
    """Identities that pods want and nobody has assigned to them, and assigned ones that are not on their hosts."""
    check = "assignments"
    lacking: defaultdict[str, list[str]] = defaultdict(list)
    fresh: list[str] = []
    for why, want in _lacking(objects, exempt, force_namespaced=force_namespaced):
        name = f"{'/'.join(want.pod.key)} ({'/'.join(want.identity.key)})"
        (fresh if _is_young(objects, now, _parts(want)) else lacking[why]).append(name)
    created, waiting = _created(objects, now)
    fresh += waiting
    for why, whose in sorted(lacking.items()):
        says = f"{counted(len(whose), 'identity that a pod wants is', 'identities that pods want are')} not assigned"
        then = "MIC has had its time: see that it runs and leads, podidctl plan, and MIC's log"
        yield found(check, Level.PROBLEM, f"{says} ({why}): {listed(whose)}", then)
    for note, keys in sorted(created.items(), key=lambda each: -len(each[1])):
        says = f"{counted(len(keys), 'identity is', 'identities are')} Created and not Assigned: {listed(keys)}"
        if note:
            yield found(check, Level.PROBLEM, f"{says}: {note}", note)
        else:
            yield found(check, Level.WARNING, says, "MIC has had its time: see its log, and podidctl plan")
    if fresh:
        says = f"{counted(len(fresh), 'identity is', 'identities are')} still in progress: {listed(fresh)}"
        then = f"ask again: what pod, binding and identity are there for since {GRACE_SECONDS:g} s should be Assigned"
        yield found(check, Level.OK, says, then)
    if not created and not lacking:
        living = [each for each in objects.assigned if not each.metadata.deletion_timestamp]
        yield found(check, Level.OK, f"{sum(each.status.status != CREATED for each in living)} assigned")


def _created(objects: Objects, now: datetime) -> tuple[dict[str, list[str]], list[str]]:
    """What stays Created, by what MIC says of it; and what is so young that MIC, which says nothing, is still at it."""
    late: defaultdict[str, list[str]] = defaultdict(list)
    fresh: list[str] = []
    for each in objects.assigned:
        if each.status.status != CREATED or each.metadata.deletion_timestamp:
            continue
        note, spec = each.metadata.annotation(MESSAGE_ANNOTATION), each.spec
        parts = [
            Which(ASSIGNED_IDENTITIES.plural, *each.key),
            Which(PODS.plural, spec.pod_namespace, spec.pod),
            Which(BINDINGS.plural, *spec.azure_binding_ref.key),
            Which(IDENTITIES.plural, *spec.azure_identity_ref.key),
        ]
        (fresh if not note and _is_young(objects, now, parts) else late[note]).append("/".join(each.key))
    return late, fresh


def _parts(want: Want) -> list[Which]:
    """What has to be there before MIC can do anything for it."""
    return [
        Which(PODS.plural, *want.pod.key),
        Which(BINDINGS.plural, *want.binding.key),
        Which(IDENTITIES.plural, *want.identity.key),
    ]


def _is_young(objects: Objects, now: datetime, parts: Iterable[Which]) -> bool:
    ages = ((now - objects.made[each]).total_seconds() for each in parts if each in objects.made)
    return any(abs(age) < GRACE_SECONDS for age in ages)  # a clock may be behind, but not by years


def _lacking(objects: Objects, exempt: Callable[[Pod], str], *, force_namespaced: bool) -> Iterator[tuple[str, Want]]:
    """What pods lack of what they want, and why."""
    hosts = {each.metadata.name: parse_provider_id(each.spec.provider_id) for each in objects.nodes}
    living: defaultdict[ClaimKey, list[Held]] = defaultdict(list)
    for each in objects.assigned:
        if not (held := Held(each)).dying:
            living[held.claim].append(held)
    standing = (held for several in living.values() for held in several)
    index = indexed(objects.identities, objects.bindings, standing, force_namespaced=force_namespaced)
    for pod in live(objects):
        # What NMI does not serve by it, and nodes that MIC cannot tell the host of, are other checks'.
        if pod.spec.host_network or pod.ending or pod.spec.node_name not in hosts or exempt(pod):
            continue
        for claim, want in index.wants(pod).items():
            if want.identity_id is not None and hosts[pod.spec.node_name] is None:
                continue
            if why := _lack(want, living.get(claim, ())):
                yield why, want


def _lack(want: Want, living: Sequence[Held]) -> str:
    """Why none of those that stand for *want* is the pod's; what is Created is told by itself."""
    faults = [_fault(want, each) for each in living]
    return "" if "" in faults else next(iter(faults), "there is no AzureAssignedIdentity")


def _fault(want: Want, held: Held) -> str:
    if held.object.status.status not in ALIVE:
        return f"its AzureAssignedIdentity is {held.object.status.status}"
    if held.object.metadata.annotation(POD_UID_ANNOTATION) not in {"", want.pod.metadata.uid}:
        return "its AzureAssignedIdentity is for an earlier pod of that name"
    return "" if held.node in {"", want.node} else "its AzureAssignedIdentity is for another node"
