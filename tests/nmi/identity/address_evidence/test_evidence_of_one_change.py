"""The addresses for which one change is evidence, and the owner to which it applies."""

import pytest

from nmi.identity.address_evidence import AddressEvidence, EvidenceKind
from nmi.node.rtnetlink import Link, Message
from tests.nmi.identity.address_evidence.kernel_reports import (
    ADDRESS,
    BRIDGE,
    LINKS,
    NEXT,
    OTHER,
    SUBNET,
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
)


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
