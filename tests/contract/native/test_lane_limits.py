"""Limits on the connections and the work that one peer, or all peers together, can cause in the lane.

The cost of an iteration does not depend on the number of idle connections: its test compares the shortest of many
iterations, which does not depend on the machine's load. Excluded: deadlines (test_lane_deadlines.py), peers that do not
read (test_lane_back_pressure.py), and the connection that is closed if all slots are in use (test_lane_eviction.py).
"""

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from typing_extensions import override

from _native.connection import Connection
from _native.lane import Lane
from tests.contract.native.serving import NOT_FOUND, OTHER_REQUEST, REQUEST, Holding, Peer, Recorder, Serving, serving
from tests.support.nmi.server.limits import limits_with

GREEDY, MODEST = "127.0.0.1", "127.0.0.2"


async def test_one_peer_gets_at_most_its_slots() -> None:
    async with serving(limits=limits_with(connections_per_peer=2), addresses=(GREEDY, MODEST)) as lane:
        kept = [await lane.connect(), await lane.connect()]
        for peer in kept:
            await peer.ask()
        assert await (await lane.connect()).ending() == b""
        assert lane.count("refused_peer") == 1
        assert b" 200 " in await (await lane.connect(MODEST)).ask()
        await kept[0].close()
        await lane.until(lambda: lane.count("open") == 2)
        assert b" 200 " in await (await lane.connect()).ask()


async def test_one_loop_iteration_serves_a_limited_number_of_requests_of_a_connection(lane: Serving) -> None:
    with lane.connected() as greedy, lane.connected() as modest:
        greedy.send(REQUEST * 100)
        modest.send(REQUEST)
        lane.iterate()
        assert lane.count("fast_answers") == 32 + 1
        await lane.until(lambda: lane.count("fast_answers") == 101)


class Noting(Recorder):
    """Records the connections of all requests in their order."""

    order: list[Connection]
    """The list of the test, which sets it."""

    @override
    def data_received(self, data: bytes) -> None:
        self.order.append(self.connection)
        super().data_received(data)


@pytest.fixture
def order() -> list[Connection]:
    """The connections whose requests the general lanes of the class Noting get, in their order."""
    Noting.order = []
    return Noting.order


async def test_continuous_requests_of_one_peer_delay_another_peers_request_by_one_request_only(
    order: list[Connection],
) -> None:
    async with serving(Noting) as lane:
        greedy = [lane.connected(GREEDY) for _ in range(20)]
        with lane.connected(MODEST) as modest:
            for sock in greedy:
                sock.send(OTHER_REQUEST * 50)
            modest.send(OTHER_REQUEST * 3)
            lane.iterate()
            assert len(order) == 2, "one request of each in a turn, however many connections"
            await lane.until(lambda: len(order) == 20 * 50 + 3)
        peers = [connection.peer for connection in order]
        assert peers[:6] == [GREEDY, MODEST] * 3
        assert peers.count(MODEST) == 3
        for sock in greedy:
            sock.close()


async def test_connections_of_one_peer_are_served_in_rotation(order: list[Connection]) -> None:
    async with serving(Noting) as lane:
        with lane.connected() as greedy, lane.connected() as modest:
            greedy.send(OTHER_REQUEST * 100)
            modest.send(OTHER_REQUEST)
            await lane.until(lambda: len(order) == 101)
        assert order.index(lane.generals[1].connection) <= 2


async def test_the_general_lane_gets_one_head_at_a_time(lane: Serving, peer: Peer) -> None:
    peer.send(OTHER_REQUEST * 10 + OTHER_REQUEST[:9])
    for _ in range(10):
        assert await peer.answer() == NOT_FOUND
    await lane.until(lambda: lane.generals[0].calls.count("data") == 11)
    assert lane.count("handed_over") == 11


async def test_one_loop_iteration_accepts_a_limited_number_of_connections(lane: Serving) -> None:
    waiting = [lane.connected() for _ in range(300)]
    lane.iterate()
    assert lane.count("accepted") == 256
    await lane.until(lambda: lane.count("accepted") == 300)
    for sock in waiting:
        sock.close()


