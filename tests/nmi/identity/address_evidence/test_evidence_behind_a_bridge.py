"""Reports about a pod behind a bridge that are evidence of a new owner of its address, and others that are not."""

import pytest

from nmi.identity.address_evidence import Evidence, EvidenceKind
from nmi.node.rtnetlink import Link, Message, Route
from tests.nmi.identity.address_evidence.kernel_reports import (
    ADDRESS,
    BRIDGE,
    NEXT,
    SUBNET,
    UPLINK,
    VETH,
    A,
    B,
    Y,
    behind,
    bridged,
    host_route,
    neighbour,
    of_claimed_addresses,
)

BRIDGED_EVIDENCE: dict[str, tuple[Message, EvidenceKind, str]] = {
    "port removed": (Link(VETH, "veth10", gone=True), EvidenceKind.INTERFACE_REMOVED, "veth10"),
    "bridge removed": (Link(BRIDGE, "cni0", gone=True), EvidenceKind.INTERFACE_REMOVED, "cni0"),
    "another link-layer address": (neighbour(B), EvidenceKind.LINK_LAYER_CHANGED, "cni0"),
    "another one, not confirmed": (neighbour(B, confirmed=False), EvidenceKind.LINK_LAYER_CHANGED, "cni0"),
    "another port": (behind(NEXT), EvidenceKind.PORT_MOVED, "veth10"),
}


@pytest.mark.parametrize("case", BRIDGED_EVIDENCE)
def test_evidence_behind_a_bridge(case: str) -> None:
    message, kind, interface = BRIDGED_EVIDENCE[case]
    assert bridged().apply([message]) == [Evidence(ADDRESS, kind, interface)]


BRIDGED_NOTHING: dict[str, list[Message]] = {
    "neighbour expired": [neighbour(gone=True)],
    "neighbour failed": [neighbour(b"", confirmed=False), neighbour(b"", confirmed=False, gone=True)],
    "neighbour stale": [neighbour(confirmed=False)],
    "neighbour expired and learnt again": [neighbour(gone=True), neighbour(confirmed=False), neighbour()],
    "forwarding aged": [behind(gone=True)],
    "forwarding aged and learnt again": [behind(gone=True), behind()],
    "forwarding in another vlan": [behind(NEXT, vlan=7)],
    "port changed": [Link(VETH, "veth10"), Link(VETH, "renamed")],
    "bridge changed": [Link(BRIDGE, "cni0")],
    "another interface removed": [Link(NEXT, "veth11", gone=True), Link(UPLINK, "eth0", gone=True)],
    "another pod's neighbour": [neighbour(B, address=Y), neighbour(A, address=Y)],
    "another pod's port": [behind(NEXT, B), behind(VETH, B)],
    "arp on an interface that the address is not routed to": [
        neighbour(B, interface=UPLINK),
        neighbour(A, interface=UPLINK),
        neighbour(B, interface=NEXT),
    ],
    "arp on an interface that is not known": [neighbour(B, interface=99)],
    "forwarding to an interface that is not known": [behind(99)],
    "route to its subnet gone and back": [
        Route(SUBNET.prefix, 24, BRIDGE, 0, gone=True),
        SUBNET,
        neighbour(confirmed=False),
    ],
    "another route": [Route(bytes((10, 2, 0, 0)), 16, UPLINK, 0), host_route(NEXT, address=Y)],
}


@pytest.mark.parametrize("case", BRIDGED_NOTHING)
def test_changes_behind_a_bridge_that_are_no_evidence_and_the_next_one_that_is(case: str) -> None:
    evidence = bridged()
    assert evidence.apply(BRIDGED_NOTHING[case]) == []
    name = "renamed" if case == "port changed" else "veth10"
    found = of_claimed_addresses(evidence.apply([Link(VETH, name, gone=True)]))
    assert found == [Evidence(ADDRESS, EvidenceKind.INTERFACE_REMOVED, name)]
