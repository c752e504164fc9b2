"""Evidence from the kernel's reports that an IPv4 address changed its owner. Pure.

A pod's address is attached to the node by an interface of the node: the output interface of a route to this address
alone (point-to-point CNIs), or the port of a bridge behind which the pod's link-layer address is. When that interface
is removed, the route changes, or another link-layer address responds, the address belongs to another sandbox. An
expired neighbour or an aged forwarding entry is no evidence: it stays known here as long as a pod has the address.

For an address that no pod has, only the removal of its interface, or of the route to it alone, is evidence: the watch
may report the pod later than the kernel reports its end. The kernel's own tables show the interface of such an address.
There an aged forwarding entry still counts, because a bridge removes the entries of a port before it reports the
removal of the port.

All tables are bounded regardless of what pods send: an entry of an address that no pod has is dropped with the kernel's
own entry, or when the table is full.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address
from typing import Final, TypeVar

import msgspec

from nmi.node.rtnetlink import ForwardingEntry, Link, Message, Neighbour, Route, Unresolved

NEIGHBOURS_MAX: Final = 4096
FORWARDINGS_MAX: Final = 4096
ROUTES_MAX: Final = 16384
LINKS_MAX: Final = 16384
_BITS: Final = 32

K = TypeVar("K")
V = TypeVar("V")


class EvidenceKind(StrEnum):
    """What the kernel reported. A closed set, because it is a metric label."""

    INTERFACE_REMOVED = "interface_removed"
    ROUTE_REMOVED = "route_removed"
    ROUTE_MOVED = "route_moved"
    LINK_LAYER_CHANGED = "link_layer_changed"
    PORT_MOVED = "port_moved"

    @property
    def ends(self) -> bool:
        """Whether it can only be the end of a sandbox. The other kinds may be the first packet of the next sandbox."""
        return self in {EvidenceKind.INTERFACE_REMOVED, EvidenceKind.ROUTE_REMOVED}


class Evidence(msgspec.Struct, frozen=True):
    """Evidence that *address* has changed its owner, or is about to."""

    address: str
    kind: EvidenceKind
    interface: str
    """The interface that attached it; empty if its name is unknown."""


class _Attachment:
    """How the address of a pod is attached, as far as known. Interfaces are indices, 0 if unknown."""

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
        """Whether the link-layer address was reported after the pod got the address. Before, it may be a former
        owner's."""
        self.port = 0
        self.vlan = 0

    def is_behind(self, interface: int) -> bool:
        return interface in (self.host, self.interface, self.port)


