"""Reach of an attacker in one pod or one node, today and if every AzureIdentity were federated. Pure.

It is computed from the parts of a review, so that it can also be computed from a stored document.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from podidctl.access.schema import (
    AccessReview,
    BlastRadius,
    Explained,
    Grant,
    GrantState,
    Host,
    NodeAccess,
    PodAccess,
    Reach,
)

REACHED_TODAY: Final = frozenset({GrantState.USABLE, GrantState.PENDING, GrantState.LEFTOVER, GrantState.POSSIBLE})
REACHED_FEDERATED: Final = REACHED_TODAY | {GrantState.DISABLED}
STAYS: Final = frozenset({Explained.CLUSTER, Explained.NOTHING})
"""Attached identities that remain on the host if every AzureIdentity were federated: MIC did not attach them."""


class BlastRadiusIndex:
    """Grants, pods and hosts by name."""

    def __init__(self, pods: Iterable[PodAccess], grants: Iterable[Grant], hosts: Iterable[Host]) -> None:
        self._grants: defaultdict[str, list[Grant]] = defaultdict(list)
        for each in grants:
            self._grants[each.pod].append(each)
        self._hosts = {each.id: each for each in hosts}
        self._on_node: defaultdict[str, list[PodAccess]] = defaultdict(list)
        for pod in pods:
            self._on_node[pod.node].append(pod)

    def of_node(self, node: str, host: str, accounts: Iterable[str]) -> BlastRadius:
        """Return the reach of *node* on *host*, where NMI and MIC run with *accounts*."""
        grants = [each for pod in self._on_node.get(node, ()) for each in self._grants.get(pod.full_name, ())]
        # A node's root reads the tokens of all its pods, so it also gets what its pods' own requests do not.
        return _radius(grants, self._hosts.get(host), accounts, with_bypassed=True)

    def of_pod(self, pod: PodAccess, node: NodeAccess | None) -> BlastRadius:
        """Return the reach of *pod* on *node*."""
        if node is not None and pod.takes_over_node:
            return node.blast_radius
        host = self._hosts.get(node.host) if node is not None and pod.host_access else None
        return _radius(self._grants.get(pod.full_name, ()), host, (), with_bypassed=False)


def pod_blast_radius(review: AccessReview, pod: PodAccess) -> BlastRadius:
    """Return the reach of one pod of *review*. For many pods create one `BlastRadiusIndex`."""
    index = BlastRadiusIndex(review.pods, review.grants, review.hosts)
    return index.of_pod(pod, next((each for each in review.nodes if each.name == pod.node), None))


def _radius(grants: Iterable[Grant], host: Host | None, accounts: Iterable[str], *, with_bypassed: bool) -> BlastRadius:
    own = list(grants)
    bypassed = {GrantState.BYPASSED} if with_bypassed else set()
    today = {each.identity for each in own if each.state in REACHED_TODAY}
    federated = {each.identity for each in own if each.state in REACHED_FEDERATED | bypassed}
    return BlastRadius(
        today=_reach(today, host, frozenset(Explained)),
        federated=_reach(federated, host, STAYS),
        accounts=sorted(set(accounts)),
    )


def _reach(identities: set[str], host: Host | None, explained: frozenset[Explained]) -> Reach:
    attached = [each for each in host.attached if each.explained in explained] if host is not None else []
    return Reach(
        identities=sorted(identities.union(*(each.identities for each in attached))),
        others=sorted(each.resource_id for each in attached if not each.identities),
        system_assigned=host.system_assigned if host is not None else False,
        complete=host is None or host.read,
    )
