"""Federated credentials at AAD: each invalid assertion next to a valid one, from real clients and from this file.

The assertions are tokens of the sandbox's own API server, fetched and checked over TLS, or are signed here.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msal  # type: ignore[import-untyped] # it has no types
import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.transport import AioHttpTransport
from azure.identity.aio import ClientAssertionCredential
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from podidentity_sandbox.directory import FEDERATED_MAX, DirectoryError, FederatedCredential
from podidentity_sandbox.kubeapi import KubeApi
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from podidentity_sandbox.proofs import ASSERTION_TYPE
from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.tokens import read_claims
from tests.nmi.tokens.sign_in_bench import rsa_key
from tests.sandbox.azure.conftest import Azure
from tests.sandbox.azure.test_aad_client_proofs import encoded
from tests.sandbox.kubeapi.client import Caller

AUDIENCE = "api://AzureADTokenExchange"
SUBJECT = "system:serviceaccount:default:default"
SCOPE = "https://vault.azure.net/.default"
ADVICE = (
    "Check your federated identity credential Subject, Audience and Issuer against the presented assertion. "
    "https://learn.microsoft.com/entra/workload-id/workload-identity-federation"
)


class Federation:
    """An API server whose tokens AAD can check, and the identity that trusts its default service account."""

    def __init__(self, azure: Azure, kube: KubeApi) -> None:
        self.azure = azure
        self.kube = kube
        self.identity = azure.one
        self.credential = FederatedCredential(kube.server, SUBJECT, AUDIENCE)
        self.url = f"{azure.aad.url}/{azure.directory.tenant_id}/oauth2/v2.0/token"
        azure.aad.issuers.fetch = self.fetch
        self.fetched: list[str] = []
        trust = aiohttp.TCPConnector(ssl=kube.authority.client_context())
        self.session = aiohttp.ClientSession(connector=trust, headers={"Authorization": f"Bearer {kube.token}"})
        self.caller = Caller(kube.server, kube.token, kube.authority.client_context())

    async def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        async with self.session.get(url, raise_for_status=True) as response:
            return await response.read()

    def trust(self, client_id: str = "", **changes: Any) -> None:
        self.azure.directory.federate(client_id or self.identity.client_id, replace(self.credential, **changes))

    async def token(self, *audiences: str) -> str:
        asked = {"spec": {"audiences": audiences or [AUDIENCE], "expirationSeconds": 600}}
        path = "/api/v1/namespaces/default/serviceaccounts/default/token"
        return str((await self.caller("POST", path, asked)).body["status"]["token"])

    async def ask(self, assertion: str, client_id: str = "", tenant: str = "", **form: str) -> tuple[int, Any]:
        fields = {
            "grant_type": "client_credentials",
            "client_id": client_id or self.identity.client_id,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion,
            "scope": SCOPE,
            **form,
        }
        url = self.url.replace(self.azure.directory.tenant_id, tenant or self.azure.directory.tenant_id)
        async with self.azure.session.post(url, data=fields) as response:
            return response.status, await response.json()

    async def refusal(self, assertion: str, **others: str) -> tuple[int, str, int, str]:
        """Status, error, AADSTS number and the sentence."""
        status, body = await self.ask(assertion, **others)
        (number,) = body["error_codes"]
        sentence = body["error_description"].removeprefix(f"AADSTS{number}: ").partition(" Trace ID: ")[0]
        return status, body["error"], number, sentence

    async def close(self) -> None:
        await self.session.close()
        await self.caller.close()


@pytest.fixture
async def federation(azure: Azure) -> AsyncIterator[Federation]:
    kube = await asyncio.to_thread(KubeApi)
    await kube.start()
    running = Federation(azure, kube)
    yield running
    await running.close()
    await kube.stop()


def signed_by(key: rsa.RSAPrivateKey, claims: dict[str, Any], **header: Any) -> str:
    body = ".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "RS256", **header}, claims))
    return f"{body}.{encoded(key.sign(body.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


async def test_a_managed_identity_gets_its_token_for_a_day(federation: Federation) -> None:
    federation.trust()
    status, body = await federation.ask(await federation.token())
    claims = read_claims(body["access_token"])
    assert status == 200
    assert (claims["appid"], claims["oid"]) == (federation.identity.client_id, federation.identity.object_id)
    assert (claims["aud"], claims["xms_mirid"]) == ("https://vault.azure.net", federation.identity.resource_id)
    assert body["expires_in"] == 86_400
    assert federation.azure.aad.calls[-1].proof == "federated"


async def test_an_application_gets_its_token_for_an_hour(federation: Federation) -> None:
    application = federation.azure.controller
    federation.trust(application.client_id)
    status, body = await federation.ask(await federation.token(), application.client_id)
    assert (status, body["expires_in"]) == (200, 3600)
    assert read_claims(body["access_token"])["oid"] == application.object_id


async def test_an_assertion_may_be_used_again_within_its_lifetime(federation: Federation) -> None:
    federation.trust()
    token = await federation.token()
    assert [(await federation.ask(token))[0] for _ in range(2)] == [200, 200]


async def test_azure_identity_exchanges_an_assertion(federation: Federation) -> None:
    federation.trust()
    credential = ClientAssertionCredential(
        federation.azure.directory.tenant_id,
        federation.identity.client_id,
        lambda: token,
        authority=federation.azure.aad.url,
        transport=AioHttpTransport(session=federation.azure.session, session_owner=False),
        retry_total=0,
    )
    async with credential:
        token = "a.b.c"
        with pytest.raises(ClientAuthenticationError, match="AADSTS50027"):
            await credential.get_token(SCOPE)
        token = await federation.token()
        got = await credential.get_token(SCOPE)
    assert read_claims(got.token)["appid"] == federation.identity.client_id


async def test_msal_exchanges_an_assertion(federation: Federation, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    await asyncio.to_thread(authority.write_text, federation.azure.authority.pem)
    token = await federation.token()

    def acquire() -> dict[str, Any]:
        with requests.Session() as session:
            session.trust_env, session.verify = False, str(authority)
            return acquire_by(session)

    def acquire_by(session: requests.Session) -> dict[str, Any]:
        client = msal.ConfidentialClientApplication(
            federation.identity.client_id,
            authority=f"{federation.azure.aad.url}/{federation.azure.directory.tenant_id}",
            client_credential={"client_assertion": lambda: token},
            instance_discovery=False,
            http_client=session,
        )
        answer: dict[str, Any] = client.acquire_token_for_client([SCOPE])
        return answer

    refused = await asyncio.to_thread(acquire)
    assert (refused["error"], refused["error_codes"]) == ("invalid_client", [70025])
    federation.trust()
    got = await asyncio.to_thread(acquire)
    assert read_claims(got["access_token"])["appid"] == federation.identity.client_id


async def test_an_identity_without_credentials_reports_that_it_has_none(federation: Federation) -> None:
    token = await federation.token()
    assert await federation.refusal(token) == (
        401,
        "invalid_client",
        70025,
        f"The client '{federation.identity.client_id}'(1) has no configured federated identity credentials.",
    )
    assert federation.azure.aad.calls[-1].error == 70025
    federation.trust(federation.azure.two.client_id)
    assert (await federation.ask(token))[0] == 401
    federation.trust()
    assert (await federation.ask(token))[0] == 200


@pytest.mark.parametrize(
    ("change", "number", "part"),
    [
        ({"issuer": "https://oidc.prod-aks.azure.com/1/"}, 700211, "issuer"),
        ({"subject": "system:serviceaccount:default:another"}, 700213, "subject"),
        ({"audience": "api://azureadtokenexchange"}, 700212, "audience"),
    ],
    ids=["issuer", "subject", "audience"],
)
async def test_the_error_names_the_part_that_no_credential_matches(
    federation: Federation, change: dict[str, str], number: int, part: str
) -> None:
    token = await federation.token()
    presented = {"issuer": federation.kube.server, "subject": SUBJECT, "audience": AUDIENCE}[part]
    federation.trust(**change)
    assert await federation.refusal(token) == (
        401,
        "invalid_client",
        number,
        f"No matching federated identity record found for presented assertion {part} '{presented}'. {ADVICE}",
    )
    assert federation.fetched == []
    federation.azure.directory.unfederate(
        federation.identity.client_id, change.get("issuer", federation.kube.server), change.get("subject", SUBJECT)
    )
    federation.trust()
    assert (await federation.ask(token))[0] == 200


async def test_a_subject_with_other_case_does_not_match_and_the_error_mentions_case(federation: Federation) -> None:
    federation.trust(subject="system:serviceaccount:default:Default")
    status, error, number, sentence = await federation.refusal(await federation.token())
    assert (status, error, number) == (401, "invalid_client", 7002138)
    assert "matches with case-insensitive comparison, but not with case-sensitive comparison" in sentence


async def test_a_trailing_slash_makes_another_issuer(federation: Federation) -> None:
    federation.trust(issuer=f"{federation.kube.server}/")
    assert (await federation.refusal(await federation.token()))[2] == 700211


async def test_one_of_several_audiences_suffices(federation: Federation) -> None:
    federation.trust()
    assert (await federation.ask(await federation.token("another", AUDIENCE)))[0] == 200
    assert (await federation.refusal(await federation.token("another", "third")))[2] == 700212


async def test_a_credential_is_effective_after_a_delay(federation: Federation) -> None:
    token = await federation.token()
    federation.trust(known_from=time.time() + 3600)
    assert (await federation.refusal(token))[2] == 70025
    federation.trust(federation.azure.two.client_id, known_from=time.time())
    assert (await federation.ask(token, federation.azure.two.client_id))[0] == 200


async def test_a_removed_credential_is_not_accepted(federation: Federation) -> None:
    federation.trust()
    token = await federation.token()
    assert (await federation.ask(token))[0] == 200
    federation.azure.directory.unfederate(federation.identity.client_id, federation.kube.server, SUBJECT)
    assert (await federation.refusal(token))[2] == 70025


async def test_a_recreated_identity_has_none_of_its_former_credentials(federation: Federation) -> None:
    federation.trust()
    directory, was = federation.azure.directory, federation.identity
    directory.remove_identity(was.resource_id)
    assert (await federation.refusal(await federation.token()))[2] == 700016
    directory.add_identity(was.resource_id, client_id=was.client_id)
    assert (await federation.refusal(await federation.token()))[2] == 70025


async def test_an_identity_has_at_most_twenty_unique_credentials(federation: Federation) -> None:
    for number in range(FEDERATED_MAX - 1):
        federation.trust(subject=f"{SUBJECT}-{number}")
    with pytest.raises(DirectoryError, match="already exists"):
        federation.trust(subject=f"{SUBJECT}-0", audience="another")
    federation.trust()
    with pytest.raises(DirectoryError, match="20"):
        federation.trust(subject="one more")
    federation.trust(federation.azure.two.client_id)
    assert (await federation.ask(await federation.token()))[0] == 200


def test_an_unknown_client_cannot_have_a_credential(azure: Azure) -> None:
    with pytest.raises(DirectoryError, match="unknown-client"):
        azure.directory.federate("unknown-client", FederatedCredential("i", "s", "a"))


async def test_an_identity_is_in_one_tenant_only(federation: Federation) -> None:
    federation.trust()
    other = federation.azure.directory.add_tenant()
    status, error, number, _ = await federation.refusal(await federation.token(), tenant=other)
    assert (status, error, number) == (400, "unauthorized_client", 700016)


@pytest.mark.parametrize(
    ("begins", "ends", "good"),
    [(-600, -301, False), (-600, -290, True), (310, 900, False), (290, 900, True)],
    ids=["over", "just-over", "early", "a-little-early"],
)
async def test_an_assertion_is_valid_within_its_time_and_five_minutes_of_skew(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, begins: int, ends: int, good: bool
) -> None:
    federation.trust()
    now = time.time()
    claims = read_claims(await federation.token()) | {"nbf": now + begins, "exp": now + ends}
    signer = await federation.kube._tokens.signer()
    if good:
        assert (await federation.ask(signer.sign(claims)))[0] == 200
        return
    status, error, number, sentence = await federation.refusal(signer.sign(claims))
    assert (status, error, number) == (401, "invalid_client", 700024)
    assert sentence.startswith("Client assertion is not within its valid time range. Current time: 20")


async def test_a_foreign_or_altered_signature_is_rejected(federation: Federation) -> None:
    federation.trust()
    good = await federation.token()
    head, _, signature = good.split(".")
    claims = read_claims(good)
    altered = encoded(json.dumps({**claims, "jti": "2"}).encode())
    key_id = json.loads(base64.urlsafe_b64decode(head + "=="))["kid"]
    assert (await federation.refusal(f"{head}.{altered}.{signature}"))[2] == 50013
    assert (await federation.refusal(signed_by(rsa_key(), claims, kid=key_id)))[2] == 50013
    status, error, number, sentence = await federation.refusal(signed_by(rsa_key(), claims, kid="stranger"))
    assert (status, error, number) == (401, "invalid_client", 7000272)
    assert "stranger" in sentence
    assert federation.kube.server in sentence
    assert (await federation.ask(good))[0] == 200


@pytest.mark.parametrize(
    "header", [{"alg": "none"}, {"alg": "HS256"}, {"kid": None, "alg": 5}], ids=["none", "hmac", "number"]
)
async def test_only_rs256_is_accepted(federation: Federation, header: dict[str, Any]) -> None:
    federation.trust()
    claims = read_claims(await federation.token())
    assert (await federation.refusal(signed_by(rsa_key(), claims, **{"kid": "k", **header})))[:3] == (
        401,
        "invalid_client",
        50027,
    )


@pytest.mark.parametrize("missing", ["sub", "aud", "exp"])
async def test_an_assertion_without_a_required_claim_is_rejected(federation: Federation, missing: str) -> None:
    federation.trust()
    claims = read_claims(await federation.token())
    del claims[missing]
    assert (await federation.refusal(signed_by(rsa_key(), claims, kid="k")))[2] == 50027


async def test_another_assertion_type_is_rejected(federation: Federation) -> None:
    federation.trust()
    assert (await federation.refusal(await federation.token(), client_assertion_type="urn:another"))[2] == 50027


async def test_keys_are_fetched_once_and_again_for_an_unknown_key(federation: Federation) -> None:
    federation.trust()
    for _ in range(2):
        assert (await federation.ask(await federation.token()))[0] == 200
    assert federation.fetched == [
        f"{federation.kube.server}/.well-known/openid-configuration",
        f"{federation.kube.server}/openid/v1/jwks",
    ]
    federation.kube._tokens._signer = None  # as after a change of the cluster's keys
    assert (await federation.ask(await federation.token()))[0] == 200
    assert len(federation.fetched) == 4


async def test_an_unreachable_issuer_is_not_reported_as_a_client_error(federation: Federation) -> None:
    federation.trust()
    token = await federation.token()
    unreachable = (400, "invalid_request", 50166, "Request to External OIDC endpoint failed.")

    def refuse(request: Recorded) -> StatusError | None:
        return StatusError(503, "ServiceUnavailable", "down") if "openid" in request.path else None

    federation.kube.intercept = refuse
    assert await federation.refusal(token) == unreachable
    federation.kube.intercept = None
    assert (await federation.ask(token))[0] == 200


async def test_an_issuer_with_another_name_in_its_token_is_rejected(federation: Federation) -> None:
    alias = federation.kube.server.replace("127.0.0.1", "localhost")
    federation.trust(issuer=alias)
    claims = read_claims(await federation.token()) | {"iss": alias}
    token = (await federation.kube._tokens.signer()).sign(claims)
    assert (await federation.refusal(token))[2] == 50166


async def test_an_issuer_with_another_name_in_its_discovery_is_rejected(federation: Federation) -> None:
    federation.trust()
    token = await federation.token()

    async def nameless(url: str) -> bytes:
        document = json.loads(await federation.fetch(url))
        return json.dumps({key: value for key, value in document.items() if key != "issuer"}).encode()

    federation.azure.aad.issuers.fetch = nameless
    assert (await federation.refusal(token))[2] == 50166


async def test_an_aad_that_cannot_reach_an_issuer_reports_it(federation: Federation) -> None:
    federation.trust()
    federation.azure.aad.issuers.fetch = None
    assert (await federation.refusal(await federation.token()))[2] == 50166


async def test_a_fault_applies_to_federated_clients_too(federation: Federation) -> None:
    federation.trust()
    old = {"error": "invalid_client", "error_description": "AADSTS70021: No matching …", "error_codes": [70021]}
    federation.azure.aad.faults.add(ResponseFault(status=401, document=old, path="/oauth2/v2.0/token"))
    token = await federation.token()
    assert (await federation.refusal(token))[2] == 70021
    assert (await federation.ask(token))[0] == 200


async def test_a_managed_identity_has_no_secret(federation: Federation) -> None:
    federation.trust()
    status, body = await federation.ask("", client_secret="guessed")
    assert (status, body["error_codes"]) == (401, [7000215])
