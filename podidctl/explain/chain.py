"""From the facts about a pod to the links between it and its token. Pure.

Whether an assigned identity serves is asked of NMI's own `decide`, one at a time; the words beside it only say why.
"""

import difflib
from collections.abc import Iterator
from typing import Final

import msgspec

from mic.claims import misconfigured
from nmi.identity.decide import Grant, decide
from nmi.identity.exempting import MIC
from nmi.identity.managed import join
from nmi.identity.pods import own_addresses
from nmi.identity.standard import Assigned, project
from nmi.policies import hold_policy
from nmi.server.responses import refused
from podidctl.explain.hosts import on_azure, on_node
from podidctl.explain.shapes import Answer, Explanation, Link, State, Told
from podidctl.inquiry.decided import Decided
from podidctl.inquiry.facts import Facts, Unread
from podidctl.inquiry.verdict import ANY, Outcome, Verdict, is_managed, no_address, pod_facts, verdict, watched
from podidctl.printing import plain
from podidentity.resources import (
    CREATED,
    MESSAGE_ANNOTATION,
    POD_UID_ANNOTATION,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    Pod,
)
from podidentity.telemetry.logs import redacted

TYPES: Final = {
    0: "user-assigned identity",
    1: "service principal with a secret",
    2: "service principal with a certificate",
}
NEAR_MOST: Final = 3


def explain(facts: Facts) -> Explanation:
    """Every link, in order, and what NMI says."""
    links = list(_links(facts))
    events = facts.events
    return Explanation(
        pod=f"{facts.namespace}/{facts.name}",
        answer=answer_of(facts, verdict(facts)),
        next=next((each.next for each in links if each.state is State.BROKEN), ""),
        links=links,
        events=[
            Told(
                at=each.at,
                by=plain(each.source.component),
                type=plain(each.type),
                reason=plain(each.reason),
                message=plain(each.message),
                count=each.count or 1,
            )
            for each in (() if isinstance(events, Unread) else events)
        ],
        events_unread=plain(events.why) if isinstance(events, Unread) else "",
        decided=[] if isinstance(facts.decided, Unread) else [_plain(each) for each in facts.decided],
        decided_unread=plain(facts.decided.why) if isinstance(facts.decided, Unread) else "",
        rules=plain(facts.rules.whose),
    )


def _plain(each: Decided) -> Decided:
    return msgspec.structs.replace(
        each,
        outcome=plain(each.outcome),
        identity=plain(each.identity),
        resource=plain(each.resource),
        error=plain(each.error),
    )


def answer_of(facts: Facts, said: Verdict) -> Answer:
    """*said* in words."""
    if said.assigned is not None:
        identity = said.assigned.identity
        return Answer(
            outcome=said.outcome,
            says=plain(f"NMI asks Azure for a token of AzureIdentity {'/'.join(identity.key)}"),
            identity="/".join(identity.key),
        )
    if said.refusal is not None:
        told = refused(said.refusal, set_retry_after=facts.rules.settings.set_retry_after_header)
        held = f"held for {said.seconds:g} s, then " if said.outcome is Outcome.WAITS else ""
        return Answer(
            outcome=said.outcome, says=plain(f"{held}{told.status}: {said.refusal.sentence}"), status=told.status
        )
    if said.outcome is Outcome.EXEMPT:
        return Answer(outcome=said.outcome, says=plain(f"IMDS answers, for the node's own identities ({said.why})"))
    return Answer(outcome=said.outcome, says=plain(f"NMI does not know the pod: {said.why}"))


def _link(link: str, about: str, state: State, says: str, then: str = "") -> Link:
    return Link(link=link, about=plain(about), state=state, says=plain(says), next=plain(then))


def _links(facts: Facts) -> Iterator[Link]:
    pod = facts.pod
    yield _pod(facts, pod)
    if pod is None or pod.finished or not pod.spec.node_name:
        return
    yield _address(facts, pod)
    exempt = pod_facts(facts, pod).exempt
    yield _exception(facts, pod, exempt)
    if not exempt:
        yield _label(pod)
        yield from _bound(facts, pod)
        yield from on_azure(facts, pod, _link)
    yield from on_node(facts, pod, _link)


def _pod(facts: Facts, pod: Pod | None) -> Link:
    about = f"{facts.namespace}/{facts.name}"
    if pod is None:
        then = f"see kubectl get pods -n {facts.namespace} for how it is called, and name its namespace"
        return _link("pod", about, State.BROKEN, "there is no such pod", then)
    if pod.finished:
        then = "ask about a pod that runs: NMI knows none that has finished, since its address may be another's"
        return _link("pod", about, State.BROKEN, f"it has run to its end ({pod.status.phase})", then)
    if not pod.spec.node_name:
        then = f"see kubectl describe pod -n {facts.namespace} {facts.name} for why no node takes it"
        return _link("pod", about, State.BROKEN, f"it is on no node yet ({pod.status.phase or 'Pending'})", then)
    ending = ", and is ending" if pod.ending else ""
    return _link("pod", about, State.OK, f"{pod.status.phase or 'Pending'} on node {pod.spec.node_name}{ending}")


