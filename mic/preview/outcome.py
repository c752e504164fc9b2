"""From what Azure answered and what the rehearsal did to the values that are shown. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from mic.azure.identities import HostIdentities
from mic.cluster.host_state import Place
from mic.cluster.view import NODE_PREFIX
from mic.decisions import client_ids, plan
from mic.decisions.assignments import Held, Key, Want, settled
from mic.preview.dry_run import Course, Rehearsal, Snapshot, Step, key_of
from mic.preview.left_out import bound, left_out
from mic.preview.schema import VERBS, HostPreview, Kept, ObjectChange, Preview, Summary, Waiting, cut, verb_of
from podidentity.azure.errors import AzureError, Refused, Throttled
from podidentity.resources import FINALIZER, MESSAGE_ANNOTATION, POD_UID_ANNOTATION, BareMeta

STEP_NAMES: Final[Mapping[type, str]] = {
    plan.Create: "create",
    plan.Update: "update",
    plan.Mark: "record",
    plan.Revoke: "revoke",
    plan.Confirm: "assign",
    plan.Explain: "explain",
    plan.Settle: "settle",
    plan.Release: "release",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What Azure was asked, and what it said."""

    answers: Mapping[str, HostIdentities | AzureError] | None
    """By the host's key; None where Azure was not asked at all."""
    own_identity: str = ""
    """The cluster's own identity, by its client id or resource id, to name it as the reason why it stays."""

    def identities(self, key: str) -> HostIdentities | None:
        """What is on the host, where Azure told."""
        told = (self.answers or {}).get(key)
        return told if isinstance(told, HostIdentities) else None

    def problem(self, key: str) -> str:
        """Why Azure did not tell; empty where it did or was not asked."""
        told = (self.answers or {}).get(key)
        if not isinstance(told, AzureError):
            return ""
        status = " ".join(filter(None, (str(told.status or ""), told.code)))
        match told:
            case Refused():
                advice = "check MIC's credentials in the cloud config, and its role there"
            case Throttled():
                advice = "try again later"
            case _:
                advice = ""
        return cut(": ".join(filter(None, (advice, status, told.message))))


def preview(snapshot: Snapshot, rehearsal: Rehearsal, asked: Asked, settings: Mapping[str, str]) -> Preview:
    """Run *rehearsal*, a new one of *snapshot*, and tell what came of it. Raises NoRestError."""
    view = rehearsal.view
    stored = {each.key: Held(each) for each in snapshot.assigned}
    standing = {key: view.place_of(held) for key, held in stored.items()}
    places = {place.key: _Before(place) for place in view.places()}
    rehearsal.run({key: known for key in places if (known := asked.identities(key)) is not None})
    touched = {key_of(step) for course in rehearsal.courses.values() for step in course.steps}
    fine = {key for key, held in stored.items() if key not in touched and _settled(rehearsal, held)}
    fine_at = Counter(standing[key] for key in fine)
    hosts = []
    for key, before in sorted(places.items()):
        course = rehearsal.courses.get(key, Course())
        after = rehearsal.azure.get(key)
        now = asked.identities(key) or HostIdentities()
        hosts.append(
            HostPreview(
                host=before.name,
                nodes=before.nodes,
                problem=asked.problem(key),
                add=sorted(each.text for lower, each in (after or now).attached.items() if lower not in now.attached),
                remove=sorted(
                    each.text for lower, each in now.attached.items() if after and lower not in after.attached
                ),
                type=now.type,
                new_type=(after or now).type,
                updates=len(course.changes),
                objects=_objects(course.steps, rehearsal, stored),
                kept=sorted(_kept(course, before, now, asked), key=lambda each: each.identity),
                waiting=sorted(_waiting(view.place(key), after), key=lambda each: (each.pod, each.identity)),
                as_it_should_be=fine_at[key],
            )
        )
    return Preview(
        settings=dict(settings),
        asked_azure=asked.answers is not None,
        summary=_summary(hosts, snapshot, {(stored[key].claim.pod_namespace, stored[key].claim.pod) for key in fine}),
        hosts=[host for host in hosts if host.notable or host.as_it_should_be],
        left_out=left_out(snapshot, force_namespaced=rehearsal.force_namespaced),
    )


class _Before:
    """What is to be known of a place that the rounds may change."""

    def __init__(self, place: Place) -> None:
        self.name = place.host.text if place.host is not None else place.key
        self.nodes = sorted(place.nodes)
        self.client_ids = {key: set(stake.client_ids) for key, stake in place.stakes.items()}


def _settled(rehearsal: Rehearsal, held: Held) -> bool:
    claim = rehearsal.view.claim(held.claim)
    return claim is not None and claim.want is not None and settled(claim.want, claim.living.values())


