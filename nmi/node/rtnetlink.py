"""Decoder of rtnetlink messages about links, neighbours and IPv4 routes, and encoder of requests. Pure.

A datagram is a sequence of messages, each padded to 4 bytes: `struct nlmsghdr` (16 bytes: u32 length with the header,
u16 type, u16 flags, u32 sequence, u32 port; linux/netlink.h), a fixed part by type, then attributes. An attribute is
`struct rtattr` (4 bytes: u16 length with this header, u16 type; linux/rtnetlink.h) and its value, padded to 4 bytes.
Numbers are in the machine's byte order, addresses in the network's.

| type | fixed part | header |
| --- | --- | --- |
| RTM_NEWLINK 16, RTM_DELLINK 17 | `struct ifinfomsg`, 16 bytes | linux/rtnetlink.h, IFLA_* of linux/if_link.h |
| RTM_NEWROUTE 24, RTM_DELROUTE 25 | `struct rtmsg`, 12 bytes | linux/rtnetlink.h |
| RTM_NEWNEIGH 28, RTM_DELNEIGH 29 | `struct ndmsg`, 12 bytes | linux/neighbour.h |

Messages that NMI does not use (IPv6, other routing tables, local routes, proxies) are skipped.
"""

import struct
from typing import Final

import msgspec

LINKS: Final = 1 << 0
"""Multicast group RTNLGRP_LINK (1) as a bit of `nl_groups`."""
NEIGHBOURS: Final = 1 << 2
"""RTNLGRP_NEIGH (3): neighbours, and the forwarding databases of bridges."""
IPV4_ADDRESSES: Final = 1 << 4
"""RTNLGRP_IPV4_IFADDR (5): addresses of this machine."""
IPV4_ROUTES: Final = 1 << 6
"""RTNLGRP_IPV4_ROUTE (7)."""

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_IFINFOMSG: Final = struct.Struct("=BxHiII")  # family, pad, type, index, flags, change
_NDMSG: Final = struct.Struct("=BxHiHBB")  # family, pads, ifindex, state, flags, type
_RTMSG: Final = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NUMBER: Final = struct.Struct("=I")
_SHORT: Final = struct.Struct("=H")
_SIGNED: Final = struct.Struct("=i")

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLMSG_OVERRUN: Final = 4
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_F_REQUEST, _F_DUMP_INTERRUPTED, _F_DUMP, _F_CREATE = 0x1, 0x10, 0x300, 0x400

_AF_UNSPEC, _AF_INET, _AF_BRIDGE = 0, 2, 7
_IFLA_IFNAME: Final = 3
_NDA_DST, _NDA_LLADDR, _NDA_VLAN, _NDA_MASTER = 1, 2, 5, 9
_RTA_DST, _RTA_OIF, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 6, 7, 15
_NTF_USE, _NTF_PROXY = 0x01, 0x08
_NUD_REACHABLE, _NUD_NOARP, _NUD_PERMANENT = 0x02, 0x40, 0x80
_RT_TABLE_MAIN: Final = 254
_RTN_UNICAST: Final = 1
_RTN_LOCAL: Final = 2
_RTM_F_CLONED: Final = 0x200
_IPV4_BYTES: Final = 4
_IPV4_BITS: Final = 32
_LINK_LAYER_MAX: Final = 32  # MAX_ADDR_LEN of linux/netdevice.h
_TYPE_MASK: Final = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


class MalformedError(ValueError):
    """A datagram that is truncated or inconsistent: its reports are lost."""


class DumpInterruptedError(Exception):
    """A dump that is inconsistent because the table changed during it (NLM_F_DUMP_INTR): repeat it."""


class Link(msgspec.Struct, frozen=True):
    """An interface that exists, has changed, or (*gone*) has left this network namespace."""

    index: int
    name: str
    gone: bool = False


class Neighbour(msgspec.Struct, frozen=True):
    """The link-layer address of an IPv4 address on one interface, or (*gone*) that the kernel removed the entry."""

    address: bytes
    interface: int
    link_layer: bytes
    """The link-layer address; empty if the kernel has not resolved it, or failed to."""
    confirmed: bool
    """Whether the kernel has confirmed it recently (reachable), or it is fixed (permanent)."""
    gone: bool = False


class ForwardingEntry(msgspec.Struct, frozen=True):
    """The *port* of *bridge* behind which a link-layer address is, or (*gone*) that the bridge removed the entry."""

    link_layer: bytes
    port: int
    bridge: int
    vlan: int
    gone: bool = False


class Route(msgspec.Struct, frozen=True):
    """A unicast IPv4 route of the main table with one output interface."""

    prefix: bytes
    length: int
    interface: int
    priority: int
    gone: bool = False


class ChosenRoute(msgspec.Struct, frozen=True):
    """The route that the kernel chooses for a packet of this machine."""

    local: bool
    """Whether the destination is an address of this machine."""
    source: bytes
    """The source address that the kernel gives the packet; empty if the reply contains none."""


