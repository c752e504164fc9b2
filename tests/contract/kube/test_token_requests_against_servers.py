"""Tokens of service accounts: the result of a TokenRequest, the bound object, and the lifetime."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from podidentity.kube.client import Client
from podidentity.resources import NODES, PODS, Kind, Resource
from podidentity_sandbox.federation import IssuerKeys, fetch, issuer_of, read_assertion
from podidentity_sandbox.proofs import NotProvenError
from podidentity_sandbox.tokens import read_claims
from tests.contract.kube.servers import Server
from tests.support.sandbox.kubeapi.client import Caller, Response
from tests.support.waiting import until

ACCOUNTS: Kind[Resource] = Kind("ServiceAccount", "serviceaccounts", Resource)
AUDIENCE = "api://AzureADTokenExchange"
CONTAINERS = [{"name": "main", "image": "none"}]

Ask = Callable[..., Awaitable[Response]]


@pytest.fixture
async def call(server: Server) -> AsyncIterator[Caller]:
    caller = Caller(server.url, server.token, ssl.create_default_context(cadata=server.ca))
    yield caller
    await caller.close()


@pytest.fixture
async def account(client: Client, namespace: str) -> str:
    await client.create(ACCOUNTS, namespace, {"metadata": {"name": "app"}})
    return "app"


@pytest.fixture
def ask(call: Caller, namespace: str, account: str) -> Ask:
    """Asks for a token of the service account, or of another; keywords are the request's spec."""

    async def asking(of: str = account, **spec: Any) -> Response:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return await call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{of}/token", body)

    return asking


async def made_pod(client: Client, namespace: str, name: str = "p", **spec: Any) -> str:
    """Create a pod of the service account, unless *spec* names another, and return its uid."""
    document = {"metadata": {"name": name}, "spec": {"serviceAccountName": "app", "containers": CONTAINERS, **spec}}
    return (await client.create(PODS, namespace, document)).metadata.uid


def to_pod(uid: str = "", name: str = "p", **others: str) -> dict[str, str]:
    return {"apiVersion": "v1", "kind": "Pod", "name": name, **({"uid": uid} if uid else {}), **others}


async def status(server: Server, token: str, path: str = "/api") -> int:
    caller = Caller(server.url, token, ssl.create_default_context(cadata=server.ca))
    try:
        return (await caller("GET", path, accept="*/*")).status
    finally:
        await caller.close()


async def forgotten(server: Server, token: str) -> None:
    what = "the real server caches for 10 s that it is valid"
    await until(lambda: status(server, token), what, holds=lambda code: code == 401)


def token_of(response: Response) -> str:
    assert response.status == 201, response.body
    return str(response.body["status"]["token"])


async def test_nmis_token_request_is_accepted(server: Server, client: Client, namespace: str, ask: Ask) -> None:
    uid = await made_pod(client, namespace)
    response = await ask(audiences=[AUDIENCE], expirationSeconds=600, boundObjectRef=to_pod(uid))
    claims = read_claims(token_of(response))
    assert claims["aud"] == [AUDIENCE]
    assert claims["iss"] == server.url
    assert claims["sub"] == f"system:serviceaccount:{namespace}:app"
    assert claims["exp"] - claims["iat"] == 600
    assert claims["nbf"] == claims["iat"]
    assert claims["jti"]
    about = claims["kubernetes.io"]
    account = await client.get(ACCOUNTS, namespace, "app")
    assert about == {
        "namespace": namespace,
        "pod": {"name": "p", "uid": uid},
        "serviceaccount": {"name": "app", "uid": account.metadata.uid},
    }
    assert response.body["metadata"]["uid"] == account.metadata.uid
    assert response.body["spec"] == {
        "audiences": [AUDIENCE],
        "expirationSeconds": 600,
        "boundObjectRef": to_pod(uid),
    }


async def test_a_token_names_its_pods_node_with_the_uid_of_one_that_exists(
    client: Client, namespace: str, ask: Ask
) -> None:
    node = await client.create(NODES, "", {"metadata": {"name": f"node-of-{namespace}"}})
    await made_pod(client, namespace, "here", nodeName=node.metadata.name)
    await made_pod(client, namespace, "nowhere", nodeName="no-such-node")
    here, nowhere = [
        read_claims(token_of(await ask(boundObjectRef=to_pod(name=name))))["kubernetes.io"]["node"]
        for name in ("here", "nowhere")
    ]
    await client.delete(NODES, "", node.metadata.name)
    assert here == {"name": node.metadata.name, "uid": node.metadata.uid}
    assert nowhere == {"name": "no-such-node"}


