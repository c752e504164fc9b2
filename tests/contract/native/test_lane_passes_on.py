"""Tests of connections that one lane releases and another adopts, and of accepting again."""

import os
import socket

import pytest
from typing_extensions import override

from tests.contract.native.serving import NOT_FOUND, OTHER_REQUEST, REQUEST, Holding, Peer, Recorder, Serving, serving
from tests.support.nmi.server.limits import limits_with


async def test_an_idle_connection_continues_at_another_lane(lane: Serving) -> None:
    async with serving() as new:
        peers = [await lane.connect() for _ in range(3)]
        for peer in peers[:2]:
            assert b" 200 " in await peer.ask()
        assert await peers[1].ask(OTHER_REQUEST) == NOT_FOUND
        await lane.until(lambda: lane.count("accepted") == 3)
        released = [lane.lane.release_idle(2) for _ in range(3)]
        assert [len(batch) for batch in released] == [2, 1, 0], "no more than asked for"
        assert lane.count("open") == 0
        assert all(new.lane.adopt(descriptor) for some in released for descriptor in some)
        assert new.count("open") == 3
        for peer in peers:
            for _ in range(2):
                assert b" 200 " in await peer.ask()
                assert await peer.ask(OTHER_REQUEST) == NOT_FOUND
        assert (lane.count("fast_answers"), new.count("fast_answers")) == (2, 6)
        assert new.count("accepted") == 0


async def test_a_request_that_arrives_on_the_way_is_answered(lane: Serving, peer: Peer) -> None:
    async with serving() as new:
        await peer.ask()
        (released,) = lane.lane.release_idle(64)
        peer.send(REQUEST)
        peer.send(OTHER_REQUEST)
        assert new.lane.adopt(released)
        assert b" 200 " in await peer.answer()
        assert await peer.answer() == NOT_FOUND


async def test_only_connections_without_anything_pending_are_released() -> None:
    async with serving(Holding) as old, serving() as new:
        idle, half = await old.connect(), await old.connect()
        await idle.ask()
        pending, _ = await old.held()
        half.send(b"GET /half")
        await old.until(lambda: len(old.generals) == 2)
        (released,) = old.lane.release_idle(64)
        assert new.lane.adopt(released)
        assert b" 200 " in await idle.ask()
        for general in old.generals:
            assert isinstance(general, Holding)
            general.answer()
        assert await pending.answer() == NOT_FOUND
        assert await half.answer() == NOT_FOUND
        await old.until(lambda: old.count("open") == 2)
        for released in old.lane.release_idle(64):
            assert new.lane.adopt(released)
        assert old.count("open") == 0
        assert b" 200 " in await pending.ask()


async def test_the_limits_hold_for_adopted_connections(lane: Serving) -> None:
    async with serving(limits=limits_with(connections_per_peer=1)) as new:
        first, second = await lane.connect(), await lane.connect()
        await first.ask()
        await second.ask()
        assert [new.lane.adopt(descriptor) for descriptor in lane.lane.release_idle(64)] == [True, False]
        assert new.count("refused_peer") == 1
        assert await second.ending() == b""
        assert b" 200 " in await first.ask()


async def test_an_adopted_connection_gets_fast_answers_only_if_it_was_redirected(lane: Serving, peer: Peer) -> None:
    async with serving(redirected_from=("169.254.169.254", 80)) as new:
        await peer.ask()
        (released,) = lane.lane.release_idle(64)
        assert new.lane.adopt(released)
        assert await peer.ask() == NOT_FOUND
        assert new.count("fast_answers") == 0


async def test_what_is_no_connection_is_closed(lane: Serving, peer: Peer) -> None:
    ended, other_end = socket.socketpair()
    with other_end, socket.socket() as unconnected:
        for descriptor in (ended.detach(), os.dup(unconnected.fileno())):
            assert lane.lane.adopt(descriptor) is False
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)
    await peer.ask()
    (released,) = lane.lane.release_idle(1)
    lane.lane.close()
    with pytest.raises(RuntimeError):
        lane.lane.adopt(released)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(released)
    with socket.socket() as listener, pytest.raises(RuntimeError):
        lane.lane.accept_again(listener)


async def test_connections_are_not_released_within_a_turn() -> None:
    raised: list[BaseException] = []

    class Releasing(Recorder):
        @override
        def data_received(self, data: bytes) -> None:
            try:
                lane.lane.release_idle(1)
            except RuntimeError as error:
                raised.append(error)
            super().data_received(data)

    async with serving(Releasing) as lane:
        peer = await lane.connect()
        assert await peer.ask(OTHER_REQUEST) == NOT_FOUND
        assert len(raised) == 1


async def test_a_lane_accepts_again_what_has_waited_in_the_kernel(lane: Serving) -> None:
    with socket.socket(fileno=os.dup(lane.listener.fileno())) as duplicate:
        lane.lane.stop_accepting()
        waiting = await lane.connect()
        waiting.send(REQUEST)
        assert lane.count("accepted") == 0
        lane.lane.accept_again(duplicate)
        lane.lane.accept_again(duplicate)
        assert b" 200 " in await waiting.answer()
        lane.lane.stop_accepting()


async def test_two_lanes_may_share_a_listener(lane: Serving) -> None:
    async with serving() as new:
        with socket.socket(fileno=os.dup(lane.listener.fileno())) as duplicate:
            new.lane.stop_accepting()
            new.lane.accept_again(duplicate)
            for _ in range(50):
                assert b" 200 " in await (await lane.connect()).ask()
            assert lane.count("accepted") + new.count("accepted") == 50
            new.lane.stop_accepting()
        for peer in lane.peers:
            await peer.close()
        await new.until(lambda: new.count("open") == 0)
