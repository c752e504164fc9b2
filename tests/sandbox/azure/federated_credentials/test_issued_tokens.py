"""Tokens that AAD issues for a valid assertion."""

from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.tokens import read_claims
from tests.sandbox.azure.federated_credentials.federation import Federation


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
