"""The lane recognises an earlier query by its bytes; the answer equals that for the decoded query."""

import time

import pytest

from tests.native.serving import REQUEST, admit, ready, serving

ASKED = b"?resource=https%3A%2F%2Fvault.azure.net "
OTHER_SPELLING = REQUEST.replace(ASKED, b"?resource=https://vault%2eazure.net ")
OTHER_RESOURCE = REQUEST.replace(ASKED, b"?resource=https%3A%2F%2Fvault.azure.com ")
A_BYTE_MORE = REQUEST.replace(ASKED, b"?resource=https%3A%2F%2Fvault.azure.nets ")
A_BYTE_LESS = REQUEST.replace(ASKED, b"?resource=https%3A%2F%2Fvault.azure.ne ")
LONG = REQUEST.replace(ASKED, b"?api-version=" + b"%32" * 400 + b"&" + ASKED[1:])


async def test_all_spellings_of_a_query_get_the_same_answer() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        for request in (REQUEST, OTHER_SPELLING, LONG, LONG, REQUEST, REQUEST, OTHER_SPELLING, OTHER_SPELLING):
            assert b'"secret"' in await peer.ask(request)
        assert lane.count("fast_answers") == 8


@pytest.mark.parametrize("request_", [OTHER_RESOURCE, A_BYTE_MORE, A_BYTE_LESS], ids=["other", "longer", "shorter"])
async def test_a_query_similar_to_a_known_one_does_not_match(request_: bytes) -> None:
    async with serving() as lane:
        peer = await lane.connect()
        for _ in range(2):
            assert b'"secret"' in await peer.ask(REQUEST)
            assert b" 404 " in await peer.ask(request_)


async def test_each_of_several_known_queries_gets_its_own_answer() -> None:
    async with serving() as lane:
        admit(lane.record, ready(b"other", lane.series, lane.usage), b"https://vault.azure.com")
        peer = await lane.connect()
        for _ in range(3):
            assert b'"secret"' in await peer.ask(REQUEST)
            assert b'"other"' in await peer.ask(OTHER_RESOURCE)


async def test_a_known_query_gets_the_most_recent_answer() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        assert b'"secret"' in await peer.ask(REQUEST)
        admit(lane.record, ready(b"renewed", lane.series, lane.usage))
        assert b'"renewed"' in await peer.ask(REQUEST)


async def test_a_known_query_gets_no_stale_answer() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        for seconds in (0.2, 1.0, 5.0, 20.0):
            admit(lane.record, ready(b"brief", lane.series, lane.usage, fresh_seconds=seconds))
            until = time.monotonic() + seconds
            answer = await peer.ask(REQUEST)
            if b'"brief"' in answer:
                break
            # The process paused until the answer was stale.
            assert b" 404 " in answer
            assert time.monotonic() >= until - 0.001
        assert b'"brief"' in answer
        while time.monotonic() < until:
            time.sleep(0.01)  # noqa: ASYNC251  nothing else is to run
        assert b" 404 " in await peer.ask(REQUEST)


async def test_a_known_query_gets_no_answer_of_an_invalidated_record() -> None:
    async with serving() as lane:
        peer = await lane.connect()
        assert b'"secret"' in await peer.ask(REQUEST)
        lane.record.invalidate()
        assert b" 404 " in await peer.ask(REQUEST)
        admit(lane.record, ready(b"of the next generation", lane.series, lane.usage))
        assert b'"of the next generation"' in await peer.ask(REQUEST)
