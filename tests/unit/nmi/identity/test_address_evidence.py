"""Reports of the kernel and lists of its state that are evidence of a new owner of an address, and others.

Also for many addresses, for those that no known pod has, and after any history.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmi.identity import address_evidence
from nmi.identity.address_evidence import AddressEvidence, Evidence, EvidenceKind
from nmi.node.rtnetlink import ForwardingEntry, Link, Message, Neighbour, Route, Unresolved

ADDRESS, OTHER = "10.1.0.5", "10.1.0.6"
X, Y = bytes((10, 1, 0, 5)), bytes((10, 1, 0, 6))
A, B = b"\x02\x00\x00\x00\x00\x0a", b"\x02\x00\x00\x00\x00\x0b"
UPLINK, BRIDGE, VETH, NEXT = 2, 3, 10, 11
NAMES = {UPLINK: "eth0", BRIDGE: "cni0", VETH: "veth10", NEXT: "veth11"}
LINKS = [Link(index, name) for index, name in NAMES.items()]
SUBNET = Route(bytes((10, 1, 0, 0)), 24, BRIDGE, 0)
DEFAULT = Route(bytes(4), 0, UPLINK, 100)


def neighbour(
    link_layer: bytes = A, *, address: bytes = X, interface: int = BRIDGE, confirmed: bool = True, gone: bool = False
) -> Neighbour:
    return Neighbour(address, interface, link_layer, confirmed, gone)


def behind(port: int = VETH, link_layer: bytes = A, *, vlan: int = 0, gone: bool = False) -> ForwardingEntry:
    return ForwardingEntry(link_layer, port, BRIDGE, vlan, gone)


def host_route(interface: int = VETH, *, address: bytes = X, priority: int = 0, gone: bool = False) -> Route:
    return Route(address, 32, interface, priority, gone)


def known(*messages: Message, tracked: Iterable[str] = (ADDRESS,)) -> AddressEvidence:
    """Return the state after a list, then a pod with the address, then reports."""
    evidence = AddressEvidence()
    assert evidence.replace([*LINKS, SUBNET, DEFAULT]) == []
    for address in tracked:
        evidence.track(address)
    assert evidence.apply(messages) == []
    return evidence


def kinds(evidence: Iterable[Evidence]) -> list[tuple[str, EvidenceKind]]:
    return [(item.address, item.kind) for item in evidence]


def of_claimed_addresses(evidence: Iterable[Evidence]) -> list[Evidence]:
    return [item for item in evidence if item.address == ADDRESS]


def present(*, but: Iterable[Message] = (), more: Iterable[Message] = ()) -> list[Message]:
    left_out = list(but)
    everything: list[Message] = [*LINKS, SUBNET, DEFAULT, host_route(NEXT, address=Y), neighbour(), behind()]
    return [message for message in everything if message not in left_out] + list(more)


BRIDGED: list[Message] = [behind(), neighbour()]
ROUTED: list[Message] = [host_route()]
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
    evidence = known(*BRIDGED)
    assert evidence.apply(BRIDGED_NOTHING[case]) == []
    name = "renamed" if case == "port changed" else "veth10"
    signs = of_claimed_addresses(evidence.apply([Link(VETH, name, gone=True)]))
    assert signs == [Evidence(ADDRESS, EvidenceKind.INTERFACE_REMOVED, name)]


EVIDENCE: dict[str, tuple[list[Message], Message, EvidenceKind, str]] = {
    "port removed": (BRIDGED, Link(VETH, "veth10", gone=True), EvidenceKind.INTERFACE_REMOVED, "veth10"),
    "bridge removed": (BRIDGED, Link(BRIDGE, "cni0", gone=True), EvidenceKind.INTERFACE_REMOVED, "cni0"),
    "another link-layer address": (BRIDGED, neighbour(B), EvidenceKind.LINK_LAYER_CHANGED, "cni0"),
    "another one, not confirmed": (
        BRIDGED,
        neighbour(B, confirmed=False),
        EvidenceKind.LINK_LAYER_CHANGED,
        "cni0",
    ),
    "another port": (BRIDGED, behind(NEXT), EvidenceKind.PORT_MOVED, "veth10"),
    "interface removed": (ROUTED, Link(VETH, "veth10", gone=True), EvidenceKind.INTERFACE_REMOVED, "veth10"),
    "route removed": (ROUTED, host_route(gone=True), EvidenceKind.ROUTE_REMOVED, "veth10"),
    "route to another interface": (ROUTED, host_route(NEXT), EvidenceKind.ROUTE_MOVED, "veth10"),
    "link-layer address behind a host route": (
        [host_route(), neighbour(interface=VETH)],
        neighbour(B, interface=VETH),
        EvidenceKind.LINK_LAYER_CHANGED,
        "veth10",
    ),
}


@pytest.mark.parametrize("case", EVIDENCE)
def test_a_report_that_is_evidence(case: str) -> None:
    before, message, kind, interface = EVIDENCE[case]
    assert known(*before).apply([message]) == [Evidence(ADDRESS, kind, interface)]


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
    evidence = known(*ROUTED)
    assert of_claimed_addresses(evidence.apply(ROUTED_NOTHING[case])) == []
    assert kinds(evidence.apply([host_route(gone=True)])) in (
        [(ADDRESS, EvidenceKind.ROUTE_REMOVED)],
        [(ADDRESS, EvidenceKind.ROUTE_MOVED)],
    )


def test_removal_of_a_shared_interface_is_evidence_for_all_its_addresses() -> None:
    evidence = known(neighbour(A), neighbour(B, address=Y), tracked=(ADDRESS, OTHER))
    assert evidence.apply([Link(BRIDGE, "cni0")]) == []
    signs = evidence.apply([Link(BRIDGE, "cni0", gone=True)])
    assert sorted(kinds(signs)) == [(ADDRESS, EvidenceKind.INTERFACE_REMOVED), (OTHER, EvidenceKind.INTERFACE_REMOVED)]


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
    evidence = known(*BRIDGED)
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
    signs = evidence.replace(present(but=[LINKS[2], behind(), host_route(NEXT, address=Y)]))
    assert kinds(signs) == [(ADDRESS, EvidenceKind.INTERFACE_REMOVED), (OTHER, EvidenceKind.ROUTE_REMOVED)]
    assert evidence.replace(present()) == []


UNRESOLVED = {
    "a pod behind a bridge that has sent nothing": (known(), [Unresolved(X, BRIDGE)]),
    "one whose link-layer address the kernel has confirmed": (known(neighbour()), []),
    "one whose confirmed entry has become stale": (known(neighbour(), neighbour(confirmed=False)), []),
    "one behind a host route": (known(*ROUTED), []),
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
    evidence = known(*BRIDGED)
    evidence.apply([neighbour(b"", gone=True), behind(gone=True)])
    assert evidence.unresolved() == []
    assert kinds(evidence.apply([Link(VETH, "veth10", gone=True)])) == [(ADDRESS, EvidenceKind.INTERFACE_REMOVED)]
    assert evidence.unresolved() == [Unresolved(X, BRIDGE)]


def test_arp_for_endless_new_addresses_fills_no_memory_and_evicts_no_claimed_address() -> None:
    evidence = known(*BRIDGED)
    for number in range(address_evidence.NEIGHBOURS_MAX + 500):
        made = number.to_bytes(4, "big")
        assert evidence.apply([neighbour(b"\x04" + made, address=made), behind(VETH, b"\x04" + made)]) == []
    for number in range(address_evidence.ROUTES_MAX + 500):
        assert evidence.apply([host_route(address=(0xB0000000 + number).to_bytes(4, "big"))]) == []
    sizes = evidence.sizes()
    assert sizes["neighbours"] == address_evidence.NEIGHBOURS_MAX
    assert sizes["forwardings"] == address_evidence.FORWARDINGS_MAX
    assert sizes["routes"] == address_evidence.ROUTES_MAX
    assert kinds(evidence.apply([neighbour(B)])) == [(ADDRESS, EvidenceKind.LINK_LAYER_CHANGED)]


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
def test_any_reports_are_handled_unclaimed_addresses_only_have_ends_and_an_expiry_is_no_evidence(
    steps: list[Step],
) -> None:
    evidence, tracked = AddressEvidence(), set[str]()
    for step in steps:
        if isinstance(step, Claim):
            (tracked.add if step.begins else tracked.discard)(step.address)
        assert {item.address for item in take(evidence, step) if not item.kind.ends} <= tracked
        sizes = evidence.sizes()
        assert sizes["claimed"] == len(tracked)
        assert sizes["routes"] == sum(len(hops) for by in evidence._routes.values() for hops in by.values())
    forgotten: list[Message] = [Neighbour(address, mac, b"", False, True) for address, mac in evidence._neighbours]
    forgotten += [
        ForwardingEntry(link_layer, port, bridge, vlan, True)
        for (link_layer, bridge), (vlan, port) in evidence._forwardings.items()
    ]
    assert evidence.apply(forgotten) == []
