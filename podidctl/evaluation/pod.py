"""Prediction of NMI's decision about a pod by NMI's own functions, and the pod's bindings and identities. Pure.

The prediction ends before the token fetch: Azure's response is known only after a real request.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nmi.flag_table import OperationMode
from nmi.identity.assigned_identity import AssignedIdentity, project
from nmi.identity.assignments import ASSIGNED_MAX, assigned_order
from nmi.identity.decide import Exempt, Grant, PodFacts, Wait, decide
from nmi.identity.exemptions import Exemptions
from nmi.identity.managed_mode import join
from nmi.identity.pods import facts as pod_facts_of
from nmi.identity.pods import own_addresses
from nmi.identity.request import TokenRequest
from nmi.identity.stopped_pods import wait_if_stopped
from nmi.policies import decision_policy
from nmi.refusal import Refusal
from podidctl.facts.kinds import VariablePod, VariablePodSpec
from podidctl.facts.model import DiagnosisInput
from podidctl.report.documents import Outcome
from podidentity.resources import (
    NODENAME_LABEL,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    IdentityType,
    Pod,
    nodename_label,
)

MANAGEMENT_RESOURCE: Final = "https://management.azure.com/"
ANY_IDENTITY: Final = TokenRequest(MANAGEMENT_RESOURCE)
"""A request that names no identity."""
UNTIL_A_CHANGE: Final = "the same response immediately, until the pod's label, identities or address change"
"""Response to a request for an identity that the pod has not got in the whole time for which NMI holds requests."""


@dataclass(frozen=True, slots=True)
class PredictedDecision:
    """NMI's predicted decision."""

    outcome: Outcome
    assigned: AssignedIdentity | None = None
    """For GRANTED."""
    refusal: Refusal | None = None
    """For REFUSED, and for WAITS after the wait."""
    seconds: float = 0.0
    """For WAITS: how long after the pod's first request NMI holds requests."""
    in_progress: bool = False
    """For WAITS: whether NMI holds requests again after that time, because a change is on its way."""
    why: str = ""
    """For EXEMPT and UNSEEN."""

    @property
    def repeats_immediately(self) -> bool:
        """Whether NMI returns the same response immediately after that time, until something changes for the pod."""
        return self.outcome is Outcome.WAITS and not self.in_progress


def predict_decision(data: DiagnosisInput, request: TokenRequest = ANY_IDENTITY) -> PredictedDecision:
    """Return NMI's decision about the pod's *request*."""
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
        case Wait() as wait:
            return PredictedDecision(
                Outcome.WAITS, refusal=wait.refusal, seconds=wait.seconds, in_progress=wait.in_progress
            )
        case Refusal() as refusal:
            return PredictedDecision(Outcome.REFUSED, refusal=refusal)


def unseen_reason(data: DiagnosisInput) -> str:
    """Return why NMI does not recognize requests of this pod, or an empty string."""
    pod = data.pod
    if pod is None:
        return f"pod {data.name} does not exist in namespace {data.namespace}"
    if not pod.spec.node_name:
        return "it is not scheduled to a node yet"
    if pod.finished:
        return f"it has ended (phase {pod.status.phase})"
    return no_address_reason(data, pod)


def no_address_reason(data: DiagnosisInput, pod: Pod) -> str:
    """Return why NMI does not know the running *pod* by an address, or an empty string."""
    if pod.spec.host_network:
        return "it uses its node's network, so its requests bypass the nat rule and IMDS responds to them"
    if not own_addresses(pod):
        return "it has no address yet"
    return "" if recognized_addresses(data, pod) else address_conflict(data, pod, own_addresses(pod)[0])[0]


def recognized_addresses(data: DiagnosisInput, pod: Pod) -> tuple[str, ...]:
    """Return the addresses by which NMI recognizes *pod*."""
    return tuple(each for each in own_addresses(pod) if _possible_owners(data, pod, each) == [pod])


def address_conflict(data: DiagnosisInput, pod: Pod, address: str) -> tuple[str, str]:
    """Return why *address*, which other pods also have, does not identify the pod, and the next action."""
    names = ["/".join(each.key) for each in _pods_at(data, pod, address) if each is not pod]
    match _possible_owners(data, pod, address):
        case []:
            return (
                f"another pod has its address: {', '.join(names)}, and all of them are terminating",
                "wait until one of them is deleted; if a pod stays Terminating, kubectl describe pod shows the reason",
            )
        case [other]:
            name = "/".join(other.key)
            return (
                f"another pod has its address: {name}; this one is terminating, so the address is the other pod's",
                f"run this command for {name}: this pod gets no tokens any more",
            )
        case _:
            return (
                f"another pod has its address: {', '.join(names)}, and none of them is known to be terminating",
                "delete the pod that is no longer running: NMI serves neither while both have the address",
            )


def _pods_at(data: DiagnosisInput, pod: Pod, address: str) -> list[Pod]:
    return [pod, *(each for each in data.same_address_pods if address in own_addresses(each))]


