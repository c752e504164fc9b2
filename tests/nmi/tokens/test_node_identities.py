"""The answers for exempt pods: IMDS's own, requested through the governor and never cached."""

import asyncio
import json

import pytest

from nmi.identity.request import SelectorKind, TokenRequest
from nmi.tokens.governor import Governor
from nmi.tokens.node_identity import NodeIdentitySource
from podidentity.azure.errors import AzureError, NotSent, Paused, Unreachable
from podidentity.azure.imds import ANSWER_MAX, ImdsSource, RawAnswer
from tests.nmi.identity.shapes import CLIENT_ID, RESOURCE
from tests.nmi.imds import HANG, Imds, Reply, error_body, running_imds
from tests.nmi.tokens.fakes import Node
from tests.virtual_time import now

REQUEST = TokenRequest(RESOURCE)


async def ask(imds: Imds, request: TokenRequest = REQUEST, within: float = 5.0) -> RawAnswer:
    async with imds.session() as session:
        return await NodeIdentitySource(ImdsSource(session, imds.url), Governor()).token(request, "ns/mic", within)


@pytest.mark.parametrize(
    ("kind", "value", "parameter"),
    [
        (SelectorKind.NONE, "", None),
        (SelectorKind.CLIENT_ID, CLIENT_ID, "client_id"),
        (SelectorKind.OBJECT_ID, CLIENT_ID, "object_id"),
        (SelectorKind.RESOURCE_ID, "/subscriptions/s/x&client_id=y", "msi_res_id"),
    ],
    ids=["system", "client-id", "object-id", "resource-id"],
)
async def test_the_request_is_built_from_its_parameters(kind: SelectorKind, value: str, parameter: str | None) -> None:
    async with running_imds() as imds:
        answer = await ask(imds, TokenRequest(RESOURCE, kind, value, xms_cc="cp1", force_refresh=True))
        [call] = imds.calls
        expected = {"api-version": "2018-02-01", "resource": RESOURCE, "xms_cc": "cp1", "bypass_cache": "true"}
        assert call.query == expected | ({parameter: value} if parameter is not None else {})
        assert answer.status == 200
        assert json.loads(answer.body)["resource"] == RESOURCE
        assert answer.content_type == "application/json; charset=utf-8"


async def test_absent_parameters_are_not_sent() -> None:
    async with running_imds() as imds:
        await ask(imds)
        assert imds.calls[0].query == {"api-version": "2018-02-01", "resource": RESOURCE}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429, 500, 503, 302])
async def test_a_response_of_any_status_is_returned_unchanged_after_one_attempt(status: int) -> None:
    body = error_body("whatever", "IMDS's own sentence")
    async with running_imds() as imds:
        headers = {"Retry-After": "7", "x-ms-request-id": "0a-1b", "Set-Cookie": "a=b", "Location": "http://x/"}
        imds.script = [Reply(status, body, headers)]
        answer = await ask(imds)
        assert len(imds.calls) == 1
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers == (("Retry-After", "7"), ("x-ms-request-id", "0a-1b"))
    assert "sentence" not in repr(answer)


async def test_malformed_fields_are_not_passed_on() -> None:
    async with running_imds() as imds:
        imds.script = [Reply(429, b"{}", {"Retry-After": "\u00fc", "x-ms-request-id": "a" * 300})]
        assert (await ask(imds)).headers == ()


async def test_an_endless_response_is_cut_off() -> None:
    async with running_imds() as imds:
        imds.script = [Reply(body=b" " * (ANSWER_MAX + 1)), Reply(body=b" " * ANSWER_MAX)]
        with pytest.raises(AzureError) as raised:
            await ask(imds)
        assert raised.value.code == "answer_too_large"
        assert len((await ask(imds)).body) == ANSWER_MAX


async def test_a_missing_response_is_an_error() -> None:
    async with running_imds() as imds:
        imds.script = [HANG]
        with pytest.raises(Unreachable) as raised:
            await ask(imds, within=0.05)
    assert raised.value.code == "timeout"
    with pytest.raises(Unreachable) as raised:
        await ask(imds)
    assert raised.value.code == "no_answer"


async def test_a_429_for_an_exempt_pod_pauses_all_calls(node: Node) -> None:
    node.imds.behave = lambda _call: Reply(429, b"{}", {"Retry-After": "20"})
    answer = await node.node_identities.token(REQUEST, "ns/exempt", within=45.0)
    assert answer.status == 429
    with pytest.raises(Paused):
        await node.token()
    with pytest.raises(Paused):
        await node.node_identities.token(REQUEST, "ns/exempt", within=45.0)
    assert len(node.imds.calls) == 1


async def test_exempt_pods_obey_and_change_the_breaker(node: Node) -> None:
    node.imds.behave = lambda _call: Reply(503, body=b"{}")
    for number in range(5):
        assert (await node.node_identities.token(REQUEST, f"ns/{number}", within=45.0)).status == 503
    with pytest.raises(NotSent):
        await node.node_identities.token(REQUEST, "ns/exempt", within=45.0)
    with pytest.raises(NotSent):
        await node.token()
    assert len(node.imds.calls) == 5


async def test_exempt_pods_have_their_own_queue(node: Node) -> None:
    flood = [
        asyncio.create_task(node.node_identities.token(TokenRequest(f"{RESOURCE}/{n}"), "ns/exempt", within=45.0))
        for n in range(60)
    ]
    await asyncio.sleep(0.3)
    before = now()
    await node.token()
    assert now() - before < 0.3
    answers = await asyncio.gather(*flood)
    assert {each.status for each in answers} == {200}


async def test_no_response_is_cached(node: Node) -> None:
    bodies = {(await node.node_identities.token(REQUEST, "ns/exempt", within=45.0)).body for _ in range(3)}
    assert len(bodies) == 3
    assert len(node.broker._tokens) == 0
