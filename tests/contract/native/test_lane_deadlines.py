"""Each state of a connection that a peer can prolong has a deadline."""

import socket
import time
from contextlib import ExitStack
from functools import partial

import pytest
from typing_extensions import override

from _native.histogram import Histogram
from _native.index import Index, PodRecord
from _native.ready_responses import Usage
from tests.contract.native.serving import (
    NOT_FOUND,
    OTHER_REQUEST,
    REQUEST,
    Finishing,
    Holding,
    Recorder,
    Serving,
    admit,
    ready,
    serving,
)
from tests.contract.native.test_lane_listener import listening
from tests.support.nmi.server.limits import limits_with
from tests.support.waiting import until, until_sync

SHORT = 0.05


def late(lane: Serving) -> dict[str, int]:
    """Which deadlines have passed, and how often; they add up to all."""
    counters = lane.lane.counters()
    counts = {name: counters[f"timed_out_{name}"] for name in ("first_byte", "head", "idle", "write")}
    assert sum(counts.values()) == counters["timed_out"]
    return {name: count for name, count in counts.items() if count}


async def test_a_connection_that_sends_nothing_is_closed() -> None:
    async with serving(limits=limits_with(first_byte_seconds=SHORT)) as lane:
        assert await (await lane.connect()).ending() == b""
        assert lane.generals == []
        assert late(lane) == {"first_byte": 1}


def test_an_incomplete_head_is_cut_off_at_the_deadline_even_if_bytes_keep_arriving() -> None:
    with (
        listening(limits_with(head_seconds=SHORT), Recorder) as (loop, listener, lane),
        socket.create_connection(listener.getsockname()) as peer,
    ):
        end = time.monotonic() + 2 * SHORT
        peer.send(b"GET /")
        while time.monotonic() < end:
            peer.send(b"a")
            loop.iterate()
        loop.later.pop()()
        assert lane.counters()["timed_out_head"] == 1
        peer.setblocking(False)
        assert peer.recv(1) == b""


def test_many_overdue_connections_are_closed_in_parts() -> None:
    with listening(limits_with(first_byte_seconds=SHORT)) as (loop, listener, lane), ExitStack() as opened:
        for _ in range(300):
            opened.enter_context(socket.create_connection(listener.getsockname()))
            loop.iterate()
        assert lane.counters()["open"] == 300
        time.sleep(2 * SHORT)
        for closed in (128, 256, 300):
            loop.later.pop()()
            assert lane.counters()["timed_out"] == closed, "the loop runs other callbacks before the rest"
        assert (loop.later, lane.counters()["open"]) == ([], 0)


@pytest.mark.parametrize("request_", [REQUEST, OTHER_REQUEST], ids=["fast", "general"])
async def test_an_idle_connection_is_closed(request_: bytes) -> None:
    async with serving(limits=limits_with(idle_seconds=SHORT)) as lane:
        peer = await lane.connect()
        assert (await peer.ask(request_)).startswith(b"HTTP/1.1 ")
        assert await peer.ending() == b""
        assert late(lane) == {"idle": 1}


def stays_open_while_in_use(request_: bytes) -> bool:
    """Use a connection for twice the time after which it would be idle, and test that it stays.

    Return False if this process paused for that time, which then proves nothing.
    """
    index, record = Index(), PodRecord("pod")
    index.put("127.0.0.1", record)
    admit(record, ready(b"secret", Histogram([1]).series(()), Usage()))
    with (
        listening(limits_with(idle_seconds=SHORT), Recorder, index) as (loop, listener, lane),
        socket.create_connection(listener.getsockname()) as peer,
    ):
        begun = time.monotonic()
        while time.monotonic() < begun + 2 * SHORT:
            used = time.monotonic()
            peer.send(request_)
            loop.iterate()
            loop.later.pop()()
            if lane.counters()["timed_out"]:
                assert time.monotonic() > used + SHORT
                return False
            assert peer.recv(1000).startswith(b"HTTP/1.1 200 " if request_ == REQUEST else NOT_FOUND)
    return True


@pytest.mark.parametrize("request_", [REQUEST, OTHER_REQUEST], ids=["fast", "general"])
def test_a_connection_in_use_is_not_idle(request_: bytes) -> None:
    until_sync(partial(stays_open_while_in_use, request_), "no pause of this process")


def test_a_request_in_the_general_lane_has_no_deadline_of_the_lane() -> None:
    limits = limits_with(first_byte_seconds=SHORT, head_seconds=SHORT, idle_seconds=SHORT, write_seconds=SHORT)
    with (
        listening(limits, Holding) as (loop, listener, lane),
        socket.create_connection(listener.getsockname()) as peer,
    ):
        peer.send(OTHER_REQUEST)
        loop.iterate()
        time.sleep(2 * SHORT)
        loop.later.pop()()
        assert (lane.counters()["open"], lane.counters()["timed_out"]) == (1, 0)


class Flooding(Recorder):
    """Finishes with a response that its peer will not read all of."""

    @override
    def data_received(self, data: bytes) -> None:
        self.note("data")
        self.connection.write(b"x" * 10_000_000)
        self.connection.finish()


@pytest.mark.parametrize(("general", "data"), [(Recorder, REQUEST * 200), (Flooding, OTHER_REQUEST)])
async def test_a_peer_that_never_reads_its_answers_is_closed(general: type[Recorder], data: bytes) -> None:
    async with serving(general, limits_with(write_seconds=SHORT), token=b"t" * 60_000) as lane:
        peer = await lane.connect(receive_buffer=4096)
        peer.stop_reading()
        peer.send(data)
        await lane.until(lambda: lane.count("timed_out") == 1)
        assert lane.count("open") == 0
        assert late(lane) == {"write": 1}


async def test_reading_a_little_does_not_extend_the_write_deadline() -> None:
    async with serving(limits=limits_with(write_seconds=SHORT), token=b"t" * 60_000) as lane:
        peer = await lane.connect(receive_buffer=4096)
        peer.send(REQUEST * 200)

        async def read_a_little() -> int:
            await peer.reader.read(1)
            peer.stop_reading()
            return lane.count("timed_out")

        await until(read_a_little)


async def test_a_connection_is_closed_although_its_peer_never_closes_its_side() -> None:
    async with serving(Finishing) as lane:
        peer = await lane.connect()
        peer.send(OTHER_REQUEST)
        assert await peer.answer() == NOT_FOUND
        await lane.until(lambda: lane.count("open") == 0)
        assert lane.count("timed_out") == 0, "lingering is ours to end, not the peer's fault"
