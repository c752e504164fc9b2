"""Connections to a lane's listener on the node's own address; prints whether each connection was served.

test_node_listener_behind_nat.py runs it in a separate network namespace. It creates the nat rules there.
"""

import asyncio
import socket

from _native.lane import Lane, Limits
from tests.contract.native.isolated.lanes import METADATA, REQUEST, General, index_with_an_answer, redirect, run, say
from tests.support.waiting import until

NEIGHBOUR, SERVICE, NODE = "169.254.169.253", "10.96.0.1", "10.0.0.1"


def ask(address: str, port: int) -> str:
    """Return the first word of the answer, or how the connection ended."""
    with socket.socket() as sock:
        sock.settimeout(10)
        try:
            sock.connect((address, port))
            sock.sendall(REQUEST)
            return sock.recv(1000).decode().split("\r\n")[0]
        except ConnectionError:
            return "reset"


def listening(address: str, port: int) -> socket.socket:
    listener = socket.create_server((address, port))
    listener.setblocking(False)
    return listener


def lane_at(listener: socket.socket) -> Lane:
    index = index_with_an_answer("127.0.0.1", METADATA, NEIGHBOUR, SERVICE, NODE)
    lane = Lane(index=index, general=General, limits=Limits())
    lane.start(asyncio.get_running_loop(), listener)
    return lane


async def ask_in_every_way(lane: Lane, port: int) -> None:
    for name, address, at in (
        ("redirected", METADATA, 80),
        ("node", NODE, port),
        ("service", SERVICE, 80),
        ("other port", METADATA, 81),
        ("other address", NEIGHBOUR, 80),
        ("redirected again", METADATA, 80),
        ("loopback", "127.0.0.1", port),
    ):
        say(name, await asyncio.to_thread(ask, address, at))
    say("closed", lane.counters()["closed_unread"], "last", lane.last_closed_unread)


async def ask_without_conntrack_entry(lane: Lane) -> None:
    """Delete the translation of the connection after the kernel and before the lane has accepted it."""

    def taken() -> tuple[int, int]:
        return lane.counters()["closed_unread"], lane.counters()["accepted"]

    for flush in (False, True):
        before = taken()
        with socket.create_connection((METADATA, 80)) as sock:
            if flush:
                run("conntrack -D -p tcp --orig-port-dst 80")  # another packet would create the entry again
            else:
                sock.sendall(REQUEST)
            closed, accepted = await until(taken, holds=before.__ne__)
            say("flushed" if flush else "tracked", closed - before[0], accepted - before[1])


async def adopt(lane: Lane, port: int) -> None:
    """Pass connections of a lane that listens on every address, as another configuration of NMI does."""
    with listening("0.0.0.0", port + 1) as everywhere:
        redirect(METADATA, 82, f"{NODE}:{port + 1}")
        run(f"iptables -t nat -I OUTPUT 1 -p tcp -d {METADATA} --dport 80 -j DNAT --to-destination {NODE}:{port + 1}")
        former = lane_at(everywhere)
        for address, at in ((METADATA, 80), (METADATA, 82), (NODE, port + 1), ("127.0.0.1", port + 1)):
            with socket.create_connection((address, at)):
                released = await until(lambda: former.release_idle(1))
                say("adopted", address, "" if at > 1000 else at, lane.adopt(released[0]))
        former.close()


async def main() -> None:
    run("ip link set lo up")
    for address in (METADATA, NEIGHBOUR, SERVICE, NODE):
        run(f"ip address add {address}/32 dev lo")
    port = 2579  # of this network namespace, below the ephemeral range: connections of the test do not take it
    with listening("127.0.0.1", port) as listener:
        for address, at in ((METADATA, 80), (METADATA, 81), (NEIGHBOUR, 80), (SERVICE, 80)):
            redirect(address, at, f"{NODE}:{port}")
        with listening(NODE, port) as node_listener:
            lane = lane_at(listener)
            lane.listen_on_node(node_listener, (METADATA, 80))
            await ask_in_every_way(lane, port)
            await ask_without_conntrack_entry(lane)
            await adopt(lane, port)
            lane.close()


asyncio.run(main())
