"""A pod with what follows from the facts by NMI's own functions: its identities, and NMI's decision. Pure.

The prediction ends before the token fetch: Azure's response is known only after a real request.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice
from typing import Final, NamedTuple

from mic.azure.identities import HostIdentities
from mic.decisions.assignments import misconfigured
from nmi.choices import OperationMode
from nmi.identity.assigned_identity import AssignedIdentity, project
from nmi.identity.assignments import ASSIGNED_MAX, assigned_order
from nmi.identity.decide import Exempt, Grant, PodFacts, Wait, decide, wait_if_stopped
from nmi.identity.exemptions import Exemptions
from nmi.identity.managed_mode import BINDINGS_MAX, join
from nmi.identity.pods import facts as pod_facts_of
from nmi.identity.pods import own_addresses
from nmi.identity.request import TokenRequest
from nmi.policies import decision_policy
from nmi.refusal import Refusal
from nmi.settings import NmiSettings
from podidctl.facts.kinds import (
    Daemon,
    DatedPod,
    PlacedNode,
    VariablePod,
    VariablePodSpec,
)
from podidctl.facts.model import (
    Facts,
    IdentityKey,
    NmiConfiguration,
    ObjectReference,
    ReadFailure,
    SecretCheck,
    readable,
)
from podidctl.facts.settings import configuration_of, on_node
from podidctl.report.documents import Outcome
from podidctl.report.text import grouped
from podidentity.azure.errors import AzureError
from podidentity.azure.resource_ids import Host, parse_provider_id
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDINGS,
    IDENTITIES,
    NODENAME_LABEL,
    POD_UID_ANNOTATION,
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
CLIENT_ID_VARIABLE: Final = "AZURE_CLIENT_ID"
NAME_ONE: Final = f"let the application name the client id of its identity in each request ({CLIENT_ID_VARIABLE})"
"""Advice for a pod with several identities."""
FOREIGN_ADVICE: Final = (
    "if that is not intended, delete these bindings and see who may create them (podidctl access); --forceNamespaced "
    "makes each binding serve its own namespace only"
)
"""Advice for a pod that bindings of another namespace select."""


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
    reason: str = ""
    """For EXEMPT and UNSEEN."""

    @property
    def repeats_immediately(self) -> bool:
        """Whether NMI returns the same response immediately after that time, until something changes for the pod."""
        return self.outcome is Outcome.WAITS and not self.in_progress


class Candidate(NamedTuple):
    """A binding that selects the pod, with its identity."""

    binding: AzureIdentityBinding
    identity: AzureIdentity | None
    """None if it does not exist."""
    restriction: str
    """Why the binding serves only pods of its own namespace and not this one, or an empty string."""


class PodCase:
    """A pod, and the values that the checks derive from the facts about it."""

    def __init__(self, facts: Facts, pod: Pod) -> None:
        self.facts = facts
        self.pod = pod
        self.namespace = pod.metadata.namespace

    @cached_property
    def configuration(self) -> NmiConfiguration:
        """The configuration of the NMI on the pod's node."""
        return configuration_for(self.facts)

    @property
    def settings(self) -> NmiSettings:
        """The settings in it."""
        return self.configuration.settings

    @property
    def managed(self) -> bool:
        """Whether NMI runs in managed mode, without MIC."""
        return self.settings.operation_mode is OperationMode.MANAGED

    @property
    def node(self) -> PlacedNode | ReadFailure | None:
        """The pod's node; None if it does not exist or the pod has none."""
        # A node that could not be read must not count as a deleted one.
        return self.facts.unread.get("nodes") or next(iter(self.facts.nodes), None)

    @property
    def host(self) -> Host | None:
        """The VM or scale set of the node, if it is known."""
        return host_of(self.node)

    @property
    def azure(self) -> HostIdentities | AzureError | None:
        """Azure's response about the host; None if the command does not read Azure."""
        responses = self.facts.azure.responses if self.facts.azure is not None else {}
        return responses.get(self.host.key) if self.host is not None else None

    @property
    def credentials(self) -> Mapping[IdentityKey, SecretCheck]:
        """Checks of the Secrets of the pod's service principals (types 1 and 2)."""
        return self.facts.credentials if not isinstance(self.facts.credentials, ReadFailure) else {}

    @property
    def nmi(self) -> Sequence[Daemon]:
        """NMI's pods on the pod's node; none if they could not be read."""
        return on_node(self.facts.nmi, self.pod.spec.node_name)

    @property
    def nmi_elsewhere(self) -> Sequence[Daemon]:
        """NMI's pods of other nodes, and those that are not scheduled yet. Read only if this node has none."""
        return [daemon for daemon in readable(self.facts.nmi) if daemon.spec.node_name != self.pod.spec.node_name]

    @cached_property
    def addresses(self) -> tuple[str, ...]:
        """The addresses by which NMI recognizes the pod."""
        return tuple(address for address in own_addresses(self.pod) if self._possible_owners(address) == [self.pod])

    @property
    def unseen(self) -> str:
        """Why NMI does not recognize requests of this pod, or an empty string."""
        if not self.pod.spec.node_name:
            return "it is not scheduled to a node yet"
        if self.pod.finished:
            return f"it has ended (phase {self.pod.status.phase})"
        return self.no_address

    @property
    def no_address(self) -> str:
        """Why NMI does not know the running pod by an address, or an empty string."""
        if self.pod.spec.host_network:
            return "it uses its node's network, so its requests bypass the nat rule and IMDS responds to them"
        if not own_addresses(self.pod):
            return "it has no address yet"
        return "" if self.addresses else self.address_conflict(own_addresses(self.pod)[0])[0]

    def address_conflict(self, address: str) -> tuple[str, str]:
        """Return why *address*, which other pods also have, does not identify the pod, and the next action."""
        names = ["/".join(pod.key) for pod in self._pods_at(address) if pod is not self.pod]
        match self._possible_owners(address):
            case []:
                return (
                    f"another pod has its address: {', '.join(names)}, and all of them are terminating",
                    (
                        "wait until one of them is deleted; if a pod stays Terminating, kubectl describe pod shows the "
                        "reason"
                    ),
                )
            case [owner]:
                name = "/".join(owner.key)
                return (
                    f"another pod has its address: {name}; this one is terminating, so the address is the other pod's",
                    f"run this command for {name}: this pod gets no tokens any more",
                )
            case _:
                return (
                    f"another pod has its address: {', '.join(names)}, and none of them is known to be terminating",
                    "delete the pod that is no longer running: NMI serves neither while both have the address",
                )

    def _pods_at(self, address: str) -> list[Pod]:
        others = (pod for pod in self.facts.pods if pod.key != self.pod.key)
        return [self.pod, *(pod for pod in others if address in own_addresses(pod))]

    def _possible_owners(self, address: str) -> list[Pod]:
        """Return the pods that may own *address*, as NMI decides: ownership changes only when the former pod is
        terminating or has no sandbox.
        """
        claimants = self._pods_at(address)
        # NMI serves a terminating pod too, as long as no other pod has its address.
        if len(claimants) == 1:
            return claimants
        return [claimant for claimant in claimants if not (claimant.ending or claimant.sandbox_down)]

    @cached_property
    def nmi_facts(self) -> PodFacts:
        """The properties of the pod that NMI's decision depends on, including exceptions."""
        return pod_facts_of(self.pod, exemptions_of(self.settings).reason_given(self.pod, self.facts.exceptions))

    @property
    def exempt(self) -> str:
        """Why NMI leaves the pod to IMDS (`MIC`, `exception namespace/name`), or an empty string."""
        return self.nmi_facts.exempt

    @cached_property
    def eligible_bindings(self) -> Sequence[AzureIdentityBinding]:
        """The bindings that may select the pod: in managed mode the ones in its namespace, else all."""
        return [
            binding
            for binding in self.facts.bindings
            if not self.managed or binding.metadata.namespace == self.namespace
        ]

    @cached_property
    def candidates(self) -> Sequence[Candidate]:
        """The bindings that select the pod's label, sorted by key."""
        label = self.pod.binding_label
        selecting = [binding for binding in self.eligible_bindings if label and binding.spec.selector == label]
        return [
            Candidate(binding, self._named_identity(binding), self.restriction(binding))
            for binding in sorted(selecting, key=lambda binding: binding.key)
        ]

    def depends_on(self, key: IdentityKey) -> bool:
        """Return whether a fault of this AzureIdentity may be the reason for which the pod gets no token. That of
        another namespace is not if the pod has another one: any tenant can create bindings that select others' pods.
        """
        return key[0] == self.namespace or key in self._needed_elsewhere or "/".join(key) in self._requested

    @cached_property
    def usable(self) -> Collection[IdentityKey]:
        """The keys of the identities of `bound` that MIC accepts."""
        return {identity.key for identity in self.bound if not misconfigured(identity)}

    @cached_property
    def _needed_elsewhere(self) -> Collection[IdentityKey]:
        if self.decision.assigned is not None:
            return {self.decision.assigned.identity.key}
        if any(namespace == self.namespace for namespace, _ in self.bindings_of):
            return ()
        # An identity that MIC rejects is no reason for a missing token while another one can serve the pod.
        return self.usable or {*self.bindings_of, *(identity.key for identity in self.identities)}

    @cached_property
    def _requested(self) -> Collection[str]:
        """The identities (`namespace/name`) that NMI's log names for the pod."""
        return {decision.identity for decision in readable(self.facts.decisions)}

    @cached_property
    def bindings_of(self) -> Mapping[IdentityKey, Sequence[AzureIdentityBinding]]:
        """The bindings that select the pod, by the keys of the identities that they name."""
        bindings = (candidate.binding for candidate in self.candidates)
        return grouped(((its.metadata.namespace, its.spec.azure_identity), its) for its in bindings)

    @cached_property
    def assigned(self) -> Mapping[IdentityKey, Sequence[AzureAssignedIdentity]]:
        """The AzureAssignedIdentities that name the pod, by the keys of their identities; none in managed mode."""
        assigned = () if self.managed else self.facts.assigned
        return grouped((its.spec.azure_identity_ref.key, its) for its in assigned)

    @cached_property
    def _identities(self) -> Mapping[IdentityKey, AzureIdentity]:
        return {identity.key: identity for identity in self.facts.identities}

    def _named_identity(self, binding: AzureIdentityBinding) -> AzureIdentity | None:
        return self._identities.get((binding.metadata.namespace, binding.spec.azure_identity))

    def restriction(self, binding: AzureIdentityBinding) -> str:
        """Return why *binding* serves only pods of its own namespace and not this one, or an empty string."""
        if binding.metadata.namespace == self.pod.metadata.namespace:
            return ""
        # First, because the flag applies to every identity, also to one that does not exist.
        if self.settings.force_namespaced:
            return "NMI runs with --forceNamespaced, so it serves pods of its own namespace only"
        identity = self._named_identity(binding)
        if identity is not None and identity.spec.type == IdentityType.FEDERATED:
            return "it is federated (type 3), and such an identity serves pods of its own namespace only"
        if identity is not None and identity.namespaced:
            return "its annotation Behavior: namespaced lets it serve pods of its own namespace only"
        return ""

    @cached_property
    def bound(self) -> Sequence[AzureIdentity]:
        """The identities of the bindings that serve the pod's namespace."""
        return [
            candidate.identity
            for candidate in self.candidates
            if candidate.identity is not None and not candidate.restriction
        ]

    def bound_seconds(self, identity: AzureIdentity) -> float | None:
        """Return the longest time for which a binding may have given *identity* to the pod on its node; None if it is
        not known, also because the API server's clock is not.
        """
        ages, clock = self.facts.created_at, self.facts.server.ahead_seconds
        of_identity = ages.get(ObjectReference(IDENTITIES.plural, *identity.key))
        times = [ages[binding] for binding in self._references(identity) if binding in ages]
        since = self.pod.since if isinstance(self.pod, DatedPod) else None
        if clock is None or since is None or of_identity is None or not times:
            return None
        # The server's clock is only known to about a second, so a new object may seem to be from the future.
        return max(0.0, (self.facts.server_time - max(since, of_identity, min(times))).total_seconds())

    def knows(self, identity: AzureIdentity, at: datetime) -> bool:
        """Return whether NMI's decisions at that time had to consider *identity*, one of `bound`: its
        AzureAssignedIdentity for the pod existed, in managed mode its binding.
        """
        ages, uids = self.facts.created_at, {"", self.pod.metadata.uid}
        # An object of a former pod of this name gave this pod nothing.
        assigned = [
            ObjectReference(ASSIGNED_IDENTITIES.plural, *its.key)
            for its in self.assigned.get(identity.key, ())
            if not its.metadata.deletion_timestamp and its.metadata.annotation(POD_UID_ANNOTATION) in uids
        ]
        needed = self._references(identity) if self.managed else assigned
        return any(ages.get(reference, at) <= at for reference in needed)

    def _references(self, identity: AzureIdentity) -> Sequence[ObjectReference]:
        return [ObjectReference(BINDINGS.plural, *its.key) for its in self.bindings_of.get(identity.key, ())]

    @cached_property
    def identities(self) -> Sequence[AzureIdentity]:
        """The identities that may serve the pod, each once: those of its bindings and those assigned to it."""
        assigned = () if self.managed else self.facts.assigned
        watched = [assignment.spec.azure_identity_ref for assignment in assigned if self.watches(assignment)]
        # The copies come last and count: NMI decides by the copy in an assigned identity.
        return list({identity.key: identity for identity in (*self.bound, *watched)}.values())

    @property
    def federated(self) -> Sequence[AzureIdentity]:
        """Those of the identities that are federated and therefore of the pod's namespace."""
        ours = [identity for identity in self.identities if identity.spec.type == IdentityType.FEDERATED]
        return [identity for identity in ours if identity.metadata.namespace == self.pod.metadata.namespace]

    @cached_property
    def assignments(self) -> tuple[AssignedIdentity, ...]:
        """The pod's assigned identities, in NMI's order and up to its limit."""
        facts = self.facts
        return assignments_of(self.settings, self.pod, facts.assigned, facts.bindings, facts.identities)

    def watches(self, assigned: AzureAssignedIdentity) -> bool:
        """Return whether the NMI on the pod's node watches *assigned*, which names the pod."""
        return _is_watched(self.settings, self.pod, assigned)

    def serves(self, assigned: AssignedIdentity) -> bool:
        """Return whether NMI's own rules allow the pod a token of *assigned*."""
        return isinstance(decide(self.nmi_facts, [assigned], ANY_IDENTITY, decision_policy(self.settings), {}), Grant)

    @cached_property
    def decision(self) -> PredictedDecision:
        """NMI's decision about a request that names no identity."""
        return self.decide(ANY_IDENTITY)

    def decide(self, request: TokenRequest) -> PredictedDecision:
        """Return NMI's decision about the pod's *request*."""
        if reason := self.unseen:
            return PredictedDecision(Outcome.UNSEEN, reason=reason)
        policy = decision_policy(self.settings)
        # No object ids: NMI learns them from IMDS's responses, which no object in the cluster shows.
        match wait_if_stopped(self.pod, named=False) or decide(self.nmi_facts, self.assignments, request, policy, {}):
            case Grant(assigned):
                return PredictedDecision(Outcome.GRANTED, assigned)
            case Exempt(reason):
                return PredictedDecision(Outcome.EXEMPT, reason=reason)
            case Wait() as wait:
                return PredictedDecision(
                    Outcome.WAITS, refusal=wait.refusal, seconds=wait.seconds, in_progress=wait.in_progress
                )
            case Refusal() as refusal:
                return PredictedDecision(Outcome.REFUSED, refusal=refusal)


