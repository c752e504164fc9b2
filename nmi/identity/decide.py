"""May this pod have this token, and of which identity? A function from values to a value.

No clock, no I/O, no waiting: whoever calls it waits, asks Azure and asks again. Where the `Assigned` values come from
(`assignments`, or `managed` in that mode) and why a pod is exempt (`exempting`) is settled before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason, Refusal
from podidentity.resources import CREATED, OBJECT_ID_ANNOTATION, IdentityType

MANAGED_HOLD_SECONDS: Final = 1.5
"""A watch brings a change within milliseconds; the answer is due within 2 s of the request."""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What of a pod a decision depends on."""

    namespace: str
    name: str
    uid: str
    label: str
    """The value of its label `aadpodidbinding`, or empty."""
    exempt: str = ""
    """Why its requests are for the node's own identities (`exempting`), or empty: they are not."""
    mirror: bool = False
    """Whether it is a mirror pod, whose namespace, name and labels its node's kubelet chose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionPolicy:
    """How identities are chosen and how long a request may be held."""

    force_namespaced: bool = False
    """Every identity serves pods of its own namespace only."""
    created_attempts: int = 16
    assigned_attempts: int = 4
    interval_seconds: float = 5.0
    """The reference polls: so often, so far apart. Here their product is a deadline."""
    max_hold_seconds: float = 45.0
    """The longest hold whatever the product says: SDKs give up a try at 60 seconds."""
    managed: bool = False
    """Nothing is being assigned: a binding or an identity that is missing is waited for MANAGED_HOLD_SECONDS at most,
    in which the watch brings one that has just been written."""
    host_token_types: frozenset[int] = frozenset((0, 1, 2))
    """Types of identity whose tokens a process of the node may have for a pod that it names; empty: of none."""

    def hold_seconds(self, *, created: bool) -> float:
        """How long after its arrival a request may be held; longer when an identity has at least been Created."""
        attempts = self.created_attempts + (self.assigned_attempts if created else 0)
        longest = min(self.max_hold_seconds, MANAGED_HOLD_SECONDS) if self.managed else self.max_hold_seconds
        return min(attempts * self.interval_seconds, longest)


@dataclass(frozen=True, slots=True)
class Grant:
    """The pod may have a token of this identity."""

    assigned: AssignedIdentity


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing usable yet, but something may come: until so many seconds after the request's arrival."""

    seconds: float
    refusal: Refusal
    """What the request gets if nothing has changed by then."""


@dataclass(frozen=True, slots=True)
class Exempt:
    """The pod's requests go to IMDS as they are, for the node's own identities."""

    why: str
    """`MIC`, or `exception namespace/name`; for the log."""


Decision = Grant | Exempt | Wait | Refusal

NOTHING_ASSIGNED = Refusal(
    Reason.NOTHING_ASSIGNED,
    "Identity not found",
    "the pod has neither label nor assigned identity: label it aadpodidbinding and create an AzureIdentityBinding",
)
MIRROR_POD = Refusal(
    Reason.NOTHING_ASSIGNED,
    "Identity not found",
    "this is a mirror pod (owned by a Node, or annotated kubernetes.io/config.mirror), to which its node's kubelet "
    "could have given any namespace and labels, so it gets no identity: use a DaemonSet or Deployment instead",
)
_STILL_ASSIGNING = Refusal(
    Reason.STILL_ASSIGNING,
    "The identity of this pod is still being assigned; try again.",
    "the identity stayed in state Created: see MIC's log and the events of the AzureAssignedIdentity",
)
_NONE_ASSIGNED = Refusal(
    Reason.NO_MATCHING_IDENTITY,
    "No identity is assigned to this pod.",
    "compare the pod's label aadpodidbinding with the selectors of the AzureIdentityBindings and see that the "
    "AzureIdentity exists (in managed mode: both in the pod's namespace), then see MIC's log, where there is a MIC",
)
_NONE_MATCHES = Refusal(
    Reason.NO_MATCHING_IDENTITY,
    "No identity that is assigned to this pod matches the one that the request names.",
    "compare the client id or resource id that the workload asks for with the AzureIdentity bound to it",
)
_UNKNOWN_OBJECT_ID = Refusal(
    Reason.UNKNOWN_OBJECT_ID,
    "No identity of this pod is known by that object id.",
    "ask by client_id, or put the annotation objectID on the AzureIdentity",
)
_OTHER_NAMESPACE = Refusal(
    Reason.NO_MATCHING_IDENTITY,
    "No identity is assigned to this pod in its own namespace.",
    "the bound identity serves its own namespace only (forceNamespaced, annotation, type 3): move identity or pod",
)


