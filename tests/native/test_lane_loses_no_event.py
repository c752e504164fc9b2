"""epoll reports each event to the lane once: bytes that remain in a socket are still found."""

import socket
import time

import pytest

from tests.native.serving import LAST_REQUEST, OTHER_REQUEST, REQUEST, Holding, Serving, serving

READ_MAX = 16 * 1024
"""Bytes that the lane reads per call."""


def turns(lane: Serving, count: int = 20) -> None:
    for _ in range(count):
        lane.iterate()


def everything(peer: socket.socket) -> bytes:
    """The bytes that can be read, up to the end of the stream if it has arrived."""
    received = bytearray()
    try:
        while chunk := peer.recv(65536):
            received += chunk
    except BlockingIOError:
        pass
    return bytes(received)


@pytest.mark.parametrize("before", [0, 1, 3], ids=["new", "after one request", "after three requests"])
@pytest.mark.parametrize("request_", [REQUEST, OTHER_REQUEST], ids=["fast", "general"])
async def test_a_stream_end_that_arrives_with_a_request_ends_the_connection(request_: bytes, before: int) -> None:
    async with serving() as lane:
        with lane.connected() as peer:
            for _ in range(before):
                peer.send(REQUEST)
                turns(lane)
                assert b" 200 " in peer.recv(65536)
            peer.send(request_)
            peer.shutdown(socket.SHUT_WR)
            time.sleep(0.01)  # noqa: ASYNC251  both must have arrived before the lane reads
            turns(lane)
            assert lane.count("open") == 0
            assert everything(peer).count(b"HTTP/1.1 ") == 1


async def test_the_end_of_a_silent_connection_ends_it() -> None:
    async with serving() as lane:
        with lane.connected() as peer:
            turns(lane)
            assert lane.count("open") == 1
            peer.shutdown(socket.SHUT_WR)
            turns(lane)
            assert lane.count("open") == 0


@pytest.mark.parametrize("more", [-1, 0, 1, READ_MAX, 5 * READ_MAX])
async def test_a_long_request_reaches_the_general_lane_completely(more: int) -> None:
    async with serving() as lane:
        with lane.connected() as peer:
            turns(lane)
            peer.send(b"x" * (READ_MAX + more))
            time.sleep(0.01)  # noqa: ASYNC251  all of it must have arrived
            turns(lane)
            assert len(lane.generals[0].received) == READ_MAX + more


async def test_a_request_that_arrives_during_an_answer_is_answered_after_it() -> None:
    async with serving(Holding) as lane:
        peer = await lane.connect()
        peer.send(OTHER_REQUEST)
        await lane.until(lambda: bool(lane.generals) and lane.generals[0].calls == ["data"])
        peer.send(REQUEST * 3 + LAST_REQUEST)
        await (await lane.connect()).ask()  # a whole turn of the loop and of the lane
        general = lane.generals[0]
        assert isinstance(general, Holding)
        general.answer()
        received = await peer.ending()
        assert received.count(b"HTTP/1.1 404") == 1
        assert received.count(b"HTTP/1.1 200") == 4


async def test_a_full_read_of_complete_requests_is_followed_by_another_read() -> None:
    """The first read takes exactly READ_MAX bytes, all of them answered: nothing is left over that would call again."""
    room = READ_MAX // 16 - len(REQUEST)
    padded = REQUEST.replace(b"\r\n\r\n", b"\r\nX: " + b"p" * (room - len(b"\r\nX: ")) + b"\r\n\r\n")
    assert len(padded) * 16 == READ_MAX
    async with serving() as lane:
        with lane.connected() as peer:
            turns(lane)
            peer.send(padded * 16 + REQUEST * 2)
            time.sleep(0.01)  # noqa: ASYNC251  as above
            turns(lane)
            assert everything(peer).count(b"HTTP/1.1 200") == 18
            assert lane.generals == []
