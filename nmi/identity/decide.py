"""The decisions whether a pod may have lost its address, whether it may have a token, and of which identity. Pure.

No clock, no I/O, no waiting: the caller waits, calls Azure and decides again. `wait_if_stopped` decides first. The
`AssignedIdentity` values that `decide` gets come from `assignments` (`managed_mode` in that mode), the reason for an
exemption from `exemptions`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final

import msgspec

from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.candidate_order import candidate_order
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason, Refusal
from podidentity.resources import CREATED, OBJECT_ID_ANNOTATION, AzureIdentity, IdentityType, Pod
from podidentity.telemetry.logs import redacted

BRIEF_HOLD_SECONDS: Final = 1.5
"""The hold of requests for which no assignment is on its way. A watch delivers a change within milliseconds; the
response is due within 2 s of the request."""
STOPPED_HOLD_SECONDS: Final = 5.0
"""A restarting container is terminated for a second or two. The new one may send a request before the kubelet reports
it."""
IDENTITIES_SHOWN: Final = 3
_BY_NAME: Final = attrgetter("metadata.namespace", "metadata.name", "spec.client_id", "spec.resource_id")
ID_CHARS: Final = 150
"""Characters of a resource id in a text. Its last ones distinguish it; the pod chooses the requested one."""
SETTLED_SECONDS: Final = 90.0
"""How long all identities of a pod must have been usable before no other one is expected. MIC writes those of one pass
together, but an identity of type 0 waits until a change of the host on Azure has ended, which takes a minute."""


class PodFacts(msgspec.Struct, frozen=True):
    """The properties of a pod that a decision depends on."""

    namespace: str
    name: str
    uid: str
    label: str
    """The value of its label `aadpodidbinding`, or empty."""
    exempt: str = ""
    """Why the pod uses the node's own identities (`exemptions`), or empty if it does not."""
    mirror: bool = False
    """Whether it is a mirror pod, whose namespace, name and labels the kubelet of its node chose."""


class DecisionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that choose identities and limit how long a request is held."""

    force_namespaced: bool = False
    """Every identity serves only pods of its namespace."""
    created_attempts: int = 16
    assigned_attempts: int = 4
    interval_seconds: float = 5.0
    """The Go implementation polls with these numbers of attempts at this interval. Here their product is a deadline."""
    max_hold_seconds: float = 45.0
    """Upper limit of the hold: SDKs time out an attempt at 60 seconds."""
    managed: bool = False
    """Managed mode: MIC assigns nothing, so a missing binding or identity is waited for BRIEF_HOLD_SECONDS at most.
    In that time the watch delivers one that has just been written."""
    host_token_types: frozenset[int] = frozenset((0, 1, 2))
    """Types of identity whose tokens a process of the node may request for a pod that it names; empty: none."""

    def hold_seconds(self, *, created: bool, complete: bool) -> float:
        """Return how long after the pod's first request it may be held; longer if an identity is in state Created.

        *complete*: all identities of the pod have been assigned for some time, so that probably none is on its way.
        """
        attempts = self.created_attempts + (self.assigned_attempts if created else 0)
        brief = self.managed or complete
        longest = min(self.max_hold_seconds, BRIEF_HOLD_SECONDS) if brief else self.max_hold_seconds
        return min(attempts * self.interval_seconds, longest)


class Grant(msgspec.Struct, frozen=True):
    """The pod may have a token of this identity."""

    assigned: AssignedIdentity


class Wait(msgspec.Struct, frozen=True):
    """No usable identity yet, but one may come until *seconds* after the pod's first request for it."""

    seconds: float
    refusal: Refusal
    """The refusal if nothing has changed by then."""
    missing: tuple[str, str] = ("", "")
    """What the request waits for: requests with the same value share the time. Empty: any identity."""
    in_progress: bool = False
    """Whether a change is on its way, so that a request after that time is held again. Else it is refused immediately
    until something changes for the pod."""