def decide(
    pod: PodFacts,
    assigned: Iterable[AssignedIdentity],
    request: TokenRequest,
    policy: DecisionPolicy,
    object_ids: Mapping[str, str],
) -> Decision:
    """What *pod* gets for *request*. A mirror pod gets nothing, whatever exempts it and whatever it is assigned; an
    exempt pod is exempt whatever it asks and whatever it is assigned.

    *assigned* are those that name the pod by namespace and name; *object_ids* maps lower-cased client ids to object
    ids, as learnt from IMDS's own answers. An identity is the pod's only when it was made for this pod's uid (or does
    not say) and its binding selects the label that the pod has now, so that neither a pod's successor under the same
    name nor a relabelled pod inherits.
    """
    if pod.mirror:
        return MIRROR_POD
    if pod.exempt:
        return Exempt(pod.exempt)
    own = [each for each in assigned if not each.deleting and each.pod_uid in {"", pod.uid}]
    if not pod.label and not own:
        return NOTHING_ASSIGNED
    bound = [each for each in own if pod.label and each.selector == pod.label]
    allowed = sorted((each for each in bound if _may_serve(each, pod, policy)), key=lambda each: each.order)
    if bound and not allowed:
        return _OTHER_NAMESPACE
    matching = [each for each in allowed if _is_named_by(request, each, object_ids)]
    for each in matching:
        if each.usable:
            return Grant(each)
    return _hold(request, policy, allowed, matching)


def _hold(
    request: TokenRequest, policy: DecisionPolicy, allowed: list[AssignedIdentity], matching: list[AssignedIdentity]
) -> Wait | Refusal:
    """Nothing usable matches: how long to wait for it, and what to say then."""
    created = any(each.status == CREATED for each in matching)
    if request.selector is SelectorKind.OBJECT_ID and not matching:
        # One that is still coming may turn out to have this object id; what is there already will not change its own.
        created = any(each.status == CREATED for each in allowed)
        if allowed and not created:
            return _UNKNOWN_OBJECT_ID
        refusal = _UNKNOWN_OBJECT_ID
    elif created:
        refusal = _STILL_ASSIGNING
    elif request.selector is not SelectorKind.NONE and allowed:
        refusal = _NONE_MATCHES
    else:
        refusal = _NONE_ASSIGNED
    return Wait(policy.hold_seconds(created=created), refusal)


def _may_serve(each: AssignedIdentity, pod: PodFacts, policy: DecisionPolicy) -> bool:
    if each.identity.spec.type == IdentityType.FEDERATED:
        # Of all that names it: a stranger's object must not send this pod's own proof anywhere.
        return each.home == pod.namespace
    everywhere = not policy.force_namespaced and not each.identity.namespaced
    return everywhere or each.identity.metadata.namespace == pod.namespace


def _is_named_by(request: TokenRequest, each: AssignedIdentity, object_ids: Mapping[str, str]) -> bool:
    """Whether the request names no identity, or this one. An empty id is never a match."""
    spec, wanted = each.identity.spec, request.selector_value.lower()
    match request.selector:
        case SelectorKind.NONE:
            return True
        case SelectorKind.CLIENT_ID:
            known = {spec.client_id.lower()}
        case SelectorKind.RESOURCE_ID:
            known = {spec.resource_id.lower()}
        case SelectorKind.OBJECT_ID:
            annotated = each.identity.metadata.annotation(OBJECT_ID_ANNOTATION).lower()
            known = {annotated, object_ids.get(spec.client_id.lower(), "").lower()}
    return bool(wanted) and wanted in known