class Unresolved(msgspec.Struct, frozen=True):
    """A pod address without a known link-layer address, and the index of the interface that it is routed to."""

    address: bytes
    interface: int


Message = Link | Neighbour | ForwardingEntry | Route


class DumpDatagram(msgspec.Struct, frozen=True):
    """The content of one datagram of a dump."""

    messages: list[Message]
    done: bool


def decode(datagram: bytes) -> list[Message]:
    """Return the messages of a datagram of the multicast groups. Raises MalformedError."""
    messages: list[Message] = []
    for kind, _, _, start, end in _messages(datagram):
        if kind == _NLMSG_OVERRUN:
            raise MalformedError("the kernel lost data")
        message = _message(datagram, kind, start, end)
        if message is not None:
            messages.append(message)
    return messages


def decode_reply(datagram: bytes, sequence: int) -> DumpDatagram:
    """Return a datagram of the dump that was requested with *sequence*.

    Raises MalformedError, DumpInterruptedError, and OSError with the kernel's number if it rejected the request.
    """
    messages: list[Message] = []
    for kind, flags, its_sequence, start, end in _messages(datagram):
        if its_sequence != sequence:
            continue
        if flags & _F_DUMP_INTERRUPTED:
            raise DumpInterruptedError("the tables changed during the dump")
        if kind in {_NLMSG_ERROR, _NLMSG_DONE}:
            number = -_signed(datagram, start, end)
            if number:
                raise OSError(number, "the kernel refused to dump a table")
            return DumpDatagram(messages, done=True)
        message = _message(datagram, kind, start, end)
        if message is not None:
            messages.append(message)
    return DumpDatagram(messages, done=False)


def dump_requests(first_sequence: int) -> list[tuple[int, bytes]]:
    """Return sequence and bytes of the requests that list links, routes, neighbours and forwarding databases, in this
    order.

    A neighbour has no meaning on an unknown link, so links are first.
    """
    bodies = (
        (_GETLINK, _IFINFOMSG.pack(_AF_UNSPEC, 0, 0, 0, 0)),
        (_GETROUTE, _RTMSG.pack(_AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)),
        (_GETNEIGH, _NDMSG.pack(_AF_INET, 0, 0, 0, 0, 0)),
        (_GETNEIGH, _NDMSG.pack(_AF_BRIDGE, 0, 0, 0, 0, 0)),
    )
    return [
        (sequence, _HEADER.pack(_HEADER.size + len(body), kind, _F_REQUEST | _F_DUMP, sequence, 0) + body)
        for sequence, (kind, body) in enumerate(bodies, first_sequence)
    ]


def resolve_request(address: bytes, interface: int) -> bytes:
    """Return the request that has the kernel resolve *address* (4 bytes) on *interface*, by ARP if it has to."""
    body = _NDMSG.pack(_AF_INET, 0, interface, 0, _NTF_USE, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + _IPV4_BYTES, _NDA_DST) + address
    return _HEADER.pack(_HEADER.size + len(body), _NEWNEIGH, _F_REQUEST | _F_CREATE, 1, 0) + body


def route_request(destination: bytes) -> bytes:
    """Return the request for the route of a packet from this machine to *destination* (4 bytes)."""
    body = _RTMSG.pack(_AF_INET, _IPV4_BITS, 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + _IPV4_BYTES, _RTA_DST) + destination
    return _HEADER.pack(_HEADER.size + len(body), _GETROUTE, _F_REQUEST, 1, 0) + body


def chosen_route(datagram: bytes) -> ChosenRoute | None:
    """Return the route in the reply to `route_request`; None if the kernel has none. Raises MalformedError."""
    for kind, _, _, start, end in _messages(datagram):
        if kind == _NEWROUTE:
            fields = _fixed(_RTMSG, datagram, start, end)
            source = _attributes(datagram, start + _RTMSG.size, end).get(_RTA_PREFSRC, b"")
            if len(source) not in {0, _IPV4_BYTES}:
                raise MalformedError("a route has a source address that is not IPv4")
            return ChosenRoute(local=fields[7] == _RTN_LOCAL, source=source)
    return None


def request_result(datagram: bytes) -> int:
    """Return the error number in a reply to a request that is no dump, 0 if there is none. Raises MalformedError."""
    for kind, _, _, start, end in _messages(datagram):
        if kind == _NLMSG_ERROR:
            return -_signed(datagram, start, end)
    return 0


def _messages(datagram: bytes) -> list[tuple[int, int, int, int, int]]:
    """Return type, flags and sequence of each message, and the begin and end of its content."""
    messages = []
    at, size = 0, len(datagram)
    while at < size:
        if size - at < _HEADER.size:
            raise MalformedError("a message header is cut short")
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, at)
        if not _HEADER.size <= length <= size - at:
            raise MalformedError("a message has an impossible length")
        messages.append((kind, flags, sequence, at + _HEADER.size, at + length))
        at += (length + 3) & ~3
    return messages