class Exempt(msgspec.Struct, frozen=True):
    """The pod's requests are forwarded to IMDS unchanged, for the node's own identities."""

    reason: str
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
    "this is a mirror pod (owned by a Node, or annotated kubernetes.io/config.mirror), whose namespace and labels the "
    "kubelet of its node chooses, so it gets no identity: use a DaemonSet or Deployment instead",
)
_STILL_ASSIGNING = Refusal(
    Reason.STILL_ASSIGNING,
    "The identity of this pod is still being assigned; try again.",
    "the identity stayed in state Created: see MIC's log and the events of the AzureAssignedIdentity",
)
NONE_ASSIGNED = Refusal(
    Reason.NO_MATCHING_IDENTITY,
    "No identity is assigned to this pod.",
    "compare the pod's label aadpodidbinding with the selectors of the AzureIdentityBindings and see that the "
    "AzureIdentity exists (in managed mode: both in the pod's namespace), then see MIC's log if MIC is installed",
)
OTHER_REQUESTED: Final = "requested "
"""The begin of the operator's text about a request for an identity that the pod does not have, by which podidctl
recognizes it in NMI's log."""
UNKNOWN_OBJECT_ID = Refusal(
    Reason.UNKNOWN_OBJECT_ID,
    "No identity of this pod is known by that object id.",
    "use client_id in the request, or set the annotation objectID on the AzureIdentity",
)
_OTHER_NAMESPACE = Refusal(
    Reason.NO_MATCHING_IDENTITY,
    "No identity is assigned to this pod in its own namespace.",
    "the bound identity serves its own namespace only (forceNamespaced, annotation, type 3): move identity or pod",
)

TERMINATED: Final = Refusal(
    Reason.SUSPENDED,
    "No container of this pod is reported to run; try again.",
    "all containers of the pod have terminated, so another pod may have its address: if the pod runs, find out why its "
    "kubelet does not report it",
)
SANDBOX_DOWN: Final = Refusal(
    Reason.SUSPENDED,
    "The sandbox of this pod is reported not to be ready; try again.",
    "the pod's condition PodReadyToStartContainers is False, so another pod may have its address: if the pod runs, "
    "find out why its kubelet does not report it",
)
SUSPENDED: Final = Refusal(
    Reason.SUSPENDED,
    "The address of this pod has just changed on its node; try again.",
    "an interface, route or link-layer address behind the pod's address has changed, and the API server has not "
    "reported the new owner of the address yet: see NMI's log and /debug/state for the evidence",
)

_OWNER_OF_ADDRESS: Final = ("address", "")
"""What a request of a stopped pod waits for: a report about the owner of the address."""


def wait_if_stopped(pod: Pod, *, named: bool, suspended: bool = False) -> Wait | None:
    """Return the Wait for requests of *pod*, as the watch or a read reported it, if its state requires one, else None.

    The kubelet releases a sandbox's address as soon as nothing runs in it. It reports that later than the next pod may
    send a request from the same address. Until then presence, uid, phase and address of the former pod do not change.
    So no read can confirm a pod whose containers have all terminated, or whose sandbox is not ready: its requests are
    held briefly, then refused.

    *named*: a process of the node named the pod, so its address does not matter. The kubelet mounts volumes before the
    sandbox exists, so the state of the sandbox does not matter then either.

    *suspended*: local evidence shows that the pod's address changed its owner.
    """
    if suspended and not named:
        return _wait_for_address(SUSPENDED)
    if pod.terminated:
        return _wait_for_address(TERMINATED)
    if pod.sandbox_down and not named:
        return _wait_for_address(SANDBOX_DOWN)
    return None


def _wait_for_address(refusal: Refusal) -> Wait:
    return Wait(STOPPED_HOLD_SECONDS, refusal, _OWNER_OF_ADDRESS, in_progress=True)


