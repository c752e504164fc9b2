"""Addresses that the kernel must resolve, so that it reports the end of their sandbox."""

import pytest

from nmi.identity.address_evidence import EvidenceKind
from nmi.node.rtnetlink import Link, Unresolved
from tests.nmi.identity.address_evidence.kernel_reports import (
    ADDRESS,
    BRIDGE,
    VETH,
    X,
    behind,
    bridged,
    kinds,
    known,
    neighbour,
    routed,
)

UNRESOLVED = {
    "a pod behind a bridge that has sent nothing": (known(), [Unresolved(X, BRIDGE)]),
    "one whose link-layer address the kernel has confirmed": (known(neighbour()), []),
    "one whose confirmed entry has become stale": (known(neighbour(), neighbour(confirmed=False)), []),
    "one behind a host route": (routed(), []),
    "one that only the default route leads to": (known(tracked=["192.0.2.1"]), []),
    "an address that is no IPv4 address": (known(tracked=["fd00::1"]), []),
}


@pytest.mark.parametrize("case", UNRESOLVED)
def test_addresses_whose_end_the_kernel_would_not_report_are_unresolved(case: str) -> None:
    evidence, expected = UNRESOLVED[case]
    assert evidence.unresolved() == expected


def test_an_entry_left_by_a_former_owner_is_unresolved_until_the_kernel_confirms_it() -> None:
    evidence = known(tracked=())
    evidence.apply([neighbour()])
    evidence.track(ADDRESS)
    assert evidence.unresolved() == [Unresolved(X, BRIDGE)]
    assert evidence.apply([neighbour()]) == []
    assert evidence.unresolved() == []


def test_an_expired_entry_stays_resolved_and_an_ended_sandbox_is_unresolved() -> None:
    evidence = bridged()
    evidence.apply([neighbour(b"", gone=True), behind(gone=True)])
    assert evidence.unresolved() == []
    assert kinds(evidence.apply([Link(VETH, "veth10", gone=True)])) == [(ADDRESS, EvidenceKind.INTERFACE_REMOVED)]
    assert evidence.unresolved() == [Unresolved(X, BRIDGE)]
