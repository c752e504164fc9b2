"""The hand-over to the general lane, and the methods that it may call on its connection.

epoll reports each event to the lane once, and the lane answers after it has read: nothing is lost in between.
"""

import asyncio
import socket

import pytest

from tests.contract.native.serving import (
    LAST_REQUEST,
    NOT_FOUND,
    OTHER_REQUEST,
    REQUEST,
    Finishing,
    Holding,
    Peer,
    Serving,
    reset,
    serving,
)
from tests.support.nmi.server.limits import limits_with
from tests.support.waiting import until


async def test_a_part_of_a_head_is_handed_over_with_all_that_follows_it(lane: Serving, peer: Peer) -> None:
    peer.send(REQUEST[:40])
    await lane.until(lambda: len(lane.generals) == 1)
    assert await peer.ask(REQUEST[40:]) == NOT_FOUND
    assert lane.generals[0].received == REQUEST


async def test_the_fast_lane_handles_the_connection_again_after_the_general_lane(lane: Serving, peer: Peer) -> None:
    for number in range(3):
        assert await peer.ask(OTHER_REQUEST) == NOT_FOUND
        assert b" 200 " in await peer.ask(REQUEST)
        assert lane.count("handed_over") == number + 1
    assert [general.received for general in lane.generals] == [OTHER_REQUEST * 3]


async def test_answers_given_before_a_slow_request_are_sent_before_it() -> None:
    async with serving(Holding) as lane:
        peer = await lane.connect()
        peer.send(REQUEST + OTHER_REQUEST)
        assert b" 200 " in await peer.answer()


async def test_a_paused_connection_is_not_read_until_it_is_resumed() -> None:
    async with serving(Holding) as lane:
        peer, general = await lane.held()
        peer.send(REQUEST * 3 + LAST_REQUEST)
        await (await lane.connect()).ask()  # a whole turn of the loop and of the lane
        assert general.received == OTHER_REQUEST
        assert lane.count("fast_answers") == 1
        general.answer()
        received = await peer.ending()
        assert received.startswith(NOT_FOUND)
        assert received.count(b"HTTP/1.1 200") == 4


async def test_a_half_close_during_a_pending_request_is_reported_once() -> None:
    async with serving(Holding) as lane:
        peer, general = await lane.held()
        peer.half_close()
        await general.until("peer gone")
        for _ in range(5):
            await asyncio.sleep(0)
        assert general.calls == ["data", "peer gone"]
        general.answer()
        assert await peer.ending() == NOT_FOUND
        await general.until("lost")


async def test_a_reset_during_a_pending_request_is_reported_and_ends_the_connection() -> None:
    async with serving(Holding) as lane:
        peer, general = await lane.held()
        sock = peer.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.writer.transport.abort()
        await general.until("lost")
        assert general.calls == ["data", "peer gone", "lost"]


async def test_a_connection_closed_in_the_middle_of_a_request_is_dropped(lane: Serving, peer: Peer) -> None:
    peer.send(OTHER_REQUEST[:10])
    await lane.until(lambda: len(lane.generals) == 1)
    peer.half_close()
    assert await peer.ending() == b""
    await lane.generals[0].until("lost")
    assert lane.generals[0].calls == ["data", "lost"]


async def test_data_written_before_finish_arrives_while_the_peer_continues_to_send() -> None:
    async with serving(Finishing) as lane:
        peer = await lane.connect()
        peer.send(b"x" * 100_000)
        assert await peer.ending() == NOT_FOUND
        assert not lane.generals[0].connection.open
        await peer.close()
        await lane.generals[0].until("lost")
        assert lane.count("open") == 0


async def test_a_peer_that_sends_endlessly_after_the_last_answer_is_cut_off() -> None:
    async with serving(Finishing) as lane:
        peer = await lane.connect()
        peer.send(b"x" * 2_000_000)
        await lane.until(lambda: lane.count("open") == 0)
        assert lane.count("timed_out") == 0


async def test_an_answer_to_a_peer_that_has_just_disconnected_ends_the_connection() -> None:
    async with serving(Holding) as lane:
        sock = lane.connected()
        sock.send(OTHER_REQUEST)
        lane.iterate()
        general = lane.generals[0]
        assert isinstance(general, Holding)
        reset(sock)
        general.answer()
        assert not general.connection.open
        assert general.calls == ["data"], "never from within a call to Connection"
        await general.until("lost")


async def test_a_lost_connection_rejects_all_operations() -> None:
    async with serving(Holding) as lane:
        peer, general = await lane.held("127.0.0.3")
        connection = general.connection
        assert (connection.open, connection.peer, connection.original_destination()) == (True, "127.0.0.3", None)
        lane.lane.close()
        connection.write(b"x")
        connection.pause()
        connection.resume()
        connection.finish()
        assert connection.original_destination() is None
        assert connection.peer == "127.0.0.3"
        assert await peer.ending() == b""


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
    async with serving(limits=limits_with(connections=1)) as lane:
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
