"""The federated credential that an assertion must match, each mismatch next to a match; its lifetime; issued tokens."""

import time

import pytest

from podidentity_sandbox.directory import FEDERATED_MAX, DirectoryError, FederatedCredential
from podidentity_sandbox.tokens import read_claims
from tests.contract.sandbox.azure.conftest import Azure
from tests.contract.sandbox.azure.federated_credentials.conftest import ADVICE, AUDIENCE, SUBJECT, Federation


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


async def test_an_identity_is_in_one_tenant_only(federation: Federation) -> None:
    federation.trust()
    other = federation.azure.directory.add_tenant()
    status, error, number, _ = await federation.refusal(await federation.token(), tenant=other)
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
    federation.azure.directory.unfederate(federation.identity.client_id, federation.kube.server, SUBJECT)
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
