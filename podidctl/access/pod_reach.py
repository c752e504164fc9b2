"""Identities within reach of a client that runs a command in a pod. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from podidctl.access.schema import TAKES_OVER, Grant, HostAccess
from podidctl.access.targets import Names


def reach_of_pods(
    grants: Iterable[Grant],
    *,
    accounts: Mapping[str, Names],
    account_of: Mapping[str, str],
    node_of: Mapping[str, str],
    ways: Mapping[str, list[HostAccess]],
    attached: Mapping[str, Names],
) -> dict[str, Names]:
    """Return the identities by pod, without pods that reach none: those of its grants and of its service account
    (*account_of*, *accounts*), with *ways* to its host those *attached* to its node (*node_of*), and if it can take
    over the node, those of all pods there.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    for grant in grants:
        found[grant.pod].add(grant.identity)
    for pod, account in account_of.items():
        if account in accounts:
            found[pod] |= accounts[account]
    on_node: defaultdict[str, set[str]] = defaultdict(set)
    for pod, its in found.items():
        on_node[node_of[pod]] |= its
    for pod, several in ways.items():
        if several:
            found[pod] |= attached.get(node_of[pod], frozenset())
        if any(each.way in TAKES_OVER for each in several):
            found[pod] |= on_node[node_of[pod]]
    return {pod: frozenset(its) for pod, its in found.items() if its}
