"""Restriction of a review to one identity, pod, node or namespace. Pure."""

from collections.abc import Callable, Iterable

import msgspec

from podidctl.access.blast_radius import pod_blast_radius
from podidctl.access.schema import AccessReview, BlastRadius, PodAccess, Scope, Way

KINDS = ("identity", "pod", "node", "namespace")


class ScopeError(Exception):
    """The review has no such object. The message is one line with the next action."""


def restrict(review: AccessReview, scope: Scope) -> AccessReview:
    """Return the part of *review*, with its subjects unchanged. Raises ScopeError."""
    if not scope.kind:
        return review
    return _RESTRICTIONS[scope.kind](review, scope)


def _identity(review: AccessReview, scope: Scope) -> AccessReview:
    names = {each.full_name for each in review.identities}
    if scope.name not in names:
        raise ScopeError(_missing(review, scope, names, "azureidentities.aadpodidentity.k8s.io"))
    hosts = {host.id for host in review.hosts if any(scope.name in each.identities for each in host.attached)}
    on_hosts = {each.name for each in review.nodes if each.host in hosts}
    granted = {each.pod for each in review.grants if each.identity == scope.name}
    return _part(
        review,
        scope,
        identities={scope.name},
        keep_pod=lambda pod: (
            pod.full_name in granted or (pod.node in on_hosts and bool(pod.host_access or pod.undecided_access))
        ),
        hosts=hosts,
        only_grants_of_identities=True,
    )


def _pod(review: AccessReview, scope: Scope) -> AccessReview:
    pod = next((each for each in review.pods if each.full_name == scope.name), None)
    if pod is None:
        raise ScopeError(_missing(review, scope, {each.full_name for each in review.pods}, "pods"))
    radius = pod_blast_radius(review, pod)
    return _part(
        review,
        scope,
        identities=set(radius.today.identities) | _granted_to(review, {pod.full_name}),
        keep_pod=lambda each: each.full_name == pod.full_name,
        hosts={each.host for each in review.nodes if each.name == pod.node},
        nodes={pod.node},
        blast_radius=radius,
    )


def _node(review: AccessReview, scope: Scope) -> AccessReview:
    node = next((each for each in review.nodes if each.name == scope.name), None)
    if node is None:
        raise ScopeError(_missing(review, scope, {each.name for each in review.nodes}, "nodes"))
    pods = {each.full_name for each in review.pods if each.node == node.name}
    return _part(
        review,
        scope,
        identities=set(node.blast_radius.today.identities) | _granted_to(review, pods),
        keep_pod=lambda each: each.node == node.name,
        hosts={node.host},
        nodes={node.name},
        blast_radius=node.blast_radius,
    )


def _namespace(review: AccessReview, scope: Scope) -> AccessReview:
    own = {each.full_name for each in review.identities if each.namespace == scope.name}
    pods = {each.full_name for each in review.pods if each.namespace == scope.name}
    on_nodes = {each.node for each in review.pods if each.namespace == scope.name}
    return _part(
        review,
        scope,
        identities=own | _granted_to(review, pods),
        keep_pod=lambda each: each.namespace == scope.name,
        hosts={each.host for each in review.nodes if each.name in on_nodes},
        nodes=on_nodes,
    )


_RESTRICTIONS: dict[str, Callable[[AccessReview, Scope], AccessReview]] = {
    "identity": _identity,
    "pod": _pod,
    "node": _node,
    "namespace": _namespace,
}


def _part(
    review: AccessReview,
    scope: Scope,
    *,
    identities: set[str],
    keep_pod: Callable[[PodAccess], bool],
    hosts: set[str],
    nodes: set[str] | None = None,
    only_grants_of_identities: bool = False,
    blast_radius: BlastRadius | None = None,
) -> AccessReview:
    pods = [each for each in review.pods if keep_pod(each)]
    names = {each.full_name for each in pods}
    grants = [
        each
        for each in review.grants
        if each.pod in names and (not only_grants_of_identities or each.identity in identities)
    ]
    on_nodes = {each.node for each in pods}
    kept = [
        each
        for each in review.nodes
        if (each.name in nodes if nodes is not None else each.host in hosts or each.name in on_nodes)
    ]
    exceptions = {way.detail for each in pods for way in each.host_access if way.way is Way.EXCEPTION}
    if scope.kind == "namespace":
        exceptions |= {each.full_name for each in review.exceptions if each.namespace == scope.name}
    accounts = {account for each in kept for account in each.blast_radius.accounts}
    return msgspec.structs.replace(
        review,
        scope=scope,
        identities=[each for each in review.identities if each.full_name in identities],
        bindings=[each for each in review.bindings if each.identity in identities],
        exceptions=[each for each in review.exceptions if each.full_name in exceptions],
        pods=pods,
        grants=grants,
        nodes=kept,
        hosts=[each for each in review.hosts if each.id in hosts],
        programs=[each for each in review.programs if each.account in accounts],
        blast_radius=blast_radius,
    )


def _granted_to(review: AccessReview, pods: set[str]) -> set[str]:
    return {each.identity for each in review.grants if each.pod in pods}


def _missing(review: AccessReview, scope: Scope, names: Iterable[str], part: str) -> str:
    if any(each.part == part for each in review.unknown):
        return f"{scope.kind} {scope.name} is unknown, because {part} could not be read: grant list on {part}"
    if scope.kind == "pod":
        why = "no running pod of that name has an identity, the label aadpodidbinding, or access to its node"
        return f"pod {scope.name} is not part of the review: {why}; check the name with kubectl get pods"
    near = next((each for each in sorted(names) if each.rpartition("/")[2] == scope.name.rpartition("/")[2]), "")
    hint = f"did you mean {near}?" if near else "see podidctl access for all names"
    return f"the cluster has no {scope.kind} {scope.name}; {hint}"