def _possible_owners(data: DiagnosisInput, pod: Pod, address: str) -> list[Pod]:
    """Return the pods that may own *address*, as NMI decides: ownership changes only when the former pod is terminating
    or has no sandbox.
    """
    claimants = _pods_at(data, pod, address)
    return claimants if len(claimants) == 1 else [each for each in claimants if not (each.ending or each.sandbox_down)]


def pod_facts(data: DiagnosisInput, pod: Pod) -> PodFacts:
    """Return the properties of the pod that NMI's decision depends on, including exceptions."""
    settings = data.configuration.settings
    exemptions = Exemptions(
        lambda _: None, mic_namespace=settings.mic_namespace, namespaces=settings.exception_namespaces
    )
    return pod_facts_of(pod, exemptions.why_given(pod, data.exceptions))


def assignments_of(data: DiagnosisInput, pod: Pod) -> tuple[AssignedIdentity, ...]:
    """Return the pod's assigned identities by NMI's operation mode, in NMI's order and up to its limit."""
    if is_managed(data):
        return tuple(_joined(data, pod))
    watched = (each for each in data.assigned if is_watched(data, pod, each))
    return tuple(project(each) for each in sorted(watched, key=assigned_order)[:ASSIGNED_MAX])


def is_managed(data: DiagnosisInput) -> bool:
    """Return whether NMI runs in managed mode, without MIC."""
    return data.configuration.settings.operation_mode is OperationMode.MANAGED


def is_watched(data: DiagnosisInput, pod: Pod, assigned: AzureAssignedIdentity) -> bool:
    """Return whether the NMI on the pod's node watches *assigned*, which names the pod."""
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


def is_served(data: DiagnosisInput, pod: Pod, assigned: AssignedIdentity) -> bool:
    """Return whether NMI's own rules allow the pod a token of *assigned*."""
    return isinstance(
        decide(pod_facts(data, pod), [assigned], ANY_IDENTITY, decision_policy(data.configuration.settings), {}), Grant
    )


def eligible_bindings(data: DiagnosisInput) -> list[AzureIdentityBinding]:
    """Return the bindings that may select the pod: in managed mode the ones in its namespace, else all."""
    return [each for each in data.bindings if not is_managed(data) or each.metadata.namespace == data.namespace]


def selecting_bindings(data: DiagnosisInput, pod: Pod) -> list[AzureIdentityBinding]:
    """Return the bindings that select the pod's label, sorted by key."""
    label = pod.binding_label
    return sorted(
        (each for each in eligible_bindings(data) if label and each.spec.selector == label), key=lambda one: one.key
    )


def named_identity(data: DiagnosisInput, binding: AzureIdentityBinding) -> AzureIdentity | None:
    """Return the identity that *binding* names, or None if it does not exist."""
    key = (binding.metadata.namespace, binding.spec.azure_identity)
    return next((each for each in data.identities if each.key == key), None)


def bound_identities(data: DiagnosisInput, pod: Pod) -> list[AzureIdentity]:
    """Return the identities that may serve the pod, each once: those of its bindings and those assigned to it."""
    bindings = [each for each in selecting_bindings(data, pod) if not namespace_restriction(data, pod, each)]
    found = [identity for each in bindings if (identity := named_identity(data, each)) is not None]
    if not is_managed(data):
        found += [each.spec.azure_identity_ref for each in data.assigned if is_watched(data, pod, each)]
    return list({each.key: each for each in found}.values())


def namespace_restriction(data: DiagnosisInput, pod: Pod, binding: AzureIdentityBinding) -> str:
    """Return why *binding* serves only pods of its own namespace and not *pod*, or an empty string."""
    if binding.metadata.namespace == pod.metadata.namespace:
        return ""
    if data.configuration.settings.force_namespaced:
        return "NMI runs with --forceNamespaced, so it serves pods of its own namespace only"
    identity = named_identity(data, binding)
    if identity is not None and identity.spec.type == IdentityType.FEDERATED:
        return "it is federated (type 3), and such an identity serves pods of its own namespace only"
    if identity is not None and identity.namespaced:
        return "its annotation Behavior: namespaced lets it serve pods of its own namespace only"
    return ""


CLIENT_ID_VARIABLE: Final = "AZURE_CLIENT_ID"
NAME_ONE: Final = f"let the application name the client id of its identity in each request ({CLIENT_ID_VARIABLE})"
"""Advice for a pod with several identities."""
FOREIGN_ADVICE: Final = (
    "if that is not intended, delete these bindings and see who may create them (podidctl access); --forceNamespaced "
    "makes each binding serve its own namespace only"
)
"""Advice for a pod that bindings of another namespace select."""


def sets_client_id(pod: Pod) -> bool | None:
    """Return whether a container of *pod* sets AZURE_CLIENT_ID.

    None if a ConfigMap or a Secret may set it; False if the variables were not read.
    """
    spec = pod.spec if isinstance(pod, VariablePod) else VariablePodSpec()
    containers = [*(spec.containers or ()), *(spec.init_containers or ())]
    if any(variable.name == CLIENT_ID_VARIABLE for each in containers for variable in each.env or ()):
        return True
    sources = (source for each in containers for source in each.env_from or ())
    return None if any(CLIENT_ID_VARIABLE.startswith(source.prefix) for source in sources) else False
