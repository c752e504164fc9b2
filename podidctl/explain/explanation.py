"""From a diagnosis input to the links between the pod and its token. Pure.

NMI's own `decide` and NMI's checks before a request to Azure decide whether an assigned identity is served. This
package only adds the explanation.
"""

from collections.abc import Iterator
from typing import Final

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
from podidctl.diagnosis.identity_permissions import manifest_for
from podidctl.diagnosis.input import DiagnosisInput, ReadFailure, readable
from podidctl.diagnosis.nmi_availability import unsupported_node
from podidctl.diagnosis.nmi_log import LoggedDecision
from podidctl.diagnosis.service_accounts import federated_identities
from podidctl.diagnosis.similar_texts import similar_texts
from podidctl.explain.answer import make_answer
from podidctl.explain.bindings import binding_links, choice_links
from podidctl.explain.hosts import azure_links, nmi_links
from podidctl.explain.identity_permission import permission_links
from podidctl.explain.ignored_fields import correct, ignored_in_namespace, why_ignored
from podidctl.explain.schema import EventReport, Explanation, Link, LinkState, make_link
from podidctl.explain.service_account import service_account_links
from podidctl.explain.token import secret_links, token_links
from podidentity.report import plain
from podidentity.resources import BINDING_LABEL, EXCEPTIONS, Pod

DECISIONS_SHOWN: Final = 3


def explain(data: DiagnosisInput) -> Explanation:
    """Return every link, in order, and NMI's predicted response."""
    links = list(_links(data))
    events = data.events
    decisions = readable(data.decisions)
    return Explanation(
        pod=f"{data.namespace}/{data.name}",
        answer=make_answer(data, predict_decision(data), links),
        next=next((each.next for each in links if each.state is LinkState.BROKEN), ""),
        links=links,
        events=[
            EventReport(
                at=each.at,
                by=plain(each.component),
                type=plain(each.type),
                reason=plain(each.reason),
                message=plain(each.message),
                count=each.times,
            )
            for each in readable(events)
        ],
        events_unread=plain(events.why) if isinstance(events, ReadFailure) else "",
        decided=[_plain_decision(each) for each in decisions[:DECISIONS_SHOWN]],
        decided_unread=plain(data.decisions.why) if isinstance(data.decisions, ReadFailure) else "",
        rules=plain(data.configuration.source),
        manifest=manifest_for(data, federated_identities(data, data.pod)) if data.pod is not None else "",
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
    if unsupported_node(data) is not None:
        yield from nmi_links(data, pod)  # the other links are NMI's, and change nothing
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
        yield from choice_links(data, pod)
        yield from secret_links(data, pod)
        yield from service_account_links(data, pod)
        yield from permission_links(data, pod)
        yield from azure_links(data, pod)
    yield from nmi_links(data, pod)
    yield from token_links(data)


def _pod(data: DiagnosisInput, pod: Pod | None) -> Link:
    about = f"{data.namespace}/{data.name}"
    if pod is None:
        then = f"check the name with kubectl get pods -n {data.namespace}, and pass the pod's namespace"
        return make_link("pod", about, LinkState.BROKEN, "this pod does not exist", then)
    if pod.finished:
        then = "choose a running pod: NMI does not serve ended pods, because another pod may have their address"
        return make_link("pod", about, LinkState.BROKEN, f"it has ended (phase {pod.status.phase})", then)
    if not pod.spec.node_name:
        then = f"see kubectl describe pod -n {data.namespace} {data.name} for the reason why it is not scheduled"
        return make_link(
            "pod", about, LinkState.BROKEN, f"it is not scheduled to a node yet ({pod.status.phase or 'Pending'})", then
        )
    if pod.terminated:
        then = f"see kubectl describe pod -n {data.namespace} {data.name} for the reason why they ended"
        why = "all its containers have terminated, so NMI gives it no tokens until one runs"
        return make_link("pod", about, LinkState.BROKEN, why, then)
    ending = ", and is terminating" if pod.ending else ""
    return make_link(
        "pod", about, LinkState.OK, f"{pod.status.phase or 'Pending'} on node {pod.spec.node_name}{ending}"
    )


def _address(data: DiagnosisInput, pod: Pod) -> Link:
    addresses, its = own_addresses(pod), recognized_addresses(data, pod)
    if pod.sandbox_down and addresses:
        why = "the kubelet reports that the pod's sandbox is not ready, so NMI gives its address no tokens"
        then = f"see kubectl describe pod -n {data.namespace} {data.name} for the reason why its sandbox is not ready"
        return make_link("address", ", ".join(addresses), LinkState.BROKEN, why, then)
    if its:
        lost = "; ".join(address_conflict(data, pod, each)[0] for each in addresses if each not in its)
        return make_link(
            "address", ", ".join(its), LinkState.OK, "; ".join(filter(None, ("NMI recognizes the pod by it", lost)))
        )
    why = no_address_reason(data, pod)
    if pod.spec.host_network:
        then = "remove hostNetwork from the pod's spec; on the host's network it gets the node's own identities"
    elif not addresses:
        then = "wait until the kubelet has set up its network; kubectl describe pod shows the progress"
    else:
        _, then = address_conflict(data, pod, addresses[0])
    return make_link("address", ", ".join(addresses) or "none", LinkState.BROKEN, why, then)


def _exception(data: DiagnosisInput, pod: Pod, exempt: str) -> Link:
    if exempt == MIC:
        return make_link("exception", "MIC", LinkState.OK, "it is one of MIC's own pods, so IMDS must respond to it")
    if exempt:
        about = exempt.removeprefix("exception ")
        says = "NMI forwards its requests to IMDS, for the node's own identities"
        if not pod.binding_label:
            return make_link("exception", about, LinkState.OK, says)
        then = (
            f"the pod has the label aadpodidbinding={pod.binding_label}, which has no effect while this exception "
            f"matches: remove the exception's label from the pod, or narrow AzurePodIdentityException {about}"
        )
        return make_link("exception", about, LinkState.BROKEN, f"{says}; bindings have no effect", then)
    count = len(data.exceptions)
    says = f"none of {count} in its namespace matches" if count else "its namespace has none"
    if ignored := ignored_in_namespace(data, EXCEPTIONS):
        state, then = LinkState.OK, ""
        if not pod.binding_label:  # it may need such an exception
            state, then = LinkState.UNKNOWN, correct("the exception that is to match this pod")
        return make_link("exception", "none", state, f"{says}; {why_ignored(ignored)}", then)
    return make_link("exception", "none", LinkState.OK, says)


def _label(pod: Pod) -> Link:
    if pod.binding_label:
        return make_link("label", f"aadpodidbinding={pod.binding_label}", LinkState.OK, "bindings select the pod by it")
    says = "the pod does not have this label, or its value is empty"
    if near := similar_texts(BINDING_LABEL, pod.metadata.labels or {}):
        then = f"rename the pod's label {near[0]!r} (in its Deployment's template) to {BINDING_LABEL}"
        return make_link("label", BINDING_LABEL, LinkState.BROKEN, f"{says}; it has {near[0]!r}", then)
    then = "label the pod (in its Deployment's template) aadpodidbinding=… with the selector of an AzureIdentityBinding"
    return make_link("label", BINDING_LABEL, LinkState.BROKEN, says, then)
