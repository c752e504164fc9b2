"""Evidence for an address that no known pod has."""

import pytest

from nmi.identity.address_evidence import EvidenceKind
from nmi.node.rtnetlink import Link, Message, Route
from tests.nmi.identity.address_evidence.kernel_reports import (
    ADDRESS,
    BRIDGE,
    LINKS,
    NEXT,
    OTHER,
    SUBNET,
    VETH,
    B,
    Y,
    behind,
    host_route,
    kinds,
    known,
    neighbour,
    present,
)

UNCLAIMED: dict[str, tuple[list[Message], list[Message], list[tuple[str, EvidenceKind]]]] = {
    "its host route's interface": (
        [host_route()],
        [Link(VETH, "veth10", gone=True), host_route(gone=True)],
        [(ADDRESS, EvidenceKind.INTERFACE_REMOVED)],
    ),
    "its host route": (
        [host_route()],
        [host_route(gone=True), Link(VETH, "veth10", gone=True)],
        [(ADDRESS, EvidenceKind.ROUTE_REMOVED)],
    ),
    "its port": (
        [neighbour(), behind()],
        [Link(VETH, "veth10", gone=True)],
        [(ADDRESS, EvidenceKind.INTERFACE_REMOVED)],
    ),
    "its port, which the bridge forgot before": (
        [neighbour(), behind()],
        [behind(gone=True), Link(VETH, "veth10", gone=True), Link(VETH, "veth10", gone=True)],
        [(ADDRESS, EvidenceKind.INTERFACE_REMOVED)],
    ),
    "its neighbour's interface": (
        [neighbour(interface=VETH)],
        [Link(VETH, "veth10", gone=True)],
        [(ADDRESS, EvidenceKind.INTERFACE_REMOVED)],
    ),
    "another interface": ([neighbour(), behind()], [Link(NEXT, "veth11", gone=True)], []),
    "a port that its link-layer address has left": (
        [neighbour(), behind(), behind(gone=True), behind(NEXT)],
        [Link(VETH, "veth10", gone=True)],
        [],
    ),
    "a worse route": ([host_route(), host_route(NEXT, priority=9)], [host_route(NEXT, priority=9, gone=True)], []),
    "the better one of two routes": (
        [host_route(), host_route(NEXT, priority=9)],
        [host_route(gone=True)],
        [],
    ),
    "the next sandbox's first packet": ([neighbour(), behind()], [neighbour(B), behind(NEXT, B), behind(NEXT)], []),
    "a route to another interface": ([host_route()], [host_route(NEXT)], []),
    "a route to a subnet": ([SUBNET], [Route(SUBNET.prefix, 24, BRIDGE, 0, gone=True)], []),
}


@pytest.mark.parametrize("case", UNCLAIMED)
@pytest.mark.parametrize("was_tracked", [True, False])
def test_for_an_unclaimed_address_only_the_end_of_its_sandbox_is_evidence(case: str, was_tracked: bool) -> None:
    before, after, expected = UNCLAIMED[case]
    evidence = known(*(() if was_tracked else before), tracked=(ADDRESS,) if was_tracked else ())
    if was_tracked:
        evidence.apply(before)
        evidence.untrack(ADDRESS)
    assert kinds(evidence.apply(after)) == expected
    assert evidence.sizes()["claimed"] == 0


def test_an_unclaimed_address_missing_from_a_list_is_evidence_too() -> None:
    evidence = known(neighbour(), behind(), host_route(NEXT, address=Y), tracked=())
    found = evidence.replace(present(but=[LINKS[2], behind(), host_route(NEXT, address=Y)]))
    assert kinds(found) == [(ADDRESS, EvidenceKind.INTERFACE_REMOVED), (OTHER, EvidenceKind.ROUTE_REMOVED)]
    assert evidence.replace(present()) == []