def exemptions_of(settings: NmiSettings) -> Exemptions:
    """Return the rules by which an NMI with these *settings* leaves pods to IMDS."""
    return Exemptions(mic_namespace=settings.mic_namespace, namespaces=settings.exception_namespaces)


def configuration_for(facts: Facts) -> NmiConfiguration:
    """Return the configuration of the NMI on the node of the one pod."""
    return facts.configuration or configuration_of(facts.nmi, facts.pod)


def host_of(node: PlacedNode | ReadFailure | None) -> Host | None:
    """Return the VM or scale set of *node*, if it is known."""
    return parse_provider_id(node.spec.provider_id) if isinstance(node, PlacedNode) else None


def missing_pod(facts: Facts) -> PredictedDecision:
    """Return the decision about the one pod, which does not exist."""
    namespace, name = facts.scope
    return PredictedDecision(Outcome.UNSEEN, reason=f"pod {name} does not exist in namespace {namespace}")


def assignments_of(
    settings: NmiSettings,
    pod: Pod,
    assigned: Iterable[AzureAssignedIdentity],
    bindings: Iterable[AzureIdentityBinding],
    identities: Iterable[AzureIdentity],
) -> tuple[AssignedIdentity, ...]:
    """Return the pod's assigned identities by NMI's operation mode, in NMI's order and up to its limit. *assigned*: the
    objects that name the pod.
    """
    if settings.operation_mode is OperationMode.MANAGED:
        return tuple(islice(_joined(pod, sorted(bindings, key=lambda binding: binding.key), identities), BINDINGS_MAX))
    watched = (assignment for assignment in assigned if _is_watched(settings, pod, assignment))
    return tuple(project(assignment) for assignment in sorted(watched, key=assigned_order)[:ASSIGNED_MAX])


