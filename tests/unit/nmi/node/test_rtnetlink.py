"""Decoding of the kernel's messages about the network, and of truncated ones.

Excluded: arbitrary bytes (tests/nightly/fuzz/node.py).
"""

import errno
import struct
from pathlib import Path

import pytest

from nmi.node.rtnetlink import (
    DumpInterruptedError,
    ForwardingEntry,
    Link,
    MalformedError,
    Message,
    Neighbour,
    Route,
    decode,
    decode_reply,
    dump_requests,
    request_result,
    resolve_request,
)

RECORDED = {
    name: bytes.fromhex(text)
    for name, text in (
        line.split()
        for line in (Path(__file__).parent / "rtnetlink_recorded.txt").read_text().splitlines()
        if not line.startswith("#")
    )
}
MAC, STATIC = bytes((2, 0, 0, 0, 0, 10)), bytes((2, 0, 0, 0, 0, 11))
POD, HOST_ROUTED = bytes((10, 1, 0, 5)), bytes((10, 2, 0, 5))
BRIDGE, VETH = 2, 3
MEANT: dict[str, list[Message]] = {
    "other_ns1": [],  # a local route
    "other_ns2": [Route(bytes((10, 1, 0, 0)), 24, BRIDGE, 0)],
    "other_ns3": [],
    "talks1": [Neighbour(POD, BRIDGE, MAC, confirmed=False)],
    "confirmed1": [Neighbour(POD, BRIDGE, MAC, confirmed=True)],
    "flushed1": [Neighbour(POD, BRIDGE, b"", confirmed=False)],
    "flushed2": [Neighbour(POD, BRIDGE, b"", confirmed=False, gone=True)],
    "leaves_bridge1": [ForwardingEntry(MAC, VETH, BRIDGE, 0, gone=True)],
    "leaves_bridge2": [],  # RTM_DELLINK of the bridge's family: the interface is still there
    "leaves_bridge3": [],  # the port's own address
    "vlan_fdb1": [],
    "vlan_fdb2": [ForwardingEntry(STATIC, VETH, BRIDGE, 0)],
    "route1": [Route(HOST_ROUTED, 32, VETH, 0)],
    "route2": [],  # another table
    "route3": [],  # a blackhole
    "replaced1": [Route(HOST_ROUTED, 32, BRIDGE, 0)],
    "unrouted1": [Route(HOST_ROUTED, 32, BRIDGE, 0, gone=True)],
    "default1": [Route(bytes(4), 0, BRIDGE, 100)],
    "multipath1": [],
    "renamed1": [Link(VETH, "veth1")],
    "renamed2": [Link(BRIDGE, "cni0")],
    "renamed3": [Link(VETH, "veth9")],
    "deleted1": [Link(VETH, "veth9", gone=True)],
}


def test_each_recording_is_tested() -> None:
    assert RECORDED.keys() == MEANT.keys()


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_kernel_messages_are_decoded(name: str) -> None:
    assert decode(RECORDED[name]) == MEANT[name]


def test_messages_in_one_datagram_are_decoded_in_order() -> None:
    names = ["talks1", "replaced1", "renamed1", "deleted1"]
    assert decode(b"".join(RECORDED[name] for name in names)) == [message for name in names for message in MEANT[name]]


@pytest.mark.parametrize("name", RECORDED)
def test_a_truncated_datagram_is_malformed(name: str) -> None:
    whole = RECORDED[name]
    for length in range(1, len(whole)):
        with pytest.raises(MalformedError):
            decode(whole[:length])


@pytest.mark.parametrize("name", ["talks1", "leaves_bridge1", "route1", "replaced1", "deleted1"])
def test_a_truncated_message_with_a_matching_length_is_malformed_or_contains_less(name: str) -> None:
    whole = RECORDED[name]
    for length in range(16, len(whole)):
        cut = struct.pack("=I", length) + whole[4:length]
        try:
            assert len(decode(cut)) <= 1
        except MalformedError:
            continue


@pytest.mark.parametrize(
    "attributes",
    [
        struct.pack("=HH", 3, 1),  # shorter than its own header
        struct.pack("=HH", 0, 1) * 8,  # without a length: a reader that adds the lengths would not end
        struct.pack("=HH4s", 9, 1, b"\x0a\x01\x00\x05"),  # longer than the message
        struct.pack("=HH2s2x", 6, 1, b"\x0a\x01"),  # half an address
        struct.pack("=HH16s", 20, 1, bytes(16)),  # an IPv6 address in an IPv4 message
        b"",
    ],
)
def test_attributes_that_contradict_their_message_are_malformed(attributes: bytes) -> None:
    body = struct.pack("=BxHiHBB", 2, 0, BRIDGE, 2, 0, 1) + attributes
    with pytest.raises(MalformedError):
        decode(struct.pack("=IHHII", 16 + len(body), 28, 0, 0, 0) + body)


