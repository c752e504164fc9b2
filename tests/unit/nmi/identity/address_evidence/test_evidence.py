"""Reports of the kernel and lists of its state that are evidence of a new owner of an address, and others."""

import pytest

from nmi.identity.address_evidence import AddressEvidence, Evidence, EvidenceKind
from nmi.node.rtnetlink import Link, Message, Route
from tests.unit.nmi.identity.address_evidence.kernel_reports import (
    ADDRESS,
    BRIDGE,
    LINKS,
    NEXT,
    OTHER,
    SUBNET,
    UPLINK,
    VETH,
    A,
    B,
    Y,
    behind,
    bridged,
    host_route,
    kinds,
    known,
    neighbour,
    of_claimed_addresses,
    present,
    routed,
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


def test_removal_of_a_shared_interface_is_evidence_for_all_its_addresses() -> None:
    evidence = known(neighbour(A), neighbour(B, address=Y), tracked=(ADDRESS, OTHER))
    assert evidence.apply([Link(BRIDGE, "cni0")]) == []
    found = evidence.apply([Link(BRIDGE, "cni0", gone=True)])
    assert sorted(kinds(found)) == [(ADDRESS, EvidenceKind.INTERFACE_REMOVED), (OTHER, EvidenceKind.INTERFACE_REMOVED)]


def test_one_change_is_reported_as_evidence_once() -> None:
    evidence = known(host_route(), neighbour(interface=VETH))
    gone: list[Message] = [Link(VETH, "veth10", gone=True), host_route(gone=True), neighbour(interface=VETH, gone=True)]
    assert kinds(evidence.apply(gone)) == [(ADDRESS, EvidenceKind.INTERFACE_REMOVED)]


@pytest.mark.parametrize("state", [True, False])
def test_kernel_entries_of_a_former_owner_are_no_evidence_against_the_next(state: bool) -> None:
    """Its first packet corrects the neighbour, however long the new pod was silent before."""
    evidence = AddressEvidence()
    evidence.replace([*LINKS, SUBNET, neighbour(A, confirmed=state), behind(VETH)])
    evidence.track(ADDRESS)
    reports: list[Message] = [neighbour(A, confirmed=False), behind(NEXT, B), neighbour(B, confirmed=False)]
    assert evidence.apply(reports) == []
    assert kinds(evidence.apply([neighbour(A, confirmed=False)])) == [(ADDRESS, EvidenceKind.LINK_LAYER_CHANGED)]


def test_a_new_claim_starts_with_the_present_kernel_state() -> None:
    evidence = bridged()
    evidence.track(ADDRESS)
    assert evidence.apply([neighbour(B, confirmed=False)]) == []


@pytest.mark.parametrize("address", ["fd00::1", "", "none", "10.1.0.500", "010.1.0.5"])
def test_an_invalid_ipv4_address_has_no_evidence(address: str) -> None:
    evidence = AddressEvidence()
    evidence.track(address)
    evidence.untrack(address)
    assert evidence.sizes()["claimed"] == 0


LISTED: dict[str, tuple[list[Message], list[tuple[str, EvidenceKind]]]] = {
    "the same": (present(), []),
    "neighbours forgotten": (present(but=[neighbour(), behind()]), []),
    "the port is gone": (present(but=[LINKS[2], behind()]), [(ADDRESS, EvidenceKind.INTERFACE_REMOVED)]),
    "the bridge is gone": (present(but=[LINKS[1], SUBNET]), [(ADDRESS, EvidenceKind.INTERFACE_REMOVED)]),
    "another link-layer address": (
        present(but=[neighbour()], more=[neighbour(B, confirmed=False)]),
        [(ADDRESS, EvidenceKind.LINK_LAYER_CHANGED)],
    ),
    "another port": (present(but=[behind()], more=[behind(NEXT)]), [(ADDRESS, EvidenceKind.PORT_MOVED)]),
    "the other's route is gone": (present(but=[host_route(NEXT, address=Y)]), [(OTHER, EvidenceKind.ROUTE_REMOVED)]),
    "the other's route moved": (
        present(but=[host_route(NEXT, address=Y)], more=[host_route(VETH, address=Y)]),
        [(OTHER, EvidenceKind.ROUTE_MOVED)],
    ),
    "the other's interface is gone": (
        present(but=[LINKS[3], host_route(NEXT, address=Y)]),
        [(OTHER, EvidenceKind.INTERFACE_REMOVED)],
    ),
}


@pytest.mark.parametrize("case", LISTED)
def test_a_difference_in_a_list_counts_like_a_report(case: str) -> None:
    listed, expected = LISTED[case]
    evidence = known(behind(), neighbour(), host_route(NEXT, address=Y), tracked=(ADDRESS, OTHER))
    assert kinds(evidence.replace(listed)) == expected