def _address(facts: Facts, pod: Pod) -> Link:
    why = no_address(facts, pod)
    addresses = ", ".join(own_addresses(pod))
    if not why:
        return _link("address", addresses, State.OK, "NMI knows the pod by it")
    if pod.spec.host_network:
        then = "take hostNetwork out of the pod's spec; on the host's network it gets the node's own identities"
    elif not addresses:
        then = "wait until the kubelet has set up its network; kubectl describe pod shows what keeps it"
    else:
        then = "delete the one that is not alive any more: NMI serves neither while both have the address"
    return _link("address", addresses or "none", State.BROKEN, why, then)


def _exception(facts: Facts, pod: Pod, exempt: str) -> Link:
    if exempt == MIC:
        return _link("exception", "MIC", State.OK, "it is one of MIC's own pods: IMDS answers it, as it must")
    if exempt:
        about = exempt.removeprefix("exception ")
        says = "its requests go to IMDS as they are, for the node's own identities"
        if not pod.binding_label:
            return _link("exception", about, State.OK, says)
        then = (
            f"the pod has the label aadpodidbinding={pod.binding_label}, which means nothing while this exception "
            f"matches: take the label that it names off the pod, or narrow AzurePodIdentityException {about}"
        )
        return _link("exception", about, State.BROKEN, f"{says}; no binding counts", then)
    count = len(facts.exceptions)
    says = f"none of {count} in its namespace matches" if count else "there is none in its namespace"
    return _link("exception", "none", State.OK, says)


def _label(pod: Pod) -> Link:
    if pod.binding_label:
        return _link("label", f"aadpodidbinding={pod.binding_label}", State.OK, "bindings select the pod by it")
    then = "label the pod (in its Deployment's template) aadpodidbinding=… with the selector of an AzureIdentityBinding"
    return _link("label", "aadpodidbinding", State.BROKEN, "the pod does not have it, or it is empty", then)


def _bound(facts: Facts, pod: Pod) -> Iterator[Link]:
    """Bindings, the identity of each, and what MIC has made of the two."""
    label = pod.binding_label
    there = [each for each in facts.bindings if not is_managed(facts) or each.metadata.namespace == facts.namespace]
    bindings = sorted((each for each in there if label and each.spec.selector == label), key=lambda each: each.key)
    if label and not bindings:
        yield _no_binding(facts, there, label)
    identities = {each.key: each for each in facts.identities}
    seen: set[tuple[str, str]] = set()
    for binding in bindings:
        key = (binding.metadata.namespace, binding.spec.azure_identity)
        identity = identities.get(key)
        yield _binding(binding)
        if key in seen:
            continue
        yield _identity(facts, pod, binding, identity)
        if identity is not None and is_managed(facts):
            yield _served(facts, pod, "/".join(binding.key), join(binding, identity), well="bound, in one namespace")
        elif identity is not None and _usable(facts, pod, identity):
            seen.add(key)
            yield _made(facts, pod, identity)
    for each in facts.assigned if not is_managed(facts) else ():
        if each.spec.azure_identity_ref.key not in seen:
            yield _left_over(facts, pod, each)


def _no_binding(facts: Facts, there: list[AzureIdentityBinding], label: str) -> Link:
    selectors = {each.spec.selector: each for each in there if each.spec.selector}
    folded = {text.strip().lower(): text for text in selectors}
    close = difflib.get_close_matches(label.lower(), folded, n=NEAR_MOST, cutoff=0.7)
    near = [f"{'/'.join(selectors[folded[text]].key)} selects {folded[text]!r}" for text in close]
    where = f"of namespace {facts.namespace} (managed mode) " if is_managed(facts) else ""
    says = f"no AzureIdentityBinding {where}has selector {label!r}"
    if near:
        then = f"set spec.selector of the binding, or the pod's label, so that both are the same: {'; '.join(near)}"
        return _link("binding", "none", State.BROKEN, f"{says}; {'; '.join(near)}", then)
    then = f"create an AzureIdentityBinding with spec.selector {label!r} in the namespace of the AzureIdentity"
    return _link("binding", "none", State.BROKEN, says, then)


def _binding(binding: AzureIdentityBinding) -> Link:
    about = "/".join(binding.key)
    if binding.metadata.deletion_timestamp is not None:
        then = "wait until it is gone and create it again: a binding that is being deleted gives nothing"
        return _link("binding", about, State.BROKEN, "it is being deleted", then)
    return _link("binding", about, State.OK, f"its selector is the pod's label; it names {binding.spec.azure_identity}")


