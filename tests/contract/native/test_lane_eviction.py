"""If all slots are in use, the peer with most connections loses one; a peer with fewer loses none."""

import asyncio
import os
from contextlib import suppress

import pytest
from typing_extensions import override

from tests.contract.native.serving import LAST_REQUEST, OTHER_REQUEST, REQUEST, Holding, Peer, Recorder, serving
from tests.support.nmi.server.limits import limits_with

A, B, C = "127.0.0.1", "127.0.0.2", "127.0.0.3"
NEWCOMER = "127.0.2.1"


async def is_open(peer: Peer) -> bool:
    """Return whether the lane still serves it; unread bytes are discarded."""
    try:
        return (await peer.ask()).startswith(b"HTTP/1.1")
    except (OSError, asyncio.IncompleteReadError):
        return False


async def test_a_new_connection_replaces_the_least_recently_used_one_of_the_largest_peer() -> None:
    async with serving(limits=limits_with(connections=5), addresses=(A, B, C)) as lane:
        first, second, third, fourth = [await lane.connect(A) for _ in range(4)]
        other = await lane.connect(B)
        for peer in (other, third, first, second, fourth):
            await peer.ask()
        assert b" 200 " in await (await lane.connect(C)).ask()
        assert await third.ending() == b"", "of the four, that which was idle longest"
        await first.ask()  # the next candidate for eviction: the order is computed for each one
        assert b" 200 " in await (await lane.connect(C)).ask()
        assert [await is_open(peer) for peer in (first, second, fourth, other)] == [True, False, True, True]
        assert (lane.count("evicted_idle"), lane.count("refused_total"), lane.count("open")) == (2, 0, 5)


async def test_connections_that_never_sent_data_are_idle_and_a_peer_may_replace_its_own() -> None:
    async with serving(limits=limits_with(connections=2), addresses=(A, B)) as lane:
        silent = [await lane.connect(A) for _ in range(2)]
        await lane.until(lambda: lane.count("open") == 2)
        for address in (B, B, B):
            assert b" 200 " in await (await lane.connect(address)).ask()
        assert await silent[0].ending() == b""
        assert lane.count("evicted_idle") == 3


async def test_a_peer_at_its_own_limit_evicts_no_connection_of_another_peer() -> None:
    async with serving(limits=limits_with(connections=3, connections_per_peer=2), addresses=(A, B)) as lane:
        for address in (A, A, B):
            await (await lane.connect(address)).ask()
        assert await (await lane.connect(A)).ending() == b""
        assert (lane.count("refused_peer"), lane.count("evicted_idle"), lane.count("open")) == (1, 0, 3)


async def test_a_request_in_progress_is_never_cut_off() -> None:
    async with serving(Holding, limits_with(connections=3), addresses=(A, B, C)) as lane:
        _, general = await lane.held(A)
        await lane.held(A)
        idle = await lane.connect(B)
        await idle.ask()
        assert b" 200 " in await (await lane.connect(C)).ask()
        assert await idle.ending() == b"", "the greediest of those that can give one up"
        await lane.held(C)
        assert await (await lane.connect(B)).ending() == b""
        assert lane.count("refused_total") == 1
        general.answer()
        assert b" 200 " in await (await lane.connect(B)).ask()
        assert [general.calls for general in lane.generals] == [["data", "lost"], ["data"], ["data"]]


async def test_an_arrived_request_that_was_not_read_yet_is_pending() -> None:
    async with serving(limits=limits_with(connections=2), addresses=(A, B)) as lane:
        asking, idle = await lane.connect(A), await lane.connect(A)
        await asking.ask()
        await idle.ask()
        # In one iteration the new connection precedes the request, because the listener was ready before.
        with lane.connected(B):
            os.write(asking.writer.get_extra_info("socket").fileno(), REQUEST)
            lane.iterate()
        assert b" 200 " in await asking.answer()
        assert await idle.ending() == b""


