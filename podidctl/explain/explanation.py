"""From the facts about a pod to the links between it and its token. Pure.

Whether an assigned identity serves is asked of NMI's own `decide`, one at a time, and then of what NMI looks at before
it asks Azure; the words beside it only say why.
"""

from collections.abc import Iterator

import msgspec

from nmi.identity.decide import MIRROR_POD
from nmi.identity.exemptions import MIC
from nmi.identity.pods import own_addresses
from podidctl.diagnosis.decision import (
    address_conflict,
    no_address_reason,
    pod_facts,
    predict_decision,
    recognized_addresses,
)
from podidctl.diagnosis.input import DiagnosisInput, ReadFailure
from podidctl.diagnosis.nmi_log import LoggedDecision
from podidctl.explain.answer import make_answer
from podidctl.explain.bindings import binding_links
from podidctl.explain.hosts import azure_links, nmi_links
from podidctl.explain.schema import EventReport, Explanation, Link, LinkState, make_link
from podidctl.explain.service_account import service_account_links
from podidctl.printing import plain
from podidentity.resources import Pod


def explain(data: DiagnosisInput) -> Explanation:
    """Every link, in order, and what NMI says."""
    links = list(_links(data))
    events = data.events
    return Explanation(
        pod=f"{data.namespace}/{data.name}",
        answer=make_answer(data, predict_decision(data), links),
        next=next((each.next for each in links if each.state is LinkState.BROKEN), ""),
        links=links,
        events=[
            EventReport(
                at=each.at,
                by=plain(each.source.component),
                type=plain(each.type),
                reason=plain(each.reason),
                message=plain(each.message),
                count=each.count or 1,
            )
            for each in (() if isinstance(events, ReadFailure) else events)
        ],
        events_unread=plain(events.why) if isinstance(events, ReadFailure) else "",
        decided=[] if isinstance(data.decisions, ReadFailure) else [_plain_decision(each) for each in data.decisions],
        decided_unread=plain(data.decisions.why) if isinstance(data.decisions, ReadFailure) else "",
        rules=plain(data.configuration.source),
    )


def _plain_decision(each: LoggedDecision) -> LoggedDecision:
    return msgspec.structs.replace(
        each,
        outcome=plain(each.outcome),
        identity=plain(each.identity),
        resource=plain(each.resource),
        error=plain(each.error),
    )


def _links(data: DiagnosisInput) -> Iterator[Link]:
    pod = data.pod
    yield _pod(data, pod)
    if pod is None or pod.finished or not pod.spec.node_name:
        return
    yield _address(data, pod)
    if pod.mirror:
        yield make_link("mirror pod", "/".join(pod.key), LinkState.BROKEN, "NMI and MIC ignore it", MIRROR_POD.detail)
        yield from nmi_links(data, pod)
        return
    exempt = pod_facts(data, pod).exempt
    yield _exception(data, pod, exempt)
    if not exempt:
        yield _label(pod)
        yield from binding_links(data, pod)
        yield from service_account_links(data, pod)
        yield from azure_links(data, pod)
    yield from nmi_links(data, pod)


def _pod(data: DiagnosisInput, pod: Pod | None) -> Link:
    about = f"{data.namespace}/{data.name}"
    if pod is None:
        then = f"see kubectl get pods -n {data.namespace} for how it is called, and name its namespace"
        return make_link("pod", about, LinkState.BROKEN, "there is no such pod", then)
    if pod.finished:
        then = "ask about a pod that runs: NMI knows none that has finished, since its address may be another's"
        return make_link("pod", about, LinkState.BROKEN, f"it has run to its end ({pod.status.phase})", then)
    if not pod.spec.node_name:
        then = f"see kubectl describe pod -n {data.namespace} {data.name} for why no node takes it"
        return make_link(
            "pod", about, LinkState.BROKEN, f"it is on no node yet ({pod.status.phase or 'Pending'})", then
        )
    if pod.terminated:
        then = f"see kubectl describe pod -n {data.namespace} {data.name} for why they ended"
        why = "all its containers have terminated, so NMI gives it no tokens until one runs"
        return make_link("pod", about, LinkState.BROKEN, why, then)
    ending = ", and is ending" if pod.ending else ""
    return make_link(
        "pod", about, LinkState.OK, f"{pod.status.phase or 'Pending'} on node {pod.spec.node_name}{ending}"
    )


def _address(data: DiagnosisInput, pod: Pod) -> Link:
    addresses, its = own_addresses(pod), recognized_addresses(data, pod)
    if pod.sandbox_down and addresses:
        why = "the kubelet reports that the pod's sandbox is not ready, so NMI gives its address no tokens"
        then = f"see kubectl describe pod -n {data.namespace} {data.name} for what keeps its sandbox from being ready"
        return make_link("address", ", ".join(addresses), LinkState.BROKEN, why, then)
    if its:
        lost = "; ".join(address_conflict(data, pod, each)[0] for each in addresses if each not in its)
        return make_link(
            "address", ", ".join(its), LinkState.OK, "; ".join(filter(None, ("NMI knows the pod by it", lost)))
        )
    why = no_address_reason(data, pod)
    if pod.spec.host_network:
        then = "take hostNetwork out of the pod's spec; on the host's network it gets the node's own identities"
    elif not addresses:
        then = "wait until the kubelet has set up its network; kubectl describe pod shows what keeps it"
    else:
        _, then = address_conflict(data, pod, addresses[0])
    return make_link("address", ", ".join(addresses) or "none", LinkState.BROKEN, why, then)


def _exception(data: DiagnosisInput, pod: Pod, exempt: str) -> Link:
    if exempt == MIC:
        return make_link("exception", "MIC", LinkState.OK, "it is one of MIC's own pods: IMDS answers it, as it must")
    if exempt:
        about = exempt.removeprefix("exception ")
        says = "its requests go to IMDS as they are, for the node's own identities"
        if not pod.binding_label:
            return make_link("exception", about, LinkState.OK, says)
        then = (
            f"the pod has the label aadpodidbinding={pod.binding_label}, which means nothing while this exception "
            f"matches: take the label that it names off the pod, or narrow AzurePodIdentityException {about}"
        )
        return make_link("exception", about, LinkState.BROKEN, f"{says}; no binding counts", then)
    count = len(data.exceptions)
    says = f"none of {count} in its namespace matches" if count else "there is none in its namespace"
    return make_link("exception", "none", LinkState.OK, says)


def _label(pod: Pod) -> Link:
    if pod.binding_label:
        return make_link("label", f"aadpodidbinding={pod.binding_label}", LinkState.OK, "bindings select the pod by it")
    then = "label the pod (in its Deployment's template) aadpodidbinding=… with the selector of an AzureIdentityBinding"
    return make_link("label", "aadpodidbinding", LinkState.BROKEN, "the pod does not have it, or it is empty", then)
