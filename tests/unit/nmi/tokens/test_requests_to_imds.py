"""NMI's requests to IMDS, for an AzureIdentity and for an exempt pod, and the tokens that it passes on.

A token of another client id than the AzureIdentity names is never passed on: a tenant that names its own resource id
and the kubelet's client id is to get a token of neither. The responses for exempt pods are IMDS's own, and never
cached.
"""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from nmi.error_refusals import refusal_of
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason
from nmi.tokens.broker import TokenBroker
from nmi.tokens.governor import Governor
from nmi.tokens.metrics import TokenMetrics
from nmi.tokens.source import PolicyError
from nmi.tokens.user_assigned import (
    CLIENT_ID_MAX,
    RESOURCE_ID_MAX,
    ImdsSelector,
    NodeIdentitySource,
    OtherIdentityError,
    UserAssignedSource,
    imds_selector,
)
from podidentity.azure.errors import NotSent, Paused, Refused
from podidentity.azure.imds import ImdsSource, RawResponse
from podidentity.resources import AzureIdentity, AzureIdentitySpec, Meta
from tests.support.nmi.imds import SECRET, Imds, Reply, error_body, running_imds
from tests.support.nmi.tokens.fakes import Node
from tests.support.nmi_objects import CLIENT_ID, REQUEST, RESOURCE

OWN, KUBELETS = "c11e0000-0000-0000-0000-00000000000a", "c11e0000-0000-0000-0000-00000000000b"
RESOURCE_ID = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/own"


def identity(client_id: str = OWN, resource_id: str = RESOURCE_ID) -> AzureIdentity:
    spec = AzureIdentitySpec(client_id=client_id, resource_id=resource_id)
    return AzureIdentity(metadata=Meta(name="id", namespace="ns"), spec=spec)


@asynccontextmanager
async def running(*, managed: bool) -> AsyncIterator[tuple[Imds, TokenBroker]]:
    async with running_imds() as imds, imds.session() as session:
        imds.client_ids[RESOURCE_ID.lower()] = OWN
        broker = TokenBroker(
            {0: UserAssignedSource(ImdsSource(session, imds.url, retry_delays=()), by_resource_id=managed)},
            Governor(),
            TokenMetrics(CollectorRegistry()),
            wall_clock=imds.wall,
        )
        try:
            yield imds, broker
        finally:
            await broker.aclose()


def jwt(**claims: str) -> str:
    return f"{SECRET}.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


def without_client_id(imds: Imds, token: str) -> Reply:
    """A response that does not say whose *token* it holds."""
    document = json.loads(imds.token_body({"resource": "r"})) | {"access_token": token}
    del document["client_id"]
    return Reply(body=json.dumps(document).encode())


@pytest.mark.parametrize(
    ("given", "standard", "managed"),
    [
        (identity(), ImdsSelector(OWN, ""), ImdsSelector("", RESOURCE_ID)),
        (identity(f" {OWN} ", ""), ImdsSelector(OWN, ""), ImdsSelector(OWN, "")),
        (identity("", f" {RESOURCE_ID} "), ImdsSelector("", RESOURCE_ID), ImdsSelector("", RESOURCE_ID)),
    ],
    ids=["both", "client-id-only", "resource-id-only"],
)
def test_a_missing_id_is_not_used_for_the_query(
    given: AzureIdentity, standard: ImdsSelector, managed: ImdsSelector
) -> None:
    assert imds_selector(given, by_resource_id=False) == standard
    assert imds_selector(given, by_resource_id=True) == managed


async def test_managed_mode_returns_no_token_for_the_kubelets_client_id_with_another_resource_id() -> None:
    async with running(managed=True) as (imds, broker):
        with pytest.raises(OtherIdentityError) as raised:
            await broker.token(identity(KUBELETS), REQUEST, "ns/a")
        assert [call.query.get("client_id") for call in imds.calls] == [None]
        refusal = refusal_of(raised.value)
        assert refusal.reason is Reason.UPSTREAM_REFUSED
        assert "c11e…000a" in refusal.detail
        assert "c11e…000b" in refusal.detail
        assert OWN not in refusal.detail + refusal.sentence
        # The correct AzureIdentity with the same resource id is not affected, and does not share the refusal.
        assert (await broker.token(identity(), REQUEST, "ns/b")).token.client_id == OWN
        assert broker.object_ids.get(KUBELETS) is None


async def test_managed_mode_accepts_any_case_and_an_empty_client_id() -> None:
    async with running(managed=True) as (_, broker):
        for client_id in (OWN.upper(), f" {OWN} ", ""):
            assert (await broker.token(identity(client_id), REQUEST, "ns/a")).token.client_id == OWN


