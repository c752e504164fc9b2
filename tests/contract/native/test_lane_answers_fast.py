"""Ready responses over real connections: the requests that the fast lane answers, and the conditions.

Excluded: the hand-over (test_lane_handover.py), limits and deadlines.
"""

import re
import socket

import pytest

from _native.index import PodRecord
from tests.contract.native.serving import LAST_REQUEST, OTHER_REQUEST, REQUEST, Peer, Serving, admit, ready, serving
from tests.support.nmi.server.limits import limits_with

ASKED = b"?resource=https%3A%2F%2Fvault.azure.net "
OTHER_SPELLING = REQUEST.replace(ASKED, b"?resource=https://vault%2eazure.net ")
OTHER_RESOURCE = REQUEST.replace(ASKED, b"?resource=https%3A%2F%2Fvault.azure.com ")
A_BYTE_MORE = REQUEST.replace(ASKED, b"?resource=https%3A%2F%2Fvault.azure.nets ")
A_BYTE_LESS = REQUEST.replace(ASKED, b"?resource=https%3A%2F%2Fvault.azure.ne ")
LONG = REQUEST.replace(ASKED, b"?api-version=" + b"%32" * 400 + b"&" + ASKED[1:])


async def test_a_ready_response_is_sent_whole_and_counted_in_its_series_and_in_its_usage(
    lane: Serving, peer: Peer
) -> None:
    for _ in range(2):
        assert re.fullmatch(
            rb"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: \d+\r\n\r\n"
            rb'{"access_token":"secret","expires_in":"(3599|3600)","token_type":"Bearer"}',
            await peer.ask(),
        )
    assert lane.generals == []
    assert (sum(lane.series.counts()), lane.count("fast_answers"), lane.usage.take()) == (2, 2, 2)
    assert lane.series.sum_nanoseconds > 0
    assert lane.usage.last_ns > 0


async def test_nothing_is_answered_after_a_request_with_connection_close(lane: Serving, peer: Peer) -> None:
    peer.send(LAST_REQUEST + REQUEST + OTHER_REQUEST)
    response = await peer.ending()
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in response
    assert response.count(b"HTTP/1.1") == 1
    assert lane.generals == []
    await lane.until(lambda: lane.count("open") == 0)


async def test_a_half_closed_client_gets_its_answers(peer: Peer) -> None:
    peer.send(REQUEST + REQUEST)
    peer.half_close()
    assert (await peer.ending()).count(b"HTTP/1.1 200 OK") == 2


async def test_pipelined_fast_and_slow_requests_are_answered_in_order(peer: Peer) -> None:
    peer.send(REQUEST * 3 + OTHER_REQUEST + REQUEST * 2 + LAST_REQUEST)
    statuses = re.findall(rb"HTTP/1.1 (\d+)", await peer.ending())
    assert statuses == [b"200"] * 3 + [b"404"] + [b"200"] * 3


async def test_the_address_is_looked_up_for_every_request(lane: Serving, peer: Peer) -> None:
    assert b" 200 " in await peer.ask()
    newcomer = PodRecord("another pod")
    lane.index.put("127.0.0.1", newcomer)
    assert b" 404 " in await peer.ask()
    admit(newcomer, ready(b"others", lane.series, lane.usage))
    assert b"others" in await peer.ask()
    assert lane.index.remove("127.0.0.1", newcomer)
    assert b" 404 " in await peer.ask()
    lane.index.put("127.0.0.1", lane.record)
    assert b"secret" in await peer.ask()


async def test_an_unknown_address_gets_no_answer_of_another_pod(lane: Serving) -> None:
    assert b" 404 " in await (await lane.connect("127.0.0.2")).ask()
    assert b" 200 " in await (await lane.connect("127.0.0.1")).ask()


async def test_an_invalidated_record_answers_nothing(lane: Serving, peer: Peer) -> None:
    assert b" 200 " in await peer.ask()
    lane.record.invalidate()
    assert b" 404 " in await peer.ask()
    admit(lane.record, ready(b"of the next generation", lane.series, lane.usage))
    assert b'"of the next generation"' in await peer.ask()


@pytest.mark.parametrize("suspended", ["record", "index"])
async def test_a_suspended_record_uses_the_general_lane_until_it_is_resumed(
    lane: Serving, peer: Peer, suspended: str
) -> None:
    target = lane.record if suspended == "record" else lane.index
    target.suspended = True
    assert b" 404 " in await peer.ask()
    target.suspended = False
    assert b" 200 " in await peer.ask()


async def test_a_known_query_gets_the_most_recent_answer_and_no_stale_one(lane: Serving, peer: Peer) -> None:
    assert b'"secret"' in await peer.ask()
    admit(lane.record, ready(b"renewed", lane.series, lane.usage))
    assert b'"renewed"' in await peer.ask()
    admit(lane.record, ready(b"stale", lane.series, lane.usage, fresh_seconds=0))
    assert b" 404 " in await peer.ask()


async def test_all_spellings_of_a_query_get_the_same_answer(lane: Serving, peer: Peer) -> None:
    for request in (REQUEST, OTHER_SPELLING, LONG, LONG, REQUEST, REQUEST, OTHER_SPELLING, OTHER_SPELLING):
        assert b'"secret"' in await peer.ask(request)
    assert lane.count("fast_answers") == 8


@pytest.mark.parametrize("request_", [OTHER_RESOURCE, A_BYTE_MORE, A_BYTE_LESS], ids=["other", "longer", "shorter"])
async def test_a_query_similar_to_a_known_one_does_not_match(peer: Peer, request_: bytes) -> None:
    for _ in range(2):
        assert b'"secret"' in await peer.ask(REQUEST)
        assert b" 404 " in await peer.ask(request_)


async def test_each_of_several_known_queries_gets_its_own_answer(lane: Serving, peer: Peer) -> None:
    admit(lane.record, ready(b"other", lane.series, lane.usage), b"https://vault.azure.com")
    for _ in range(3):
        assert b'"secret"' in await peer.ask(REQUEST)
        assert b'"other"' in await peer.ask(OTHER_RESOURCE)


async def test_accepting_may_be_deferred_until_data_arrives() -> None:
    async with serving(limits=limits_with(defer_accept=True)) as lane:
        assert lane.listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) > 0
        # The lane's second may end in a pause of the machine.
        lane.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)
        silent, peer = await lane.connect(), await lane.connect()
        assert b" 200 " in await peer.ask()
        assert lane.count("accepted") == 1
        assert b" 200 " in await silent.ask()


async def test_without_the_metadata_header_a_request_is_fast_only_if_the_header_is_optional(peer: Peer) -> None:
    bare = REQUEST.replace(b"Metadata: true\r\n", b"")
    assert b" 404 " in await peer.ask(bare)
    async with serving(require_metadata=False) as lax:
        assert b" 200 " in await (await lax.connect()).ask(bare)
        assert b" 404 " in await (await lax.connect()).ask(REQUEST.replace(b"true", b"false"))
