"""Evidence with many pods and many addresses: its tables are bounded, and expired entries are no evidence."""

from nmi.identity.address_evidence import (
    FORWARDINGS_MAX,
    NEIGHBOURS_MAX,
    ROUTES_MAX,
    AddressEvidence,
    Evidence,
    EvidenceKind,
)
from nmi.node.rtnetlink import Link, Message, Route
from tests.nmi.identity.address_evidence.kernel_reports import (
    ADDRESS,
    BRIDGE,
    LINKS,
    SUBNET,
    VETH,
    B,
    behind,
    bridged,
    host_route,
    kinds,
    neighbour,
)


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
