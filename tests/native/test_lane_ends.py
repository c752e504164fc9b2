"""The stop of a lane: it accepts no connections, closes idle ones, and the others when they are answered."""

import asyncio
import socket

import pytest
from typing_extensions import override

from tests.native.serving import (
    LAST_REQUEST,
    NOT_FOUND,
    OTHER_REQUEST,
    REQUEST,
    Finishing,
    Holding,
    Recorder,
    serving,
)


async def test_after_stop_accepting_only_existing_connections_are_served() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        await peer.ask()
        lane.lane.stop_accepting()
        lane.lane.stop_accepting()
        late = await lane.connect()
        late.send(REQUEST)
        assert b" 200 " in await peer.ask()
        assert lane.count("accepted") == 1


async def test_idle_connections_are_closed_and_held_ones_stay_until_answered() -> None:
    async with serving(Holding) as lane:
        idle, silent, pending = await lane.connect(), await lane.connect(), await lane.connect()
        await idle.ask()
        pending.send(OTHER_REQUEST)
        await lane.until(lambda: len(lane.generals) == 1 and lane.count("accepted") == 3)
        lane.lane.stop_accepting()
        assert lane.lane.close_idle() == 1
        assert await idle.ending() == await silent.ending() == b""
        general = lane.generals[0]
        assert isinstance(general, Holding)
        general.answer()
        assert await pending.ending() == NOT_FOUND
        await pending.close()
        await lane.until(lambda: lane.count("open") == 0)
        assert lane.lane.close_idle() == 0


async def test_a_request_that_has_arrived_is_answered_before_its_connection_is_closed() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        await peer.ask()
        peer.send(REQUEST)
        assert lane.lane.close_idle() == 1
        answer = await peer.ending()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"Connection: close" in answer


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
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # every socket transport has it
        peer.send(REQUEST * 100)
        await lane.until(lambda: lane.count("fast_answers") > 0)
        assert lane.lane.close_idle() == 1
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert (await peer.ending()).count(b"HTTP/1.1 200 OK") == lane.count("fast_answers")


async def test_an_event_of_a_connection_closed_in_the_same_iteration_is_ignored() -> None:
    class ClosingOthers(Finishing):
        @override
        def go_on(self) -> None:
            if self.received == b"close the others\r\n\r\n":
                lane.lane.close_idle()
            super().go_on()

    async with serving(ClosingOthers) as lane:
        with lane.connected() as lingering, lane.connected() as closing:
            lingering.send(OTHER_REQUEST)
            lane.iterate()
            lane.iterate()
            closing.send(b"close the others\r\n\r\n")
            lingering.send(b"more")
            lane.iterate()
            assert lane.count("open") == 1
            assert [each.calls for each in lane.generals] == [["data", "lost"], ["data"]]


async def test_close_ends_all_connections_and_may_be_repeated() -> None:
    async with serving(Holding) as lane:
        idle, pending = await lane.connect(), await lane.connect()
        await idle.ask()
        pending.send(OTHER_REQUEST)
        await lane.until(lambda: len(lane.generals) == 1)
        lane.lane.close()
        assert lane.generals[0].calls == ["data", "lost"]
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


async def test_the_listener_still_belongs_to_its_owner() -> None:
    async with serving() as lane:
        lane.lane.close()
        with socket.create_connection(("127.0.0.1", lane.port)):
            pass


async def test_a_lane_can_be_started_only_once() -> None:
    async with serving() as lane:
        with socket.socket() as listener, pytest.raises(RuntimeError, match="once"):
            lane.lane.start(asyncio.get_running_loop(), listener)


async def test_pipelined_answers_arrive_complete_before_the_end_of_the_stream() -> None:
    async with serving(token=b"t" * 1500) as lane:
        peer = await lane.connect()
        peer.send(REQUEST * 30 + LAST_REQUEST)
        assert (await peer.ending()).count(b"HTTP/1.1 200 OK") == 31


async def test_a_large_last_answer_arrives_complete_at_a_peer_that_reads_late() -> None:
    async with serving(token=b"t" * 14_000) as lane:
        peer = await lane.connect(receive_buffer=2048)
        peer.send(REQUEST * 31 + LAST_REQUEST)
        received = await peer.ending()
        assert received.count(b"HTTP/1.1 200 OK") == 32
        assert received.endswith(b'"token_type":"Bearer"}')
