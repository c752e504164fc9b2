"""Evidence for many addresses, for those that no known pod has, and after any history."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmi.identity.address_evidence import (
    FORWARDINGS_MAX,
    NEIGHBOURS_MAX,
    ROUTES_MAX,
    AddressEvidence,
    Evidence,
    EvidenceKind,
)
from nmi.node.rtnetlink import ForwardingEntry, Link, Message, Neighbour, Route, Unresolved
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
    X,
    Y,
    behind,
    bridged,
    host_route,
    kinds,
    known,
    neighbour,
    present,
    routed,
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


def test_arp_for_endless_new_addresses_fills_no_memory_and_evicts_no_claimed_address() -> None:
    evidence = bridged()
    for number in range(NEIGHBOURS_MAX + 500):
        made = number.to_bytes(4, "big")
        assert evidence.apply([neighbour(b"\x04" + made, address=made), behind(VETH, b"\x04" + made)]) == []
    for number in range(ROUTES_MAX + 500):
        assert evidence.apply([host_route(address=(0xB0000000 + number).to_bytes(4, "big"))]) == []
    sizes = evidence.sizes()
    assert sizes["neighbours"] == NEIGHBOURS_MAX
    assert sizes["forwardings"] == FORWARDINGS_MAX
    assert sizes["routes"] == ROUTES_MAX
    assert kinds(evidence.apply([neighbour(B)])) == [(ADDRESS, EvidenceKind.LINK_LAYER_CHANGED)]


def test_evidence_does_not_affect_250_pods_through_every_expiry() -> None:
    evidence = AddressEvidence()
    pods = [(bytes((10, 1, 1, n)), f"10.1.1.{n}", b"\x06\0\0\0\0" + bytes((n,)), 1000 + n) for n in range(250)]
    evidence.replace([*LINKS, SUBNET, Route(bytes((10, 1, 1, 0)), 24, BRIDGE, 0)])
    found: list[Evidence] = []
    for packed, address, mac, port in pods:
        reports: list[Message] = [
            Link(port, f"veth{port}"),
            behind(port, mac),
            neighbour(mac, address=packed, confirmed=False),
        ]
        found += evidence.apply(reports)
        evidence.track(address)
    for _ in range(3):
        for packed, _, mac, port in pods:
            found += evidence.apply(
                [
                    neighbour(mac, address=packed),
                    neighbour(mac, address=packed, confirmed=False),
                    neighbour(b"", address=packed, confirmed=False),
                    neighbour(mac, address=packed, gone=True),
                    behind(port, mac, gone=True),
                    behind(port, mac),
                    Link(port, f"veth{port}"),
                ]
            )
    assert found == []
    assert evidence.sizes()["attached"] == 250


@dataclass(frozen=True)
class Claim:
    """A pod's beginning or end at an address."""

    address: str
    begins: bool


Step = Message | Claim | list[Message]
ADDRESSES = st.sampled_from([X, Y])
INTERFACES = st.sampled_from([UPLINK, BRIDGE, VETH, NEXT, 99])
MACS = st.sampled_from([A, B, b""])
PREFIXES = st.sampled_from([(X, 32), (Y, 32), (bytes((10, 1, 0, 0)), 24), (bytes(4), 0)])
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Link, INTERFACES, st.just("l"), st.booleans()),
    st.builds(Neighbour, ADDRESSES, INTERFACES, MACS, st.booleans(), st.booleans()),
    st.builds(ForwardingEntry, st.sampled_from([A, B]), INTERFACES, INTERFACES, st.sampled_from([0, 1]), st.booleans()),
    st.builds(
        lambda prefix, output, priority, gone: Route(prefix[0], prefix[1], output, priority, gone),
        PREFIXES,
        INTERFACES,
        st.sampled_from([0, 100]),
        st.booleans(),
    ),
)
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        MESSAGES,
        st.builds(Claim, st.sampled_from([ADDRESS, OTHER]), st.booleans()),
        st.lists(MESSAGES, max_size=8),
    ),
    max_size=40,
)


def take(evidence: AddressEvidence, step: Step) -> list[Evidence]:
    if isinstance(step, Claim):
        (evidence.track if step.begins else evidence.untrack)(step.address)
        return []
    return evidence.replace(step) if isinstance(step, list) else evidence.apply([step])


@settings(deadline=None)  # a busy machine
@given(STEPS)
def test_any_reports_are_handled_and_unclaimed_addresses_only_have_ends(
    steps: list[Step],
) -> None:
    evidence, tracked = AddressEvidence(), set[str]()
    for step in steps:
        if isinstance(step, Claim):
            (tracked.add if step.begins else tracked.discard)(step.address)
        assert {each.address for each in take(evidence, step) if not each.kind.ends} <= tracked
        sizes = evidence.sizes()
        assert sizes["claimed"] == len(tracked)
        assert sizes["routes"] == sum(len(each) for by in evidence._routes.values() for each in by.values())


@settings(deadline=None)  # a busy machine
@given(STEPS)
def test_after_any_history_an_expiry_is_no_evidence(steps: list[Step]) -> None:
    evidence = AddressEvidence()
    for step in steps:
        take(evidence, step)
    forgotten: list[Message] = [Neighbour(address, each, b"", False, True) for address, each in evidence._neighbours]
    forgotten += [
        ForwardingEntry(link_layer, port, bridge, vlan, True)
        for (link_layer, bridge), (vlan, port) in evidence._forwardings.items()
    ]
    assert evidence.apply(forgotten) == []
