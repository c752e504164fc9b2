"""Whether an IPv4 address has changed hands, by what this node's kernel reports of its network. Pure.

A pod's address is attached to the node by an interface of the node: the output interface of a route to this address
alone (point-to-point CNIs), or the port of a bridge behind which the pod's link-layer address is. When that interface
is removed, the route goes elsewhere, or another link-layer address answers, what is at the address now is another
sandbox. What the kernel merely forgets (an expired neighbour, an aged forwarding entry) is no evidence: it stays known
here for as long as a pod claims the address.

Of an address that no pod claims, only the removal of its interface, or of the route to it alone, is evidence: the watch
may report the pod later than the kernel reports its end. What such an address is behind is found in the kernel's own
tables. There a forgotten forwarding entry still counts, since a bridge forgets those of a port before it reports that
the port is removed.

Everything is bounded whatever pods send: what no pod claims is dropped with the kernel's own entry, or when the
tables are full.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address
from typing import Final, TypeVar

from nmi.node.rtnetlink import Forwarding, Link, Message, Neighbour, Route, Unresolved

NEIGHBOURS_MAX: Final = 4096
FORWARDINGS_MAX: Final = 4096
ROUTES_MAX: Final = 16384
LINKS_MAX: Final = 16384
_BITS: Final = 32

K = TypeVar("K")
V = TypeVar("V")


class EvidenceKind(StrEnum):
    """What was seen. Closed set: it is a metric label."""

    INTERFACE_REMOVED = "interface_removed"
    ROUTE_REMOVED = "route_removed"
    ROUTE_MOVED = "route_moved"
    LINK_LAYER_CHANGED = "link_layer_changed"
    PORT_MOVED = "port_moved"

    @property
    def ends(self) -> bool:
        """Whether it can only be the end of a sandbox. The others may be the first packet of the next one."""
        return self in {EvidenceKind.INTERFACE_REMOVED, EvidenceKind.ROUTE_REMOVED}


@dataclass(frozen=True, slots=True)
class Evidence:
    """That *address* has changed hands, or is about to."""

    address: str
    kind: EvidenceKind
    interface: str
    """The interface that it was behind; empty where its name is not known."""


class _Attachment:
    """How a claimed address is attached, as far as known. Interfaces are indices, 0 where unknown."""

    __slots__ = ("address", "host", "interface", "link_layer", "port", "settled", "vlan")

    def __init__(self, address: str) -> None:
        self.address = address
        self.host = 0
        """The output interface of the route to this address alone."""
        self.forget_neighbour()

    def forget_neighbour(self) -> None:
        self.interface = 0
        """The interface on which the link-layer address was seen."""
        self.link_layer = b""
        self.settled = False
        """Whether the link-layer address was reported since the claim. Before that it may be a former owner's."""
        self.port = 0
        self.vlan = 0

    def is_behind(self, interface: int) -> bool:
        return interface in (self.host, self.interface, self.port)


