"""Ready answers over real connections: the requests that the fast lane answers, and the conditions.

Excluded: the hand-over (test_lane_handover.py), limits and deadlines.
"""

import re
import socket

import pytest

from _native.index import PodRecord
from _native.lane import Limits
from tests.native.serving import LAST_REQUEST, OTHER_REQUEST, REQUEST, admit, ready, serving


async def test_a_ready_answer_is_sent_whole() -> None:
    async with serving() as lane:
        answer = await (await lane.connect()).ask()
        assert re.fullmatch(
            rb"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: \d+\r\n\r\n"
            rb'{"access_token":"secret","expires_in":"(3599|3600)","token_type":"Bearer"}',
            answer,
        )
        assert lane.generals == []


async def test_an_answer_is_counted_in_its_series_and_in_its_usage() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        await peer.ask()
        await peer.ask()
        assert sum(lane.series.counts()) == 2
        assert lane.series.sum_nanoseconds > 0
        assert lane.usage.take() == 2
        assert lane.usage.last_ns > 0
        assert lane.count("fast_answers") == 2


async def test_one_connection_receives_many_answers() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        answers = {(await peer.ask())[:15] for _ in range(100)}
        assert answers == {b"HTTP/1.1 200 OK"}
        assert lane.count("accepted") == 1


async def test_a_request_with_connection_close_is_answered_and_the_connection_is_closed() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        peer.send(LAST_REQUEST)
        answer = await peer.ending()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nConnection: close\r\n" in answer
        await lane.until(lambda: lane.count("open") == 0)


async def test_nothing_is_answered_after_a_request_with_connection_close() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        peer.send(LAST_REQUEST + REQUEST + OTHER_REQUEST)
        assert (await peer.ending()).count(b"HTTP/1.1") == 1
        assert lane.generals == []


async def test_a_half_closed_client_gets_its_answers() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        peer.send(REQUEST + REQUEST)
        peer.half_close()
        assert (await peer.ending()).count(b"HTTP/1.1 200 OK") == 2


async def test_pipelined_fast_and_slow_requests_are_answered_in_order() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        peer.send(REQUEST * 3 + OTHER_REQUEST + REQUEST * 2 + LAST_REQUEST)
        statuses = re.findall(rb"HTTP/1.1 (\d+)", await peer.ending())
        assert statuses == [b"200"] * 3 + [b"404"] + [b"200"] * 3


async def test_more_pipelined_requests_than_one_loop_iteration_serves_are_all_answered() -> None:
    async with serving(token=b"t" * 1500) as lane:
        peer = await lane.connect()
        peer.send(REQUEST * 500 + LAST_REQUEST)
        answers = await peer.ending()
        # The general lane gets a request that two reads divide, and all bytes of the second read.
        assert answers.count(b"HTTP/1.1 200 OK") == lane.count("fast_answers") >= 64
        assert answers.count(b"HTTP/1.1 ") == 501


async def test_the_address_is_looked_up_for_every_request() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        assert b" 200 " in await peer.ask()
        newcomer = PodRecord("another pod")
        lane.index.put("127.0.0.1", newcomer)
        assert b" 404 " in await peer.ask()
        admit(newcomer, ready(b"others", lane.series, lane.usage))
        assert b"others" in await peer.ask()


async def test_an_unregistered_address_gets_nothing_until_it_is_registered_again() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        assert b" 200 " in await peer.ask()
        assert lane.index.remove("127.0.0.1", lane.record)
        assert b" 404 " in await peer.ask()
        lane.index.put("127.0.0.1", lane.record)
        assert b" 200 " in await peer.ask()


async def test_an_unknown_address_gets_no_answer_of_another_pod() -> None:
    async with serving() as lane:
        assert b" 404 " in await (await lane.connect("127.0.0.2")).ask()
        assert b" 200 " in await (await lane.connect("127.0.0.1")).ask()


async def test_an_invalidated_record_answers_nothing() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        assert b" 200 " in await peer.ask()
        lane.record.invalidate()
        assert b" 404 " in await peer.ask()


@pytest.mark.parametrize("suspended", ["record", "index"])
async def test_a_suspended_record_uses_the_general_lane_until_it_is_resumed(suspended: str) -> None:
    async with serving() as lane:
        peer = await lane.connect()
        target = lane.record if suspended == "record" else lane.index
        target.suspended = True
        assert b" 404 " in await peer.ask()
        target.suspended = False
        assert b" 200 " in await peer.ask()


async def test_a_stale_answer_is_not_served() -> None:
    async with serving() as lane:
        admit(lane.record, ready(b"stale", lane.series, lane.usage, fresh_seconds=0))
        assert b" 404 " in await (await lane.connect()).ask()


async def test_accepting_may_be_deferred_until_data_arrives() -> None:
    async with serving(limits=Limits(defer_accept=True)) as lane:
        assert lane.listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) > 0
        # The lane's second may end in a pause of the machine.
        lane.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)
        silent, peer = await lane.connect(), await lane.connect()
        assert b" 200 " in await peer.ask()
        assert lane.count("accepted") == 1
        assert b" 200 " in await silent.ask()


async def test_without_the_metadata_header_a_request_is_fast_only_if_the_header_is_optional() -> None:
    bare = REQUEST.replace(b"Metadata: true\r\n", b"")
    async with serving() as strict:
        assert b" 404 " in await (await strict.connect()).ask(bare)
    async with serving(require_metadata=False) as lax:
        assert b" 200 " in await (await lax.connect()).ask(bare)
        assert b" 404 " in await (await lax.connect()).ask(REQUEST.replace(b"true", b"false"))
