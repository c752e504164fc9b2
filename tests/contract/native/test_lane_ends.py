"""The stop of a lane: it accepts no connections, closes idle ones, and the others when they are answered."""

import asyncio
import socket

import pytest
from typing_extensions import override

from _native.lane import Lane
from tests.contract.native.serving import (
    NOT_FOUND,
    OTHER_REQUEST,
    REQUEST,
    Finishing,
    Holding,
    Peer,
    Recorder,
    Serving,
    serving,
)

CLOSE_THE_OTHERS = b"close the others\r\n\r\n"


class ClosingOthers(Finishing):
    """Closes the idle connections of its lane at the request CLOSE_THE_OTHERS."""

    lane: Lane
    """The lane of the test, which sets it."""

    @override
    def go_on(self) -> None:
        if self.received == CLOSE_THE_OTHERS:
            self.lane.close_idle()
        super().go_on()


async def test_after_stop_accepting_only_existing_connections_are_served(lane: Serving, peer: Peer) -> None:
    await peer.ask()
    lane.lane.stop_accepting()
    lane.lane.stop_accepting()
    late = await lane.connect()
    late.send(REQUEST)
    assert b" 200 " in await peer.ask()
    assert lane.count("accepted") == 1


async def test_idle_connections_are_closed_and_held_ones_stay_until_answered() -> None:
    async with serving(Holding) as lane:
        idle, silent = await lane.connect(), await lane.connect()
        await idle.ask()
        pending, general = await lane.held()
        await lane.until(lambda: lane.count("accepted") == 3)
        lane.lane.stop_accepting()
        assert lane.lane.close_idle() == 1
        assert await idle.ending() == await silent.ending() == b""
        general.answer()
        assert await pending.ending() == NOT_FOUND
        await pending.close()
        await lane.until(lambda: lane.count("open") == 0)
        assert lane.lane.close_idle() == 0


async def test_a_request_that_has_arrived_is_answered_before_its_connection_is_closed(
    lane: Serving, peer: Peer
) -> None:
    await peer.ask()
    peer.send(REQUEST)
    assert lane.lane.close_idle() == 1
    response = await peer.ending()
    assert response.startswith(b"HTTP/1.1 200 OK")
    assert b"Connection: close" in response


async def test_lingering_connections_do_not_delay_the_end() -> None:
    async with serving(Finishing) as lane:
        peer = await lane.connect()
        peer.send(OTHER_REQUEST)
        assert await peer.answer() == NOT_FOUND
        assert lane.count("open") == 1
        assert lane.lane.close_idle() == 0
        await lane.generals[0].until("lost")


async def test_a_connection_whose_answers_wait_to_be_read_is_not_idle() -> None:
    async with serving(token=b"t" * 60_000) as lane:
        peer = await lane.connect(receive_buffer=4096)
        peer.stop_reading()
        peer.send(REQUEST * 100)
        await lane.until(lambda: lane.count("fast_answers") > 0)
        assert lane.lane.release_idle(64) == []
        assert lane.lane.close_idle() == 1
        peer.read_again()
        assert (await peer.ending()).count(b"HTTP/1.1 200 OK") == lane.count("fast_answers")


async def test_an_event_of_a_connection_closed_in_the_same_iteration_is_ignored() -> None:
    async with serving(ClosingOthers) as lane:
        ClosingOthers.lane = lane.lane
        with lane.connected() as lingering, lane.connected() as closing:
            lingering.send(OTHER_REQUEST)
            lane.iterate()
            lane.iterate()
            closing.send(CLOSE_THE_OTHERS)
            lingering.send(b"more")
            lane.iterate()
            assert lane.count("open") == 1
            assert [general.calls for general in lane.generals] == [["data", "lost"], ["data"]]


async def test_a_pending_answer_is_sent_before_its_connection_is_closed_as_idle() -> None:
    async with serving(ClosingOthers) as lane:
        ClosingOthers.lane = lane.lane
        with lane.connected() as asking, lane.connected() as closing:
            lane.iterate()
            asking.send(REQUEST)
            closing.send(CLOSE_THE_OTHERS)
            lane.iterate()
            assert asking.recv(65536).endswith(b'"token_type":"Bearer"}')
            assert asking.recv(1) == b""


async def test_close_ends_all_connections_and_may_be_repeated() -> None:
    async with serving(Holding) as lane:
        idle = await lane.connect()
        await idle.ask()
        pending, general = await lane.held()
        lane.lane.close()
        assert general.calls == ["data", "lost"]
        lane.lane.close()
        lane.lane.stop_accepting()
        assert lane.lane.close_idle() == 0
        assert await idle.ending() == await pending.ending() == b""


async def test_a_handler_may_close_the_lane() -> None:
    class Closing(Recorder):
        @override
        def data_received(self, data: bytes) -> None:
            self.note("data")
            lane.lane.close()
            self.connection.write(NOT_FOUND)

    async with serving(Closing) as lane:
        peer = await lane.connect()
        peer.send(OTHER_REQUEST)
        assert await peer.ending() == b""
        assert lane.generals[0].calls == ["data", "lost"]


async def test_a_lane_can_be_started_only_once(lane: Serving) -> None:
    with socket.socket() as listener, pytest.raises(RuntimeError, match="once"):
        lane.lane.start(asyncio.get_running_loop(), listener)
