"""The listener on the node's address closes direct connections unread, at a bounded rate, without the slots of a peer.

No rule redirects the connections of these tests; test_node_listener_behind_nat.py has redirected ones.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import pytest_asyncio

from _native.index import Index
from _native.lane import Lane
from tests.contract.native.serving import Serving, serving
from tests.contract.native.test_lane_listener import listening, no_lane
from tests.support.nmi.server.limits import limits_with
from tests.support.waiting import LIMIT_SECONDS

METADATA = ("169.254.169.254", 80)
NODE = "127.0.0.9"
"""An address that no rule redirects, like the node's address for a direct connection."""
UNREAD_MAX = 256


@contextmanager
def node_listener() -> Iterator[socket.socket]:
    with socket.create_server((NODE, 0), backlog=1024) as listener:
        listener.setblocking(False)
        yield listener


@pytest_asyncio.fixture
async def lane() -> AsyncIterator[Serving]:
    async with serving(limits=limits_with(connections_per_peer=1)) as running:
        yield running


def direct(listener: socket.socket, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(listener.getsockname(), source_address=(source, 0))


async def reset_by_lane(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await asyncio.get_running_loop().sock_recv(sock, 1) is None
    except ConnectionResetError:
        return True


async def test_a_direct_connection_is_reset_before_a_byte_is_read_and_another_is_served(lane: Serving) -> None:
    with node_listener() as listener:
        lane.lane.listen_on_node(listener, METADATA)
        with direct(listener) as silent, direct(listener) as sending:
            sending.send(b"GET / HTTP/1.1\r\n")
            assert await reset_by_lane(silent)
            assert await reset_by_lane(sending)
        assert (lane.generals, lane.count("accepted"), lane.count("closed_unread")) == ([], 0, 2)
        assert lane.lane.last_closed_unread == "127.0.0.1"
        assert b" 200 " in await (await lane.connect()).ask()


async def test_direct_connections_use_no_slot_of_their_peer(lane: Serving) -> None:
    with node_listener() as listener, ExitStack() as opened:
        lane.lane.listen_on_node(listener, METADATA)
        for _ in range(10):
            opened.enter_context(direct(listener))
        peer = await lane.connect()
        assert b" 200 " in await peer.ask()
        await lane.until(lambda: lane.count("closed_unread") == 10)
        assert lane.count("refused_peer") == 0
        assert b" 200 " in await peer.ask()


async def test_without_an_address_to_be_redirected_from_every_connection_is_served(lane: Serving) -> None:
    with node_listener() as listener:
        lane.lane.listen_on_node(listener, None)
        with direct(listener) as sock:
            await lane.until(lambda: lane.count("accepted") == 1)
            assert lane.count("closed_unread") == 0
            sock.close()


async def test_one_listener_stops_and_serves_again_without_the_other(lane: Serving) -> None:
    with node_listener() as listener:
        lane.lane.listen_on_node(listener, METADATA)
        for _ in range(2):
            lane.lane.stop_accepting(listener)
        with direct(listener) as waiting:
            assert b" 200 " in await (await lane.connect()).ask()
            assert lane.count("closed_unread") == 0
            for _ in range(2):
                lane.lane.listen_on_node(listener, METADATA)
            assert await reset_by_lane(waiting)
        lane.lane.stop_accepting(lane.listener)
        with direct(listener) as served, socket.create_connection(("127.0.0.1", lane.port)) as unserved:
            assert await reset_by_lane(served)
            unserved.setblocking(False)
            with pytest.raises(BlockingIOError):
                unserved.recv(1)
        lane.lane.stop_accepting()
        with direct(listener) as unserved:
            lane.iterate()
            assert lane.count("closed_unread") == 2


def test_a_flood_of_direct_connections_is_closed_at_a_bounded_rate_and_others_are_accepted() -> None:
    with ExitStack() as opened, node_listener() as listener, listening() as (loop, usual, lane):
        lane.listen_on_node(listener, METADATA)
        for _ in range(2 * UNREAD_MAX):
            opened.enter_context(direct(listener))
        loop.iterate()
        assert lane.counters()["closed_unread"] == UNREAD_MAX
        assert not loop.is_ready(), "the listener rests, and the loop does not spin"
        assert len(loop.later) == 1
        opened.enter_context(socket.create_connection(usual.getsockname()))
        loop.iterate()
        assert lane.counters()["accepted"] == 1
        loop.later.pop(0)()
        assert loop.is_ready()
        loop.iterate()
        assert lane.counters()["closed_unread"] == 2 * UNREAD_MAX


def test_a_lane_that_was_not_started_and_unsuitable_sockets_are_rejected() -> None:
    with node_listener() as listener, listening() as (_, _, lane), socket.socket() as unbound:
        unbound.setblocking(False)
        with pytest.raises(RuntimeError, match="started"):
            Lane(index=Index(), general=no_lane, limits=limits_with()).listen_on_node(listener, METADATA)
        with pytest.raises(ValueError, match="listen"):
            lane.listen_on_node(unbound, METADATA)
        with pytest.raises(OSError, match="illegal"):
            lane.listen_on_node(listener, ("metadata", 80))
        lane.listen_on_node(listener, METADATA)
