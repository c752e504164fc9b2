"""What NMI would answer the pod, decided by NMI's own functions on what was read. Pure.

Up to the token itself: what Azure then says to the identity is known only by asking for one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from nmi.flag_table import OperationMode
from nmi.identity.assigned_identity import AssignedIdentity, project
from nmi.identity.decide import Exempt, Grant, PodFacts, Wait, decide
from nmi.identity.exemptions import Exemptions
from nmi.identity.managed_mode import join
from nmi.identity.pods import facts as pod_facts_of
from nmi.identity.pods import own_addresses
from nmi.identity.request import TokenRequest
from nmi.identity.stopped_pods import wait_if_stopped
from nmi.policies import decision_policy
from nmi.refusal import Refusal
from podidctl.diagnosis.input import DiagnosisInput
from podidentity.resources import NODENAME_LABEL, AzureAssignedIdentity, Pod, nodename_label

MANAGEMENT_RESOURCE: Final = "https://management.azure.com/"
ANY_IDENTITY: Final = TokenRequest(MANAGEMENT_RESOURCE)
"""A request that names no identity."""


class Outcome(StrEnum):
    """What becomes of a request."""

    GRANTED = "granted"
    EXEMPT = "exempt"
    """It goes to IMDS as it is, for the node's own identities."""
    WAITS = "waits"
    """It is held, and refused unless something changes meanwhile."""
    REFUSED = "refused"
    UNSEEN = "unseen"
    """No request of this pod gets to NMI as this pod's."""
    UNANSWERED = "unanswered"
    """NMI would say something, but none that works is on the pod's node."""


@dataclass(frozen=True, slots=True)
class PredictedDecision:
    """What NMI says."""

    outcome: Outcome
    assigned: AssignedIdentity | None = None
    """For GRANTED."""
    refusal: Refusal | None = None
    """For REFUSED, and for WAITS at its end."""
    seconds: float = 0.0
    """How long it is held, for WAITS."""
    why: str = ""
    """For EXEMPT and UNSEEN."""


def predict_decision(data: DiagnosisInput, request: TokenRequest = ANY_IDENTITY) -> PredictedDecision:
    """What the pod's *request* comes to."""
    pod = data.pod
    if why := unseen_reason(data):
        return PredictedDecision(Outcome.UNSEEN, why=why)
    assert pod is not None  # noqa: S101 - `unseen_reason` reports a missing pod
    policy = decision_policy(data.configuration.settings)
    match wait_if_stopped(pod, named=False) or decide(
        pod_facts(data, pod), assignments_of(data, pod), request, policy, {}
    ):
        case Grant(assigned):
            return PredictedDecision(Outcome.GRANTED, assigned)
        case Exempt(why):
            return PredictedDecision(Outcome.EXEMPT, why=why)
        case Wait(seconds, refusal):
            return PredictedDecision(Outcome.WAITS, refusal=refusal, seconds=seconds)
        case Refusal() as refusal:
            return PredictedDecision(Outcome.REFUSED, refusal=refusal)


def unseen_reason(data: DiagnosisInput) -> str:
    """Why no request gets to NMI as this pod's, or an empty string."""
    pod = data.pod
    if pod is None:
        return f"there is no pod {data.name} in namespace {data.namespace}"
    if not pod.spec.node_name:
        return "it is on no node yet"
    if pod.finished:
        return f"it has run to its end ({pod.status.phase})"
    return no_address_reason(data, pod)


def no_address_reason(data: DiagnosisInput, pod: Pod) -> str:
    """Why *pod*, which runs, is not known by an address, or an empty string."""
    if pod.spec.host_network:
        return "it is on its node's own network, so its requests never meet the nat rule: IMDS itself answers them"
    if not own_addresses(pod):
        return "it has no address yet"
    return "" if recognized_addresses(data, pod) else address_conflict(data, pod, own_addresses(pod)[0])[0]


def recognized_addresses(data: DiagnosisInput, pod: Pod) -> tuple[str, ...]:
    """The addresses by which NMI knows *pod*."""
    return tuple(each for each in own_addresses(pod) if _possible_owners(data, pod, each) == [pod])


def address_conflict(data: DiagnosisInput, pod: Pod, address: str) -> tuple[str, str]:
    """Why *address*, which others have as well, is not the pod's; and what to do."""
    names = ["/".join(each.key) for each in _pods_at(data, pod, address) if each is not pod]
    match _possible_owners(data, pod, address):
        case []:
            return (
                f"another pod has its address: {', '.join(names)}, and all of them are ending",
                "wait until one of them is gone; if a pod stays Terminating, kubectl describe pod shows what keeps it",
            )
        case [other]:
            name = "/".join(other.key)
            return (
                f"another pod has its address: {name}; this one is ending, so it has passed on",
                f"ask about {name}: this one gets no tokens any more",
            )
        case _:
            return (
                f"another pod has its address: {', '.join(names)}, and none of them is known to be ending",
                "delete the one that is not alive any more: NMI serves neither while both have the address",
            )


def _pods_at(data: DiagnosisInput, pod: Pod, address: str) -> list[Pod]:
    return [pod, *(each for each in data.same_address_pods if address in own_addresses(each))]


def _possible_owners(data: DiagnosisInput, pod: Pod, address: str) -> list[Pod]:
    """Whose it may be, as NMI settles it: an address passes on only when the former pod is ending or has no sandbox."""
    claimants = _pods_at(data, pod, address)
    return claimants if len(claimants) == 1 else [each for each in claimants if not (each.ending or each.sandbox_down)]


def pod_facts(data: DiagnosisInput, pod: Pod) -> PodFacts:
    """What of the pod a decision depends on, exceptions included."""
    settings = data.configuration.settings
    exemptions = Exemptions(
        lambda _: None, mic_namespace=settings.mic_namespace, namespaces=settings.exception_namespaces
    )
    return pod_facts_of(pod, exemptions.why_given(pod, data.exceptions))


def assignments_of(data: DiagnosisInput, pod: Pod) -> tuple[AssignedIdentity, ...]:
    """What may be the pod's by the mode that NMI runs in."""
    if is_managed(data):
        return tuple(_joined(data, pod))
    return tuple(project(each) for each in data.assigned if is_watched(data, pod, each))


def is_managed(data: DiagnosisInput) -> bool:
    """Whether there is no MIC, and bindings alone decide."""
    return data.configuration.settings.operation_mode is OperationMode.MANAGED


def is_watched(data: DiagnosisInput, pod: Pod, assigned: AzureAssignedIdentity) -> bool:
    """Whether the NMI of the pod's node sees *assigned*, which names the pod, at all."""
    node = pod.spec.node_name
    if assigned.spec.nodename not in {"", node}:
        return False
    return not data.configuration.settings.scale_features or assigned.metadata.label(NODENAME_LABEL) == nodename_label(
        node
    )


def _joined(data: DiagnosisInput, pod: Pod) -> Iterator[AssignedIdentity]:
    identities = {each.key: each for each in data.identities}
    for binding in data.bindings:
        identity = identities.get((binding.metadata.namespace, binding.spec.azure_identity))
        if identity is None or binding.metadata.namespace != pod.metadata.namespace:
            continue
        if pod.binding_label and binding.spec.selector == pod.binding_label:
            yield join(binding, identity)
