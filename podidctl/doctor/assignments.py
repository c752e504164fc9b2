"""Checks on what is assigned against what pods want, by MIC's own judgement of that. Pure."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from mic.claims import ClaimKey, Held, Want, wants_of
from podidctl.doctor.objects import by_selector, live
from podidctl.doctor.shapes import Finding, Level, counted, found, listed
from podidctl.doctor.state import Objects
from podidentity.azure.resource_ids import parse_provider_id
from podidentity.resources import ASSIGNED, CREATED, MESSAGE_ANNOTATION, POD_UID_ANNOTATION, Pod

ALIVE = frozenset({"", ASSIGNED, CREATED})


def assignments(
    objects: Objects, exempt: Callable[[Pod], str] = lambda _: "", *, force_namespaced: bool = False
) -> Iterator[Finding]:
    """Identities that pods want and nobody has assigned to them, and assigned ones that are not on their hosts."""
    check = "assignments"
    lacking = list(_lacking(objects, exempt, force_namespaced=force_namespaced))
    created = [
        each for each in objects.assigned if each.status.status == CREATED and not each.metadata.deletion_timestamp
    ]
    for why, whose in lacking:
        says = f"{counted(len(whose), 'identity that a pod wants is', 'identities that pods want are')} not assigned"
        then = "if it lasts for more than a minute, see that MIC runs and leads, podidctl plan, and MIC's log"
        yield found(check, Level.PROBLEM, f"{says} ({why}): {listed(whose)}", then)
    notes = Counter(each.metadata.annotation(MESSAGE_ANNOTATION) for each in created)
    for note, count in notes.most_common():
        names = listed("/".join(each.key) for each in created if each.metadata.annotation(MESSAGE_ANNOTATION) == note)
        says = f"{counted(count, 'identity is', 'identities are')} Created and not Assigned: {names}"
        if note:
            yield found(check, Level.PROBLEM, f"{says}: {note}", note)
        else:
            yield found(check, Level.WARNING, says, "if it lasts for more than a minute, see MIC's log")
    if not created and not lacking:
        served = sum(not each.metadata.deletion_timestamp for each in objects.assigned)
        yield found(check, Level.OK, f"{served} assigned")


def _lacking(
    objects: Objects, exempt: Callable[[Pod], str], *, force_namespaced: bool
) -> Iterator[tuple[str, list[str]]]:
    """Each reason, and the pods with the identities that they lack for it."""
    hosts = {each.metadata.name: parse_provider_id(each.spec.provider_id) for each in objects.nodes}
    identities = {each.key: each for each in objects.identities}
    bindings = by_selector(objects)
    living: defaultdict[ClaimKey, list[Held]] = defaultdict(list)
    for each in objects.assigned:
        if not (held := Held(each)).dying:
            living[held.claim].append(held)
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for pod in live(objects):
        # What NMI does not serve by it, and nodes that MIC cannot tell the host of, are other checks'.
        if pod.spec.host_network or pod.ending or pod.spec.node_name not in hosts or exempt(pod):
            continue
        wants = wants_of(pod, bindings.get(pod.binding_label, ()), identities, force_namespaced=force_namespaced)
        for claim, want in wants.items():
            if want.identity_id is not None and hosts[pod.spec.node_name] is None:
                continue
            if why := _lack(want, living.get(claim, ())):
                reasons[why].append(f"{'/'.join(pod.key)} ({'/'.join(want.identity.key)})")
    yield from sorted(reasons.items())


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
