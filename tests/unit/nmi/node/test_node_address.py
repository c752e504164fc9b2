"""The node's own address: its sources in order, addresses that are not the node's, and its loss while NMI runs."""

import asyncio
import contextlib
import ipaddress
import struct

import pytest

from nmi.node import node_address
from nmi.node.node_address import ELSEWHERE, NodeAddress, NodeAddressMonitor, find, route_to
from nmi.node.rtnetlink import ChosenRoute, MalformedError, chosen_route, route_request
from tests.support.waiting import until

METADATA, NODE, OTHER = "169.254.169.254", "10.224.0.4", "10.224.0.5"
OWN = {NODE: ChosenRoute(local=True, source=ipaddress.IPv4Address(NODE).packed)}
"""The routes of a node with this address and no route to other networks."""


def by(source: str, destination: str) -> dict[str, ChosenRoute]:
    """Return the routes of a node that sends packets to *destination* from *source*."""
    return {destination: ChosenRoute(local=False, source=ipaddress.IPv4Address(source).packed)}


@pytest.mark.parametrize(
    ("node_ip", "routes", "address", "reason"),
    [
        (NODE, OWN, NODE, "NODE_IP states it"),
        ("", OWN | by(NODE, METADATA), NODE, f"source address to {METADATA}"),
        ("", OWN | by(NODE, ELSEWHERE), NODE, f"source address to {ELSEWHERE}"),
        ("", OWN | by(OTHER, METADATA) | by(NODE, ELSEWHERE), NODE, f"source address to {ELSEWHERE}"),
        (OTHER, OWN | by(NODE, METADATA), NODE, f"NODE_IP ('{OTHER}') is not an IPv4 address of this node"),
        ("fd00::4", OWN | by(NODE, METADATA), NODE, "NODE_IP ('fd00::4') is not an IPv4 address"),
        ("", OWN, None, "no default route"),
        (OTHER, OWN, None, f"NODE_IP ('{OTHER}') is not"),
        ("", {}, None, "no default route"),
    ],
)
def test_the_address_is_the_first_one_that_this_node_has(
    node_ip: str, routes: dict[str, ChosenRoute], address: str | None, reason: str
) -> None:
    chosen = find(node_ip, METADATA, routes.get)
    assert chosen.address == address
    assert reason in chosen.reason


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "0.0.0.0", "224.0.0.1", METADATA])
def test_an_address_that_pods_cannot_reach_as_the_nodes_is_not_used(address: str) -> None:
    local = {address: ChosenRoute(local=True, source=ipaddress.IPv4Address(address).packed)}
    assert find(address, METADATA, (local | by(address, ELSEWHERE)).get).address is None


def test_a_long_text_in_node_ip_is_cut() -> None:
    assert len(find("x" * 10_000, METADATA, lambda _: None).reason) < 300


def test_the_kernel_knows_which_addresses_are_this_machines() -> None:
    chosen = route_to("127.0.0.1")
    assert chosen == ChosenRoute(local=True, source=bytes((127, 0, 0, 1)))
    assert (route_to(ELSEWHERE) or ChosenRoute(local=False, source=b"")).local is False
    selected = find("", METADATA)
    assert isinstance(selected, NodeAddress)
    assert selected.address is None or (route_to(selected.address) or chosen).local


def problem_of(monitor: NodeAddressMonitor) -> str:
    return monitor.problem or ""


def test_the_loss_and_the_return_of_the_address_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    routes = dict(OWN)
    monitor = NodeAddressMonitor(NODE, route=routes.get)
    caplog.set_level("INFO")
    monitor.check()
    assert problem_of(monitor) == ""
    del routes[NODE]
    for _ in range(3):
        monitor.check()
        assert "delete NMI's pod" in problem_of(monitor)
    routes[NODE] = ChosenRoute(local=False, source=b"")  # now another machine's
    monitor.check()
    assert problem_of(monitor)
    routes |= OWN
    monitor.check()
    monitor.check()
    assert problem_of(monitor) == ""
    assert [record.getMessage() for record in caplog.records] == [
        "the node's address is lost; see the reason",
        "this node has its address again",
    ]


async def test_the_monitor_checks_at_the_interval_even_without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_address, "_reports", lambda: None)
    monkeypatch.setattr(node_address, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(node_address, "GAP_SECONDS", 0.0)
    routes = dict(OWN)
    monitor = NodeAddressMonitor(NODE, route=routes.get)
    running = asyncio.create_task(monitor.run())
    await asyncio.sleep(0)
    assert problem_of(monitor) == ""
    routes.clear()
    await until(lambda: problem_of(monitor))
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def reply(kind: int, *attributes: tuple[int, bytes], message: int = 24) -> bytes:
    body = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 0, 0, kind, 0)
    for number, value in attributes:
        body += struct.pack("=HH", 4 + len(value), number) + value
    return struct.pack("=IHHII", 16 + len(body), message, 0, 1, 0) + body


def test_the_reply_of_the_kernel_is_decoded() -> None:
    address = bytes((10, 224, 0, 4))
    assert chosen_route(reply(1, (1, bytes(4)), (7, address))) == ChosenRoute(local=False, source=address)
    assert chosen_route(reply(2, (7, address))) == ChosenRoute(local=True, source=address)
    assert chosen_route(reply(1)) == ChosenRoute(local=False, source=b"")
    assert chosen_route(struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -101)) is None, "ENETUNREACH"
    with pytest.raises(MalformedError):
        chosen_route(reply(1, (7, bytes(16))))


def test_the_request_names_the_destination() -> None:
    assert route_request(bytes((192, 0, 2, 1))).endswith(struct.pack("=HH", 8, 1) + bytes((192, 0, 2, 1)))
