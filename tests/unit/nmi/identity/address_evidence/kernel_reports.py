"""Reports of the kernel about two addresses behind a bridge or a host route, and the evidence in them."""

from collections.abc import Iterable

from nmi.identity.address_evidence import AddressEvidence, Evidence, EvidenceKind
from nmi.node.rtnetlink import ForwardingEntry, Link, Message, Neighbour, Route

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


def bridged() -> AddressEvidence:
    return known(behind(), neighbour())


def routed() -> AddressEvidence:
    return known(host_route())


def kinds(found: Iterable[Evidence]) -> list[tuple[str, EvidenceKind]]:
    return [(each.address, each.kind) for each in found]


def of_claimed_addresses(found: Iterable[Evidence]) -> list[Evidence]:
    return [each for each in found if each.address == ADDRESS]


def present(*, but: Iterable[Message] = (), more: Iterable[Message] = ()) -> list[Message]:
    left_out = list(but)
    everything: list[Message] = [*LINKS, SUBNET, DEFAULT, host_route(NEXT, address=Y), neighbour(), behind()]
    return [each for each in everything if each not in left_out] + list(more)
