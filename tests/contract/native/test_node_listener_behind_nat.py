"""The listener on the node's address serves only connections that a rule redirected from the metadata address."""

import asyncio
import socket

import pytest

from tests.contract.native.behind_nat import METADATA, in_network_namespace, redirect, run
from tests.contract.native.serving import REQUEST, Serving, serving
from tests.support.waiting import until

NEIGHBOUR, SERVICE, NODE = "169.254.169.253", "10.96.0.1", "10.0.0.1"
ADDRESSES = (METADATA, NEIGHBOUR, SERVICE, NODE)
SERVED, RESET = "HTTP/1.1 200 OK", "reset"


def ask(address: str, port: int) -> str:
    """Return the first line of the response, or how the connection ended."""
    with socket.socket() as sock:
        sock.settimeout(60)
        try:
            sock.connect((address, port))
            sock.sendall(REQUEST)
            return sock.recv(1000).decode().split("\r\n")[0]
        except ConnectionError:
            return RESET


async def connections() -> None:
    async with serving(addresses=("127.0.0.1", *ADDRESSES)) as lane:
        with socket.create_server((NODE, lane.port)) as node_listener:
            node_listener.setblocking(False)
            for address, port in ((METADATA, 80), (METADATA, 81), (NEIGHBOUR, 80), (SERVICE, 80)):
                redirect(address, port, f"{NODE}:{lane.port}")
            lane.lane.listen_on_node(node_listener, (METADATA, 80))
            for address, port, result in (
                (METADATA, 80, SERVED),
                (NODE, lane.port, RESET),
                (SERVICE, 80, RESET),
                (METADATA, 81, RESET),
                (NEIGHBOUR, 80, RESET),
                (METADATA, 80, SERVED),
                ("127.0.0.1", lane.port, SERVED),
            ):
                assert (address, port, await asyncio.to_thread(ask, address, port)) == (address, port, result)
            assert (lane.count("closed_unread"), lane.lane.last_closed_unread) == (4, NEIGHBOUR)
            await without_conntrack_entry(lane)
            await adopted(lane)


async def without_conntrack_entry(lane: Serving) -> None:
    """Delete the translation of the connection after the kernel and before the lane has accepted it."""

    def taken() -> tuple[int, int]:
        return lane.count("closed_unread"), lane.count("accepted")

    for flush in (False, True):
        unread, accepted = before = taken()
        with socket.create_connection((METADATA, 80)) as sock:
            if flush:
                run("conntrack -D -p tcp --orig-port-dst 80")  # another packet would create the entry again
            else:
                sock.sendall(REQUEST)
            assert await until(taken, holds=before.__ne__) == (unread + flush, accepted + (not flush))


async def adopted(lane: Serving) -> None:
    """Pass connections of a lane that listens on every address, as another configuration of NMI does."""
    async with serving(addresses=("127.0.0.1", *ADDRESSES), host="0.0.0.0") as former:
        redirect(METADATA, 82, f"{NODE}:{former.port}")
        redirect(METADATA, 80, f"{NODE}:{former.port}")
        for address, port, accepted in (
            (METADATA, 80, True),
            (METADATA, 82, False),
            (NODE, former.port, False),
            ("127.0.0.1", former.port, True),
        ):
            with socket.create_connection((address, port)):
                (released,) = await until(lambda: former.lane.release_idle(1))
                assert (address, port, lane.lane.adopt(released)) == (address, port, accepted)


@pytest.mark.root
def test_only_redirected_connections_to_the_nodes_address_are_served() -> None:
    in_network_namespace(connections, *ADDRESSES)