def _message(datagram: bytes, kind: int, start: int, end: int) -> Message | None:
    if kind in {_NEWNEIGH, _DELNEIGH}:
        return _neighbour(datagram, start, end, gone=kind == _DELNEIGH)
    if kind in {_NEWROUTE, _DELROUTE}:
        return _route(datagram, start, end, gone=kind == _DELROUTE)
    if kind in {_NEWLINK, _DELLINK}:
        return _link(datagram, start, end, gone=kind == _DELLINK)
    return None


def _link(datagram: bytes, start: int, end: int, *, gone: bool) -> Link | None:
    family, _, index, _, _ = _fixed(_IFINFOMSG, datagram, start, end)
    if family != _AF_UNSPEC:
        # A bridge reports its ports with its own family: RTM_DELLINK of that family means that a port left the bridge.
        return None
    attributes = _attributes(datagram, start + _IFINFOMSG.size, end)
    name = attributes.get(_IFLA_IFNAME, b"").partition(b"\0")[0].decode("ascii", "replace")
    return Link(index, name, gone)


def _neighbour(datagram: bytes, start: int, end: int, *, gone: bool) -> Neighbour | ForwardingEntry | None:
    family, _, interface, state, flags, _ = _fixed(_NDMSG, datagram, start, end)
    if family not in {_AF_INET, _AF_BRIDGE} or flags & _NTF_PROXY:
        return None
    attributes = _attributes(datagram, start + _NDMSG.size, end)
    link_layer = attributes.get(_NDA_LLADDR, b"")
    if len(link_layer) > _LINK_LAYER_MAX:
        raise MalformedError("a link-layer address is too long")
    if family == _AF_INET:
        address = attributes.get(_NDA_DST, b"")
        if len(address) != _IPV4_BYTES:
            raise MalformedError("a neighbour has no IPv4 address")
        confirmed = bool(state & (_NUD_REACHABLE | _NUD_NOARP | _NUD_PERMANENT)) and bool(link_layer)
        return Neighbour(address, interface, link_layer, confirmed, gone)
    if _NDA_MASTER not in attributes or not link_layer or state & _NUD_PERMANENT:
        # Without a master it is a filter of an interface; a permanent entry is the port's own address.
        return None
    vlan = _unpacked(_SHORT, attributes[_NDA_VLAN]) if _NDA_VLAN in attributes else 0
    return ForwardingEntry(link_layer, interface, _unpacked(_NUMBER, attributes[_NDA_MASTER]), vlan, gone)


def _route(datagram: bytes, start: int, end: int, *, gone: bool) -> Route | None:
    family, length, _, tos, table, _, _, kind, flags = _fixed(_RTMSG, datagram, start, end)
    if family != _AF_INET or kind != _RTN_UNICAST or tos or flags & _RTM_F_CLONED:
        return None
    attributes = _attributes(datagram, start + _RTMSG.size, end)
    if _RTA_TABLE in attributes:
        table = _unpacked(_NUMBER, attributes[_RTA_TABLE])
    if table != _RT_TABLE_MAIN or _RTA_OIF not in attributes:
        return None  # routes with several next hops have no single output interface
    prefix = attributes.get(_RTA_DST, b"\0" * _IPV4_BYTES)
    if len(prefix) != _IPV4_BYTES or length > _IPV4_BITS:
        raise MalformedError("a route has no IPv4 prefix")
    priority = _unpacked(_NUMBER, attributes[_RTA_PRIORITY]) if _RTA_PRIORITY in attributes else 0
    return Route(prefix, length, _unpacked(_NUMBER, attributes[_RTA_OIF]), priority, gone)


def _fixed(layout: struct.Struct, datagram: bytes, start: int, end: int) -> tuple[int, ...]:
    if end - start < layout.size:
        raise MalformedError("a message is cut short")
    return layout.unpack_from(datagram, start)


def _attributes(datagram: bytes, at: int, end: int) -> dict[int, bytes]:
    """Return the attributes by type; of several attributes of one type the last."""
    attributes = {}
    while end - at >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(datagram, at)
        if not _ATTRIBUTE.size <= length <= end - at:
            raise MalformedError("an attribute has an impossible length")
        attributes[kind & _TYPE_MASK] = datagram[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return attributes


def _unpacked(layout: struct.Struct, value: bytes) -> int:
    if len(value) != layout.size:
        raise MalformedError("an attribute has another size than its type")
    return int(layout.unpack(value)[0])


def _signed(datagram: bytes, start: int, end: int) -> int:
    if end - start < _NUMBER.size:
        raise MalformedError("an acknowledgement is cut short")
    return int(_SIGNED.unpack_from(datagram, start)[0])
