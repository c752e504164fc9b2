"""The issuer's keys, which AAD fetches from its discovery document."""

import json

from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from podidentity_sandbox.tokens import read_claims
from tests.sandbox.azure.federated_credentials.federation import Federation


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
