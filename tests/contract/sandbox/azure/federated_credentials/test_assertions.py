"""Validity of an assertion: time, signature, algorithm, claims and the issuer's keys. Real clients exchange one."""

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import msal  # type: ignore[import-untyped] # it has no types
import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.transport import AioHttpTransport
from azure.identity.aio import ClientAssertionCredential

from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from podidentity_sandbox.tokens import read_claims
from tests.contract.sandbox.azure.federated_credentials.conftest import SCOPE, Federation, signed_by
from tests.contract.sandbox.azure.test_aad import encoded
from tests.support.nmi.tokens.sign_in_bench import rsa_key


@pytest.mark.parametrize(
    ("begins", "ends", "good"),
    [(-600, -301, False), (-600, -299, True), (301, 900, False), (300, 900, True)],
    ids=["over", "just-over", "early", "a-little-early"],
)
async def test_an_assertion_is_valid_within_its_time_and_five_minutes_of_skew(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, begins: int, ends: int, good: bool
) -> None:
    federation.trust()
    now = time.time()
    monkeypatch.setattr(federation.azure.aad, "_clock", lambda: now)
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
async def test_only_rs256_and_the_type_of_assertions_are_accepted(
    federation: Federation, header: dict[str, Any]
) -> None:
    federation.trust()
    token = await federation.token()
    refused = await federation.refusal(signed_by(rsa_key(), read_claims(token), **{"kid": "k", **header}))
    assert refused[:3] == (401, "invalid_client", 50027)
    assert (await federation.refusal(token, client_assertion_type="urn:another"))[2] == 50027


@pytest.mark.parametrize("missing", ["sub", "aud", "exp"])
async def test_an_assertion_without_a_required_claim_is_rejected(federation: Federation, missing: str) -> None:
    federation.trust()
    claims = read_claims(await federation.token())
    del claims[missing]
    assert (await federation.refusal(signed_by(rsa_key(), claims, kid="k")))[2] == 50027


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


async def test_an_issuer_with_another_name_in_its_token_or_its_discovery_is_rejected(federation: Federation) -> None:
    alias = federation.kube.server.replace("127.0.0.1", "localhost")
    federation.trust(issuer=alias)
    claims = read_claims(await federation.token()) | {"iss": alias}
    token = (await federation.kube._tokens.signer()).sign(claims)
    assert (await federation.refusal(token))[2] == 50166

    federation.trust()
    token = await federation.token()

    async def nameless(url: str) -> bytes:
        document = json.loads(await federation.fetch(url))
        return json.dumps({key: value for key, value in document.items() if key != "issuer"}).encode()

    federation.azure.aad.issuers.fetch = nameless
    assert (await federation.refusal(token))[2] == 50166
    federation.azure.aad.issuers.fetch = None
    assert (await federation.refusal(token))[2] == 50166, "an AAD that cannot reach an issuer"


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
