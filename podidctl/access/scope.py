"""Restriction of a review to one identity, pod, node or namespace. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from podidctl.access.blast_radius import ReviewIndex
from podidctl.access.schema import AccessReview, BlastRadius, PodAccess, Scope, Way
from podidentity.exits import StartError


def restrict(review: AccessReview, scope: Scope) -> AccessReview:
    """Return the part of *review* in *scope*, with its subjects unchanged. Raises StartError without such an object."""
    return RESTRICTIONS[scope.kind](review, scope)


def _identity(review: AccessReview, scope: Scope) -> AccessReview:
    names = {identity.full_name for identity in review.identities}
    if scope.name not in names:
        raise StartError(_missing(review, scope, names, "azureidentities.aadpodidentity.k8s.io"))
    hosts = {host.id for host in review.hosts if any(scope.name in attached.identities for attached in host.attached)}
    on_hosts = {node.name for node in review.nodes if node.host in hosts}
    granted = {grant.pod for grant in review.grants if grant.identity == scope.name}
    pods = [
        pod
        for pod in review.pods
        if pod.full_name in granted or (pod.node in on_hosts and (pod.host_access or pod.undecided_access))
    ]
    nodes = on_hosts | {pod.node for pod in pods}
    return _part(review, scope, identities={scope.name}, pods=pods, nodes=nodes, hosts=hosts)


def _pod(review: AccessReview, scope: Scope) -> AccessReview:
    pod = next((pod for pod in review.pods if pod.full_name == scope.name), None)
    if pod is None:
        raise StartError(_missing(review, scope, (), "pods"))
    radius = ReviewIndex(review).blast_radius_of(pod)
    identities = set(radius.today.identities) | _granted_to(review, [pod])
    return _part(review, scope, identities=identities, pods=[pod], nodes={pod.node}, blast_radius=radius)


def _node(review: AccessReview, scope: Scope) -> AccessReview:
    node = next((node for node in review.nodes if node.name == scope.name), None)
    if node is None:
        raise StartError(_missing(review, scope, {node.name for node in review.nodes}, "nodes"))
    pods = [pod for pod in review.pods if pod.node == node.name]
    identities = set(node.blast_radius.today.identities) | _granted_to(review, pods)
    return _part(review, scope, identities=identities, pods=pods, nodes={node.name}, blast_radius=node.blast_radius)


def _namespace(review: AccessReview, scope: Scope) -> AccessReview:
    own = {identity.full_name for identity in review.identities if identity.namespace == scope.name}
    pods = [pod for pod in review.pods if pod.namespace == scope.name]
    nodes = {pod.node for pod in pods}
    return _part(review, scope, identities=own | _granted_to(review, pods), pods=pods, nodes=nodes)


def _granted_to(review: AccessReview, pods: Iterable[PodAccess]) -> set[str]:
    names = {pod.full_name for pod in pods}
    return {grant.identity for grant in review.grants if grant.pod in names}


def _part(
    review: AccessReview,
    scope: Scope,
    *,
    identities: set[str],
    pods: list[PodAccess],
    nodes: set[str],
    hosts: set[str] | None = None,
    blast_radius: BlastRadius | None = None,
) -> AccessReview:
    """Return the part with these objects; *hosts*: None for those of the nodes."""
    names = {pod.full_name for pod in pods}
    kept = [node for node in review.nodes if node.name in nodes]
    if hosts is None:
        hosts = {node.host for node in kept}
    exceptions = {access.detail for pod in pods for access in pod.host_access if access.way is Way.EXCEPTION}
    if scope.kind == "namespace":
        exceptions |= {exception.full_name for exception in review.exceptions if exception.namespace == scope.name}
    accounts = {account for node in kept for account in node.blast_radius.accounts}
    return msgspec.structs.replace(
        review,
        scope=scope,
        identities=[identity for identity in review.identities if identity.full_name in identities],
        bindings=[binding for binding in review.bindings if binding.identity in identities],
        exceptions=[exception for exception in review.exceptions if exception.full_name in exceptions],
        pods=pods,
        grants=[grant for grant in review.grants if grant.pod in names and grant.identity in identities],
        nodes=kept,
        hosts=[host for host in review.hosts if host.id in hosts],
        programs=[program for program in review.programs if program.account in accounts],
        blast_radius=blast_radius,
    )


def _missing(review: AccessReview, scope: Scope, names: Iterable[str], part: str) -> str:
    if any(unknown.part == part for unknown in review.unknown):
        return f"{scope.kind} {scope.name} is unknown, because {part} could not be read: grant list on {part}"
    if scope.kind == "pod":
        reason = "no running pod of that name has an identity, the label aadpodidbinding, or access to its node"
        return f"pod {scope.name} is not part of the review: {reason}; check the name with kubectl get pods"
    near = next((name for name in sorted(names) if name.rpartition("/")[2] == scope.name.rpartition("/")[2]), "")
    hint = f"did you mean {near}?" if near else "see podidctl access for all names"
    return f"the cluster has no {scope.kind} {scope.name}; {hint}"


RESTRICTIONS: Final[Mapping[str, Callable[[AccessReview, Scope], AccessReview]]] = {
    "identity": _identity,
    "pod": _pod,
    "node": _node,
    "namespace": _namespace,
}
"""By kind."""
KINDS: Final = tuple(RESTRICTIONS)
