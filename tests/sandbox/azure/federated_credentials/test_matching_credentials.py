"""The federated credential that an assertion must match: each mismatch next to a match."""

import pytest

from tests.sandbox.azure.federated_credentials.federation import ADVICE, AUDIENCE, SUBJECT, Federation


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