def decide(
    pod: PodFacts,
    assigned: Iterable[AssignedIdentity],
    request: TokenRequest,
    policy: DecisionPolicy,
    object_ids: Mapping[str, str],
    *,
    now: float = math.inf,
) -> Decision:
    """Return what *pod* gets for *request*. *now* is the time by the clock of `AssignedIdentity.usable_since`; by
    default all identities count as usable for long.

    A mirror pod gets nothing, regardless of exemptions and assigned identities. An exempt pod is exempt regardless of
    its request and its assigned identities.

    *assigned* are the identities that name the pod by namespace and name. *object_ids* maps lower-cased client ids to
    object ids, as learned from IMDS's responses. An identity is the pod's only if it was made for this pod's uid (or
    names no uid) and its binding selects the label that the pod has now. So neither a later pod of the same name nor a
    relabelled pod inherits an identity.

    The identities of the pod's own namespace come first. One of another namespace is granted only if the request
    selects none of the pod's own namespace that is usable or in state Created: anyone with permission to write bindings
    in any namespace can give the pod further identities, and must not replace its own.
    """
    # A compromised kubelet chooses namespace, name and labels of its mirror pods, and so any exception or assignment.
    if pod.mirror:
        return MIRROR_POD
    if pod.exempt:
        return Exempt(pod.exempt)
    # Without the uid, a later pod of the same name would inherit the identity.
    own = [assignment for assignment in assigned if not assignment.deleting and assignment.pod_uid in {"", pod.uid}]
    # Not held: without a label nothing is assigned to the pod, so nothing is on its way.
    if not pod.label and not own:
        return NOTHING_ASSIGNED
    bound = [assignment for assignment in own if pod.label and assignment.selector == pod.label]
    allowed = [assignment for assignment in bound if _may_serve(assignment, pod, policy)]
    if bound and not allowed:
        return _OTHER_NAMESPACE
    wanted = request.selector_value.lower()  # once: a pod may have 256 identities, and send 2 kB
    matching = sorted(
        _named_by(request.selector, wanted, allowed, object_ids),
        key=lambda assignment: candidate_order(pod.namespace, assignment.binding, assignment.identity.key),
    )
    # While the pod's own identity is being assigned, one of another namespace must not replace it.
    own_is_coming = any(assignment.status == CREATED and _is_of_namespace(assignment, pod) for assignment in matching)
    for assignment in matching:
        if assignment.usable and (not own_is_coming or _is_of_namespace(assignment, pod)):
            return Grant(assignment)
    return _hold(pod, (request.selector, wanted), policy, allowed, matching, now=now)


def _hold(
    pod: PodFacts,
    named: tuple[SelectorKind, str],
    policy: DecisionPolicy,
    allowed: list[AssignedIdentity],
    matching: list[AssignedIdentity],
    *,
    now: float,
) -> Wait | Refusal:
    """Return how long to wait for a usable identity, with the refusal after that time.

    *named*: the kind of id in the request, and the id in lower case.
    """
    selector, wanted = named
    created = any(assignment.status == CREATED for assignment in matching)
    if selector is SelectorKind.OBJECT_ID and not matching:
        # An identity in state Created may turn out to have this object id. The object id of a usable one is fixed.
        created = any(assignment.status == CREATED for assignment in allowed)
        if allowed and not created:
            return UNKNOWN_OBJECT_ID
        refusal = UNKNOWN_OBJECT_ID
    elif created:
        refusal = _STILL_ASSIGNING
    elif selector is not SelectorKind.NONE and allowed:
        refusal = none_matches(pod.namespace, selector, wanted, [assignment.identity for assignment in allowed])
    else:
        refusal = NONE_ASSIGNED
    missing = ("", "") if refusal is NONE_ASSIGNED else (selector.name, wanted)
    # If MIC's writes for the pod have probably ended, a long hold only delays the refusal.
    complete = bool(allowed) and all(
        assignment.usable and now - assignment.usable_since >= SETTLED_SECONDS for assignment in allowed
    )
    seconds = policy.hold_seconds(created=created, complete=complete)
    return Wait(seconds, refusal, missing, in_progress=created)


