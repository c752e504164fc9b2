"""The response with a token, the one of IMDS for an exempt pod, and ready responses, which pods with one token share.

Excluded: the lane's use of ready responses; which pods are exempt, and the request to IMDS.
"""

import gc
import json
from weakref import ref

import pytest
from msgspec.structs import replace

from _native.histogram import Histogram, Series
from _native.ready_responses import ReadyResponse, Usage
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.server.responses import PlainResponse, token_parts
from nmi.server.token_path import SHARED_MAX, ReadyResponses
from nmi.tokens.source import Issued, Token
from podidentity.azure.imds import RawResponse
from tests.support.nmi.server.fakes import (
    PEER,
    RESOURCE,
    TOKEN_PATH,
    ServerUnderTest,
    grant,
    pod_entry,
    request_bytes,
    token,
)


async def test_all_values_are_strings_and_all_fields_that_sdks_read_are_present(server: ServerUnderTest) -> None:
    reply = await server.ask(request_bytes())
    assert reply.headers["content-type"] == "application/json"
    assert "x-ms-request-id" not in reply.headers, "both lanes answer equally"
    body = reply.json
    assert 3000 < int(body.pop("expires_in")) <= 3600
    assert 3000 < int(body.pop("ext_expires_in")) <= 3600
    assert body == {
        "access_token": "secret-token",
        "client_id": "11111111-2222-3333-4444-555555555555",
        "refresh_token": "",
        "expires_on": "1900003600",
        "not_before": "1900000000",
        "resource": RESOURCE,
        "token_type": "Bearer",
    }


@pytest.mark.parametrize(
    ("parameter", "named"),
    [
        ("client_id=11111111-2222-3333-4444-555555555555", {}),
        ("object_id=0b1ec7", {"object_id": "0b1ec7"}),
        ("msi_res_id=%2FSub%2Fa", {"msi_res_id": "/Sub/a"}),
        ("mi_res_id=%2Fsub%2Fa", {"msi_res_id": "/sub/a"}),
    ],
)
async def test_the_response_repeats_an_object_id_or_a_resource_id(
    server: ServerUnderTest, parameter: str, named: dict[str, str]
) -> None:
    usual = (await ServerUnderTest().ask(request_bytes())).json
    assert (await server.ask(request_bytes(f"{TOKEN_PATH}?resource={RESOURCE}&{parameter}"))).json == usual | named


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


@pytest.mark.parametrize(("cacheable", "outdated"), [(True, False), (False, False), (True, True)])
async def test_an_answer_of_the_present_generation_becomes_a_ready_response_if_permitted(
    server: ServerUnderTest, *, cacheable: bool, outdated: bool
) -> None:
    granted = grant(server.entry.record, cacheable=cacheable)
    if outdated:
        server.entry.record.invalidate()
    server.token_service.respond = lambda _: granted
    await server.ask(request_bytes())
    assert (server.ready() is not None) is (cacheable and not outdated)


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_a_token_too_large_to_keep_is_returned_too(server: ServerUnderTest, version: str) -> None:
    server.token_service.respond = lambda _: grant(server.entry.record, access_token="t" * 70_000)
    small = await ServerUnderTest().ask(request_bytes(version=version))
    reply = await server.ask(request_bytes(version=version))
    assert reply.status == 200
    assert reply.json["access_token"] == "t" * 70_000
    assert reply.json.keys() == small.json.keys()
    assert list(reply.headers) == list(small.headers), "the same form"
    assert server.ready() is None


async def test_the_issuer_gets_the_connections_peer_and_the_query(server: ServerUnderTest) -> None:
    await server.ask(request_bytes(f"{TOKEN_PATH}?resource=a&msi_res_id=%2Fx&bypass_cache=true"))
    wanted = TokenRequest("a", SelectorKind.RESOURCE_ID, "/x", force_refresh=True)
    assert server.token_service.requests == [(PEER, wanted)]


@pytest.mark.parametrize("others", [1, 3])
async def test_with_auxiliary_tenants_the_answer_is_an_array_and_never_a_ready_response(
    server: ServerUnderTest, others: int
) -> None:
    auxiliary = tuple(token(access_token=f"tenant-{n}") for n in range(others))
    server.token_service.respond = lambda _: replace(grant(server.entry.record), auxiliary=auxiliary)
    alone = (await ServerUnderTest().ask(request_bytes())).json
    reply = await server.ask(request_bytes())
    tokens = json.loads(reply.body)
    assert [token["access_token"] for token in tokens] == ["secret-token", *(token.access_token for token in auxiliary)]
    assert all(token.keys() == alone.keys() for token in tokens)
    assert {token["expires_in"] for token in tokens} == {tokens[0]["expires_in"]}
    assert server.ready() is None


def test_no_repr_contains_a_token() -> None:
    assert "secret" not in repr(token())
    assert "secret" not in repr(PlainResponse(200, b"secret"))


