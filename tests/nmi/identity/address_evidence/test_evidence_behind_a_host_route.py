"""Reports about a pod behind a host route that are evidence of a new owner of its address, and others that are not."""

import pytest

from nmi.identity.address_evidence import Evidence, EvidenceKind
from nmi.node.rtnetlink import Link, Message, Route
from tests.nmi.identity.address_evidence.kernel_reports import (
    ADDRESS,
    NEXT,
    VETH,
    A,
    B,
    Y,
    host_route,
    kinds,
    known,
    neighbour,
    of_claimed_addresses,
    routed,
)

ROUTED_EVIDENCE: dict[str, tuple[Message, EvidenceKind]] = {
    "interface removed": (Link(VETH, "veth10", gone=True), EvidenceKind.INTERFACE_REMOVED),
    "route removed": (host_route(gone=True), EvidenceKind.ROUTE_REMOVED),
    "route to another interface": (host_route(NEXT), EvidenceKind.ROUTE_MOVED),
}


@pytest.mark.parametrize("case", ROUTED_EVIDENCE)
def test_evidence_behind_a_host_route(case: str) -> None:
    message, kind = ROUTED_EVIDENCE[case]
    assert routed().apply([message]) == [Evidence(ADDRESS, kind, "veth10")]


def test_a_better_route_to_another_interface_is_evidence_and_so_is_a_worse_replacement() -> None:
    evidence = known(host_route(priority=100))
    assert kinds(evidence.apply([host_route(NEXT, priority=50)])) == [(ADDRESS, EvidenceKind.ROUTE_MOVED)]
    assert kinds(evidence.apply([host_route(NEXT, priority=50, gone=True)])) == [(ADDRESS, EvidenceKind.ROUTE_MOVED)]


ROUTED_NOTHING: dict[str, list[Message]] = {
    "replaced by the same": [host_route()],
    "worse one to another interface": [host_route(NEXT, priority=100)],
    "worse one removed": [host_route(NEXT, priority=100), host_route(NEXT, priority=100, gone=True)],
    "a removed one that was another": [host_route(NEXT, gone=True)],
    "another address": [host_route(NEXT, address=Y), host_route(NEXT, address=Y, gone=True)],
    "a less specific one": [Route(bytes((10, 1, 0, 0)), 16, NEXT, 0), Route(bytes((10, 1, 0, 0)), 16, NEXT, 0, True)],
    "its neighbour expired": [neighbour(interface=VETH), neighbour(interface=VETH, gone=True)],
    "arp for it by another pod": [neighbour(A, interface=NEXT), neighbour(B, interface=NEXT)],
    "the interface changed": [Link(VETH, "veth10")],
}


@pytest.mark.parametrize("case", ROUTED_NOTHING)
def test_changes_behind_a_host_route_that_are_no_evidence_and_the_next_one_that_is(case: str) -> None:
    evidence = routed()
    assert of_claimed_addresses(evidence.apply(ROUTED_NOTHING[case])) == []
    assert kinds(evidence.apply([host_route(gone=True)])) in (
        [(ADDRESS, EvidenceKind.ROUTE_REMOVED)],
        [(ADDRESS, EvidenceKind.ROUTE_MOVED)],
    )


def test_a_link_layer_address_behind_a_host_route_is_evidence_too() -> None:
    evidence = known(host_route(), neighbour(interface=VETH))
    assert kinds(evidence.apply([neighbour(B, interface=VETH)])) == [(ADDRESS, EvidenceKind.LINK_LAYER_CHANGED)]