def none_matches(namespace: str, selector: SelectorKind, wanted: str, identities: Sequence[AzureIdentity]) -> Refusal:
    """Return the refusal of a request by client id or resource id that names none of the *identities* of a pod of
    *namespace*. Those of its own namespace come first.
    """
    by_client_id = selector is SelectorKind.CLIENT_ID
    ordered = sorted(identities, key=_BY_NAME)
    own = [identity for identity in ordered if identity.metadata.namespace == namespace]
    # A tenant who binds many identities to the pod must not hide the pod's own ones in this text.
    if len(own) < IDENTITIES_SHOWN:
        own += [identity for identity in ordered if identity.metadata.namespace != namespace]
    shown = [
        f"{_shown(selector, identity.spec.client_id if by_client_id else identity.spec.resource_id)} "
        f"({'/'.join(identity.key)})"
        for identity in own[:IDENTITIES_SHOWN]
    ]
    more = f" and {len(identities) - IDENTITIES_SHOWN} more" if len(identities) > IDENTITIES_SHOWN else ""
    detail = (
        f"{requested_text(selector, wanted)}, bound {', '.join(shown)}{more}: let the application request a bound one "
        "(AZURE_CLIENT_ID in its environment), or bind the requested one to the pod"
    )
    return Refusal(
        Reason.NO_MATCHING_IDENTITY,
        "No identity that is assigned to this pod matches the one that the request names.",
        detail,
        cause=detail,
    )


def requested_text(selector: SelectorKind, wanted: str) -> str:
    """Return the begin of the operator's text about a request for this client id or resource id (lower case)."""
    if selector is SelectorKind.CLIENT_ID:
        return f"{OTHER_REQUESTED}client id {_shown(selector, wanted)}"
    return f"{OTHER_REQUESTED}resource id {_shown(selector, wanted)!a}"


def _shown(selector: SelectorKind, value: str) -> str:
    """Return the id for a log, which has client ids only in part."""
    if selector is SelectorKind.CLIENT_ID:
        return redacted(value) if value else "none"
    return value[-ID_CHARS:] or "none"


def _may_serve(assignment: AssignedIdentity, pod: PodFacts, policy: DecisionPolicy) -> bool:
    if assignment.identity.spec.type == IdentityType.FEDERATED:
        # Every object that names the pod must be in its namespace: no other tenant may choose where its assertion goes.
        return assignment.home == pod.namespace
    everywhere = not policy.force_namespaced and not assignment.identity.namespaced
    return everywhere or _is_of_namespace(assignment, pod)


def _is_of_namespace(assignment: AssignedIdentity, pod: PodFacts) -> bool:
    """Return whether the identity is in the pod's namespace."""
    return assignment.identity.metadata.namespace == pod.namespace


def _named_by(
    selector: SelectorKind, wanted: str, allowed: list[AssignedIdentity], object_ids: Mapping[str, str]
) -> list[AssignedIdentity]:
    """Return those of *allowed* that a request for *wanted* (lower case) names. An empty id names none."""
    if selector is SelectorKind.NONE:
        return allowed
    # An AzureIdentity without a client id must not match a request with an empty one.
    if not wanted:
        return []
    if selector is SelectorKind.CLIENT_ID:
        return [assignment for assignment in allowed if assignment.identity.spec.client_id.lower() == wanted]
    if selector is SelectorKind.RESOURCE_ID:
        return [assignment for assignment in allowed if assignment.identity.spec.resource_id.lower() == wanted]
    return [
        assignment
        for assignment in allowed
        if object_ids.get(assignment.identity.spec.client_id.lower(), "").lower() == wanted
        or assignment.identity.metadata.annotation(OBJECT_ID_ANNOTATION).lower() == wanted
    ]