@pytest.mark.parametrize("claim", ["appid", "azp"])
async def test_the_tokens_own_claim_counts_if_the_response_does_not_name_the_client(claim: str) -> None:
    async with running(managed=False) as (imds, broker):
        imds.script = [without_client_id(imds, jwt(**{claim: KUBELETS}))]
        with pytest.raises(OtherIdentityError):
            await broker.token(identity(), REQUEST, "ns/a")
        imds.script = [without_client_id(imds, jwt(**{claim: KUBELETS.upper()}))]
        assert (await broker.token(identity(KUBELETS), REQUEST, "ns/a")).token.client_id == KUBELETS.upper()


async def test_a_token_without_any_client_id_is_passed_on() -> None:
    async with running(managed=False) as (imds, broker):
        imds.script = [without_client_id(imds, "opaque")]
        assert (await broker.token(identity(), REQUEST, "ns/a")).token.access_token == "opaque"


async def test_an_identity_without_ids_is_refused_in_both_modes() -> None:
    for managed in (False, True):
        async with running(managed=managed) as (imds, broker):
            with pytest.raises(Refused, match="neither") as raised:
                await broker.token(identity(" ", " "), REQUEST, "ns/a")
            assert raised.value.code == "identity_incomplete"
            assert imds.calls == []


IDENTITY = (
    "/subscriptions/s/resourcegroups/\N{LATIN SMALL LETTER O WITH DIAERESIS}st/providers/"
    "Microsoft.ManagedIdentity/userAssignedIdentities/demo"
)


def test_an_overlong_or_malformed_id_is_refused_before_a_call_to_imds() -> None:
    source = UserAssignedSource(cast("ImdsSource", None), by_resource_id=False)
    for fine in (
        identity(),
        identity(client_id=" c\n"),
        identity(client_id="c" * CLIENT_ID_MAX),
        identity(resource_id="/" * RESOURCE_ID_MAX),
        identity(resource_id=f" {IDENTITY}"),
    ):
        source.check(fine)
    for odd in (
        identity(client_id="x\r\nHost: evil"),
        identity(client_id="c\u0131"),
        identity(client_id="c" * (CLIENT_ID_MAX + 1)),
        identity(resource_id="/r\0"),
        identity(resource_id=f"{IDENTITY}\u2044"),
        identity(resource_id=IDENTITY.replace("st/", "st\u2028/")),
        identity(resource_id="/" * (RESOURCE_ID_MAX + 1)),
    ):
        with pytest.raises(PolicyError) as raised:
            source.check(odd)
        assert "AzureIdentity ns/id has a" in raised.value.detail
        assert "evil" not in raised.value.detail


@pytest.fixture
async def imds() -> AsyncIterator[Imds]:
    async with running_imds() as running:
        yield running


async def ask(imds: Imds, request: TokenRequest = REQUEST, within: float = 5.0) -> RawResponse:
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
async def test_the_request_is_built_from_its_parameters(
    imds: Imds, kind: SelectorKind, value: str, parameter: str | None
) -> None:
    response = await ask(imds, TokenRequest(RESOURCE, kind, value, xms_cc="cp1", force_refresh=True))
    [call] = imds.calls
    expected = {"api-version": "2018-02-01", "resource": RESOURCE, "xms_cc": "cp1", "bypass_cache": "true"}
    assert call.query == expected | ({parameter: value} if parameter is not None else {})
    assert response.status == 200
    assert json.loads(response.body)["resource"] == RESOURCE
    assert response.content_type == "application/json; charset=utf-8"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429, 500, 503, 302])
async def test_a_response_of_any_status_is_returned_unchanged_after_one_attempt(status: int) -> None:
    body = error_body("whatever", "IMDS's own sentence")
    async with running_imds() as imds:
        headers = {"Retry-After": "7", "x-ms-request-id": "0a-1b", "Set-Cookie": "a=b", "Location": "http://x/"}
        imds.script = [Reply(status, body, headers)]
        response = await ask(imds)
        assert len(imds.calls) == 1
    assert (response.status, response.body) == (status, body)
    assert response.headers == (("Retry-After", "7"), ("x-ms-request-id", "0a-1b"))
    assert "sentence" not in repr(response)


async def test_malformed_fields_are_not_passed_on(imds: Imds) -> None:
    imds.script = [Reply(429, b"{}", {"Retry-After": "\u00fc", "x-ms-request-id": "a" * 300})]
    assert (await ask(imds)).headers == ()


async def test_a_429_for_an_exempt_pod_pauses_all_calls(node: Node) -> None:
    node.imds.behave = lambda _call: Reply(429, b"{}", {"Retry-After": "20"})
    response = await node.node_identities.token(REQUEST, "ns/exempt", within=45.0)
    assert response.status == 429
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