def _is_watched(settings: NmiSettings, pod: Pod, assigned: AzureAssignedIdentity) -> bool:
    node, label = pod.spec.node_name, assigned.metadata.label(NODENAME_LABEL)
    if assigned.spec.nodename not in {"", node}:
        return False
    # NMI's watch selects by this label then, and never receives objects without it.
    return not settings.scale_features or label == nodename_label(node)


def _joined(
    pod: Pod, bindings: Iterable[AzureIdentityBinding], several: Iterable[AzureIdentity]
) -> Iterator[AssignedIdentity]:
    identities = {identity.key: identity for identity in several}
    for binding in bindings:
        identity = identities.get((binding.metadata.namespace, binding.spec.azure_identity))
        # In managed mode NMI reads no binding of another namespace for the pod.
        if identity is None or binding.metadata.namespace != pod.metadata.namespace:
            continue
        if pod.binding_label and binding.spec.selector == pod.binding_label:
            yield join(binding, identity)


def sets_client_id(pod: Pod) -> bool | None:
    """Return whether a container of *pod* sets AZURE_CLIENT_ID.

    None if a ConfigMap or a Secret may set it; False if the variables were not read. An application can also name one
    in its code, which no object shows.
    """
    spec = pod.spec if isinstance(pod, VariablePod) else VariablePodSpec()
    containers = [*(spec.containers or ()), *(spec.init_containers or ())]
    if any(variable.name == CLIENT_ID_VARIABLE for container in containers for variable in container.env or ()):
        return True
    # The keys of these sources are not read; each becomes a variable with the source's prefix.
    sources = (source for container in containers for source in container.env_from or ())
    return None if any(CLIENT_ID_VARIABLE.startswith(source.prefix) for source in sources) else False
