"""The answer with a token, and its ready answer. Excluded: the lane's use of ready answers."""

import json
import time
from dataclasses import replace

import pytest

from nmi.identity.request import SelectorKind
from nmi.server.policy import ServerPolicy
from nmi.server.responses import PlainAnswer, token_parts
from nmi.tokens.token import Token
from tests.nmi.server.fakes import PEER, QUERY, RESOURCE, TOKEN_PATH, ServerUnderTest, grant, request_bytes, token


async def test_all_values_are_strings_and_all_fields_that_sdks_read_are_present() -> None:
    reply = await ServerUnderTest().ask(request_bytes())

    assert reply.headers["content-type"] == "application/json"
    life = int(reply.json.pop("expires_in"))
    assert 3590 <= life <= 3600
    body = reply.json
    del body["expires_in"]
    assert 3590 <= int(body.pop("ext_expires_in")) <= 3600
    assert body == {
        "access_token": "secret-token",
        "client_id": "11111111-2222-3333-4444-555555555555",
        "refresh_token": "",
        "expires_on": "1900003600",
        "not_before": "1900000000",
        "resource": RESOURCE,
        "token_type": "Bearer",
    }


def test_upstream_values_are_returned_unchanged_and_escaped() -> None:
    odd = Token(
        access_token='a"\\\n',
        expires_on=2,
        not_before=1,
        resource="https://é/",
        client_id="c",
        token_type="pop",
        refresh_token="r",
        ext_expires_in="7",
    )
    before, after = token_parts(odd, (), 0, 10**9)
    body = json.loads(before + b"0" + after)

    assert body["access_token"] == 'a"\\\n'
    assert (body["resource"], body["token_type"], body["refresh_token"]) == ("https://é/", "pop", "r")
    assert body["ext_expires_in"] == "7"
    assert body["expires_in"] == "0"


@pytest.mark.parametrize("cacheable", [True, False])
async def test_an_answer_becomes_a_ready_answer_only_if_permitted(server: ServerUnderTest, *, cacheable: bool) -> None:
    server.issuer.answer = lambda _: grant(server.entry.record, cacheable=cacheable)
    await server.ask(request_bytes())
    ready = server.entry.record.find(RESOURCE.encode(), 0, b"", b"", time.monotonic_ns())

    assert (ready is not None) is cacheable


async def test_the_general_answer_equals_the_ready_answer() -> None:
    server = ServerUnderTest(now_ns=lambda: 0)
    server.issuer.answer = lambda _: grant(server.entry.record, life=10)
    reply = request_bytes(f"{TOKEN_PATH}?{QUERY}&client_id=AbC&xms_cc=cp1")
    server.lane.data_received(reply)
    await server.settle()
    ready = server.entry.record.find(
        RESOURCE.encode(), SelectorKind.CLIENT_ID.value, b"abc", b"cp1", time.monotonic_ns()
    )

    assert ready is not None
    assert bytes(server.connection.written) == ready.render(0)


async def test_an_answer_of_an_outdated_generation_does_not_become_ready(server: ServerUnderTest) -> None:
    stale = grant(server.entry.record)
    server.entry.record.invalidate()
    server.issuer.answer = lambda _: stale
    await server.ask(request_bytes())

    assert server.entry.record.find(RESOURCE.encode(), 0, b"", b"", time.monotonic_ns()) is None


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_a_token_too_large_to_keep_is_returned_too(server: ServerUnderTest, version: str) -> None:
    server.issuer.answer = lambda _: grant(server.entry.record, access_token="t" * 70_000)
    small = await ServerUnderTest().ask(request_bytes(version=version))
    reply = await server.ask(request_bytes(version=version))

    assert reply.status == 200
    assert reply.json["access_token"] == "t" * 70_000
    assert reply.json.keys() == small.json.keys()
    assert list(reply.headers) == list(small.headers), "the same form"
    assert server.entry.record.find(RESOURCE.encode(), 0, b"", b"", time.monotonic_ns()) is None


async def test_the_issuer_gets_the_connections_peer_and_the_query() -> None:
    server = ServerUnderTest(ServerPolicy())
    await server.ask(request_bytes(f"{TOKEN_PATH}?resource=a&msi_res_id=%2Fx&bypass_cache=true"))
    ((peer, asked),) = server.issuer.asked

    assert peer == PEER
    assert (asked.resource, asked.selector, asked.selector_value, asked.force_refresh) == (
        "a",
        SelectorKind.RESOURCE_ID,
        "/x",
        True,
    )


@pytest.mark.parametrize("others", [1, 3])
async def test_with_auxiliary_tenants_the_answer_is_an_array_and_never_a_ready_answer(
    server: ServerUnderTest, others: int
) -> None:
    auxiliary = tuple(token(access_token=f"tenant-{n}") for n in range(others))
    server.issuer.answer = lambda _: replace(grant(server.entry.record), auxiliary=auxiliary)
    alone = (await ServerUnderTest().ask(request_bytes())).json
    reply = await server.ask(request_bytes())
    found = json.loads(reply.body)

    assert [each["access_token"] for each in found] == ["secret-token", *(each.access_token for each in auxiliary)]
    assert all(each.keys() == alone.keys() for each in found)
    assert {each["expires_in"] for each in found} == {found[0]["expires_in"]}
    assert server.entry.record.find(RESOURCE.encode(), 0, b"", b"", time.monotonic_ns()) is None
    await server.ask(request_bytes())
    assert len(server.issuer.asked) == 2


def test_no_repr_contains_a_token() -> None:
    assert "secret" not in repr(token())
    assert "secret" not in repr(PlainAnswer(200, b"secret"))
