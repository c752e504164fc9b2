"""Each state of a connection that a peer can prolong has a deadline."""

import asyncio
import socket
import time
from contextlib import ExitStack

import pytest
from typing_extensions import override

from _native.lane import Limits
from tests.contract.native.serving import (
    NOT_FOUND,
    OTHER_REQUEST,
    PATIENCE_SECONDS,
    REQUEST,
    Finishing,
    Holding,
    Peer,
    Recorder,
    Serving,
    serving,
)
from tests.contract.native.test_lane_listener import listening

SHORT = 0.05
ATTEMPTS = (1, 1, 1, 2, 4, 8, 16, 32)
"""Factors of the idle time, for a test that proves nothing if this process pauses for half of it."""


def late(lane: Serving) -> dict[str, int]:
    """Which deadlines have passed, and how often; they add up to all."""
    counters = lane.lane.counters()
    found = {name: counters[f"timed_out_{name}"] for name in ("first_byte", "head", "idle", "write")}
    assert sum(found.values()) == counters["timed_out"]
    return {name: count for name, count in found.items() if count}


async def test_a_connection_that_sends_nothing_is_closed() -> None:
    async with serving(limits=Limits(first_byte_seconds=SHORT)) as lane:
        assert await (await lane.connect()).ending() == b""
        assert lane.generals == []
        assert late(lane) == {"first_byte": 1}


def test_an_incomplete_head_is_cut_off_at_the_deadline_even_if_bytes_keep_arriving() -> None:
    with (
        listening(Limits(head_seconds=SHORT), Recorder) as (loop, listener, lane),
        socket.create_connection(listener.getsockname()) as peer,
    ):
        end = time.monotonic() + 2 * SHORT
        peer.send(b"GET /")
        while time.monotonic() < end:
            peer.send(b"a")
            loop.iterate()
        (sweep,) = loop.later
        sweep()
        assert lane.counters()["timed_out_head"] == 1
        peer.setblocking(False)
        assert peer.recv(1) == b""


def test_many_overdue_connections_are_closed_in_parts() -> None:
    with listening(Limits(first_byte_seconds=SHORT)) as (loop, listener, lane), ExitStack() as opened:
        for _ in range(300):
            opened.enter_context(socket.create_connection(listener.getsockname()))
            loop.iterate()
        assert lane.counters()["open"] == 300
        time.sleep(2 * SHORT)
        for closed in (128, 256, 300):
            (sweep,) = loop.later
            loop.later.clear()
            sweep()
            assert lane.counters()["timed_out"] == closed, "the loop runs other callbacks before the rest"
        assert (loop.later, lane.counters()["open"]) == ([], 0)


@pytest.mark.parametrize("request_", [REQUEST, OTHER_REQUEST], ids=["fast", "general"])
async def test_an_idle_connection_is_closed(request_: bytes) -> None:
    async with serving(limits=Limits(idle_seconds=SHORT)) as lane:
        peer = await lane.connect()
        assert (await peer.ask(request_)).startswith(b"HTTP/1.1 ")
        assert await peer.ending() == b""
        assert late(lane) == {"idle": 1}


async def is_in_use_for_two_idle_times(idle_seconds: float) -> bool:
    """Send requests for twice the time after which a connection is idle, and test that it stays.

    Return False if this process paused for half of that time, which then proves nothing.
    """
    async with serving(limits=Limits(idle_seconds=idle_seconds)) as lane:
        peer = await lane.connect()
        begun = last = time.monotonic()
        while last - begun < 2 * idle_seconds:
            answer = asyncio.create_task(peer.ask(REQUEST))
            await asyncio.wait([answer])
            paused, last = time.monotonic() - last, time.monotonic()
            if paused > idle_seconds / 2:
                answer.exception()
                return False
            assert b" 200 " in answer.result()
        assert lane.count("timed_out") == 0
        return True


async def test_a_connection_in_use_is_not_idle() -> None:
    for factor in ATTEMPTS:
        if await is_in_use_for_two_idle_times(factor * 4 * SHORT):
            return
    pytest.fail("the test was paused for half of the idle time in each attempt")


async def test_a_request_in_the_general_lane_has_no_deadline_of_the_lane() -> None:
    limits = Limits(first_byte_seconds=1.0, head_seconds=1.0, idle_seconds=1.0, write_seconds=1.0)
    async with serving(Holding, limits) as lane:
        sock = lane.connected()
        sock.send(OTHER_REQUEST)  # before the lane accepts the connection, so that no deadline begins before it
        peer = Peer(*await asyncio.open_connection(sock=sock))
        lane.peers.append(peer)
        for _ in range(2):  # whole deadlines
            await (await lane.connect()).ending()
        general = lane.generals[0]
        assert isinstance(general, Holding)
        general.answer()
        assert await peer.answer() == NOT_FOUND


async def test_a_peer_that_never_reads_its_answers_is_closed() -> None:
    async with serving(limits=Limits(write_seconds=SHORT), token=b"t" * 60_000) as lane:
        peer = await lane.connect(receive_buffer=4096)
        peer.stop_reading()
        peer.send(REQUEST * 200)
        await lane.until(lambda: lane.count("timed_out") == 1)
        assert lane.count("open") == 0
        assert late(lane) == {"write": 1}


async def test_reading_a_little_does_not_extend_the_write_deadline() -> None:
    async with serving(limits=Limits(write_seconds=SHORT), token=b"t" * 60_000) as lane:
        peer = await lane.connect(receive_buffer=4096)
        begun = time.monotonic()
        peer.send(REQUEST * 200)
        while lane.count("timed_out") == 0:
            await peer.reader.read(1)
            peer.stop_reading()
            await asyncio.sleep(SHORT / 20)
        assert time.monotonic() - begun < PATIENCE_SECONDS


class Flooding(Recorder):
    """Finishes with an answer that its peer will not read all of."""

    @override
    def data_received(self, data: bytes) -> None:
        self.note("data")
        self.connection.write(b"x" * 10_000_000)
        self.connection.finish()


async def test_a_finished_connection_ends_although_its_peer_does_not_read() -> None:
    async with serving(Flooding, Limits(write_seconds=SHORT)) as lane:
        peer = await lane.connect(receive_buffer=4096)
        peer.stop_reading()
        peer.send(OTHER_REQUEST)
        await lane.until(lambda: lane.count("timed_out") == 1)


async def test_a_connection_is_closed_although_its_peer_never_closes_its_side() -> None:
    async with serving(Finishing) as lane:
        peer = await lane.connect()
        peer.send(OTHER_REQUEST)
        assert await peer.answer() == NOT_FOUND
        await lane.until(lambda: lane.count("open") == 0)
        assert lane.count("timed_out") == 0, "lingering is ours to end, not the peer's fault"
