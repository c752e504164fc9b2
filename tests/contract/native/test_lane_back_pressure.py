"""The lane does not read from a peer that does not read its responses, and the memory of all connections is limited.

The peer gets all its responses later. The lane reads less from the peer that uses most memory, and then closes
connections of this peer. A closed connection keeps its slot until the peer has read its responses.
"""

import re

import pytest
from typing_extensions import override

from _native.lane import Limits
from tests.contract.native.serving import LAST_REQUEST, OTHER_REQUEST, REQUEST, Peer, Recorder, Serving, serving
from tests.support.nmi.server.limits import limits_with


async def test_requests_wait_while_answers_cannot_be_written() -> None:
    async with serving(token=b"t" * 60_000) as lane:
        peer = await lane.connect(receive_buffer=4096)
        peer.stop_reading()
        count = 1000  # their responses exceed any socket buffer
        peer.send(REQUEST * count + LAST_REQUEST)
        modest = await lane.connect()
        for _ in range(100):  # enough iterations to serve all of it
            await modest.ask(OTHER_REQUEST)
        answered = lane.count("fast_answers")
        assert 0 < answered < count / 2
        await modest.ask(OTHER_REQUEST)
        assert lane.count("fast_answers") == answered
        peer.read_again()
        assert len(re.findall(rb"HTTP/1.1 \d+", await peer.ending())) == count + 1


class Generous(Recorder):
    """A general lane that answers with more bytes than a socket accepts, in several pieces, and resumes immediately."""

    @override
    def data_received(self, data: bytes) -> None:
        self.note("data")
        for piece in range(20):
            self.connection.write(bytes([65 + piece]) * 300_000)
        self.connection.resume()


async def test_a_large_answer_arrives_whole_in_order_and_before_the_next() -> None:
    async with serving(Generous) as lane:
        peer = await lane.connect()
        peer.send(OTHER_REQUEST)
        await lane.until(lambda: len(lane.generals) == 1)
        peer.send(LAST_REQUEST)
        received = await peer.ending()
        large = b"".join(bytes([65 + piece]) * 300_000 for piece in range(20))
        assert received[: len(large)] == large
        assert received[len(large) :].startswith(b"HTTP/1.1 200 OK")


MODEST, GREEDY = "127.0.0.1", "127.0.0.2"
TOKEN = b"t" * 2000


def bounded(memory_bytes: int) -> Limits:
    return limits_with(memory_bytes=memory_bytes, receive_bytes=4096, send_bytes=8192)


async def unread(lane: Serving, address: str, data: bytes = b"") -> Peer:
    """A peer that sends *data* and does not read."""
    peer = await lane.connect(address, receive_buffer=4096)
    peer.stop_reading()
    peer.send(data)
    return peer


async def test_above_the_memory_limit_only_the_largest_peer_loses_connections() -> None:
    limits = bounded(400_000)
    async with serving(limits=limits, token=TOKEN, addresses=(MODEST, GREEDY)) as lane:
        modest = await lane.connect(MODEST)
        await modest.ask()
        greedy = [await unread(lane, GREEDY) for _ in range(60)]
        await lane.until(lambda: lane.count("open") == 61)
        # All of them send before the lane measures: on a slow machine it would refuse the later ones instead.
        for peer in greedy:
            peer.send(REQUEST * 100)
        await lane.until(lambda: lane.count("evicted_memory") > 0)
        await lane.until(lambda: lane.count("memory_bytes") <= 400_000)
        for _ in range(20):
            assert (await modest.ask()).startswith(b"HTTP/1.1 200 OK")


async def test_within_the_memory_limit_no_peer_loses_a_connection() -> None:
    limits = bounded(400_000_000)
    async with serving(limits=limits, token=TOKEN, addresses=(MODEST, GREEDY)) as lane:
        peers = [await unread(lane, GREEDY, REQUEST * 20 + LAST_REQUEST) for _ in range(20)]
        await lane.until(lambda: lane.count("fast_answers") > 100)
        for peer in peers:
            peer.read_again()
            assert (await peer.ending()).count(b"HTTP/1.1 200 OK") == 21
        assert lane.count("evicted_memory") == lane.count("narrowed") == lane.count("refused_memory") == 0


async def test_a_throttled_peer_gets_all_answers_once_it_reads() -> None:
    limits = bounded(960_000)  # the lane applies five eighths of it; the connections use about 350,000
    async with serving(limits=limits, token=TOKEN, addresses=(MODEST, GREEDY)) as lane:
        peers = [await unread(lane, GREEDY, REQUEST * 30 + LAST_REQUEST) for _ in range(14)]
        await lane.until(lambda: lane.count("narrowed") > 0)
        assert lane.count("evicted_memory") == 0
        for peer in peers:
            peer.read_again()
            assert (await peer.ending()).count(b"HTTP/1.1 200 OK") == 31


@pytest.mark.parametrize("ends", ["by the last request", "by its peer"])
async def test_a_slot_is_occupied_until_the_peer_has_read_its_answers(ends: str) -> None:
    async with serving(limits=limits_with(send_bytes=65536), token=TOKEN) as lane:
        last = LAST_REQUEST if ends == "by the last request" else REQUEST
        peer = await unread(lane, MODEST, REQUEST * 20 + last)
        await lane.until(lambda: lane.count("fast_answers") == 21)
        if ends == "by its peer":
            peer.half_close()
        modest = await lane.connect(MODEST)
        for _ in range(20):
            await modest.ask()
        await modest.close()
        await lane.until(lambda: lane.count("open") == 1)
        peer.read_again()
        assert (await peer.ending()).count(b"HTTP/1.1 200 OK") == 21
        await lane.until(lambda: lane.count("open") == 0)
        assert lane.count("timed_out") == 0


async def test_a_peer_that_never_reads_is_cut_off_at_the_write_deadline() -> None:
    async with serving(limits=limits_with(send_bytes=65536, write_seconds=0.2), token=TOKEN) as lane:
        peer = await unread(lane, MODEST, REQUEST * 20 + LAST_REQUEST)
        await lane.until(lambda: lane.count("timed_out_write") == 1)
        assert lane.count("open") == 0
        peer.read_again()
        assert (await peer.ending()).count(b"HTTP/1.1 200 OK") < 21


async def test_a_connection_with_one_answer_is_closed_without_waiting() -> None:
    async with serving(token=TOKEN) as lane:
        peer = await unread(lane, MODEST, LAST_REQUEST)
        await lane.until(lambda: lane.count("fast_answers") == 1)
        assert lane.count("open") == 0
        peer.read_again()
        assert (await peer.ending()).count(b"HTTP/1.1 200 OK") == 1
