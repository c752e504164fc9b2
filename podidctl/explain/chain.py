"""From the facts about a pod to the links between it and its token. Pure.

Whether an assigned identity serves is asked of NMI's own `decide`, one at a time, and then of what NMI looks at before
it asks Azure; the words beside it only say why.
"""

from collections.abc import Iterator

import msgspec

from nmi.identity.decide import MIRROR_POD
from nmi.identity.exemptions import MIC
from nmi.identity.pods import own_addresses
from podidctl.explain.accounts import on_account
from podidctl.explain.bound import bound
from podidctl.explain.headline import answer_of
from podidctl.explain.hosts import on_azure, on_node
from podidctl.explain.shapes import Explanation, Link, State, Told, linked
from podidctl.inquiry.decided import Decided
from podidctl.inquiry.facts import Facts, Unread
from podidctl.inquiry.verdict import contest, held, no_address, pod_facts, verdict
from podidctl.printing import plain
from podidentity.resources import Pod


def explain(facts: Facts) -> Explanation:
    """Every link, in order, and what NMI says."""
    links = list(_links(facts))
    events = facts.events
    return Explanation(
        pod=f"{facts.namespace}/{facts.name}",
        answer=answer_of(facts, verdict(facts), links),
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


def _links(facts: Facts) -> Iterator[Link]:
    pod = facts.pod
    yield _pod(facts, pod)
    if pod is None or pod.finished or not pod.spec.node_name:
        return
    yield _address(facts, pod)
    if pod.mirror:
        yield linked("mirror pod", "/".join(pod.key), State.BROKEN, "NMI and MIC ignore it", MIRROR_POD.detail)
        yield from on_node(facts, pod)
        return
    exempt = pod_facts(facts, pod).exempt
    yield _exception(facts, pod, exempt)
    if not exempt:
        yield _label(pod)
        yield from bound(facts, pod)
        yield from on_account(facts, pod)
        yield from on_azure(facts, pod)
    yield from on_node(facts, pod)


def _pod(facts: Facts, pod: Pod | None) -> Link:
    about = f"{facts.namespace}/{facts.name}"
    if pod is None:
        then = f"see kubectl get pods -n {facts.namespace} for how it is called, and name its namespace"
        return linked("pod", about, State.BROKEN, "there is no such pod", then)
    if pod.finished:
        then = "ask about a pod that runs: NMI knows none that has finished, since its address may be another's"
        return linked("pod", about, State.BROKEN, f"it has run to its end ({pod.status.phase})", then)
    if not pod.spec.node_name:
        then = f"see kubectl describe pod -n {facts.namespace} {facts.name} for why no node takes it"
        return linked("pod", about, State.BROKEN, f"it is on no node yet ({pod.status.phase or 'Pending'})", then)
    if pod.terminated:
        then = f"see kubectl describe pod -n {facts.namespace} {facts.name} for why they ended"
        why = "all its containers have terminated, so NMI gives it no tokens until one runs"
        return linked("pod", about, State.BROKEN, why, then)
    ending = ", and is ending" if pod.ending else ""
    return linked("pod", about, State.OK, f"{pod.status.phase or 'Pending'} on node {pod.spec.node_name}{ending}")


def _address(facts: Facts, pod: Pod) -> Link:
    addresses, its = own_addresses(pod), held(facts, pod)
    if pod.sandbox_down and addresses:
        why = "the kubelet reports that the pod's sandbox is not ready, so NMI gives its address no tokens"
        then = f"see kubectl describe pod -n {facts.namespace} {facts.name} for what keeps its sandbox from being ready"
        return linked("address", ", ".join(addresses), State.BROKEN, why, then)
    if its:
        lost = "; ".join(contest(facts, pod, each)[0] for each in addresses if each not in its)
        return linked("address", ", ".join(its), State.OK, "; ".join(filter(None, ("NMI knows the pod by it", lost))))
    why = no_address(facts, pod)
    if pod.spec.host_network:
        then = "take hostNetwork out of the pod's spec; on the host's network it gets the node's own identities"
    elif not addresses:
        then = "wait until the kubelet has set up its network; kubectl describe pod shows what keeps it"
    else:
        _, then = contest(facts, pod, addresses[0])
    return linked("address", ", ".join(addresses) or "none", State.BROKEN, why, then)


def _exception(facts: Facts, pod: Pod, exempt: str) -> Link:
    if exempt == MIC:
        return linked("exception", "MIC", State.OK, "it is one of MIC's own pods: IMDS answers it, as it must")
    if exempt:
        about = exempt.removeprefix("exception ")
        says = "its requests go to IMDS as they are, for the node's own identities"
        if not pod.binding_label:
            return linked("exception", about, State.OK, says)
        then = (
            f"the pod has the label aadpodidbinding={pod.binding_label}, which means nothing while this exception "
            f"matches: take the label that it names off the pod, or narrow AzurePodIdentityException {about}"
        )
        return linked("exception", about, State.BROKEN, f"{says}; no binding counts", then)
    count = len(facts.exceptions)
    says = f"none of {count} in its namespace matches" if count else "there is none in its namespace"
    return linked("exception", "none", State.OK, says)


def _label(pod: Pod) -> Link:
    if pod.binding_label:
        return linked("label", f"aadpodidbinding={pod.binding_label}", State.OK, "bindings select the pod by it")
    then = "label the pod (in its Deployment's template) aadpodidbinding=… with the selector of an AzureIdentityBinding"
    return linked("label", "aadpodidbinding", State.BROKEN, "the pod does not have it, or it is empty", then)