async def test_frequent_connects_delay_the_first_request_of_others_by_few_requests() -> None:
    async with serving(addresses=(GREEDY, MODEST)) as lane:
        greedy = [lane.connected(GREEDY) for _ in range(200)]
        with lane.connected(MODEST) as modest:
            for sock in [*greedy, modest]:
                sock.send(REQUEST)
            lane.iterate()
            assert modest.recv(15) == b"HTTP/1.1 200 OK"
            assert lane.count("fast_answers") == 16 + 1, "the others have their places, and wait"
            await lane.until(lambda: lane.count("fast_answers") == 201)
        for sock in greedy:
            sock.close()


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """In this context, the process may open no descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_free_descriptors_the_listener_pauses_and_resumes(lane: Serving) -> None:
    with lane.connected() as sock:
        sock.send(REQUEST)
        with no_more_descriptors():
            lane.iterate()
            assert lane.count("accepted") == 0
        lane.iterate()
        assert lane.count("accepted") == 0, "it is resting"
        await lane.until(lambda: lane.count("fast_answers") == 1)
        assert lane.count("accepted") == 1


async def test_without_free_descriptors_existing_connections_are_served(lane: Serving, peer: Peer) -> None:
    await peer.ask()
    with lane.connected(), no_more_descriptors():
        lane.iterate()
        assert b" 200 " in await peer.ask()


async def test_a_paused_listener_can_be_closed(lane: Serving) -> None:
    with lane.connected():
        with no_more_descriptors():
            lane.iterate()
        lane.lane.stop_accepting()
        lane.lane.close()
        assert lane.count("accepted") == 0


class Leaving(Holding):
    """A general lane that ends the request when its peer disconnects."""

    @override
    def peer_gone(self) -> None:
        super().peer_gone()
        self.connection.finish()


async def test_slots_are_released_however_a_connection_ends() -> None:
    async with serving(Leaving, limits_with(connections_per_peer=4)) as lane:
        for turns in range(50):
            peer = await lane.connect()
            peer.send((REQUEST, OTHER_REQUEST, b"G", b"")[turns % 4])
            await lane.until(lambda accepted=turns + 1: lane.count("accepted") == accepted)  # type: ignore[misc]
            await peer.close()
            await lane.until(lambda: lane.count("open") == 0)
        assert lane.count("refused_peer") == 0


def test_a_limit_of_zero_connections_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least one connection"):
        limits_with(connections=0)
    with pytest.raises(ValueError, match="at least one connection"):
        limits_with(connections_per_peer=0)
    assert limits_with(connections=1, connections_per_peer=1).connections == 1


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 86_401])
def test_a_time_limit_outside_its_range_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="time limit"):
        limits_with(head_seconds=seconds)


async def test_a_blocking_or_foreign_listener_is_refused(lane: Serving) -> None:
    spare = Lane(index=lane.index, general=Holding, limits=limits_with())
    with socket.socket() as blocking, pytest.raises(ValueError, match="setblocking"):
        spare.start(None, blocking)  # type: ignore[arg-type]  # it is not looked at
    with socket.socket(socket.AF_INET6) as six, pytest.raises(ValueError, match="IPv4"):
        spare.start(None, six)  # type: ignore[arg-type]
    spare.close()


IDLE: Final = 2000
ITERATIONS: Final = 200


def least_ns(lane: Serving, data: bytes = b"") -> int:
    """Return the nanoseconds of the shortest iteration; each reads *data* from one of the connections."""
    least = 10**9
    with lane.connected() as sock:
        lane.iterate()
        for _ in range(ITERATIONS):
            if data:
                sock.send(data)
            begin = time.perf_counter_ns()
            lane.iterate()
            least = min(least, time.perf_counter_ns() - begin)
            if data:
                sock.recv(65536)
    lane.iterate()
    return least


async def test_the_cost_of_an_iteration_does_not_depend_on_the_number_of_idle_connections() -> None:
    async with serving(limits=limits_with(connections=4096, connections_per_peer=4096)) as lane:
        empty, answering = least_ns(lane), least_ns(lane, REQUEST)
        sockets = []
        for _ in range(IDLE):
            sockets.append(lane.connected())
            lane.iterate()
        assert lane.count("open") == IDLE
        # A visit of each connection takes 2,000 times some ten nanoseconds.
        assert least_ns(lane) < 4 * empty + 5_000
        assert least_ns(lane, REQUEST) < 4 * answering + 5_000
        assert lane.count("fast_answers") == 2 * ITERATIONS
        for sock in sockets:
            sock.close()
