"""Tokens by secret and by certificate, from an AAD that verifies them, with Secrets of an API server.

Excluded: refusals before any read (`test_sign_in_policy.py`), and failures (`test_sign_in_failures.py`).
"""

import asyncio
import time

import pytest
from aiohttp import web

from podidentity.azure import clouds
from podidentity_sandbox.tokens import read_claims
from tests.nmi.tokens.sign_in_bench import RESOURCE, Bench, certificate_of, claims, pfx_of, rsa_key, running


async def test_a_secret_yields_a_token_of_the_principal(bench: Bench) -> None:
    principal = bench.directory.add_principal(secret="s3cret+/=&%")
    # The first key in alphabetical order holds the secret.
    version, begun = bench.put_secret(b=b"wrong", a=b"s3cret+/=&%", c=b"wrong"), time.time()
    granted = await bench.fetch(bench.identity(principal))
    token_claims = claims(granted)
    assert (token_claims["appid"], token_claims["aud"], token_claims["tid"]) == (
        principal.client_id,
        RESOURCE,
        bench.directory.tenant_id,
    )
    token = granted.token
    assert (token.resource, token.client_id, token.token_type) == (RESOURCE, principal.client_id, "Bearer")
    assert (token.not_before, token.ext_expires_in, granted.expires_in) == (token_claims["nbf"], "3600", 3600)
    assert int(begun) <= token.expires_on - 3600 <= time.time()
    assert (granted.object_id, granted.credential, granted.auxiliary) == (principal.object_id, version, ())
    assert bench.observed == [None]


async def test_the_resource_is_never_trimmed(bench: Bench) -> None:
    principal = bench.principal("x")
    granted = await bench.fetch(bench.identity(principal), "https://management.azure.com/")
    assert bench.aad.calls[-1].scope == "https://management.azure.com//.default"
    assert claims(granted)["aud"] == "https://management.azure.com/"


@pytest.mark.parametrize("password", [b"", b"p4ss w\xc3\xb6rd"], ids=["open", "with-a-password"])
async def test_a_certificate_signs_in_its_principal(bench: Bench, password: bytes) -> None:
    certificate = certificate_of(rsa_key())
    principal = bench.directory.add_principal(certificate=certificate)
    values = {"certificate": pfx_of(rsa_key(), certificate, password), **({"password": password} if password else {})}
    version = bench.put_secret(**values)
    granted = await bench.fetch(bench.identity(principal, type=2))
    assert claims(granted)["appid"] == principal.client_id
    assert (bench.aad.calls[-1].proof, granted.credential) == ("PS256", version)


async def test_a_renewed_certificate_with_a_trusted_subject_requires_no_registration(bench: Bench) -> None:
    principal = bench.directory.add_principal(certificate=certificate_of(rsa_key(), "old"))
    renewed = certificate_of(rsa_key(), "vault.example")
    bench.put_secret(certificate=pfx_of(rsa_key(), renewed))
    application = bench.directory.application(principal.client_id)
    assert application is not None
    application.subjects.add("CN=vault.example")
    assert claims(await bench.fetch(bench.identity(principal, type=2)))["appid"] == principal.client_id


@pytest.mark.parametrize("path", ["", "/adfs"], ids=["bare", "as-a-stack-describes-itself"])
async def test_a_sign_in_at_adfs_uses_the_algorithm_that_adfs_supports(path: str) -> None:
    own = clouds.Cloud("Stack", f"https://login.microsoftonline.us{path}", "", "", frozenset())
    certificate = certificate_of(rsa_key())
    async with running(Bench(cloud=own)) as bench:
        principal = bench.directory.add_principal(certificate=certificate)
        bench.directory.add_tenant("adfs")
        bench.directory.consent(principal.client_id, "adfs")
        bench.put_secret(certificate=pfx_of(rsa_key(), certificate))
        await bench.fetch(bench.identity(principal, type=2, tenant_id="adfs", ad_endpoint=""))
        call = bench.aad.calls[-1]
        assert (call.path, call.tenant, call.proof) == ("/adfs/oauth2/token", "adfs", "RS256")


@pytest.mark.parametrize("type_", [1, 2], ids=["secret", "certificate"])
async def test_each_auxiliary_tenant_yields_a_token_after_the_primary_one(bench: Bench, type_: int) -> None:
    certificate = certificate_of(rsa_key())
    principal = bench.directory.add_principal(secret="x", certificate=certificate)
    others = [bench.directory.add_tenant(), bench.directory.add_tenant(domain="contoso.example")]
    for other in others:
        bench.directory.consent(principal.client_id, other)
    bench.put_secret(**({"k": b"x"} if type_ == 1 else {"certificate": pfx_of(rsa_key(), certificate)}))
    answer, together = bench.aad.handle, asyncio.Barrier(3)
    lives = {bench.directory.tenant_id: 3600, others[0]: 1200, "contoso.example": 2400}

    async def hold(request: web.BaseRequest) -> web.StreamResponse:
        await together.wait()  # passes only when all three are asked at once
        bench.aad.token_seconds = lives[request.path.split("/")[1]]
        return await answer(request)

    bench.aad.handle = hold  # type: ignore[method-assign]
    named = [others[0], "contoso.example"]
    granted = await bench.fetch(bench.identity(principal, type=type_, auxiliary_tenant_ids=named))
    tenants = [read_claims(token.access_token)["tid"] for token in (granted.token, *granted.auxiliary)]
    assert tenants == [bench.directory.tenant_id, *others]
    assert granted.expires_in == 1200
    assert bench.secret_reads == 1


async def test_client_capabilities_are_sent_to_azure(bench: Bench) -> None:
    principal = bench.principal("x")
    granted = await bench.fetch(bench.identity(principal), xms_cc="cp1, protapi")
    assert (claims(granted)["xms_cc"], granted.expires_in) == (["cp1", "protapi"], 86_400)
    assert "xms_cc" not in claims(await bench.fetch(bench.identity(principal)))
    assert (len(bench.aad.calls), bench.secret_reads) == (2, 2), "every fetch signs in"


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("", "login.microsoftonline.com"),
        ("https://login.microsoftonline.us/", "login.microsoftonline.us"),
        ("HTTPS://Login.ChinaCloudAPI.cn", "login.chinacloudapi.cn"),
    ],
    ids=["the-clouds-own", "government", "china-in-odd-case"],
)
async def test_the_authority_is_the_clouds_or_the_named_one(bench: Bench, endpoint: str, host: str) -> None:
    principal = bench.principal("x")
    await bench.fetch(bench.identity(principal, ad_endpoint=endpoint))
    assert bench.hosts == [host]