BODY = b'{ "access_token" : "x", "odd": [1] }\n'


async def test_an_exempt_pod_gets_status_body_type_and_header_fields_of_imds(server: ServerUnderTest) -> None:
    server.token_service.respond = lambda _: RawResponse(
        429, BODY, "application/json; charset=utf-8", (("Retry-After", "7"), ("x-ms-request-id", "theirs"))
    )
    reply = await server.ask(request_bytes())
    assert (reply.status, reply.body) == (429, BODY)
    assert reply.headers == {
        "content-type": "application/json; charset=utf-8",
        "content-length": str(len(BODY)),
        "retry-after": "7",
        "x-ms-request-id": "theirs",
    }


@pytest.mark.parametrize(("status", "ours"), [(200, False), (400, True), (500, True)])
async def test_only_an_error_of_imds_without_an_id_gets_one(
    server: ServerUnderTest, status: int, *, ours: bool
) -> None:
    server.token_service.respond = lambda _: RawResponse(status, BODY, "application/json")
    assert ("x-ms-request-id" in (await server.ask(request_bytes())).headers) is ours


async def test_an_exempt_pods_answer_never_becomes_a_ready_response(server: ServerUnderTest) -> None:
    server.token_service.respond = lambda _: RawResponse(200, BODY, "application/json")
    for _ in range(2):
        await server.ask(request_bytes())
    assert (len(server.token_service.requests), server.ready()) == (2, None)
    assert server.labels() == {(TOKEN_PATH, "200", "shop", RESOURCE)}


ASKED = TokenRequest(RESOURCE, SelectorKind.NONE, "")
SERIES = Histogram((1000,)).series(("token", "200", "shop", RESOURCE))


def made(store: ReadyResponses, granted: Issued, series: Series = SERIES) -> ReadyResponse:
    ready = store.admit(granted, ASKED, series, 0)
    assert ready is not None
    stored = granted.record.find(RESOURCE.encode(), SelectorKind.NONE.value, b"", b"", 0)
    assert stored is (ready if granted.cacheable else None)
    return ready


def for_another_pod(granted: Issued) -> Issued:
    """The same token, for one more pod: as equal, not as the same objects."""
    return replace(granted, token=replace(granted.token), record=pod_entry(name="till").record)


@pytest.fixture
def first() -> Issued:
    """The grant of the first pod."""
    return grant(pod_entry().record)


def test_pods_with_the_same_token_share_one_ready_response_which_outlives_the_first_of_them(first: Issued) -> None:
    store = ReadyResponses()
    ready = made(store, first)
    assert made(store, for_another_pod(first)) is ready
    first.record.invalidate()
    assert made(store, for_another_pod(first)) is ready


def test_a_different_token_series_freshness_or_usage_has_its_own_answer(first: Issued) -> None:
    store, usage = ReadyResponses(), Usage()
    usual = made(store, first)
    renewed = made(store, replace(first, token=token(access_token="renewed")))
    assert [b"renewed" in ready.render(0) for ready in (usual, renewed)] == [False, True]
    later = made(store, replace(first, fresh_until_ns=first.fresh_until_ns + 1))
    assert (usual.fresh_until_ns, later.fresh_until_ns) == (first.fresh_until_ns, first.fresh_until_ns + 1)
    assert made(store, replace(first, expires_ns=first.expires_ns + 1)).expires_ns == first.expires_ns + 1
    assert made(store, replace(first, usage=usage)).usage is usage
    elsewhere = Histogram((1000,)).series(("token", "200", "till", RESOURCE))
    assert made(store, for_another_pod(first), elsewhere).series is elsewhere
    assert made(store, first).series is SERIES


def test_an_answer_that_repeats_a_selector_is_shared_with_equal_requests_up_to_a_limit(first: Issued) -> None:
    store = ReadyResponses()

    def by_object_id(value: str) -> ReadyResponse | None:
        return store.admit(for_another_pod(first), TokenRequest(RESOURCE, SelectorKind.OBJECT_ID, value), SERIES, 0)

    usual, named = made(store, first), by_object_id("0")
    assert named is not None
    assert [b'"object_id":"0"' in ready.render(0) for ready in (usual, named)] == [False, True]
    assert by_object_id("0") is named
    for number in range(1, SHARED_MAX + 2):
        by_object_id(str(number))
    assert (by_object_id("0") is named, made(store, first) is usual) == (True, True)
    assert by_object_id("late") is not by_object_id("late")


def test_an_answer_that_one_pod_may_not_keep_is_kept_only_for_the_other(first: Issued) -> None:
    store = ReadyResponses()
    made(store, first)
    made(store, replace(for_another_pod(first), cacheable=False))


def test_a_token_that_is_kept_nowhere_else_is_not_kept_here() -> None:
    store, granted = ReadyResponses(), grant(pod_entry().record)
    made(store, granted)
    stored = ref(granted.token)
    del granted
    gc.collect()
    assert stored() is None