async def test_a_token_has_all_requested_audiences_and_without_one_is_for_the_server_and_an_hour(
    server: Server, ask: Ask
) -> None:
    assert read_claims(token_of(await ask(audiences=["a", "b"])))["aud"] == ["a", "b"]
    response = await ask(audiences=None)
    claims = read_claims(token_of(response))
    assert claims["aud"] == response.body["spec"]["audiences"] == [server.url]
    assert claims["exp"] - claims["iat"] == response.body["spec"]["expirationSeconds"] == 3600
    assert response.body["spec"]["boundObjectRef"] is None


async def test_a_pod_without_a_service_account_has_the_default_one(
    client: Client, namespace: str, account: str, ask: Ask
) -> None:
    await until(
        lambda: client.list(ACCOUNTS, namespace),
        "the service account, which the real server's controllers create",
        holds=lambda accounts: "default" in [account.metadata.name for account in accounts],
    )
    for name, spec in (("none", {"serviceAccountName": None}), ("empty", {"serviceAccountName": ""})):
        await made_pod(client, namespace, name, **spec)
        assert (await client.get(PODS, namespace, name)).spec.service_account_name == "default"
        token_of(await ask("default", boundObjectRef=to_pod(name=name)))
    await made_pod(client, namespace, "old", serviceAccountName=None, serviceAccount=account)
    assert (await client.get(PODS, namespace, "old")).spec.service_account_name == account


REFUSALS: dict[str, tuple[dict[str, Any], int, str]] = {
    "uid": (
        {"boundObjectRef": to_pod("other")},
        409,
        (
            'Operation cannot be fulfilled on Pod "p": the UID in the bound object reference (other) does not match '
            "the UID in record. The object might have been deleted and then recreated"
        ),
    ),
    "no account": ({"of": "missing"}, 404, 'serviceaccounts "missing" not found'),
    "no pod": ({"boundObjectRef": to_pod(name="gone")}, 404, 'pods "gone" not found'),
    "foreign pod": (
        {"boundObjectRef": to_pod("other", name="foreign")},
        400,
        'cannot bind token for serviceaccount "app" to pod running with different serviceaccount name.',
    ),
    "kind": (
        {"boundObjectRef": {"apiVersion": "v1", "kind": "ConfigMap", "name": "x"}},
        400,
        "cannot bind token to object of type /v1, Kind=ConfigMap",
    ),
    "group": (
        {"boundObjectRef": to_pod(apiVersion="apps/v1")},
        400,
        "cannot bind token to object of type apps/v1, Kind=Pod",
    ),
    "nothing": ({"boundObjectRef": {}}, 400, "cannot bind token to object of type /, Kind="),
    "no name": ({"boundObjectRef": to_pod(name="")}, 400, "Name parameter required."),
    "short": (
        {"expirationSeconds": 599},
        422,
        (
            'TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 599: '
            "may not specify a duration less than 10 minutes"
        ),
    ),
    "long": (
        {"expirationSeconds": 2**32 + 1},
        422,
        (
            'TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 4294967297: '
            "may not specify a duration larger than 2^32 seconds"
        ),
    ),
}
REASONS = {400: "BadRequest", 404: "NotFound", 409: "Conflict", 422: "Invalid"}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_an_impossible_request_is_rejected(
    client: Client, namespace: str, ask: Ask, refusal: tuple[dict[str, Any], int, str]
) -> None:
    spec, code, message = refusal
    await made_pod(client, namespace)
    await client.create(ACCOUNTS, namespace, {"metadata": {"name": "other"}})
    await made_pod(client, namespace, "foreign", serviceAccountName="other")
    response = await ask(**spec)
    assert (response.status, response.body["reason"], response.body["message"]) == (code, REASONS[code], message)