@pytest.mark.parametrize(("slots", "evicted"), [((10,), 1), ((5, 5), 1), ((1,) * 10, 0)])
async def test_requests_that_arrive_on_all_idle_connections_exclude_no_peer_with_fewer(
    slots: tuple[int, ...], evicted: int
) -> None:
    addresses = tuple(f"127.0.0.{number}" for number in range(1, len(slots) + 1))
    async with serving(limits=limits_with(connections=10), addresses=(*addresses, NEWCOMER)) as lane:
        counts = zip(addresses, slots, strict=True)
        asking = [await lane.connect(address) for address, count in counts for _ in range(count)]
        for peer in asking:
            await peer.ask()
        with lane.connected(NEWCOMER) as newcomer:
            newcomer.send(REQUEST)
            for peer in asking:  # after the newcomer, so that one iteration of the loop sees it first
                os.write(peer.writer.get_extra_info("socket").fileno(), REQUEST)
            lane.iterate()
            assert (lane.count("evicted_slow"), lane.count("refused_total")) == (evicted, 1 - evicted)
            served = await asyncio.gather(*(peer.answer() for peer in asking), return_exceptions=True)
            closed = [number for number, response in enumerate(served) if not isinstance(response, bytes)]
            assert len(closed) == evicted
            assert {0, slots[0]}.issuperset(closed), "of its peer's, the one that was idle longest"


async def test_without_idle_connections_a_slow_peer_loses_a_slot_to_a_peer_with_fewer() -> None:
    async with serving(limits=limits_with(connections=3), addresses=(A, B)) as lane:
        slow = [await lane.connect(A) for _ in range(3)]
        for peer in slow:
            peer.send(b"GET /")
            await lane.until(lambda peer=peer: len(lane.generals) == slow.index(peer) + 1)  # type: ignore[misc]
        assert b" 200 " in await (await lane.connect(B)).ask(), "at once, and not after head_seconds"
        assert await slow[0].ending() == b""
        assert (lane.count("evicted_slow"), lane.count("evicted_idle")) == (1, 0)
        assert lane.generals[0].calls == ["data", "lost"]


async def test_two_equally_busy_peers_do_not_evict_each_other() -> None:
    async with serving(limits=limits_with(connections=4), addresses=(A, B)) as lane:
        for address in (A, A, B, B):
            (await lane.connect(address)).send(b"GET /")
        await lane.until(lambda: len(lane.generals) == 4)
        assert await (await lane.connect(B)).ending() == b""
        assert (lane.count("evicted_slow"), lane.count("refused_total")) == (0, 1)


async def test_a_peer_that_does_not_read_loses_a_slot_too() -> None:
    async with serving(limits=limits_with(connections=2), addresses=(A, B), token=b"t" * 60_000) as lane:
        for _ in range(2):
            peer = await lane.connect(A, receive_buffer=4096)
            peer.stop_reading()
            peer.send(REQUEST * 20)
        await lane.until(lambda: lane.count("fast_answers") > 1)
        assert b" 200 " in await (await lane.connect(B)).ask()
        assert lane.count("evicted_slow") == 1


async def test_peers_that_hold_all_slots_cannot_exclude_another_and_lose_equally() -> None:
    async with serving(limits=limits_with(connections=160, connections_per_peer=10)) as lane:
        socks = [lane.connected(f"127.0.1.{number // 10 + 1}") for number in range(160)]
        await lane.until(lambda: lane.count("accepted") == 160)
        for _ in range(9):
            assert b" 200 " in await (await lane.connect()).ask()
        closed = []
        for sock in socks:
            with sock, suppress(BlockingIOError):
                assert sock.recv(1) == b""
                closed.append(sock.getsockname()[0])
        assert len(closed) == lane.count("evicted_idle") == 9
        assert len(set(closed)) == 9, "each in its turn"


async def test_churn_at_the_limit_leaves_no_disconnected_peer_counted() -> None:
    async with serving(limits=limits_with(connections=8, connections_per_peer=4), addresses=(A, B, C)) as lane:
        for iterate in range(200):
            address = (A, B, C)[iterate * 7 % 3]
            peer = await lane.connect(address)
            peer.send((REQUEST, OTHER_REQUEST, b"G", LAST_REQUEST)[iterate % 4])
            if iterate % 5 == 0:
                await peer.close()
        for peer in lane.peers:
            await peer.close()
        await lane.until(lambda: lane.count("open") == 0)
        for address in (A, B, C):
            for _ in range(4 if address != C else 0):
                assert b" 200 " in await (await lane.connect(address)).ask()
        assert lane.count("open") == 8


async def test_a_connection_that_was_resumed_can_be_evicted_again() -> None:
    class Answering(Recorder):
        """Holds each request for one turn of the loop."""

        @override
        def go_on(self) -> None:
            self.connection.pause()
            asyncio.get_running_loop().call_soon(super().go_on)

    async with serving(Answering, limits_with(connections=2), addresses=(A, B)) as lane:
        pending = [await lane.connect(A) for _ in range(2)]
        for peer in pending:
            await peer.ask(OTHER_REQUEST)
        assert b" 200 " in await (await lane.connect(B)).ask()
        assert await pending[0].ending() == b""
