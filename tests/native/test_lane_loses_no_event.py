"""epoll reports each event to the lane once, and the lane answers after it has read: nothing is lost in between."""

import socket

import pytest

from _native.lane import Limits
from tests.native.serving import OTHER_REQUEST, REQUEST, Serving, reset, serving
from tests.support.waiting import until

READ_MAX = 16 * 1024
"""Bytes that the lane reads per call."""


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
@pytest.mark.parametrize("request_", [b"", REQUEST, OTHER_REQUEST], ids=["nothing", "fast", "general"])
async def test_a_stream_end_that_arrives_with_a_request_ends_the_connection(
    lane: Serving, request_: bytes, before: int
) -> None:
    with lane.connected() as peer:
        await lane.until(lambda: lane.count("open") == 1)
        for _ in range(before):
            peer.send(REQUEST)
            assert b" 200 " in await until(lambda: peer.recv(65536), ignoring=BlockingIOError)
        peer.send(request_)
        peer.shutdown(socket.SHUT_WR)
        await lane.until(lambda: lane.count("open") == 0)
        assert everything(peer).count(b"HTTP/1.1 ") == bool(request_)


@pytest.mark.parametrize("more", [-1, 0, 1, READ_MAX, 5 * READ_MAX])
async def test_a_long_request_reaches_the_general_lane_completely(lane: Serving, more: int) -> None:
    with lane.connected() as peer:
        await lane.until(lambda: lane.count("open") == 1)
        peer.send(b"x" * (READ_MAX + more))
        await lane.until(lambda: bool(lane.generals) and len(lane.generals[0].received) == READ_MAX + more)


async def test_a_full_read_of_complete_requests_is_followed_by_another_read(lane: Serving) -> None:
    """The first read takes exactly READ_MAX bytes, all of them answered: nothing is left over that would call again."""
    room = READ_MAX // 16 - len(REQUEST)
    padded = REQUEST.replace(b"\r\n\r\n", b"\r\nX: " + b"p" * (room - len(b"\r\nX: ")) + b"\r\n\r\n")
    assert len(padded) * 16 == READ_MAX
    with lane.connected() as peer:
        await lane.until(lambda: lane.count("open") == 1)
        peer.send(padded * 16 + REQUEST * 2)
        await lane.until(lambda: lane.count("fast_answers") == 18)
        assert everything(peer).count(b"HTTP/1.1 200") == 18
        assert lane.generals == []


async def test_a_pending_answer_is_sent_before_its_slot_is_given_to_a_new_connection() -> None:
    async with serving(limits=Limits(connections=1)) as lane:
        with lane.connected() as asking:
            for _ in range(2):  # epoll forgets that the listener was ready, and reports the request first
                lane.iterate()
            asking.send(REQUEST)
            with lane.connected() as newcomer:
                newcomer.send(REQUEST)
                lane.iterate()
                assert asking.recv(65536).endswith(b'"token_type":"Bearer"}')
                assert asking.recv(1) == b""
                assert newcomer.recv(65536).endswith(b'"token_type":"Bearer"}')
                assert (lane.count("evicted_idle"), lane.count("refused_total")) == (1, 0)


async def test_a_disconnected_peer_does_not_affect_the_answers_of_others(lane: Serving) -> None:
    leaving, staying = [lane.connected() for _ in range(3)], [lane.connected() for _ in range(3)]
    lane.iterate()
    for left, stays in zip(leaving, staying, strict=True):
        left.send(REQUEST)
        stays.send(REQUEST)
    for left in leaving:
        reset(left)
    for _ in range(3):
        lane.iterate()
    for stays in staying:
        assert stays.recv(65536).endswith(b'"token_type":"Bearer"}')
        stays.close()
