"""Fuzz targets of the readers of the node's state: the kernel's messages about the network, and conntrack's list."""

import itertools
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Final

from nmi.identity.address_evidence import AddressEvidence
from nmi.node.conntrack import bypassing_in
from nmi.node.rtnetlink import (
    DumpInterruptedError,
    ForwardingEntry,
    Link,
    MalformedError,
    Message,
    Neighbour,
    Route,
    chosen_route,
    decode,
    decode_reply,
    request_result,
)

HEADER_BYTES: Final = 16
LINK_LAYER_MAX: Final = 32
POD: Final = "10.1.0.5"


class KernelMessages:
    """A datagram: its messages are of bounded size, or it is malformed; no message raises in the tables behind them."""

    def __call__(self, data: bytes) -> None:
        sequence = int.from_bytes(data[8:12], "little")
        messages = self._messages(data)
        self._replies(data, sequence)
        if messages is not None and len(data) % 4 == 0:
            assert decode(data + data) == messages * 2, "a message depends on those before it"
        self._apply(messages or [])

    def _messages(self, data: bytes) -> list[Message] | None:
        try:
            messages = decode(data)
        except MalformedError:
            return None
        assert len(messages) <= len(data) // HEADER_BYTES
        for message in messages:
            self._check(message, data)
        return messages

    def _check(self, message: Message, data: bytes) -> None:
        match message:
            case Neighbour():
                assert len(message.address) == 4
                assert len(message.link_layer) <= LINK_LAYER_MAX
                assert message.link_layer or not message.confirmed
            case ForwardingEntry():
                assert 0 < len(message.link_layer) <= LINK_LAYER_MAX
            case Route():
                assert len(message.prefix) == 4
                assert message.length <= 32
            case Link():
                assert len(message.name) <= len(data)
                assert "\0" not in message.name

    def _replies(self, data: bytes, sequence: int) -> None:
        with suppress(MalformedError):
            route = chosen_route(data)
            assert route is None or len(route.source) in {0, 4}
        with suppress(MalformedError):
            request_result(data)
        for expected_sequence in (sequence, sequence + 1):
            try:
                reply = decode_reply(data, expected_sequence)
            except (MalformedError, DumpInterruptedError, OSError):
                continue
            assert len(reply.messages) <= len(data) // HEADER_BYTES
            assert expected_sequence == sequence or len(data) > HEADER_BYTES or not (reply.done or reply.messages)

    def _apply(self, messages: list[Message]) -> None:
        evidence = AddressEvidence()
        evidence.track(POD)
        changes = [
            *evidence.apply([Link(2, "cni0"), Link(3, "veth1")]),
            *itertools.chain.from_iterable(evidence.apply([message]) for message in messages),
            *evidence.replace(messages),
        ]
        evidence.unresolved()
        evidence.untrack(POD)
        for change in changes:
            IPv4Address(change.address)
        assert all(size <= 2 * len(messages) + 2 for size in evidence.sizes().values())


class ConntrackList:
    """A list of connections: each that is found is an IPv4 address and a port, and lines have no effect on others."""

    def __call__(self, data: bytes) -> None:
        addresses = bypassing_in(data)
        assert len(addresses) <= data.count(b"sport=")
        for address, port in addresses:
            assert str(IPv4Address(address)) == address
            assert 0 <= port <= 65535
        lines = data.split(b"\n")
        assert addresses == {address for line in lines for address in bypassing_in(line)}
