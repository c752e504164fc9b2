"""AAD of the sandbox: discovery, the fields of a request, and the client's proof, each invalid one next to a valid one.

This file builds the assertions itself. The tests of `nmi` cover the assertions of `nmi`."""

import base64
import json
import time
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding

from podidentity_sandbox.proofs import ASSERTION_TYPE
from podidentity_sandbox.tokens import read_claims
from tests.contract.sandbox.azure.conftest import Azure, encoded
from tests.support.nmi.tokens.sign_in_bench import certificate_of, rsa_key

PSS = padding.PSS(padding.MGF1(hashes.SHA256()), 32)


class Signing:
    """One application with a registered certificate, and the assertion that it would make for its tenant."""

    def __init__(self, azure: Azure) -> None:
        self.azure = azure
        self.certificate = certificate_of(rsa_key())
        self.principal = azure.directory.add_principal(certificate=self.certificate)
        self.tenant = azure.directory.tenant_id
        self.url = f"{azure.aad.url}/{self.tenant}/oauth2/v2.0/token"

    def assertion(
        self, header: dict[str, Any] | None = None, scheme: padding.AsymmetricPadding = PSS, **claims: Any
    ) -> str:
        now = int(time.time())
        me = self.principal.client_id
        payload = {"aud": self.url, "iss": me, "sub": me, "jti": "1", "nbf": now, "exp": now + 600, **claims}
        given = header or {"alg": "PS256", "x5t#S256": encoded(self.certificate.fingerprint(hashes.SHA256()))}
        body = f"{encoded(json.dumps(given).encode())}.{encoded(json.dumps(payload).encode())}"
        return f"{body}.{encoded(rsa_key().sign(body.encode(), scheme, hashes.SHA256()))}"

    async def ask(self, assertion: str, **form: str) -> tuple[int, dict[str, Any]]:
        given = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion, **form}
        return await self.azure.ask_aad(client_id=self.principal.client_id, **given)


@pytest.fixture
def signing(azure: Azure) -> Signing:
    return Signing(azure)


async def test_a_valid_assertion_is_accepted_also_with_the_older_algorithm_and_thumbprint(signing: Signing) -> None:
    status, body = await signing.ask(signing.assertion())
    assert (status, read_claims(body["access_token"])["appid"]) == (200, signing.principal.client_id)
    header = {"alg": "RS256", "x5t": encoded(signing.certificate.fingerprint(hashes.SHA1()))}  # noqa: S303  a name
    status, _ = await signing.ask(signing.assertion(header, padding.PKCS1v15()))
    assert status == 200


@pytest.mark.parametrize(
    ("claims", "number"),
    [
        ({"aud": "https://login.microsoftonline.com/other/oauth2/v2.0/token"}, 700023),
        ({"iss": "another"}, 70025),  # from another issuer: a federated assertion, and the application trusts no issuer
        ({"sub": "another"}, 700021),
        ({"nbf": -7200, "exp": -3600}, 700024),
        ({"nbf": 3600, "exp": 7200}, 700024),
        ({"exp": 100_000}, 700024),
        ({"exp": "soon"}, 50027),
    ],
    ids=["audience", "issuer", "subject", "over", "early", "too-long", "no-time"],
)
async def test_a_wrong_claim_is_rejected(signing: Signing, claims: dict[str, Any], number: int) -> None:
    """The times are in seconds from now: an hour may pass between the collection and this test."""
    now = int(time.time())
    given: dict[str, Any] = {name: now + value if isinstance(value, int) else value for name, value in claims.items()}
    status, body = await signing.ask(signing.assertion(**given))
    assert (status, body["error"], body["error_codes"]) == (401, "invalid_client", [number])


@pytest.mark.parametrize("jwt", ["", "a.b", "a.b.c", "..", "eyJhbGciOiJub25lIn0.e30."])
async def test_an_unsigned_assertion_is_rejected(signing: Signing, jwt: str) -> None:
    status, body = await signing.ask(jwt)
    assert (status, body["error"]) == (401, "invalid_client")


async def test_a_foreign_key_an_altered_assertion_and_a_confused_algorithm_are_rejected(signing: Signing) -> None:
    good = signing.assertion()
    head, claims, signature = good.split(".")
    thumbprint = encoded(signing.certificate.fingerprint(hashes.SHA256()))
    altered = encoded(json.dumps({**read_claims(good), "jti": "2"}).encode())
    stranger = encoded(certificate_of(rsa_key(), "stranger").fingerprint(hashes.SHA256()))
    for wrong in (
        f"{head}.{altered}.{signature}",
        f"{head}.{claims}.{encoded(bytes(256))}",
        signing.assertion({"alg": "PS256", "x5t#S256": stranger}),
        signing.assertion({"alg": "RS256", "x5t#S256": thumbprint}),
        signing.assertion({"alg": "none", "x5t#S256": thumbprint}),
        signing.assertion({"alg": "PS256"}),
    ):
        status, body = await signing.ask(wrong)
        assert (status, body["error"]) == (401, "invalid_client")