def test_an_overlong_link_layer_address_is_malformed_and_an_infiniband_one_is_accepted() -> None:
    def neighbour(link_layer: bytes) -> bytes:
        attributes = struct.pack("=HH4s", 8, 1, POD) + struct.pack("=HH", 4 + len(link_layer), 2) + link_layer
        body = struct.pack("=BxHiHBB", 2, 0, BRIDGE, 2, 0, 1) + attributes
        return struct.pack("=IHHII", 16 + len(body), 28, 0, 0, 0) + body

    assert decode(neighbour(bytes(20))) == [Neighbour(POD, BRIDGE, bytes(20), confirmed=True)]
    with pytest.raises(MalformedError):
        decode(neighbour(bytes(36)))


def test_a_data_loss_message_is_malformed() -> None:
    with pytest.raises(MalformedError):
        decode(struct.pack("=IHHII", 16, 4, 0, 0, 0))


def test_messages_of_other_types_are_ignored() -> None:
    assert decode(struct.pack("=IHHII", 20, 20, 0, 0, 0) + bytes(4)) == []


# Dumps.


def reply_to(name: str, sequence: int, *, flags: int = 2) -> bytes:
    whole = RECORDED[name]
    return whole[:6] + struct.pack("=HI", flags, sequence) + whole[12:]


def done(sequence: int, number: int = 0, *, kind: int = 3) -> bytes:
    return struct.pack("=IHHIIi", 20, kind, 2, sequence, 0, number)


def test_a_dump_is_read_until_done() -> None:
    reply = decode_reply(reply_to("talks1", 7) + reply_to("route1", 7), 7)
    assert (reply.messages, reply.done) == (MEANT["talks1"] + MEANT["route1"], False)
    assert decode_reply(done(7), 7).done
    both = decode_reply(reply_to("talks1", 7) + done(7), 7)
    assert (both.messages, both.done) == (MEANT["talks1"], True)


def test_messages_of_another_dump_are_ignored() -> None:
    reply = decode_reply(reply_to("talks1", 6) + done(6), 7)
    assert (reply.messages, reply.done) == ([], False)


def test_an_interrupted_dump_is_recognised() -> None:
    with pytest.raises(DumpInterruptedError):
        decode_reply(reply_to("talks1", 7, flags=0x12), 7)


@pytest.mark.parametrize("kind", [2, 3])
def test_a_netlink_error_contains_the_kernels_error_number(kind: int) -> None:
    with pytest.raises(OSError, match="refused") as raised:
        decode_reply(done(7, -95, kind=kind), 7)
    assert raised.value.errno == 95


def test_a_truncated_acknowledgement_is_malformed() -> None:
    with pytest.raises(MalformedError):
        decode_reply(struct.pack("=IHHII", 16, 3, 2, 7, 0), 7)


def test_links_are_requested_before_routes_and_neighbours() -> None:
    requests = dump_requests(5)
    assert [sequence for sequence, _ in requests] == [5, 6, 7, 8]
    assert [struct.unpack_from("=IHHI", header) for _, header in requests] == [
        (32, 18, 0x301, 5),
        (28, 26, 0x301, 6),
        (28, 30, 0x301, 7),
        (28, 30, 0x301, 8),
    ]


# Requests to resolve an address.

AF_INET = 2


def test_the_request_is_a_neighbour_message_with_ntf_use() -> None:
    request = resolve_request(POD, BRIDGE)
    length, kind, flags, _, _ = struct.unpack_from("=IHHII", request)
    assert (length, kind, flags) == (len(request), 28, 0x401)
    assert struct.unpack_from("=BxHiHBB", request, 16) == (AF_INET, 0, BRIDGE, 0, 1, 0)
    assert struct.unpack_from("=HH4s", request, 28) == (8, 1, POD)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        pytest.param(struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -errno.EPERM), errno.EPERM, id="an error"),
        pytest.param(struct.pack("=IHHIIi", 20, 2, 0, 1, 0, 0), 0, id="success"),
        pytest.param(struct.pack("=IHHII", 16, 3, 0, 1, 0), 0, id="no result"),
    ],
)
def test_the_result_is_the_kernels_error_number(reply: bytes, expected: int) -> None:
    assert request_result(reply) == expected


def test_a_reply_cut_short_is_malformed() -> None:
    with pytest.raises(MalformedError):
        request_result(struct.pack("=IHHII", 16, 2, 0, 1, 0))