class AddressEvidence:
    """What is known of the node's network, and of each claimed address. Not thread-safe."""

    def __init__(self) -> None:
        self._links: dict[int, str] = {}
        self._routes: dict[int, dict[int, dict[int, int]]] = {}
        """Prefix length to prefix to priority to output interface."""
        self._routes_over: dict[int, set[tuple[int, int, int]]] = {}
        """Output interface to prefix length, prefix and priority."""
        self._route_count = 0
        self._neighbours: dict[tuple[bytes, int], bytes] = {}
        self._forwardings: dict[tuple[bytes, int], tuple[int, int]] = {}
        """Link-layer address and bridge to VLAN and port."""
        self._forgotten: dict[tuple[bytes, int], int] = {}
        """Link-layer address and bridge to the port behind which it was last, where the bridge has forgotten it."""
        self._attachments: dict[bytes, _Attachment] = {}
        self._behind: dict[bytes, set[bytes]] = {}
        """Link-layer address to the claimed addresses that have it."""

    # Claims.

    def claim(self, address: str) -> None:
        """Another pod claims *address*: what is known begins with what the kernel knows now."""
        packed = _packed(address)
        if packed is None:
            return
        self.release(address)
        attachment = self._attachments[packed] = _Attachment(address)
        attachment.host = self._output(packed, only_length=_BITS)
        interface = attachment.host or self._output(packed)
        link_layer = self._neighbours.get((packed, interface))
        if link_layer:
            self._learn(packed, attachment, interface, link_layer)

    def release(self, address: str) -> None:
        """No pod claims *address* any more."""
        packed = _packed(address)
        attachment = self._attachments.pop(packed, None) if packed is not None else None
        if packed is not None and attachment is not None:
            self._unlearn(packed, attachment)

    def unresolved(self) -> list[Unresolved]:
        """Return the claimed addresses that would end without evidence: no host route, no current link-layer address.

        Addresses that only the default route leads to are left out: they are not on this node's network.
        """
        found = []
        for packed, attachment in self._attachments.items():
            if not attachment.host and not attachment.settled:
                interface = self._output(packed, default=False)
                if interface:
                    found.append(Unresolved(packed, interface))
        return found

    # Reports.

    def apply(self, messages: Iterable[Message]) -> list[Evidence]:
        """Take reports in their order; what they are evidence of."""
        found: list[Evidence] = []
        for message in messages:
            match message:
                case Neighbour():
                    found += self._neighbour(message, reported=True)
                case Forwarding():
                    found += self._forwarding(message)
                case Link():
                    found += self._link(message)
                case Route():
                    found += self._route(message)
        return found

    def replace(self, messages: Iterable[Message]) -> list[Evidence]:
        """Take a list of everything there is, after reports may have been lost; what it is evidence of."""
        listed: Sequence[Message] = list(messages)
        links = {each.index: each.name for each in listed if isinstance(each, Link)}
        found: list[Evidence] = []
        for index in self._links.keys() - links.keys():
            found += self._link(Link(index, self._links[index], gone=True))
        routed = {number.to_bytes(4, "big"): by[min(by)] for number, by in self._routes.get(_BITS, {}).items()}
        self._routes.clear()
        self._routes_over.clear()
        self._route_count = 0
        self._neighbours.clear()
        self._forwardings.clear()
        self._forgotten.clear()
        self._links = {index: links[index] for index, _ in zip(links, range(LINKS_MAX), strict=False)}
        for each in listed:
            if isinstance(each, Route):
                self._set_route(each)
        for packed, attachment in self._attachments.items():
            found += self._rerouted(packed, attachment)
        for packed in routed.keys() - self._attachments.keys():
            found += self._unrouted(packed, routed[packed])
        for each in listed:
            if isinstance(each, Neighbour):
                found += self._neighbour(each, reported=False)
            elif isinstance(each, Forwarding):
                found += self._forwarding(each)
        return found

    def sizes(self) -> dict[str, int]:
        """How much is kept of each kind."""
        return {
            "interfaces": len(self._links),
            "routes": self._route_count,
            "neighbours": len(self._neighbours),
            "forwardings": len(self._forwardings) + len(self._forgotten),
            "claimed": len(self._attachments),
            "attached": sum(1 for each in self._attachments.values() if each.host or each.interface),
        }

    # Links.

    def _link(self, link: Link) -> list[Evidence]:
        if not link.gone:
            if link.index in self._links or len(self._links) < LINKS_MAX:
                self._links[link.index] = link.name
            return []
        name = self._links.pop(link.index, link.name)
        found = [
            Evidence(str(IPv4Address(packed)), EvidenceKind.INTERFACE_REMOVED, name)
            for packed in self._unclaimed(link.index)
        ]
        for packed, attachment in self._attachments.items():
            if attachment.is_behind(link.index):
                found.append(Evidence(attachment.address, EvidenceKind.INTERFACE_REMOVED, name))
                attachment.host = 0
                self._unlearn(packed, attachment)
        for key in [key for key, port in self._forgotten.items() if port == link.index]:
            del self._forgotten[key]
        # IPv4 routes go with their interface without a report.
        for length, prefix, priority in self._routes_over.pop(link.index, ()):
            self._drop_route(length, prefix, priority)
        return found

    def _unclaimed(self, interface: int) -> set[bytes]:
        """The addresses behind *interface* that no pod claims, as far as the kernel's tables show them."""
        found = {
            prefix.to_bytes(4, "big")
            for length, prefix, priority in self._routes_over.get(interface, ())
            if length == _BITS and self._routes[length][prefix][min(self._routes[length][prefix])] == interface
        }
        ports = ((key, port) for key, (_, port) in self._forwardings.items())
        behind = {key for key, port in (*ports, *self._forgotten.items()) if port == interface}
        for (packed, on), link_layer in self._neighbours.items():
            if on == interface or (link_layer, on) in behind:
                found.add(packed)
        return found - self._attachments.keys()

    # Routes.

    def _route(self, route: Route) -> list[Evidence]:
        before = self._output(route.prefix, only_length=_BITS) if route.length == _BITS else 0
        self._set_route(route)
        if route.length != _BITS:
            return []
        attachment = self._attachments.get(route.prefix)
        if attachment is not None:
            return self._rerouted(route.prefix, attachment)
        return self._unrouted(route.prefix, before)

    def _unrouted(self, packed: bytes, before: int) -> list[Evidence]:
        """Evidence of an unclaimed address whose route led to the interface *before* (0: there was none)."""
        if not before or self._output(packed, only_length=_BITS):
            return []
        return [Evidence(str(IPv4Address(packed)), EvidenceKind.ROUTE_REMOVED, self._links.get(before, ""))]

    def _set_route(self, route: Route) -> None:
        """A second one with the same prefix and priority takes the first one's place.

        The kernel does not report the end of a route whose interface went down, and refuses a second one otherwise.
        """
        prefix = int.from_bytes(route.prefix, "big") >> (_BITS - route.length)
        key = (route.length, prefix, route.priority)
        before = self._routes.get(route.length, {}).get(prefix, {}).get(route.priority)
        if route.gone:
            if before == route.interface:
                self._routes_over[before].discard(key)
                self._drop_route(*key)
            return
        if before is None and self._route_count >= ROUTES_MAX:
            return
        if before is None:
            self._route_count += 1
        else:
            self._routes_over[before].discard(key)
        self._routes.setdefault(route.length, {}).setdefault(prefix, {})[route.priority] = route.interface
        self._routes_over.setdefault(route.interface, set()).add(key)

    def _drop_route(self, length: int, prefix: int, priority: int) -> None:
        by_priority = self._routes[length][prefix]
        del by_priority[priority]
        self._route_count -= 1
        if not by_priority:
            del self._routes[length][prefix]

    def _rerouted(self, packed: bytes, attachment: _Attachment) -> list[Evidence]:
        before, now = attachment.host, self._output(packed, only_length=_BITS)
        if before == now:
            return []
        attachment.host = now
        if attachment.interface not in (0, now):
            self._unlearn(packed, attachment)
        if not before:
            return []
        kind = EvidenceKind.ROUTE_MOVED if now else EvidenceKind.ROUTE_REMOVED
        return [Evidence(attachment.address, kind, self._links.get(before, ""))]

    def _output(self, packed: bytes, *, only_length: int | None = None, default: bool = True) -> int:
        """The output interface of the most specific route to the address, 0 where there is none."""
        number = int.from_bytes(packed, "big")
        lengths = sorted(self._routes, reverse=True) if only_length is None else [only_length]
        for length in lengths:
            if not length and not default:
                continue
            by_priority = self._routes.get(length, {}).get(number >> (_BITS - length))
            if by_priority:
                return by_priority[min(by_priority)]
        return 0

    # Neighbours and forwarding databases.

    def _neighbour(self, neighbour: Neighbour, *, reported: bool) -> list[Evidence]:
        """*reported*: as a change, which is about the present; else listed, with what may be old."""
        key = (neighbour.address, neighbour.interface)
        known = key in self._neighbours
        if neighbour.gone:
            self._neighbours.pop(key, None)
            return []
        if not neighbour.link_layer or neighbour.interface not in self._links:
            return []
        _put(self._neighbours, key, neighbour.link_layer, NEIGHBOURS_MAX)
        attachment = self._attachments.get(neighbour.address)
        if attachment is None or not self._leads_to(neighbour, attachment):
            return []
        return self._answered(neighbour, attachment, current=reported and (neighbour.confirmed or not known))

    def _leads_to(self, neighbour: Neighbour, attachment: _Attachment) -> bool:
        """Whether the address is routed to that interface. A pod may send ARP for any address on its own."""
        expected = attachment.host or self._output(neighbour.address)
        return expected in (0, neighbour.interface)

    def _answered(self, neighbour: Neighbour, attachment: _Attachment, *, current: bool) -> list[Evidence]:
        """The link-layer address of a claimed address. *current*: it is no older than the report."""
        if attachment.link_layer == neighbour.link_layer and attachment.interface == neighbour.interface:
            attachment.settled = attachment.settled or current
            return []
        known, settled, before = bool(attachment.link_layer), attachment.settled, attachment.interface
        self._unlearn(neighbour.address, attachment)
        self._learn(neighbour.address, attachment, neighbour.interface, neighbour.link_layer)
        # One that takes another's place has just been seen.
        attachment.settled = settled or current or known
        return (
            [Evidence(attachment.address, EvidenceKind.LINK_LAYER_CHANGED, self._links.get(before, ""))]
            if settled
            else []
        )

    def _forwarding(self, forwarding: Forwarding) -> list[Evidence]:
        key = (forwarding.link_layer, forwarding.bridge)
        if forwarding.gone:
            if self._forwardings.get(key) == (forwarding.vlan, forwarding.port):
                del self._forwardings[key]
                _put(self._forgotten, key, forwarding.port, FORWARDINGS_MAX)
            return []
        if forwarding.port not in self._links:
            return []
        _put(self._forwardings, key, (forwarding.vlan, forwarding.port), FORWARDINGS_MAX)
        self._forgotten.pop(key, None)
        found = []
        for packed in self._behind.get(forwarding.link_layer, ()):
            attachment = self._attachments[packed]
            if attachment.interface != forwarding.bridge:
                continue
            before = attachment.port
            if before and attachment.vlan != forwarding.vlan:
                continue
            attachment.port, attachment.vlan = forwarding.port, forwarding.vlan
            if before not in (0, forwarding.port) and attachment.settled:
                found.append(Evidence(attachment.address, EvidenceKind.PORT_MOVED, self._links.get(before, "")))
        return found

    def _learn(self, packed: bytes, attachment: _Attachment, interface: int, link_layer: bytes) -> None:
        attachment.interface = interface
        attachment.link_layer = link_layer
        self._behind.setdefault(link_layer, set()).add(packed)
        vlan, port = self._forwardings.get((link_layer, interface), (0, 0))
        if port in self._links:
            attachment.vlan, attachment.port = vlan, port

    def _unlearn(self, packed: bytes, attachment: _Attachment) -> None:
        there = self._behind.get(attachment.link_layer)
        if there is not None:
            there.discard(packed)
            if not there:
                del self._behind[attachment.link_layer]
        attachment.forget_neighbour()


def _packed(address: str) -> bytes | None:
    try:
        return IPv4Address(address).packed
    except AddressValueError:
        return None


def _put(table: dict[K, V], key: K, value: V, most: int) -> None:
    """Keep it as the youngest; the oldest goes where there are too many."""
    table.pop(key, None)
    table[key] = value
    if len(table) > most:
        del table[next(iter(table))]