def _objects(steps: Iterable[Step], rehearsal: Rehearsal, stored: Mapping[Key, Held]) -> list[ObjectChange]:
    by_object: dict[Key, list[Step]] = {}
    for step in steps:
        by_object.setdefault(key_of(step), []).append(step)
    changes = []
    for key, taken in sorted(by_object.items()):
        first, before, after = taken[0], stored.get(key), rehearsal.view.held(key)
        claim = first.want.claim if isinstance(first, plan.Create) else first.held.claim
        want = next((step.want for step in reversed(taken) if isinstance(step, plan.Create | plan.Update)), None)
        changes.append(
            ObjectChange(
                namespace=key[0],
                name=key[1],
                pod=f"{claim.pod_namespace}/{claim.pod}",
                identity=f"{claim.identity_namespace}/{claim.identity}",
                node=want.node if want else before.node if before else "",
                steps=[STEP_NAMES[type(step)] for step in taken],
                was=before.object.status.status if before else "",
                becomes=after.object.status.status if after else "",
                detail=_detail(taken),
            )
        )
    return changes


def _detail(steps: Iterable[Step]) -> str:
    for step in steps:
        match step:
            case plan.Update(held, want):
                return "; ".join(_differences(held, want)) or "its copies of the identity and the binding are renewed"
            case plan.Explain(message=message):
                return cut(message)
            case plan.Confirm(held) if message := held.object.metadata.annotation(MESSAGE_ANNOTATION):
                return cut(f"until now: {message}")
    return ""


def _differences(held: Held, want: Want) -> Iterator[str]:
    if held.node != want.node:
        yield f"node {held.node} → {want.node}"
    before, now = held.identity_id, want.identity_id
    if before and now and before.key != now.key:
        yield f"identity {before.text} → {now.text}"
    if held.object.metadata.annotation(POD_UID_ANNOTATION) not in {"", want.pod.metadata.uid}:
        yield "another pod of that name"
    if held.object.spec.azure_binding_ref.key != want.binding.key:
        yield f"binding {held.object.spec.azure_binding_ref.metadata.name} → {want.binding.metadata.name}"


def _kept(course: Course, before: _Before, now: HostIdentities, asked: Asked) -> Iterator[Kept]:
    for key, ours in course.left_on.items():
        attached = now.attached.get(key)
        text = attached.text if attached else key
        if not ours:
            why = "it was on the host before MIC; --adopt-existing would have MIC take it off"
        else:
            names = before.client_ids.get(key, set()) | ({attached.client_id.lower()} if attached else set())
            own = asked.own_identity.lower()
            why = "it is the cluster's own identity" if own in names | {key} else "--immutable-user-msis names it"
        yield Kept(identity=text, why=why)


def _waiting(place: Place, known: HostIdentities | None) -> Iterator[Waiting]:
    """What is still open after the last round, and why."""
    unknown = "it is not known what is on the host"
    for want, _ in place.open_claims():
        if want is None:
            continue
        if known is None and want.identity_id is not None:
            why = unknown
        elif fault := client_ids.fault(want, known):
            why = cut(fault)
        elif known is not None and known.gone and place.host is not None:
            why = f"Azure knows no {place.host.text}: check the node's providerID and MIC's rights there"
        else:
            why = "an object of its name is still there, held by a finalizer that is not MIC's"
        yield _wait(want.pod.metadata, want.identity.metadata, why)
    for held in place.dying.values():
        if FINALIZER in (held.object.metadata.finalizers or ()):
            spec = held.object.spec
            pod = BareMeta(namespace=spec.pod_namespace, name=spec.pod)
            why = f"revoked, and goes when its identity is off its host, of which {unknown}"
            yield _wait(pod, spec.azure_identity_ref.metadata, why)


def _wait(pod: BareMeta, identity: BareMeta, why: str) -> Waiting:
    return Waiting(pod=f"{pod.namespace}/{pod.name}", identity=f"{identity.namespace}/{identity.name}", why=why)


def _summary(hosts: Iterable[HostPreview], snapshot: Snapshot, fine: set[Key]) -> Summary:
    hosts = list(hosts)
    unfinished = {each.pod for host in hosts for each in host.objects}
    unfinished |= {each.pod for host in hosts for each in host.waiting}
    kinds = {(each.namespace, each.name, verb_of(each)) for host in hosts for each in host.objects}
    return Summary(
        objects={verb: sum(each[2] == verb for each in kinds) for verb in VERBS},
        identities_added=sum(len(host.add) for host in hosts),
        identities_removed=sum(len(host.remove) for host in hosts),
        hosts_changed=sum(host.updates > 0 for host in hosts),
        hosts=sum(not host.host.startswith(NODE_PREFIX) for host in hosts),
        updates=sum(host.updates for host in hosts),
        pods=sum(1 for _ in bound(snapshot)),
        pods_as_they_should_be=sum(f"{namespace}/{name}" not in unfinished for namespace, name in fine),
    )