async def test_a_token_becomes_invalid_with_its_pod_and_stays_invalid_for_a_namesake(
    server: Server, client: Client, namespace: str, ask: Ask
) -> None:
    uid = await made_pod(client, namespace)
    token, unbound = token_of(await ask(boundObjectRef=to_pod(uid))), token_of(await ask())
    assert (await status(server, token), await status(server, unbound)) == (200, 200)
    await client.delete(PODS, namespace, "p")
    await forgotten(server, token)
    assert (await ask(boundObjectRef=to_pod(uid))).status == 404
    await made_pod(client, namespace)
    assert await status(server, token) == 401
    assert (await ask(boundObjectRef=to_pod(uid))).status == 409
    assert await status(server, unbound) == 200


async def test_a_token_of_a_terminating_pod_is_still_valid(
    server: Server, client: Client, namespace: str, ask: Ask
) -> None:
    uid = await made_pod(client, namespace, nodeName="no-such-node")
    token = token_of(await ask(boundObjectRef=to_pod(uid)))
    await client.delete(PODS, namespace, "p")
    assert (await client.get(PODS, namespace, "p")).metadata.deletion_timestamp
    assert await status(server, token) == 200
    token_of(await ask(boundObjectRef=to_pod(uid)))


async def test_tokens_become_invalid_with_their_service_account_and_stay_invalid_for_a_namesake(
    server: Server, client: Client, namespace: str, ask: Ask
) -> None:
    uid = await made_pod(client, namespace)
    token = token_of(await ask(boundObjectRef=to_pod(uid)))
    await client.delete(ACCOUNTS, namespace, "app")
    await forgotten(server, token)
    assert (await ask(boundObjectRef=to_pod(uid))).status == 404
    await client.create(ACCOUNTS, namespace, {"metadata": {"name": "app"}})
    assert await status(server, token) == 401
    assert await status(server, token_of(await ask(boundObjectRef=to_pod(uid)))) == 200


async def test_a_nodes_token_becomes_invalid_with_the_node_and_a_pods_does_not(
    server: Server, client: Client, namespace: str, ask: Ask
) -> None:
    name = f"node-of-{namespace}"
    await client.create(NODES, "", {"metadata": {"name": name}})
    await made_pod(client, namespace, nodeName=name)
    of_node = token_of(await ask(boundObjectRef={"apiVersion": "v1", "kind": "Node", "name": name}))
    of_pod = token_of(await ask(boundObjectRef=to_pod()))
    await client.delete(NODES, "", name)
    await forgotten(server, of_node)
    assert await status(server, of_pod) == 200


async def test_authenticated_users_can_read_the_issuers_documents_and_anonymous_ones_cannot(
    server: Server, call: Caller, ask: Ask
) -> None:
    configuration = await call("GET", "/.well-known/openid-configuration")
    assert configuration.body == {
        "issuer": server.url,
        "jwks_uri": f"{server.url}/openid/v1/jwks",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }
    keys = await call("GET", "/openid/v1/jwks", accept="*/*")
    (key,) = keys.body["keys"]
    assert key.keys() == {"use", "kty", "kid", "alg", "n", "e"}
    for response, media_type in ((configuration, "application/json"), (keys, "application/jwk-set+json")):
        assert response.headers["Content-Type"] == media_type
        assert response.headers["Cache-Control"] == "public, max-age=3600"
    own, foreign = token_of(await ask()), token_of(await ask(audiences=[AUDIENCE]))
    for path in ("/.well-known/openid-configuration", "/openid/v1/jwks"):
        assert [await status(server, token, path) for token in (own, foreign, "")] == [200, 401, 401]


async def test_the_sandboxs_azure_finds_the_issuer_and_checks_its_tokens(
    server: Server, client: Client, ask: Ask
) -> None:
    access = client.access
    assert await issuer_of(access) == server.url
    keys = IssuerKeys(lambda url: fetch(access, url))
    token = token_of(await ask(audiences=[AUDIENCE]))
    await keys.check_signature(read_assertion(token))
    head, claims, _ = token.split(".")
    with pytest.raises(NotProvenError, match="signature"):
        await keys.check_signature(read_assertion(f"{head}.{claims}.AAAA"))
    with pytest.raises(ValueError, match="is not a document of an issuer"):
        await fetch(access, f"{server.url}/api")