async def test_an_included_certificate_counts_only_for_a_trusted_subject(signing: Signing) -> None:
    brought = certificate_of(rsa_key(), "vault.example")
    header = {"alg": "PS256", "x5t#S256": encoded(brought.fingerprint(hashes.SHA256())), "x5c": [der(brought)]}
    assert (await signing.ask(signing.assertion(header)))[0] == 401
    application = signing.azure.directory.application(signing.principal.client_id)
    assert application is not None
    application.subjects.add("CN=vault.example")
    assert (await signing.ask(signing.assertion(header)))[0] == 200
    assert (await signing.ask(signing.assertion({**header, "x5c": ["no certificate"]})))[0] == 401


async def test_another_assertion_type_or_a_secret_that_does_not_exist_is_rejected(signing: Signing) -> None:
    assert (await signing.ask(signing.assertion(), client_assertion_type="urn:another"))[0] == 401
    for secret in ("", "x"):
        assert (await signing.ask("", client_secret=secret))[0] == 401


async def test_a_new_secret_is_accepted_after_a_delay(azure: Azure) -> None:
    application = azure.directory.application(azure.controller.client_id)
    assert application is not None

    async def status(secret: str) -> int:
        return (await azure.ask_aad(client_secret=secret))[0]

    application.secrets["new"] = time.time() + 3600
    assert (await status("new"), await status(azure.controller.secret)) == (401, 200)
    application.secrets["new"] = time.time()
    assert await status("new") == 200


async def test_an_application_has_a_principal_in_each_tenant(azure: Azure) -> None:
    other_tenant = azure.directory.add_tenant(domain="contoso.example")
    status, body = await azure.ask_aad(tenant="contoso.example")
    assert (status, body["error_codes"]) == (400, [700016])
    there = azure.directory.consent(azure.controller.client_id, other_tenant)
    _, body = await azure.ask_aad(tenant="contoso.example")
    claims = read_claims(body["access_token"])
    assert (claims["tid"], claims["oid"]) == (other_tenant, there.object_id)
    assert there.object_id != azure.controller.object_id


def der(certificate: x509.Certificate) -> str:
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()


@pytest.mark.parametrize(
    ("changed", "status", "error"),
    [
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"client_id": "unknown"}, 400, "unauthorized_client"),
        ({"client_secret": "x"}, 401, "invalid_client"),
        ({"scope": "https://vault.azure.net/"}, 400, "invalid_scope"),
        ({"scope": "/.default"}, 400, "invalid_scope"),
        ({"tenant": "elsewhere"}, 400, "invalid_request"),
    ],
    ids=["grant", "client", "secret", "scope-without-default", "empty-scope", "tenant"],
)
async def test_one_wrong_field_is_rejected(azure: Azure, changed: dict[str, str], status: int, error: str) -> None:
    given, body = await azure.ask_aad(**changed)
    assert (given, body["error"]) == (status, error)
    assert body["error_description"].startswith("AADSTS")


async def test_adfs_has_no_version_two(azure: Azure) -> None:
    azure.directory.add_tenant("adfs")
    azure.directory.consent(azure.controller.client_id, "adfs")
    resource = {"scope": "", "resource": "https://vault.azure.net"}
    for endpoint, status in (("oauth2/token", 200), ("oauth2/v2.0/token", 405)):
        assert (await azure.ask_aad(tenant="adfs", endpoint=endpoint, **resource))[0] == status


async def test_a_double_slash_before_default_is_kept(azure: Azure) -> None:
    _, body = await azure.ask_aad(scope="https://management.azure.com//.default")
    assert read_claims(body["access_token"])["aud"] == "https://management.azure.com/"


async def test_the_documents_lead_to_the_token_endpoint(azure: Azure) -> None:
    async with azure.session.get(f"{azure.aad.url}/common/discovery/instance?api-version=1.1") as response:
        discovery = (await response.json())["tenant_discovery_endpoint"]
    async with azure.session.get(discovery) as response:
        openid = await response.json()
    assert openid["token_endpoint"] == f"{azure.aad.url}/{azure.directory.tenant_id}/oauth2/v2.0/token"
    async with azure.session.get(openid["jwks_uri"]) as response:
        assert (await response.json())["keys"][0]["kty"] == "RSA"
    async with azure.session.get(f"{azure.aad.url}/nothing") as response:
        assert response.status == 404