class AddressEvidence:
    """The known state of the node's network, and of each pod's address. Not thread-safe."""

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
        """Link-layer address and bridge to the port of the entry, if the bridge has removed the entry."""
        self._attachments: dict[bytes, _Attachment] = {}
        self._behind: dict[bytes, set[bytes]] = {}
        """Link-layer address to the pods' addresses that have it."""

    # Addresses of pods.

    def track(self, address: str) -> None:
        """Begin to track *address*, which another pod has now, from the kernel's current state."""
        packed = _packed(address)
        if packed is None:
            return
        # How a former pod was attached is no evidence about this one.
        self.untrack(address)
        attachment = self._attachments[packed] = _Attachment(address)
        attachment.host = self._output(packed, only_length=_BITS)
        interface = attachment.host or self._output(packed)
        link_layer = self._neighbours.get((packed, interface))
        if link_layer:
            self._learn(packed, attachment, interface, link_layer)

    def untrack(self, address: str) -> None:
        """Stop tracking *address*, which no pod has any more."""
        packed = _packed(address)
        attachment = self._attachments.pop(packed, None) if packed is not None else None
        if packed is not None and attachment is not None:
            self._unlearn(packed, attachment)

    def unresolved(self) -> list[Unresolved]:
        """Return the addresses of pods that would end without evidence: no host route, no current link-layer address.

        Addresses that only the default route leads to are left out: they are not on this node's network.
        """
        unresolved = []
        for packed, attachment in self._attachments.items():
            if not attachment.host and not attachment.settled:
                interface = self._output(packed, default=False)
                if interface:
                    unresolved.append(Unresolved(packed, interface))
        return unresolved

    # Reports.

    def apply(self, messages: Iterable[Message]) -> list[Evidence]:
        """Apply reports in their order. Return the evidence."""
        evidence: list[Evidence] = []
        for message in messages:
            match message:
                case Neighbour():
                    evidence += self._neighbour(message, reported=True)
                case ForwardingEntry():
                    evidence += self._forwarding(message)
                case Link():
                    evidence += self._link(message)
                case Route():
                    evidence += self._route(message)
        return evidence

    def replace(self, messages: Iterable[Message]) -> list[Evidence]:
        """Apply a complete list, after reports may have been lost. Return the evidence."""
        listed: Sequence[Message] = list(messages)
        links = {link.index: link.name for link in listed if isinstance(link, Link)}
        evidence: list[Evidence] = []
        for index in self._links.keys() - links.keys():
            evidence += self._link(Link(index, self._links[index], gone=True))
        routed = {number.to_bytes(4, "big"): by[min(by)] for number, by in self._routes.get(_BITS, {}).items()}
        self._routes.clear()
        self._routes_over.clear()
        self._route_count = 0
        self._neighbours.clear()
        self._forwardings.clear()
        self._forgotten.clear()
        self._links = {index: links[index] for index, _ in zip(links, range(LINKS_MAX), strict=False)}
        for message in listed:
            # Routes before neighbours: the route decides whether a neighbour's entry is that of a pod's address.
            if isinstance(message, Route):
                self._set_route(message)
        for packed, attachment in self._attachments.items():
            evidence += self._rerouted(packed, attachment)
        for packed in routed.keys() - self._attachments.keys():
            evidence += self._unrouted(packed, routed[packed])
        for message in listed:
            if isinstance(message, Neighbour):
                evidence += self._neighbour(message, reported=False)
            elif isinstance(message, ForwardingEntry):
                evidence += self._forwarding(message)
        return evidence

    def sizes(self) -> dict[str, int]:
        """Return the number of entries of each table."""
        return {
            "interfaces": len(self._links),
            "routes": self._route_count,
            "neighbours": len(self._neighbours),
            "forwardings": len(self._forwardings) + len(self._forgotten),
            "claimed": len(self._attachments),
            "attached": sum(1 for attachment in self._attachments.values() if attachment.host or attachment.interface),
        }

    # Links.

    def _link(self, link: Link) -> list[Evidence]:
        if not link.gone:
            if link.index in self._links or len(self._links) < LINKS_MAX:
                self._links[link.index] = link.name
            return []
        name = self._links.pop(link.index, link.name)
        evidence = [
            Evidence(str(IPv4Address(packed)), EvidenceKind.INTERFACE_REMOVED, name)
            for packed in self._without_pod(link.index)
        ]
        for packed, attachment in self._attachments.items():
            if attachment.is_behind(link.index):
                evidence.append(Evidence(attachment.address, EvidenceKind.INTERFACE_REMOVED, name))
                attachment.host = 0
                self._unlearn(packed, attachment)
        for key in [key for key, port in self._forgotten.items() if port == link.index]:
            del self._forgotten[key]
        # The kernel removes IPv4 routes with their interface without a report.
        for length, prefix, priority in self._routes_over.pop(link.index, ()):
            self._drop_route(length, prefix, priority)
        return evidence

    def _without_pod(self, interface: int) -> set[bytes]:
        """Return the addresses behind *interface* that no pod has, according to the kernel's tables."""
        packed_addresses = {
            prefix.to_bytes(4, "big")
            for length, prefix, priority in self._routes_over.get(interface, ())
            if length == _BITS and self._routes[length][prefix][min(self._routes[length][prefix])] == interface
        }
        ports = ((key, port) for key, (_, port) in self._forwardings.items())
        behind = {key for key, port in (*ports, *self._forgotten.items()) if port == interface}
        for (packed, on), link_layer in self._neighbours.items():
            if on == interface or (link_layer, on) in behind:
                packed_addresses.add(packed)
        return packed_addresses - self._attachments.keys()

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
        """Return evidence of an address without a pod whose route led to the interface *before* (0: there was none)."""
        if not before or self._output(packed, only_length=_BITS):
            return []
        return [Evidence(str(IPv4Address(packed)), EvidenceKind.ROUTE_REMOVED, self._links.get(before, ""))]

    def _set_route(self, route: Route) -> None:
        """Add or remove a route. A second one with the same prefix and priority replaces the first one.

        The kernel does not report the end of a route whose interface went down, and otherwise rejects a second one.
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
        # There was no route to the address alone whose change would be evidence.
        if not before:
            return []
        kind = EvidenceKind.ROUTE_MOVED if now else EvidenceKind.ROUTE_REMOVED
        return [Evidence(attachment.address, kind, self._links.get(before, ""))]

    def _output(self, packed: bytes, *, only_length: int | None = None, default: bool = True) -> int:
        """Return the output interface of the most specific route to the address, or 0."""
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
        """Apply a neighbour entry. *reported*: a change, and so current; otherwise listed, and possibly old."""
        key = (neighbour.address, neighbour.interface)
        is_known = key in self._neighbours
        if neighbour.gone:
            self._neighbours.pop(key, None)
            return []
        # Links are reported on another socket, so a report may arrive after the removal of its interface.
        if not neighbour.link_layer or neighbour.interface not in self._links:
            return []
        _put(self._neighbours, key, neighbour.link_layer, NEIGHBOURS_MAX)
        attachment = self._attachments.get(neighbour.address)
        if attachment is None or not self._leads_to(neighbour, attachment):
            return []
        return self._apply_link_layer(neighbour, attachment, current=reported and (neighbour.confirmed or not is_known))

    def _leads_to(self, neighbour: Neighbour, attachment: _Attachment) -> bool:
        """Return whether the address is routed to that interface. A pod may send ARP for any address itself."""
        expected = attachment.host or self._output(neighbour.address)
        return expected in (0, neighbour.interface)

    def _apply_link_layer(self, neighbour: Neighbour, attachment: _Attachment, *, current: bool) -> list[Evidence]:
        """Apply the link-layer address of a pod's address. *current*: it is no older than the report."""
        if attachment.link_layer == neighbour.link_layer and attachment.interface == neighbour.interface:
            attachment.settled = attachment.settled or current
            return []
        had_link_layer, settled, before = bool(attachment.link_layer), attachment.settled, attachment.interface
        self._unlearn(neighbour.address, attachment)
        self._learn(neighbour.address, attachment, neighbour.interface, neighbour.link_layer)
        # A replacement was seen just now.
        attachment.settled = settled or current or had_link_layer
        return (
            [Evidence(attachment.address, EvidenceKind.LINK_LAYER_CHANGED, self._links.get(before, ""))]
            if settled
            else []
        )

    def _forwarding(self, forwarding: ForwardingEntry) -> list[Evidence]:
        key = (forwarding.link_layer, forwarding.bridge)
        if forwarding.gone:
            if self._forwardings.get(key) == (forwarding.vlan, forwarding.port):
                del self._forwardings[key]
                # A bridge removes the entries of a port before it reports the removal of the port. NMI remembers the
                # port, so that its removal is evidence for the address.
                _put(self._forgotten, key, forwarding.port, FORWARDINGS_MAX)
            return []
        if forwarding.port not in self._links:
            return []
        _put(self._forwardings, key, (forwarding.vlan, forwarding.port), FORWARDINGS_MAX)
        self._forgotten.pop(key, None)
        evidence = []
        for packed in self._behind.get(forwarding.link_layer, ()):
            attachment = self._attachments[packed]
            if attachment.interface != forwarding.bridge:
                continue
            before = attachment.port
            # The same link-layer address in another VLAN is another station.
            if before and attachment.vlan != forwarding.vlan:
                continue
            attachment.port, attachment.vlan = forwarding.port, forwarding.vlan
            if before not in (0, forwarding.port) and attachment.settled:
                evidence.append(Evidence(attachment.address, EvidenceKind.PORT_MOVED, self._links.get(before, "")))
        return evidence

    def _learn(self, packed: bytes, attachment: _Attachment, interface: int, link_layer: bytes) -> None:
        attachment.interface = interface
        attachment.link_layer = link_layer
        self._behind.setdefault(link_layer, set()).add(packed)
        vlan, port = self._forwardings.get((link_layer, interface), (0, 0))
        if port in self._links:
            attachment.vlan, attachment.port = vlan, port

    def _unlearn(self, packed: bytes, attachment: _Attachment) -> None:
        addresses = self._behind.get(attachment.link_layer)
        if addresses is not None:
            addresses.discard(packed)
            if not addresses:
                del self._behind[attachment.link_layer]
        attachment.forget_neighbour()


def _packed(address: str) -> bytes | None:
    try:
        return IPv4Address(address).packed
    except AddressValueError:
        return None


def _put(table: dict[K, V], key: K, value: V, most: int) -> None:
    """Insert the entry as the newest; drop the oldest if there are too many."""
    table.pop(key, None)
    table[key] = value
    if len(table) > most:
        del table[next(iter(table))]