def _identity(facts: Facts, pod: Pod, binding: AzureIdentityBinding, identity: AzureIdentity | None) -> Link:
    namespace, name = binding.metadata.namespace, binding.spec.azure_identity
    about = f"{namespace}/{name}"
    if identity is None:
        elsewhere = sorted(each.metadata.namespace for each in facts.identities if each.metadata.name == name)
        found = f"; there is one of that name in {', '.join(elsewhere[:NEAR_MOST])}" if elsewhere else ""
        then = (
            f"create AzureIdentity {name} in namespace {namespace}, or correct spec.azureIdentity of binding "
            f"{'/'.join(binding.key)}; a binding finds identities of its own namespace only"
        )
        return _link("identity", about, State.BROKEN, f"there is no such AzureIdentity{found}", then)
    if identity.metadata.deletion_timestamp is not None:
        return _link(
            "identity", about, State.BROKEN, "it is being deleted", "wait until it is gone and create it again"
        )
    if not is_managed(facts) and (why := misconfigured(identity)):
        return _link("identity", about, State.BROKEN, why, f"correct AzureIdentity {about}: kubectl edit it")
    if why := _elsewhere(facts, pod, identity):
        return _link("identity", about, State.BROKEN, why, "move the AzureIdentity and its binding, or the pod")
    spec = identity.spec
    kind = TYPES.get(spec.type, "unknown type")
    client = f", client id {redacted(spec.client_id)}" if spec.client_id else ""
    return _link("identity", about, State.OK, f"{kind} (type {spec.type}){client}")


def _elsewhere(facts: Facts, pod: Pod, identity: AzureIdentity) -> str:
    if identity.metadata.namespace == pod.metadata.namespace:
        return ""
    if facts.rules.settings.force_namespaced:
        return "NMI runs with --forceNamespaced, so it serves pods of its own namespace only"
    return (
        "its annotation Behavior: namespaced lets it serve pods of its own namespace only"
        if identity.namespaced
        else ""
    )


def _usable(facts: Facts, pod: Pod, identity: AzureIdentity) -> bool:
    """Whether MIC makes anything of it."""
    return not misconfigured(identity) and not _elsewhere(facts, pod, identity)


def _made(facts: Facts, pod: Pod, identity: AzureIdentity) -> Link:
    """The AzureAssignedIdentity of the pod and *identity*: the one that serves, where there are several."""
    links = [_assigned(facts, pod, each) for each in facts.assigned if each.spec.azure_identity_ref.key == identity.key]
    if links:
        return next((each for each in links if each.state is State.OK), links[0])
    says = "MIC has made none for this pod and identity"
    then = "see that MIC runs and leads (podidctl doctor), what it would do (podidctl plan), and its log"
    return _link("assigned identity", f"for {'/'.join(identity.key)}", State.BROKEN, says, then)


def _left_over(facts: Facts, pod: Pod, each: AzureAssignedIdentity) -> Link:
    link = _assigned(facts, pod, each)
    if link.state is State.OK:
        says = f"{link.says}; no binding gives it to the pod any more, so MIC is to take it away"
        return _link(link.link, link.about, State.UNKNOWN, says, "see that MIC runs and leads (podidctl doctor)")
    return link


def _assigned(facts: Facts, pod: Pod, each: AzureAssignedIdentity) -> Link:
    about, node = "/".join(each.key), pod.spec.node_name
    if not watched(facts, pod, each):
        says = f"it is for node {each.spec.nodename or '(none)'}, and its label nodename has to say {node}"
        then = "MIC moves it when it next works on the pod; if that does not come, see MIC's log"
        return _link("assigned identity", about, State.BROKEN, says, then)
    return _served(facts, pod, about, project(each), well=f"Assigned, on node {node}", note=_note(each, pod))


def _served(facts: Facts, pod: Pod, about: str, assigned: Assigned, *, well: str, note: str = "") -> Link:
    """Whether NMI serves the pod by *assigned*: `decide` says so."""
    decision = decide(pod_facts(facts, pod), [assigned], ANY, hold_policy(facts.rules.settings), {})
    link = "assigned identity" if not is_managed(facts) else "served"
    if isinstance(decision, Grant):
        return _link(link, about, State.OK, well)
    says, then = _why_not(pod, assigned, note)
    return _link(link, about, State.BROKEN, says, then)


def _why_not(pod: Pod, assigned: Assigned, note: str) -> tuple[str, str]:
    log = "see MIC's log, and kubectl describe on it"
    if assigned.deleting:
        return "it is being removed, and is served no more", log
    if assigned.pod_uid not in {"", pod.metadata.uid}:
        return "it was made for an earlier pod of this name, whose rights this one does not inherit", (
            "MIC renews it when it next works on the pod; if that does not come, see MIC's log"
        )
    if assigned.selector != pod.binding_label:
        return f"it was made by a binding that selects {assigned.selector!r}, which is not the pod's label", (
            "MIC renews or removes it; if that does not come, see MIC's log"
        )
    if assigned.status == CREATED:
        return f"Created: the identity is not on the VM or scale set yet{note and ': ' + note}", (
            note or "Azure takes up to a minute; then see MIC's log and podidctl plan"
        )
    if not assigned.usable:
        return f"its status is {assigned.status!r}{note and ': ' + note}", note or log
    return "the identity serves its own namespace only", "move the AzureIdentity and its binding, or the pod"


def _note(each: AzureAssignedIdentity, pod: Pod) -> str:
    """What MIC wrote on it, where that is about this pod."""
    uid = each.metadata.annotation(POD_UID_ANNOTATION)
    return each.metadata.annotation(MESSAGE_ANNOTATION) if uid in {"", pod.metadata.uid} else ""
