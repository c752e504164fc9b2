"""Federated identity credentials: which assertions match and are valid, their lifetime, and the issued tokens.

The clients of this project and others exchange such assertions with the same emulator in the tests of `nmi`.
"""

import base64
import json
import time
from typing import Any

import pytest

from podidentity_sandbox.directory import FEDERATED_MAX, DirectoryError, FederatedCredential
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from podidentity_sandbox.tokens import read_claims
from tests.contract.sandbox.azure.conftest import Azure, encoded
from tests.contract.sandbox.azure.federation import ADVICE, AUDIENCE, SUBJECT, Federation, federation, signed_by
from tests.support.nmi.tokens.sign_in_bench import rsa_key

__all__ = ["federation"]


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
    presented = {"issuer": federation.kube.url, "subject": SUBJECT, "audience": AUDIENCE}[part]
    federation.trust(**change)
    assert await federation.refusal(token) == (
        401,
        "invalid_client",
        number,
        f"No matching federated identity record found for presented assertion {part} '{presented}'. {ADVICE}",
    )
    assert federation.fetched == []
    federation.azure.directory.unfederate(
        federation.identity.client_id, change.get("issuer", federation.kube.url), change.get("subject", SUBJECT)
    )
    federation.trust()
    assert (await federation.ask(token))[0] == 200


async def test_without_credentials_an_assertion_that_one_matches_is_refused_until_the_condition_ends(
    federation: Federation,
) -> None:
    federation.trust()
    federation.azure.aad.set_condition("no-credential")
    token = await federation.token()
    status, _, number, sentence = await federation.refusal(token)
    assert (status, number) == (401, 700213)
    assert f"presented assertion subject '{SUBJECT}'" in sentence
    federation.azure.aad.set_condition("")
    assert (await federation.ask(token))[0] == 200


async def test_a_subject_with_other_case_does_not_match_and_the_error_mentions_case(federation: Federation) -> None:
    federation.trust(subject="system:serviceaccount:default:Default")
    status, error, number, sentence = await federation.refusal(await federation.token())
    assert (status, error, number) == (401, "invalid_client", 7002138)
    assert "matches with case-insensitive comparison, but not with case-sensitive comparison" in sentence


async def test_a_trailing_slash_makes_another_issuer(federation: Federation) -> None:
    federation.trust(issuer=f"{federation.kube.url}/")
    assert (await federation.refusal(await federation.token()))[2] == 700211


async def test_one_of_several_audiences_suffices(federation: Federation) -> None:
    federation.trust()
    assert (await federation.ask(await federation.token("another", AUDIENCE)))[0] == 200
    assert (await federation.refusal(await federation.token("another", "third")))[2] == 700212


async def test_an_identity_is_in_one_tenant_only(federation: Federation) -> None:
    federation.trust()
    other_tenant = federation.azure.directory.add_tenant()
    status, error, number, _ = await federation.refusal(await federation.token(), tenant=other_tenant)
    assert (status, error, number) == (400, "unauthorized_client", 700016)


async def test_a_credential_is_effective_after_a_delay(federation: Federation) -> None:
    token = await federation.token()
    federation.trust(known_from=time.time() + 3600)
    assert (await federation.refusal(token))[2] == 70025
    federation.trust(federation.azure.two.client_id, known_from=time.time())
    assert (await federation.ask(token, federation.azure.two.client_id))[0] == 200


async def test_a_removed_credential_or_one_of_a_removed_identity_is_not_accepted(federation: Federation) -> None:
    federation.trust()
    token = await federation.token()
    assert (await federation.ask(token))[0] == 200
    federation.azure.directory.unfederate(federation.identity.client_id, federation.kube.url, SUBJECT)
    assert (await federation.refusal(token))[2] == 70025
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


async def test_a_managed_identity_gets_its_token_for_a_day_and_an_application_for_an_hour(
    federation: Federation,
) -> None:
    federation.trust()
    status, body = await federation.ask(await federation.token())
    claims = read_claims(body["access_token"])
    assert status == 200
    assert (claims["appid"], claims["oid"]) == (federation.identity.client_id, federation.identity.object_id)
    assert (claims["aud"], claims["xms_mirid"]) == ("https://vault.azure.net", federation.identity.resource_id)
    assert body["expires_in"] == 86_400
    assert federation.azure.aad.calls[-1].proof == "federated"

    application = federation.azure.controller
    federation.trust(application.client_id)
    status, body = await federation.ask(await federation.token(), application.client_id)
    assert (status, body["expires_in"]) == (200, 3600)
    assert read_claims(body["access_token"])["oid"] == application.object_id


async def test_a_managed_identity_has_no_secret(federation: Federation) -> None:
    federation.trust()
    status, body = await federation.ask("", client_secret="guessed")
    assert (status, body["error_codes"]) == (401, [7000215])


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
    assert federation.kube.url in sentence
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
        f"{federation.kube.url}/.well-known/openid-configuration",
        f"{federation.kube.url}/openid/v1/jwks",
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
    alias = federation.kube.url.replace("127.0.0.1", "localhost")
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
